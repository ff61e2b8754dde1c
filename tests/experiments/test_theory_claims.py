"""What the pages say about the theory, held to the committed records."""

import re
from pathlib import Path

import pytest

from feedalign.experiments.records import describe
from feedalign.experiments.results import update
from feedalign.experiments.tables import interval
from feedalign.experiments.theory import STUDIES, studied, study
from feedalign.experiments.theory.claims import CLAIMS, Claim, claims_table
from feedalign.experiments.theory.study import Written, run

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "results/theory"
PAGES = ("docs/experiments/theory.md", "docs/tutorials/align-then-memorise.md")
FOUND = {found.name: record for found, record in studied(RESULTS)} if RESULTS.is_dir() else {}
committed = pytest.mark.skipif(not FOUND, reason="no record of the full studies is committed")


@committed
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_recorded_in_full(name: str) -> None:
    record = FOUND[name]
    assert record["config"] == describe(study(name).config()), "a record of other settings than the full study's"
    assert not record["dirty"], "a record of a tree with changes"


@committed
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.study}: {claim.says}")
def test_committed_records_hold_what_is_claimed(claim: Claim) -> None:
    found = claim.measured(FOUND[claim.study])
    assert claim.holds(FOUND[claim.study]), f"{claim.says}: expected {claim.expected}, found {found.text(4)}"


@committed
@pytest.mark.parametrize("page", PAGES)
def test_pages_are_made_from_the_committed_records(page: str) -> None:
    assert not update(ROOT / page, RESULTS, check=True), f"run: feedalign table results/theory --write {page}"


@pytest.mark.parametrize("page", PAGES)
def test_every_study_has_its_place(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    begun = re.findall(r"<!-- theory-(\w+)(?:-pictures)?:begin -->", text)
    assert sorted(begun) == sorted({*STUDIES, "claims"})


def test_every_claim_is_on_a_study_and_a_number() -> None:
    assert {claim.study for claim in CLAIMS} <= set(STUDIES)
    assert all(claim.low > -1e9 or claim.high < 1e9 for claim in CLAIMS), "a claim that cannot fail"
    assert len({(claim.study, claim.says, i) for i, claim in enumerate(CLAIMS)}) == len(CLAIMS)


@pytest.fixture(scope="module")
def bound(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return run(study("bound"), study("bound").short, tmp_path_factory.mktemp("bound"))


def test_the_bound_on_convolutions_is_met(bound: Written) -> None:
    table = claims_table({"bound": bound})
    assert [row[0] for row in table.rows] == ["bound", "bound"]
    assert {row[-1] for row in table.rows} <= {"yes", "in the mean"}  # few shapes have wide intervals


def test_a_claim_that_does_not_hold_says_so(bound: Written) -> None:
    cases = [{**case, "law": 2 * case["law"]} for case in bound["findings"]["shapes"]]
    table = claims_table({"bound": {**bound, "findings": {"shapes": cases}}})
    assert table.rows[0][-1] == "no"
    assert table.rows[1][-1] != "no"


@pytest.mark.parametrize(
    ("numbers", "verdict"), [([1.0, 1.1, 0.9], "yes"), ([2.0, -1.0, 0.5], "in the mean"), ([-1.0, -1.1, -0.9], "no")]
)
def test_a_claim_that_chance_could_bear_out_says_so(numbers: list[float], verdict: str) -> None:
    claim = Claim("bound", "a number", "above 0", lambda record: interval(record["numbers"]), 0)
    assert claim.verdict({"numbers": numbers}) == verdict
