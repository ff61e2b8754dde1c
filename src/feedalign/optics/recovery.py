r"""A linear projection from intensities, which are all that a camera sees.

Every function takes fields that one frame of the modulator makes and returns an estimate of their real part times a
fixed weight per pixel, in the square root of photoelectrons. So with a medium ``T`` it recovers the projection by
:math:`\mathrm{Re}\,T` times that weight.

Letters: ``N`` frames, ``D`` pixels; :math:`n_s` and :math:`n_r` mean photoelectrons per pixel of signal and reference,
:math:`s^2` the camera's variance in the dark.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from feedalign.optics.camera import Camera
from feedalign.optics.noise import Noise

Recovery = Literal["anchor", "phase", "offaxis", "none"]
FRAMES: dict[Recovery, int] = {"anchor": 2, "phase": 2, "offaxis": 1, "none": 1}
"""Camera frames per frame of the modulator."""
OVERSAMPLING = 4
"""Pixels per mode along the line that an off-axis hologram is recorded on."""
DARK = 0.1
"""Anchors darker than this fraction of the mean are dropped where the weight is divided out."""


def read(intensity: Tensor, camera: Camera | None, noise: Noise, frame: int) -> Tensor:
    """Return what is read of a frame: the counts of a camera, or without one the intensity itself."""
    return intensity if camera is None else camera.counts(intensity, noise, frame)


def phase_shift(
    power: Tensor, cross: Tensor, reference: float, camera: Camera | None, noise: Noise, frame: int = 0
) -> Tensor:
    r"""Return :math:`(I_0 - I_\pi) / (4 \sqrt{n_r})`, from two exposures with the reference in and out of phase.

    :math:`\mathrm{SNR} = 4 n_s / (1 + (n_s + s^2)/n_r)`. The phase of the reference must hold to far below a radian.

    Args:
        power: :math:`|z|^2`, ``[N, D]``.
        cross: :math:`\mathrm{Re}(z r^*)` with the reference field ``r``, ``[N, D]``.
        reference: :math:`n_r = |r|^2`.
        camera: None for intensities without noise.
        noise: Of the rows.
        frame: The number of the first exposure.
    """
    with_it, against = (
        read(power + reference + sign * 2 * cross, camera, noise, frame + i) for i, sign in enumerate((1, -1))
    )
    return (with_it - against) / (4 * math.sqrt(reference))


def anchor(
    power: Tensor, cross: Tensor, anchors: Tensor, reference: float, camera: Camera | None, noise: Noise,
    frame: int = 0, divide: bool = False,
) -> Tensor:  # fmt: skip
    r"""Return :math:`(|z + a|^2 - |z|^2 - |a|^2) / (2 \sqrt{n_r})`, from two exposures and one that is known.

    The anchor :math:`a` is the field of mirrors of their own that are on in one exposure and off in the other, so that
    signal and anchor go the same way and no interferometer has to be held still. It is a speckle pattern itself: the
    weight of a pixel is :math:`|a| / \sqrt{n_r}`, Rayleigh distributed with mean square 1, and
    :math:`\mathrm{SNR} = 2 n_s n_r / (n_r + 2 n_s + 2 s^2)`.

    Args:
        power: :math:`|z|^2`, ``[N, D]``.
        cross: :math:`\mathrm{Re}(z a^*)`, ``[N, D]``.
        anchors: :math:`|a|^2`, ``[D]``, as known from many exposures of the anchor alone.
        reference: :math:`n_r`, the mean of that.
        camera: None for intensities without noise.
        noise: Of the rows.
        frame: The number of the first exposure.
        divide: Divide by :math:`|a|`, so that every weight is 1, but for pixels whose anchor is below a tenth of the
            mean, which are 0.

    References:
        Ohana et al., *Linear optical random projections without holography*, Optics Express 31, 2023.
    """
    both = read(power + anchors + 2 * cross, camera, noise, frame)
    alone = read(power, camera, noise, frame + 1)
    product = (both - alone - anchors) / 2
    if divide:
        return torch.where(anchors < DARK * reference, torch.zeros_like(product), product / anchors.sqrt())
    return product / math.sqrt(reference)


def off_axis(fields: Tensor, reference: float, camera: Camera | None, noise: Noise, frame: int = 0) -> Tensor:
    r"""Return the complex field ``[N, D]`` from one exposure, with a reference that arrives at an angle.

    The fields of ``D`` modes are spread over ``4 D`` pixels of a line; the phase of the reference turns by
    :math:`\pi/2` from pixel to pixel, so that in the spectrum of the frame the term that is linear in the field lies
    apart from the others and is cut out. On a line a quarter of the pixels are independent modes; on an area
    :math:`\pi/64` of them. :math:`\mathrm{SNR} = 4 n_s / (1 + (n_s + s^2)/n_r)` with the photons of this one exposure.

    Args:
        fields: ``z``, complex ``[N, D]``.
        reference: :math:`n_r`.
        camera: None for intensities without noise.
        noise: Of the rows.
        frame: The number of the exposure.

    References:
        Cuche, Marquet & Depeursinge, *Spatial filtering for zero-order and twin-image elimination in digital off-axis
        holography*, Applied Optics 39, 2000.
    """
    modes = fields.shape[1]
    pixels = OVERSAMPLING * modes
    # The modes are the lowest frequencies of the line, from 0 to D - 1, each with the mean power of a pixel.
    spread = torch.fft.fft(fields, dim=1, norm="ortho")
    line = torch.fft.ifft(torch.nn.functional.pad(spread, (0, pixels - modes)), dim=1, norm="ortho") * math.sqrt(
        OVERSAMPLING
    )
    # |z|^2 fills the frequencies from -(D - 1) to D - 1. A carrier of -D sends z r* to those from D to 2 D - 1, and
    # its conjugate to those from -(2 D - 1) to -D.
    places = torch.arange(pixels, device=fields.device, dtype=fields.real.dtype)
    turn = torch.polar(torch.ones_like(places), places * (2 * math.pi * modes / pixels))
    root = math.sqrt(reference)
    intensity = (line * turn + root).abs().square()
    found = torch.fft.fft(read(intensity, camera, noise, frame).to(fields.dtype), dim=1, norm="ortho")
    band = found[:, modes : 2 * modes] / (root * math.sqrt(OVERSAMPLING))
    recovered: Tensor = torch.fft.ifft(band, dim=1, norm="ortho")
    return recovered


def intensity_difference(power: Tensor, other: Tensor, camera: Camera | None, noise: Noise, frame: int = 0) -> Tensor:
    """Return the difference of two frames' intensities, which is **not** linear in what is shown: for teaching only.

    Args:
        power: Intensity ``[N, D]`` of the frame where the error is positive.
        other: The same where it is negative.
        camera: None for intensities without noise.
        noise: Of the rows.
        frame: The number of the first exposure.
    """
    return read(power, camera, noise, frame) - read(other, camera, noise, frame + 1)


def snr(recovery: Recovery, signal: float, reference: float, floor: float) -> float:
    """Return the ratio of the variances of signal and noise in what is recovered from one frame, not saturated.

    The correlation with the ideal projection is ``(1 + 1 / snr) ** -0.5``.

    Args:
        recovery: How.
        signal: ``n_s``, photoelectrons per pixel.
        reference: ``n_r``, of the reference or anchor.
        floor: ``s**2``, of :attr:`Camera.floor`.

    Raises:
        ValueError: The recovery is not linear.
    """
    if recovery == "anchor":
        return 2 * signal * reference / (reference + 2 * signal + 2 * floor)
    if recovery == "none":
        raise ValueError("A difference of intensities holds no linear projection. Choose anchor, phase or offaxis.")
    return 4 * signal / (1 + (signal + floor) / reference)
