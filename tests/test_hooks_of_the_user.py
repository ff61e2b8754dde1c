"""Hooks of the user's own: backward hooks run or a warning says that they cannot; forward hooks keep their place."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from closed_form.oracle_numbers import array, close, of_weight
from zoo import assert_same, gradients

pytestmark = [
    pytest.mark.usefixtures("float64"),
    # Of torch itself: behind a cut no input requires a gradient.
    pytest.mark.filterwarnings("ignore:Full backward hook is firing when gradients are computed:UserWarning"),
]
POINTS = ["1", "2.1"]
Way = tuple[fa.Rule, Any, Any]
DFA: Way = (fa.DFA(seed=1), POINTS, None)
NAMED: Way = (fa.DFA(seed=1), POINTS, "3")
AT_INPUT: Way = (fa.DFA(seed=1), ["1", "3:input"], None)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(6, 5), nn.Tanh())
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), block, nn.Linear(5, 3))


def batch() -> Tensor:
    return torch.randn(7, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)


class Seen:
    """What a full backward hook on one module was called with, step by step."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.inputs: list[tuple[Tensor | None, ...]] = []
        self.outputs: list[Tensor] = []
        self.before: list[Tensor] = []
        self.expected: list[Tensor] = []
        self.output: Tensor | None = None
        module.register_forward_hook(self.keep)
        module.register_full_backward_hook(self.after)
        module.register_full_backward_pre_hook(lambda module, gradients: self.before.append(gradients[0]))

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.output = output

    def after(self, module: nn.Module, inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor, ...]) -> None:
        assert module is self.module
        self.inputs.append(inputs)
        self.outputs.append(outputs[0])

    def step(self, model: nn.Module, x: Tensor) -> None:
        """Take one step; what arrives at the module's output is asked of the tensor itself."""
        loss = model(x).square().sum()
        assert self.output is not None
        found: list[Tensor] = []
        hook = self.output.register_hook(found.append)
        loss.backward()
        hook.remove()
        self.expected.append(found[-1])


def place(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name) if name else model


# ---- full backward hooks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "name"),
    [(DFA, "0"), (DFA, "2.0"), (DFA, "3"), (NAMED, "0"), (NAMED, "2.0"), (AT_INPUT, "0"), (AT_INPUT, "2.1")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hooks_inside_of_a_block_run_once_in_every_step(way: Way, name: str) -> None:
    model, x = net(), batch()
    seen = Seen(place(model, name))
    before = dict(seen.module._backward_hooks)
    fa.attach(model, *way)
    for _ in range(3):
        seen.step(model, x)
    assert len(seen.outputs) == len(seen.before) == len(seen.inputs) == 3
    for found, earlier, expected in zip(seen.outputs, seen.before, seen.expected, strict=True):
        assert torch.equal(found, expected)
        assert torch.equal(earlier, expected)
    assert dict(seen.module._backward_hooks) == before
    if name in ("0", "2.1"):  # their inputs are not cut off
        assert all(gradient is not None for (gradient,) in seen.inputs)


@pytest.mark.parametrize(("way", "name"), [(DFA, ""), (NAMED, ""), (NAMED, "3")], ids=["", "root-named", "output"])
def test_hooks_of_the_output_and_of_the_model_see_the_error(way: Way, name: str) -> None:
    model, x = net(), batch()
    seen = Seen(place(model, name))
    fa.attach(model, *way)
    for _ in range(2):
        x.grad = None
        y = model(x)
        y.square().sum().backward()
        assert torch.equal(seen.outputs[-1], 2 * y.detach())
        if not name:
            assert torch.equal(seen.inputs[-1][0], x.grad)
    assert len(seen.outputs) == len(seen.before) == 2


@pytest.mark.parametrize(
    ("way", "name"),
    [(DFA, "1"), (DFA, "2"), (DFA, "2.1"), (NAMED, "2"), (AT_INPUT, "1")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hooks_of_a_module_whose_output_is_cut_warn_at_the_first_forward(way: Way, name: str) -> None:
    """Module 2 is no point: what it returns is the output of the point inside."""
    model, x = net(), batch()
    calls: list[Any] = []
    place(model, name).register_full_backward_hook(lambda *args: calls.append(args))
    fa.attach(model, *way)
    expected = gradients(fa.attach(net(), *way).model, (x,))
    with pytest.warns(UserWarning, match=rf"The backward hooks of '{name}' cannot run: its output is cut off"):
        y = model(x)
    y.sum().backward()
    model(x).sum().backward()
    assert not calls
    assert_same(gradients(model, (x,)), expected)


@pytest.mark.parametrize("kind", ["full", "pre", "old"])
def test_every_kind_of_backward_hook_warns_at_a_point_whenever_it_is_registered(kind: str) -> None:
    model, x = net(), batch()
    fa.attach(model, *DFA)
    model(x).sum().backward()
    register = {"full": "register_full_backward_hook", "pre": "register_full_backward_pre_hook"}
    getattr(model[1], register.get(kind, "register_backward_hook"))(lambda *args: None)
    with pytest.warns(UserWarning, match="The backward hooks of '1' cannot run"):
        model(x)
    model(x)  # said once


def test_hooks_behind_a_cut_at_the_input_do_not_see_the_gradient_of_the_input() -> None:
    model, x = net(), batch()
    seen = Seen(model[3])
    fa.attach(model, *AT_INPUT)
    with pytest.warns(UserWarning, match=r"hooks of '3' run with grad_output, and with None for grad_input"):
        seen.step(model, x)
    seen.step(model, x)
    assert len(seen.outputs) == 2
    assert seen.inputs[1] == (None,)


def test_hooks_that_change_a_gradient_count_from_the_first_step_on() -> None:
    """Twice the gradient at the output of the block's layer: twice the gradients of that layer, and of nothing else."""
    x = batch()
    expected = gradients(fa.attach(net(), *DFA).model, (x,))
    model = net()
    model[2][0].register_full_backward_pre_hook(lambda module, outputs: (2 * outputs[0],))
    fa.attach(model, *DFA)
    for _ in range(3):
        found = gradients(model, (x,))
        assert_same(found, {n: 2 * g if n.startswith("2.0") else g for n, g in expected.items()})


def test_hooks_that_change_the_gradient_of_an_input_count_from_the_first_step_on() -> None:
    x = batch()
    expected = gradients(fa.attach(net(), *AT_INPUT).model, (x,))
    model = net()
    model[2][1].register_full_backward_hook(lambda module, inputs, outputs: (3 * inputs[0],))
    fa.attach(model, *AT_INPUT)
    for _ in range(3):
        found = gradients(model, (x,))
        assert_same(found, {n: 3 * g if n.startswith("2.0") else g for n, g in expected.items()}, rtol=1e-14, atol=0)


def test_hooks_that_are_registered_for_every_module() -> None:
    model, x, calls = net(), batch(), []
    fa.attach(model, *DFA)
    hook = nn.modules.module.register_module_full_backward_hook(lambda module, *args: calls.append(module))
    try:
        with pytest.warns(UserWarning, match="registered for every module do not run on modules whose output is cut"):
            model(x)
        del calls[:]
        model(x).sum().backward()
    finally:
        hook.remove()
    assert model[1] not in calls
    assert model[0] in calls


def test_nothing_is_said_where_no_gradient_would_arrive_anyway() -> None:
    model, x = net(), batch().detach()
    for frozen in (model[0], model[1]):
        frozen.requires_grad_(False)
    model[0].register_full_backward_hook(lambda *args: None)
    fa.attach(model, fa.DFA(seed=1), ["2.1"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x)
        with torch.no_grad():
            model(x)


def test_hooks_of_a_layer_with_a_rule_of_its_own() -> None:
    model, x = net(), batch()
    seen = Seen(model[3])
    fa.attach(model, fa.FA(seed=1))
    with pytest.warns(UserWarning, match=r"hooks of '3' run with grad_output, and with None for grad_input"):
        seen.step(model, x)
    seen.step(model, x)
    assert len(seen.outputs) == len(seen.before) == 2
    assert all(torch.equal(found, expected) for found, expected in zip(seen.outputs, seen.expected, strict=True))
    assert seen.inputs == [(None,), (None,)]


def test_hooks_of_modules_between_such_layers_and_of_attention_see_all() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.attention = nn.Tanh(), nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.inner(x)
            return self.attention(x, x, x, need_weights=False)[0]

    model, x = Net(), torch.randn(2, 3, 4, requires_grad=True)
    seen: list[tuple[Any, Any]] = []
    for module in (model.inner, model.attention):
        module.register_full_backward_hook(lambda module, inputs, outputs: seen.append((inputs, outputs)))
    fa.attach(model, fa.FA(seed=1))
    model(x).sum().backward()
    (of_attention, _), (of_inner, outputs) = seen
    assert all(gradient is not None for gradient in of_attention)
    torch.testing.assert_close(outputs[0], sum(of_attention))
    torch.testing.assert_close(of_inner[0], x.grad)


# ---- forward hooks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_forward_hooks_around_a_layer_with_a_rule(first: bool) -> None:
    """y = 5 W (3 x): the gradient that passes back is 5 e B 3, wherever the hooks were registered."""

    def register(layer: nn.Module) -> None:
        layer.register_forward_pre_hook(lambda module, args: (3 * args[0],))
        layer.register_forward_hook(lambda module, args, output: 5 * output)

    model, x, e = nn.Sequential(nn.Linear(4, 3)), batch(), torch.randn(7, 3)
    if first:
        register(model[0])
    fa.attach(model, fa.FA(seed=2))
    if not first:
        register(model[0])
    (model(x) * e).sum().backward()
    close(x.grad, 15 * array(e) @ of_weight(2, "0.weight", model[0].weight))
    close(model[0].weight.grad, 15 * array(e).T @ array(x))


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_forward_hooks_at_a_point_lie_inside_of_the_cut(first: bool) -> None:
    def scaled(model: nn.Sequential) -> None:
        model[1].register_forward_hook(lambda module, args, output: 3 * output)

    def attached(make: Callable[[nn.Sequential], Any]) -> dict[str, Tensor | None]:
        model = net()
        if first:
            make(model)
        handle = fa.attach(model, *DFA)
        if not first:
            make(model)
        x = batch()
        loss = (model(x) * torch.linspace(-1, 1, 21).reshape(7, 3)).sum()  # an error that does not depend on the output
        loss.backward()
        assert handle.last is not None
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    plain, found = attached(lambda model: None), attached(scaled)
    torch.testing.assert_close(found["0.weight"], 3 * plain["0.weight"], rtol=1e-12, atol=1e-14)
