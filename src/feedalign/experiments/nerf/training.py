"""The training loop on a scene: rays from all views, two fields, one error for each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler

from feedalign.experiments.checkpoint import Stateful
from feedalign.experiments.data.scenes import Scene, Views
from feedalign.experiments.errors import DivergedError
from feedalign.experiments.nerf.config import Config
from feedalign.experiments.nerf.lines import lean
from feedalign.experiments.nerf.metrics import psnr
from feedalign.experiments.nerf.occupancy import Occupancy
from feedalign.experiments.nerf.pictures import keep_pictures
from feedalign.experiments.nerf.rays import Rays, pixel_rays
from feedalign.experiments.nerf.rendering import Radiance, Seen
from feedalign.experiments.nerf.shuffle import Shuffled
from feedalign.experiments.nerf.views import box, evaluating, find_empty_space, score
from feedalign.experiments.progress import Progress
from feedalign.experiments.training import Training


class NerfTraining(Training[Config]):
    """A run on a scene. What other runs call an epoch is a stretch of ``config.every`` iterations here.

    Args:
        config: What is run.
        scene: The scene.
        directory: The folder of the run.
        progress: Who is told.
    """

    experiment = "nerf"
    chosen_by = "validation_psnr"
    reported = ("train_loss", "train_psnr", "validation_loss", "validation_psnr")
    network: Radiance

    def __init__(self, config: Config, scene: Scene, directory: Path, progress: Progress) -> None:
        super().__init__(config, directory, progress, config.precision)
        for note in scene.notes:
            progress.message(note)
        self.scene = scene = scene.to(self.accelerator.device)
        self.network = config.build(scene.near, scene.far, scene.white)
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())
        self.handles = config.attach(self.network)
        self.handle = self.handles["coarse"]
        optimiser = config.optimiser.build(self.network)
        self.model, self.optimiser = self.accelerator.prepare(self.network, optimiser)
        self.schedule = falling(optimiser, config.decay)
        self.steps = config.every
        self.order_of_rays = Shuffled(scene.train.images.numel() // 3, config.rays, config.seed)
        self.watched = {part: self.watch(getattr(scene, part)) for part in ("train", "validation")}

    def watch(self, views: Views) -> tuple[Rays, Tensor]:
        """Return the rays, and their colours, that lines of the curve are measured on: the same for every run."""
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(views.images.numel() // 3, (self.config.watched,), generator=generator)
        return self.rays(views, pixels)

    def rays(self, views: Views, pixels: Tensor) -> tuple[Rays, Tensor]:
        """Return rays through pixels and their colours."""
        return pixel_rays(views, self.scene, pixels.to(self.accelerator.device))

    def batches(self) -> Iterator[Tensor]:
        """Yield the loss of each iteration that is left of a stretch."""
        if self.step == 0 and self.skips:
            self.find_empty_space()
        for step in range(self.step, self.steps):
            pixels = self.order_of_rays(self.epoch * self.steps + step)
            rays, colours = self.rays(self.scene.train, pixels)
            yield loss(self.model(rays), colours)

    @property
    def skips(self) -> bool:
        """Whether it is time to skip empty space."""
        after = self.config.skip_after
        return after is not None and self.epoch * self.steps >= after

    def find_empty_space(self) -> None:
        """Ask the fields no more where they have no density; everywhere as before where they have none at all."""
        if not find_empty_space(self.network, self.scene, self.config.grid, seed=self.epoch).cells.any():
            self.network.occupancy = None

    def release(self) -> None:
        """Take the rule off both fields."""
        for handle in self.handles.values():
            handle.remove()

    def evaluate(self) -> dict[str, Any]:
        """Return the loss and the PSNR of the rays that are watched, in evaluation mode.

        Raises:
            DivergedError: A field can learn no more, since it has no density anywhere.
        """
        figures: dict[str, Any] = {}
        if self.network.occupancy is not None:
            figures["occupied_share"] = self.network.occupancy.share
        for part, (rays, colours) in self.watched.items():
            with evaluating(self.network):
                seen: Seen = self.model(rays)
            self.require_density(seen)
            figures[f"{part}_loss"] = loss(seen, colours).item()
            figures[f"{part}_psnr"] = psnr(mse_loss(seen.fine.colour, colours).item())
        return figures

    def require_density(self, seen: Seen) -> None:
        """Raise if a field is empty along all rays; say so where noise may still give it a density now and then.

        Where a raw density is below zero its gradient is zero, and so is the error that a rule would send.

        Raises:
            DivergedError: One is.
        """
        for name, pixels in (("coarse", seen.coarse or seen.fine), ("fine", seen.fine)):
            if pixels.opacity.any():
                continue
            if self.config.rendering.noise:
                self.progress.message(f"The {name} field is empty at {self.position}. Noise alone may bring it back.")
            else:
                raise DivergedError(
                    f"Expected the {name} field to have some density, found none along {len(pixels.opacity):,} rays "
                    f"at {self.position}: from here on every gradient of it is zero. Try a learning rate a tenth as "
                    "large (--learning-rate), or noise on densities (--noise 1), in a new output folder."
                )

    @property
    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint holds the state of: where space is empty too, as it was found when the stretch began."""
        return super().parts if self.config.skip_after is None else {**super().parts, "empty": Grid(self)}

    def aligned(self) -> dict[str, dict[str, Any]] | None:
        """Return the alignment at every point of both fields on some of the training rays that are watched.

        A point's samples are those along the rays. Many lie where nothing is seen, and have an error of zero: they
        are left out and counted. Those in empty space that is skipped are not there at all.
        """
        rays, colours = self.watched["train"]
        count = min(self.config.alignment, self.config.rendering.rays_at_a_time)
        if not count:
            return None
        few, truth = Rays(*(values[:count] for values in rays)), colours[:count]
        found: dict[str, dict[str, Any]] = {}
        self.network.eval()
        for name, handle in self.handles.items():
            measured = self.measured(lambda: loss(self.model(few), truth), handle) or {}
            found |= {f"{name}.{point}": cosine for point, cosine in measured.items()}
        self.network.train()
        return found or None

    def counts(self) -> dict[str, Any]:
        """Return how many views there are, and their size."""
        return self.scene.counts

    def written(self, line: dict[str, Any]) -> dict[str, Any]:
        """Return a line with five digits a number."""
        return lean(line)

    def extras(self) -> dict[str, Any]:
        """Return PSNR and SSIM of full views, and keep pictures of some; see :func:`score`."""
        if self.config.tested == 0:
            return {}
        self.save()  # what follows takes a while
        if self.config.grid:
            share = find_empty_space(self.network, self.scene, self.config.grid).share
            self.progress.message(f"Cells that are not empty: {100 * share:.1f} %. The fields are asked there alone.")
        found = {
            part: score(self.network, self.scene, getattr(self.scene, part), self.config.tested)
            for part in ("validation", "test")
        }
        if self.config.pictured:
            keep_pictures(self.network, self.scene, self.directory, self.config.pictured)
        self.network.occupancy = None
        return found


class Grid:
    """Which cells a run does not take for empty, as a checkpoint holds it.

    Args:
        run: Whose they are.
    """

    def __init__(self, run: NerfTraining) -> None:
        self.run = run

    def state_dict(self) -> dict[str, Any]:
        """Return the cells, ``None`` where all are asked about."""
        occupancy = self.run.network.occupancy
        return {"cells": None if occupancy is None else occupancy.cells}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Put the cells back."""
        cells, (low, high) = state_dict["cells"], box(self.run.scene)
        self.run.network.occupancy = None if cells is None else Occupancy(low, high, cells.to(low.device))


def loss(seen: Seen, colours: Tensor) -> Tensor:
    """Return the mean squared error of the colours, that of the coarse field and that of the fine one added up."""
    own = mse_loss(seen.fine.colour, colours)
    return own if seen.coarse is None else own + mse_loss(seen.coarse.colour, colours)


def falling(optimiser: torch.optim.Optimizer, decay: int) -> LRScheduler:
    """Return the schedule that takes the learning rate to a tenth every ``decay`` iterations, a little in each."""
    return ExponentialLR(optimiser, gamma=0.1 ** (1 / decay) if decay else 1.0)
