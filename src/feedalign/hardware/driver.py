"""What goes to a device and comes back: frames and tickets, tries and timeouts, calibration and watch."""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from feedalign.errors import SignalError
from feedalign.hardware.calibrate import (
    PROBES,
    Calibration,
    calibrate,
    correlation,
    fingerprint,
    random_rows,
    same_device,
    short,
)
from feedalign.hardware.projector import DTYPES, Projector, Task
from feedalign.optics.encoding import encode
from feedalign.watch import in_transform

if TYPE_CHECKING:
    from feedalign.feedback.hardware import Hardware

DISTINCT = 64
"""Widths of the error up to which equal frames are looked for: wider ones hardly repeat."""
FIRST_PROBE = 10
"""Projections until the device is first looked at again; from then on twice as many, up to ``watch``."""
PATIENCE = 0.1
"""Seconds before a projection that failed is tried again."""
SATURATED = (0.02, 0.2)
"""Fractions of overflowing pixels from which there is a warning, and an error."""
DRIFT = (0.98, 0.9)
"""Correlations per ``watch`` projections below which there is a warning, and an error."""
PENDING = 16
"""Projections that may be under way: one per output of a model, and some that nobody came to collect."""
STABLE = 0.5
"""Stability from which linearity can be told from noise."""
PROBE_SNR, PROBES_MOST = 5.0, 64
"""Looks at the device are averaged until they have this ratio of signal to noise, and over how many at most."""
LINEAR = 0.9
"""Least linearity, as a fraction of the device's stability."""


@dataclass(eq=False)
class Sent:
    """Frames on their way."""

    error: Tensor
    """Held so that no other tensor can have its place in memory."""
    scale: Tensor
    weights: list[float]
    rows: int
    """``N``"""
    shown: Tensor
    """The distinct frames that are not dark, ``[n, C]``."""
    places: Tensor
    """For every frame of every row the number of the frame shown, -1 for a dark one, ``[planes * N]``."""
    answer: "Answer | None"
    """None where nothing is shown."""


class Driver:
    """The state of one device in use: what is under way, and what was measured of it."""

    def __init__(self, options: "Hardware", device: Projector) -> None:
        self.options, self.device = options, device
        self.name = str(getattr(device, "name", type(device).__name__))
        self.calibration: Calibration | None = None
        self.fingerprint: str | None = None
        self.projections = 0
        self._width: int | None = None
        self._ones: Tensor | None = None
        self._sent: list[Sent] = []
        self._probed: Tensor | None = None
        self._turned: Tensor | None = None
        self._baseline, self._repeats = 1.0, 2
        self._since, self._next = 0, 0
        self._warned: set[str] = set()

    # From an error to frames, and back.

    def begin(self, error: Tensor) -> None:
        """Send the frames of an error."""
        if in_transform():
            raise SignalError(
                f"{self.name} cannot be used inside of torch.func: a device is shown numbers, once. Train with "
                "fa.Optical(), or outside of vmap and grad."
            )
        self._prepare(error.shape[1])
        with torch.no_grad():
            self._sent = [*self._sent, self._send(error.detach())][-PENDING:]

    def finish(self, error: Tensor, columns: int, factor: float) -> Tensor:
        """Return the scaled projection of an error, begun before or now, ``[N, columns]``."""
        if not self._begun(error):
            self.begin(error)
        (sent,) = self._begun(error)
        self._sent.remove(sent)
        with torch.no_grad():
            found = self._put_together(sent, columns)
            return (found * (sent.scale * factor)).to(error.device, error.dtype)

    def _begun(self, error: Tensor) -> list["Sent"]:
        return [sent for sent in self._sent if sent.error.data_ptr() == error.data_ptr() and sent.rows == len(error)][
            :1
        ]

    def _send(self, error: Tensor) -> Sent:
        numbers = error.to("cpu", torch.float64 if error.dtype == torch.float64 else torch.float32)
        inputs, options = self.device.inputs, self.options
        # A row that is not finite cannot be shown. Its signal is NaN, so that loss scaling takes the step back.
        finite = torch.isfinite(numbers).all(1, keepdim=True)
        numbers = torch.where(finite, numbers, torch.zeros_like(numbers))
        if inputs == "real":
            scale = numbers.abs().amax(1, keepdim=True)
            planes = [(1.0, numbers / torch.where(scale > 0, scale, torch.ones_like(scale)))]
        else:
            encoded = encode(numbers, options.levels, options.threshold, options.relative)
            scale, found = encoded.scale, encoded.planes()
            if inputs == "ternary" and not encoded.signs:
                found = [
                    (found[i][0], found[i][1].to(torch.int8) - found[i + 1][1].to(torch.int8))
                    for i in range(0, len(found), 2)
                ]
            planes = [(weight, frame) for weight, frame in found]
        frames = torch.cat([frame.to(DTYPES[inputs]) for _, frame in planes])
        lit = (frames != 0).any(1)
        shown, places = frames[lit], torch.full((len(frames),), -1)
        if frames.shape[1] <= DISTINCT and len(shown):
            shown, inverse = torch.unique(shown, dim=0, return_inverse=True)
            places[lit] = inverse
        else:
            places[lit] = torch.arange(len(shown))
        answer = Answer(self, shown) if len(shown) else None
        self.projections += 1
        scale = torch.where(finite, scale, torch.full_like(scale, math.nan))
        return Sent(error, scale, [weight for weight, _ in planes], len(error), shown, places, answer)

    def _put_together(self, sent: Sent, columns: int) -> Tensor:
        """Return the projection of the rounded error, with entries of variance 1, ``[N, columns]``."""
        total = torch.zeros(sent.rows, columns, dtype=sent.scale.dtype)
        if sent.answer is None:
            return total
        assert self.calibration is not None
        live = self._live(columns)
        found = (sent.answer.result()[:, live] / self.calibration.scale).to(total.dtype)
        self._check_saturation()
        for weight, places in zip(sent.weights, torch.split(sent.places, sent.rows), strict=True):
            lit = places >= 0
            total[lit] += weight * found[places[lit]]
        if self.options.levels == 2 and self.device.inputs != "real":
            assert self._ones is not None
            total -= (self._ones[live] / self.calibration.scale).to(total.dtype)
        return total

    def _live(self, columns: int) -> Tensor:
        calibration = self.calibration
        assert calibration is not None
        if len(calibration.live) < columns:
            raise SignalError(
                f"{len(calibration.dead)} of the {calibration.columns} columns of {self.name} are dead, and "
                f"{calibration.columns - columns} are to spare for points of {columns} features. Use narrower points, "
                "or a device with more columns."
            )
        return calibration.live[:columns]

    def _check_saturation(self) -> None:
        fraction = float(getattr(self.device, "saturated", 0.0))
        if fraction <= SATURATED[0]:
            return
        camera = getattr(self.device, "camera", None)
        hint = (
            ""
            if camera is None
            else f" At {camera.full_well / math.log(50):.0f} photoelectrons per pixel it would be 2 %."
        )
        if fraction > SATURATED[1]:
            raise SignalError(
                f"{100 * fraction:.0f} % of the pixels of {self.name} saturate, so that its projection is no longer "
                f"linear. Shorten the exposure.{hint}"
            )
        self._warn("saturation", f"{100 * fraction:.1f} % of the pixels of {self.name} saturate.{hint}")

    def _warn(self, about: str, message: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            warnings.warn(message, stacklevel=2)

    # Measuring the device.

    def _prepare(self, width: int) -> None:
        """Calibrate before the first projection, and look at the device again from time to time."""
        if self._width is None:
            self._calibrate(width)
        elif self._width != width:
            raise SignalError(
                f"{self.name} was calibrated for errors {self._width} wide, found {width}. Use another "
                "fa.Hardware(...) for another output."
            )
        elif self.options.watch and self.projections >= self._next:
            self._look()

    def project(self, device: Projector, rows: Tensor) -> Tensor:
        """Return the projections of rows now, with all checks."""
        return Answer(self, rows).result()

    def _calibrate(self, width: int) -> None:
        calibration = calibrate(self.device, width, pause=0.0, call=self.project)
        if calibration.stability > STABLE and calibration.linearity < LINEAR * calibration.stability:
            raise SignalError(
                f"{self.name} is not linear: P(u + v) and P(u) + P(v) have correlation {calibration.linearity:.2f}, "
                f"and two projections of the same rows {calibration.stability:.2f}. Raw intensities train nothing: "
                "recover the linear projection, with an anchor or a reference (feedalign.optics.recovery)."
            )
        found = fingerprint(self.device, width, call=self.project)
        expected = self.options.expect
        if expected is not None and (alike := same_device(expected, found)) < LINEAR * min(1.0, calibration.stability):
            raise SignalError(
                f"Expected the device {short(expected)} that training began with, found {self.name} ({short(found)}), "
                f"whose responses have correlation {alike:.2f} with those. A network trained with one matrix does not "
                "go on with another: put the device back, or train from the start."
            )
        if self.options.levels == 2 and self.device.inputs != "real":
            ones = torch.ones(1, width, dtype=DTYPES[self.device.inputs])
            self._ones = torch.stack([self.project(self.device, ones)[0] for _ in range(16)]).mean(0)
        self._repeats = min(max(2, math.ceil(PROBE_SNR / max(calibration.snr, 1e-6))), PROBES_MOST)
        self._probed, self._turned = self._probe(width), self._fields(width)
        self._baseline = max(correlation(self._probed, self._probe(width)), 1e-3)
        self.calibration, self.fingerprint, self._width = calibration, found, width
        self._since, self._next = FIRST_PROBE, FIRST_PROBE

    def _probe(self, width: int) -> Tensor:
        rows = random_rows(self.device, PROBES, width, seed=2)
        return torch.stack([self.project(self.device, rows) for _ in range(self._repeats)]).mean(0)

    def _fields(self, width: int) -> Tensor | None:
        if not hasattr(self.device, "fields"):
            return None
        found: Tensor = self.device.fields(random_rows(self.device, PROBES, width, seed=2))
        return found

    def _look(self) -> None:
        """Compare the device with what it was when it was last looked at."""
        assert self._probed is not None
        assert self._width is not None
        now, turned = self._probe(self._width), self._fields(self._width)
        steps = self._since
        alike = min(max(correlation(self._probed, now) / self._baseline, 1e-6), 1.0)
        kept = alike ** (self.options.watch / steps)
        if kept < DRIFT[0]:
            self._complain(alike, kept, steps, turned)
        self._probed, self._turned = now, turned
        self._since = min(2 * steps, self.options.watch)
        self._next = self.projections + self._since

    def _complain(self, alike: float, kept: float, steps: int, turned: Tensor | None) -> None:
        lasting = steps / max(-math.log(alike), 1e-12)
        if self._turned is not None and turned is not None:
            a, b = self._turned.flatten(), turned.flatten()
            coherent = float((a.conj() @ b).abs() / (a.norm() * b.norm()))
            if coherent > DRIFT[0] > alike:
                raise SignalError(
                    f"The reference arm of {self.name} wanders: fields keep correlation {coherent:.2f} and projections "
                    f"{alike:.2f} within {steps} projections, so the phase turns and the medium does not. Signals no "
                    "longer belong to one matrix. Recover by an anchor (recovery='anchor'), which goes the same way as "
                    "the signal, or show a known frame at intervals and divide its phase out."
                )
        message = (
            f"The medium of {self.name} decorrelates within {lasting:.0f} steps (correlation {alike:.3f} over {steps})"
        )
        if kept < DRIFT[1]:
            raise SignalError(
                f"{message}: signals no longer belong to one matrix, which trains worse than Shallow(). Let the device "
                "come to rest, or stop here and go on from the last checkpoint when it has."
            )
        self._warn("drift", f"{message}. Training bears it as long as that is many hundred steps.")


class Answer:
    """Rows that a device has been given. Tried again if it fails, and never without an end."""

    def __init__(self, driver: Driver, rows: Tensor) -> None:
        self.driver, self.rows = driver, rows
        self._ticket: Any = None
        self._failed: Exception | None = None
        self._start()

    def _start(self) -> None:
        try:
            self._ticket, self._failed = self.driver.device.start(self.rows), None
        except Exception as error:  # noqa: BLE001 - tried again, then raised
            self._failed = error

    def result(self) -> Tensor:
        """Return ``[n, columns]``.

        Raises:
            SignalError: The device did not answer in time, or failed in every try.
        """
        options, device = self.driver.options, self.driver.device
        asked = time.monotonic()  # not since the start: the backward pass may take its time
        problem: str = ""
        cause: Exception | None = None
        for number in range(options.tries):
            if number:
                time.sleep(PATIENCE)
                self._start()
            if self._failed is not None:
                problem, cause = f"{type(self._failed).__name__}: {self._failed}", self._failed
                continue
            left = options.timeout - (time.monotonic() - asked)
            try:
                # In a thread, since a device that hangs cannot be told to stop.
                found = _collecting(device.collect, self._ticket).result(timeout=max(left, 0.001))
            except Empty:
                raise SignalError(
                    f"{self.driver.name} did not answer within {options.timeout:g} s. No step was taken: see to the "
                    "device and go on from the last checkpoint, or raise timeout=."
                ) from None
            except Exception as error:  # noqa: BLE001 - tried again, then raised
                problem, cause = f"{type(error).__name__}: {error}", error
                continue
            problem, cause = self._wrong(found), None
            if not problem:
                return found
        raise SignalError(
            f"{self.driver.name} failed in {options.tries} tries. The last: {problem} No step was taken: see to the "
            "device and go on from the last checkpoint."
        ) from cause

    def _wrong(self, found: object) -> str:
        """Return what is wrong with an answer; nothing if it is right."""
        wanted = (len(self.rows), self.driver.device.columns)
        if not isinstance(found, Tensor):
            return f"it expected to return a tensor {list(wanted)}, and returned {type(found).__name__}."
        if tuple(found.shape) != wanted:
            return f"it expected to return {list(wanted)}, and returned {list(found.shape)}."
        if not bool(torch.isfinite(found).all()):
            return "it returned numbers that are not finite."
        return ""


def _collecting(collect: Callable[[Any], Tensor], ticket: Any) -> Task:
    return Task(lambda: collect(ticket))
