"""Two passes in training: where they cannot be run, and what is then said."""

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from test_constant_memory import built, entropy, samples
from zoo import CellInTime, Siamese, TiedLM, mlp


def message(model: nn.Module, closure: Callable[[], Tensor], rule: fa.Rule | None = None, **options: object) -> str:
    """Return what two_pass says about a model that it cannot run."""
    optimizer = options.pop("optimizer", None)
    handle = fa.attach(model, rule or fa.DFA(), **options)
    with pytest.raises(fa.SignalError) as caught:
        fa.two_pass(handle, closure, optimizer)
    return " ".join(str(caught.value).split())


def test_rules_that_transport_or_push_forward_are_refused() -> None:
    model, (x, y) = built(mlp), samples()
    said = message(model, entropy(model, x, y), fa.FA())
    assert "expected rules that broadcast the error to points, such as DFA, and found FA(" in said
    model = built(mlp)
    said = message(model, entropy(model, x, y), fa.IFA(), points=nn.ReLU)
    assert "cannot run IFA, which pushes tangents forward through all blocks. Take the ordinary step" in said


def test_an_attachment_that_is_off_is_refused() -> None:
    model, (x, y) = built(mlp), samples()
    handle = fa.attach(model, fa.DFA(), nn.ReLU)
    with handle.off(), pytest.raises(fa.SignalError, match=r"off or removed\. Use two_pass while it is on"):
        fa.two_pass(handle, entropy(model, x, y))


def test_a_closure_runs_the_model_once() -> None:
    model, (x, y) = built(mlp), samples()
    twice = message(model, lambda: entropy(model, x, y)() + entropy(model, x, y)(), points=nn.ReLU)
    assert "The closure ran the model twice. Write one two_pass for each forward pass." in twice
    never = message(built(mlp), lambda: torch.ones((), requires_grad=True), points=nn.ReLU)
    assert "must run the model, with its output, once. Write lambda: loss_fn(model(x), y)." in never
    assert torch.is_grad_enabled()


def test_a_loss_without_an_error_is_refused() -> None:
    model, (x, _) = built(mlp), samples()
    assert "does not depend on the model's output" in message(model, lambda: model(x).detach().sum(), points=nn.ReLU)


def test_an_input_that_needs_a_gradient_is_refused() -> None:
    model, (x, y) = built(mlp), samples()
    said = message(model, entropy(model, x.requires_grad_(), y), points=nn.ReLU)
    assert "what lies below the model would not learn. Put that part into the model, or detach the input." in said


class Around(nn.Module):
    """A skip connection from below the point to above it, with a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).tanh()
        return self.head(self.block(h) + h)


def test_blocks_that_share_operations_are_refused() -> None:
    model, (x, y) = built(Around), samples()
    said = message(model, entropy(model, x, y), points="block")
    assert "Two blocks share operations" in said
    assert "a skip connection around them. Put points on the outputs of the residual blocks (points='macro')" in said
    assert "This step is half done: zero the gradients" in said


class Fickle(nn.Module):
    """A forward pass that depends on something else than its input; ``change`` returns a factor."""

    def __init__(self, change: Callable[[], float], skip: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.change, self.skip = change, skip

    def forward(self, x: Tensor) -> Tensor:
        factor = self.change()
        h = self.first(x).tanh() * factor
        if not self.skip or factor > 0:
            h = self.second(h).tanh()
        return self.head(h)


def test_a_forward_pass_with_other_values_the_second_time_is_refused() -> None:
    (x, y), numbers = samples(), random.Random(0)
    model = built(lambda: Fickle(lambda: 1.0 + numbers.random()))
    said = message(model, entropy(model, x, y), points=["first", "second"])
    assert "The forward pass was not the same the second time: the output differs by" in said
    assert "draws numbers that are not PyTorch's (Python's random, NumPy)" in said


@pytest.mark.parametrize(
    ("factors", "found"),
    [
        ([-1.0, 1.0], "point 'second' (8, 6) came where before it was the end"),
        ([1.0, -1.0], "the output differs by"),
    ],
)
def test_a_forward_pass_that_goes_another_way_is_refused(factors: list[float], found: str) -> None:
    (x, y), left = samples(), [1.0, *factors]  # the first is for the pass in which rows are found out
    model = built(lambda: Fickle(lambda: left.pop(0), skip=True))
    assert found in message(model, entropy(model, x, y), points=["first", "second"])


def test_a_second_pass_that_leaves_a_point_out_is_refused() -> None:
    (x, y), left = samples(), [1.0, 1.0, -1.0]  # the first is for the pass in which rows are found out
    model = built(lambda: Fickle(lambda: left.pop(0), skip=True))
    with torch.no_grad():
        model.head.weight.zero_()  # so that the output is the same
    said = message(model, entropy(model, x, y), points=["first", "second"])
    assert "1 points and 1 outputs ran, not 2 and 1" in said


@pytest.mark.parametrize(
    ("build", "inputs", "options", "name"),
    [
        (CellInTime, [(8, 3, 3)], {"points": "cell"}, "cell.weight_ih"),
        (Siamese, [(8, 6), (8, 6)], {"points": "encoder", "output": "head"}, "encoder.0.weight"),
        (lambda: TiedLM().float(), [(8, 5)], {}, "embedding.weight"),
    ],
)
def test_an_optimiser_needs_parameters_that_are_used_once(
    build: Callable[[], nn.Module], inputs: list[tuple[int, ...]], options: dict[str, object], name: str
) -> None:
    model = built(build)
    tensors = [torch.randn(shape) for shape in inputs] if name != "embedding.weight" else [torch.zeros(8, 5).long()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    said = message(model, lambda: model(*tensors).square().sum(), optimizer=optimizer, **options)
    assert "would step these parameters before all of their gradient is there" in said
    assert name in said
    assert "Leave the optimiser out." in said
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


class TiedByFunction(nn.Module):
    """The last layer's weight is the first one's, without a module that would tell."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.second(self.first(x).tanh()).tanh(), self.first.weight)


@pytest.mark.parametrize(
    ("rate", "found"),
    [
        (0.1, "or shares parameters between blocks, which an optimiser stepped one after the other"),
        (1e-7, "these parameters before all of their gradient was there, since blocks share them: first.weight"),
    ],
)
def test_a_parameter_that_is_shared_unseen_is_refused_when_it_shows(rate: float, found: str) -> None:
    model, x = built(TiedByFunction), samples()[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    said = message(model, lambda: model(x).square().sum(), optimizer=optimizer, points=["first", "second"])
    assert found in said
    assert "if an optimiser was given, go back to saved weights" in said


def test_optimisers_that_cannot_step_block_by_block_are_refused() -> None:
    model, (x, y) = built(mlp), samples()
    said = message(model, entropy(model, x, y), points=nn.ReLU, optimizer=torch.optim.LBFGS(model.parameters()))
    assert "found LBFGS, which needs all gradients at once. Leave the optimiser out." in said


def test_an_optimiser_needs_empty_gradients() -> None:
    model, (x, y) = built(mlp), samples()
    entropy(model, x, y)().backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    said = message(model, entropy(model, x, y), points=nn.ReLU, optimizer=optimizer)
    assert "expected empty gradients" in said
    assert "optimizer.zero_grad(set_to_none=True) first, or leave the optimiser out to accumulate." in said
