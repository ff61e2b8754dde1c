"""The pictures of training through simulated light: what the camera sees, and what its faults do to training."""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

import feedalign as fa
from feedalign.experiments.light.conditions import CONDITIONS, SYSTEMS
from feedalign.experiments.light.tables import Cells, accuracy, alignment, by_condition
from feedalign.experiments.panels import labelled, panels
from feedalign.experiments.records import Run
from feedalign.experiments.styles import BLUE, DASHED, DOTTED, GREY, SETTINGS, SKY, VERMILLION
from feedalign.feedback import dense, kept
from feedalign.optics import Camera, Noise, encode

SIDE, PUPIL = 192, 24
"""Pixels of a frame a side, and the radius of the pupil that it is seen through, in its Fourier plane."""
GROUPS = {
    "photons": "photoelectrons per pixel",
    "bits": "bits of the camera",
    "saturation": "light over the full well",
    "rings": "noise of a product (microrings)",
    "drift": "steps until the medium decorrelates",
    "phase": "phase walk of the reference (rad per step)",
}


def light_pictures(runs: Sequence[Run]) -> Iterator[tuple[str, Figure]]:
    """Yield the pictures of the physics, where there are runs, and of the faults of each system that has them."""
    systems = {name: cells for name in SYSTEMS if (cells := by_condition(runs, name))}
    if systems:
        yield "light-camera", camera_picture()
    for name, cells in systems.items():
        if (figure := faults_picture(name, cells)) is not None:
            yield f"light-{name}-faults", figure


def speckle(seed: int = 0) -> Tensor:
    """Return the field behind a scattering layer seen through a round pupil, ``[SIDE, SIDE]``, of mean power 1."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.fft.fftfreq(SIDE) * SIDE
    inside = places[:, None].square() + places.square() < PUPIL**2
    phases = torch.rand(SIDE, SIDE, generator=generator, dtype=torch.float64) * 2 * math.pi
    field = torch.fft.fft2(torch.polar(inside.double(), phases))
    normalised: Tensor = field / field.abs().square().mean().sqrt()
    return normalised


def recovered(photons: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return projections of random errors without and with light, ``[64, 256]`` each."""
    feedback = fa.Optical(
        signal=photons, reference=10 * photons, camera=Camera(full_well=110 * photons, read_noise=10.0)
    )  # fmt: skip
    parts, cpu = (("shared", 256, 1.0),), torch.device("cpu")
    error = torch.randn(64, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    encoded = encode(error)
    exact = (encoded.scale * encoded.integers) @ dense(feedback, seed, parts, 10, torch.float64, cpu)
    return exact, feedback.product(error, parts, kept(feedback, seed, parts, 10, torch.float64, cpu))


def camera_picture() -> Figure:
    """Return a speckle frame, its histogram against the exponential law, and recovered against exact projections."""
    mean = 300.0
    intensity = speckle().abs().square() * mean
    noise = Noise(torch.arange(SIDE))
    counts = Camera(full_well=3_000, read_noise=10.0).counts(intensity, noise, 0).numpy()
    with mpl.rc_context(SETTINGS):
        figure, (frame, histogram, scatter) = panels(3, stacked=False)
        frame.imshow(counts, cmap="magma", interpolation="nearest")
        frame.set_title("a frame of the camera")
        frame.set(xticks=[], yticks=[])
        frame.grid(visible=False)
        many = np.concatenate([(speckle(seed).abs().square() * mean).numpy().ravel() for seed in range(20)])
        histogram.hist(many / mean, bins=60, range=(0, 7), density=True, color=SKY, label="pixels of 20 frames")
        x = np.linspace(0, 7, 100)
        histogram.plot(x, np.exp(-x), color=VERMILLION, label=r"$e^{-I/n}$")
        histogram.set(yscale="log", xlabel="intensity over its mean", ylim=(3e-4, 1.6))
        histogram.set_title("an exponential law")
        histogram.legend()
        for photons, colour in ((10.0, SKY), (300.0, VERMILLION)):
            exact, found = recovered(photons)
            alike = float(np.corrcoef(exact.ravel(), found.ravel())[0, 1])
            scatter.plot(
                exact.ravel()[:3000], found.ravel()[:3000], ".", color=colour, markersize=2.5,
                label=f"{photons:g} photoelectrons: correlation {alike:.3f}",
            )  # fmt: skip
        scatter.set(xlabel="exact projection", ylabel="recovered from two exposures")
        scatter.set_title("the projection, with an anchor")
        scatter.legend(loc="upper left", fontsize=7, markerscale=3)
    figure.set_label(
        "What the simulated camera sees: a speckle frame; its intensities, which follow the exponential law; and the "
        "linear projection recovered with an anchor, against the exact one."
    )
    return figure


def faults_picture(system: str, cells: Cells) -> Figure | None:
    """Return accuracy and alignment over each fault that a system was trained under; None where there is no curve."""
    found = {
        group: names
        for group in GROUPS
        if len(names := [name for name in cells if CONDITIONS[name].group == group and alignment(cells[name])]) > 1
    }
    if not found:
        return None
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(len(found), stacked=False, columns=3)
        for axes, (group, names) in zip(grid, found.items(), strict=True):
            _curve(axes, cells, names, GROUPS[group])
        for axes in grid[::3]:
            axes.set_ylabel("test accuracy (%)", color=BLUE)
        named = labelled(list(figure.axes))
        figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=len(named))
    figure.set_label(
        f"{SYSTEMS[system].about}: test accuracy (blue, left) and alignment with backpropagation (orange, right) over "
        "each fault; bars span the seeds, dashed ternary DFA without light, dotted shallow training."
    )
    return figure


def _curve(axes: Axes, cells: Cells, names: list[str], title: str) -> None:
    names = sorted(names, key=lambda name: CONDITIONS[name].value or 0.0)
    values = [CONDITIONS[name].value or 0.0 for name in names]
    means = [accuracy(cells[name]).mean for name in names]
    spans = [[100 * run.record.metrics["best"]["test_accuracy"] for run in cells[name]] for name in names]
    below = [mean - min(span) for mean, span in zip(means, spans, strict=True)]
    above = [max(span) - mean for mean, span in zip(means, spans, strict=True)]
    axes.errorbar(values, means, yerr=[below, above], color=BLUE, marker="o", markersize=4, label="accuracy")
    for name, line, label in (("ternary", DASHED, "ternary DFA"), ("shallow", DOTTED, "shallow")):
        if name in cells:
            axes.axhline(accuracy(cells[name]).mean, color=GREY, linestyle=line, linewidth=1.2, label=label)
    axes.set(xscale="log", xlabel=title, ylim=(0, 102))
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.xaxis.set_minor_formatter(NullFormatter())
    other = axes.twinx()
    cosines = [
        fmean(fmean(point["mean"] for point in (run.record.alignment or {}).values()) for run in cells[name])
        for name in names
    ]
    other.plot(values, cosines, color=VERMILLION, linestyle=DASHED, marker="s", markersize=3, label="alignment")
    other.set_ylim(-0.1, 1.03)
    other.grid(visible=False)
    other.spines["right"].set_visible(True)
    other.tick_params(axis="y", colors=VERMILLION)
