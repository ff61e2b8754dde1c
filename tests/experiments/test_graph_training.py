"""Whole runs on graphs: what is learned, what is recorded, what may not leak, and how a stopped run goes on."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch

import feedalign as fa
from feedalign.experiments import records
from feedalign.experiments.checkpoint import CHECKPOINT
from feedalign.experiments.data.graphs import GraphConfig, load_graph
from feedalign.experiments.errors import ExperimentError, Interrupted
from feedalign.experiments.graph import (
    AUTOENCODER,
    GRAPH,
    Config,
    autoencoder_presets,
    preset,
    presets,
    shipped,
)
from feedalign.experiments.graph.training import GraphTraining
from feedalign.experiments.models.graph import GraphModelConfig
from feedalign.experiments.optimisation import OptimiserConfig
from feedalign.experiments.progress import Silent

ROWS, LINKS = presets(shipped()), autoencoder_presets(shipped())
KINDS = ("cheb", "gcn", "spline", "gat", "dna")


def karate(kind="gcn", rule="dfa", seed=0, **changed):
    return replace(preset(ROWS, f"karate-{kind}", rule, seed), device="cpu", **changed)


def training(config, folder, data=None):
    return GraphTraining(config, data or load_graph(config.data), folder, Silent())


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["bp", "dfa", "shallow"])
def test_every_network_trains_by_every_rule(kind, rule, tmp_path):
    record = GRAPH.run(karate(kind, rule, epochs=20), tmp_path)
    first, *_, last = records.load(tmp_path).curve
    assert last["train_loss"] < first["train_loss"]
    assert (record.alignment is not None) == (rule == "dfa")


def test_record_and_curve_hold_what_was_run(tmp_path):
    record = GRAPH.run(karate(epochs=25), tmp_path)
    run = records.load(tmp_path)
    assert (record.experiment, record.name, record.rule, record.seed) == ("graph", "karate-gcn", "dfa", 0)
    assert record.data == {"name": "karate", **load_graph(GraphConfig()).counts}
    assert record.parameters == 34 * 16 + 16 + 16 * 4 + 4
    assert record.config["model"]["dropout"] == 0.1  # as published for DFA
    assert [line["epoch"] for line in run.curve] == [0, 10, 20, 25]
    assert list(record.alignment) == ["hidden"]
    assert record.alignment["hidden"]["n"] + record.alignment["hidden"]["undefined"] == 34  # all nodes
    labelled = record.metrics["alignment_of_training_nodes"]["hidden"]
    assert labelled["zero_error"] == 34 - record.data["train"]
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size < 4_000
    assert record.metrics["final"]["test_accuracy"] == pytest.approx(run.curve[-1]["test_accuracy"], abs=1e-3)


@pytest.mark.parametrize("kind", ["gcn", "dna"])
def test_gradients_too_small_for_public_software_are_counted(kind, tmp_path):
    run = training(karate(kind, epochs=0), tmp_path)
    shares = run.negligible()
    assert list(shares) == [str(point) for point in run.handle.points]
    assert set(shares.values()) == {0.0}  # of first weights, every node has a gradient
    with torch.no_grad():
        *_, bias = (parameter for parameter in run.network.parameters() if parameter.shape == (4,))
        bias.copy_(torch.tensor([60.0, 0.0, 0.0, 0.0]))  # certain of the first class
    run.data = replace(run.data, y=torch.zeros_like(run.data.y))  # and right: errors of e^-60 are left
    assert run.negligible() == dict.fromkeys(shares, 1.0)
    assert run.network.training


class Best(Silent):
    """Remembers every epoch it is told of."""

    def __init__(self):
        self.lines = []

    def epoch(self, line):
        self.lines.append(line)


def test_best_epoch_is_that_of_all_and_not_of_those_with_a_line(tmp_path):
    story = Best()
    record = GRAPH.run(karate(rule="bp", epochs=40, every=40), tmp_path, progress=story)
    highest = max(line["validation_accuracy"] for line in story.lines)
    best = next(line for line in story.lines if line["validation_accuracy"] == highest)
    assert len(story.lines) == 41
    assert best["epoch"] not in (0, 40)  # or this shows nothing
    assert record.metrics["best"] == {name: best[name] for name in record.metrics["best"]}


@pytest.mark.parametrize("rule", ["bp", "dfa", "drtp", "shallow"])
def test_labels_of_other_nodes_do_not_reach_the_weights(rule, tmp_path):
    data = load_graph(GraphConfig())
    other = replace(data, y=torch.where(data.train, data.y, (data.y + 1) % data.classes))
    found = []
    for number, graph in enumerate((data, other)):
        GRAPH.run(karate(rule=rule, epochs=5), tmp_path / str(number), read=lambda _, g=graph: g, keep_checkpoint=True)
        found.append(torch.load(tmp_path / str(number) / CHECKPOINT, weights_only=True)["parts"]["model"])
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_features_of_all_nodes_reach_the_scores(tmp_path):
    """The counterpart: what is seen of nodes without labels does matter, or the test above would show little."""
    data = load_graph(GraphConfig())
    other = replace(data, x=torch.where(data.train[:, None], data.x, 0.0))
    one, two = (training(karate(rule="bp"), tmp_path, graph).evaluate()["train_loss"] for graph in (data, other))
    assert one != two


@pytest.mark.parametrize("kind", ["cheb", "gcn"])
def test_weight_decay_is_for_the_first_layer_alone(kind, tmp_path):
    config = karate(kind, "bp", optimiser=OptimiserConfig("sgd", 0.1, momentum=0.0, weight_decay=0.5))
    started = training(config, tmp_path)
    model = started.network
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    started.optimiser.step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if name.startswith("conv1") else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before[name])


def test_without_dropout_the_pass_that_evaluates_is_that_of_the_next_step(tmp_path):
    still = GraphModelConfig("dna", hidden=16, layers=2, dropout=0.0, attention_dropout=0.0)
    started = training(karate("dna", model=still, epochs=3), tmp_path)
    figures = started.evaluate()
    model, data = started.network, started.data
    with torch.no_grad():
        scores = model.eval()(data.x, data.edge_index)
    model.train()
    for part in ("train", "validation", "test"):
        mask = getattr(data, part)
        expected = torch.nn.functional.cross_entropy(scores[mask], data.y[mask]).item()
        assert figures[f"{part}_loss"] == pytest.approx(expected, rel=1e-5)
    (loss,) = started.batches()
    loss.backward()
    found = gradients(model)
    model.zero_grad()
    started.loss(started.forward(), data.y, data.train).backward()
    torch.testing.assert_close(found, gradients(model))
    assert found.norm() > 0


class Stop(Silent):
    """Asks to stop after so many steps, and counts."""

    def __init__(self, step):
        self.left = step

    def step(self, epoch, step, loss):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


STILL = GraphModelConfig("dna", hidden=16, layers=2, dropout=0.0, attention_dropout=0.0)
RESUMED = {
    "dropout": (GRAPH, karate("gat", "dfa", epochs=12)),
    "no dropout": (GRAPH, karate("dna", "dfa", epochs=12, model=STILL)),
    "sampled": (GRAPH, karate("gcn", "dfa", epochs=12, neighbours=(3, 3, 3), batch=2)),
    "links": (AUTOENCODER, replace(preset(LINKS, "karate-gae", "dfa"), epochs=12, device="cpu")),
}


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("step", [1, 7, 11])
@pytest.mark.usefixtures("interruptible")
def test_stopped_run_ends_with_the_same_bits(name, step, tmp_path):
    experiment, config = RESUMED[name]
    whole = experiment.run(config, tmp_path / "whole", keep_checkpoint=True)
    with pytest.raises(Interrupted, match="Nothing is lost"):
        experiment.run(config, tmp_path / "stopped", progress=Stop(step))
    assert (tmp_path / "stopped" / CHECKPOINT).exists()
    resumed = experiment.run(config, tmp_path / "stopped", keep_checkpoint=True)
    assert resumed.metrics == whole.metrics
    one, two = (
        torch.load(tmp_path / folder / CHECKPOINT, weights_only=True)["parts"]["model"]
        for folder in ("whole", "stopped")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)
    curves = [records.load(tmp_path / folder).curve for folder in ("whole", "stopped")]
    assert [{**line, "seconds": 0} for line in curves[0]] == [{**line, "seconds": 0} for line in curves[1]]


def test_error_after_the_log_softmax_makes_dfa_drtp(tmp_path):
    """The error is minus the label there, whatever the network says: what is sent below does not depend on it."""
    model = GraphModelConfig("dna", hidden=16, layers=2, dropout=0.0, attention_dropout=0.0)
    found = {}
    for name, rule, log_softmax in (("label", "dfa", True), ("dfa", "dfa", False), ("drtp", "drtp", False)):
        config = karate("dna", rule, model=replace(model, log_softmax=log_softmax), feedback=fa.Uniform())
        started = training(config, tmp_path / name)
        started.loss(started.forward(), started.data.y, started.data.train).backward()
        hidden = [p.grad.flatten() for n, p in started.network.named_parameters() if not n.startswith("lin2")]
        found[name] = torch.cat(hidden)
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(found["label"], found["drtp"], 0) == pytest.approx(-1, abs=1e-5)
    assert cosine(found["dfa"], found["drtp"], 0).abs() < 0.999


def test_all_neighbours_in_one_batch_train_as_the_whole_graph(tmp_path):
    whole = karate("gcn", "dfa", model=GraphModelConfig("gcn", dropout=0.0), epochs=20)
    sampled = replace(whole, neighbours=(-1, -1, -1), batch=100)
    one, two = (GRAPH.run(config, tmp_path / str(i)).metrics["final"] for i, config in enumerate((whole, sampled)))
    assert one == pytest.approx(two, rel=1e-4)


def test_sampled_batches_make_as_many_steps_as_they_are(tmp_path):
    config = karate("gcn", "dfa", neighbours=(2, 2), batch=3, epochs=2, alignment=False)
    assert training(config, tmp_path).steps == 2  # of 4 training nodes
    story = Best()
    GRAPH.run(config, tmp_path / "run", progress=story)
    assert [line["step"] for line in story.lines] == [0, 4]  # evaluated at the lines alone


@pytest.fixture(scope="module")
def cora(data_root, tmp_path_factory):
    """The three rules on Cora for 60 epochs, settings as published."""
    folder = tmp_path_factory.mktemp("cora")
    configs = [
        replace(preset(ROWS, "cora-gcn-published", rule), epochs=60, embedding=200, device="cpu")
        for rule in ("bp", "dfa", "shallow")
    ]
    return {record.rule: record for record in GRAPH.sweep(configs, folder, root=data_root)}, folder


def test_cora_is_learned_by_dfa_and_not_by_shallow(cora):
    by_rule, _ = cora
    accuracy = {rule: record.metrics["best"]["test_accuracy"] for rule, record in by_rule.items()}
    assert accuracy["bp"] > 0.75
    assert accuracy["dfa"] > 0.65
    assert accuracy["shallow"] < accuracy["dfa"] - 0.15
    assert by_rule["dfa"].alignment["hidden"]["mean"] > 0.5


def test_embedding_is_that_of_test_nodes_of_the_first_seed(cora):
    by_rule, folder = cora
    found = {
        rule: json.loads((folder / "cora-gcn-published" / f"{rule}-seed0" / records.EMBEDDING).read_text())
        for rule in by_rule
    }
    assert {(one["layer"], len(one["points"])) for one in found.values()} == {("hidden", 200)}
    assert found["dfa"]["silhouette"] > found["shallow"]["silhouette"]


def test_later_seeds_have_no_embedding(tmp_path):
    GRAPH.run(karate(seed=1, epochs=1, embedding=10), tmp_path)
    assert not (tmp_path / records.EMBEDDING).exists()


def test_autoencoder_foretells_links(data_root, tmp_path):
    rules = ("bp", "dfa", "shallow")
    configs = [replace(preset(LINKS, "cora-gae-published", rule), epochs=100, device="cpu") for rule in rules]
    found = {record.rule: record for record in AUTOENCODER.sweep(configs, tmp_path, root=data_root)}
    auc = {rule: record.metrics["best"]["test_auc"] for rule, record in found.items()}
    assert auc["bp"] > 0.84
    assert auc["dfa"] > auc["shallow"] + 0.05
    assert auc["dfa"] > 0.79
    assert all(0.5 < record.metrics["best"]["test_ap"] <= 1 for record in found.values())
    assert found["dfa"].data["test"] == 527  # 10 % of 5,278 edges
    assert list(found["dfa"].alignment) == ["hidden"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "found -1, 10 and 256"),
        ({"every": 0}, "found 250, 0 and 256"),
        ({"batch": 0}, "found 250, 10 and 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)


def test_unknown_rule_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"There is no rule 'dfb'. Did you mean 'dfa'\?"):
        Config(rule="dfb")


def test_network_that_was_not_tuned_says_what_to_do():
    with pytest.raises(ExperimentError, match="Expected settings of dfa for cora-gcn, found none: it was not tuned"):
        preset(presets({}), "cora-gcn", "dfa")
    with pytest.raises(ExperimentError, match=r"There is no preset 'cora-gnc'. Did you mean 'cora-gcn'\?"):
        preset(ROWS, "cora-gnc")
