"""Linear maps of rows, by a function and the function of the transposed matrix."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

RowMap = Callable[[Tensor], Tensor]


class _Linear(Function):
    """The one is the backward of the other, as often as one differentiates."""

    @staticmethod
    def forward(rows: Tensor, there: RowMap, back: RowMap) -> Tensor:
        return there(rows)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, RowMap, RowMap], output: Tensor) -> None:
        _, ctx.there, ctx.back = inputs  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return linear(gradient, ctx.back, ctx.there), None, None

    @staticmethod
    def vmap(info: Any, dimensions: tuple[int, ...], rows: Tensor, there: RowMap, back: RowMap) -> tuple[Tensor, int]:
        stack = rows.movedim(dimensions[0], 0)
        mapped = linear(stack.flatten(0, 1), there, back)
        return mapped.reshape(*stack.shape[:2], mapped.shape[1]), 0


def linear(rows: Tensor, there: RowMap, back: RowMap) -> Tensor:
    """Return ``there(rows)``, with derivatives of every order and under ``torch.vmap``.

    For maps that are fast because PyTorch could neither differentiate nor map what they are made of.

    Args:
        rows: ``x [N, in]``.
        there: Returns ``x @ M``, ``[N, out]``, for any number of rows.
        back: Returns ``y @ M.T``, ``[N, in]``, for ``y [N, out]``.
    """
    mapped: Tensor = _Linear.apply(rows, there, back)  # type: ignore[no-untyped-call]
    return mapped


class _Measured(Function):
    """A noisy or rounded projection, with the derivatives of the exact one."""

    @staticmethod
    def forward(rows: Tensor, there: RowMap, back: RowMap) -> Tensor:
        return there(rows)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, RowMap, RowMap], output: Tensor) -> None:
        ctx.back = inputs[2]  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(gradient), None, None

    @staticmethod
    def vmap(info: Any, dimensions: tuple[int, ...], rows: Tensor, there: RowMap, back: RowMap) -> tuple[Tensor, int]:
        stack = rows.movedim(dimensions[0], 0)
        mapped = measured(stack.flatten(0, 1), there, back)
        return mapped.reshape(*stack.shape[:2], mapped.shape[1]), 0


def measured(rows: Tensor, there: RowMap, back: RowMap) -> Tensor:
    """Return ``there(rows)``, a measurement of ``rows @ M``, with the derivatives of ``rows @ M`` of every order.

    Args:
        rows: ``x [N, in]``.
        there: Returns the measurement, ``[N, out]``, each row by itself; PyTorch does not look into it.
        back: Returns ``y @ M.T``, ``[N, in]``, for ``y [N, out]``, in operations that PyTorch can differentiate.
    """
    mapped: Tensor = _Measured.apply(rows, there, back)  # type: ignore[no-untyped-call]
    return mapped
