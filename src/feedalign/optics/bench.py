"""A simulated optical co-processor with a clock: its medium drifts, its interferometer wanders, its pixels die."""

import math
import threading
import time
from types import TracebackType
from typing import Literal

import torch
from torch import Tensor

from feedalign.errors import SignalError
from feedalign.feedback.feedback import seeded
from feedalign.hardware.projector import Inputs
from feedalign.optics import recovery as recover
from feedalign.optics.camera import Camera
from feedalign.optics.medium import drift, shown, transmission
from feedalign.optics.noise import GOLDEN, Noise, mix

Fault = Literal["raise", "hang", "nan", "shape", "columns"]
ROWS = 4096
"""Frames that are simulated at a time."""


class Bench:
    """An optical table in software, behind the same two methods as a real device (:class:`feedalign.Projector`).

    One call of :meth:`start` is one tick of its clock: the medium and the phase of the reference move on by one step.
    Unlike :class:`feedalign.Optical` it has a state, so it serves one process, and a run that is repeated needs another
    one made with the same arguments.

    Args:
        columns: Pixels that are read, so numbers of a projection.
        mirrors: The most entries that a frame may have.
        recovery: ``"anchor"``, ``"phase"``, ``"offaxis"`` or ``"none"``.
        camera: None for intensities without noise.
        signal: Mean photoelectrons per pixel from the frame.
        reference: The same from the anchor or the reference.
        tau: Ticks in which the field of the medium decorrelates to 1/e.
        phase_walk: Standard deviation of the reference's phase per tick, in radians.
        dead: Fraction of pixels that always read 0.
        latency: Seconds between :meth:`start` and the result, while the caller goes on.
        matrix: A transmission matrix ``complex [mirrors, columns]``, in place of one drawn from the seed.
        seed: Of the medium, the dead pixels and all noise.

    Raises:
        ValueError: An argument is out of range.
    """

    inputs: Inputs = "binary"

    def __init__(
        self, columns: int = 4096, *, mirrors: int = 65_536,
        recovery: recover.Recovery = "anchor", camera: Camera | None = Camera(),  # noqa: B008 - it is frozen
        signal: float = 300.0, reference: float = 1_000.0, tau: float = math.inf, phase_walk: float = 0.0,
        dead: float = 0.0, latency: float = 0.0, matrix: Tensor | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        if columns < 1 or mirrors < 1 or signal <= 0 or reference <= 0 or tau <= 0:
            raise ValueError("columns, mirrors, signal, reference and tau expected numbers above 0.")
        if not 0 <= dead < 1 or latency < 0 or phase_walk < 0:
            raise ValueError("dead expected a fraction below 1, latency and phase_walk numbers of at least 0.")
        if recovery not in recover.FRAMES:
            raise ValueError(f"recovery must be one of {', '.join(map(repr, recover.FRAMES))}; found {recovery!r}.")
        self.columns, self.mirrors, self.recovery, self.camera = columns, mirrors, recovery, camera
        self.signal, self.reference, self.tau, self.phase_walk = signal, reference, tau, phase_walk
        self.latency, self.seed = latency, seed
        self.clock, self.phase, self.saturated = 0, 0.0, 0.0
        self.frames = 0
        """Frames of the modulator shown so far."""
        self._generator = seeded(seed, "bench", mirrors, columns)
        field = transmission(1, columns, self._generator)[0] * math.sqrt(reference)
        self._anchor = field
        self._dead = torch.rand(columns, generator=self._generator) < dead
        self._matrix = torch.empty(0, columns, dtype=torch.complex64) if matrix is None else matrix
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._open = True

    def __enter__(self) -> "Bench":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Switch it off."""
        self._open = False

    def fail(self, fault: Fault, times: int = 1) -> None:
        """Let the next calls go wrong.

        Args:
            fault: ``"raise"`` an error, ``"hang"`` without an answer, or return NaN (``"nan"``), a row too few
                (``"shape"``), or a column too few (``"columns"``).
            times: How many calls.
        """
        self._faults += [fault] * times

    def matrix(self, width: int) -> Tensor:
        """Return the transmission matrix of the first mirrors as it is now, ``complex64 [width, columns]``."""
        rows = self._matrix.shape[0]
        if width > rows:  # of a matrix that was given, the mirrors beyond are drawn too
            # Row by row, so that a mirror's numbers do not depend on how many others are in use.
            more = [
                transmission(1, self.columns, seeded(self.seed, f"mirror {i}", 1, self.columns))
                for i in range(rows, width)
            ]
            self._matrix = torch.cat([self._matrix, *more])
        return self._matrix[:width]

    def start(self, rows: Tensor) -> "Exposure":
        """Show frames, and return at once.

        Args:
            rows: ``uint8 [n, C]`` of zeros and ones.

        Raises:
            SignalError: The frames are not binary, or the device has fewer mirrors.
        """
        if not self._open:
            raise SignalError("The simulated device is closed. Use it inside of its `with` block.")
        if rows.dtype != torch.uint8 or bool((rows > 1).any()):
            raise SignalError(f"The device shows zeros and ones in uint8, found {rows.dtype} up to {rows.max()}.")
        if rows.shape[1] > self.mirrors:
            raise SignalError(f"The error is {rows.shape[1]:,} wide; the device shows {self.mirrors:,} mirrors.")
        with self._lock:
            tick, fault = self.clock, self._faults.pop(0) if self._faults else None
            medium, phase = self.matrix(rows.shape[1]), self.phase
            self._tick()
        return Exposure(self, rows, medium, phase, tick, fault)

    def collect(self, ticket: "Exposure") -> Tensor:
        """Return the projections, ``float32 [n, columns]``, with entries of variance about 1; waits for them."""
        return ticket.result()

    def fields(self, rows: Tensor) -> Tensor:
        """Return both quadratures without noise, ``complex64 [n, columns]``: what a phase-stepping device can read."""
        turned = torch.polar(
            torch.tensor(1.0), torch.tensor(-self.phase if self.recovery in ("phase", "offaxis") else 0.0)
        )
        return shown(rows, self.matrix(rows.shape[1]), self.signal) * turned

    def _tick(self) -> None:
        self.clock += 1
        if self.phase_walk:
            self.phase += self.phase_walk * float(torch.randn((), generator=self._generator))
        if not math.isinf(self.tau) and len(self._matrix):
            # The anchor's mirrors see the same medium.
            both = drift(
                torch.cat([self._matrix, self._anchor[None] / math.sqrt(self.reference)]), 1, self.tau, self._generator
            )
            self._matrix, self._anchor = both[:-1], both[-1] * math.sqrt(self.reference)

    def expose(self, rows: Tensor, medium: Tensor, phase: float, anchor: Tensor, tick: int) -> Tensor:
        """Return what is recovered from frames that were shown in one tick."""
        made = [self._expose(some, medium, phase, anchor, tick, i) for i, some in enumerate(torch.split(rows, ROWS))]
        return torch.cat(made) if made else torch.zeros(0, self.columns)

    def _expose(self, rows: Tensor, medium: Tensor, phase: float, anchor: Tensor, tick: int, part: int) -> Tensor:
        places = torch.arange(len(rows)) + part * ROWS
        noise = Noise(mix(mix(places + self.seed * GOLDEN % 2**62) + tick))
        fields = shown(rows, medium, self.signal).masked_fill(self._dead, 0)
        brightness = (self.signal / rows.sum(1, keepdim=True).clamp(min=1)).sqrt()
        power = fields.abs().square()
        self._meter(power)
        if self.recovery == "none":
            return recover.read(power, self.camera, noise, 0) / brightness.square()
        if self.recovery == "anchor":
            cross = (fields * anchor.conj()).real
            counts = anchor.abs().square().masked_fill(self._dead, 0)
            found = recover.anchor(power, cross, counts, self.reference, self.camera, noise)
        else:
            turned = fields * torch.polar(torch.tensor(1.0), torch.tensor(-phase))
            if self.recovery == "phase":
                cross = turned.real * math.sqrt(self.reference)
                found = recover.phase_shift(power, cross, self.reference, self.camera, noise)
            else:
                found = recover.off_axis(turned, self.reference, self.camera, noise).real
        return found.masked_fill(self._dead, 0) / brightness * math.sqrt(2)

    def _meter(self, power: Tensor) -> None:
        """Note how many pixels overflow: those of a speckle pattern of this mean."""
        if self.camera is not None and len(power):
            light = float(power.mean()) + (0 if self.recovery == "none" else self.reference)
            self.saturated = self.camera.saturated(light)

    def answer(self, exposure: "Exposure") -> Tensor:
        """Return the result of an exposure, or let it go wrong as :meth:`fail` said."""
        self.frames += len(exposure.rows)
        fault = exposure.fault
        if fault == "raise":
            raise OSError("the simulated device lost its camera")
        if fault == "hang":
            time.sleep(3600)
        found = self.expose(exposure.rows, exposure.medium, exposure.phase, exposure.anchor, exposure.tick)
        if fault == "nan":
            found[0, 0] = math.nan
        return found[1:] if fault == "shape" else found[:, 1:] if fault == "columns" else found


class Exposure:
    """One call of :meth:`Bench.start`, on its way."""

    def __init__(
        self, bench: Bench, rows: Tensor, medium: Tensor, phase: float, tick: int, fault: Fault | None
    ) -> None:
        self.bench, self.rows, self.medium, self.phase, self.tick, self.fault = bench, rows, medium, phase, tick, fault
        self.anchor = bench._anchor
        self._found: Tensor | None = None
        self._error: Exception | None = None
        self._done = threading.Event()
        if bench.latency or fault == "hang":
            threading.Thread(target=self._run, daemon=True).start()
        else:
            self._run()

    def _run(self) -> None:
        time.sleep(self.bench.latency)
        try:
            self._found = self.bench.answer(self)
        except Exception as error:  # noqa: BLE001 - handed to whoever collects
            self._error = error
        self._done.set()

    def result(self) -> Tensor:
        """Return the projections; waits for them."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        assert self._found is not None
        return self._found
