"""``feedalign render``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.progress import Progress

from feedalign.cli.console import say, standard_error, standard_output
from feedalign.cli.failures import UsageError
from feedalign.cli.options import Omitted
from feedalign.cli.train import cpu_threads
from feedalign.experiments.files import writable_folder
from feedalign.experiments.nerf.films import film, write_gif
from feedalign.experiments.nerf.paths import scene_path, spiral, turntable
from feedalign.experiments.nerf.pictures import write_png
from feedalign.experiments.nerf.restored import Restored, restored
from feedalign.experiments.nerf.views import find_empty_space, strip

STILL = ".png"
MOVING = ".gif"


@dataclass(frozen=True)
class Render:
    """Render a scene that feedalign train nerf has learnt, along a path of cameras.

    The folder is that of one run, with its checkpoint. A file that ends in .gif becomes a film; one that ends in .png
    an epipolar strip: the middle column of pixels of each camera, side by side, in which what the views agree on runs
    on smoothly.

    Example: feedalign render runs/nerf/traced/dfa-seed0 --output turntable.gif

    Example: feedalign render runs/nerf/tiny-lego/dfa-seed0 --path test --depth --output views.gif

    Attributes:
        run: Folder of the run.
        output: File to write: .gif or .png.
        path: turntable, once around the scene; spiral, in front of it; test, the cameras of the test views, beside the
            photographs. By default the one that suits the scene.
        frames: Cameras along the path; of test, all.
        per_second: Frames in a second.
        largest: Reduce frames whose longer side has more pixels.
        depth: Show depths to the right: dark is near, white is where little is seen.
        dual: Render the mean of the coarse and the fine field ("NeRF-Dual").
        grid: First find out where the scene is empty, on a grid of so many cells a side, and skip it; 0 for not.
        device: cpu, or auto for an accelerator where there is one.
        threads: CPU threads, torch's own choice by default.
        data_root: Folder of data sets; by default that of FEEDALIGN_DATA, else the user's cache folder.
    """

    run_folder: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN", help="Folder of the run.")
    ]
    output: Path
    path: Omitted[Literal["turntable", "spiral", "test"]] = None
    frames: int = 60
    per_second: float = 20.0
    largest: Omitted[int] = None
    depth: bool = False
    dual: bool = False
    grid: int = 64
    device: Literal["auto", "cpu"] = "auto"
    threads: Omitted[int] = None
    data_root: Omitted[Path] = None

    def run(self) -> None:
        """Render with a bar, and print the path of the file."""
        self.check()
        accelerated = self.device == "auto" and torch.accelerator.is_available()
        device = torch.accelerator.current_accelerator() if accelerated else None
        with cpu_threads(self.threads):
            found = restored(self.run_folder, self.data_root, device or "cpu")
            if self.dual and found.model.fine is None:
                raise UsageError("Expected a coarse and a fine field for --dual, found a run with one. Leave it out.")
            found.model.dual = self.dual
            if self.grid:
                find_empty_space(found.model, found.scene, self.grid)
            writable_folder(self.output.absolute().parent)
            self.write(found)
        say(standard_output(), f"Rendered: {self.output}")

    def check(self) -> None:
        """Raise if something makes no sense, before anything is read.

        Raises:
            UsageError: It does not.
        """
        if self.output.suffix not in (STILL, MOVING):
            raise UsageError(f"Expected a file that ends in {MOVING} or {STILL}, found {self.output}.")
        if self.frames < 1 or self.grid < 0 or not 0 < self.per_second <= 100:
            raise UsageError(
                "Expected at least one frame, a grid of at least 0 and up to 100 frames in a second, found "
                f"{self.frames}, {self.grid} and {self.per_second:g}."
            )

    def write(self, found: Restored) -> None:
        """Render the path and write the file."""
        scene, poses = found.scene, self.poses(found)
        views = scene.test if self.path == "test" else None
        if self.output.suffix == STILL:
            write_png(self.output, strip(found.model, scene, poses, views), largest=None)
            return
        with Progress(console=standard_error(), transient=True) as bars:
            task = bars.add_task("Frames", total=len(poses))
            frames = film(
                found.model, scene, poses, depth=self.depth, views=views,
                told=lambda done, _: bars.update(task, completed=done),
            )  # fmt: skip
        write_gif(self.output, frames, self.per_second, self.largest)

    def poses(self, found: Restored) -> torch.Tensor:
        """Return the cameras of the path, ``[V, 3, 4]``."""
        train = found.scene.train.poses
        if self.path == "test":
            return found.scene.test.poses
        if self.path == "turntable":
            return turntable(float(train[:, :, 3].norm(dim=1).mean()), self.frames).to(train)
        if self.path == "spiral":
            return spiral(train.cpu(), found.scene.depths, self.frames).to(train)
        return scene_path(found.scene, self.frames).to(train)
