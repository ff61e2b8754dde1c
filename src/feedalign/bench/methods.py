"""Ways to take one training step, by name: what the benchmarks measure against each other."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import feedalign as fa
from feedalign.bench.cost import Step
from feedalign.bench.peers import Forward, Hooks, Leaves, checkpointed
from feedalign.compiled import tell_hooks_apart
from feedalign.errors import nearest
from feedalign.experiments.names import label as rule_label
from feedalign.points import Points

Backward = Callable[[], object]


@dataclass
class Trainee:
    """A model with one batch, to be trained by some method.

    Attributes:
        model: A model of the method's own.
        inputs: What it is called with.
        targets: Class indices, one for each row of its output.
        points: Where rules cut.
        seed: Of the feedback.
        precision: ``"no"`` for float32, ``"bf16"`` for autocast.
    """

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    points: Points
    seed: int
    precision: str = "no"

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)

    def loss(self, output: Tensor) -> Tensor:
        """Return the cross-entropy of the output ``[..., C]``."""
        return cross_entropy(output.flatten(0, -2).float(), self.targets.flatten())

    def cast(self) -> torch.autocast:
        """Return the context of the forward pass."""
        return torch.autocast(self.inputs.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @property
    def example(self) -> tuple[Tensor]:
        """The batch, by which ``attach`` finds out where rows lie before anything is compiled or timed."""
        return (self.inputs,)

    def forward(self, forward: Forward) -> Tensor:
        """Return the loss of a forward pass."""
        with self.cast():
            return self.loss(forward(self.inputs))

    def step(self, backward: Backward) -> Step:
        """Return a whole training step, which leaves the gradients set to None."""

        def step() -> None:
            backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

        return step

    def plainly(self, forward: Forward) -> Step:
        """Return the step whose backward pass is autograd's."""
        return self.step(lambda: self.forward(forward).backward())  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Method:
    """A way to take one step.

    Attributes:
        label: How tables write it.
        build: Makes the step of a trainee.
    """

    label: str
    build: Callable[[Trainee], Step]


def _by_rule(name: str, compiled: bool, trainee: Trainee) -> Step:
    if name != "backprop":
        options = {"seed": trainee.seed} if name == "dfa" else {}
        with trainee.cast():
            fa.attach(trainee.model, fa.rule(name, **options), points=trainee.points, example=trainee.example)
    return trainee.plainly(_compiled(trainee.model) if compiled else trainee.model)


def _by_light(trainee: Trainee) -> Step:
    fa.attach(
        trainee.model,
        fa.TernaryDFA(seed=trainee.seed, feedback=fa.Optical()),
        points=trainee.points,
        example=trainee.example,
    )
    return trainee.plainly(trainee.model)


def _compiled(model: nn.Module) -> Forward:
    tell_hooks_apart()  # else what is compiled for a model without a rule would also serve its twin with one
    forward: Forward = torch.compile(model)
    return forward


def _checkpointing(trainee: Trainee) -> Step:
    return trainee.plainly(checkpointed(trainee.model))


def _by_peer(peer: type[Leaves | Hooks], trainee: Trainee) -> Step:
    trained = peer(trainee.model, trainee.points, trainee.seed)

    def backward() -> None:
        with trainee.cast():
            trained.backward(trainee.inputs, trainee.loss)

    return trainee.step(backward)


def _two_pass(rule: str, stepping: bool, trainee: Trainee) -> Step:
    handle = fa.attach(trainee.model, fa.rule(rule, seed=trainee.seed), points=trainee.points, example=trainee.example)
    handle.targets = trainee.targets

    def closure() -> Tensor:
        return trainee.forward(trainee.model)

    if not stepping:
        return trainee.step(lambda: fa.two_pass(handle, closure))
    return lambda: fa.two_pass(handle, closure, trainee.optimizer)


def _rule(name: str, compiled: bool = False) -> Method:
    return Method(rule_label(name) + (", compiled" if compiled else ""), partial(_by_rule, name, compiled))


METHODS = {
    "backprop": _rule("backprop"),
    "dfa": _rule("dfa"),
    "shallow": _rule("shallow"),
    "checkpointing": Method("backprop, checkpointed", _checkpointing),
    "dfa-light": Method("ternary DFA, simulated light", _by_light),
    "leaves": Method("DFA by leaves", partial(_by_peer, Leaves)),
    "hooks": Method("DFA by hooks", partial(_by_peer, Hooks)),
    "backprop-compiled": _rule("backprop", compiled=True),
    "dfa-compiled": _rule("dfa", compiled=True),
    "two-pass": Method("DFA, two passes", partial(_two_pass, "dfa", False)),
    "two-pass-stepping": Method("DFA, two passes, stepping", partial(_two_pass, "dfa", True)),
    "one-pass-stepping": Method("DRTP, one pass, stepping", partial(_two_pass, "drtp", True)),
}


def check(names: tuple[str, ...]) -> None:
    """Raise if a method is unknown, or backprop, which all are compared with, is missing.

    Raises:
        ValueError: It is so.
    """
    for name in names:
        if name not in METHODS:
            raise ValueError(f"There is no method {name!r}.{nearest(name, METHODS)} They are: {', '.join(METHODS)}.")
    if "backprop" not in names:
        raise ValueError(f"Expected backprop among the methods, since all are compared with it; found {names}.")


def label(name: str) -> str:
    """Return how tables and legends write a method."""
    return METHODS[name].label if name in METHODS else rule_label(name)
