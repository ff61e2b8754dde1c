"""Configurations of language models by name: the published settings, and what a run is called."""

from dataclasses import replace

import pytest

from feedalign.cli.failures import UsageError
from feedalign.cli.train_lm import TrainLm
from feedalign.experiments.errors import ExperimentError
from feedalign.experiments.lm import PRESETS, preset
from feedalign.experiments.lm.tuning import study

PAPER = [name for name in PRESETS if name.startswith("wikitext-103-paper")]


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("rule", ["bp", "dfa", "shallow"])
def test_published_model_and_text(name, rule):
    config = preset(name, rule)
    model = config.model
    assert (model.blocks, model.width, model.heads, model.hidden, model.context) == (6, 512, 8, 2048, 128)
    assert (model.norm, model.positions, model.attention, model.dropout, model.tied) == (
        "post", "sinusoidal", "dot", 0.1, False,
    )  # fmt: skip
    assert (config.data.name, config.data.vocabulary, config.data.lowercase) == ("wikitext-103", 32_000, True)
    assert (config.batch, config.order, config.epochs, config.every) == (64, "streams", 20, None)
    assert config.optimiser.clip == 0.5
    assert config.optimiser.epsilon == 1e-9
    assert config.error == "hidden"
    assert config.last


@pytest.mark.parametrize(
    ("row", "rule", "schedule", "rate", "beta2"),
    [
        ("noam", "bp", "noam", 1.0, 0.98),
        ("noam", "dfa", "noam", 1.0, 0.98),
        ("noam", "shallow", "noam", 1.0, 0.98),
        ("adam", "dfa", "constant", 5e-5, 0.98),
        ("beta2", "bp", "noam", 1.0, 0.999),
        ("beta2", "dfa", "constant", 5e-5, 0.999),
        ("plateau", "dfa", "plateau", 1e-4, 0.999),
    ],
)
def test_published_optimisers(row, rule, schedule, rate, beta2):
    config = preset(f"wikitext-103-paper-{row}", rule)
    assert config.schedule.name == schedule
    assert (config.optimiser.name, config.optimiser.learning_rate, config.optimiser.beta2) == ("adam", rate, beta2)
    assert (config.schedule.warmup, config.schedule.factor, config.schedule.patience) == (4000, 0.2, 1)


@pytest.mark.parametrize("row", [name.removeprefix("wikitext-103-paper-") for name in PAPER])
@pytest.mark.parametrize("rule", ["bp", "dfa", "shallow"])
def test_small_model_has_the_published_optimisers_in_the_same_proportions(row, rule):
    small, paper = (preset(f"{name}-{row}", rule) for name in ("wikitext-2-small", "wikitext-103-paper"))
    faster = 20 if small.schedule.name != "noam" else 1
    assert small.optimiser == replace(paper.optimiser, learning_rate=faster * paper.optimiser.learning_rate)
    assert small.schedule == replace(paper.schedule, warmup=400 if faster == 1 else 4_000)
    plain = preset("wikitext-2-small", rule)
    other = replace(small, name=plain.name, optimiser=plain.optimiser, schedule=plain.schedule, alignment=8)
    assert other == plain  # nothing else is unlike


@pytest.mark.parametrize(
    ("rule", "options", "name"),
    [
        ("bp", {"points": "micro", "error": "logits", "last": False}, "python-small"),
        ("shallow", {"points": "micro"}, "python-small"),
        ("shallow", {"last": False}, "python-small-open"),
        ("fa", {"points": "micro"}, "python-small"),
        ("dfa", {}, "python-small-macro-hidden"),
        ("dfa", {"points": "micro", "error": "logits"}, "python-small-micro-logits"),
        ("dkp", {"last": False}, "python-small-macro-hidden-open"),
    ],
)
def test_name_says_what_matters_to_the_rule(rule, options, name):
    assert preset("python-small", rule, **options).name == name


def test_names_tell_all_runs_of_a_command_apart():
    command = TrainLm(rule=("bp", "dfa", "drtp", "shallow"), error=("logits",), points=("macro", "micro"), seeds=2)
    places = [(config.name, config.rule, config.seed) for config in command.configs()]
    assert len(places) == len(set(places)) == 2 * (1 + 2 + 2 + 1)


def test_last_block_may_be_left_open_in_dfa_and_shallow_alike():
    found = {config.rule: config for config in TrainLm(open_last=True).configs()}
    assert {rule: config.last for rule, config in found.items()} == {"bp": True, "dfa": False, "shallow": False}
    assert found["shallow"].name == "python-small-open"


def test_other_settings_make_another_name():
    (config,) = TrainLm(rule=("dfa",), epochs=2, norm="pre", learning_rate=0.1).configs()
    assert config.name == "python-small-macro-hidden_epochs-2_learning-rate-0.1_norm-pre"
    (same,) = TrainLm(rule=("dfa",), epochs=4, norm="post").configs()
    assert same.name == "python-small-macro-hidden"


@pytest.mark.parametrize("empty", [{"rule": ()}, {"points": ()}, {"error": ()}])
def test_nothing_to_run_is_refused(empty):
    with pytest.raises(UsageError, match="Expected at least one rule, placement and tap"):
        TrainLm(**empty).configs()


def test_untuned_preset_says_how_to_tune_it():
    with pytest.raises(
        ExperimentError, match="Expected settings of dfa for python-small-tuned, found none: it was not"
    ):
        preset("python-small-tuned", "dfa", tuned={})


def test_tuned_preset_has_what_was_chosen():
    chosen = {"python-small-tuned": {"dfa": {"error": "logits", "last": False, "optimiser.learning_rate": 0.004}}}
    config = preset("python-small-tuned", "dfa", 3, tuned=chosen)
    assert (config.name, config.error, config.last, config.seed) == ("python-small-tuned", "logits", False, 3)
    assert config.optimiser.learning_rate == 0.004


def test_tap_and_last_block_that_are_asked_for_take_the_place_of_those_that_were_chosen():
    chosen = {
        "python-small-tuned": {
            "dfa": {"error": "logits", "last": True, "optimiser.learning_rate": 0.004},
            "shallow": {"last": True},
        }
    }
    config = preset("python-small-tuned", "dfa", error="hidden", last=False, tuned=chosen)
    assert (config.name, config.error, config.last) == ("python-small-tuned-macro-hidden-open", "hidden", False)
    assert config.optimiser.learning_rate == 0.004
    assert preset("python-small-tuned", "dfa", error="logits", tuned=chosen).name == "python-small-tuned"
    assert preset("python-small-tuned", "shallow", last=False, tuned=chosen).name == "python-small-tuned-open"


def test_settings_tuned_for_other_points_are_refused():
    with pytest.raises(
        ExperimentError, match=r"Expected points macro for python-small-tuned.*--preset python-small-micro-tuned"
    ):
        preset("python-small-tuned", "dfa", points="micro", tuned={"python-small-tuned": {"dfa": {}}})
    with pytest.raises(
        ExperimentError, match=r"Expected points micro for .* found macro\. Do: --preset python-small-tuned"
    ):
        preset("python-small-micro-tuned", "dfa", points="macro", tuned={"python-small-micro-tuned": {"dfa": {}}})


def test_points_behind_every_sub_layer_are_tuned_apart(tmp_path):
    found = study("python-small", "dfa", tmp_path, points="micro")
    assert (found.config.name, found.config.points) == ("python-small-micro-tuned", "micro")
    assert study("python-small-micro-tuned", "dfa", tmp_path, points="micro").config == found.config
    assert found.space == study("python-small", "dfa", tmp_path).space
    # Backpropagation has no points, and is the same beside both.
    assert study("python-small", "bp", tmp_path, points="micro").config.name == "python-small-tuned"
    chosen = {"python-small-micro-tuned": {"dfa": {"error": "logits"}}}
    config = preset("python-small-micro-tuned", "dfa", tuned=chosen)
    assert (config.name, config.points, config.error) == ("python-small-micro-tuned", "micro", "logits")
    with pytest.raises(ExperimentError, match="feedalign tune lm --preset python-small --rule dfa --points micro`"):
        preset("python-small-micro-tuned", "dfa", tuned={})


@pytest.mark.parametrize("points", ["macro", "micro"])
def test_settings_of_the_preset_are_tried_first_and_then_with_the_last_block_open(points, tmp_path):
    found = {rule: study("wikitext-2-small", rule, tmp_path, points=points) for rule in ("bp", "dfa", "shallow")}
    for rule, one in found.items():
        own, *more = one.first
        assert own.keys() == one.space.keys()
        assert one.trial(own, 7) == replace(one.config, seed=7)  # tuning changes nothing there
        assert more == ([] if rule == "bp" else [{**own, "last": False}])
    assert found["dfa"].first[0]["last"] is True


def test_rules_have_equal_budgets_and_share_what_they_can(tmp_path):
    found = {rule: study("wikitext-2-small", rule, tmp_path) for rule in ("bp", "dfa", "dkp", "drtp", "shallow")}
    assert len({(one.trials, one.seeds, one.config.every, one.config.epochs) for one in found.values()}) == 1
    assert found["bp"].config.every == 750  # half of the preset's 1,500 steps
    own = {"error", "last", "feedback.gain"}
    shared = set(found["bp"].space)
    assert not shared & own
    assert set(found["shallow"].space) == shared | {"last"}  # the floor may be as high as the rules start from
    for rule in ("dfa", "dkp", "drtp"):
        assert set(found[rule].space) == shared | own
    assert found["drtp"].space["error"] == ("logits",)
    assert min(found["bp"].seeds) >= 1_000  # none that is reported
