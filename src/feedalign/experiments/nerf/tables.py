"""The tables of scenes: how like the photographs new views are, and the published figures beside ours."""

import json
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from statistics import fmean
from typing import Any

from feedalign.experiments.accuracy_tables import INTERVAL_NOTE
from feedalign.experiments.names import label, rank, short_name
from feedalign.experiments.records import Run
from feedalign.experiments.tables import Interval, Table, interval

NERF = "nerf"
NONE = "-"
FULL_SCALE = ("-published", "-paper", "-wide")
"""Endings of the names of configurations at the scale of the publications."""
MOST_VIEWS = 30
"""Test views that have a row each in a table; of more there are the means alone."""

Scenes = dict[str, dict[str, list[Run]]]
"""The runs by configuration and rule."""


@lru_cache(maxsize=1)
def published() -> dict[str, Any]:
    """Return the published figures: PSNR in dB by scene and rule."""
    found: dict[str, Any] = json.loads(files(__package__).joinpath("published.json").read_text(encoding="utf-8"))
    return found


def of_scenes(run: Run) -> bool:
    """Return whether a run is one of a scene."""
    return run.record.experiment == NERF


def sorted_runs(runs: Sequence[Run]) -> Scenes:
    """Return the runs on scenes by configuration and rule, in the order of tables; others are left out."""
    found: Scenes = {}
    key = lambda run: (run.record.name, rank(run.record.rule), run.record.seed)  # noqa: E731 -- a sort key
    for run in sorted(filter(of_scenes, runs), key=key):
        found.setdefault(run.record.name, {}).setdefault(short_name(run.record.rule), []).append(run)
    return found


def nerf_tables(runs: Sequence[Run]) -> list[Table]:
    """Return every table that runs on scenes give: PSNR, SSIM, alignment, and each test view."""
    scenes = sorted_runs(runs)
    scored = {name: rules for name, rules in scenes.items() if any(map(_scored, _all(rules)))}
    tables = [psnr_table(scored), ssim_table(scored)] if scored else []
    if any(run.record.alignment for rules in scenes.values() for run in _all(rules)):
        tables.append(alignment_table(scenes))
    return [*tables, *(views_table(name, rules) for name, rules in scored.items() if _few_views(rules))]


def _scored(run: Run) -> bool:
    return "test" in run.record.metrics


def _all(rules: dict[str, list[Run]]) -> list[Run]:
    return [run for runs in rules.values() for run in runs]


def figure(runs: Sequence[Run], part: str, what: str) -> Interval | None:
    """Return ``"psnr"`` or ``"ssim"`` of a part over seeds; None where it was not measured."""
    found = [run.record.metrics[part][what] for run in runs if part in run.record.metrics]
    return interval(found) if found else None


def psnr_table(scenes: Scenes) -> Table:
    """Return the PSNR of test views, a row a configuration: tables 1 and A.5 of the publication."""
    rules = _rules(scenes)
    rows = []
    for name, by_rule in scenes.items():
        first = _all(by_rule)[0].record
        theirs = published()["psnr"].get(_scene_of(first.data["name"]), {})
        ours = [_text(figure(by_rule.get(rule, []), "test", "psnr"), 2) for rule in rules]
        size = f"{first.data['width']} x {first.data['height']}"
        iterations = f"{first.config['iterations']:,}"
        known = [f"{theirs[rule]:.2f}" if theirs else NONE for rule in ("bp", "dfa")]
        rows.append((name, size, iterations, _seeds(by_rule), *ours, *known))
    full = all(name.endswith(FULL_SCALE) for name in scenes)
    scale = "" if full else " Theirs are at full scale: larger pictures, and up to 500,000 iterations of more rays."
    return Table(
        title="New views of scenes: PSNR in dB, mean over test views",
        headings=(
            "configuration", "pixels", "iterations", "seeds", *(label(rule) for rule in rules),
            "published: backprop", "published: DFA",
        ),
        rows=tuple(rows),
        notes=(
            f"{INTERVAL_NOTE}, where there are several; at the last iteration. Published: {published()['source']}, of "
            f"the scene of that name.{scale}",
        ),
    )  # fmt: skip


def ssim_table(scenes: Scenes) -> Table:
    """Return the SSIM of test views, a row a configuration, beside PSNR on validation views."""
    rules = _rules(scenes)
    rows = []
    for name, by_rule in scenes.items():
        cells = [_text(figure(by_rule.get(rule, []), "test", "ssim"), 3) for rule in rules]
        checked = [_text(figure(by_rule.get(rule, []), "validation", "psnr"), 2) for rule in rules]
        rows.append((name, *cells, *checked))
    return Table(
        title="New views of scenes: SSIM of test views, and PSNR in dB of validation views",
        headings=(
            "configuration",
            *(f"{label(rule)}: SSIM" for rule in rules),
            *(f"{label(rule)}: validation PSNR" for rule in rules),
        ),
        rows=tuple(rows),
        notes=("SSIM with the Gaussian window of Wang et al. 2004; 1 for equal pictures.",),
    )


def alignment_table(scenes: Scenes) -> Table:
    """Return the alignment with backpropagation at the end of training, a row a point."""
    rows = []
    for name, by_rule in scenes.items():
        for rule, runs in by_rule.items():
            measured = [run.record.alignment for run in runs if run.record.alignment]
            for point in measured[0] if measured else ():
                means = [one[point]["mean"] for one in measured if one[point]["mean"] is not None]
                if means:
                    share = fmean(_share_without_error(one[point]) for one in measured)
                    spread = fmean(one[point]["std"] for one in measured)
                    rows.append((name, label(rule), point, _text(interval(means), 3), f"{spread:.2f}", f"{share:.0f}"))
    return Table(
        title="Alignment with backpropagation at the end of training",
        headings=("configuration", "rule", "point", "mean cosine", "std over samples", "left out (%)"),
        rows=tuple(rows),
        notes=(
            "Cosine, per sample on a ray, between the signal that a point receives and the gradient that "
            "backpropagation would have given it. Samples where nothing is seen have an error of exactly zero; their "
            "share is left out.",
        ),
        text_columns=3,
    )


def _share_without_error(cosine: dict[str, Any]) -> float:
    total = cosine["n"] + cosine["zero_error"] + cosine["undefined"]
    return 100 * cosine["zero_error"] / total if total else 0.0


def views_table(name: str, rules: dict[str, list[Run]]) -> Table:
    """Return PSNR and SSIM of each test view under the first seed of each rule."""
    runs = {rule: run for rule, found in rules.items() for run in found[:1] if _scored(run)}
    views = {rule: run.record.metrics["test"]["views"] for rule, run in runs.items()}
    rows = []
    for view in next(iter(views.values())):
        found = [by_view[view] for by_view in views.values() if view in by_view]
        if len(found) == len(views):
            rows.append((view, *(f"{one['psnr']:.2f}" for one in found), *(f"{one['ssim']:.3f}" for one in found)))
    return Table(
        title=f"{name}: each test view, seed {next(iter(runs.values())).record.seed}",
        headings=(
            "view",
            *(f"{label(rule)}: PSNR" for rule in runs),
            *(f"{label(rule)}: SSIM" for rule in runs),
        ),
        rows=tuple(rows),
    )


def _few_views(rules: dict[str, list[Run]]) -> bool:
    return any(len(run.record.metrics.get("test", {"views": ()})["views"]) <= MOST_VIEWS for run in _all(rules))


def _rules(scenes: Scenes) -> list[str]:
    return sorted({rule for rules in scenes.values() for rule in rules}, key=rank)


def _scene_of(name: str) -> str:
    return {"tiny-lego": "lego", "tiny-nerf": "lego"}.get(name, name)


def _seeds(rules: dict[str, list[Run]]) -> str:
    return " or ".join(map(str, sorted({len(runs) for runs in rules.values()})))


def _text(found: Interval | None, digits: int) -> str:
    return NONE if found is None else found.text(digits)
