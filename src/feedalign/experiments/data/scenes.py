"""Scenes by name.

==================  =====  ==========  ====  =========  ==================================================
name                train  validation  test  pixels     files
==================  =====  ==========  ====  =========  ==================================================
traced              40     4           6     64 x 64    none: ray-traced here
tiny-nerf           94     4           8     100 x 100  an archive, lego on black
tiny-lego           88     4           8     100 x 100  another such archive, made of lego's training views
lego, chair, ...    100    100         200   800 x 800  a folder of each of the eight Blender scenes
fern, flower, ...   15-47  2-7         3-8   4032 wide  a folder of each of the eight forward-facing scenes
==================  =====  ==========  ====  =========  ==================================================

A scene is looked for under the data root. No checksums of the official files are published, so they are not downloaded:
the error says where to get them and how they must lie. Nothing in them is unpickled.
A scene of your own is named by its folder under the data root (or by its full path), in one of the two formats of
folders; in Blender's, what there is to see lies between depths 2 and 6.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from feedalign.errors import nearest
from feedalign.experiments.data import blender, llff, tiny_scene, traced
from feedalign.experiments.data.root import VARIABLE, data_root
from feedalign.experiments.data.scene_data import Scene, SceneConfig, Views
from feedalign.experiments.errors import DataError

__all__ = ["SCENES", "Scene", "SceneConfig", "SceneSource", "Views", "load_scene", "scene_source"]


DRIVE = "https://drive.google.com/drive/folders/128yBriW1IG_3NJ5Rp7APSTZsJqdJdfc1"
TINY = "https://people.eecs.berkeley.edu/~bmild/nerf/tiny_nerf_data.npz"
BLENDER = ("chair", "drums", "ficus", "hotdog", "lego", "materials", "mic", "ship")
FORWARD_FACING = {
    "fern": 20,
    "flower": 34,
    "fortress": 42,
    "horns": 62,
    "leaves": 26,
    "orchids": 25,
    "room": 41,
    "trex": 55,
}

Reader = Callable[[SceneConfig, Path], Scene]


@dataclass(frozen=True)
class SceneSource:
    """One row of the table of scenes.

    Attributes:
        title: Its name as people write it.
        reader: Reads it from its file or folder.
        places: Where it is looked for under the data root.
        views: How many there are of it in all; 0 where it is not known.
        remedy: How to come by it.
        shrink: By how much its pictures can be made smaller, given where it lies.
    """

    title: str
    reader: Reader
    places: tuple[str, ...]
    views: int = 0
    remedy: str = ""
    shrink: Callable[[Path], int] = lambda path: 1

    def read(self, config: SceneConfig, root: Path) -> Scene:
        """Return the scene.

        Raises:
            DataError: It is missing or damaged, or does not fit the configuration.
        """
        if not self.places:
            return self.reader(config, root)
        path = self.find(root)
        if path is None:
            looked = "".join(f"\n  {root / place}" for place in self.places)
            raise DataError(
                f"The scene {config.name!r} is missing. Expected it in one of these:{looked}\n{self.remedy} "
                f"Or name the folder that holds it as the data root (--data-root, or {VARIABLE}). "
                "The scene 'traced' needs no file."
            )
        return self.reader(config, path)

    def read_small(self, name: str, root: Path) -> Scene:
        """Return the scene with small pictures, for which every file is read all the same. Raises as ``read`` does."""
        path = self.find(root)
        return self.read(SceneConfig(name, shrink=self.shrink(path) if path else 1, size=8), root).check()

    def find(self, root: Path) -> Path | None:
        """Return the file or folder of the scene, if it is there."""
        return next((root / place for place in self.places if (root / place).exists()), None)


def _blender(name: str) -> SceneSource:
    # The last two are folders of pictures of half the size, 400 x 400.
    forms = ("nerf_synthetic/{}", "nerf/nerf_synthetic/{}", "nerf_synthetic_{}_400", "nerf/nerf_synthetic_{}_400")
    places = tuple(form.format(name) for form in forms)
    return SceneSource(f"{name} (Blender)", blender.read, places, 400, _unpack("nerf_synthetic.zip"), lambda path: 8)


def _forward_facing(name: str, views: int) -> SceneSource:
    forms = ("nerf_llff_data/{}", "nerf/nerf_llff_data/{}", "nerf_llff_{}", "nerf/nerf_llff_{}")
    places = tuple(form.format(name) for form in forms)
    remedy = _unpack("nerf_llff_data.zip")
    return SceneSource(f"{name} (photographs)", llff.read, places, views, remedy, llff.coarsest)


def _unpack(archive: str) -> str:
    return f"Download {archive} from {DRIVE} by hand (no checksum of it is published), and unpack it there."


def _tiny(title: str, file: str, views: int, remedy: str) -> SceneSource:
    return SceneSource(title, tiny_scene.read, (file, f"nerf/{file}"), views, remedy)


SCENES: dict[str, SceneSource] = {
    "traced": SceneSource(
        "spheres on a disc, traced here", lambda config, root: traced.read(config), (), sum(traced.VIEWS.values())
    ),
    "tiny-nerf": _tiny(
        "NeRF's tiny example, lego",
        "tiny_nerf_data.npz",
        106,
        f"Download it from {TINY} by hand (no checksum of it is published), and put it there.",
    ),
    "tiny-lego": _tiny(
        "lego's training views, as small",
        "lego_100px_tiny_layout.npz",
        100,
        "It is not published: 'lego' with a `shrink` that makes it 100 pixels wide shows the same on black.",
    ),
    **{name: _blender(name) for name in BLENDER},
    **{name: _forward_facing(name, views) for name, views in FORWARD_FACING.items()},
}


def scene_source(name: str, root: Path) -> SceneSource:
    """Return the row of the scene called ``name``; one made up for a folder of that name under the root.

    Raises:
        DataError: There is neither.
    """
    if name in SCENES:
        return SCENES[name]
    own = {blender.CAMERA_FILES["train"]: blender.read, llff.CAMERAS: llff.read}
    for file, reader in own.items():
        if (root / name / file).is_file():
            return SceneSource(f"{name} (a folder of your own)", reader, (name,))
    raise DataError(
        f"There is no scene {name!r}.{nearest(name, SCENES)} There are: {', '.join(SCENES)}; "
        f"or any folder under {root} that holds {' or '.join(own)}."
    )


def load_scene(config: SceneConfig, root: Path | str | None = None) -> Scene:
    """Return the scene, checked.

    Args:
        config: Which one, and how its pictures are made ready.
        root: The data root; see :func:`~feedalign.experiments.data.root.data_root`.

    Raises:
        DataError: The scene is unknown, missing or damaged, or does not fit the configuration.
    """
    folder = data_root(root)
    return scene_source(config.check().name, folder).read(config, folder).check()
