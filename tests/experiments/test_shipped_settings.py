"""Tuned settings that come with the package, and the records of the searches that found them."""

import json
from pathlib import Path

import pytest

from feedalign.experiments import ctr, graph, lm
from feedalign.experiments.lm import presets

RESULTS = Path(__file__).parents[2] / "results"
SHIPPED = {"graph": graph.shipped, "ctr": ctr.shipped, "lm": presets.shipped}


@pytest.mark.skipif(not RESULTS.exists(), reason="a checkout has the results, an installed package does not")
@pytest.mark.parametrize("experiment", SHIPPED)
def test_settings_that_come_with_the_package_are_those_that_tuning_chose(experiment):
    found = {file.parent.name: json.loads(file.read_text()) for file in (RESULTS / experiment).glob("*/tuning.json")}
    shipped = SHIPPED[experiment]()
    assert shipped
    assert shipped == {name: summary["chosen"] for name, summary in found.items()}


@pytest.mark.parametrize("rule", ["bp", "dfa", "shallow"])
def test_tuned_language_models_are_ready_to_run(rule):
    found = lm.preset("wikitext-2-small-tuned", rule)
    assert found.name == "wikitext-2-small-tuned"
    assert found.optimiser.learning_rate == presets.shipped()[found.name][rule]["optimiser.learning_rate"]


def test_tuned_language_model_with_points_behind_every_sub_layer_is_ready_to_run():
    found = lm.preset("wikitext-2-small-micro-tuned", "dfa")
    assert (found.name, found.points) == ("wikitext-2-small-micro-tuned", "micro")
