"""One file with all that decides how a run goes on: written whole or not at all, opened without running code."""

import io
import pickle
import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from feedalign.experiments.errors import CheckpointError
from feedalign.experiments.files import write_atomically
from feedalign.experiments.records import SCHEMA, describe, differences

CHECKPOINT = "checkpoint.pt"
ANEW = "Delete it to start the run anew, or use the version that wrote it."


class Stateful(Protocol):
    """A model, an optimiser, a schedule: anything whose state can be taken out and put back."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Put a state back."""
        ...


def save(path: Path, config: object, parts: Mapping[str, Stateful], progress: Mapping[str, Any]) -> None:
    """Write a checkpoint.

    Args:
        path: Where to.
        config: The configuration of the run, a dataclass.
        parts: What has a state: the model, the optimiser, the schedule.
        progress: Where the run is: plain values and tensors.

    Raises:
        OutputError: The folder cannot be written, or the disk is full. The checkpoint before is as it was.
    """
    content = io.BytesIO()
    torch.save(
        {
            "schema": SCHEMA,
            "config": describe(config),
            "parts": {name: part.state_dict() for name, part in parts.items()},
            "random": random_state(),
            "progress": dict(progress),
        },
        content,
    )
    write_atomically(path, content.getvalue())


def restore(
    path: Path, config: object, parts: Mapping[str, Stateful], progress: Collection[str] = ()
) -> dict[str, Any]:
    """Put the states of a checkpoint back, those of the global random number generators too.

    Args:
        path: Of the checkpoint.
        config: The configuration of the run.
        parts: What the states are put back into.
        progress: What must be known of where the run is.

    Returns:
        The progress.

    Raises:
        CheckpointError: The file is damaged, belongs to another configuration, or was written by a version that kept
            less; nothing was changed.
    """
    found = read(path)
    if different := differences(found["config"], describe(config)):
        raise CheckpointError(
            f"{path} belongs to another configuration, so it cannot be resumed with this one:\n  "
            + "\n  ".join(different)
            + "\nChoose another output folder, go back to its configuration, or delete the checkpoint."
        )
    for group, names in (("parts", parts), ("progress", progress)):
        if missing := [name for name in names if name not in found[group]]:
            raise CheckpointError(
                f"{path} is not a checkpoint of this version: expected {', '.join(missing)} among its {group}, found "
                f"{', '.join(found[group])}. {ANEW}"
            )
    for name, part in parts.items():
        part.load_state_dict(found["parts"][name])
    set_random_state(found["random"])
    return dict(found["progress"])


def read(path: Path) -> dict[str, Any]:
    """Return what is in a checkpoint, without running any code of it.

    Raises:
        CheckpointError: The file is damaged, or of another version.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): it is damaged. "
            "Delete it to start the run anew."
        ) from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise CheckpointError(
            f"{path} is not a checkpoint of this version: expected schema {SCHEMA}, found {schema}. {ANEW}"
        )
    return dict(found)


def random_state() -> dict[str, Any]:
    """Return the states of all global random number generators: Python's, NumPy's, PyTorch's on every device."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what :func:`random_state` returned."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy(), *rest))
    torch.set_rng_state(state["torch"])
    torch.cuda.set_rng_state_all(state["cuda"])
