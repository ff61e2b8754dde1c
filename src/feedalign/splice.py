"""The primitive: an identity that hands its gradient to tensors which the forward pass never read from it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from feedalign.double_backward import guarded
from feedalign.errors import SignalError
from feedalign.tree import flatten, is_floating

Pull = Callable[[Any], Sequence[Tensor | None]]


class _Splice(torch.autograd.Function):
    """Identity on the first ``count`` tensors; backward also returns gradients for the tensors behind them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(pull: Callable[..., Sequence[Tensor | None]], count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.detach() for tensor in tensors[:count])

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Any) -> None:
        # `pull` and not the tensors: nothing is kept alive between forward and backward.
        ctx.pull = inputs[0]  # type: ignore[attr-defined]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *errors: Tensor | None) -> tuple[Any, ...]:
        signals = ctx.pull(errors)
        # With create_graph=True; not every derivative of the signals is right.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            below = [node for node, _ in ctx.next_functions[len(errors) :]]
            return (None, None, *guarded(below, errors, signals))
        return (None, None, *errors, *signals)


def splice(output: Any, points: Sequence[Tensor], pull: Pull) -> Any:
    r"""Let the error that reaches ``output`` be handed to ``points``, whatever lies between them.

    This one function is all of Direct Feedback Alignment. Cut every point :math:`h_i` off from what follows,
    and splice the model's output to the points::

        h1 = block1(x)
        h2 = block2(h1.detach())            # the cut: no gradient passes from block 2 to block 1
        y  = head(h2.detach())
        y  = splice(y, [h1, h2], lambda e: [e @ B1, e @ B2])

    Forward, ``splice`` is the identity. Backward, it receives the error :math:`e = \partial L / \partial y`
    (shape ``[N, C]``, with the 1/N of a mean loss in it), passes it on to ``y`` unchanged, and gives each point
    the signal that ``pull(e)`` returns for it, in place of the true gradient :math:`\partial L / \partial h_i`.
    With ``B_i`` fixed and random of shape ``[C, D_i]`` that is DFA; with ``B_i`` the product of the transposed
    weights above it is backpropagation; with no signal at all only the head learns.

    The whole backward pass stays one autograd graph, in which no block waits for the block above it, so all that
    works on a graph works here. Since a cut input needs no gradient, autograd skips a product for every block.

    Args:
        output: What the model returns: a tensor ``[..., C]``, or tensors in a tuple, list, dict, dataclass.
        points: The **uncut** outputs of the blocks, ``h_i`` of any shape, in any order.
        pull: Called once per backward with the error, in the structure of ``output`` (``None`` where a tensor
            received no gradient). Returns one signal per point, of that point's shape, or ``None`` for a point
            that shall receive nothing.

    Returns:
        ``output`` with the same values and structure, to be returned in its place.

    Raises:
        SignalError: ``output`` holds no floating-point tensor, so no error could ever arrive; or, in the
            backward pass, ``pull`` returned signals that do not fit the points; or, in a second backward pass through
            the gradients of the first (``create_graph=True``), what lies below the points would get a gradient.

    References:
        Nøkland, *Direct Feedback Alignment Provides Learning in Deep Neural Networks*, NeurIPS 2016.
    """
    leaves, rebuild = flatten(output)
    places = [i for i, leaf in enumerate(leaves) if is_floating(leaf)]
    if not places:
        raise SignalError(
            f"splice expected an output with at least one floating-point tensor and found {type(output).__name__}. "
            "The error arrives through such a tensor: pass the tensor that the loss is computed from."
        )
    # The closure below outlives the forward pass, so it holds sizes and structure, never the tensors.
    shapes, size = [point.shape for point in points], len(leaves)

    def pull_leaves(errors: tuple[Tensor | None, ...]) -> Sequence[Tensor | None]:
        found: list[Tensor | None] = [None] * size
        for place, error in zip(places, errors, strict=True):
            found[place] = error
        signals = pull(rebuild(found))
        _check(signals, shapes)
        return signals

    carriers = [leaves[place] for place in places]
    spliced = _Splice.apply(pull_leaves, len(places), *carriers, *points)  # type: ignore[no-untyped-call]
    for place, tensor in zip(places, spliced, strict=True):
        leaves[place] = tensor
    return rebuild(leaves)


def _check(signals: Sequence[Tensor | None], shapes: Sequence[torch.Size]) -> None:
    if len(signals) != len(shapes):
        raise SignalError(
            f"pull must return one signal per point: expected {len(shapes)}, found {len(signals)}. "
            "Return None for a point that shall receive nothing."
        )
    for i, (signal, shape) in enumerate(zip(signals, shapes, strict=True)):
        if signal is not None and signal.shape != shape:
            raise SignalError(
                f"The signal for point {i} must have the point's shape {tuple(shape)}, found {tuple(signal.shape)}."
            )
