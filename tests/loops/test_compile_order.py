"""Compiled before, after or beside attaching: a model with a rule trains by the rule, whatever is compiled already."""

import copy
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from zoo import assert_same, collect

# Of torch itself: Dynamo looks for .grad on what it traces, and makes an instance of every autograd Function.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning"),
]
DROPPED = r"Something was compiled before attach\(\).*is dropped.*attach before the first call"
Gradients = dict[str, Tensor | None]


class Own(nn.Module):
    """A class of the user's, whose forward PyTorch compiles apart from its hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.second(self.act(self.first(x)))))


def sequential() -> nn.Sequential:
    """Return a module of PyTorch's, which is compiled with its hooks."""
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


@pytest.fixture(autouse=True)
def _as_pytorch_starts() -> Iterator[None]:
    torch.compiler.reset()
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=True):  # afterwards as it was before
        yield
    torch.compiler.reset()


X = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))


def compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return torch.compile(model, backend="eager")


def gradients(model: nn.Module, forward: Callable[[Tensor], Tensor]) -> Gradients:
    model.zero_grad()
    forward(X).square().mean().backward()
    return collect(model)


def by_rule(model: nn.Module) -> Gradients:
    twin = copy.deepcopy(model)
    fa.attach(twin, fa.DFA(seed=1))
    return gradients(twin, twin)


@pytest.mark.parametrize("build", [sequential, Own])
def test_compiled_and_run_before_attaching(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = build()
    forward = compiled(model)
    backprop, twin = gradients(model, forward), copy.deepcopy(model)
    with pytest.warns(UserWarning, match=DROPPED):
        handle = fa.attach(model, fa.DFA(seed=1))
    assert_same(gradients(model, forward), by_rule(twin))
    handle.remove()
    assert_same(gradients(model, forward), backprop)


@pytest.mark.parametrize("build", [sequential, Own])
@pytest.mark.parametrize("attached_first", [True, False])
def test_a_twin_without_a_rule_was_compiled(build: Callable[[], nn.Module], attached_first: bool) -> None:
    torch.manual_seed(0)
    plain, model = build(), build()
    twin = copy.deepcopy(model)
    if attached_first:  # nothing was compiled then, so there is nothing to warn of
        fa.attach(model, fa.DFA(seed=1))
        gradients(plain, compiled(plain))
    else:
        gradients(plain, compiled(plain))
        with pytest.warns(UserWarning, match=DROPPED):
            fa.attach(model, fa.DFA(seed=1))
    expected = by_rule(twin)
    assert_same(gradients(model, compiled(model)), expected)
    assert_same(gradients(plain, compiled(plain)), gradients(plain, plain))


def test_what_was_compiled_with_a_rule_is_kept() -> None:
    """Attaching to a second model drops nothing."""
    first, second = sequential(), sequential()
    fa.attach(first, fa.DFA(seed=1))
    gradients(first, compiled(first))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fa.attach(second, fa.DFA(seed=1))
    assert torch._dynamo.convert_frame.output_codes.seen


def test_set_back_it_is_said_why_no_point_ran() -> None:
    plain, model = Own(), Own()
    fa.attach(model, fa.DFA())
    torch._dynamo.config.skip_nnmodule_hook_guards = True
    gradients(plain, compiled(plain))
    expected = r"None of the points ran.*If it was compiled: what torch\.compile made before attach\(\) may have run"
    with pytest.raises(fa.SignalError, match=rf"(?s){expected}.*call torch\.compiler\.reset\(\)"):
        compiled(model)(X)
