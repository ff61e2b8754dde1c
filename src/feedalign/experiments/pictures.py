"""The pictures of records as PNG files, for pages that stand in a repository."""

from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from feedalign.bench.plots import PICTURES
from feedalign.experiments import plots
from feedalign.experiments.comparison import classified, compare
from feedalign.experiments.ctr.pictures import ctr_pictures
from feedalign.experiments.files import writable_folder, write_atomically
from feedalign.experiments.graph.tables import pictured
from feedalign.experiments.light.pictures import light_pictures
from feedalign.experiments.lm.pictures import lm_pictures
from feedalign.experiments.nerf.plots import nerf_pictures
from feedalign.experiments.records import load_all
from feedalign.experiments.report import load_benches
from feedalign.experiments.styles import png
from feedalign.experiments.theory import studied


def write_pictures(folder: Path, output: Path) -> list[Path]:
    """Write ``<name>-<what>.png`` for all records at or below ``folder`` and return the paths.

    Raises:
        RecordError: A file is not a record.
        OutputError: A picture cannot be written.
    """
    writable_folder(output)
    written = []
    for name, figure in _figures(folder):
        path = output / f"{name}.png"
        write_atomically(path, png(figure))
        written.append(path)
    return written


def _figures(folder: Path) -> Iterator[tuple[str, Figure]]:
    yield from ctr_pictures(load_all(folder))
    yield from lm_pictures(load_all(folder))
    yield from nerf_pictures(load_all(folder))
    yield from light_pictures(load_all(folder))
    for comparison in compare(pictured(classified(load_all(folder)))):
        drawn = {
            "learning-curves": plots.learning_curves(comparison),
            "alignment": plots.alignment_over_time(comparison),
            "embedding": plots.embeddings(comparison),
        }
        yield from ((f"{comparison.name}-{what}", figure) for what, figure in drawn.items() if figure is not None)
    for record in load_benches(folder):
        draw, *_ = PICTURES[record["experiment"]]
        yield record["experiment"], draw(record, False)
    for study, record in studied(folder):
        yield from ((study.file(what), figure) for what, figure in study.pictures(record).items())
