"""One self-contained HTML file from records: a summary in words, tables, pictures, and where it all comes from."""

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup
from matplotlib.figure import Figure

from feedalign import __version__
from feedalign.bench.plots import PICTURES
from feedalign.bench.tables import bench_tables
from feedalign.experiments import plots
from feedalign.experiments.accuracy_tables import accuracy_table
from feedalign.experiments.alignment_tables import alignment_tables
from feedalign.experiments.comparison import Comparison, accuracy, classified, compare, flat
from feedalign.experiments.ctr.pictures import ctr_pictures
from feedalign.experiments.ctr.tables import ctr_tables
from feedalign.experiments.errors import RecordError
from feedalign.experiments.files import writable_folder, write_atomically
from feedalign.experiments.findings import findings
from feedalign.experiments.graph.tables import graph_tables, pictured
from feedalign.experiments.lm.pictures import lm_pictures
from feedalign.experiments.lm.tables import lm_tables
from feedalign.experiments.names import full_name, label
from feedalign.experiments.nerf.plots import nerf_pictures
from feedalign.experiments.nerf.tables import nerf_tables
from feedalign.experiments.provenance import machine
from feedalign.experiments.records import RECORD, Run, load_all, read_json
from feedalign.experiments.styles import svg
from feedalign.experiments.tables import Table, to_html
from feedalign.experiments.theory import studied
from feedalign.experiments.theory.study import Study, Written

TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class Picture:
    """A figure in two widths, with what it says to those who cannot see it."""

    wide: str
    narrow: str
    alternative: str
    caption: str


@dataclass(frozen=True)
class Detail:
    """A table folded away under a heading."""

    heading: str
    table: Markup


@dataclass(frozen=True)
class Section:
    """One configuration's runs, or one benchmark."""

    heading: str
    summary: list[str]
    tables: list[Markup]
    pictures: list[Picture]
    details: list[Detail]


def write_report(folder: Path, output: Path) -> Path:
    """Write the report on every record at or below ``folder`` and return its path.

    Args:
        folder: Where the records are.
        output: The HTML file.

    Raises:
        RecordError: There is no record, or a file is not one.
        OutputError: The file cannot be written.
    """
    runs, benches, studies = load_all(folder), load_benches(folder), studied(folder)
    if not runs and not benches and not studies:
        raise RecordError(
            f"Expected at least one {RECORD} at or below {folder}, found none. "
            "`feedalign demo` makes some in about a minute."
        )
    writable_folder(output.parent)
    write_atomically(output, render(runs, benches, studies).encode())
    return output


def load_benches(folder: Path) -> list[dict[str, Any]]:
    """Return the bench records at or below a folder, in the order of their paths."""
    found = (read_json(file) for file in sorted(folder.rglob(RECORD)))
    return [record for record in found if "cases" in record]


def render(runs: list[Run], benches: list[dict[str, Any]], studies: Sequence[tuple[Study, Written]] = ()) -> str:
    """Return the report as HTML, the same text for the same records."""
    sections = [_graph_section(tables)] if (tables := graph_tables(runs)) else []
    sections += [_family_section("Click logs", tables, ctr_pictures, runs)] if (tables := ctr_tables(runs)) else []
    sections += [_family_section("Language models", tables, lm_pictures, runs)] if (tables := lm_tables(runs)) else []
    sections += [_family_section("Scenes", tables, nerf_pictures, runs)] if (tables := nerf_tables(runs)) else []
    sections += [_comparison_section(comparison) for comparison in compare(pictured(classified(runs)))]
    sections += [_bench_section(record) for record in benches]
    sections += [_study_section(study, record) for study, record in studies]
    started = [record["started"] for record in (*benches, *(record for _, record in studies))]
    days = sorted({day[:10] for day in (*started, *(run.record.started for run in runs))})
    template = files("feedalign.experiments").joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        title="Learning without weight transport: results",
        runs=len(runs) + len(benches) + len(studies),
        dates=days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}",
        version=__version__,
        sections=sections,
    )


def _graph_section(tables: Sequence[Table]) -> Section:
    """Return all tables of graph networks; only some of these have a section with pictures too."""
    return Section("Graph networks", [], [Markup(to_html(table)) for table in tables], [], [])


def _family_section(
    heading: str,
    tables: Sequence[Table],
    draw: Callable[..., Iterable[tuple[str, Figure]]],
    runs: Sequence[Run],
) -> Section:
    """Return all tables and pictures of an experiment that is not told by an accuracy."""
    drawn = zip(draw(runs), draw(runs, stacked=True), strict=True)
    pictures = [
        Picture(_address(wide), _address(narrow), str(wide.get_label()), str(wide.get_label()))
        for (_, wide), (_, narrow) in drawn
    ]
    return Section(heading, [], [Markup(to_html(table)) for table in tables], pictures, [])


def _comparison_section(comparison: Comparison) -> Section:
    tables = [accuracy_table(comparison), *alignment_tables(comparison)]
    return Section(
        heading=f"{comparison.name} ({comparison.first.record.data['name']})",
        summary=findings(comparison),
        tables=[Markup(to_html(table)) for table in tables],
        pictures=_pictures(comparison),
        details=[
            Detail("Configuration", Markup(to_html(_configuration(comparison)))),
            Detail("Where these numbers come from", Markup(to_html(_provenance(comparison)))),
        ],
    )


def _pictures(comparison: Comparison) -> list[Picture]:
    drawn = [
        _picture(
            lambda stacked: plots.learning_curves(comparison, stacked),
            f"Training loss and test error against epochs. {_ends(comparison)}",
            "Mean over seeds." if comparison.many else "Mean over seeds; the band is the range between seeds.",
        ),
        _picture(
            lambda stacked: plots.alignment_over_time(comparison, stacked),
            "Alignment with backpropagation against epochs, "
            f"a line a {'rule' if comparison.many else 'point'}; the table above holds the last values.",
            "Cosine between the signal delivered and backpropagation's gradient; 0 is what random directions give.",
        ),
        _picture(
            lambda stacked: plots.embeddings(comparison, stacked),
            f"t-SNE of the last hidden layer on test samples. {_silhouettes(comparison)}",
            "Each character is a test sample, written as its class. The silhouette measures how separate the "
            "classes are in the layer itself, from -1 to 1; distances in t-SNE mean little.",
        ),
    ]
    return [picture for picture in drawn if picture is not None]


def _picture(draw: Callable[[bool], Figure | None], alternative: str, caption: str) -> Picture | None:
    wide, narrow = draw(False), draw(True)
    if wide is None or narrow is None:
        return None
    return Picture(_address(wide), _address(narrow), alternative, caption)


def _address(figure: Figure) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg(figure).encode()).decode()


def _ends(comparison: Comparison) -> str:
    ends = (f"{label(rule)} {100 * (1 - accuracy(runs, 'final').mean):.2f} %" for rule, runs in comparison.runs.items())
    return f"Test error at the last epoch: {', '.join(ends)}."


def _silhouettes(comparison: Comparison) -> str:
    found = (
        f"{label(rule)} {run.embedding['silhouette']:.2f}"
        for rule, runs in comparison.runs.items()
        for run in runs[:1]
        if run.embedding
    )
    return f"Silhouettes: {', '.join(found)}."


def _configuration(comparison: Comparison) -> Table:
    """Return every setting: one value where the rules share it, else the value of each rule."""
    configs = {label(rule): flat(runs[0].record.config) for rule, runs in comparison.runs.items()}
    rows = []
    for key in dict.fromkeys(key for config in configs.values() for key in config):
        values = {rule: str(config.get(key, "")) for rule, config in configs.items()}
        shared = len(set(values.values())) == 1
        each = "; ".join(f"{rule}: {value}" for rule, value in values.items())
        rows.append((key, next(iter(values.values())) if shared else each))
    return Table("Settings of the first seed", ("setting", "value"), tuple(rows), text_columns=2)


def _provenance(comparison: Comparison) -> Table:
    records = [run.record for runs in comparison.runs.values() for run in runs]
    return Table(
        title="One row a run",
        headings=("rule", "seed", "started (UTC)", "seconds"),
        rows=tuple(
            (label(full_name(r.rule)), str(r.seed), _minute(r.started), f"{r.wall_seconds:.1f}") for r in records
        ),
        notes=tuple(dict.fromkeys(_origin(vars(record)) for record in records)),
        text_columns=3,
    )


def _minute(started: str) -> str:
    return started[:16].replace("T", " ")


def _origin(record: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    commit = f"commit {record['commit'][:12]}" if record["commit"] else "an installed package"
    changed = ", with changes on top" if record["dirty"] else ""
    return f"On {machine(record)}: {versions}; {commit}{changed}."


def _bench_section(record: dict[str, Any]) -> Section:
    draw, heading, alternative, caption = PICTURES[record["experiment"]]
    picture = _picture(lambda stacked: draw(record, stacked), alternative, caption)
    provenance = Table("This benchmark", ("started (UTC)",), ((_minute(record["started"]),),), notes=(_origin(record),))
    return Section(
        heading=heading,
        summary=_speed(record["cases"]) if record["experiment"] == "bench-step" else [],
        tables=[Markup(to_html(table)) for table in bench_tables(record)],
        pictures=[picture] if picture is not None else [],
        details=[Detail("Where these numbers come from", Markup(to_html(provenance)))],
    )


def _study_section(study: Study, record: Written) -> Section:
    pictures = []
    for name, figure in study.pictures(record).items():
        drawn, caption = _address(figure), str(figure.get_label()) or f"{study.name}: {name}"
        # The tables hold what a picture shows; its caption says what to look for.
        pictures.append(Picture(drawn, drawn, caption, caption))
    settings = tuple((key, str(value)) for key, value in flat(record["config"]).items())
    provenance = Table(
        "This study",
        ("started (UTC)", "seconds"),
        ((_minute(record["started"]), f"{record['wall_seconds']:.0f}"),),
        notes=(_origin(record),),
    )
    return Section(
        heading=f"Theory: {study.name}",
        summary=[study.about],
        tables=[Markup(to_html(table)) for table in study.tables(record)],
        pictures=pictures,
        details=[
            Detail("Configuration", Markup(to_html(Table("Settings", ("setting", "value"), settings, text_columns=2)))),
            Detail("Where these numbers come from", Markup(to_html(provenance))),
        ],
    )


def _speed(cases: list[dict[str, Any]]) -> list[str]:
    found = sorted((1 / case["ratio_to_backprop"], case["name"]) for case in cases if case["rule"] == "dfa")
    if not found:
        return []
    ends = found if len(found) == 1 else [found[0], found[-1]]
    times = " to ".join(f"{share:.2f} ({name})" for share, name in ends)
    return [
        f"With DFA a whole training step took {times} times as long as with backpropagation. "
        "This is time a step, not time to a given accuracy."
    ]
