"""Measuring a device: the size of its entries, its noise, whether it is linear, whether it holds still."""

import base64
import hashlib
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from feedalign.errors import SignalError
from feedalign.hardware.projector import DTYPES, Projector

PROBES = 8
"""Frames that a device is recognised by."""
WEAK = 0.2
"""Columns whose variance, that of the noise included, is above this fraction of the median are not dead."""
PRINTED = 64
"""Columns of their responses that a fingerprint holds."""
DEAD = (1e-3, 1e-2)
"""Columns whose variance is below this fraction of the median are dead: the smaller one where noise is small, since the
columns of an anchor that happens to be dark answer weakly, and answer."""


@dataclass(frozen=True)
class Calibration:
    """What was measured of a device for rows of one width.

    Attributes:
        scale: What projections are divided by, so that the matrix has entries of variance 1.
        snr: Variance of the signal over that of the noise, from rows that were shown twice.
        linearity: Correlation of ``P(u + v)`` with ``P(u) + P(v)`` for rows that have no entry in common. A linear
            device has that of ``stability``; squared fields have 0.71.
        stability: Correlation of the same rows' projections, one pause apart.
        dead: Columns that answer nothing.
        columns: Of the device.
    """

    scale: float
    snr: float
    linearity: float
    stability: float
    dead: tuple[int, ...]
    columns: int
    live: Tensor = field(repr=False, compare=False, default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def __str__(self) -> str:
        return (
            f"scale {self.scale:.3g}, signal-to-noise ratio {self.snr:.3g}, linearity {self.linearity:.3f}, stability "
            f"{self.stability:.3f}, {len(self.dead)} of {self.columns} columns dead"
        )


def project(projector: Projector, rows: Tensor) -> Tensor:
    """Return the projections of rows, ``float32 [n, columns]``, now."""
    return projector.collect(projector.start(rows))


def correlation(a: Tensor, b: Tensor) -> float:
    """Return the correlation of the numbers of two tensors of one shape."""
    a, b = (each.double().flatten() - each.double().mean() for each in (a, b))
    return float(a @ b / (a.norm() * b.norm()).clamp(min=1e-300))


def random_rows(projector: Projector, rows: int, width: int, seed: int = 0) -> Tensor:
    """Return random rows in the device's own type, about half of their entries not 0, the same ones every time."""
    generator = torch.Generator("cpu").manual_seed(seed)
    bits = torch.randint(2, (rows, width), generator=generator, device="cpu")
    if width == 1:
        bits = torch.ones_like(bits)  # there is but one row that is not dark
    signs = torch.randint(2, (rows, width), generator=generator, device="cpu") * 2 - 1
    return (bits if projector.inputs == "binary" else bits * signs).to(DTYPES[projector.inputs])


def calibrate(
    projector: Projector, width: int, rows: int = 256, pause: float = 1.0, call: Any = project
) -> Calibration:
    """Measure a device for errors of one width.

    Args:
        projector: The device.
        width: ``C``.
        rows: How many random rows it is shown, most of them once.
        pause: Seconds between the two projections that tell how stable it is.
        call: How rows are projected, ``call(projector, rows)``.

    Raises:
        SignalError: The device answers nothing at all.
    """
    shown = random_rows(projector, rows, width)
    first = call(projector, shown)
    again = call(projector, shown)
    if pause:
        time.sleep(pause)
    later = call(projector, shown)
    mean = (first + again) / 2
    # The covariance of two exposures: the variance without that of the noise.
    centre = first.mean(0), again.mean(0)
    if width == 1:
        centre = torch.zeros_like(centre[0]), torch.zeros_like(centre[1])
    spread = ((first - centre[0]) * (again - centre[1])).mean(0)
    noise = float((first - again).square().mean()) / 2
    median = spread.median()
    plain = (first - centre[0]).square().mean(0)
    # Both: a column of a device that drifts answers differently the second time, and answers.
    dead = (spread < torch.clamp(2 * noise / len(shown) ** 0.5 / median, *DEAD) * median) & (
        plain < WEAK * plain.median()
    )
    live = (~dead).nonzero()[:, 0]
    if not len(live) or float(median) == 0:
        raise SignalError("The device answers the same to every frame: no light reaches it, or nothing is shown.")
    ones = shown.float().square().sum(1, keepdim=True).clamp(min=1)
    scale = float((mean[:, live].square() / ones).mean().sqrt())
    noise = float((first - again)[:, live].square().mean()) / 2  # of those that count
    signal = max(float(first[:, live].square().mean()) - noise, 0.0)
    half = width // 2
    u, v = shown.clone(), shown.clone()
    u[:, half:], v[:, :half] = 0, 0
    both = (u != 0).any(1) & (v != 0).any(1)
    linearity = 1.0
    if bool(both.any()):
        # Against the projection just before, so that a device which changes is not taken for one that is not linear.
        apart = call(projector, torch.cat([u[both], v[both]])).view(2, -1, projector.columns).sum(0)
        linearity = correlation(later[both][:, live], apart[:, live])
    return Calibration(
        scale=scale,
        snr=signal / noise if noise else float("inf"),
        linearity=linearity,
        stability=correlation(again[:, live], later[:, live]),
        dead=tuple(dead.nonzero()[:, 0].tolist()),
        columns=projector.columns,
        live=live,
    )


def fingerprint(projector: Projector, width: int, call: Any = project) -> str:
    """Return a text that tells this device from others: its responses to eight frames.

    Keep it beside a checkpoint, and give it to ``Hardware(expect=...)`` when training goes on.

    Args:
        projector: The device.
        width: ``C``, of the errors that it projects.
        call: How rows are projected.
    """
    found = call(projector, random_rows(projector, PROBES, width, seed=1))[:, :PRINTED].float()
    found = found / found.square().mean().sqrt().clamp(min=1e-30)
    packed = found.to(torch.float16).numpy().tobytes() if found.numel() else b""
    return f"{width}:{found.shape[1]}:{base64.b64encode(packed).decode()}"


def same_device(one: str, other: str) -> float:
    """Return the correlation of two fingerprints: near 1 for one device, near 0 for two; 0 where shapes differ.

    Raises:
        SignalError: A text is not a fingerprint.
    """
    a, b = _responses(one), _responses(other)
    return correlation(a, b) if a.shape == b.shape else 0.0


def short(text: str) -> str:
    """Return a fingerprint in a few letters, for people."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _responses(text: str) -> Tensor:
    try:
        _, columns, packed = text.split(":")
        values = torch.frombuffer(bytearray(base64.b64decode(packed, validate=True)), dtype=torch.float16)
        return values.reshape(PROBES, int(columns)).float()
    except (ValueError, RuntimeError) as error:
        raise SignalError(
            f"Expected a fingerprint as feedalign.fingerprint(device, width) returns it, found {text[:40]!r}."
        ) from error
