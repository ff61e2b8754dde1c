"""Scenes by name.

======  =====  ==========  ====  =======  =====
name    train  validation  test  pixels   files
======  =====  ==========  ====  =======  =====
traced  40     4           6     64 x 64  none
======  =====  ==========  ====  =======  =====
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from feedalign.errors import nearest
from feedalign.experiments.data import traced
from feedalign.experiments.data.root import data_root
from feedalign.experiments.data.scene_data import Scene, SceneConfig, Views
from feedalign.experiments.errors import DataError

__all__ = ["SCENES", "Scene", "SceneConfig", "SceneSource", "Views", "load_scene", "scene_source"]


@dataclass(frozen=True)
class SceneSource:
    """One row of the table of scenes.

    Attributes:
        title: Its name as people write it.
        read: Reads it from a data root.
        places: Where it is looked for under the data root.
    """

    title: str
    read: Callable[[SceneConfig, Path], Scene]
    places: tuple[str, ...]


SCENES: dict[str, SceneSource] = {
    "traced": SceneSource("spheres on a disc, ray-traced here", lambda config, root: traced.read(config), ()),
}


def scene_source(name: str) -> SceneSource:
    """Return the row of the scene called ``name``.

    Raises:
        DataError: There is none of that name.
    """
    if name not in SCENES:
        raise DataError(f"There is no scene {name!r}.{nearest(name, SCENES)} There are: {', '.join(SCENES)}.")
    return SCENES[name]


def load_scene(config: SceneConfig, root: Path | str | None = None) -> Scene:
    """Return the scene, checked.

    Args:
        config: Which one, and how its pictures are made ready.
        root: The data root; see :func:`~feedalign.experiments.data.root.data_root`.

    Raises:
        DataError: The scene is unknown, missing or damaged, or does not fit the configuration.
    """
    return scene_source(config.check().name).read(config, data_root(root)).check()
