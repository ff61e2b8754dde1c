"""Nets that learn side by side are those that learn alone; what is seen of them is what the library measures."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import feedalign as fa
from feedalign.experiments.theory.history import Schedule, Task, history, look, seed_similarity
from feedalign.experiments.theory.images import small_images
from feedalign.experiments.theory.nets import Activation, Ensemble, Net

pytestmark = pytest.mark.usefixtures("float64")
SEPARATE = fa.Uniform(shared=False)


def entropy(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y, reduction="sum")


def task(nets: int, inputs: int = 6, own_inputs: bool = False) -> Task:
    shape = (nets, 40, inputs) if own_inputs else (40, inputs)
    x = torch.randn(*shape)
    return Task(entropy, x, torch.randint(3, (nets, 40)), (torch.randn(20, inputs), torch.randint(3, (20,))), probe=30)


@pytest.mark.parametrize("backprop", [False, True], ids=["dfa", "backprop"])
@pytest.mark.parametrize("activation", ["linear", "tanh", "relu"])
def test_side_by_side_is_alone(activation: Activation, backprop: bool) -> None:
    net, seeds = Net(6, 8, 3, 3, activation), [5, 9]
    together = Ensemble(net, seeds, backprop=backprop)
    learned = task(2, own_inputs=True)
    for step in range(10):
        chosen = torch.arange(40).roll(step)[None, :7].expand(2, -1)
        together.step(learned.loss, *learned.batch(chosen), rate=0.02)
    for number, seed in enumerate(seeds):
        model = net.build(seed)
        if not backprop:
            net.attach(model, fa.DFA(feedback=SEPARATE))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        x, y = learned.own(number, 40)
        for step in range(10):
            chosen = torch.arange(40).roll(step)[:7]
            entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
            optimizer.zero_grad()
        with together.alone(number) as same:
            for found, expected in zip(same.parameters(), model.parameters(), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
            with together.handle.off():
                expected = same(learned.test[0])
        torch.testing.assert_close(together.outputs(learned.test[0])[number], expected.detach())


def test_a_curve_does_not_depend_on_the_company() -> None:
    net, schedule = Net(6, 8, 3, 3), Schedule(epochs=4, rate=0.01, batch=8, looks=6)
    both = task(2)
    together = history(Ensemble(net, [5, 9]), both, schedule)
    alone = history(Ensemble(net, [9]), Task(entropy, both.inputs, both.targets[1:], both.test, both.probe), schedule)
    for what, values in alone[0].items():
        assert np.allclose(together[1][what], values, rtol=1e-8, atol=1e-12), what
    assert together[0]["epochs"][0] == 0
    assert together[0]["epochs"][-1] == 4
    assert together[0]["loss"][-1] < together[0]["loss"][0]


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_what_is_seen_is_what_the_library_measures(activation: Activation) -> None:
    ensemble = Ensemble(Net(6, 8, 3, 4, activation), [1, 2])
    learned = task(2)
    for found, number in zip(look(ensemble, learned), range(2), strict=True):
        x, y = learned.own(number, 30)
        with ensemble.alone(number) as model:
            report = fa.alignment(ensemble.handle, lambda m=model, x=x, y=y: entropy(m(x), y), block_samples=30)
            blocks = [cosine.mean for cosine in report.blocks.values()]
            # One sample's weight gradient is an outer product, so its cosine is that before the non-linearity.
            assert found["gradient_alignment"] == pytest.approx(blocks, rel=1e-9)
            assert found["weight_alignment"] == list(fa.weight_alignment(ensemble.handle).values())
            assert found["batch_alignment"] == pytest.approx(_by_backward(model, ensemble.handle, x, y), rel=1e-9)
            # As large as numbers drawn from [-1, 1]: of variance 1/3.
            aims = [b / (b.norm() / b.numel() ** 0.5) / 3**0.5 for b in ensemble.handle.planner.matrices()]
            aims = [aims[1].T @ aims[0], aims[2].T @ aims[1], aims[2]]
            weights = [model.get_parameter(f"layer{i}.weight").detach() for i in (2, 3, 4)]
            total = F.cosine_similarity(
                torch.cat([a.flatten() for a in aims]), torch.cat([w.flatten() for w in weights]), dim=0
            )
            assert found["weight_alignment_total"] == pytest.approx(total.item(), rel=1e-9)
            with ensemble.handle.off():
                assert found["accuracy"] == (model(learned.inputs).argmax(1) == learned.targets[number]).double().mean()


def _by_backward(model, handle: fa.Attachment, x: Tensor, y: Tensor) -> list[float]:
    steps = []
    for on in (True, False):
        model.zero_grad()
        if on:
            entropy(model(x), y).backward()
        else:
            with handle.off():
                entropy(model(x), y).backward()
        steps.append([model.get_parameter(f"layer{i}.weight").grad.flatten() for i in (1, 2, 3)])
    return [F.cosine_similarity(a, b, dim=0).item() for a, b in zip(*steps, strict=True)]


def test_dead_units_are_left_out_and_counted() -> None:
    ensemble = Ensemble(Net(6, 8, 3, 3, "relu"), [1])
    with torch.no_grad():
        ensemble.weights["layer1.weight"].zero_()
    (found,) = look(ensemble, task(1))
    assert found["undefined"] == 1
    assert np.isnan(found["gradient_alignment"]).all()


def test_similarity_of_seeds() -> None:
    ensemble = Ensemble(Net(6, 8, 3, 3), [1, 2, 1])
    (cosines,) = seed_similarity(ensemble, [[0, 1, 2]])
    assert cosines[1] == pytest.approx(1)
    assert cosines[0] == pytest.approx(cosines[2])
    assert abs(cosines[0]) < 0.5
    assert seed_similarity(ensemble, [[0, 2], [1]]) == [pytest.approx([1]), []]


def test_images_are_small_and_only_training_labels_are_noisy() -> None:
    data = small_images("digits", samples=300, tested=50)
    assert data.inputs.shape == (300, 64)
    assert data.inputs.mean().item() == pytest.approx(0, abs=1e-5)
    assert data.inputs.std().item() == pytest.approx(1, abs=1e-5)
    assert len(data.test_inputs) == len(data.test_labels) == 50
    noisy = data.corrupted(0.5, seed=3)
    assert 0.35 < (noisy != data.labels).double().mean().item() < 0.55  # a tenth of the drawn ones are the true ones
    assert torch.equal(noisy, data.corrupted(0.5, seed=3))
    assert not torch.equal(noisy, data.corrupted(0.5, seed=4))
    assert torch.equal(data.corrupted(0.0, seed=3), data.labels)


def test_large_images_are_made_small(data_root) -> None:
    data = small_images("mnist", samples=64, tested=8)
    assert data.inputs.shape == (64, 14 * 14)
    assert data.classes == 10


def test_looks_are_dense_at_the_start() -> None:
    times = Schedule(epochs=10, looks=12).times(1000)
    assert times[0] == 0
    assert times[-1] == 1000
    assert np.all(np.diff(times[1:], 2) >= 0)
    assert len(Schedule(epochs=1, looks=40).times(7)) == 8 - 4  # 0, 5, 6, 7
    with pytest.raises(ValueError, match="Expected a depth of at least 2 weight matrices, found 1"):
        Net(6, 8, 3, 1)
