"""What a device has to do, and the adapter that makes a device of any function."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

Inputs = Literal["binary", "ternary", "real"]
DTYPES: dict[Inputs, torch.dtype] = {"binary": torch.uint8, "ternary": torch.int8, "real": torch.float32}
"""Of the rows that a device is given: 0 and 1; -1, 0 and 1; numbers in [-1, 1]."""


@runtime_checkable
class Projector(Protocol):
    """A device that multiplies rows by a fixed matrix. These two methods and two attributes are the whole contract.

    A device may also have: ``mirrors`` (the most entries a row may have), ``name`` (how errors call it),
    ``shareable`` (True if several processes may use the one device, as :class:`feedalign.Remote`), ``saturated`` (the
    fraction of its camera's pixels that overflowed last), and ``fields(rows)`` (both quadratures as complex numbers).
    """

    columns: int
    """Numbers that a projection of one row has."""
    inputs: Inputs
    """What it can be given: ``"binary"`` (``uint8``), ``"ternary"`` (``int8``) or ``"real"`` (``float32``)."""

    def start(self, rows: Tensor) -> Any:
        """Begin to project ``rows [n, C]``, on the CPU, and return a ticket at once."""

    def collect(self, ticket: Any) -> Tensor:
        """Return the projections of a ticket, ``float32 [n, columns]`` on the CPU; waits for them."""


class Task:
    """A call that runs in a thread of its own, which an interpreter that ends does not wait for."""

    def __init__(self, call: Callable[[], Tensor]) -> None:
        self._queue: SimpleQueue[tuple[Tensor | None, BaseException | None]] = SimpleQueue()
        self._call = call
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._queue.put((self._call(), None))
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            self._queue.put((None, error))

    def result(self, timeout: float | None = None) -> Tensor:
        """Return what the call returned, or raise what it raised. May be called once.

        Raises:
            queue.Empty: It took longer than ``timeout`` seconds.
        """
        found, error = self._queue.get(timeout=timeout)
        if error is not None:
            raise error
        assert found is not None
        return found


class Function:
    """A device made of a function that maps rows ``[n, C]`` to projections ``[n, columns]``.

    Calls run in threads of their own, one after another, while the backward pass goes on.

    Args:
        function: The function.
        columns: Numbers of a projection.
        inputs: What it is given: ``"binary"``, ``"ternary"`` or ``"real"``.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], columns: int, inputs: Inputs = "real") -> None:
        self.function, self.columns, self.inputs = function, columns, inputs
        self.name = getattr(function, "__qualname__", type(function).__name__)
        self._lock = threading.Lock()

    def start(self, rows: Tensor) -> Task:
        """Call the function in a thread."""

        def call() -> Tensor:
            with self._lock, torch.no_grad():  # a device does one thing at a time
                return self.function(rows)

        return Task(call)

    def collect(self, ticket: Task) -> Tensor:
        """Return what the function returned."""
        return ticket.result()
