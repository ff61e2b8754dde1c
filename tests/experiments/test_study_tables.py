"""Tables of a search for settings: what was chosen, and what came out with every value."""

import json

import pytest

from feedalign.experiments.errors import RecordError
from feedalign.experiments.results import BLOCKS
from feedalign.experiments.study_tables import study_tables

SUMMARY = {
    "schema": 1,
    "name": "x-tuned",
    "chosen_by": "validation_likelihood",
    "space": {
        "optimiser.learning_rate": {"type": "Logarithmic", "low": 1e-4, "high": 1e-2},
        "model.norm": ["post", "pre"],
        "schedule.name": ["constant"],
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


def decided_by(figure, *, space=SUMMARY["space"]):
    """Return the summary as if another figure had decided."""
    trials = {
        rule: [{"settings": trial["settings"], figure: trial["validation_likelihood"]} for trial in its]
        for rule, its in SUMMARY["trials"].items()
    }
    return {**SUMMARY, "chosen_by": figure, "space": space, "trials": trials}


def test_trials_are_told_by_perplexity():
    chosen, _ = study_tables(SUMMARY)
    assert chosen.headings == ("rule", "trials", "learning_rate", "norm", "schedule", "gain", "best", "worst")
    assert chosen.rows[0] == ("backprop", "2 of 2", "0.001235", "post", "-", "-", "50.0", "100.0")
    assert chosen.rows[1] == ("DFA", "1 of 2", *["not all tried"] * 4, "diverged", "diverged")


def test_every_value_has_its_best_trial():
    _, values = study_tables(SUMMARY)
    assert values.headings == ("setting", "value", "backprop", "DFA")
    assert values.rows == (
        ("norm", "post", "50.0 (2)", "-"),
        ("norm", "pre", "-", "diverged (1)"),
        ("schedule", "constant", "-", "-"),
        ("gain", "1.0", "-", "diverged (1)"),
    )
    assert values.notes[0].startswith("Validation perplexity, and of how many trials.")


@pytest.mark.parametrize(
    ("figure", "title", "headings", "cells"),
    [
        ("validation_accuracy", "validation accuracy", ("best (%)", "worst (%)"), ("2.00", "1.00")),
        ("validation_auc", "validation AUC", ("best (%)", "worst (%)"), ("2.00", "1.00")),
        ("validation_psnr", "validation PSNR", ("best (dB)", "worst (dB)"), ("0.02", "0.01")),
    ],
)
def test_every_figure_has_its_unit(figure, title, headings, cells):
    chosen, values = study_tables(decided_by(figure))
    assert chosen.title == f"x-tuned: settings chosen by {title}"
    assert chosen.headings[-2:] == headings
    assert chosen.rows[0][-2:] == cells
    assert values.rows[0] == ("norm", "post", f"{cells[0]} (2)", "-")


def test_a_search_without_lists_has_no_table_of_values():
    rates = {"optimiser.learning_rate": SUMMARY["space"]["optimiser.learning_rate"]}
    (chosen,) = study_tables(decided_by("validation_auc", space=rates))
    assert chosen.headings == ("rule", "trials", "learning_rate", "best (%)", "worst (%)")


def test_the_searches_of_other_experiments_are_left_out(tmp_path):
    for name, decided in (("a", "validation_likelihood"), ("b", "validation_accuracy")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tuning.json").write_text(json.dumps({**SUMMARY, "name": name, "chosen_by": decided}))
    titles = [table.title for table in BLOCKS["lm-search"](tmp_path)]
    assert titles == ["a: settings chosen by validation perplexity", "a: the best trial with each value"]
    with pytest.raises(RecordError, match=r"Expected a search for a language model at or below .*b, found none"):
        BLOCKS["lm-search"](tmp_path / "b")
