"""Feedback by light, simulated: a modulator, a scattering medium, a camera, and a linear projection recovered."""

import math
import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from feedalign.feedback.simulated import Simulated
from feedalign.optics import recovery as recover
from feedalign.optics.camera import Camera
from feedalign.optics.encoding import Encoded, bits_of, encode
from feedalign.optics.noise import Noise

EXPOSURES = 2
"""Exposures per frame that the noise is numbered for: the most that a recovery takes."""
TOLERATED = 0.02
"""Fraction of saturated pixels that is passed over in silence."""


@dataclass(frozen=True)
class Optical(Simulated):
    r"""The random projection of an optical co-processor: Gaussian entries, few levels, photons and a camera.

    Each row of the error is rounded to a few levels (:func:`feedalign.optics.encode`) and shown as frames of zeros and
    ones. Light of a frame passes a medium with transmission matrix :math:`T`, whose entries are independent complex
    Gaussian numbers; a camera counts photoelectrons; and the linear projection is recovered from the counts:

    ============  ===========================  ==================================================  ================
    recovery      exposures per frame          what ``B`` is, times :math:`1/\sqrt{D}`             needs
    ============  ===========================  ==================================================  ================
    ``anchor``    2                            :math:`\sqrt2\,\mathrm{Re}\,T`, columns weighted    nothing else
                                               by Rayleigh numbers of mean square 1
    ``phase``     2                            :math:`\sqrt2\,\mathrm{Re}\,T`                      a reference arm
    ``offaxis``   1, on 4 times the pixels     :math:`\sqrt2\,\mathrm{Re}\,T`                      a reference arm
    ``none``      1                            none: intensities are not linear in the error       for teaching
    ``exact``     0                            that of :class:`feedalign.Normal`, bit for bit      no light at all
    ============  ===========================  ==================================================  ================

    Nothing changes in time, and no state is kept: the noise of a row follows from the seed and the row itself
    (:mod:`feedalign.optics.noise`), so it is the same in every process, on every rank and in a step that is repeated.
    A medium that drifts has a clock, and is a device: :class:`feedalign.optics.Bench` behind
    :class:`feedalign.Hardware`. Derivatives of a projection are those without noise and levels.

    Args:
        recovery: As in the table.
        levels: 3 for an error rounded to three levels, 2 for its signs, 7, 15, ... for bit planes.
        threshold: Half width of the dead zone of three levels, as a fraction of ``relative``.
        relative: ``"max"`` of a row's sizes, or their root mean square, ``"rms"``.
        signal: :math:`n_s`, mean photoelectrons per pixel and exposure from the error.
        reference: :math:`n_r`, from the anchor or reference.
        camera: None for intensities without noise, rounding or saturation.
        speckles: Speckle grains, or polarisations, that a pixel averages over.
        shared: This and the other options are those of :class:`Feedback`.

    Raises:
        ValueError: An option has a value that is not listed, or there is no light.

    References:
        Saade et al., *Random projections through multiple optical scattering*, ICASSP 2016.
        Launay et al., *Hardware Beyond Backpropagation: a Photonic Co-Processor for Direct Feedback Alignment*, 2020.
        Ohana et al., *Linear optical random projections without holography*, Optics Express 31, 2023.
    """

    recovery: Literal["anchor", "phase", "offaxis", "none", "exact"] = "anchor"
    levels: int = 3
    threshold: float = 0.25
    relative: Literal["max", "rms"] = "max"
    signal: float = 300.0
    reference: float = 1_000.0
    camera: Camera | None = field(default_factory=Camera)
    speckles: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recovery not in ("anchor", "phase", "offaxis", "none", "exact"):
            raise ValueError(
                f"recovery must be one of 'anchor', 'phase', 'offaxis', 'none', 'exact'; found {self.recovery!r}."
            )
        bits_of(self.levels)
        if self.relative not in ("max", "rms"):
            raise ValueError(f"relative must be 'max' or 'rms', found {self.relative!r}.")
        if self.threshold < 0 or (self.relative == "max" and self.threshold >= 1):
            raise ValueError(
                f"threshold must be in [0, 1), a fraction of the largest error of a row; found {self.threshold}."
            )
        for name, photons in (("signal", self.signal), ("reference", self.reference)):
            if not (photons > 0 and math.isfinite(photons)):
                raise ValueError(
                    f"{name} expected photoelectrons per pixel above 0, found {photons}: without light there is no "
                    "signal. For no feedback at all use feedalign.Shallow()."
                )
        if self.speckles < 1:
            raise ValueError(f"speckles expected at least 1 grain per pixel, found {self.speckles}.")
        if self.recovery == "none" and self.levels != 3:
            raise ValueError(f"recovery='none' shows two frames, of levels=3; found levels={self.levels}.")
        if self.recovery == "offaxis" and self.speckles != 1:
            raise ValueError(f"recovery='offaxis' resolves every grain, so speckles=1; found {self.speckles}.")
        self._check_exposure()

    def _check_exposure(self) -> None:
        if self.camera is None or self.recovery == "exact":
            return
        light = self.signal + (0 if self.recovery == "none" else self.reference)
        fraction = self.camera.saturated(light)
        if fraction > TOLERATED:
            warnings.warn(
                f"About {100 * fraction:.2g} % of the pixels saturate: {light:g} photoelectrons per pixel in a full "
                f"well of {self.camera.full_well:g}. At {self.camera.full_well / -math.log(TOLERATED):.0f} or fewer it "
                f"would be {100 * TOLERATED:.0f} %.",
                stacklevel=4,
            )

    @classmethod
    def parsed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Return the camera."""
        return {"camera": given["camera"] and Camera(**given["camera"])}

    @property
    def ideal(self) -> bool:
        """Whether there is no light at all, and the matrix is that of :class:`feedalign.Normal`."""
        return self.recovery == "exact"

    def draw(self, rows: int, columns: int, generator: torch.Generator) -> Tensor:
        """Return the matrix that is recovered where there is no noise: independent entries of variance 1."""
        if self.ideal:
            return torch.randn(rows, columns, generator=generator, dtype=torch.float32)
        return super().draw(rows, columns, generator)

    def build(self, rows: int, columns: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return the medium, real and imaginary parts side by side, ``[C, mu * 2 * D]``, and the weights ``[mu, D]``.

        The phase of an anchor's field turns all entries of a column, whose distribution does not depend on it. So it
        is taken as 0, and the recovered matrix is made of the real parts, the first of which are those of ``Normal``.
        """
        fields = [
            torch.randn(rows, columns, generator=generator, dtype=torch.float32) for _ in range(2 * self.speckles)
        ]
        weights = torch.ones(self.speckles, columns, dtype=torch.float32)
        if self.recovery == "anchor":
            anchors = torch.randn(2, self.speckles, columns, generator=generator, dtype=torch.float32)
            weights = anchors.square().mean(0).sqrt()
        return torch.cat(fields, dim=1) / math.sqrt(2), weights

    def recovered(self, built: tuple[Tensor, ...]) -> Tensor:
        """Return the recovered matrix ``[C, D]``: a sum over modes of real parts times weights."""
        matrix, weights = built
        recovered: Tensor = (self._modes(matrix)[:, :, 0] * weights).sum(1) * math.sqrt(2 / self.speckles)
        return recovered

    def measure(self, error: Tensor, noise: Noise, built: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return what is recovered from the frames of the rounded error, and the scale of each row."""
        encoded = encode(error, self.levels, self.threshold, self.relative)
        found = self._recombined(encoded, built[0], built[1], noise)
        if self.levels == 2:
            found -= self.recovered(built).sum(0)  # of a frame of ones, known from many exposures
        return found, encoded.scale

    def _recombined(self, encoded: Encoded, matrix: Tensor, weights: Tensor, noise: Noise) -> Tensor:
        """Return the sum over frames of their projections, with entries of variance 1."""
        planes = encoded.planes()
        if self.recovery == "none":
            return self._intensities([on for _, on in planes], matrix, noise)
        total: Tensor | None = None
        for number, (weight, on) in enumerate(planes):
            lit = on.sum(1, keepdim=True, dtype=matrix.dtype)
            brightness = (self.signal / lit.clamp(min=1)).sqrt()
            field_ = (on.to(matrix.dtype) @ matrix) * brightness
            found = self._recovered(field_, weights, noise, number * EXPOSURES)
            # A dark frame is not shown: its projection is 0, and not noise.
            found.mul_((lit > 0).to(lit.dtype) * (weight * math.sqrt(2 * self.speckles)) / brightness)
            total = found if total is None else total.add_(found)
        assert total is not None
        return total

    def _recovered(self, field_: Tensor, weights: Tensor, noise: Noise, frame: int) -> Tensor:
        """Return what is recovered of a frame's field ``[N, mu * 2 * D]``, the mean over modes, ``[N, D]``."""
        modes = self._modes(field_)
        if self.recovery == "offaxis":
            fields = torch.complex(modes[:, 0, 0].contiguous(), modes[:, 0, 1].contiguous())
            return recover.off_axis(fields, self.reference, self.camera, noise, frame).real.contiguous()
        root = math.sqrt(self.reference)
        if self.speckles == 1:
            real, imaginary = modes[:, 0, 0], modes[:, 0, 1]
            power, cross = real.square().addcmul_(imaginary, imaginary), real * (weights[0] * root)
        else:
            power = modes.square().sum((1, 2)).div_(self.speckles)
            cross = (modes[:, :, 0] * weights).mean(1).mul_(root)
        if self.recovery == "phase":
            return recover.phase_shift(power, cross, self.reference, self.camera, noise, frame)
        anchors = weights.square().mean(0) * self.reference
        return recover.anchor(power, cross, anchors, self.reference, self.camera, noise, frame)

    def _intensities(self, frames: list[Tensor], matrix: Tensor, noise: Noise) -> Tensor:
        found = []
        for on in frames:
            lit = on.sum(1, keepdim=True, dtype=matrix.dtype)
            field_ = (on.to(matrix.dtype) @ matrix) * (self.signal / lit.clamp(min=1)).sqrt()
            found.append(self._modes(field_).square().sum((1, 2)) / self.speckles)
        positive, negative = (recover.read(each, self.camera, noise, i) for i, each in enumerate(found))
        ones = [on.sum(1, keepdim=True) / self.signal for on in frames]
        return positive * ones[0] - negative * ones[1]

    def _modes(self, values: Tensor) -> Tensor:
        """Return what is side by side as real and imaginary parts of every mode, ``[N, mu, 2, D]``."""
        return values.reshape(len(values), self.speckles, 2, -1)
