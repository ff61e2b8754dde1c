"""Checkpoints of all stages together, from which another number of stages can go on."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save as write

# By the names of parameters: groups of parameters are numbered on each stage from 0.
OPTIONS = StateDictOptions(flatten_optimizer_state_dict=True)
COMPLETE = ".metadata"
"""Written last: a folder without it was left by a process that died while it was saving."""


def save(folder: str | Path, part: nn.Module, optimizer: torch.optim.Optimizer, step: int, *, keep: int = 2) -> Path:
    """Write weights and optimiser state of all stages into ``folder/step-<step>``; every process calls it.

    Names are those of the whole model, so any number of stages can load it. Feedback needs no place in it: matrices
    follow from seed, name and shape. Neither has the state of the random number generators (dropout).

    Args:
        folder: Where all processes can write.
        part: This stage's part.
        optimizer: Of its parameters.
        step: How many steps have been taken.
        keep: How many checkpoints to keep; older ones are deleted.

    Returns:
        The checkpoint's folder.

    Raises:
        ValueError: ``keep`` is less than 1.
    """
    if keep < 1:
        raise ValueError(f"keep expected at least 1 checkpoint, found {keep}.")
    folder = Path(folder)
    path = folder / f"step-{step:09d}"
    if distributed.get_rank() == 0:
        shutil.rmtree(path, ignore_errors=True)  # what a process left that died while it was saving
    distributed.barrier()
    write(_state(part, optimizer, step), checkpoint_id=path)
    if distributed.get_rank() == 0:
        for old in complete(folder)[:-keep]:
            shutil.rmtree(old)
    return path


def resume(folder: str | Path, part: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the newest complete checkpoint into part and optimiser; every process calls it.

    Args:
        folder: That of :func:`save`.
        part: This stage's part, with as many stages as before or another number of them.
        optimizer: Of its parameters, of the same class as before.

    Returns:
        How many steps had been taken; 0 if there is no complete checkpoint, and then nothing is changed.

    Raises:
        RuntimeError: The checkpoint does not hold what this part needs.
    """
    found = complete(Path(folder))
    if not found:
        return 0
    state = _state(part, optimizer, 0)
    load(state, checkpoint_id=found[-1])
    set_state_dict(
        part, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"], options=OPTIONS
    )
    return int(state["step"])


def complete(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder that were written to the end, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / COMPLETE).exists())


def _state(part: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> dict[str, Any]:
    model, state = get_state_dict(part, optimizer, options=OPTIONS)
    return {"model": model, "optimizer": state, "step": torch.tensor(step)}
