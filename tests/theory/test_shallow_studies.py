"""The studies of two-layer networks: real short runs, and in full (slow) what the theory says of them."""

import json
from statistics import fmean
from typing import Any

import pytest

from feedalign.experiments.tables import to_markdown
from feedalign.experiments.theory import degeneracy, ode, phases, relu, shallow
from feedalign.experiments.theory.study import Study, run, silent

STUDIES = {study.name: study for study in (ode.STUDY, phases.STUDY, degeneracy.STUDY, relu.STUDY)}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("theory")
    return {name: run(study, study.short, folder) for name, study in STUDIES.items()}


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_tables_and_pictures_are_made_from_the_record(study: Study, records: dict[str, dict[str, Any]]) -> None:
    record = json.loads(json.dumps(records[study.name]))
    for table in study.tables(record):
        assert len(to_markdown(table).splitlines()) >= 4 + len(table.rows)
    for figure in study.pictures(record).values():
        assert str(figure.get_label()).endswith(".")  # says what is to be seen
        assert figure.axes


def test_progress_goes_from_nothing_to_all() -> None:
    told: list[tuple[int, int]] = []
    relu.measure(
        relu.Config(seeds=1, units=(2,), inputs=10, until=2.0, flows=1, flow_until=10.0),
        lambda _, d, n: told.append((d, n)),
    )
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_simulation_stays_near_the_equations(records: dict[str, dict[str, Any]]) -> None:
    for case in records["ode"]["findings"]["cases"]:
        for rule in shallow.RULES:
            assert max(case[rule]["deviation"]) < 0.2  # at N = 100


def test_students_align_first_from_small_weights(records: dict[str, dict[str, Any]]) -> None:
    found = records["phases"]["findings"]["integrated"]
    assert all(one["aligned_first"] for one in found["dfa"]["phases"])
    pairs = zip(found["dfa"]["phases"], found["backprop"]["phases"], strict=True)
    assert all(3 * dfa["half_time"] < backprop["half_time"] for dfa, backprop in pairs)


def test_signs_follow_the_feedback(records: dict[str, dict[str, Any]]) -> None:
    for case in records["degeneracy"]["findings"]["cases"]:
        assert all(end["follows"] and end["converged"] for group in case["dfa"] for end in group)


def test_three_units_have_no_paths_in_a_plane() -> None:
    config = degeneracy.Config(seeds=1, feedbacks=1, cases=(degeneracy.Case((1.5, 1.0, -0.5), until=5.0),))
    findings = degeneracy.measure(config, silent)
    assert findings["paths"] is None
    assert list(degeneracy.pictures({"findings": findings})) == ["overlap"]


def test_shares_of_no_seed_and_of_one() -> None:
    end = {"converged": True, "follows": True, "pairing": [0, 1], "signs": [1, 1]}
    lost = {**end, "converged": False, "follows": False}
    other = {**end, "pairing": [1, 0]}
    assert degeneracy.agreements([[end, lost], [lost]], "follows") == [1.0]
    assert degeneracy.same_solution([[end, end, other], [end], [lost, lost]]) == [pytest.approx(1 / 3)]
    assert shallow.mean([None, None]) == ""
    assert shallow.share(1, 4) == "0.25 [0.01, 0.81]"
    assert shallow.rounded([[1.234567, 2.0]]) == [[1.2346, 2.0]]


@pytest.mark.slow
@pytest.mark.timeout(900)  # minutes of one core, on a machine that others use too
@pytest.mark.parametrize("case", [degeneracy.Case(), degeneracy.Case((1.5, 1.0, -0.5))], ids=["K=2", "K=3"])
def test_degeneracy_in_full(case: degeneracy.Case) -> None:
    config = degeneracy.Config(seeds=2, cases=(case,), paths=1)
    found, K = degeneracy.measure(config, silent)["cases"][0], len(case.teacher)
    for ends in (found["dfa"], found["backprop"]):
        assert all(end["converged"] for group in ends for end in group)
    assert set(degeneracy.agreements(found["dfa"], "follows")) == {1.0}
    assert fmean(degeneracy.agreements(found["backprop"], "follows")) == pytest.approx(2**-K, abs=0.15)
    if K == 2:
        assert fmean(degeneracy.overlaps(found["dfa"])) >= 0.97
        assert set(degeneracy.same_solution(found["dfa"])) == {1.0}
    else:  # a half have the best pairing
        assert fmean(degeneracy.overlaps(found["dfa"])) >= 0.97
        assert fmean(degeneracy.agreements(found["dfa"], "best")) < 0.9


@pytest.mark.slow
@pytest.mark.timeout(900)  # minutes of one core, on a machine that others use too
@pytest.mark.parametrize(("units", "share"), [(2, 0.25), (3, 0.5), (4, 0.6875)])
def test_relu_success_in_full(units: int, share: float) -> None:
    config = relu.Config(units=(units,), flows=1)
    found = relu.measure(config, silent)["trials"][0]["dfa"]
    assert fmean(found["success"]) == pytest.approx(share, abs=0.04)
    assert relu.violations(found) <= 3
