"""Tables of a search for the settings of a language model: what was chosen, and what came out with every value."""

import json

import pytest

from feedalign.experiments.errors import RecordError
from feedalign.experiments.lm.search_tables import search_tables
from feedalign.experiments.results import BLOCKS

SUMMARY = {
    "schema": 1,
    "name": "x-tuned",
    "chosen_by": "validation_likelihood",
    "space": {
        "optimiser.learning_rate": {"type": "Logarithmic", "low": 1e-4, "high": 1e-2},
        "model.norm": ["post", "pre"],
        "feedback.gain": [1.0],
    },
    "trials_per_rule": 2,
    "trials": {
        "bp": [
            {"settings": {"model.norm": "post"}, "validation_likelihood": 0.01},
            {"settings": {"model.norm": "post"}, "validation_likelihood": 0.02},
        ],
        "dfa": [{"settings": {"model.norm": "pre", "feedback.gain": 1.0}, "validation_likelihood": 0.0}],
    },
    "chosen": {"bp": {"optimiser.learning_rate": 0.00123456, "model.norm": "post"}},
}


def test_trials_are_told_by_perplexity():
    chosen, _ = search_tables(SUMMARY)
    assert chosen.headings == ("rule", "trials", "learning_rate", "norm", "gain", "best", "worst")
    assert chosen.rows[0] == ("backprop", "2 of 2", "0.001235", "post", "-", "50.0", "100.0")
    assert chosen.rows[1] == ("DFA", "1 of 2", *["not all tried"] * 3, "diverged", "diverged")


def test_every_value_has_its_best_trial():
    _, values = search_tables(SUMMARY)
    assert values.headings == ("setting", "value", "backprop", "DFA")
    assert values.rows == (
        ("norm", "post", "50.0 (2)", "-"),
        ("norm", "pre", "-", "diverged (1)"),
        ("gain", "1.0", "-", "diverged (1)"),
    )


def test_the_searches_of_other_experiments_are_left_out(tmp_path):
    for name, decided in (("a", "validation_likelihood"), ("b", "validation_accuracy")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tuning.json").write_text(json.dumps({**SUMMARY, "name": name, "chosen_by": decided}))
    titles = [table.title for table in BLOCKS["lm-search"](tmp_path)]
    assert titles == ["a: settings chosen by validation perplexity", "a: the best trial with each value"]
    with pytest.raises(RecordError, match=r"Expected a search for a language model at or below .*b, found none"):
        BLOCKS["lm-search"](tmp_path / "b")
