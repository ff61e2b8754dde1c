"""A run that is killed, stopped or interrupted ends with the very numbers of one that was left alone."""

import os
import pickle
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from feedalign.experiments import checkpoint, records
from feedalign.experiments.checkpoint import CHECKPOINT
from feedalign.experiments.errors import CheckpointError, Interrupted
from feedalign.experiments.models import MLPConfig
from feedalign.experiments.optimisation import ScheduleConfig
from feedalign.experiments.progress import Silent
from feedalign.experiments.vision import preset, run

pytestmark = pytest.mark.usefixtures("interruptible")

# Dropout draws from the global random numbers, momentum and the schedule have a state of their own.
CONFIG = replace(
    preset("digits-demo", "dfa"),
    model=MLPConfig((64, 64), activation="tanh", dropout=0.2),
    schedule=ScheduleConfig("cosine"),
    epochs=4,
    batch=50,  # 1,200 samples: 24 steps an epoch
    embedding=0,
    alignment=64,
)


class At(Silent):
    """Do something at one step of the whole run."""

    def __init__(self, step, action):
        self.left, self.action, self.messages = step, action, []

    def step(self, epoch, step, loss):
        self.left -= 1
        if self.left == 0:
            self.action()

    def message(self, text):
        self.messages.append(text)


def weights(folder):
    return torch.load(folder / CHECKPOINT, weights_only=True)["parts"]["model"]


def numbers(folder):
    """The curve without what depends on the clock."""
    return [{**line, "seconds": None} for line in records.load(folder).curve]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(CONFIG, folder, keep_checkpoint=True)
    return folder


def assert_same(folder, uninterrupted):
    expected = weights(uninterrupted)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(folder).items())
    assert numbers(folder) == numbers(uninterrupted)
    ours, theirs = records.load(folder).record, records.load(uninterrupted).record
    assert ours.metrics == theirs.metrics
    assert ours.alignment == theirs.alignment


SCRIPT = """
import os, signal, sys, threading
from pathlib import Path
import torch
from test_checkpoint import CONFIG, At
from feedalign.experiments.vision import run

folder, step, delay, checkpoint_seconds, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
kill = threading.Timer(float(delay), os.kill, (os.getpid(), signal.SIGKILL))
run(CONFIG, Path(folder), progress=At(int(step), kill.start), checkpoint_seconds=float(checkpoint_seconds))
"""


@pytest.mark.parametrize(
    ("step", "delay", "checkpoint_seconds"),
    [
        (30, 0.0, 0.0),  # in the second epoch, a checkpoint at every step
        (30, 0.004, 0.0),  # some time later: in a step, in an evaluation, while a checkpoint is written
        (60, 0.002, 0.01),  # checkpoints older than the curve: lines of the curve are taken back
    ],
)
def test_killed_run_ends_with_the_same_bits(step, delay, checkpoint_seconds, uninterrupted, tmp_path):
    options = (tmp_path, step, delay, checkpoint_seconds, torch.get_num_threads())
    arguments = [sys.executable, "-c", SCRIPT, *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.run(arguments, env=environment, check=False)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / records.RECORD).exists()
    progress = At(-1, None)
    run(CONFIG, tmp_path, progress=progress, keep_checkpoint=True)
    (message,) = progress.messages
    assert message.startswith("Going on from epoch ")
    assert_same(tmp_path, uninterrupted)


@pytest.mark.parametrize("step", [1, 24, 25, 95])  # the first, the last of an epoch, the next, the last but one
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_ends_with_the_same_bits(step, number, uninterrupted, tmp_path):
    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"Stopped at epoch \d of 4, step \d+ of 24. Nothing is lost.*same command"):
        run(CONFIG, tmp_path, progress=At(step, lambda: os.kill(os.getpid(), number)))
    assert signal.getsignal(number) is handler
    assert (tmp_path / CHECKPOINT).exists()
    run(CONFIG, tmp_path, keep_checkpoint=True)
    assert_same(tmp_path, uninterrupted)


def test_second_interrupt_stops_at_once(tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, tmp_path, progress=At(3, twice))


def test_run_that_ignores_ctrl_c_goes_on_and_stops_at_sigterm(uninterrupted, tmp_path):
    """As a shell starts a command in the background: Ctrl-C is for the command in the foreground alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the fixture puts back what was there
    progress = At(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    run(CONFIG, tmp_path / "whole", progress=progress, keep_checkpoint=True)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert_same(tmp_path / "whole", uninterrupted)
    with pytest.raises(Interrupted):
        run(CONFIG, tmp_path / "stopped", progress=At(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_finished_run_leaves_no_checkpoint(tmp_path):
    run(replace(CONFIG, epochs=1), tmp_path, checkpoint_seconds=0.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [records.CURVE, records.RECORD]


def test_measuring_alignment_changes_nothing(uninterrupted, tmp_path):
    run(replace(CONFIG, alignment=0), tmp_path, keep_checkpoint=True)
    expected = weights(uninterrupted)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path).items())


def stopped(tmp_path, config=CONFIG):
    with pytest.raises(Interrupted):
        run(config, tmp_path, progress=At(2, lambda: os.kill(os.getpid(), signal.SIGINT)))
    return tmp_path / CHECKPOINT


def test_checkpoint_of_another_configuration_says_what_differs(tmp_path):
    stopped(tmp_path)
    other = replace(CONFIG, seed=1, optimiser=replace(CONFIG.optimiser, learning_rate=0.5))
    with pytest.raises(CheckpointError) as caught:
        run(other, tmp_path)
    message = str(caught.value)
    assert "checkpoint.pt belongs to another configuration" in message
    assert "seed: 0, not 1" in message
    assert "optimiser.learning_rate: 0.05, not 0.5" in message
    assert "Choose another output folder" in message


def test_resuming_with_other_threads_is_told(tmp_path):
    stopped(tmp_path)
    threads = torch.get_num_threads()
    progress = At(-1, None)
    try:
        torch.set_num_threads(threads + 1)
        run(CONFIG, tmp_path, progress=progress)
    finally:
        torch.set_num_threads(threads)
    assert f"the last bits may come out differently: threads: {threads}, not {threads + 1}" in progress.messages[1]


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda _: b"", lambda _: b"not one"])
def test_damaged_checkpoint_is_named(damage, tmp_path):
    path = stopped(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        CheckpointError, match=r"checkpoint.pt cannot be read as a checkpoint .* it is damaged. Delete it"
    ):
        run(CONFIG, tmp_path)


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_checkpoint_cannot_run_code(tmp_path):
    torch.save(Malice(tmp_path / "made"), tmp_path / CHECKPOINT, pickle_module=pickle)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        run(CONFIG, tmp_path)
    assert not (tmp_path / "made").exists()


def test_checkpoint_of_another_version_is_named(tmp_path):
    torch.save({"schema": 0}, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointError, match="expected schema 1, found 0"):
        run(CONFIG, tmp_path)


def test_random_numbers_go_on_where_they_were():
    state = checkpoint.random_state()
    drawn = [(random.random(), np.random.rand(), torch.rand(1).item(), random.gauss(), np.random.randn()) for _ in "ab"]
    checkpoint.set_random_state(state)
    again = [(random.random(), np.random.rand(), torch.rand(1).item(), random.gauss(), np.random.randn()) for _ in "ab"]
    assert drawn == again


@pytest.mark.parametrize(("group", "name"), [("progress", "last"), ("parts", "schedule")])
def test_checkpoint_that_lacks_something_is_named(group, name, tmp_path):
    path = stopped(tmp_path)
    found = torch.load(path, weights_only=True)
    del found[group][name]
    torch.save(found, path)
    with pytest.raises(CheckpointError, match=f"expected {name} among its {group}, found .*. Delete it"):
        run(CONFIG, tmp_path, progress=At(1, lambda: pytest.fail("trained all the same")))
    assert not (tmp_path / records.RECORD).exists()
    assert path.exists()
