"""How a run tells its progress, and how it is asked to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol


class Progress(Protocol):
    """Who is told how a run goes on. Calls come in this order; a run found finished calls ``message`` only."""

    def start(self, name: str, rule: str, seed: int, epochs: int, steps: int) -> None:
        """Begin (or go on with) a run of so many epochs, each of so many steps."""

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Report a training step, both counted from 1 and resumed ones counted too."""

    def epoch(self, line: dict[str, Any]) -> None:
        """Report an epoch as it stands in the curve; epoch 0 is before training."""

    def message(self, text: str) -> None:
        """Report something worth a sentence: a resumed run, a run that was there already."""

    def finish(self) -> None:
        """Finish the run; called on errors too."""


class Silent:
    """Tells nobody."""

    def start(self, name: str, rule: str, seed: int, epochs: int, steps: int) -> None:
        """Do nothing."""

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Do nothing."""

    def epoch(self, line: dict[str, Any]) -> None:
        """Do nothing."""

    def message(self, text: str) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


class Stop:
    """Whether the user asked to stop."""

    requested = False


@contextmanager
def polite_stop() -> Iterator[Stop]:
    """Turn the first Ctrl-C (or SIGTERM) into a request, so that a step is never left half done.

    The second one stops at once. Outside of the main thread, where Python delivers no signals, this does nothing.

    A signal that is ignored stays ignored: a shell starts what a script runs in the background that way, so that Ctrl-C
    stops the command in the foreground alone. SIGTERM, which ``kill`` sends, is the way to stop such a run.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # None is a handler that was not set from Python, and that Python cannot put back.
    before = {number: handler for number, handler in found.items() if handler not in (signal.SIG_IGN, None)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def request(number: int, frame: FrameType | None) -> None:
        stop.requested = True
        restore()

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        restore()
