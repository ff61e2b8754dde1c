"""An adapter over the object of LightOn's library for its optical processing unit, which the user imports."""

import threading
from typing import Any

import torch
from torch import Tensor

from feedalign.errors import SignalError
from feedalign.hardware.projector import Inputs, Task

NO_PROJECTOR = (
    "No projector. fa.lighton expects an opened lightonml.OPU; none of feedalign needs it. To train without hardware "
    "write feedback=fa.Optical(). (PyPI's package pyopu is not LightOn's.)"
)


def lighton(opu: Any) -> "LightOn":
    """Return a device made of an opened ``lightonml.OPU``, for :class:`feedalign.Hardware`.

    lightonml 1.4 is archived and its driver comes with the device, so feedalign depends on neither. The adapter knows
    what may go wrong without a word there: values that are not zeros and ones are cast to ``uint8``, so that -1 becomes
    255; fitting again may change the matrix; the exposure, and so the gain, depends on how many mirrors are on; and
    the scale of simulated and real devices differs. So it shows every row with its complement beside it, which keeps
    the number of mirrors constant, fits once, checks what it shows, and leaves the scale to the calibration.

    Args:
        opu: It must have ``fit1d``, ``linear_transform`` and ``n_components``.

    Raises:
        SignalError: It is something else.
    """
    if not all(hasattr(opu, name) for name in ("fit1d", "linear_transform", "n_components")):
        raise SignalError(f"{NO_PROJECTOR} Found {type(opu).__name__}.")
    return LightOn(opu)


class LightOn:
    """See :func:`lighton`."""

    inputs: Inputs = "binary"

    def __init__(self, opu: Any) -> None:
        self.opu, self.columns = opu, int(opu.n_components)
        self.name = f"LightOn OPU ({type(opu).__name__})"
        self._width: int | None = None
        self._zero: Tensor | None = None
        self._lock = threading.Lock()

    @property
    def mirrors(self) -> int:
        """The most entries of a row: half of what the device shows, since the complement takes the other half."""
        shown = getattr(self.opu, "max_n_features", None)
        return 2**62 if shown is None else int(shown) // 2

    def start(self, rows: Tensor) -> Task:
        """Show rows ``uint8 [n, C]`` of zeros and ones, in a thread.

        Raises:
            SignalError: They hold something else, or have another width than before.
        """
        if rows.dtype != torch.uint8 or bool((rows > 1).any()):
            raise SignalError(
                f"An OPU shows zeros and ones in uint8, found {rows.dtype} from {rows.min()} to {rows.max()}. "
                "lightonml would cast them without a word, and -1 would become 255."
            )
        if self._width is None:
            self._width = rows.shape[1]
            self.opu.fit1d(n_features=2 * self._width)  # once: fitting again may change the matrix
        if rows.shape[1] != self._width:
            raise SignalError(
                f"The OPU was fitted for errors {self._width} wide, found {rows.shape[1]}. Fitting again may change "
                "its matrix: attach again for errors of another width."
            )
        return Task(lambda: self._projected(rows))

    def collect(self, ticket: Task) -> Tensor:
        """Return the projections ``float32 [n, columns]``."""
        return ticket.result()

    def _projected(self, rows: Tensor) -> Tensor:
        with self._lock:  # the device does one thing at a time
            if self._zero is None:
                self._zero = self._linear(torch.zeros_like(rows[:1]))
            return self._linear(rows) - self._zero

    def _linear(self, rows: Tensor) -> Tensor:
        shown = torch.cat([rows, 1 - rows], dim=1).contiguous()
        assert shown.dtype == torch.uint8
        assert int(shown.max()) <= 1
        return torch.as_tensor(self.opu.linear_transform(shown.numpy())).to(torch.float32)
