"""What the commands that tune over several searches share: run them, show what came out, and keep it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from feedalign.cli.console import say, show, standard_error, standard_output
from feedalign.cli.failures import UsageError
from feedalign.cli.progress import one_bar
from feedalign.cli.train import cpu_threads
from feedalign.experiments.files import write_atomically
from feedalign.experiments.records import to_json
from feedalign.experiments.studies import TUNING, Study, chosen, tune
from feedalign.experiments.study_tables import study_tables


class Search(Protocol):
    """The options that all these commands have."""

    @property
    def runs(self) -> int:
        """Runs per trial."""

    @property
    def threads(self) -> int | None:
        """CPU threads."""

    @property
    def output(self) -> Path:
        """Folder of the searches."""

    @property
    def keep(self) -> Path | None:
        """A file for all settings chosen so far."""

    @property
    def data_root(self) -> Path | None:
        """Folder of data sets."""


def require_some(trials: int, runs: int) -> None:
    """Raise if there is nothing to try.

    Raises:
        UsageError: There are no trials, or no runs.
    """
    if trials < 1 or runs < 1:
        raise UsageError(f"Expected at least one trial and run, found {trials} and {runs}.")


def search(command: Search, found: Sequence[Study[Any]], trials: int) -> None:
    """Run the trials that are left, print the tables of each summary, and keep what was chosen where that is asked for.

    Args:
        command: Its options.
        found: The searches.
        trials: Of each.
    """
    left = sum(command.runs * max(0, trials - len(study.done())) for study in found)
    say(standard_error(), f"{len(found)} searches of {trials} trials; {left} runs are left")
    with cpu_threads(command.threads), one_bar(left) as progress:
        summaries = tune(found, root=command.data_root, progress=progress)
    console = standard_output()
    show(console, [table for summary in summaries for table in study_tables(summary)])
    say(console, f"\nTrials and choices: {command.output}/*/{TUNING}")
    if command.keep is not None:
        write_atomically(command.keep, settings_text(chosen(command.output)).encode())
        say(console, f"Kept: {command.keep}")


def settings_text(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return the settings as JSON, a rule a line, so that a change shows."""
    cells = [
        f' "{name}": {{\n' + ",\n".join(f'  "{rule}": {to_json(one)}' for rule, one in by_rule.items()) + "\n }"
        for name, by_rule in found.items()
    ]
    return "{\n" + ",\n".join(cells) + "\n}\n"
