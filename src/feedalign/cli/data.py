"""``feedalign data``: where data sets are looked for, and whether they are complete."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from feedalign.cli.console import say, show, standard_output
from feedalign.cli.options import Omitted
from feedalign.errors import nearest
from feedalign.experiments.data import DATASETS, data_root, source
from feedalign.experiments.data.click_files import read_blocks
from feedalign.experiments.data.clicks import CLICKS, ClickConfig, ClickSource, click_source, load_clicks
from feedalign.experiments.data.clicks import NAMES as CLICK_LOGS
from feedalign.experiments.data.graphs import GRAPHS, graph_source
from feedalign.experiments.data.raw_text import words
from feedalign.experiments.data.scenes import SCENES, SceneSource
from feedalign.experiments.data.texts import TEXTS, TextSource
from feedalign.experiments.errors import DataError
from feedalign.experiments.tables import Table

NAMES = (*DATASETS, *GRAPHS, *SCENES, *CLICK_LOGS, *TEXTS)
FEW = 4  # files are named, more are counted


@dataclass(frozen=True)
class ListData:
    """List the data sets and where their files are looked for.

    Example: feedalign data list

    Attributes:
        data_root: Folder of data sets; by default that of FEEDALIGN_DATA, else the user's cache folder.
    """

    data_root: Omitted[Path] = None

    def run(self) -> None:
        """Print a table of images, one of graphs, one of scenes, one of click logs and one of texts."""
        root = data_root(self.data_root)
        images = Table(
            title=f"Data sets under {root}",
            headings=("name", "data set", "files", "training", "test"),
            rows=tuple(
                (name, row.title, _where(root, row.places), f"{row.train:,}", f"{row.test:,}")
                for name, row in DATASETS.items()
            ),
            notes=("`feedalign data check` reads and checks them; `feedalign data fetch NAME` downloads one.",),
            text_columns=3,
        )
        graphs = Table(
            title=f"Graphs under {root}",
            headings=("name", "graph", "files", "nodes", "edges"),
            rows=tuple(
                (name, row.title, _where(root, row.places), f"{row.nodes:,}", f"{row.edges:,}")
                for name, row in GRAPHS.items()
            ),
            text_columns=3,
        )
        scenes = Table(
            title=f"Scenes under {root}",
            headings=("name", "scene", "files", "views"),
            rows=tuple((name, row.title, _scene_place(root, row), f"{row.views:,}") for name, row in SCENES.items()),
            notes=("No scene is downloaded, for want of checksums: `feedalign data fetch NAME` says where to get it.",),
            text_columns=3,
        )
        show(standard_output(), [images, graphs, scenes, _click_table(root), _text_table(root)])


@dataclass(frozen=True)
class CheckData:
    """Read data sets and check every file by its hash, without downloading.

    Example: feedalign data check mnist

    Attributes:
        names: Which; by default all, but of scenes, click logs and texts only those that are there.
        data_root: Folder of data sets; by default that of FEEDALIGN_DATA, else the user's cache folder.
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME [NAME ...]")] = ()
    data_root: Omitted[Path] = None

    def run(self) -> None:
        """Print a line a data set; fail at the end if one is missing or damaged."""
        console, failed = standard_output(), []
        for name in self.names or _expected(data_root(self.data_root)):
            try:
                say(console, _read(name, self.data_root, download=False))
            except DataError as error:
                say(console, f"{name}: not usable. {error}")
                failed.append(name)
        if failed:
            raise DataError(f"Not usable: {', '.join(failed)}. See above for what each one lacks.")


@dataclass(frozen=True)
class FetchData:
    """Download a data set from its official address, unless it is there, and check it.

    Example: feedalign data fetch fashion-mnist

    Attributes:
        name: Which: mnist, fashion-mnist, cifar10, cora, citeseer, pubmed, movielens-100k,
            movielens-1m, wikitext-2 or wikitext-103. Of scenes
            and other click logs it is said where to get them.
        data_root: Folder of data sets; by default that of FEEDALIGN_DATA, else the user's cache folder.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    data_root: Omitted[Path] = None

    def run(self) -> None:
        """Download and print what is there."""
        say(standard_output(), _read(self.name, self.data_root, download=True))


def _present(root: Path, places: tuple[str, ...]) -> list[str]:
    return [place for place in places if (root / place).exists()]


def _where(root: Path, places: tuple[str, ...]) -> str:
    present = _present(root, places)
    if len(present) > FEW:
        return f"{present[0]} and {len(present) - 1} more"
    return "built in" if not places else ", ".join(present) or f"not there; a download goes to {places[0]}"


def _scene_place(root: Path, row: SceneSource) -> str:
    found = row.find(root)
    if found is not None:
        return found.relative_to(root).as_posix()
    return f"not there; goes to {row.places[0]}" if row.places else "built in"


def _expected(root: Path) -> tuple[str, ...]:
    there = (name for name, row in SCENES.items() if not row.places or row.find(root))
    logs = (name for name in CLICK_LOGS if name not in CLICKS or CLICKS[name].find(root))
    texts = (name for name, row in TEXTS.items() if not row.places or _present(root, row.places))
    return (*DATASETS, *GRAPHS, *there, *logs, *texts)


def _read(name: str, root: Path | None, download: bool) -> str:
    if name not in NAMES:
        raise DataError(f"There is no data set {name!r}.{nearest(name, NAMES)} There are: {', '.join(NAMES)}.")
    readers = ((SCENES, _read_scene), (GRAPHS, _read_graph), (CLICK_LOGS, _read_clicks), (TEXTS, _read_text))
    read = next((reader for names, reader in readers if name in names), _read_images)
    return read(name, data_root(root), download)


def _read_images(name: str, root: Path, download: bool) -> str:
    row = source(name)
    raw = row.read(root, download=download)
    train, test = len(raw.train.labels), len(raw.test.labels)
    part = "" if (train, test) == (row.train, row.test) else f" (a part: there are {row.train:,} and {row.test:,})"
    return f"{name}: {train:,} training and {test:,} test images{part or ', complete'}; {_checked(row.places)}."


def _read_graph(name: str, root: Path, download: bool) -> str:
    row = graph_source(name)
    counts = row.read(root, download=download).check().counts
    return f"{name}: {counts['nodes']:,} nodes and {counts['edges']:,} edges, complete; {_checked(row.places)}."


def _read_scene(name: str, root: Path, download: bool) -> str:
    del download  # there is none
    row = SCENES[name]
    scene = row.read_small(name, root)
    counts = [len(part) for part in (scene.train, scene.validation, scene.test)]
    part = "" if sum(counts) == row.views else f" (a part: there are {row.views:,} in all)"
    read = "every picture was read, but no hashes are known" if row.places else "built in, no file to check"
    return f"{name}: {counts[0]:,} training, {counts[1]:,} validation and {counts[2]:,} test views{part}; {read}."


def _click_table(root: Path) -> Table:
    planted = ("planted", "drawn from a known logit", "built in", "50,000")
    rows = ((name, row.title, _click_place(root, row), f"{row.rows:,}") for name, row in CLICKS.items())
    return Table(
        title=f"Click logs under {root}",
        headings=("name", "click log", "files", "rows"),
        rows=(planted, *rows),
        notes=("`feedalign data fetch NAME` downloads MovieLens; of the others it says where to get them.",),
        text_columns=3,
    )


def _click_place(root: Path, row: ClickSource) -> str:
    there = row.find(root)
    return ", ".join(there) if there else f"not there; {'a download ' if row.archive else ''}goes to {row.places[0]}"


def _read_clicks(name: str, root: Path, download: bool) -> str:
    if name not in CLICKS:
        counts = load_clicks(ClickConfig()).counts
        return f"{name}: {counts['rows']:,} rows of {counts['fields']} fields, complete; {_checked(())}."
    row = click_source(name)
    paths = row.locate(root, download=download)
    rows = sum(len(block.labels) for block in read_blocks(paths, row.layout))
    part = ", complete" if rows == row.rows else f" (the whole of it has {row.rows:,})"
    known = "every file has its known hash" if row.hashes_known else "every line was checked, but no hash is known"
    return f"{name}: {rows:,} rows of {len(row.layout.fields)} fields{part}; {known}."


def _text_table(root: Path) -> Table:
    rows = ((name, row, f"{row.words:,}" if row.words else "any") for name, row in TEXTS.items())
    return Table(
        title=f"Texts under {root}",
        headings=("name", "text", "files", "words"),
        rows=tuple((name, row.title, _text_place(root, row), count) for name, row, count in rows),
        notes=("Of the training part. A language model learns its vocabulary from that part alone.",),
        text_columns=3,
    )


def _text_place(root: Path, row: TextSource) -> str:
    if row.words is None and row.places and not _present(root, row.places):
        return f"not there; goes to {row.places[0]} and so on"  # nobody else has it
    return _where(root, row.places)


def _read_text(name: str, root: Path, download: bool) -> str:
    row = TEXTS[name]
    texts = row.read(root, download=download)
    train, validation, test = (sum(map(words, part.lines())) for part in (texts.train, texts.validation, texts.test))
    part = f" (the whole of it has {row.words:,})" if row.words not in (None, train) else ", complete"
    return (
        f"{name}: {train:,} training, {validation:,} validation and {test:,} test words{part if row.words else ''}; "
        "every line is UTF-8."
    )


def _checked(places: tuple[str, ...]) -> str:
    return "every file has its known hash" if places else "built in, no file to check"
