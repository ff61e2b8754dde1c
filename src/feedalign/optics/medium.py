"""A multiply scattering medium: a random complex matrix between the mirrors and the pixels.

Letters: ``C`` mirrors, ``D`` pixels, ``N`` frames. Fields are in the square root of photoelectrons, so that the square
of a field's modulus is the mean count of a pixel in one exposure.
"""

import math

import torch
from torch import Tensor


def transmission(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Return a transmission matrix ``complex64 [rows, columns]`` with independent entries of variance 1.

    Real and imaginary parts are standard normal numbers over the square root of 2, the real parts drawn first.

    References:
        Goodman, *Speckle Phenomena in Optics*, 2007 (fully developed speckle); Popoff et al., *Measuring the
        transmission matrix in optics*, Physical Review Letters 104, 2010.
    """
    real, imaginary = (torch.randn(rows, columns, generator=generator, dtype=torch.float32) for _ in range(2))
    return torch.complex(real, imaginary) / math.sqrt(2)


def shown(frames: Tensor, matrix: Tensor, signal: float) -> Tensor:
    """Return the field at the camera, ``complex [N, D]``, with ``signal`` photoelectrons per pixel on average.

    The light of a frame is shared by the mirrors that are on, so the exposure does not depend on their number. A frame
    with none on stays dark.

    Args:
        frames: Zeros and ones ``[N, C]``.
        matrix: ``T [C, D]``, complex.
        signal: ``n_s``, mean photoelectrons per pixel.
    """
    on = frames.sum(1, keepdim=True).clamp(min=1)
    return frames.to(matrix.dtype) @ matrix * (signal / on).sqrt()


def speckles(modes: Tensor) -> Tensor:
    r"""Return the intensity ``[N, D]`` that a pixel sees of several speckle grains, or of two polarisations.

    One mode is exponentially distributed, with contrast (standard deviation over mean) 1; of :math:`\mu` modes the
    mean has a Gamma distribution, with contrast :math:`1/\sqrt\mu`.

    Args:
        modes: Independent fields, ``complex [mu, N, D]``.

    References:
        Goodman, *Speckle Phenomena in Optics*, 2007.
    """
    return modes.abs().square().mean(0)


def drift(matrix: Tensor, steps: float, tau: float, generator: torch.Generator) -> Tensor:
    r"""Return the transmission matrix after a time: :math:`T' = \rho T + \sqrt{1 - \rho^2}\, W`.

    :math:`\rho = e^{-t/\tau}`. Fields before and after have correlation :math:`e^{-t/\tau}`, intensities
    :math:`e^{-2t/\tau}` (the Siegert relation).

    Args:
        matrix: ``T``, complex.
        steps: ``t``.
        tau: Decorrelation time of the field, in the same unit; infinite for a medium at rest.
        generator: Of :math:`W`, which has the distribution of ``T``.
    """
    if math.isinf(tau):
        return matrix
    rho = math.exp(-steps / tau)
    return rho * matrix + math.sqrt(1 - rho**2) * transmission(matrix.shape[0], matrix.shape[1], generator)
