"""Feedback by a device: its matrix is whatever the device multiplies by, measured and watched, never drawn."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from feedalign.errors import SignalError
from feedalign.feedback.feedback import Feedback, Kept, Parts, Site
from feedalign.hardware.calibrate import Calibration, short
from feedalign.hardware.driver import Driver
from feedalign.hardware.lighton import NO_PROJECTOR
from feedalign.hardware.projector import DTYPES, Function, Inputs, Projector
from feedalign.optics.encoding import bits_of


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Hardware(Feedback):
    """Projections by a device of your own, or by a simulated one with a clock (:class:`feedalign.optics.Bench`).

    Each row of the error is rounded to few levels and sent as frames that the device can show; frames of zeros are not
    sent, equal frames once. What comes back is checked, divided by the measured scale, and put together. The device is
    calibrated before the first projection and looked at again from time to time: one that changes, saturates, is not
    linear, or does not answer, raises; a signal is never replaced by zeros.

    The projection runs while the backward pass of what lies above the last point runs, where the rule allows it
    (``DFA``, ``SignDFA``, ``TernaryDFA``, ``DRTP``). One matrix serves all points.

    Args:
        projector: A :class:`feedalign.Projector`, or a function of rows ``[n, C]``; then say ``columns``.
        columns: Numbers that a function returns per row.
        inputs: What a function is given: ``"real"``, ``"ternary"`` or ``"binary"``.
        levels: Levels of the error for devices that show few, as for :class:`feedalign.Optical`.
        threshold: As for :class:`feedalign.Optical`.
        relative: As for :class:`feedalign.Optical`.
        timeout: Seconds that a projection may take, with all its tries.
        tries: How often a projection is tried.
        watch: Projections between two looks at the device; 0 for never.
        expect: The fingerprint of the device that training began with, of ``hardware.fingerprint``.
        scale: As of :class:`Feedback`.
        gain: As of :class:`Feedback`.
        positions: As of :class:`Feedback`.
        channel: As of :class:`Feedback`.
        shared: Must be True.

    Raises:
        SignalError: There is no device.
        ValueError: An option has a value that is not listed.
    """

    deferred: ClassVar[bool] = True
    eager: ClassVar[str] = "a device answers in its own time, which a compiled graph cannot hold"

    projector: Any = None
    columns: int | None = None
    inputs: Inputs | None = None
    levels: int = 3
    threshold: float = 0.25
    relative: Literal["max", "rms"] = "max"
    timeout: float = 30.0
    tries: int = 5
    watch: int = 100
    expect: str | None = None
    driver: Driver = field(init=False, repr=False, compare=False)

    def __init__(
        self, projector: Any = None, *, columns: int | None = None, inputs: Inputs | None = None, levels: int = 3,
        threshold: float = 0.25, relative: Literal["max", "rms"] = "max", timeout: float = 30.0, tries: int = 5,
        watch: int = 100, expect: str | None = None, scale: Literal["point", "widest"] = "point", gain: float = 1.0,
        positions: Literal["flatten", "repeat"] = "flatten", channel: int | None = None, shared: bool = True,
    ) -> None:  # fmt: skip
        given = dict(locals())
        for name in ("projector", "columns", "inputs", "levels", "threshold", "relative", "timeout", "tries", "watch",
                     "expect", "scale", "gain", "positions", "channel", "shared"):  # fmt: skip
            object.__setattr__(self, name, given[name])
        super().__post_init__()
        if not shared:
            raise ValueError(
                "A device has one matrix, which all points share: leave out shared=False. Rules that learn a matrix "
                "per point need another family, such as feedalign.Normal(shared=False)."
            )
        bits_of(levels)
        if not (timeout > 0 and tries >= 1 and watch >= 0 and threshold >= 0):
            raise ValueError(
                "timeout and tries expected numbers above 0, watch and threshold of at least 0; found "
                f"{timeout}, {tries}, {watch} and {threshold}."
            )
        object.__setattr__(self, "driver", Driver(self, _device(projector, columns, inputs)))

    def __repr__(self) -> str:
        return f"Hardware({self.driver.name})"

    def __reduce__(self) -> Any:
        if not getattr(self.driver.device, "shareable", False):
            raise SignalError(
                f"{self.driver.name} cannot be pickled: a device is in one place. Offer it with `feedalign serve` and "
                "write fa.Hardware(fa.Remote(url)), or train with fa.Optical(), which is the same everywhere."
            )
        names = ("levels", "threshold", "relative", "timeout", "tries", "watch", "expect", "scale", "gain", "positions",
                 "channel")  # fmt: skip
        return _again, (self.projector, {name: getattr(self, name) for name in names})

    def __deepcopy__(self, memo: dict[int, Any]) -> "Hardware":
        return self  # a copied model has the same device

    @property
    def calibration(self) -> Calibration | None:
        """What was measured of the device; None before its first projection."""
        return self.driver.calibration

    @property
    def fingerprint(self) -> str | None:
        """What tells this device from others, to be kept beside checkpoints; None before its first projection."""
        return self.driver.fingerprint

    def draw(self, rows: int, columns: int, generator: torch.Generator) -> Tensor:
        """Raise: nothing is drawn.

        Raises:
            SignalError: Always.
        """
        raise SignalError(
            f"The matrix of {self.driver.name} is measured and not drawn, so rules that go from layer to layer cannot "
            "have it. Choose a rule that broadcasts, such as DFA."
        )

    def check(self, sites: tuple[Site, ...], rows: int) -> None:
        """Raise in the forward pass if the device cannot serve these points for errors of this width.

        Raises:
            SignalError: A point or the error is too wide for it, or it would be one of several devices.
        """
        device = self.driver.device
        for site in sites:
            if site.columns > device.columns:
                raise SignalError(
                    f"Point {site.key!r} has {site.columns} features and the projector returns {device.columns} "
                    f"numbers. Use points of at most {device.columns}, or a projector with more columns."
                )
        mirrors = getattr(device, "mirrors", None)
        if mirrors is not None and rows > mirrors:
            raise SignalError(
                f"The error is {rows:,} wide; the device shows {mirrors:,} mirrors. Name a narrower output with "
                "output=, or use a larger device."
            )
        if _world() > 1 and not getattr(device, "shareable", False):
            raise SignalError(
                f"{self.driver.name} serves one process, and {_world()} train together: each would have "
                "a matrix of its own. Offer one device to all of them with `feedalign serve` and "
                "fa.Hardware(fa.Remote(url)), or train with fa.Optical()."
            )

    def keep(self, seed: int, parts: Parts, rows: int, dtype: torch.dtype, device: torch.device) -> Kept:
        """Return nothing: the device keeps its matrix itself."""
        return ()

    def notes(self) -> list[str]:
        """Return what was measured of the device."""
        driver = self.driver
        if driver.calibration is None or driver.fingerprint is None:
            return [f"{driver.name}: not yet calibrated"]
        dead = driver.calibration.dead
        listed = f"; dead and replaced by spare ones: {', '.join(map(str, dead[:20]))}" if dead else ""
        more = " ..." if len(dead) > 20 else ""
        return [f"{driver.name} {short(driver.fingerprint)}: {driver.calibration}{listed}{more}"]

    def prefetch(self, error: Tensor) -> None:
        """Let the device begin with an error ``[N, C]``, whose :meth:`product` will be asked for."""
        self.driver.begin(error)

    def product(self, error: Tensor, parts: Parts, kept: Kept) -> Tensor:
        """Return the device's projection of ``error [N, C]``, scaled, ``[N, D]``."""
        ((_, columns, factor),) = parts
        return self.driver.finish(error, columns, factor)


def _again(projector: Any, options: dict[str, Any]) -> Hardware:
    return Hardware(projector, **options)


def _device(projector: Any, columns: int | None, inputs: Inputs | None) -> Projector:
    if projector is None:
        raise SignalError(NO_PROJECTOR)
    if isinstance(projector, Projector):
        if projector.inputs not in DTYPES:
            raise SignalError(f"inputs of a projector expected {', '.join(DTYPES)}; found {projector.inputs!r}.")
        return projector
    if callable(projector):
        if columns is None:
            raise SignalError("Expected columns= with a function: how many numbers it returns per row.")
        return Function(projector, columns, inputs or "real")
    raise SignalError(
        f"Expected a projector with columns, inputs, start(rows) and collect(ticket), or a function; found "
        f"{type(projector).__name__}. {NO_PROJECTOR}"
    )


def _world() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
