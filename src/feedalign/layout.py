"""How a point's tensor is read as rows times features, and a flat signal given the point's shape.

Letters: ``N`` rows of the error (all of its row dimensions flattened), ``C`` width of the error, ``D`` columns of a
point's feedback matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from feedalign.errors import SignalError
from feedalign.feedback import Feedback, Site

IMAGE = 4  # an output with this many dimensions or more is an image: its width is everything behind the batch


def row_dimensions(shape: Sequence[int]) -> tuple[int, ...]:
    """Return which dimensions of an output of this shape count rows, where nothing else is known.

    The last dimension is the width (``[N, C]`` classes, ``[N, T, C]`` tokens); ``[N]`` is one number per row;
    of an image ``[N, C, H, W]`` the width is all but the batch.
    """
    if len(shape) >= IMAGE:
        return (0,)
    return tuple(range(max(1, len(shape) - 1))) if shape else ()


@dataclass(frozen=True)
class Placement:
    """Where the row dimensions of the error lie in a point's tensor, without sizes.

    The tensor is first viewed with its dimensions split into factors; each row dimension of the error is then the
    mixed-radix number that some of these factors form. ``[T, N, D]`` under rows ``(N, T)`` is
    ``Placement(axes=((1,), (0,)))``, and windows ``[N * w, k, D]`` under tokens ``T = w * k`` are
    ``Placement(axes=((0,), (1, 2)), split=((-1, w), (k,), (-1,)))``.
    """

    axes: tuple[tuple[int, ...] | None, ...]
    """Per row dimension of the error: the factors that form it, the most significant first. ``None`` where the
    point has no such dimension, so that each of its rows receives the sum over it."""
    split: tuple[tuple[int, ...], ...] = ()
    """Per dimension of the tensor: the sizes of its factors. -1 for one that follows from the size of the dimension or
    of the row dimension that it is alone. Empty where no dimension is split."""

    def view(self, shape: tuple[int, ...], rows: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return ``shape`` with its dimensions split into factors, or ``None`` if it cannot hold ``rows`` there."""
        if len(rows) != len(self.axes):
            return None
        view = shape if not self.split else self._factors(shape, rows)
        if view is None:
            return None
        for axis, size in zip(self.axes, rows, strict=True):
            if axis is not None and (max(axis, default=0) >= len(view) or prod([view[i] for i in axis]) != size):
                return None
        return view

    def _factors(self, shape: tuple[int, ...], rows: tuple[int, ...]) -> tuple[int, ...] | None:
        if len(self.split) != len(shape):
            return None
        alone = {axis[0]: size for axis, size in zip(self.axes, rows, strict=True) if axis and len(axis) == 1}
        found: list[int] = []
        for size, factors in zip(shape, self.split, strict=True):
            own = [alone.get(len(found) + i, factor) for i, factor in enumerate(factors)]
            known = prod([factor for factor in own if factor != -1])
            if not known or (size % known if -1 in own else size != known):
                return None
            found += [size // known if factor == -1 else factor for factor in own]
        return tuple(found)

    @property
    def leading(self) -> bool:
        """Whether the rows are the tensor's first factors, in order, so that a flat signal has its memory order."""
        used = [factor for axis in self.axes for factor in (axis or ())]
        return None not in self.axes and used == list(range(len(used)))


def leading(rows: int) -> Placement:
    """Return the placement of an error with this many row dimensions in a tensor whose first dimensions they are."""
    return Placement(tuple((i,) for i in range(rows)))


@dataclass(frozen=True)
class Layout:
    """One point's tensor, read as rows times features."""

    shape: tuple[int, ...]
    """Shape of the point's tensor."""
    rows: tuple[int, ...]
    """Row dimensions of the error."""
    placement: Placement
    view: tuple[int, ...]
    """The tensor's shape with its dimensions split into factors."""
    repeated: tuple[int, ...]
    """Factors of the view at which the signal is repeated."""
    plain: bool
    """Whether the rows come first in memory, so that a flat signal needs no transposition."""
    dtype: torch.dtype
    site: Site

    def unflatten(self, signal: Tensor) -> Tensor:
        """Return a flat signal ``[N, D]`` in the shape and type of the point, copied only where it must be.

        One that has the shape of the point already is returned as it is. Where that is also the shape of a flat one, in
        another order of the rows, it is taken for flat.
        """
        if signal.dtype != self.dtype:
            signal = signal.to(self.dtype)
        if signal.shape == self.shape and (self.plain or not self.flat_in_another_order):
            return signal
        if self.plain:
            if self.repeated:
                return signal.reshape(self._narrow).expand(self.view).reshape(self.shape)
            return signal.reshape(self.shape)
        signal = signal.reshape(*self.rows, self.site.columns)
        if self._missing:
            signal = signal.sum(self._missing)
        signal = signal.reshape([self._narrow[factor] for factor in self._order])
        back = sorted(range(len(self._order)), key=self._order.__getitem__)
        return signal.permute(back).expand(self.view).reshape(self.shape)

    def flatten(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the point's shape as ``[N, D]``: the adjoint of :meth:`unflatten`.

        It is summed over the positions at which a signal is repeated, and repeated over row dimensions of the error
        that the point does not have.
        """
        if self.plain and not self.repeated:
            return tensor.reshape(-1, self.site.columns)
        tensor = tensor.reshape(self.view)
        if self.repeated:
            tensor = tensor.sum(self.repeated, keepdim=True)
        sizes = [1 if axis is None else size for axis, size in zip(self.placement.axes, self.rows, strict=True)]
        tensor = tensor.permute(self._order).reshape(*sizes, self.site.columns)
        return tensor.expand(*self.rows, self.site.columns).reshape(-1, self.site.columns)

    def by_row(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the point's shape with one of the point's rows per row, ``[rows, features]``."""
        if self.plain:
            return tensor.reshape(self._own_rows, -1)
        return tensor.reshape(self.view).permute(self._order).reshape(self._own_rows, -1)

    def row_numbers(self, device: torch.device) -> Tensor:
        """Return the number of the point's row that each element of its tensor is in, in the shape of the point."""
        numbers = torch.arange(self._own_rows, device=device)
        used = [factor for axis in self.placement.axes for factor in (axis or ())]
        sizes = [self.view[factor] if factor in used else 1 for factor in self._order]
        back = sorted(range(len(self._order)), key=self._order.__getitem__)
        return numbers.reshape(sizes).permute(back).expand(self.view).reshape(self.shape)

    def own_rows(self, flags: Tensor) -> Tensor:
        """Return which rows of the point have a flag, given those of the error ``[N]``."""
        return flags.reshape(self.rows).any(self._missing).reshape(-1) if self._missing else flags

    @property
    def flat_in_another_order(self) -> bool:
        """Whether the point's tensor has the shape of a flat signal and its rows in another order."""
        return not self.plain and self.shape == (prod(self.rows), self.site.columns)

    @property
    def _narrow(self) -> list[int]:
        """The view with size 1 wherever the signal is repeated."""
        return [1 if i in self.repeated else size for i, size in enumerate(self.view)]

    @property
    def _order(self) -> list[int]:
        """The factors of the view: those of the rows first, then the features."""
        used = [factor for axis in self.placement.axes for factor in (axis or ())]
        return used + [factor for factor in range(len(self.view)) if factor not in used]

    @property
    def _missing(self) -> list[int]:
        return [i for i, axis in enumerate(self.placement.axes) if axis is None]

    @property
    def _own_rows(self) -> int:
        return prod(size for axis, size in zip(self.placement.axes, self.rows, strict=True) if axis is not None)


def match(
    key: str, shape: Sequence[int], dtype: torch.dtype, rows: tuple[int, ...], feedback: Feedback,
    placement: Placement | None = None, channel: int | None = None,
) -> Layout:  # fmt: skip
    """Return how a point's tensor of ``shape`` is read against an error with row dimensions ``rows``.

    Args:
        key: The name that the point's feedback matrix is drawn for.
        shape: Of the point's tensor.
        dtype: Of the point's tensor.
        rows: Sizes of the error's row dimensions.
        feedback: Says whether a signal is repeated over positions.
        placement: Where the rows lie, and it fits; by default they are the leading dimensions.
        channel: The dimension known to hold the channels, where the feedback names none.

    Raises:
        SignalError: The dimension of the channels is one of the rows.
    """
    shape = tuple(shape)
    placement = leading(len(rows)) if placement is None else placement
    view = placement.view(shape, rows)
    assert view is not None  # it fits
    used = {factor for axis in placement.axes for factor in (axis or ())}
    features = [factor for factor in range(len(view)) if factor not in used]
    width, plain = prod([view[factor] for factor in features]), placement.leading
    if feedback.positions == "flatten" or len(features) < 2:
        return Layout(shape, rows, placement, view, (), plain, dtype, Site(key, width, width))
    own = _channel(shape, placement, channel if feedback.channel is None else feedback.channel)
    if own not in features:
        raise SignalError(
            f"channel={feedback.channel} of point {key!r}, shape {shape}, is one of its row dimensions. "
            f"Choose a dimension from {min(features)} to {max(features)}."
        )
    repeated = tuple(factor for factor in features if factor != own)
    return Layout(shape, rows, placement, view, repeated, plain, dtype, Site(key, view[own], width))


def _channel(shape: tuple[int, ...], placement: Placement, channel: int | None) -> int:
    """Return the last factor of the dimension that holds the channels."""
    if channel is None:
        channel = 1 if len(shape) >= IMAGE else -1
    channel %= len(shape)
    return sum(len(factors) for factors in placement.split[: channel + 1]) - 1 if placement.split else channel
