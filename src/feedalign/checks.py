"""What is checked until a first error has arrived, so that mistakes in the choice of points show at once."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from feedalign import advice
from feedalign.errors import SignalError, some
from feedalign.graph import GATE, nodes_below, same_values, training
from feedalign.points import Point, candidates
from feedalign.recording import Recording
from feedalign.rules import BroadcastRule, Rule
from feedalign.tree import flatten


def check_closure(of: str, closure: object, others: str = "") -> None:
    """Raise unless ``closure`` is a function; the one named ``of`` calls it, and takes ``others`` too.

    Raises:
        SignalError: It is something else, such as a loss that was computed already.
    """
    if not callable(closure):
        found = f"a tensor of shape {tuple(closure.shape)}" if isinstance(closure, Tensor) else type(closure).__name__
        raise SignalError(
            f"{of} expected a function that returns the loss{others}, found {found}. It runs the model itself: pass "
            f"the function and not its result, {of}(handle, lambda: loss_fn(model(x), y))."
        )


def check_compiled(rules: Iterable[Rule]) -> None:
    """Raise if ``torch.compile`` is tracing a rule that it cannot take.

    Raises:
        SignalError: It is.
    """
    if torch.compiler.is_compiling():
        for rule in rules:
            if rule.eager:
                raise SignalError(
                    f"{type(rule).__name__} is not supported under torch.compile: {rule.eager}. Train in eager mode, "
                    "or choose a rule that can be compiled, such as DFA or FA."
                )
            if rule.learns and isinstance(rule, BroadcastRule):
                raise SignalError(
                    f"{type(rule).__name__} learns its feedback, which is not supported under torch.compile. Train in "
                    "eager mode, or choose a rule with fixed feedback."
                )
            if isinstance(rule, BroadcastRule) and rule.feedback.eager:
                raise SignalError(
                    f"{type(rule.feedback).__name__} is not supported under torch.compile: {rule.feedback.eager}. "
                    "Train in eager mode, or choose feedback that can be compiled, such as feedalign.Optical()."
                )


def check_graph(point: Point, module: nn.Module, output: Any, points: Sequence[Point]) -> None:
    """Raise if a point has parameters to train and yet returns nothing that a signal could flow into.

    Raises:
        SignalError: It ran without a graph: under ``torch.no_grad()``, or reentrant checkpointing.
    """
    graph = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in flatten(output)[0])
    trainable = any(parameter.requires_grad for parameter in module.parameters())
    # A point whose last step is a point itself returns a tensor that is cut already.
    nested = any(other.module.startswith(f"{point.module}.") for other in points)
    if trainable and not graph and not nested:
        raise SignalError(
            f"Point '{point}' has parameters to train and returned no tensor with a graph, so no signal could "
            "reach them. With activation checkpointing, write use_reentrant=False; if it runs under "
            "torch.no_grad(), freeze it with requires_grad_(False)."
        )


def check_output(model: nn.Module, tap: str, output: Any, tensors: Sequence[Tensor], squeezed: bool) -> None:
    """Raise unless the output's floating-point tensors could carry an error with rows.

    Args:
        model: The model.
        tap: What the output is called in a message.
        output: The output.
        tensors: Those of its tensors that carry the error.
        squeezed: Whether a tensor without dimensions may be a batch of one: the error is known to be one number wide.

    Raises:
        SignalError: There are none, or one is a scalar: a loss, computed inside of the model.
    """
    if not tensors:
        raise SignalError(
            f"{tap} expected at least one floating-point tensor, found {type(output).__name__}. Name the module "
            f"whose output the loss is computed from. {candidates(model)}"
        )
    if any(tensor.dim() == 0 for tensor in tensors) and not squeezed:
        raise SignalError(
            f"{tap} holds a scalar: a loss, not the output whose gradient is the error. The loss seems to be computed "
            "inside the model, so name the module whose output it is computed from, such as output='head', or the "
            f"fields of the return value, such as output='.logits'. {candidates(model)}"
        )


def output_itself(outputs: Sequence[Tensor], recording: Recording) -> dict[int, list[int]]:
    """Return the arrivals whose own tensor is one of the output's, each with the numbers of these tensors.

    Args:
        outputs: The output's tensors.
        recording: The forward pass.
    """
    found: dict[int, list[int]] = {}
    trained = iter(recording.tensors)
    for number, arrival in enumerate(recording.arrivals):
        tensor = next(trained) if arrival.trains else None
        end = recording.ends.get(number)
        if end is not None:
            same = [i for i, output in enumerate(outputs) if end.requires_grad and same_values(output, end.grad_fn)]
        elif tensor is not None:
            same = [i for i, output in enumerate(outputs) if torch._C._is_alias_of(output, tensor)]  # type: ignore[attr-defined]
        else:
            continue
        if same:
            found[number] = same
    return found


def warn_of_bypass(model: nn.Module, outputs: Sequence[Tensor], recording: Recording) -> None:
    """Warn if the error reaches a block by a way that no point cuts, such as a skip connection around the points."""
    around = list(dict.fromkeys(bypassed(outputs, recording)))
    if around:
        warnings.warn(
            f"The error also reaches what lies below {some(around)} by backpropagation, through a path that no point "
            f"cuts (a skip connection), so this is not the rule alone. {advice.around(model, around)}",
            stacklevel=2,
        )


def bypassed(outputs: Sequence[Tensor], recording: Recording) -> list[str]:
    """Return the points below which the error also arrives by backpropagation, through what no point cuts.

    Call it before the splice: then the graph above the points and the graphs below them share no operation, unless
    something leads around the points. Parameters used in both (tied weights) are no such thing.

    Args:
        outputs: The output's tensors.
        recording: The forward pass, with the uncut tensors of the points.
    """
    above = _operations(tensor.grad_fn for tensor in outputs)
    return [
        arrival.point
        for arrival, tensor in zip(recording.trained(), recording.tensors, strict=True)
        if above & _operations([tensor.grad_fn])
    ]


def _operations(roots: Iterable[Node | None]) -> set[Node]:
    """Return the operations that lead to ``roots``, without parameters and what merely reshapes or casts one."""
    # A compiled piece of the model is one operation, so that points inside of it and the output share it. Where there
    # are gates, they are where the cuts would be.
    left_out = ("CompiledFunctionBackward", GATE)
    nodes = list(nodes_below(roots, through=()))
    return {node for node in training(nodes) if type(node).__name__ not in left_out and not _of_parameter(node)}


def _of_parameter(node: Node) -> bool:
    while len(node.next_functions) == 1 and node.next_functions[0][0] is not None:
        node = node.next_functions[0][0]
    return hasattr(node, "variable")  # AccumulateGrad, the leaf of the graph
