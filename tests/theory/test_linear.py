"""Deep linear networks under DFA: the library's own training against the closed forms."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign.experiments.theory.nets import Net
from feedalign.theory import conserved, linear, modes, random_targets

pytestmark = pytest.mark.usefixtures("float64")

NET = Net(inputs=7, width=20, outputs=4, depth=4, activation="linear")
SEPARATE, ORTHOGONAL = fa.Uniform(shared=False), fa.Orthogonal(shared=False)


def started(net: Net, feedback: fa.Feedback, scale: float = 0.0) -> tuple[nn.Sequential, fa.Attachment]:
    built = net.build(0, scale).double()
    handle = net.attach(built, fa.DFA(feedback=feedback))
    built(torch.zeros(1, net.inputs))  # shapes are known after a forward pass
    return built, handle


def matrices(handle: fa.Attachment) -> list[np.ndarray]:
    return [matrix.numpy() for matrix in handle.planner.matrices()]


def weights(model: nn.Module) -> list[np.ndarray]:
    return [weight.detach().numpy().copy() for weight in model.parameters()]


def half_square(z: Tensor, y: Tensor) -> Tensor:
    return (z - y).square().sum() / 2


def test_weights_grow_as_the_alignment_matrices_say() -> None:
    """Mini-batches, noisy labels: exact at every step."""
    model, handle = started(NET, SEPARATE)
    B = matrices(handle)
    G, A = linear.grams(B), linear.zeros(4, 7, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(90, 7)
    y = x @ torch.randn(7, 4) / 4 + torch.randn(90, 4) / 2
    for batch in list(torch.arange(90).split(10)) * 12:
        with torch.no_grad():
            correlation = -((model(x[batch]) - y[batch]).T @ x[batch]).numpy() / 10
        (half_square(model(x[batch]), y[batch]) / 10).backward()
        optimizer.step()
        optimizer.zero_grad()
        A = tuple(a + 0.1 * grown for a, grown in zip(A, linear.growth(A, G, correlation), strict=True))
    assert np.linalg.norm(weights(model)[-1]) > 0.3
    for found, expected in zip(weights(model), linear.weights(A, B), strict=True):
        assert np.linalg.norm(found - expected) < 1e-10 * np.linalg.norm(expected)
    for found, expected in zip(linear.recovered(weights(model), B), A, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
    measured = list(fa.weight_alignment(handle).values())
    assert linear.weight_alignment(A, G) == pytest.approx(measured, abs=1e-10)


@pytest.mark.parametrize(
    ("optimizer", "scale", "form"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.05), 0.0, True),
        (lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.5), 0.0, True),
        (lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1), 0.0, True),
        (lambda p: torch.optim.Adam(p, lr=0.01), 0.0, False),
        (lambda p: torch.optim.SGD(p, lr=0.05), 0.05, False),
    ],
    ids=["sgd", "momentum", "decay", "adam", "random-start"],
)
def test_which_optimisers_keep_the_form(optimizer, scale: float, form: bool) -> None:
    model, handle = started(NET, SEPARATE, scale)
    x, y = torch.randn(60, 7), torch.randn(60, 4)
    training = optimizer(model.parameters())
    for _ in range(300):
        (half_square(model(x), y) / 60).backward()
        training.step()
        training.zero_grad()
    B = matrices(handle)
    shares = [
        linear.outside(weight, above, below)
        for weight, above, below in zip(weights(model)[1:], [*B[1:], None], B, strict=True)
    ]
    if form:
        assert max(shares) < 1e-10
    else:
        assert min(shares[:-1]) > 0.4  # of the hidden layers, whose form the theorem is about


def test_gradient_alignment_by_autograd() -> None:
    """Over errors of all directions, the cosine of what the library delivers with what backpropagation would."""
    model, handle = started(NET, SEPARATE)
    B = matrices(handle)
    G = linear.grams(B)
    generator = np.random.default_rng(0)
    A = (generator.normal(size=(4, 7)), *(generator.normal(size=(4, 4)) for _ in range(3)))
    with torch.no_grad():
        for parameter, weight in zip(model.parameters(), linear.weights(A, B), strict=True):
            parameter.copy_(torch.from_numpy(weight))
    # A unit error in each direction, one a sample: the rows of the gradient at a point are then a whole matrix.
    x = torch.randn(4, 7)
    caught: dict[str, Tensor] = {}
    for name in NET.points:
        model.get_submodule(name).register_forward_hook(lambda module, args, out, name=name: caught.update({name: out}))
    with handle.off():
        model(x).diagonal().sum().backward(inputs=_kept(caught))
    truths = [caught[name].grad.numpy() for name in NET.points]
    expected = [float((t * b).sum() / (np.linalg.norm(t) * np.linalg.norm(b))) for t, b in zip(truths, B, strict=True)]
    assert linear.gradient_alignment(A, G) == pytest.approx(expected, abs=1e-12)


def _kept(caught: dict[str, Tensor]) -> list[Tensor]:
    for hidden in caught.values():
        hidden.retain_grad()
    return list(caught.values())


def test_the_law_of_early_times() -> None:
    S = np.random.default_rng(1).normal(size=(4, 7))
    _, handle = started(NET, SEPARATE)
    G = linear.grams(matrices(handle))
    time = 0.1
    (A,) = linear.flow(S, np.eye(7), G, [time])
    for layer, (found, unit) in enumerate(zip(A, linear.early(S, G), strict=True), start=1):
        expected = time ** (2 ** (layer - 1)) * unit
        assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected), layer


MODES = (2, 1.5, 1, 0.7, 0.4)


@pytest.mark.parametrize(
    ("depth", "weight", "gradient"),
    [
        (2, [0.9427], [0.9427]),
        (3, [0.9878, 0.9561], [0.9137, 0.9561]),
        (4, [0.9972, 0.9893, 0.9611], [0.9017, 0.9227, 0.9611]),
    ],
)
def test_modes_at_the_end(depth: int, weight: list[float], gradient: list[float]) -> None:
    """A net of the library, trained to the end on white inputs, lands where the exponents say."""
    assert modes.final_weight_alignment(MODES, depth) == pytest.approx(weight, abs=1e-4)
    assert modes.final_gradient_alignment(MODES, depth) == pytest.approx(gradient, abs=1e-4)
    net = Net(5, 40, 5, depth, "linear")
    model, handle = started(net, ORTHOGONAL)
    with torch.no_grad():  # far along the flow, where the modes have all but arrived; then the library trains
        A = linear.flow(np.diag(MODES), np.eye(5), linear.grams(matrices(handle)), [6.0])[0]
        for parameter, value in zip(model.parameters(), linear.weights(A, matrices(handle)), strict=True):
            parameter.copy_(torch.from_numpy(value))
    x = 5**0.5 * torch.eye(5)  # E[x x^T] = I
    y = x @ torch.diag(torch.tensor(MODES, dtype=torch.float64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(400):
        (half_square(model(x), y) / 5).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert half_square(model(x), y) < 1e-3
    assert list(fa.weight_alignment(handle).values()) == pytest.approx(weight, abs=2e-3)
    recovered = linear.recovered(weights(model), matrices(handle))
    assert linear.gradient_alignment(recovered, linear.grams(matrices(handle))) == pytest.approx(gradient, abs=2e-3)


def test_modes_are_those_of_the_flow() -> None:
    rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))
    S, eye = rotation @ np.diag(MODES), np.eye(5)
    times = [0.1, 0.5, 1.0, 2.0, 20.0]
    predicted = modes.dynamics(MODES, 3, times)
    for eigenvalues, A in zip(predicted, linear.flow(S, eye, [eye, eye], times), strict=True):
        for values, matrix in zip(eigenvalues, A, strict=True):
            found = np.linalg.svd(matrix, compute_uv=False)
            assert found == pytest.approx(values, rel=1e-4)
    early = linear.weight_alignment(linear.flow(S, eye, [eye] * 3, [1e-2])[0], [eye] * 3)
    assert modes.early_weight_alignment(MODES, 4) == pytest.approx([0.748, 0.594, 0.491], abs=1e-3)
    assert early == pytest.approx(modes.early_weight_alignment(MODES, 4), abs=0.01)


@pytest.mark.parametrize("condition", [1.0, 4.0, 25.0])
def test_the_worst_cosine_is_reached_and_never_undercut(condition: float) -> None:
    H = np.diag([1.0, condition])
    angles = np.linspace(0, np.pi, 20_001)
    e = np.stack([np.cos(angles), np.sin(angles)])
    cosines = (e * (H @ e)).sum(0) / np.linalg.norm(H @ e, axis=0)
    assert linear.worst_cosine(linear.condition_number(H)) == pytest.approx(cosines.min(), abs=1e-6)


def test_directions_without_signal_do_not_count() -> None:
    assert linear.condition_number(np.diag([6.0, 3.0, 0.0])) == pytest.approx(2)
    assert linear.condition_number(np.zeros((3, 3))) == float("inf")


def test_random_targets_align_by_their_conditioning() -> None:
    """The library's early weight alignment is that of the empirical S, and near that of the population."""
    found: dict[tuple[float, float], float] = {}
    for alpha, beta in ((0.2, 0.2), (1.0, 0.2), (0.2, 1.0), (1.0, 1.0)):
        task = random_targets.RandomTargets(alpha, beta)
        reached = []
        for seed in range(6):
            x, y = task.draw(2000, 16, np.random.default_rng(seed))
            net = Net(16, 60, 2, 2, "linear")
            model, handle = started(net, ORTHOGONAL)
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
            for _ in range(5):
                (half_square(model(torch.from_numpy(x)), torch.from_numpy(y)) / 2000).backward()
                optimizer.step()
                optimizer.zero_grad()
            S = y.T @ x / 2000
            K = S @ S.T
            reached.append(fa.weight_alignment(handle)["layer2"])
            assert reached[-1] == pytest.approx(np.trace(K) / (np.sqrt(2) * np.linalg.norm(K)), abs=5e-3)
        found[alpha, beta] = float(np.mean(reached))
        assert found[alpha, beta] == pytest.approx(task.alignment, abs=0.08)  # six draws of 16 inputs
    assert found[1.0, 1.0] > found[0.2, 0.2] + 0.15


def test_the_targets_have_the_covariance_that_is_named() -> None:
    task = random_targets.RandomTargets(0.5, 0.3)
    x, y = task.draw(200_000, 3, np.random.default_rng(0))
    np.testing.assert_allclose(np.cov(y.T), task.covariance, atol=0.01)
    np.testing.assert_allclose(y.T @ x / len(x), 0, atol=0.02)
    assert random_targets.RandomTargets(1, 1).alignment == pytest.approx(1)
    assert random_targets.RandomTargets(1, 1).condition_number == pytest.approx(1)
    with pytest.raises(ValueError, match=r"Expected alpha above 0 and beta in \(0, 1\], found 0.5 and 0"):
        random_targets.RandomTargets(0.5, 0.0)


def test_weights_grow_out_of_a_random_start_bottom_first() -> None:
    """Theory's onsets against full-batch training of the library with targets S = I."""
    net = Net(5, 60, 5, 5, "linear")
    model, handle = started(net, ORTHOGONAL, scale=0.01)
    B = matrices(handle)
    G = linear.grams(B)
    x = 5**0.5 * torch.eye(5)
    rate, crossed = 0.004, {}
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    start = np.linalg.norm(np.linalg.pinv(B[0]).T @ weights(model)[0]) / 5**0.5
    assert start < 0.1
    for _ in range(550):
        (half_square(model(x), x) / 5).backward()
        optimizer.step()
        optimizer.zero_grad()
        aligned = fa.weight_alignment(handle)
        first = np.trace(np.linalg.pinv(B[0]).T @ weights(model)[0]) / 5
        for layer in (2, 3, 4):
            if aligned[f"layer{layer}"] >= 0.5**0.5:
                crossed.setdefault(layer, first)
    assert len(G) == 4
    for layer in (2, 3, 4):
        expected = modes.onset(layer, 0.01, 60, 5)
        assert crossed[layer] == pytest.approx(expected, rel=0.05)
    assert modes.onset(2, 0.01, 60, 5) == pytest.approx(0.733, abs=1e-3)


def test_the_last_hidden_layer_is_in_balance_with_the_readout() -> None:
    """Under gradient flow the balance stays; a finite rate moves it, in proportion."""
    x, labels = torch.randn(50, 6), torch.randint(3, (50,))
    drifts = {}
    for rate in (0.02, 0.01):
        net = Net(6, 12, 3, 3, "relu")
        model = net.build(1).double()
        handle = net.attach(model, fa.DFA(feedback=SEPARATE))
        model(x)
        B = handle.planner.matrices()[-1]
        before = conserved.balance(model.layer2.weight, model.layer3.weight, B).detach()
        size = model.layer2.weight.square().sum(1).detach() / 2
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        for _ in range(int(8 / rate)):
            nn.functional.cross_entropy(model(x), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        moved = (model.layer2.weight.square().sum(1) / 2 - size).abs().max()
        drifts[rate] = (conserved.balance(model.layer2.weight, model.layer3.weight, B) - before).abs().max().item()
        assert drifts[rate] < 0.03 * moved
    assert drifts[0.01] / drifts[0.02] == pytest.approx(0.5, abs=0.1)
