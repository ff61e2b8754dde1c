"""Commands run in this process, and some runs for them to work on."""

import shlex
from itertools import takewhile
from pathlib import Path

import pytest

from feedalign.cli import main


class Said:
    """The exit code and the two outputs of a command."""

    def __init__(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        capsys.readouterr()
        try:
            self.code = main(arguments)
        except SystemExit as stop:  # what the parser does on --help and on words it does not know
            self.code = int(stop.code or 0)
        self.out, self.err = capsys.readouterr()

    @property
    def message(self) -> str:
        """What was said on standard error in one line, after asserting that it is no traceback."""
        assert "Traceback" not in self.err
        return " ".join(self.err.split())

    @property
    def rows(self) -> list[list[str]]:
        """The words of each row of the first table."""
        lines = self.out.splitlines()
        head = next(i for i, line in enumerate(lines) if line.strip().startswith("───"))
        return [line.split() for line in takewhile(str.strip, lines[head + 1 :])]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("FEEDALIGN_TRACEBACK", raising=False)
    return lambda *words: Said([str(word) for word in words], capsys)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    words = shlex.split(
        "train vision --epochs 1 --widths 16 --limit 200 --rule dfa bp --seeds 2 --device cpu --threads 1"
    )
    assert main([*words, "--output", str(folder)]) == 0
    return folder
