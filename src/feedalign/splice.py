"""The primitive: an identity that hands its gradient to tensors which the forward pass never read from it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from feedalign.double_backward import check_nested, guarded
from feedalign.errors import SignalError
from feedalign.tree import flatten, is_floating
from feedalign.watch import in_transform

Pull = Callable[[Any], Sequence[Tensor | None]]
PullTensors = Callable[[Sequence[Tensor | None]], Sequence[Tensor | None]]


class _Splice(torch.autograd.Function):
    """Identity on the first ``count`` tensors; backward also returns gradients for the tensors behind them."""

    @staticmethod
    def forward(ctx: Any, pull: PullTensors, functional: bool, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        # `pull` and not the tensors: nothing is kept alive between forward and backward.
        ctx.pull, ctx.functional = pull, functional
        ctx.set_materialize_grads(False)
        return tuple([tensor.detach() for tensor in tensors[:count]])

    @staticmethod
    def backward(ctx: Any, *errors: Tensor | None) -> tuple[Any, ...]:
        signals = ctx.pull(errors)
        if torch.is_grad_enabled():
            return (None, None, None, *_guarded(ctx, errors, signals, ctx.functional))
        return (None, None, None, *errors, *signals)


class _TransformedSplice(_Splice):
    """The same in the form that ``torch.func`` and ``torch.compile`` ask for, which takes longer to apply."""

    generate_vmap_rule = True

    @staticmethod
    def forward(pull: PullTensors, functional: bool, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return tuple([tensor.detach() for tensor in tensors[:count]])

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.pull, ctx.functional = inputs[:2]  # type: ignore[attr-defined]
        ctx.set_materialize_grads(False)


def _guarded(
    ctx: Any, errors: tuple[Tensor | None, ...], signals: Sequence[Tensor | None], functional: bool = False
) -> tuple[Tensor | None, ...]:
    """Return what a backward pass with ``create_graph=True`` hands down: not every derivative of it is right."""
    if torch.compiler.is_compiling():
        return (*errors, *signals)
    return guarded([node for node, _ in ctx.next_functions[len(errors) :]], errors, signals, functional)


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
        SignalError: ``output`` holds no floating-point tensor, so no error could ever arrive; or one gradient of
            ``torch.func`` is taken inside of another; or, in the
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
    size = len(leaves)

    def pull_leaves(errors: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        found: list[Tensor | None] = [None] * size
        for place, error in zip(places, errors, strict=True):
            found[place] = error
        return pull(rebuild(found))

    spliced = splice_tensors([leaves[place] for place in places], points, pull_leaves)
    for place, tensor in zip(places, spliced, strict=True):
        leaves[place] = tensor
    return rebuild(leaves)


def splice_tensors(tensors: Sequence[Tensor], points: Sequence[Tensor], pull: PullTensors) -> Sequence[Tensor]:
    """Return the tensors of an output, spliced to points; :func:`splice` for who has taken the output apart already.

    Args:
        tensors: The floating-point tensors of the output.
        points: The uncut outputs of the blocks.
        pull: As for :func:`splice`, called with one gradient per tensor.
    """
    # The closure below outlives the forward pass, so it holds shapes, never the tensors.
    shapes = [point.shape for point in points]

    def pull_checked(errors: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        signals = pull(errors)
        _check(signals, shapes)
        return signals

    compiling = torch.compiler.is_compiling()
    functional = not compiling and in_transform()
    if functional:
        check_nested()
    kind = _TransformedSplice if functional or compiling else _Splice
    found: Sequence[Tensor] = kind.apply(pull_checked, functional, len(tensors), *tensors, *points)  # type: ignore[no-untyped-call]
    return found


class _Collect(torch.autograd.Function):
    """An empty token made from the points; backward hands the points their signals, after every error has come."""

    @staticmethod
    def forward(ctx: Any, pull: Callable[[], Sequence[Tensor | None]], *points: Tensor) -> Tensor:
        ctx.pull = pull
        return points[0].new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        signals = ctx.pull()
        return (None, *_guarded(ctx, (), signals)) if torch.is_grad_enabled() else (None, *signals)


class _Part(torch.autograd.Function):
    """Identity on the first ``count`` tensors; backward keeps their errors, and lets the tokens behind them go on."""

    @staticmethod
    def forward(ctx: Any, keep: Callable[[tuple[Tensor | None, ...]], None], count: int, *tensors: Tensor) -> Any:
        ctx.keep, ctx.tokens = keep, len(tensors) - count
        ctx.set_materialize_grads(False)
        return tuple(tensor.detach() for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *errors: Tensor | None) -> tuple[Any, ...]:
        ctx.keep(errors)
        like = next(error for error in errors if error is not None)
        if torch.is_grad_enabled():
            errors = _guarded(ctx, errors, ())
        return (None, None, *errors, *(like.new_zeros((), dtype=torch.float32) for _ in range(ctx.tokens)))


class Collector:
    """Splices several outputs, which are there one after the other, to the same points.

    Their errors form one, so the points' signals have to wait until each of them has come. That is left to autograd:
    the points go into a token, every later output is joined to the token, and the engine runs what made the token once
    the backward passes of all these outputs have run. Points between two outputs go into a token of their own.

    Attributes:
        sizes: How many tensors each output has, for those that have run.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._tokens: list[Tensor] = []
        self._errors: dict[int, tuple[Tensor | None, ...]] = {}
        self._task: int | None = None

    def splice(
        self, number: int, tensors: list[Tensor], points: Sequence[Tensor], pull: Pull,
        note: Callable[[Sequence[Tensor | None]], None],
    ) -> list[Tensor]:  # fmt: skip
        """Return the tensors of output ``number``, joined to the points that ran since the last output.

        Args:
            number: Of the output.
            tensors: Of the output.
            points: The uncut outputs of the blocks since the output before.
            pull: As for :func:`splice`, called with the gradients at the tensors of all outputs, in their order.
            note: Called with the gradients at the tensors of this output, as soon as they have come.
        """
        if points:
            shapes = [point.shape for point in points]

            def collected() -> Sequence[Tensor | None]:
                signals = pull([error for i in range(len(self.sizes)) for error in self._error(i)])
                _check(signals, shapes)
                return signals

            self._tokens.append(_Collect.apply(collected, *points))  # type: ignore[no-untyped-call]
        if not self._tokens:
            return tensors

        def keep(errors: tuple[Tensor | None, ...]) -> None:
            task = torch._C._current_graph_task_id()
            if task != self._task:  # another backward pass through the same graph
                self._task, self._errors = task, {}
            self._errors[number] = errors
            note(errors)

        return list(_Part.apply(keep, len(tensors), *tensors, *self._tokens))  # type: ignore[no-untyped-call]

    def _error(self, number: int) -> tuple[Tensor | None, ...]:
        return self._errors.get(number, (None,) * self.sizes[number])


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
