"""Several studies, one after the other or as processes side by side. What is finished stays, whatever happens next."""

import multiprocessing as mp
import pickle
import signal
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from queue import Empty
from types import FrameType
from typing import Any, NoReturn

import torch

from feedalign.experiments.errors import ExperimentError
from feedalign.experiments.theory.study import Progress, Study, run

POLL_SECONDS = 0.2


class DiedError(ExperimentError):
    """A process was ended from outside, most often for want of memory."""


@dataclass(frozen=True)
class Done:
    """A study that ended, with the error that ended it if one did."""

    name: str
    error: BaseException | None = None


Job = tuple[Study, Any]


def run_all(jobs: list[Job], folder: Path, progress: Progress, processes: int = 1) -> Iterator[Done]:
    """Run studies and yield each as it ends; a study that fails stops no other one.

    Args:
        jobs: Studies with their settings.
        folder: Of the records.
        progress: Who is told, with the name of a study before each ``what``.
        processes: How many run side by side, each on one CPU thread. With one, all run in this process.
    """
    if processes == 1:
        yield from (_run(job, folder, progress) for job in jobs)
    else:
        yield from _side_by_side(jobs, folder, progress, processes)


def _run(job: Job, folder: Path, progress: Progress) -> Done:
    study, config = job

    def named(what: str, done: int, total: int) -> None:
        progress(f"{study.name}: {what}", done, total)

    try:
        run(study, config, folder, named)
    except Exception as error:  # noqa: BLE001 -- the others go on; whoever asked for the studies raises it
        return Done(study.name, error)
    return Done(study.name)


def _side_by_side(jobs: list[Job], folder: Path, progress: Progress, processes: int) -> Iterator[Done]:
    # Not forked: a fork of a process whose threads hold locks may hang.
    context = mp.get_context("spawn")
    told: mp.Queue[Any] = context.Queue()
    waiting = sorted(jobs, key=lambda job: job[0].minutes)  # the last is the longest, and is begun first
    running: dict[str, SpawnProcess] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                job = waiting.pop()
                process = context.Process(target=_child, args=(job[0].name, job[1], folder, told), daemon=True)
                process.start()
                running[job[0].name] = process
            for done in _news(told, running, progress):
                running.pop(done.name).join()
                yield done
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()


def _news(told: Any, running: dict[str, SpawnProcess], progress: Progress) -> Iterator[Done]:
    """Pass on what the processes tell, and yield those that ended."""
    dead = [name for name, process in running.items() if not process.is_alive()]
    try:
        while True:
            message = told.get(timeout=POLL_SECONDS)
            if isinstance(message, Done):
                if message.name in dead:
                    dead.remove(message.name)
                yield message
                return
            progress(*message)
    except Empty:
        pass
    for name in dead:  # before what it had to tell was read, and it told of no end
        status = running[name].exitcode
        yield Done(name, DiedError(f"The study {name} was ended from outside (status {status}). Give it again alone."))


def _child(name: str, config: Any, folder: Path, told: Any) -> None:
    from feedalign.experiments.theory import study  # not when this module is read: it is part of that one

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one ends the others
    signal.signal(signal.SIGTERM, _leave)
    torch.set_num_threads(1)
    done = _run((study(name), config), folder, lambda *message: told.put(message))
    told.put(Done(name, None if done.error is None else _portable(done.error)))


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)  # by way of every `finally`, so that locks and half-written files go


def _portable(error: BaseException) -> BaseException:
    """Return an error that can go to another process, its traceback as a note."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 -- our own bytes
    except Exception:  # noqa: BLE001 -- whatever keeps it from travelling
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
