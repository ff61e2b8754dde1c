"""Feedback by analogue arrays, simulated: microring weight banks and memristor crossbars."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from feedalign.feedback.simulated import Simulated
from feedalign.optics import arrays
from feedalign.optics.noise import Noise


@dataclass(frozen=True)
class Crossbar(Simulated):
    r"""The random projection of an array of devices that hold the matrix, read through converters.

    Per row of the error and tile of ``K`` of its entries,

    .. math:: y = \mathrm{ADC}\big(\mathrm{DAC}(e / m)\, W + K \mu + \sqrt{K}\,\sigma\, g_1 + \nu\, g_2\big)\, m, \quad
              m = \max|e|,

    and tiles are added up by digital electronics. With all options at their defaults nothing is simulated but the
    tiles, and the matrix is that of :class:`feedalign.Uniform`. Two presets have published numbers:
    :meth:`microring` and :meth:`pcm`.

    What the devices do to the matrix itself (rounding, crosstalk, programming, drift) is part of it: it happens once,
    and merely makes another fixed random matrix.

    Args:
        cells: What holds a weight: ``"ideal"``, ``"rings"`` (with :attr:`weight_bits` and :attr:`crosstalk`), or
            ``"pcm"``, pairs of phase-change cells with programming noise, drift and read noise.
        bits_in: Of the input's converter; None for no rounding.
        bits_out: Of the output's converter, whose range is ``bound`` either way; None for no rounding.
        bound: Largest output of a tile, for inputs and weights in [-1, 1]; None for none. A row whose exact product
            exceeds it is fed in again at half its size, as often as it takes.
        sigma: :math:`\sigma`, noise of one product.
        mean: :math:`\mu`, mean error of one product.
        noise: :math:`\nu`, noise of one output of a tile.
        tile: ``K``, entries of the error that one tile takes.
        weight_bits: Of the rings' control.
        crosstalk: :math:`\chi`, what a ring's detuning adds to its neighbour's.
        hours: Since phase-change cells were programmed. The gain that drift takes is calibrated out.
        shared: This and the other options are those of :class:`Feedback`.

    Raises:
        ValueError: An option has a value that is not listed or out of range.

    References:
        Filipovich et al., *Silicon photonic architecture for training deep neural networks with direct feedback
        alignment*, Optica 9, 2022, and its public code.
        Rasch et al., *A flexible and fast PyTorch toolkit for simulating training and inference on analog crossbar
        arrays*, AICAS 2021: the model of inputs and outputs, and its constants.
    """

    cells: Literal["ideal", "rings", "pcm"] = "ideal"
    bits_in: int | None = None
    bits_out: int | None = None
    bound: float | None = None
    sigma: float = 0.0
    mean: float = 0.0
    noise: float = 0.0
    tile: int = 512
    weight_bits: int | None = None
    crosstalk: float = 0.0
    hours: float = 0.0

    @classmethod
    def microring(
        cls, sigma: float = 0.195, mean: float = 0.003, *, shared: bool = True, gain: float = 1.0
    ) -> "Crossbar":
        """Return weight banks of microrings: 9 bits of control, banks of 50 rings, noise of every product.

        Args:
            sigma: Standard deviation of the noise of one product; 0.195 is 3.4 effective bits. (The public code of
                Filipovich et al. states the noise of a sum of ten, 0.618.)
            mean: Its mean (0.03 for a sum of ten).
            shared: As of :class:`Feedback`.
            gain: As of :class:`Feedback`.
        """
        return cls(
            cells="rings", sigma=sigma, mean=mean, tile=50, weight_bits=9, shared=shared, gain=gain
        )  # fmt: skip

    @classmethod
    def pcm(cls, hours: float = 0.0, *, shared: bool = True, gain: float = 1.0) -> "Crossbar":
        """Return tiles of phase-change memory: 7 bits in, 9 bits out, programming noise, drift and read noise.

        Args:
            hours: Since programming.
            shared: As of :class:`Feedback`.
            gain: As of :class:`Feedback`.
        """
        return cls(
            cells="pcm", bits_in=7, bits_out=9, bound=12.0, noise=0.06, hours=hours, shared=shared, gain=gain
        )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cells not in ("ideal", "rings", "pcm"):
            raise ValueError(f"cells must be 'ideal', 'rings' or 'pcm', found {self.cells!r}.")
        for name in ("bits_in", "bits_out", "weight_bits"):
            bits = getattr(self, name)
            if bits is not None and not 2 <= bits <= 24:
                raise ValueError(f"{name} expected 2 to 24, or None for no rounding; found {bits}.")
        for name in ("sigma", "noise", "crosstalk", "hours"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} expected a number of at least 0, found {getattr(self, name)}.")
        if self.crosstalk >= 1:
            raise ValueError(f"crosstalk expected less than 1, found {self.crosstalk}.")
        if self.tile < 1 or (self.bound is not None and not 0 < self.bound < math.inf):
            raise ValueError(f"tile and bound expected numbers above 0, found {self.tile} and {self.bound}.")
        if self.bits_out is not None and self.bound is None:
            raise ValueError("bits_out divides the range of the converter: say which, such as bound=12.")
        if self.cells != "rings" and (self.weight_bits is not None or self.crosstalk):
            raise ValueError("weight_bits and crosstalk are properties of rings: write cells='rings'.")
        if self.cells != "pcm" and self.hours:
            raise ValueError("hours count for phase-change cells, which drift: write cells='pcm'.")

    def build(self, rows: int, columns: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return the weights ``[C, D]``, and for phase-change cells the variance of a read of each."""
        wanted = torch.rand(rows, columns, generator=generator, dtype=torch.float32).mul_(2).sub_(1)
        if self.cells == "rings":
            rounded = arrays.quantise(wanted, self.weight_bits)
            return (torch.cat([arrays.crosstalk(bank, self.crosstalk) for bank in torch.split(rounded, self.tile)]),)
        if self.cells == "pcm":
            return self._programmed(wanted, generator)
        return (wanted,)

    def _programmed(self, wanted: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the weights as pairs of cells hold them, and the variance of a read."""
        pair = torch.stack([wanted.clamp(min=0), (-wanted).clamp(min=0)])
        normal, other = (torch.randn(pair.shape, generator=generator, dtype=torch.float32) for _ in range(2))
        programmed = (pair + arrays.programming_noise(pair) * normal).clamp(min=0)
        seconds = arrays.T0 + 3600 * self.hours
        now = arrays.drifted(programmed, arrays.drift_exponents(programmed, other), seconds)
        gain = programmed.mean() / now.mean()
        variance = (arrays.read_noise(now, seconds) * gain).square().sum(0)
        return (now[0] - now[1]) * gain, variance

    def recovered(self, built: tuple[Tensor, ...]) -> Tensor:
        """Return the weights ``[C, D]``, in [-1, 1] but for programming."""
        return built[0]

    def measure(self, error: Tensor, noise: Noise, built: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return the outputs of all tiles together, for inputs of size 1, and the largest size of each row."""
        largest = error.abs().amax(1, keepdim=True)
        inputs = error / torch.where(largest > 0, largest, torch.ones_like(largest))
        total = error.new_zeros(len(error), built[0].shape[1])
        tiles = [torch.split(inputs, self.tile, 1), *(torch.split(each, self.tile) for each in built)]
        for number, (some, *held) in enumerate(zip(*tiles, strict=True)):
            total += self._tile(some, held, noise, number)
        return total, largest

    def _tile(self, inputs: Tensor, held: list[Tensor], noise: Noise, number: int) -> Tensor:
        """Return the output of one tile ``[N, D]`` for inputs ``[N, K]`` in [-1, 1]."""
        weights = held[0]
        halved = torch.ones_like(inputs[:, :1])
        if self.bound is not None:
            halved = 2 ** arrays.halvings((inputs @ weights).abs().amax(1, keepdim=True), self.bound)
        shown = arrays.quantise(inputs / halved, self.bits_in)
        found = shown @ weights
        size = weights.shape[0]
        found += self.mean * size
        deviation: Tensor | float = math.sqrt(size * self.sigma**2 + self.noise**2)
        if len(held) > 1:
            deviation = (shown.square() @ held[1] + deviation**2).sqrt()
        if len(held) > 1 or deviation:
            found += noise.pair(found.shape[1], number, found.dtype)[0] * deviation
        if self.bound is not None:
            found = found.clamp(-self.bound, self.bound)
            found = arrays.quantise(found / self.bound, self.bits_out) * self.bound
        return found * halved
