"""Feedback that is measured by a simulated instrument: with noise and rounding, and without any state."""

import json
import warnings
from abc import abstractmethod
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from feedalign.feedback.feedback import Feedback, Kept, Parts, seeded
from feedalign.feedback.linear import measured
from feedalign.optics.noise import Noise, row_keys, salt

PIXELS = 2**17
"""Numbers of one exposure that are simulated at a time: what fits into a cache."""


@dataclass(frozen=True)
class Simulated(Feedback):
    """A projection as an instrument would return it, each row by itself.

    A family implements :meth:`build`, :meth:`measure` and :meth:`recovered`. The noise of a row follows from the seed,
    the matrix's name and the row itself (:mod:`feedalign.optics.noise`). Derivatives of a projection are those of the
    product with the matrix that :meth:`recovered` returns.
    """

    @abstractmethod
    def build(self, rows: int, columns: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return what the instrument consists of, as CPU tensors for a matrix ``[rows, columns]``."""

    @abstractmethod
    def measure(self, error: Tensor, noise: Noise, built: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return a measured projection ``[N, D]`` and what each row is to be multiplied by, ``[N, 1]``."""

    @abstractmethod
    def recovered(self, built: tuple[Tensor, ...]) -> Tensor:
        """Return the matrix ``[C, D]``, of variance of order one, that noise and levels apart is multiplied by."""

    @classmethod
    def parsed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Return the options that are objects, made from what JSON has in their place."""
        return {}

    @property
    def ideal(self) -> bool:
        """Whether nothing is simulated, and projections are products with the matrix."""
        return False

    def draw(self, rows: int, columns: int, generator: torch.Generator) -> Tensor:
        """Return the matrix that is measured where there is no noise."""
        return self.recovered(self.build(rows, columns, generator))

    def keep(self, seed: int, parts: Parts, rows: int, dtype: torch.dtype, device: torch.device) -> Kept:
        """Return a number for the noise of every matrix, followed by what the instrument consists of."""
        if self.ideal:
            return super().keep(seed, parts, rows, dtype, device)
        wide = torch.promote_types(dtype, torch.float32)  # measurements are differences of large numbers
        found: list[Tensor] = []
        for key, columns, _ in parts:
            found.append(torch.tensor(salt(seed, key)).to(device))
            found += [each.to(device, wide) for each in self.build(rows, columns, seeded(seed, key, rows, columns))]
        return tuple(found)

    def product(self, error: Tensor, parts: Parts, kept: Kept) -> Tensor:
        """Return what is measured of ``error [N, C]`` times the scaled matrices, ``[N, sum of columns]``."""
        if self.ideal:
            return super().product(error, parts, kept)
        settings, size = constant_settings(self), len(kept) // len(parts)
        made = []
        for i, (_, columns, factor) in enumerate(parts):
            number, *built = kept[i * size : (i + 1) * size]
            there = partial(
                _simulate, number=number, built=built, settings=settings, columns=columns, factor=factor
            )  # fmt: skip
            made.append(measured(error, there, partial(self._transposed, tuple(built), factor)))
        return made[0] if len(made) == 1 else torch.cat(made, dim=1)

    def _transposed(self, built: tuple[Tensor, ...], factor: float, signal: Tensor) -> Tensor:
        return signal @ (self.recovered(built) * factor).T.to(signal.dtype)

    def simulate(self, error: Tensor, number: Tensor, built: tuple[Tensor, ...], columns: int, factor: float) -> Tensor:
        """Return the measured projection of errors ``[N, C]``, ``[N, D]``, some rows at a time."""
        signal = error.new_empty(error.shape[0], columns)
        rows = max(1, PIXELS // columns)
        for start in range(0, error.shape[0], rows):
            some = error[start : start + rows]
            found, scale = self.measure(some.to(built[0].dtype), Noise(row_keys(some, number)), built)
            # Each row by a number as small as the error is, before half precision has to hold it.
            signal[start : start + rows] = found.mul_(scale * factor)
        return signal


def constant_settings(feedback: Simulated) -> str:
    """Return all that a simulation depends on as text; under ``torch.compile`` a constant, as what is kept."""
    return _text(feedback)


@cache
def _text(feedback: Simulated) -> str:
    """Return all that a simulation depends on as text: what an operator of PyTorch can be given."""
    return json.dumps({"family": type(feedback).__name__, **asdict(feedback)}, sort_keys=True)


@cache
def _restored(settings: str) -> Simulated:
    given: dict[str, Any] = json.loads(settings)
    families = {family.__name__: family for family in Simulated.__subclasses__()}
    with warnings.catch_warnings():  # said once, where the user made it
        warnings.simplefilter("ignore")
        family = families[given.pop("family")]
        return family(**{**given, **family.parsed(given)})


# An operator of its own, so that torch.compile does not look into it: what rounds must round alike everywhere.
@torch.library.custom_op("feedalign::simulated", mutates_args=())
def _simulate(
    error: Tensor, number: Tensor, built: list[Tensor], settings: str, columns: int, factor: float
) -> Tensor:  # fmt: skip
    return _restored(settings).simulate(error, number, tuple(built), columns, factor)


@_simulate.register_fake
def _shape(
    error: Tensor, number: Tensor, built: list[Tensor], settings: str, columns: int, factor: float
) -> Tensor:  # fmt: skip
    return error.new_empty(error.shape[0], columns)
