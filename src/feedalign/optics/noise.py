"""Random numbers that follow from an error itself: a counter-based generator whose key is one row of the error.

The noise of a row depends on the seed and on that row alone. So it is another one in every step, the same one when a
step is repeated or resumed, whatever batch the row is in, and on every rank; and no generator of PyTorch's is touched.
All operations are integer arithmetic until the last, so that every device makes the same random bits.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor


def _signed(word: int) -> int:
    """Return the lowest 64 bits of a number as a signed one."""
    word &= (1 << 64) - 1
    return word - (1 << 64) if word >> 63 else word


GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)
_EXPONENT = 0x7FF0000000000000
"""The bits of a double that hold its exponent."""
LEVELS = 2.0**30
"""Steps that the largest power of two in a row is divided into before the row becomes a key.

Finer than single precision, and coarse enough that sums in another order give the same key in double precision.
"""


def mix(words: Tensor) -> Tensor:
    """Return 64-bit words with every bit of a word spread over all of its bits (the finaliser of SplitMix64).

    Args:
        words: ``int64`` of any shape; changed in place.

    References:
        Steele, Lea & Flood, *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014.
    """
    # The masks make the arithmetic shift of signed words a logical one.
    words ^= (words >> 30) & ((1 << 34) - 1)
    words *= _FIRST
    words ^= (words >> 27) & ((1 << 37) - 1)
    words *= _SECOND
    words ^= (words >> 31) & ((1 << 33) - 1)
    return words


def salt(seed: int, name: str) -> int:
    """Return a 63-bit number for (seed, name): two matrices of one rule have independent noise."""
    return int.from_bytes(hashlib.sha256(f"noise/{seed}/{name}".encode()).digest()[:8], "big") >> 1


def row_keys(rows: Tensor, salt: int | Tensor = 0) -> Tensor:
    """Return one key per row, ``int64 [N]``, of an error ``[N, C]``.

    A row multiplied by a power of two has the same key, so that loss scaling changes no noise.

    Args:
        rows: ``[N, C]``, of any floating type.
        salt: Of :func:`salt`, or another integer.
    """
    wide = rows.detach().double()
    largest = wide.abs().amax(1, keepdim=True)
    power = (largest.view(torch.int64) & _EXPONENT).view(torch.float64)
    steps = (wide / torch.where(power > 0, power, 1.0) * LEVELS).round().to(torch.int64)
    places = torch.arange(1, rows.shape[1] + 1, device=rows.device, dtype=torch.int64)
    # A multilinear hash: a random odd factor per column.
    keys = (steps * (mix(places * GOLDEN) | 1)).sum(1)
    return mix(mix(keys) ^ salt)


@dataclass(frozen=True)
class Noise:
    """Standard normal numbers per row of a frame.

    Attributes:
        keys: ``int64 [N]``, one per row, as :func:`row_keys` makes them.
    """

    keys: Tensor

    def __getitem__(self, rows: slice | Tensor) -> "Noise":
        """Return the noise of some rows."""
        return Noise(self.keys[rows])

    def pair(self, columns: int, frame: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Return two independent tensors of standard normal numbers, ``[N, columns]`` each.

        Args:
            columns: ``D``, pixels of the frame.
            frame: The number of the frame: other numbers give independent noise.
            dtype: Of the numbers; they have single precision whatever it is.
        """
        # The frame's number goes in before the mixing and the pixel's after it, so that no two of them coincide.
        starts = mix(self.keys + _signed(frame * GOLDEN))
        pixels = torch.arange(columns, device=starts.device, dtype=torch.int64) * GOLDEN
        words = mix(starts[:, None] + pixels)
        # Box and Muller: 32 bits for the radius, 32 for the angle.
        radius = ((words >> 32) & 0xFFFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-32)
        angle = words.bitwise_and_(0xFFFFFFFF).to(torch.float32).mul_(2.0**-32 * 2 * math.pi)
        radius = radius.log_().mul_(-2).clamp_(min=0).sqrt_()
        second = torch.sin(angle).mul_(radius)
        return angle.cos_().mul_(radius).to(dtype), second.to(dtype)
