"""Searches for settings: equal for every rule, shared by processes, resumed after a stop."""

import json
import multiprocessing
import os
import re
import signal
from pathlib import Path

import pytest

from feedalign.experiments.errors import Interrupted, RecordError
from feedalign.experiments.files import exclusive, writable_folder
from feedalign.experiments.graph.presets import published_settings
from feedalign.experiments.graph.tuning import studies, study
from feedalign.experiments.progress import Silent
from feedalign.experiments.studies import chosen, tune

CELL = [("karate", "gcn")]
SHORT = {"trials": 8, "runs": 1, "epochs": 3}


def karate(output: Path, rules=("dfa",), **changed):
    return studies(CELL, rules, output, **{**SHORT, **changed})


def trials(output: Path, rule="dfa"):
    return json.loads((output / "karate-gcn" / "tuning.json").read_text())["trials"][rule]


class Stop(Silent):
    """Asks to stop at one of the runs."""

    def __init__(self, run: int) -> None:
        self.left = run

    def start(self, name, rule, seed, epochs, steps) -> None:
        self.left -= 1

    def step(self, epoch, step, loss) -> None:
        if self.left == 0:
            self.left = -1
            os.kill(os.getpid(), signal.SIGINT)


def test_published_settings_of_both_columns_are_tried_first(tmp_path: Path) -> None:
    tune(karate(tmp_path, ("bp", "dfa", "shallow"), trials=2))
    expected = [published_settings("gcn")[rule] for rule in ("bp", "dfa")]
    for rule in ("bp", "dfa", "shallow"):
        gain = {"feedback.gain": 1.0} if rule == "dfa" else {}  # searched for DFA alone, and as published at first
        assert [trial["settings"] for trial in trials(tmp_path, rule)] == [{**one, **gain} for one in expected]


def test_a_trial_is_as_good_as_the_mean_of_its_runs(tmp_path: Path) -> None:
    (both,) = karate(tmp_path / "both", trials=1, runs=2)
    tune([both])
    (trial,) = trials(tmp_path / "both")
    found = []
    for seed in both.seeds:
        record = both.experiment.run(both.trial(trial["settings"], seed), tmp_path / str(seed))
        found.append(record.metrics["best"]["validation_accuracy"])
    assert trial["validation_accuracy"] == pytest.approx(sum(found) / 2)
    assert min(both.seeds) >= 1_000  # none that is reported


@pytest.mark.parametrize("run", [1, 4, 8])
@pytest.mark.usefixtures("interruptible")
def test_a_stopped_search_chooses_what_it_would_have_chosen(run: int, tmp_path: Path) -> None:
    whole = tune(karate(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        tune(karate(tmp_path / "stopped"), progress=Stop(run))
    assert tune(karate(tmp_path / "stopped")) == whole
    assert len(trials(tmp_path / "stopped")) == 8


def test_more_trials_go_on_from_those_before(tmp_path: Path) -> None:
    tune(karate(tmp_path, trials=3))
    first = trials(tmp_path)
    tune(karate(tmp_path, trials=5))
    assert trials(tmp_path)[:3] == first
    assert len(trials(tmp_path)) == 5


def test_two_processes_share_the_searches(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    rules = ("bp", "dfa", "shallow")
    processes = [context.Process(target=tune, args=(karate(tmp_path / "two", rules, trials=2),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    (alone,) = tune(karate(tmp_path / "one", rules, trials=2))
    assert json.loads((tmp_path / "two" / "karate-gcn" / "tuning.json").read_text()) == alone


def test_a_search_that_another_process_is_at_is_left_to_it(tmp_path: Path) -> None:
    found = karate(tmp_path, ("bp", "dfa"), trials=1)
    with exclusive(writable_folder(found[1].folder)):
        tune(found)
    assert set(chosen(tmp_path)["karate-gcn"]) == {"bp"}
    tune(found)
    assert set(chosen(tmp_path)["karate-gcn"]) == {"bp", "dfa"}


def test_other_trials_are_not_mixed_in(tmp_path: Path) -> None:
    tune(karate(tmp_path, trials=1))
    with pytest.raises(
        RecordError, match=re.escape("holds trials of something else:\n  seeds: [1000], not [1000, 1001]")
    ):
        tune(karate(tmp_path, trials=1, runs=2))


@pytest.mark.parametrize("kind", ["cheb", "gcn", "spline", "gat", "dna", "gae"])
def test_what_is_tried_first_lies_in_what_may_be_tried(kind: str, tmp_path: Path) -> None:
    one = study("cora", kind, "dfa", tmp_path)
    assert len(one.first) == (1 if kind in ("spline", "gae") else 2)  # both columns are the same there
    for settings in one.first:
        assert settings.keys() <= one.space.keys()
        for name, value in settings.items():
            values = one.space[name]
            assert value in values if isinstance(values, tuple) else values.low <= value <= values.high
