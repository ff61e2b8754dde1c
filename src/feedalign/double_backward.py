"""Gradients of gradients: what a rule delivers can be differentiated only by what lies above the points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from feedalign.errors import SignalError
from feedalign.graph import executes, nodes_below
from feedalign.watch import in_nested_gradient

MESSAGE = (
    "A gradient that comes through the signals of a rule is to be differentiated (create_graph=True, as for a gradient "
    "penalty). That is not defined below the points: the graph is cut there, and what arrives is no derivative of the "
    "loss, so gradients would be wrong or missing. Form the penalty by backpropagation: run the model and take its "
    "gradient inside `with handle.off():`. For parameters above the points alone, name them: "
    "torch.autograd.grad(penalty, list(head.parameters()))."
)


def guarded(
    below: Iterable[Node | None],
    errors: Sequence[Tensor | None],
    signals: Sequence[Tensor | None],
    functional: bool = False,
) -> tuple[Tensor | None, ...]:
    """Return what a splice hands down, so that differentiating it raises where a gradient would be wrong or missing.

    The signals depend on the error, and the error on what lies above the points, without a cut in between: this
    derivative is right, and allowed. All others would have to pass a cut.

    Args:
        below: The nodes of the points in the autograd graph.
        errors: What the splice hands to the output.
        signals: What it hands to the points.
        functional: Whether the splice was made inside of ``torch.func``, which always asks for the graph of gradients.

    Raises:
        SignalError: What is delivered has no graph, as for the error of ``output.sum()``, so that all derivatives are
            of the other kind.
    """
    gradients = (*errors, *signals)
    delivered = [signal for signal in signals if signal is not None] or [error for error in errors if error is not None]
    if not functional and not any(gradient.requires_grad for gradient in delivered):
        raise SignalError(MESSAGE)
    places = [place for place, gradient in enumerate(gradients) if gradient is not None]
    # A leaf of its own, so that the node is in the graph of the gradients even if these depend on nothing else. Inside
    # of torch.func it belongs to the graph outside, in which the result may be differentiated later.
    with torch._C._DisableFuncTorch():
        leaf = torch.zeros((), requires_grad=True)
        own = get_gradient_edge(leaf).node
    watched = _Watched.apply([own, *below], leaf, *(gradients[place] for place in places))  # type: ignore[no-untyped-call]
    found = list(gradients)
    for place, gradient in zip(places, watched, strict=True):
        found[place] = gradient
    return tuple(found)


def check_nested() -> None:
    """Raise if one gradient of ``torch.func`` is taken inside of another.

    Raises:
        SignalError: It is.
    """
    if in_nested_gradient():
        raise SignalError(MESSAGE)


class _Watched(torch.autograd.Function):
    """Identity; its backward raises if the backward pass goes on below the points, or to every leaf there is."""

    generate_vmap_rule = True

    @staticmethod
    def forward(below: list[Node | None], leaf: Tensor, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(gradient.view_as(gradient) for gradient in gradients)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.below = inputs[0]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        if any(_runs(node) for node in nodes_below(ctx.below)):
            raise SignalError(MESSAGE)
        return (None, None, *gradients)


def _runs(node: Node) -> bool:
    """Return whether the backward pass under way runs a node."""
    try:
        return executes(node)
    except RuntimeError:  # how PyTorch says that torch.autograd.grad was asked for this very leaf
        return True
