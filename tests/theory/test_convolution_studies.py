"""The study of convolutions, cut down but real: what is trained, what is measured, and what comes out."""

from pathlib import Path

import pytest
import torch
from torch import nn

from feedalign.experiments.data.images import Samples
from feedalign.experiments.theory import study
from feedalign.experiments.theory.convolution_tables import chosen, mean_alignment
from feedalign.experiments.theory.spatial import KINDS, RULES, Lesson, Spatial, teach
from feedalign.experiments.theory.study import Written, run

PART = ("motif", "tanh")


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return run(study("convolutions"), study("convolutions").short, tmp_path_factory.mktemp("studied"))


def test_convolutions_align_least_and_repeated_feedback_repairs_it(record: Written) -> None:
    """Check 16: dense > locally connected > 2 convolutional; repeated feedback > 2 convolutional."""
    dense, local, convolution = (mean_alignment(chosen(record, PART, net, "dfa")) for net in KINDS)
    repeated = mean_alignment(chosen(record, PART, "convolutional", "dfa-repeat"))
    assert dense > local > 2 * convolution
    assert repeated > 2 * convolution


def test_no_weights_come_nearer_to_their_feedback_than_they_can(record: Written) -> None:
    layers = [(run["net"], layer) for run in record["findings"]["runs"] for layer in run["weights"]]
    assert len(layers) == 2 * 3 * 2 * len(KINDS)  # seeds, rules that measure it, layers, nets
    assert all(abs(layer["cosine"]) <= layer["best"] + 1e-9 for _, layer in layers)
    assert all(layer["best"] == pytest.approx(1) for net, layer in layers if net == "dense")
    assert all(layer["best"] < 0.7 for net, layer in layers if net != "dense")


def test_backprop_aligns_with_nothing(record: Written) -> None:
    for net in KINDS:
        assert abs(mean_alignment(chosen(record, PART, net, "backprop"))) < 0.1


def test_tables_and_pictures_are_whole(record: Written) -> None:
    accuracies, weights = study("convolutions").tables(record)
    assert len(accuracies.rows) == len(KINDS) * len(RULES)
    assert len(weights.rows) == len(KINDS) * 2
    figures = study("convolutions").pictures(record)
    assert set(figures) == {"alignment", "weights"}
    assert all(figure.get_label() for figure in figures.values())


@pytest.fixture
def lesson() -> Lesson:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(24, 2, 4, 4, generator=generator)
    samples = Samples(images, images.mean((1, 2, 3)).gt(0).long())
    return Lesson(samples, samples, 2, 8, lambda net: torch.optim.SGD(net.parameters(), 0.1), probe=8, measured=2)


SMALL = Spatial((2, 4, 4), (3, 2), (3, 3), ((1, 1), (2, 2)), (1, 1), 2)


@pytest.mark.parametrize("kind", KINDS.values())
def test_the_nets_differ_in_their_layers_alone(kind: str) -> None:
    net = SMALL.build(kind, "tanh", seed=0)
    features = [net[:2](torch.zeros(1, 2, 4, 4)), net[:4](torch.zeros(1, 2, 4, 4))]
    assert [tuple(found.shape[1:]) for found in features] == SMALL.shapes[1:] == [(3, 4, 4), (2, 2, 2)]
    assert all(parameter.abs().max() <= 1 / 2**0.5 for parameter in net.parameters())


def test_a_seed_decides_everything(lesson: Lesson) -> None:
    first, again, other = (teach(SMALL, "convolution", "tanh", "dfa", seed, lesson) for seed in (0, 0, 1))
    assert first == again
    assert first["alignment"] != other["alignment"]
    assert [line["epoch"] for line in first["curve"]] == [0, 2]


def test_shallow_leaves_the_layers_as_they_were(lesson: Lesson) -> None:
    trained: list[nn.Module] = []
    kept = Lesson(**{**vars(lesson), "optimiser": lambda net: trained.append(net) or lesson.optimiser(net)})
    teach(SMALL, "dense", "tanh", "shallow", 0, kept)
    fresh = SMALL.build("dense", "tanh", 0)
    assert torch.equal(trained[0].layer1.weight, fresh.layer1.weight)
    assert not torch.equal(trained[0].head.weight, fresh.head.weight)


def test_an_unfinished_study_leaves_nothing(tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(study("convolutions"), study("convolutions").short, tmp_path, stop)
    assert list((tmp_path / "convolutions").iterdir()) == []
