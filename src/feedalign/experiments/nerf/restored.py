"""A trained scene, back from the folder of its run: configuration from the record, weights from the checkpoint."""

from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch

import feedalign as fa
from feedalign.experiments import checkpoint, records
from feedalign.experiments.data.scenes import Scene, SceneConfig, load_scene
from feedalign.experiments.errors import RecordError
from feedalign.experiments.models.nerf import FieldConfig
from feedalign.experiments.nerf.config import Config
from feedalign.experiments.nerf.rendering import Radiance, RenderingConfig
from feedalign.experiments.nerf.training import NerfTraining
from feedalign.experiments.optimisation import OptimiserConfig

KNOWN: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        Config, SceneConfig, FieldConfig, RenderingConfig, OptimiserConfig,
        fa.Uniform, fa.Normal, fa.Orthogonal, fa.Sparse, fa.Hadamard, fa.Regenerated,
    )
}  # fmt: skip


class Restored(NamedTuple):
    """A trained scene.

    Attributes:
        config: What was run.
        scene: The scene.
        model: The trained fields, in evaluation mode.
    """

    config: Config
    scene: Scene
    model: Radiance


def restored(folder: Path, root: Path | str | None = None, device: torch.device | str = "cpu") -> Restored:
    """Return what was trained in the folder of a finished run.

    Args:
        folder: Of the run, with its record and its checkpoint.
        root: The data root, for the scene's cameras.
        device: Where to.

    Raises:
        RecordError: The folder holds no record of a scene, or no checkpoint beside it.
        CheckpointError: The checkpoint is damaged, or belongs to another configuration.
        DataError: The scene is missing or damaged.
    """
    record = records.load(folder).record
    if record.experiment != NerfTraining.experiment:
        raise RecordError(
            f"Expected the run of a scene in {folder}, found one of {record.experiment}. Do name a folder of "
            "`feedalign train nerf`."
        )
    weights = folder / checkpoint.CHECKPOINT
    if not weights.exists():
        raise RecordError(
            f"Expected the weights of the run in {weights}, found no such file. Do train it again with "
            "`feedalign train nerf` in a new folder: records are kept without weights where these are large."
        )
    config = undescribed(record.config)
    scene = load_scene(config.data, root).to(device)
    model = config.build(scene.near, scene.far, scene.white)
    # The checkpoint of a finished run was written with the rule taken off, learnt feedback and all.
    checkpoint.restore(weights, config, {"model": model})
    return Restored(config, scene, model.to(device).eval())


def undescribed(value: Any) -> Any:
    """Return the configuration that :func:`feedalign.experiments.records.describe` described.

    Raises:
        RecordError: It names a class or a setting that this version does not have.
    """
    if isinstance(value, list):
        return tuple(undescribed(one) for one in value)
    if not isinstance(value, dict):
        return value
    kind = KNOWN.get(str(value.get("type")))
    names = {field.name for field in fields(kind)} if kind else set()
    if kind is None or (unknown := sorted(value.keys() - names - {"type"})):
        what = repr(value.get("type")) if kind is None else f"{kind.__name__} with {', '.join(unknown)}"
        raise RecordError(f"Expected a configuration of this version, found {what}. Do use the version that wrote it.")
    return kind(**{name: undescribed(one) for name, one in value.items() if name != "type"})
