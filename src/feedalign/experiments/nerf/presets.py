"""Configurations by name: small ones that a processor can run, and the published ones at their full scale.

What a search over learning rates, the same for every rule and judged on validation views, chose for small ones is in
``tuned.json`` beside this file; how each trial did, in ``results/nerf/<name>/tuning.json``.
"""

from dataclasses import replace

from feedalign.experiments.data.scenes import BLENDER, FORWARD_FACING, SceneConfig
from feedalign.experiments.models.nerf import FieldConfig
from feedalign.experiments.nerf.config import Config
from feedalign.experiments.nerf.rendering import RenderingConfig
from feedalign.experiments.optimisation import OptimiserConfig
from feedalign.experiments.settings import Preset, Settings, named, shipped_settings, with_settings

DEFAULT = "traced"
TINY_FIELD = FieldConfig(128, 2, skip=None, directions=False)
LAUNAY_FIELD = FieldConfig(128, 4, skip=None, feature="relu")
WIDER = {**dict.fromkeys(("fern", "fortress", "room"), 425), **dict.fromkeys(("drums", "hotdog", "lego", "mic"), 512)}
"""Scenes that were published with wider networks too, and how wide."""


def _rate(rate: float) -> OptimiserConfig:
    return OptimiserConfig("adam", rate)


TINY = Config(
    data=SceneConfig("tiny-lego"),
    model=TINY_FIELD,
    rendering=RenderingConfig(coarse=32, fine=0, chunk=8_192),
    optimiser=_rate(5e-3),
    iterations=5_000,
    every=250,
    rays=1_024,
    alignment=256,
    pictured=2,
)
TRACED = replace(TINY, data=SceneConfig("traced"), iterations=600, every=50, rays=512)
# Published for photographs alone. Without noise, and at this rate, DFA empties the coarse field within a few hundred
# iterations, and what is empty has no gradient.
NOISE = 1.0
HALF = Config(
    data=SceneConfig("lego"),
    model=LAUNAY_FIELD,
    rendering=RenderingConfig(coarse=32, fine=64, noise=NOISE, chunk=16_384),
    optimiser=_rate(1e-3),
    iterations=2_000,
    every=200,
    rays=512,
    alignment=128,
    tested=2,
    grid=128,
)
SMALL_FERN = replace(
    HALF,
    data=SceneConfig("fern", shrink=8),
    tested=1,
    pictured=1,
    grid=0,
)
FULL = Config(
    rendering=RenderingConfig(chunk=262_144), every=5_000, watched=8_192, alignment=1_024, pictured=2, grid=128
)


def _small() -> dict[str, Preset[Config]]:
    rows = {
        DEFAULT: ("Spheres on a disc, traced here: minutes, no download", TRACED),
        "tiny-lego": ("Lego at 100 pixels, one field of two hidden layers", TINY),
        "tiny-nerf": (
            "The same on the 106 views of the tiny example that Mildenhall et al. published",
            replace(TINY, data=SceneConfig("tiny-nerf")),
        ),
        "lego-400": (
            "Lego from a folder of pictures of 400 pixels, coarse and fine fields: an hour of a core",
            HALF,
        ),
        "fern-8": (
            "Fern at an eighth of its size, coarse and fine fields: an hour of a core",
            SMALL_FERN,
        ),
    }
    return {name: Preset(about, config, tuned().get(name, {})) for name, (about, config) in rows.items()}


def tuned() -> dict[str, Settings]:
    """Return what tuning chose, by configuration and rule, as it comes with the package."""
    return shipped_settings(__package__)


def _of_launay(scene: str) -> Config:
    if scene in FORWARD_FACING:
        return replace(
            FULL,
            data=SceneConfig(scene, shrink=4),
            model=LAUNAY_FIELD,
            rendering=replace(FULL.rendering, noise=NOISE),
            optimiser=_rate(5e-4),
            decay=250_000,
            iterations=200_000,
            rays=4_096,
        )
    return replace(
        FULL,
        data=SceneConfig(scene),
        model=LAUNAY_FIELD,
        optimiser=_rate(1e-4),
        decay=500_000,
        iterations=500_000,
        rays=1_024,
    )


def _of_mildenhall(scene: str) -> Config:
    facing = scene in FORWARD_FACING
    return replace(
        FULL,
        data=SceneConfig(scene, shrink=4 if facing else 1),
        rendering=replace(FULL.rendering, noise=NOISE if facing else 0.0),
        optimiser=_rate(5e-4),
        decay=300_000,
        iterations=300_000,
        rays=4_096,
    )


def _full() -> dict[str, Preset[Config]]:
    rows = {}
    for scene in (*BLENDER, *FORWARD_FACING):
        published = _of_launay(scene)
        rows[f"{scene}-published"] = Preset(f"{scene} as Launay et al. 2020 ran it: 4 hidden layers of 128", published)
        rows[f"{scene}-paper"] = Preset(
            f"{scene} as in the text of Mildenhall et al. 2020: 8 hidden layers of 256", _of_mildenhall(scene)
        )
        if scene in WIDER:
            wide = replace(published, model=replace(published.model, width=WIDER[scene]))
            rows[f"{scene}-wide"] = Preset(f"{scene} as Launay et al. 2020, {WIDER[scene]} units wide", wide)
    return rows


PRESETS: dict[str, Preset[Config]] = {**_small(), **_full()}


def preset(name: str, rule: str = "dfa", seed: int = 0) -> Config:
    """Return the configuration called ``name`` for a rule and a seed.

    A rule that has no settings of its own is given those of DFA.

    Raises:
        ExperimentError: There is no preset of that name.
        ValueError: There is no rule of that name.
    """
    row = named(PRESETS, name)
    config = replace(row.config, name=name, rule=rule, seed=seed)
    return with_settings(config, row.rules.get(config.rule) or row.rules.get("dfa") or {})
