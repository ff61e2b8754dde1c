"""Whole runs on click logs: what is learned, when it ends, what is recorded, and how a stopped run goes on."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from feedalign.experiments import records
from feedalign.experiments.checkpoint import CHECKPOINT
from feedalign.experiments.ctr import CTR, Config, preset, presets, shipped
from feedalign.experiments.ctr.calibration import calibration
from feedalign.experiments.ctr.optimiser import ClickOptimiser, shorten
from feedalign.experiments.ctr.presets import PUBLISHED
from feedalign.experiments.ctr.training import ClickTraining, batch_sizes
from feedalign.experiments.data.clicks import ClickConfig, load_clicks
from feedalign.experiments.errors import DataError, ExperimentError, Interrupted
from feedalign.experiments.models.clicks import ClickModelConfig
from feedalign.experiments.optimisation import OptimiserConfig
from feedalign.experiments.progress import Silent

SIZES = {
    "fm": {"width": 4},
    "deepfm": {"width": 4, "hidden": (16, 16)},
    "dcn": {"width": 4, "hidden": (16, 16), "cross": 2},
    "autoint": {"width": 4, "hidden": (16, 16), "attention": 4, "layers": 2},
    "afn": {"width": 4, "hidden": (16, 16), "units": 8},
}
LOG = ClickConfig(rows=1_000)


@pytest.fixture(scope="module")
def log():
    return load_clicks(LOG)


def small(kind="deepfm", rule="dfa", seed=0, **changed):
    model = ClickModelConfig(kind, **{**SIZES[kind], **changed.pop("model", {})})
    plain = Config(
        "small", LOG, model, rule, seed, optimiser=OptimiserConfig("adam", 0.01), batch=64, epochs=4, device="cpu"
    )  # fmt: skip
    return replace(plain, **changed)


def weights(folder):
    return torch.load(folder / CHECKPOINT, weights_only=True)["parts"]["model"]


def training(config, folder, data):
    return ClickTraining(config, data, folder, Silent())


EVERY = [(kind, rule) for kind in SIZES for rule in ("bp", "dfa", "shallow") if kind != "fm" or rule == "bp"]


@pytest.mark.parametrize(("kind", "rule"), [*EVERY, ("deepfm", "drtp"), ("afn", "fa")])
def test_every_network_trains_by_every_rule(kind, rule, log, tmp_path):
    record = CTR.run(small(kind, rule, alignment=50, epochs=3), tmp_path, read=lambda _: log)
    first, *_, last = records.load(tmp_path).curve
    assert last["train_loss"] < first["train_loss"]
    assert (record.alignment is not None) == (rule not in ("bp", "shallow"))


def test_record_holds_what_was_run_and_figures_that_can_be_computed_again(log, tmp_path):
    config = small("afn", alignment=50)
    record = CTR.run(config, tmp_path, read=lambda _: log, keep_checkpoint=True)
    assert (record.experiment, record.name, record.rule, record.seed) == ("ctr", "small", "dfa", 0)
    clicks = int(log.labels.sum())
    assert record.data == {"name": "planted", **log.counts, "clicks": clicks, "best_auc": log.best_auc}
    assert list(record.alignment) == ["logarithmic", "mlp.0", "mlp.1"]
    assert record.alignment["logarithmic"]["n"] + record.alignment["logarithmic"]["undefined"] == 50

    model = config.model.build(log.sizes)
    model.load_state_dict(weights(tmp_path))
    indices, labels = log.batch(log.test)
    with torch.no_grad():
        logits = model.eval()(indices)[:, 0].double().numpy()
    labels = labels.numpy()
    probabilities = 1 / (1 + np.exp(-logits))
    positive, negative = logits[labels == 1], logits[labels == 0]
    auc = np.mean((positive[:, None] > negative) + 0.5 * (positive[:, None] == negative))
    loss = -np.mean(np.where(labels == 1, np.log(probabilities), np.log1p(-probabilities)))
    assert record.metrics["final"]["test_auc"] == pytest.approx(auc)
    assert record.metrics["final"]["test_loss"] == pytest.approx(loss, rel=1e-6)


class Lines(Silent):
    """Remembers every epoch it is told of."""

    def __init__(self):
        self.lines = []

    def epoch(self, line):
        self.lines.append(line)


def test_run_ends_when_validation_rows_are_no_longer_told_better(log, tmp_path):
    story = Lines()
    config = small(rule="bp", epochs=40, patience=2, optimiser=OptimiserConfig("adam", 0.03))
    record = CTR.run(config, tmp_path, read=lambda _: log, progress=story)
    aucs = [line["validation_auc"] for line in story.lines]
    best = int(np.argmax(aucs))
    assert len(aucs) < 41  # or this shows nothing
    assert len(aucs) - 1 == best + 2
    assert record.metrics["best"]["epoch"] == best
    assert record.metrics["best"]["test_auc"] == story.lines[best]["test_auc"]
    assert record.metrics["calibration"] == story.lines[best]["calibration"]
    assert record.metrics["final"]["epoch"] == best + 2


def test_test_rows_decide_about_nothing(log, tmp_path):
    labels = log.labels.copy()
    labels[log.test] = 1 - labels[log.test]
    other, found = replace(log, labels=labels), []
    for number, data in enumerate((log, other)):
        folder = tmp_path / str(number)
        record = CTR.run(small(), folder, read=lambda _, d=data: d, keep_checkpoint=True)
        found.append((record.metrics["best"], weights(folder)))
    (one, first), (two, second) = found
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert one["epoch"] == two["epoch"]
    assert one["test_auc"] == pytest.approx(1 - two["test_auc"])


def test_rows_come_in_a_new_order_every_epoch_and_each_once(log, tmp_path):
    seen = []
    started = training(small(epochs=2), tmp_path, log)
    started.batch = lambda rows: seen.append(rows) or log.batch(rows)
    orders = []
    for _ in range(2):
        seen.clear()
        for loss in started.batches():
            del loss
        assert len(seen) == started.steps == 13
        orders.append([tuple(part) for part in seen])
        assert sorted(row for part in seen for row in part) == log.train.tolist()
    assert orders[0] != orders[1]


@pytest.mark.parametrize(
    ("rows", "batch", "sizes"),
    [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (9, 4, [4, 5]), (1, 4, [1]), (5, 4, [5]), (3, 2, [3])],
)
def test_no_batch_has_a_single_row(rows, batch, sizes):
    assert batch_sizes(rows, batch) == sizes


class Stop(Silent):
    """Asks to stop after so many steps."""

    def __init__(self, step):
        self.left = step

    def step(self, epoch, step, loss):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


RESUMED = {
    "dropout": small("deepfm", model={"dropout": 0.3}, alignment=20),
    "sparse, clipped": small("dcn", model={"sparse": True}, clip=0.5),
    "learned feedback": small("afn", "dkp"),
}


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("step", [1, 20])
@pytest.mark.usefixtures("interruptible")
def test_stopped_run_ends_with_the_same_bits(name, step, log, tmp_path):
    config = replace(RESUMED[name], epochs=3)
    read = {"read": lambda _: log}
    whole = CTR.run(config, tmp_path / "whole", keep_checkpoint=True, **read)
    with pytest.raises(Interrupted, match="Nothing is lost"):
        CTR.run(config, tmp_path / "stopped", progress=Stop(step), **read)
    resumed = CTR.run(config, tmp_path / "stopped", keep_checkpoint=True, **read)
    assert resumed.metrics == whole.metrics
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(one[key], two[key]) for key in one)
    curves = [records.load(tmp_path / folder).curve for folder in ("whole", "stopped")]
    assert [{**line, "seconds": 0} for line in curves[0]] == [{**line, "seconds": 0} for line in curves[1]]


def gradients_of(sparse, log):
    torch.manual_seed(0)
    network = ClickModelConfig("dcn", **SIZES["dcn"], sparse=sparse).build(log.sizes)
    indices, _ = log.batch(log.train[:30])
    network(indices).square().sum().backward()
    return network


def test_gradients_are_shortened_as_pytorch_does_and_sparse_ones_too(log):
    theirs, dense, sparse = gradients_of(False, log), gradients_of(False, log), gradients_of(True, log)
    expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.01)
    assert expected > 0.01
    for network in (dense, sparse):
        torch.testing.assert_close(shorten(network.parameters(), 0.01), expected)
        for one, other in zip(network.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one.grad.to_dense() if one.grad.is_sparse else one.grad, other.grad)


def test_gradients_that_are_short_enough_are_left_alone(log):
    network, other = gradients_of(True, log), gradients_of(True, log)
    shorten(network.parameters(), 1e6)
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad.to_dense(), two.grad.to_dense())


def test_lazy_adam_starts_as_adam_does_and_moves_the_rows_that_were_named_alone(log):
    networks, before = [gradients_of(sparse, log) for sparse in (False, True)], gradients_of(False, log)
    optimisers = [ClickOptimiser(OptimiserConfig("adam", 0.01), network) for network in networks]
    assert (optimisers[0].sparse, len(optimisers[1].both)) == (None, 2)
    for optimiser in optimisers:
        optimiser.step()
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(one, other)
    named = networks[0].features[0].weight.grad.abs().sum(1) > 0
    assert 0 < int(named.sum()) < len(named)
    for optimiser in optimisers:
        optimiser.zero_grad()
    for network in networks:
        network(torch.ones(2, len(log.sizes), dtype=torch.long)).sum().backward()
    for optimiser in optimisers:
        optimiser.step()
    moved = [
        (network.features[0].weight != before.features[0].weight).any(1)
        & (network.features[0].weight != networks[0].features[0].weight).any(1)
        for network in networks
    ]
    assert not bool(moved[1][~named].any())


def test_dense_and_sparse_tables_learn_alike(log, tmp_path):
    found = [
        CTR.run(small("fm", "bp", model={"sparse": sparse}), tmp_path / str(sparse), read=lambda _: log)
        for sparse in (False, True)
    ]
    # All categories are common here, so that the lazy form is Adam but for the rarest of them.
    assert found[0].metrics["best"]["test_loss"] == pytest.approx(found[1].metrics["best"]["test_loss"], abs=0.02)


def test_calibration_bins_hold_equal_numbers_of_rows():
    probabilities = np.linspace(0.05, 0.95, 1_000)
    labels = (np.arange(1_000) % 2).astype(float)
    found = calibration(probabilities[::-1].copy(), labels[::-1].copy())
    assert found["rows"] == [100] * 10
    assert found["observed"] == [0.5] * 10
    assert found["predicted"] == pytest.approx([0.05 + 0.9 * (tenth + 0.5) / 10 for tenth in range(10)], abs=2e-3)
    assert found["error"] == pytest.approx(0.225, abs=2e-3)  # the mean of |p - 0.5| over bins


def test_perfect_calibration_has_no_error_and_few_rows_fewer_bins():
    assert calibration(np.array([0.0, 1.0, 0.0]), np.array([0.0, 1.0, 0.0])) == {
        "predicted": [0.0, 0.0, 1.0],
        "observed": [0.0, 0.0, 1.0],
        "rows": [1, 1, 1],
        "error": 0.0,
    }


def test_rows_of_one_kind_cannot_be_ranked(log, tmp_path):
    labels = log.labels.copy()
    labels[log.validation] = 0
    with pytest.raises(DataError, match="Expected clicks and other rows among the validation rows of planted, found 0"):
        training(small(), tmp_path, replace(log, labels=labels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "found -1, 0, 3 and 2048"),
        ({"batch": 1}, "found 15, 0, 3 and 1"),
        ({"patience": 0}, "found 15, 0, 0 and 2048"),
        ({"alignment": -1}, "found 15, -1, 3 and 2048"),
        ({"clip": 0.0}, "Expected a norm above 0 to clip gradients to, found 0"),
        ({"rule": "dfb"}, "There is no rule 'dfb'"),
        (
            {"model": ClickModelConfig("fm"), "rule": "dfa"},
            "Expected the rule bp for fm, found dfa: a factorisation machine has no hidden layer",
        ),
        (
            {"model": ClickModelConfig(sparse=True), "optimiser": OptimiserConfig("adam", weight_decay=0.1)},
            "Expected Adam without weight decay for tables with sparse gradients, found adam with 0.1",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)


ROWS = presets(shipped())


def test_published_presets_are_those_of_the_published_code():
    dcn = preset(ROWS, "criteo-dcn-published", "dfa")
    assert (dcn.optimiser.learning_rate, dcn.batch, dcn.clip, dcn.epochs, dcn.patience) == (5e-5, 512, 100.0, 15, 3)
    assert (dcn.model.width, dcn.model.hidden, dcn.model.cross) == (16, (1024, 1024), 6)
    shallow = preset(ROWS, "criteo-dcn-published", "shallow")
    assert (shallow.optimiser.learning_rate, shallow.batch, shallow.epochs, shallow.patience) == (1e-3, 2048, 30, 5)
    afn = preset(ROWS, "criteo-afn-published", "bp")
    assert (afn.model.units, afn.model.dropout, afn.model.frozen, afn.optimiser.learning_rate) == (
        1500,
        0.3,
        True,
        4e-4,
    )
    assert not preset(ROWS, "criteo-afn-corrected", "dfa").model.frozen
    assert preset(ROWS, "criteo-deepfm-published", "dfa").optimiser.learning_rate == 5e-5
    assert {kind: set(rules) for kind, rules in PUBLISHED.items() if kind != "fm"} == {
        kind: {"bp", "dfa", "shallow"} for kind in ("deepfm", "dcn", "autoint", "afn")
    }


def test_tuned_presets_change_what_was_tuned_alone():
    tuned = {"criteo-sample-afn": {"dfa": {"optimiser.learning_rate": 0.002, "model.dropout": 0.3}}}
    rows = presets(tuned)
    found, frozen = (preset(rows, name, "dfa") for name in ("criteo-sample-afn", "criteo-sample-afn-frozen"))
    assert (found.optimiser.learning_rate, found.model.dropout, found.model.frozen) == (0.002, 0.3, False)
    assert frozen == replace(found, name="criteo-sample-afn-frozen", model=replace(found.model, frozen=True))
    with pytest.raises(ExperimentError, match="Expected settings of bp for criteo-sample-dcn, found none"):
        preset(rows, "criteo-sample-dcn", "bp")


def test_hidden_layers_taught_by_dfa_find_what_pairs_cannot_tell(tmp_path):
    """The planted log has triples of which a factorisation machine can express nothing."""
    config = ClickConfig(rows=30_000)
    data = load_clicks(config)
    gains = {}
    for kind, rule, rate in (("fm", "bp", 0.003), ("deepfm", "bp", 0.003), ("deepfm", "dfa", 0.01)):
        run = Config(
            kind, config, ClickModelConfig(kind, hidden=() if kind == "fm" else (64, 64)), rule,
            optimiser=OptimiserConfig("adam", rate), batch=256, epochs=12, device="cpu",
        )  # fmt: skip
        record = CTR.run(run, tmp_path / f"{kind}-{rule}", read=lambda _: data)
        gains[kind, rule] = record.metrics["best"]["test_auc"]
    backprop, dfa = (gains["deepfm", rule] - gains["fm", "bp"] for rule in ("bp", "dfa"))
    assert backprop > 0.1
    assert dfa > 0.9 * backprop
    assert max(gains.values()) < data.best_auc + 0.01
