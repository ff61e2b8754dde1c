"""Two passes in training: they step as the ordinary loop does, in memory that does not grow."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

import feedalign as fa
from feedalign.bench.cost import flops, peak_memory
from zoo import CellInTime, LossInside, ResNet, Siamese, TwoInputs, assert_same, collect, mlp

CPU = torch.device("cpu")
RULES = {
    "dfa": lambda: fa.DFA(seed=1),
    "dfa-separate": lambda: fa.DFA(seed=1, feedback=fa.Normal(shared=False)),
    "drtp": lambda: fa.DRTP(seed=1),
    "dkp": lambda: fa.DKP(seed=1),
}
OPTIMISERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": partial(torch.optim.Adam, lr=0.01, weight_decay=0.01),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
}


def built(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return build()


def samples(step: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 6, generator=generator), torch.randint(4, (8,), generator=generator)


def dropout_mlp() -> nn.Module:
    return nn.Sequential(*mlp()[:2], nn.Dropout(0.4), *mlp()[2:])


def deep(depth: int, width: int) -> nn.Sequential:
    pairs = pairwise([width] * (depth + 1))
    return nn.Sequential(*(layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())), nn.Linear(width, 4))


def entropy(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    return lambda: F.cross_entropy(model(x), y)


# ---- the same steps --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("rule", RULES)
def test_an_optimiser_steps_as_in_the_ordinary_loop(rule: str, optimiser: str) -> None:
    models = [built(dropout_mlp) for _ in range(2)]
    handles = [fa.attach(model, RULES[rule](), nn.ReLU, example=samples()[0]) for model in models]
    plain, stepped = (OPTIMISERS[optimiser](model.parameters()) for model in models)
    for step in range(4):
        x, y = samples(step)
        for handle in handles:
            handle.targets = y
        torch.manual_seed(step)
        expected = entropy(models[0], x, y)()
        expected.backward()
        plain.step()
        plain.zero_grad()
        torch.manual_seed(step)
        loss = fa.two_pass(handles[1], entropy(models[1], x, y), stepped)
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
        assert not loss.requires_grad
        assert all(parameter.grad is None for parameter in models[1].parameters())
    for (name, found), (_, wanted) in zip(*(m.named_parameters() for m in reversed(models)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_learned_feedback_receives_its_gradients() -> None:
    found = []
    for two in (False, True):
        model, (x, y) = built(mlp), samples()
        handle = fa.attach(model, fa.DKP(seed=1), nn.ReLU, example=x)
        fa.two_pass(handle, entropy(model, x, y)) if two else entropy(model, x, y)().backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert sum(name.startswith("feedalign.") for name in found[0]) == 2
    assert_same(found[1], found[0], rtol=1e-5, atol=1e-7)


def test_micro_batches_add_up() -> None:
    model, (x, y) = built(mlp), samples()
    handle = fa.attach(model, fa.DFA(), nn.ReLU)
    entropy(model, x, y)().backward()
    expected = collect(model)
    model.zero_grad()
    for part in (slice(0, 5), slice(5, 8)):
        closure = partial(lambda part: F.cross_entropy(model(x[part]), y[part], reduction="sum") / len(x), part)
        fa.two_pass(handle, closure)
    assert_same(collect(model), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("whole", [False, True], ids=["closure", "around"])
def test_autocast_is_that_of_the_closure(whole: bool) -> None:
    (x, y), found = samples(), []
    for two in (False, True):
        model = built(mlp)
        handle = fa.attach(model, fa.DFA(), nn.ReLU)

        def cast(model: nn.Module = model) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return entropy(model, x, y)()

        if not two:
            cast().backward()
        elif whole:
            with torch.autocast("cpu", torch.bfloat16):
                fa.two_pass(handle, entropy(model, x, y))
        else:
            fa.two_pass(handle, cast)
        found.append(collect(model))
    assert_same(found[1], found[0])


def test_targets_are_delivered_under_the_autocast_of_the_step() -> None:
    """A step that is cast does not take the one pass of those before, which were not."""
    model, (x, y) = built(mlp), samples()
    handle = fa.attach(model, fa.DRTP(), nn.ReLU)
    handle.targets = y
    fa.two_pass(handle, entropy(model, x, y))
    found = []
    for two in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = fa.two_pass(handle, entropy(model, x, y)) if two else entropy(model, x, y)()
        if not two:
            loss.backward()
        found.append(collect(model))
    assert_same(found[1], found[0])


@pytest.mark.parametrize("rule", ["dfa", "drtp"])
def test_random_numbers_go_on_as_after_one_forward_pass(rule: str) -> None:
    model, (x, y) = built(dropout_mlp), samples()
    handle = fa.attach(model, RULES[rule](), nn.ReLU)
    handle.targets = y
    for rows in (8, 8, 5):  # the last has other shapes, for which the one pass of DRTP is not known
        draws = []
        for two in (False, True):
            torch.manual_seed(3)
            jitter = lambda rows=rows: F.cross_entropy(model(x[:rows] + torch.randn(rows, 6)), y[:rows])  # noqa: E731
            handle.targets = y[:rows]
            fa.two_pass(handle, jitter) if two else jitter()
            draws.append(torch.rand(3))
        assert torch.equal(*draws)


def test_batch_statistics_are_updated_once() -> None:
    found = []
    for two in (False, True):
        model, x = built(lambda: ResNet(nn.BatchNorm2d)), samples()[0].reshape(4, 3, 4, 1).expand(4, 3, 4, 4)
        handle = fa.attach(model, fa.DFA())
        closure = lambda model=model, x=x: model(x).square().sum()  # noqa: E731
        for _ in range(2):
            fa.two_pass(handle, closure) if two else closure().backward()
        found.append(({name: buffer.double() for name, buffer in model.named_buffers()}, collect(model)))
    counts = [value.item() for name, value in found[1][0].items() if name.endswith("num_batches_tracked")]
    assert counts == [2.0] * 6
    assert_same(found[1][0], found[0][0])
    assert_same(found[1][1], found[0][1], rtol=1e-4, atol=1e-5)


def test_what_is_computed_from_buffers_is_computed_from_the_same_ones() -> None:
    """A forward pass under spectral normalisation changes the vectors that its weights are divided by."""

    def build() -> nn.Module:
        layers = (spectral_norm(nn.Linear(6, 8)), nn.Tanh(), spectral_norm(nn.Linear(8, 8)), nn.Tanh())
        return nn.Sequential(*layers, nn.Linear(8, 4))

    found = []
    for two in (False, True):
        model, (x, y) = built(build), samples()
        handle = fa.attach(model, fa.DFA(), nn.Tanh)
        fa.two_pass(handle, entropy(model, x, y)) if two else entropy(model, x, y)().backward()
        found.append((collect(model), dict(model.named_buffers())))
    for which in (0, 1):
        assert_same(found[1][which], found[0][which])


def test_a_compiled_model_runs_in_eager_mode() -> None:
    model, (x, y) = built(mlp), samples()
    handle = fa.attach(model, fa.DFA(), nn.ReLU)
    entropy(model, x, y)().backward()
    expected = collect(model)
    model.zero_grad()
    fa.two_pass(handle, entropy(torch.compile(model, backend="eager"), x, y))
    assert_same(collect(model), expected)


def test_parameters_of_the_loss_are_stepped_once() -> None:
    model, (x, y), scale = built(mlp), samples(), nn.Parameter(torch.ones(()))
    handle = fa.attach(model, fa.DFA(), nn.ReLU)
    optimizer = torch.optim.SGD([*model.parameters(), scale], lr=0.5)
    with torch.no_grad():
        gradient = entropy(model, x, y)()
    fa.two_pass(handle, lambda: scale * entropy(model, x, y)(), optimizer)
    torch.testing.assert_close(scale.detach(), 1 - 0.5 * gradient)


# ---- what it costs ---------------------------------------------------------------------------------------------------


def test_targets_take_one_forward_pass_from_the_second_step_on() -> None:
    model, (x, y) = built(mlp), samples()
    handle = fa.attach(model, fa.DRTP(), nn.ReLU, example=x)
    handle.targets = y
    passes: list[int] = []
    model[0].register_forward_pre_hook(lambda *_: passes.append(1))
    counted = []
    for _ in range(3):
        passes.clear()
        fa.two_pass(handle, entropy(model, x, y))
        counted.append(len(passes))
    assert counted == [2, 1, 1]
    ordinary = flops(lambda: entropy(model, x, y)().backward())
    assert flops(lambda: fa.two_pass(handle, entropy(model, x, y))) == ordinary


def test_two_passes_cost_a_forward_pass_more() -> None:
    model, (x, y) = built(mlp), samples()
    handle = fa.attach(model, fa.DFA(), nn.ReLU, example=x)
    with torch.no_grad():
        forward = flops(lambda: model(x))
    ordinary = flops(lambda: entropy(model, x, y)().backward())
    assert flops(lambda: fa.two_pass(handle, entropy(model, x, y))) == ordinary + forward


def peak(depth: int, rule: fa.Rule, two: bool) -> int:
    """Return the peak memory of a step with a batch of 256 and 64 units a layer: 65,536 bytes an activation."""
    model = deep(depth, 64)
    x, y = torch.randn(256, 64), torch.randint(4, (256,))
    handle = fa.attach(model, rule, nn.ReLU)
    handle.targets = y
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        if two:
            fa.two_pass(handle, entropy(model, x, y), optimizer)
        else:
            entropy(model, x, y)().backward()
            optimizer.step()
            optimizer.zero_grad()

    for _ in range(2):
        step()
    return peak_memory(step, CPU)


@pytest.mark.parametrize("rule", ["dfa", "dfa-separate", "drtp"])
def test_memory_does_not_grow_with_depth(rule: str) -> None:
    shallow, tall = (peak(depth, RULES[rule](), True) for depth in (4, 24))
    assert tall <= 1.02 * shallow
    grown = peak(24, RULES[rule](), False) - peak(4, RULES[rule](), False)
    assert grown >= 20 * 65_536  # an activation a layer


# ---- models with several inputs and outputs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "shapes", "options"),
    [
        (TwoInputs, [(8, 6), (8, 4)], {}),
        (Siamese, [(8, 6), (8, 6)], {"points": "encoder", "output": "head"}),
        (CellInTime, [(8, 3, 3)], {"points": "cell"}),
        (LossInside, [(8, 6)], {"points": "body", "output": "head"}),
    ],
)
def test_without_an_optimiser_parameters_may_be_used_often(
    build: Callable[[], nn.Module], shapes: list[tuple[int, ...]], options: dict[str, object]
) -> None:
    torch.manual_seed(0)
    inputs, found = [torch.randn(shape) for shape in shapes], []

    def loss(model: nn.Module) -> Tensor:
        output = model(*inputs)
        return output[0] if isinstance(output, tuple) else output.tanh().sum()

    for two in (False, True):
        model = built(build)
        handle = fa.attach(model, fa.DFA(), **options)
        fa.two_pass(handle, partial(loss, model)) if two else loss(model).backward()
        found.append(collect(model))
    assert_same(found[1], found[0], rtol=1e-4, atol=1e-6)
