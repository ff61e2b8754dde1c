"""Rays per second of radiance fields: a training step under each rule and rendering, empty space skipped and not.

All take turns in one process, so that their ratios mean something on a busy machine too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from feedalign.bench.cost import Step, flops_of_a_later_step
from feedalign.bench.timing import Progress, check_device, check_rounds, interleaved, summed_up
from feedalign.experiments.nerf.config import Config
from feedalign.experiments.nerf.occupancy import Occupancy
from feedalign.experiments.nerf.presets import preset
from feedalign.experiments.nerf.rays import Rays
from feedalign.experiments.nerf.rendering import Radiance
from feedalign.experiments.nerf.training import loss

RULES = {"backprop": "bp", "dfa": "dfa", "shallow": "shallow"}
SKIPPING = "-skipping"
"""What the name of a way ends in where empty space is skipped."""
SKIPPED = ("backprop", "dfa")
"""Rules that train with empty space skipped as well."""
RENDER = "render"
SYSTEMS = {"tiny": "tiny-lego", "published": "lego-published", "paper": "lego-paper"}
"""Names of systems, and the presets whose fields and samples they have."""
NEAR, FAR, STAND = 2.0, 6.0, 4.0
CELLS, RADIUS = 64, 0.8
"""Of the grid for skipping: a ball of this radius is not empty, in a box of 4 units a side around the origin."""


@dataclass(frozen=True)
class NerfConfig:
    """What to measure.

    Attributes:
        systems: Names of fields: tiny, published or paper.
        rays: In a step.
        rounds: Timed rounds a system; each is one step in every way of training and of rendering.
        warmup: Rounds before these, not counted.
        device: Where it runs.
        seed: Of weights, rays and feedback.
    """

    systems: tuple[str, ...] = ("tiny", "published")
    rays: int = 512
    rounds: int = 10
    warmup: int = 2
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        check_rounds(self.rounds, self.warmup)
        check_device(self.device)
        if self.rays < 1 or (unknown := [name for name in self.systems if name not in SYSTEMS]):
            what = f"{self.rays} rays" if self.rays < 1 else repr(unknown[0])
            raise ValueError(f"Expected at least one ray, and systems out of {', '.join(SYSTEMS)}; found {what}.")


def measure(config: NerfConfig, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Return one entry per system and way: times, rays per second, and how many times as fast as the usual way.

    Args:
        config: What to measure.
        progress: Called as ``progress(system, rounds done, rounds)``.
    """
    entries = []
    for name in config.systems:
        entries += _measure_system(name, config, progress)
    return entries


def _measure_system(name: str, config: NerfConfig, progress: Progress | None) -> list[dict[str, Any]]:
    device, system = torch.device(config.device), preset(SYSTEMS[name])
    rays, colours = _batch(config.rays, config.seed, device)
    configs = {rule: replace(system, rule=short, seed=config.seed) for rule, short in RULES.items()}
    grid = ball(device)
    steps: dict[str, Step] = {rule: _training(configs[rule], rays, colours) for rule in RULES}
    steps |= {rule + SKIPPING: _training(configs[rule], rays, colours, grid) for rule in SKIPPED}
    steps[RENDER] = _rendering(system, config.seed, rays)
    steps[RENDER + SKIPPING] = _rendering(system, config.seed, rays, grid)
    seconds = interleaved(steps, name, config.rounds, config.warmup, device, progress)
    times = {way: summed_up(found) for way, found in seconds.items()}
    work = {way: flops_of_a_later_step(step) for way, step in steps.items()}
    samples = system.rendering.coarse + system.rendering.fine
    return [
        {
            "name": name,
            "describe": f"{system.model.depth} x {system.model.width}, {samples} samples a ray",
            "rule": way,
            **times[way],
            "rays_per_second": config.rays / times[way]["median_seconds"],
            "ratio": _base(times, way)["median_seconds"] / times[way]["median_seconds"],
            "flops": work[way],
            "arithmetic_limit": _base(work, way) / work[way],
            "occupied_share": grid.share if way.endswith(SKIPPING) else None,
        }
        for way in steps
    ]


def _base(found: Mapping[str, Any], way: str) -> Any:
    """Return that of the usual way: backprop for training, every sample for rendering."""
    return found[RENDER if way.startswith(RENDER) else "backprop"]


def ball(device: torch.device) -> Occupancy:
    """Return a grid in which a ball around the origin is not empty: about as much as in a scene of one thing."""
    axis = (torch.arange(CELLS, device=device) + 0.5) / CELLS * 4 - 2
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    half = torch.full((3,), 2.0, device=device)
    return Occupancy(-half, half, x**2 + y**2 + z**2 < RADIUS**2)


def _batch(count: int, seed: int, device: torch.device) -> tuple[Rays, Tensor]:
    """Return rays of cameras around the origin that look about there, and colours."""
    generator = torch.Generator().manual_seed(seed)
    stand = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1) * STAND
    aim = 2 * torch.rand(count, 3, generator=generator) - 1
    viewing = torch.nn.functional.normalize(aim - stand, dim=-1)
    colours = torch.rand(count, 3, generator=generator)
    return Rays(stand.to(device), viewing.to(device), viewing.to(device)), colours.to(device)


def _model(config: Config, seed: int, device: torch.device) -> Radiance:
    torch.manual_seed(seed)
    return config.build(NEAR, FAR, white=True).to(device)


def _training(config: Config, rays: Rays, colours: Tensor, grid: Occupancy | None = None) -> Step:
    model = _model(config, config.seed, rays.origins.device)
    model.occupancy = grid
    config.attach(model)  # the hooks on the model keep what is attached
    optimiser = config.optimiser.build(model)

    def step() -> None:
        loss(model(rays), colours).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()

    return step


def _rendering(config: Config, seed: int, rays: Rays, grid: Occupancy | None = None) -> Step:
    model = _model(config, seed, rays.origins.device).eval()
    model.occupancy = grid

    @torch.no_grad()
    def step() -> None:
        model(rays)

    return step
