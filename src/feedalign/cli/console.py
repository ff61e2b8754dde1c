"""Where the commands write: results on standard output, progress on standard error."""

from rich.console import Console

from feedalign.experiments.tables import Table, to_rich

# A pipe or a file has no width of its own, and rich would fold tables at 80 columns there.
PIPE_WIDTH = 160


def standard_output() -> Console:
    """Return the console for results."""
    return _console(stderr=False)


def standard_error() -> Console:
    """Return the console for progress."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PIPE_WIDTH)


def show(console: Console, tables: list[Table]) -> None:
    """Print tables with an empty line before each."""
    for table in tables:
        console.print()
        console.print(to_rich(table))


def say(console: Console, text: str) -> None:
    """Print a sentence as it is: no markup, no folding, so that paths and commands can be copied."""
    console.print(text, markup=False, soft_wrap=True)
