"""``feedalign inspect``: where a rule would cut somebody's model."""

import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor, nn

import feedalign as fa
from feedalign.cli.console import say, standard_output
from feedalign.cli.failures import UsageError
from feedalign.cli.options import Omitted
from feedalign.errors import nearest

MODULE = "inspected"
EXAMPLE = "Example: feedalign inspect model.py:build --shape 1,1,28,28"


@dataclass(frozen=True)
class Inspect:
    """Show where a rule would cut a model of yours, with shapes. Nothing is trained.

    Imports the file, calls the factory (a function or class without required arguments that returns an nn.Module),
    attaches the rule, and runs one forward pass on random numbers.

    Example: feedalign inspect model.py:build --shape 1,1,28,28

    Attributes:
        target: A Python file and what makes the model in it, such as model.py:build.
        shape: Shape of the input, batch first, such as 1,1,28,28. Without it only names are shown.
        integers: Let the input hold whole numbers below this one (tokens) instead of random normal ones.
        rule: The learning rule, such as dfa, fa or kp.
        points: Where to cut: auto, or names and globs such as layers.*
        output: The module whose output carries the error; by default what the model returns.
    """

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE:FACTORY")]
    shape: Omitted[str] = None
    integers: Omitted[int] = None
    rule: str = "dfa"
    points: tuple[str, ...] = ("auto",)
    output: Omitted[str] = None

    def run(self) -> None:
        """Print the table of points, and what attaching and the forward pass warn of."""
        model = build(self.target)
        points = self.points[0] if len(self.points) == 1 else list(self.points)
        rule = fa.rule(self.rule)
        if rule.learns and self.shape is None:
            raise UsageError(
                f"{self.rule} learns matrices whose shapes depend on the input: expected --shape, such as 1,1,28,28."
            )
        batch = None if self.shape is None else example(self.shape, self.integers)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            if batch is None:
                handle = fa.attach(model, rule, points=points, output=self.output)
            else:
                with refusals(model, batch):
                    handle = fa.attach(model, rule, points=points, output=self.output, example=batch)
                    model(batch)
        say(standard_output(), str(handle))
        for message in dict.fromkeys(str(warning.message) for warning in caught):
            say(standard_output(), f"Warning: {message}")


def build(target: str) -> nn.Module:
    """Return the module that FILE:FACTORY makes.

    Raises:
        UsageError: There is no such file or factory, or it does not return a module.
    """
    file, colon, factory = target.rpartition(":")
    if not colon or not file or not factory:
        raise UsageError(f"Expected FILE:FACTORY, found {target!r}. {EXAMPLE}")
    module = _import(Path(file))
    if not callable(getattr(module, factory, None)):
        callables = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise UsageError(
            f"{file} has no function or class {factory!r}.{nearest(factory, callables)} "
            f"It has: {', '.join(callables) or 'none'}."
        )
    make = getattr(module, factory)
    if required := _required(make):
        raise UsageError(
            f"Expected a factory without required arguments, but {target} wants {', '.join(required)}. "
            f"Write a function that calls it with the values you mean, and name that: {file}:build."
        )
    model: Any = make()
    if not isinstance(model, nn.Module):
        raise UsageError(f"Expected {target} to return an nn.Module, found {type(model).__name__}.")
    return model


def _required(make: Callable[..., Any]) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(make).parameters.values()
    return [p.name for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty]


def _import(file: Path) -> ModuleType:
    if not file.is_file():
        raise UsageError(f"Expected a Python file, found none at {file}. {EXAMPLE}")
    spec = importlib.util.spec_from_file_location(MODULE, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"Expected a Python file (its name ending in .py), found {file}. {EXAMPLE}")
    module = importlib.util.module_from_spec(spec)
    # As Python itself does for a script: its neighbours can be imported, and its dataclasses find their module.
    sys.path.insert(0, str(file.parent.resolve()))
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def example(shape: str, integers: int | None) -> Tensor:
    """Return a random input of a shape such as ``"1,1,28,28"``.

    Raises:
        UsageError: It is not a shape, or there are no whole numbers below ``integers``.
    """
    try:
        sizes = [int(size) for size in shape.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise UsageError(f"Expected a shape such as 1,1,28,28 (whole numbers above 0), found {shape!r}.")
    if integers is not None and integers < 1:
        raise UsageError(f"Expected a vocabulary of at least 1 for --integers, found {integers}.")
    return torch.randn(sizes) if integers is None else torch.randint(integers, sizes)


@contextmanager
def refusals(model: nn.Module, inputs: Tensor) -> Iterator[None]:
    """Let a model that refuses an input say which shape to give.

    Raises:
        UsageError: The model refuses the input.
    """
    try:
        yield
    except (RuntimeError, IndexError, TypeError) as error:
        if isinstance(error, fa.SignalError):
            raise
        raise UsageError(
            f"{type(model).__name__} refused an input of shape {tuple(inputs.shape)}: {error}\n"
            "Give the shape it expects, batch first: --shape 1,1,28,28; for tokens add --integers VOCABULARY."
        ) from error
