"""What the contract knows about one real model: how it is built and run, and how its tensors are laid out.

A layout is written as letters, one per dimension: ``"n t D"`` is a tensor ``[samples, tokens, width]``. Small letters
are rows of the error and capitals are not, so the error ``"n t C"`` has one row per sample and token, and a point
``"t n D"`` of a time-first layer holds the same rows in the other order. Parentheses merge letters into one dimension,
the slowest first: ``"(n w) K D"`` holds the windows of a sample one after the other. A point without one of the
error's small letters receives the sum of the error over it. Every layout is known from the source of the model and
from nothing that the library finds out.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Sizes(NamedTuple):
    """The sizes of a model and its batch; not every model has all of them."""

    n: int = 3
    """Samples; nodes of a graph."""
    t: int = 5
    """Tokens, time steps, points of a set."""
    s: int = 6
    """Tokens of a second sequence: an encoder's, a memory's."""
    d: int = 8
    """Width."""
    heads: int = 2
    c: int = 7
    """Classes, vocabulary, width of the error."""


DIFFERENT = Sizes()
EQUAL = Sizes(4, 4, 4, 4, 4, 4)
"""All sizes coincide, so that no dimension can be told from another by its size."""

Given = dict[str, Any] | tuple[Any, ...]


def tensors(value: object) -> list[Tensor]:
    """Return the floating-point tensors in what a module returned, in order, each once."""
    found: dict[int, Tensor] = {}
    mapped(value, lambda tensor: found.setdefault(id(tensor), tensor))
    return list(found.values())


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return ``value`` with every floating-point tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value) if value.is_floating_point() else value
    if isinstance(value, dict):  # the outputs of Hugging Face models among them
        return type(value)(**{key: mapped(each, change) for key, each in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(each, change) for each in value))
    if isinstance(value, tuple | list):
        return type(value)(mapped(each, change) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: mapped(getattr(value, f.name), change) for f in fields(value)})
    return value


def squares(value: Any, tapped: Sequence[Tensor], given: Given) -> Tensor:
    """Return the mean squared distance of each tapped tensor from fixed random targets, all added up."""
    generator = torch.Generator().manual_seed(5)
    distances = [(tensor - torch.randn(tensor.shape, generator=generator)).square().mean() for tensor in tapped]
    return torch.stack(distances).sum()


def own_loss(value: Any, tapped: Sequence[Tensor], given: Given) -> Tensor:
    """Return the loss that the model computed itself."""
    loss: Tensor = value.loss
    return loss


@dataclass(frozen=True)
class Case:
    """One real model in the contract."""

    name: str
    library: str
    """Where the model comes from: a class of a library, or ``own`` for code of the tests."""
    build: Callable[[Sizes], nn.Module]
    given: Callable[[Sizes], Given]
    """One batch: positional or named arguments."""
    error: tuple[str, ...]
    """The layout of each tensor that carries the error."""
    layout: dict[str, str]
    """The layout of every point, by name (``*`` stays within one level); ``name[1]`` is its second tensor, and ``"-"``
    stands for a tensor that is cut and gets no signal, since nothing reads it or ``points=`` names another one."""
    tap: Callable[[Any], Sequence[Tensor]] = tensors
    """Returns the tensors that carry the error, from what the model returns."""
    module: str = ""
    """The module whose output carries the error, where that is not what the model returns."""
    loss: Callable[[Any, Sequence[Tensor], Given], Tensor] = squares
    """Returns the loss from what the model returns, the tapped tensors in it, and the batch."""
    inside: bool = False
    """Whether the loss is computed inside the model, from the tapped tensors."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """What ``attach`` needs besides the model and the rule."""
    stated: tuple[bool, bool] = (False, False)
    """Whether ``rows=`` must state the layouts, where sizes differ and where they coincide: because a point has no
    dimension for a row of the error, or because one run of the model does not show which it is. Without it the first
    forward pass raises."""
    method: str = ""
    """The method that is run in place of ``forward``."""
    sizes: tuple[Sizes, Sizes] = (DIFFERENT, EQUAL)
    warns: bool = False
    """Whether the first forward pass warns of a path around the points."""
    merged: Callable[[Sizes], dict[str, int]] = lambda sizes: {}
    """The size of letters that parentheses leave open."""
    coupled: bool = False
    """Whether samples see each other in the forward pass (batch statistics, graphs, losses over pairs)."""
    notes: str = ""

    def model(self, sizes: Sizes, seed: int = 0) -> nn.Module:
        """Return the model in training mode, with weights that are the same for the same seed."""
        with torch.random.fork_rng():
            torch.manual_seed(7 + seed)
            model = self.build(sizes).double().train()
            with torch.no_grad():
                for parameter in model.parameters():  # some start at zero, where no gradient would tell anything
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    def batch(self, sizes: Sizes, seed: int = 0) -> Given:
        """Return a batch that is the same for the same seed."""
        with torch.random.fork_rng():
            torch.manual_seed(3 + seed)
            return self.given(sizes)

    def call(self, model: nn.Module, given: Given) -> Any:
        """Run the model, by its method if it has one here."""
        run = getattr(model, self.method) if self.method else model
        return run(**given) if isinstance(given, dict) else run(*given)

    def points(self, model: nn.Module) -> list[str]:
        """Return the names of the points, in the order of the model's modules."""
        names = [name for name, _ in model.named_modules()]
        found = {}
        for pattern in dict.fromkeys(re.sub(r"\[\d+\]$", "", pattern) for pattern in self.layout):
            module, at_input = pattern.removesuffix(":input"), pattern.endswith(":input")
            matching = [name for name in names if matches(name, module)]
            assert matching, f"{self.name}: no module is called {module}"
            found.update({name + (":input" if at_input else ""): names.index(name) for name in matching})
        return sorted(found, key=found.__getitem__)

    def rows(self) -> dict[str, tuple[int | None, ...]]:
        """Return the layouts as ``attach(rows=...)`` takes them: the dimension of each of the error's rows."""
        (order,) = {tuple(letter for letter in letters if letter.islower()) for letters in self.error}
        stated = {}
        for pattern, letters in self.layout.items():
            if letters != "-":
                assert "(" not in letters, f"{self.name}: rows= has no word for merged dimensions"
                found = letters.split()
                stated[pattern] = tuple(found.index(row) if row in found else None for row in order)
        return stated

    def letters(self, point: str, number: int) -> str:
        """Return the layout of a point's tensor."""
        for pattern, letters in self.layout.items():
            if matches(f"{point}[{number}]", pattern) or matches(point, pattern):
                return letters
        raise AssertionError(f"{self.name} states no layout for tensor {number} of {point}")


def matches(name: str, pattern: str) -> bool:
    """Return whether a name fits a pattern in which ``*`` stands for any characters of one level."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", r"[^.]*"), name) is not None
