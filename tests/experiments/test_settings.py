"""Settings: their names, the presets of the papers, and how tuning chooses them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from feedalign.experiments import records
from feedalign.experiments.errors import ExperimentError
from feedalign.experiments.optimisation import OptimiserConfig, ScheduleConfig
from feedalign.experiments.vision import PRESETS, Config, preset, run, tune, with_settings
from feedalign.experiments.vision.tuning import settings_to_try

RESULTS = Path(__file__).parents[2] / "results" / "vision"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: preset("digits-demo", "dfo"), ValueError, "There is no rule 'dfo'. Did you mean 'dfa'?"),
        (lambda: preset("launay-mnits"), ExperimentError, "no preset 'launay-mnits'. Did you mean 'launay-mnist'?"),
        (lambda: Config(batch=0), ValueError, "a batch of at least 1, found 15 and 0"),
        (
            lambda: with_settings(Config(), {"optimiser.learningrate": 1}),
            ExperimentError,
            "OptimiserConfig has no setting 'learningrate'. Did you mean 'learning_rate'?",
        ),
        (
            lambda: OptimiserConfig("sdg").build(torch.nn.Linear(1, 1)),
            ValueError,
            "Expected an optimiser out of sgd, adam, found 'sdg'",
        ),
        (
            lambda: ScheduleConfig("warm").build(torch.optim.SGD(torch.nn.Linear(1, 1).parameters()), 1, 1),
            ValueError,
            "Expected a schedule out of constant, cosine, step, found 'warm'",
        ),
    ],
)
def test_misspelt_names_are_refused_with_the_nearest(make, error, message):
    with pytest.raises(error, match=message.replace("?", r"\?")):
        make()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (ScheduleConfig("constant"), [0.1, 0.1, 0.1]),
        (ScheduleConfig("cosine"), [0.1, 0.05, 0.0]),
        (ScheduleConfig("step", every=1, factor=0.5), [0.1, 0.05, 0.025]),
    ],
)
def test_learning_rate_follows_its_schedule(schedule, expected, tmp_path):
    config = replace(
        preset("digits-demo", "shallow"),
        optimiser=OptimiserConfig("sgd", 0.1),
        schedule=schedule,
        epochs=2,
        batch=500,
        embedding=0,
    )
    run(config, tmp_path)
    assert [line["learning_rate"] for line in records.load(tmp_path).curve] == pytest.approx(expected)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build(name):
    row = PRESETS[name]
    shape = {"digits": (1, 8, 8), "cifar10": (3, 32, 32)}.get(row.config.data.name, (1, 28, 28))
    for rule in ("bp", "dfa", "shallow"):
        config = preset(name, rule, seed=4)
        assert (config.name, config.rule, config.seed) == (name, rule, 4)
        model = config.model.build(shape, 10)
        assert model(torch.zeros(2, *shape)).shape == (2, 10)
        config.schedule.build(config.optimiser.build(model), config.epochs, 10)


@pytest.mark.parametrize("name", PRESETS)
def test_tuned_presets_are_what_tuning_chose(name):
    path = RESULTS / name / "tuning.json"
    if not path.exists():
        assert not PRESETS[name].rules, f"{name} claims tuned settings, but {path.name} is not among the results"
        return
    assert PRESETS[name].rules == json.loads(path.read_text())["chosen"]


def test_tuning_gives_every_rule_the_same_trials(tmp_path):
    space = {"optimiser.learning_rate": [1e-4, 0.05, 1e37], "schedule.name": ["constant", "cosine"]}
    config = replace(preset("digits-demo"), epochs=3, embedding=0, alignment=0)
    chosen = tune(config, ["backprop", "dfa"], space, tmp_path, trials=6)
    summary = json.loads((tmp_path / "tuning.json").read_text())
    assert summary["trials_per_rule"] == 6
    assert summary["chosen"] == chosen
    by_rule = {rule: [t for t in summary["trials"] if t["rule"] == rule] for rule in ("bp", "dfa")}
    assert [t["settings"] for t in by_rule["bp"]] == [t["settings"] for t in by_rule["dfa"]]
    for rule, trials in by_rule.items():
        assert chosen[rule]["optimiser.learning_rate"] == 0.05  # the others learn nothing, or diverge
        best = max(trials, key=lambda t: t["validation_accuracy"] or 0)
        assert best["settings"] == chosen[rule]
        assert {t["settings"]["optimiser.learning_rate"] for t in trials if t["validation_accuracy"] is None} <= {1e37}
    assert "test" not in (tmp_path / "tuning.json").read_text()  # it must not decide
    assert with_settings(config, chosen["dfa"]).optimiser.learning_rate == 0.05


def test_random_search_draws_distinct_settings():
    space = {"a": range(10), "b": range(10)}
    drawn = settings_to_try(space, 20, seed=1)
    assert len({tuple(settings.values()) for settings in drawn}) == 20
    assert drawn == settings_to_try(space, 20, seed=1)
    assert drawn != settings_to_try(space, 20, seed=2)
