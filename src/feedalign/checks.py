"""What is checked until a first error has arrived, so that mistakes in the choice of points show at once."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from feedalign.errors import PointsError, SignalError
from feedalign.points import Point, candidates
from feedalign.recording import Recording
from feedalign.rules import BroadcastRule, Rule
from feedalign.tree import flatten


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


def check_output(model: nn.Module, tap: str, output: Any, tensors: Sequence[Tensor]) -> None:
    """Raise unless the output's floating-point tensors could carry an error with rows.

    Raises:
        SignalError: There are none, or one is a scalar: a loss, computed inside of the model.
    """
    if not tensors:
        raise SignalError(
            f"{tap} expected at least one floating-point tensor, found {type(output).__name__}. Name the module "
            f"whose output the loss is computed from. {candidates(model)}"
        )
    if any(tensor.dim() == 0 for tensor in tensors):
        raise SignalError(
            f"{tap} holds a scalar: a loss, not the output whose gradient is the error. The loss seems to be computed "
            "inside the model, so name the module whose output it is computed from, such as output='head'. "
            f"{candidates(model)}"
        )


def check_above(model: nn.Module, outputs: Sequence[Tensor], recording: Recording) -> None:
    """Raise if a point's own tensor is the output: it would get a signal where the error itself is at hand.

    Raises:
        PointsError: It is.
    """
    for arrival, point in zip(recording.trained(), recording.tensors, strict=True):
        if any(torch._C._is_alias_of(tensor, point) for tensor in outputs):  # type: ignore[attr-defined]
            raise PointsError(
                f"Point {arrival.point!r} is the output itself, where the error is known exactly. Leave it out of "
                f"points=, or name an output above it. {candidates(model)}"
            )


def warn_of_bypass(outputs: Sequence[Tensor], recording: Recording) -> None:
    """Warn if the error reaches a block by a way that no point cuts, such as a skip connection around the points."""
    around = list(dict.fromkeys(bypassed(outputs, recording)))
    if around:
        warnings.warn(
            f"The error also reaches what lies below {', '.join(map(repr, around))} by backpropagation, "
            "through a path that no point cuts (a skip connection), so this is not the rule alone. Put points on "
            "the outputs of the residual blocks: points='macro'.",
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
    seen: set[Node] = set()
    stack = [root for root in roots if root is not None]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(below for below, _ in node.next_functions if below is not None)
    # A compiled piece of the model is one operation, so that points inside of it and the output share it.
    return {node for node in seen if not _of_parameter(node) and type(node).__name__ != "CompiledFunctionBackward"}


def _of_parameter(node: Node) -> bool:
    while len(node.next_functions) == 1 and node.next_functions[0][0] is not None:
        node = node.next_functions[0][0]
    return hasattr(node, "variable")  # AccumulateGrad, the leaf of the graph
