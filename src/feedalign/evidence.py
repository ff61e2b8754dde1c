"""Where the rows of an error lie in the tensors of the points, found from what the output depends on.

Sizes alone do not tell: a batch may be as large as a sentence is long, and a convolution may have as many channels as
there are tokens. So in the first forward pass that trains, the cuts are gates in a graph that is still whole, and for a
few rows of the error the gradient of this one row is taken at every point. The elements that it reaches are those that
the row depends on. A dimension belongs to the samples if it is the one that tells the samples apart.

The cost is that of the backward pass through the activations of that one step, once per probed row and without the
gradients of any parameter.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor

from feedalign.layout import Placement

PROBES = 3
"""Rows that are probed."""
MORE_PROBES = 9
"""Rows that are probed where the first ones leave the answer open."""
EXCLUSIVE = 0.999
"""A row's share of the energy above which a tensor holds nothing of other rows."""
SURE = 0.6
"""How far a row's own share must stand out after the first probes, where rows mix; 0 is not at all, 1 is entirely."""
CLEAR = 0.2
"""The same after all probes, of many rows."""
FEW = 6
"""Below as many different rows, chance may lift a share above ``CLEAR``: it must reach ``SURE``, or stand out."""
DEVIATIONS = 8
"""By how many standard deviations of what other places get."""


OVERLAP = 0.1
"""The share of their energy that two rows must have in common to depend on the same elements."""


class Digit(NamedTuple):
    """One factor of a dimension: index ``i`` of the dimension has the digit ``i // stride % size``."""

    dim: int
    stride: int
    size: int


Digits = tuple[Digit, ...]


@dataclass(frozen=True)
class Probes:
    """What a few rows of one error reach at the points."""

    rows: tuple[int, ...]
    """Sizes of the error's row dimensions."""
    indices: tuple[tuple[int, ...], ...]
    """The index of each probed row."""
    energies: tuple[tuple[Tensor | None, ...], ...]
    """Per point and probe: squared gradient, in the shape of the point; ``None`` where the row reaches nothing."""


@dataclass(frozen=True)
class Verdict:
    """What evidence says of one point."""

    placement: Placement | None
    """``None`` if evidence refutes every placement or leaves several."""
    settled: bool = True
    """Whether evidence decided. If not, the placement is the one that sizes suggest."""
    open: bool = False
    """Whether more probes may decide."""
    reason: str = ""
    """Why there is no placement, as the end of a sentence."""
    single: tuple[int, ...] = ()
    """Row dimensions that had the size 1, so that their place shows only in another batch."""
    exclusive: bool = False
    """Whether no element of the point is shared by several samples."""
    nodes: Placement | None = None
    """The placement if the rows are nodes of a graph in which all depend on all, so that none stands out."""


def probe(
    tensors: Sequence[Tensor],
    dims: Sequence[tuple[int, ...]],
    rows: tuple[int, ...],
    ends: Sequence[Tensor],
    count: int,
) -> Probes:
    """Return what ``count`` rows of an error reach.

    Args:
        tensors: The tensors of the output that form the error, with their graphs.
        dims: The row dimensions of each of them.
        rows: The sizes of these dimensions.
        ends: What is read from the points: the outputs of their gates.
        count: How many rows to probe.
    """
    indices = _spread(rows, count)
    generator = torch.Generator("cpu").manual_seed(0)
    energies: list[tuple[Tensor | None, ...]] = []
    for index in indices:
        sent = [_one_row(tensor, own, index, generator) for tensor, own in zip(tensors, dims, strict=True)]
        found = torch.autograd.grad(list(tensors), list(ends), sent, retain_graph=True, allow_unused=True)
        energies.append(tuple(_energy(gradient) for gradient in found))
    return Probes(rows, indices, tuple(zip(*energies, strict=True)) if ends else ())


def judge(
    probes: Probes, point: int, shape: tuple[int, ...], mixing: bool, called: bool, final: bool
) -> Verdict:  # fmt: skip
    """Return where the rows lie in a point's tensor.

    Args:
        probes: What a few rows reach.
        point: The number of the point among the probed ones.
        shape: Of its tensor.
        mixing: Whether normalisation by batch statistics mixes the samples, so that they need not stand out.
        called: Whether the point runs several times per run of the output.
        final: Whether no more rows will be probed.
    """
    chosen: list[Digits | None] = []
    settled, undecided, exclusive = True, False, False
    # One sample, or one token, can only lie where the size is 1.
    single = tuple(axis for axis, size in enumerate(probes.rows) if size == 1)
    ones = [dim for dim, size in enumerate(shape) if size == 1]
    known_ones = len(single) == len(ones) == 1
    for axis, size in enumerate(probes.rows):
        if size == 1:
            chosen.append((Digit(ones[0], 1, 1),) if known_ones else _single(shape, chosen, axis))
            continue
        what = f"row dimension {axis} of the error (size {size})"
        options = list(candidates(shape, size, chosen))
        if not options:
            chosen.append(None)
            continue
        whole = [option for option in options if all(digit.size == shape[digit.dim] for digit in option)]
        usual = whole[0] if whole and _leads(whole[0], chosen) else None
        scores = [_score(probes, point, axis, option, shape) for option in options]
        known = [score for score in scores if score is not None]
        if not known:  # nothing reaches it yet, as through a layer whose weights are still zero
            if usual is None:
                return Verdict(None, reason=f"the error does not depend on the point yet, so {what} cannot be found")
            chosen.append(usual)
            settled = False
            continue
        ranked = sorted(range(len(known)), key=lambda i: -known[i])  # sorting is stable: the usual one comes first
        best, second = known[ranked[0]], known[ranked[1]] if len(known) > 1 else 0.0
        found = options[ranked[0]]
        if best == 1:
            undecided = undecided or second == 1
            exclusive = exclusive or axis == 0
            chosen.append(found)
            continue
        if mixing and usual is not None and len(whole) == 1:
            chosen.append(usual)
            continue
        # Rows mix, as tokens and nodes do. Samples do so only where they are nodes, which come first; and the steps of
        # a point that runs once per step are its calls.
        many = final and len({index[axis] for index in probes.indices}) >= FEW
        needed = (CLEAR if final else SURE) if found in whole else (SURE if many else 1.0)
        if best < needed or (axis == 0 and found != usual) or (axis > 0 and called):
            nodes = None
            if usual == (Digit(0, 1, size),) and len(probes.rows) == len(whole) == 1 and len(shape) > 1:
                nodes = _placement([usual], shape)
            reason = f"no dimension of the point tells the rows of {what} apart"
            return Verdict(None, open=not final, reason=reason, nodes=nodes)
        if best - second < CLEAR / 2:
            return Verdict(None, open=not final, reason=f"several dimensions of the point may be {what}")
        chosen.append(found)
    for axis, digits in enumerate(chosen):
        # Where no dimension can hold them, all rows must depend on the same elements, which receive the sum.
        if digits is None and not called and not _shared(probes, point, axis, chosen, shape):
            what = f"row dimension {axis} of the error (size {probes.rows[axis]})"
            return Verdict(None, reason=f"no dimension of the point holds {what}")
    left = () if known_ones else single
    return Verdict(_placement(chosen, shape), settled, undecided and not final, single=left, exclusive=exclusive)


def by_size(shape: tuple[int, ...], rows: tuple[int, ...]) -> tuple[Placement | None, bool]:
    """Return the one placement that sizes allow if there is one, and whether there are several.

    Dimensions are split only where whole ones do not fit.
    """
    for whole in (True, False):
        found: list[list[Digits]] = [[]]
        for axis, size in enumerate(rows):
            found = [
                [*chosen, option]
                for chosen in found
                for option in ([_single(shape, chosen, axis)] if size == 1 else candidates(shape, size, chosen))
                if not whole or all(digit.size == shape[digit.dim] for digit in option)
            ]
        if found:
            break
    return (_placement(found[0], shape), False) if len(found) == 1 else (None, bool(found))


def candidates(shape: tuple[int, ...], size: int, taken: Sequence[Digits | None]) -> Iterator[Digits]:
    """Yield the ways in which a row dimension of ``size`` may lie in a tensor of ``shape``, the usual ones first.

    A whole dimension, or part of one; adjacent dimensions that are one row dimension together, as height and width are
    the tokens of an image; and two factors side by side or as windows of a grid.

    Args:
        shape: Of the tensor.
        size: Of the row dimension.
        taken: What other row dimensions occupy.
    """
    pieces = _pieces(shape, [digits for digits in taken if digits is not None])
    seen = set()
    for option in _options(pieces, size):
        if option not in seen:
            seen.add(option)
            yield option


def _options(pieces: list[Digit], size: int) -> Iterator[Digits]:
    for piece in pieces:
        if piece.size == size:
            yield (piece,)
    for first in range(len(pieces)):  # adjacent dimensions, as they lie in memory
        total = pieces[first].size
        for last in range(first + 1, len(pieces)):
            total *= pieces[last].size
            if total == size and min(piece.size for piece in pieces[first : last + 1]) > 1:
                yield tuple(pieces[first : last + 1])
    for piece in pieces:
        rest, remainder = divmod(piece.size, size)
        if not remainder and rest > 1:
            yield (Digit(piece.dim, piece.stride * rest, size),)
            yield (Digit(piece.dim, piece.stride, size),)
    for outer in pieces:
        for inner in pieces:
            if outer.size * inner.size == size and outer != inner and min(outer.size, inner.size) > 1:
                yield outer, inner
                yield from _windows(outer, inner)


def _windows(outer: Digit, inner: Digit) -> Iterator[Digits]:
    """Yield the ways in which ``outer`` may count the windows of a grid and ``inner`` the places in a window."""
    for high in _divisors(outer.size):
        for tall in _divisors(inner.size):
            wide, long = outer.size // high, inner.size // tall
            yield (
                Digit(outer.dim, outer.stride * wide, high), Digit(inner.dim, inner.stride * long, tall),
                Digit(outer.dim, outer.stride, wide), Digit(inner.dim, inner.stride, long),
            )  # fmt: skip


def _divisors(number: int) -> list[int]:
    small = [i for i in range(1, isqrt(number) + 1) if number % i == 0]
    return sorted({*small, *(number // i for i in small)})


def _pieces(shape: tuple[int, ...], taken: Sequence[Digits]) -> list[Digit]:
    """Return what is left of the dimensions, the parts of one that is split from the outermost to the innermost."""
    found = []
    for dim, size in enumerate(shape):
        used = sorted((digit for digits in taken for digit in digits if digit.dim == dim), key=lambda d: -d.stride)
        above = size
        for digit in used:
            if (left := above // (digit.stride * digit.size)) > 1:
                found.append(Digit(dim, digit.stride * digit.size, left))
            above = digit.stride
        if above > 1 or not used:
            found.append(Digit(dim, 1, above))
    return found


def _leads(option: Digits, chosen: Sequence[Digits | None]) -> bool:
    """Return whether an option continues the leading dimensions that are taken."""
    dims = [digit.dim for digits in (*chosen, option) for digit in digits or ()]
    return dims == list(range(len(dims)))


def _single(shape: tuple[int, ...], chosen: Sequence[Digits | None], axis: int) -> Digits:
    """Return where a row dimension of size 1 lies: its usual dimension if that has size 1, else nowhere."""
    dim = sum(len(digits or ()) for digits in chosen)
    free = dim < len(shape) and shape[dim] == 1 and dim == axis
    return (Digit(dim, 1, 1),) if free else ()


def _placement(chosen: Sequence[Digits | None], shape: tuple[int, ...]) -> Placement:
    """Return the placement that digits describe."""
    factors: list[list[Digit]] = []
    for dim, size in enumerate(shape):
        own = sorted((d for digits in chosen for d in digits or () if d.dim == dim), key=lambda d: -d.stride)
        own = own or [Digit(dim, 1, size)]
        parts, above = [], size
        for digit in own:
            if (left := above // (digit.stride * digit.size)) > 1:
                parts.append(Digit(dim, digit.stride * digit.size, left))
            parts.append(digit)
            above = digit.stride
        if above > 1:
            parts.append(Digit(dim, 1, above))
        factors.append(parts)
    flat = [digit for parts in factors for digit in parts]
    axes = tuple(None if digits is None else tuple(flat.index(digit) for digit in digits) for digits in chosen)
    if all(len(parts) == 1 for parts in factors):
        return Placement(axes)
    alone = {digits[0] for digits in chosen if digits is not None and len(digits) == 1}
    split = [tuple(-1 if digit in alone or len(parts) == 1 else digit.size for digit in parts) for parts in factors]
    return Placement(axes, tuple(split))


def _score(probes: Probes, point: int, axis: int, option: Digits, shape: tuple[int, ...]) -> float | None:
    """Return how well ``option`` tells the probed rows apart along ``axis``, up to 1; ``None`` without evidence.

    Take the energy that the gradient of row ``j`` has at the place of row ``k``, scaled so that no row and no place has
    more weight than another. The score is the share of ``j`` at its own place: 0 if every place gets the same, 1 if
    only its own place gets anything.
    """
    size = probes.rows[axis]
    wanted = [index[axis] for index in probes.indices]
    places = list(dict.fromkeys(wanted))
    sums: dict[int, list[Tensor]] = {}
    totals: dict[int, Tensor] = {}  # per probed index along the axis
    for place, energy in zip(wanted, probes.energies[point], strict=True):
        if energy is None:
            continue
        slabs = [_slab(energy, option, other, size, shape) for other in places]
        old = sums.get(place)
        sums[place] = slabs if old is None else [a + b for a, b in zip(old, slabs, strict=True)]
        totals[place] = totals[place] + energy.sum() if place in totals else energy.sum()
    if not sums:
        return None
    own = min(float(slabs[places.index(place)] / totals[place]) for place, slabs in sums.items())
    if own > EXCLUSIVE:
        return 1.0
    kept = [place for place in places if place in sums]
    if len(kept) < 2 or not any(bool(slab) for slabs in sums.values() for slab in slabs):
        return 0.0
    matrix = torch.stack([torch.stack([sums[j][places.index(k)] for k in kept]) for j in kept]).double().cpu()
    matrix = matrix / matrix.sum() + 1e-12
    for _ in range(30):
        matrix = matrix / matrix.sum(1, keepdim=True)
        matrix = matrix / matrix.sum(0, keepdim=True)
    score = float((matrix.trace() - 1) / (len(kept) - 1))
    if score < SURE and len(kept) < FEW and not _stands_out(matrix):
        return 0.0
    return min(score, EXCLUSIVE)


def _stands_out(matrix: Tensor) -> bool:
    """Return whether the diagonal of a small matrix is above its shifted diagonals by more than these differ."""
    size = len(matrix)
    sums = torch.stack([matrix.roll(-shift, 1).trace() for shift in range(size)])
    spread = sums[1:].std() if size > 2 else sums[0]
    return bool(sums[0] - sums[1:].mean() > DEVIATIONS * spread)


def _shared(probes: Probes, point: int, axis: int, chosen: Sequence[Digits | None], shape: tuple[int, ...]) -> bool:
    """Return whether rows that differ along ``axis`` depend on the same elements of a point.

    Dimensions that other row dimensions occupy are summed over, since the probed rows differ in these too.
    """
    taken = sorted({digit.dim for digits in chosen if digits is not None for digit in digits})
    kept = [dim for dim in range(len(shape)) if dim not in taken]
    found: dict[int, Tensor] = {}
    for index, energy in zip(probes.indices, probes.energies[point], strict=True):
        if energy is not None:
            left = energy.sum(taken) if taken else energy
            left = left / left.sum()
            found[index[axis]] = found[index[axis]] + left if index[axis] in found else left
    if len(found) < 2 or not kept:
        return False
    all_of_them = list(found.values())
    first = all_of_them[0] / all_of_them[0].sum()
    return all(float(torch.minimum(first, other / other.sum()).sum()) > OVERLAP for other in all_of_them[1:])


def _slab(energy: Tensor, option: Digits, index: int, size: int, shape: tuple[int, ...]) -> Tensor:
    """Return the energy in the elements whose row index, as ``option`` reads it, is ``index``."""
    left = size
    kept = [torch.ones(n, dtype=torch.bool, device=energy.device) for n in shape]
    for digit in option:
        left //= digit.size
        value = index // left % digit.size
        places = torch.arange(shape[digit.dim], device=energy.device) // digit.stride % digit.size
        kept[digit.dim] = kept[digit.dim] & (places == value)
    for dim in range(len(shape) - 1, -1, -1):
        energy = energy[..., kept[dim]].sum(-1) if dim == energy.dim() - 1 else energy
    return energy


def _spread(rows: tuple[int, ...], count: int) -> tuple[tuple[int, ...], ...]:
    """Return the indices of a few rows, spread over every dimension and unlike in dimensions of one size."""
    steps = [max(1, size // count) for size in rows]
    found = (
        tuple((probe * step + i) % size for i, (size, step) in enumerate(zip(rows, steps, strict=True)))
        for probe in range(count)
    )
    return tuple(dict.fromkeys(found))


def _one_row(tensor: Tensor, dims: tuple[int, ...], index: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return the gradient at an output that is random in one row and zero in all others."""
    sent = torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    place = [slice(None)] * tensor.dim()
    for dim, at in zip(dims, index, strict=True):
        place[dim] = at  # type: ignore[call-overload]
    row = sent[tuple(place)]
    numbers = torch.randn(row.shape, generator=generator, dtype=torch.float32, device="cpu")
    sent[tuple(place)] = numbers.to(sent)
    return sent


def _energy(gradient: Tensor | None) -> Tensor | None:
    """Return the squares of a gradient, scaled to be representable; ``None`` if it is zero or not finite."""
    if gradient is None:
        return None
    size = gradient.detach().abs()
    size = size.float() if size.dtype in (torch.float16, torch.bfloat16) else size
    largest = float(size.max()) if size.numel() else 0.0
    if not 0 < largest < float("inf"):
        return None
    return (size / largest).square()
