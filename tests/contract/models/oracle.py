"""The gradients that Direct Feedback Alignment must give, from plain PyTorch and a stated layout.

Nothing of the library takes part but the numbers of the feedback matrix. The model runs with hooks that cut at the
points; the error is the gradient at the output; the signal is filled in row by row, as the case says where a row is;
and one call of ``torch.autograd.grad`` gives the gradients of all parameters.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import feedalign as fa
from contract.models.case import Case, Given, Sizes, mapped, tensors


class Arrived(NamedTuple):
    """A tensor that left a point, with its layout."""

    letters: str
    tensor: Tensor


class Run(NamedTuple):
    """One forward pass of a plain model: what left its points, which tensors carry the error, what it returned."""

    arrived: list[Arrived]
    tapped: list[Tensor]
    value: Any


class Rows(NamedTuple):
    """One error, taken apart into rows: tensors of an output whose rows are the same, side by side."""

    letters: list[str]
    sizes: dict[str, int]
    """The size of every letter that is known: the rows of all errors, and what the case states."""
    tensors: list[int]
    """The numbers of the output's tensors."""
    parts: dict[tuple[int, ...], list[Tensor]]
    """For each row, by its indices: what each tensor contributes to it."""

    @property
    def width(self) -> int:
        """``C``, all tensors together."""
        return sum(part.numel() for part in next(iter(self.parts.values())))


def expected(case: Case, sizes: Sizes, seed: int, weights: int = 0) -> dict[str, Tensor | None]:
    """Return the gradient of every trainable parameter under ``DFA(seed)``, ``None`` where there is none.

    Args:
        case: The model and what is known about it.
        sizes: Of the model and the batch.
        seed: Of the feedback matrix.
        weights: The seed of the model and the batch.
    """
    model, given = case.model(sizes, weights), case.batch(sizes, weights)
    # Two models with the same weights, since a forward pass may change buffers that the next one reads.
    whole, run = forward(case, case.model(sizes, weights), given, cut=False), forward(case, model, given, cut=True)
    # A point hears the tensors of the output that depend on it; one that nothing reads hears none.
    heard = [[reaches(output, each.tensor) for output in whole.tapped] for each in whole.arrived]
    errors, ends = errors_at(case, run, given)
    every = list(by_rows(case.error, errors, case.merged(sizes)))
    # One matrix, as wide as the widest point. Whether what hears nothing counts is tested elsewhere.
    widest = max(width(each, error) for error in every for each in run.arrived)
    counted = (
        width(each, error)
        for error in every
        for each, reached in zip(run.arrived, heard, strict=True)
        if hears(error, reached) or not each.tensor.requires_grad
    )
    assert widest == max(counted), f"{case.name}: a tensor that hears nothing is the widest"
    for error in every:
        numbers = fa.Uniform().matrix(seed, "shared", error.width, widest).double()
        for each, reached in zip(run.arrived, heard, strict=True):
            if hears(error, reached) and each.tensor.requires_grad:
                ends.append((each.tensor, signal(each, error, reached, numbers)))
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    ends = [(tensor, gradient) for tensor, gradient in ends if tensor.requires_grad]
    found = torch.autograd.grad(
        [tensor for tensor, _ in ends], parameters, [gradient for _, gradient in ends], allow_unused=True
    )
    return dict(zip(names, found, strict=True))


def forward(case: Case, model: nn.Module, given: Given, cut: bool) -> Run:
    """Run the plain model and note what leaves its points; with ``cut``, nothing flows back through them.

    Without ``cut``, what is noted is what the rest of the model reads.
    """
    arrived: list[Arrived] = []

    def pass_on(point: str, value: Any) -> Any:
        own = tensors(value)
        # A copy stands for what is read behind the point; the tensor itself may be read inside of it as well.
        passed = {id(tensor): tensor.detach() if cut else tensor.clone() for tensor in own}
        placed = [(case.letters(point, number), tensor) for number, tensor in enumerate(own)]
        arrived.extend(
            Arrived(letters, tensor if cut else passed[id(tensor)]) for letters, tensor in placed if letters != "-"
        )
        return mapped(value, lambda tensor: passed[id(tensor)])

    def at_output(point: str) -> Any:
        return lambda module, args, value: pass_on(point, value)

    def at_input(point: str) -> Any:
        return lambda module, args: (pass_on(point, args[0]), *args[1:])

    hooks = []
    for point in case.points(model):
        module = model.get_submodule(point.removesuffix(":input"))
        if point.endswith(":input"):
            hooks.append(module.register_forward_pre_hook(at_input(point)))
        else:
            hooks.append(module.register_forward_hook(at_output(point)))
    made: list[Any] = []
    if case.module:
        hooks.append(model.get_submodule(case.module).register_forward_hook(lambda m, args, value: made.append(value)))
    value = case.call(model, given)
    for hook in hooks:
        hook.remove()
    tapped = tensors(made) if case.module else list(case.tap(value))
    assert len(tapped) == len(case.error), f"{case.name}: {len(tapped)} tensors carry the error"
    return Run(arrived, tapped, value)


def hears(error: Rows, reached: Sequence[bool]) -> bool:
    """Return whether a point hears an error, given which tensors of the output it reaches."""
    return any(reached[k] for k in error.tensors)


def reaches(output: Tensor, tensor: Tensor) -> bool:
    """Return whether ``output`` depends on ``tensor``."""
    if not tensor.requires_grad:
        return False
    (found,) = torch.autograd.grad(output.sum(), [tensor], retain_graph=True, allow_unused=True)
    return found is not None


def errors_at(case: Case, run: Run, given: Given) -> tuple[list[Tensor], list[tuple[Tensor, Tensor | None]]]:
    """Return the gradient of the loss at each tapped tensor, and the tensors from which backpropagation begins."""
    if case.inside:
        loss = case.loss(run.value, run.tapped, given)
        return list(torch.autograd.grad(loss, run.tapped, retain_graph=True)), [(loss, None)]
    leaves = {id(tensor): tensor.detach().requires_grad_() for tensor in run.tapped}
    value = mapped(run.value, lambda tensor: leaves.get(id(tensor), tensor))
    loss = case.loss(value, list(leaves.values()), given)
    errors = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, materialize_grads=True)
    return list(errors), [(loss, None), *zip(run.tapped, errors, strict=True)]


def by_rows(layouts: Sequence[str], errors: Sequence[Tensor], sizes: dict[str, int]) -> Iterator[Rows]:
    """Take the error apart into rows; tensors with the same row letters form one error."""
    sizes = dict(sizes)
    for letters, error in zip(layouts, errors, strict=True):
        sizes.update(solved(letters, error.shape, sizes, rows_only=True))
    order = [[letter for letter in flat(letters) if letter.islower()] for letters in layouts]
    for rows in dict.fromkeys(tuple(sorted(row)) for row in order):
        numbers = [k for k, row in enumerate(order) if tuple(sorted(row)) == rows]
        letters = order[numbers[0]]
        parts = {}
        for index in product(*(range(sizes[letter]) for letter in letters)):
            at = dict(zip(letters, index, strict=True))
            parts[index] = [at_row(errors[k], layouts[k], sizes, at).flatten() for k in numbers]
        yield Rows(letters, sizes, numbers, parts)


def width(arrived: Arrived, error: Rows) -> int:
    """Return the number of a point's features, ``D``: all its elements but for the rows of the error."""
    own = solved(arrived.letters, arrived.tensor.shape, error.sizes)
    return prod(size for letter, size in own.items() if letter not in error.letters)


def signal(arrived: Arrived, error: Rows, heard: Sequence[bool], numbers: Tensor) -> Tensor:
    """Return ``e B`` in the shape of the point, filled in row by row."""
    columns = width(arrived, error)
    matrix = numbers[:, :columns] / columns**0.5
    found = torch.zeros(arrived.tensor.shape, dtype=arrived.tensor.dtype)
    for index, parts in error.parts.items():
        listened = [part if heard[k] else part * 0 for k, part in zip(error.tensors, parts, strict=True)]
        at = dict(zip(error.letters, index, strict=True))
        place = at_row(found, arrived.letters, error.sizes, at)
        place += (torch.cat(listened) @ matrix).to(place.dtype).reshape(place.shape)  # a view of `found`
    return found


def at_row(tensor: Tensor, layout: str, known: dict[str, int], at: dict[str, int]) -> Tensor:
    """Return the view of the elements that belong to one row, given by the index of each of the error's letters."""
    sizes = solved(layout, tensor.shape, known)
    return tensor.reshape([sizes[letter] for letter in flat(layout)])[
        tuple(at.get(letter, slice(None)) for letter in flat(layout))
    ]


def solved(layout: str, shape: Sequence[int], known: dict[str, int], rows_only: bool = False) -> dict[str, int]:
    """Return the size of each letter of a layout, in order; parentheses may hold one letter that is not known yet."""
    found: dict[str, int] = {}
    merged = groups(layout)
    assert len(merged) == len(shape), f"{layout!r} does not describe {tuple(shape)}"
    for letters, size in zip(merged, shape, strict=True):
        open_letters = [letter for letter in letters if letter not in known]
        rest = size // prod(known[letter] for letter in letters if letter in known)
        assert len(open_letters) < 2, f"{layout!r} leaves {open_letters} open"
        found.update({letter: known.get(letter, rest) for letter in letters})
        assert prod(found[letter] for letter in letters) == size, f"{layout!r} does not describe {tuple(shape)}"
    return {k: v for k, v in found.items() if k.islower()} if rows_only else found


def groups(layout: str) -> list[list[str]]:
    """Return the letters of each dimension."""
    found: list[list[str]] = []
    inside = False
    for symbol in layout.replace(" ", ""):
        if symbol in "()":
            inside = symbol == "("
            if inside:
                found.append([])
        elif inside:
            found[-1].append(symbol)
        else:
            found.append([symbol])
    return found


def flat(layout: str) -> list[str]:
    """Return the letters of a layout in order."""
    return [letter for letters in groups(layout) for letter in letters]
