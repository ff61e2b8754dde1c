"""Analogue arrays that multiply by a matrix held in devices: microring weight banks, phase-change memory.

Letters: ``K`` inputs of a tile, ``w`` a weight in [-1, 1], ``g`` a conductance as a fraction of the largest.
"""

import math

import torch
from torch import Tensor

G_MAX = 25.0
"""Largest conductance of the phase-change cells, in microsiemens."""
T0 = 20.0
"""Seconds after programming from which drift counts."""
PULSE = 250e-9
"""Seconds that a read takes."""


def quantise(values: Tensor, bits: int | None) -> Tensor:
    """Return values in [-1, 1] rounded to the ``2**bits - 1`` evenly spaced numbers that hold -1, 0 and 1.

    Args:
        values: Of any shape; clipped to [-1, 1].
        bits: None for no rounding, which clips nothing either.
    """
    if bits is None:
        return values
    steps = 2 ** (bits - 1) - 1
    rounded: Tensor = (values.clamp(-1, 1) * steps).round() / steps
    return rounded


def ring_weight(detuning: Tensor) -> Tensor:
    r"""Return the weight of an add-drop microring, :math:`w = 2/(1+\delta^2) - 1`.

    Args:
        detuning: :math:`\delta` from resonance, in half widths of the line.

    References:
        Tait et al., *Neuromorphic photonic networks using silicon photonic weight banks*, Scientific Reports 7, 2017.
    """
    return 2 / (1 + detuning.square()) - 1


def ring_detuning(weight: Tensor) -> Tensor:
    """Return the detuning that gives a weight, the inverse of :func:`ring_weight`; -1 is as good as reached at 1e4."""
    return (2 / (weight + 1).clamp(min=1e-8) - 1).clamp(min=0).sqrt()


def crosstalk(weights: Tensor, chi: float) -> Tensor:
    r"""Return the weights of a bank whose heaters warm each other, :math:`\delta_i = \sum_j \chi^{|i-j|} \delta_j`.

    Args:
        weights: ``[K, D]``, a bank of ``K`` rings per column.
        chi: What a neighbour takes over of a detuning; 0 for none.
    """
    if chi == 0:
        return weights
    place = torch.arange(len(weights), dtype=weights.dtype, device=weights.device)
    share = torch.pow(chi, (place[:, None] - place).abs())  # 1 on the diagonal: the ring itself
    return ring_weight(share @ ring_detuning(weights))


def effective_bits(sigma: float) -> float:
    """Return the bits of a product in [-1, 1] whose noise has this standard deviation, ``log2(2 / sigma)``."""
    return math.log2(2 / sigma)


def programming_noise(g: Tensor) -> Tensor:
    """Return the standard deviation of a phase-change cell's conductance after programming, as a fraction.

    ``max(0, 0.26348 + 1.9650 g - 1.1731 g**2)`` microsiemens at a largest conductance of 25.

    References:
        aihwkit, ``inference/noise/pcm.py``; Nandakumar et al., *Phase-change memory models for deep learning training
        and inference*, ICECS 2019.
    """
    return (0.26348 + 1.9650 * g - 1.1731 * g.square()).clamp(min=0) / G_MAX


def drift_exponents(g: Tensor, normal: Tensor) -> Tensor:
    """Return the exponents ``nu`` by which conductances fall, ``g (t / t0) ** -nu``.

    Their mean is ``clip(-0.0155 ln g + 0.0244, 0.049, 0.1)`` and their standard deviation
    ``clip(-0.0125 ln g - 0.0059, 0.008, 0.045)``.

    Args:
        g: As programmed.
        normal: Standard normal numbers of the same shape.

    References:
        aihwkit, ``inference/noise/pcm.py``.
    """
    log = g.clamp(min=1e-6).log()
    mean, deviation = (-0.0155 * log + 0.0244).clamp(0.049, 0.1), (-0.0125 * log - 0.0059).clamp(0.008, 0.045)
    return (mean + deviation * normal).clamp(min=0)


def drifted(g: Tensor, exponents: Tensor, seconds: float) -> Tensor:
    r"""Return conductances some time after programming, :math:`g\,(t/t_0)^{-\nu}`.

    With exponents of standard deviation ``s`` for all cells, the weights keep the correlation
    :math:`e^{-s^2 L^2/2}` with what they were, :math:`L = \ln(t/t_0)`; the gain that is lost can be calibrated out.
    """
    return g * (max(seconds, T0) / T0) ** -exponents


def read_noise(g: Tensor, seconds: float) -> Tensor:
    r"""Return the standard deviation of a read, :math:`g \min(0.0088/g^{0.65}, 0.2) \sqrt{\ln((t + t_r)/(2 t_r))}`.

    References:
        aihwkit, ``inference/noise/pcm.py``, with reads of 250 ns.
    """
    relative = (0.0088 / g.clamp(min=1e-6).pow(0.65)).clamp(max=0.2)
    return g * relative * math.sqrt(math.log((max(seconds, T0) + PULSE) / (2 * PULSE)))


def halvings(largest: Tensor, bound: float) -> Tensor:
    """Return how often the inputs of a row are halved until no output exceeds the converter's bound, at least 0."""
    return (largest / bound).clamp(min=1).log2().ceil()
