"""Waiting for another stage, and what is raised when it does not answer."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed


class StageError(RuntimeError):
    """A stage cannot go on: it raised, or another stage left, hangs or sends something else than was agreed.

    The message names stage, rank, micro-batch and step. The process should end: ``torchrun`` then ends the others, and
    starts all of them again where ``--max-restarts`` says so.
    """


@dataclass(frozen=True)
class Place:
    """Who waits, for error messages.

    Args:
        stage: The index of the stage.
        ranks: The global rank of every stage.
        timeout: Seconds that a stage waits for another one.
        device: Where the stage computes.
    """

    stage: int
    ranks: tuple[int, ...]
    timeout: float
    device: torch.device

    def name(self, stage: int | None = None) -> str:
        """Return ``"stage 1 of 4 (rank 1)"`` for a stage; for this one by default."""
        stage = self.stage if stage is None else stage
        return f"stage {stage} of {len(self.ranks)} (rank {self.ranks[stage]})"

    def wait(self, works: Sequence[distributed.Work], other: int, what: str, when: str) -> None:
        """Wait for communication to end.

        Args:
            works: The communication.
            other: The index of the stage at the other end.
            what: What is waited for, ``"the activations"``.
            when: ``"micro-batch 3, step 12"``.

        Raises:
            StageError: It fails, or does not end within the timeout.
        """
        for work in works:
            try:
                # On an accelerator this only orders streams, and the timeout of the process group guards it.
                if self.device.type == "cpu":
                    work.wait(timedelta(seconds=self.timeout))
                else:
                    work.wait()
            except RuntimeError as error:
                raise StageError(
                    f"{self.name().capitalize()} waited for {what} of {when}, and {self.name(other)} did not answer: "
                    f"it has left, or hangs (timeout {self.timeout:g} s). The first stage that failed says why; the "
                    f"process group says here: {_first_line(error)}"
                ) from error

    @contextmanager
    def computing(self, what: str, when: str) -> Iterator[None]:
        """Name the stage in whatever is raised inside the ``with`` block.

        Raises:
            StageError: Something was raised.
        """
        try:
            yield
        except StageError:
            raise
        except Exception as error:
            cause = error.__cause__ if error.__cause__ is not None else error
            raise StageError(
                f"{self.name().capitalize()} raised in {what} of {when}: {type(cause).__name__}: {cause}"
            ) from error


def _first_line(error: BaseException) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return re.sub(r"^\[[^\]]*:\d+\] ", "", line)  # where in its own sources a backend has raised
