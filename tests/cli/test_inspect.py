import re
from pathlib import Path

import pytest

from feedalign.cli import main

MODEL = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10))

def tokens():
    return nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 50))

def number():
    return 3

def convolutions():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(),
        nn.Linear(8, 3),
    )

class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2))
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)

def wide(width):
    return nn.Linear(width, width)
"""


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    file = tmp_path / "model.py"
    file.write_text(MODEL, encoding="utf-8")
    return file


def test_inspect_shows_points_with_shapes(command, model_file: Path) -> None:
    said = command("inspect", f"{model_file}:build", "--shape", "4,1,28,28")
    assert said.code == 0
    assert re.search(r"^2 +\[4, 30\] +uniform \[10, 30\]", said.out, flags=re.MULTILINE)
    assert re.search(r"^4 +\[4, 20\] +uniform \[10, 20\]", said.out, flags=re.MULTILINE)


def test_inspect_takes_tokens_and_other_points(command, model_file: Path) -> None:
    said = command("inspect", f"{model_file}:tokens", "--shape", "2,7", "--integers", "50", "--points", "1")
    assert said.code == 0
    assert re.search(r"^1 +\[2, 7, 6\] +uniform \[50, 6\]", said.out, flags=re.MULTILINE)


def test_inspect_takes_every_kind_of_rule(command, model_file: Path) -> None:
    said = command("inspect", f"{model_file}:build", "--shape", "4,1,28,28", "--rule", "dkp")
    assert said.code == 0
    assert re.search(r"^2 +\[4, 30\] +uniform \[10, 30\] x [0-9.]+, learned", said.out, flags=re.MULTILINE)
    said = command("inspect", f"{model_file}:build", "--rule", "fa")
    assert said.code == 0
    assert re.search(r"^3\.weight +\[20, 30\] +a fixed random matrix", said.out, flags=re.MULTILINE)
    said = command("inspect", f"{model_file}:build", "--rule", "kp")
    assert said.code != 0
    assert "kp learns matrices whose shapes depend on the input: expected --shape" in said.err


def test_inspect_says_what_suits_convolutions(command, model_file: Path) -> None:
    for words in ("", "--shape 2,1,8,8"):
        said = command("inspect", f"{model_file}:convolutions", *words.split())
        assert said.code == 0
        assert "Behind convolutions ('1', '3') feedback that is drawn for each position apart" in " ".join(
            said.out.split()
        )
        assert "Uniform(positions='repeat')" in said.out
    assert "convolutions (" not in command("inspect", f"{model_file}:build", "--shape", "4,1,28,28").out
    assert "convolutions (" not in command("inspect", f"{model_file}:convolutions", "--rule", "usf").out


def test_inspect_says_where_the_error_passes_around_the_points(command, model_file: Path) -> None:
    said = command("inspect", f"{model_file}:Loop", "--points", "layers.*", "--shape", "4,8")
    assert said.code == 0
    assert "Warning: The error also reaches what lies below 'layers.0', 'layers.1' by" in " ".join(said.out.split())
    assert "in the forward of the model, so that no module returns it" in " ".join(said.out.split())


@pytest.mark.parametrize(
    ("target", "words", "message"),
    [
        ("build", "", "Expected FILE:FACTORY, found 'build'."),
        ("nowhere.py:build", "", "Expected a Python file, found none at nowhere.py."),
        ("{file}:biuld", "", "has no function or class 'biuld'. Did you mean 'build'?"),
        ("{file}:number", "", "to return an nn.Module, found int."),
        ("{file}:wide", "", "wants width. Write a function that calls it with the values you mean"),
        ("{file}:tokens", "--shape 2,7 --integers 0", "Expected a vocabulary of at least 1 for --integers, found 0."),
        ("{file}:build", "--shape 1,x", "Expected a shape such as 1,1,28,28 (whole numbers above 0), found '1,x'."),
        ("{file}:build", "--shape 1,3,32,32", "Sequential refused an input of shape (1, 3, 32, 32)"),
        ("{file}:tokens", "--shape 2,7", "for tokens add --integers VOCABULARY"),
        ("{file}:build", "--points layer9", "No module matches points="),
        ("{file}:build", "--points autoo", "No module matches points='autoo'. Did you mean 'auto'?"),
        ("{file}:build", "--rule pfa", "There is no rule 'pfa'. Did you mean"),
    ],
)
def test_inspect_says_what_it_expected(command, model_file: Path, target: str, words: str, message: str) -> None:
    said = command("inspect", target.replace("{file}", str(model_file)), *words.split())
    assert said.code == 2
    assert message in said.message


def test_a_file_may_hold_dataclasses_and_import_its_neighbours(command, tmp_path: Path) -> None:
    (tmp_path / "neighbouring_sizes.py").write_text("WIDTH = 7", encoding="utf-8")
    (tmp_path / "model.py").write_text(
        """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn
from neighbouring_sizes import WIDTH

@dataclass
class Sizes:
    width: int = WIDTH

def build():
    return nn.Sequential(nn.Linear(3, Sizes().width), nn.ReLU(), nn.Linear(Sizes().width, 2))
""",
        encoding="utf-8",
    )
    said = command("inspect", f"{tmp_path / 'model.py'}:build", "--shape", "4,3")
    assert said.code == 0
    assert re.search(r"^1 +\[4, 7\] +uniform \[2, 7\]", said.out, flags=re.MULTILINE)


def test_a_fault_in_the_users_file_is_not_called_a_missing_extra(command, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("import nonexistent_package_of_mine", encoding="utf-8")
    said = command("inspect", f"{tmp_path / 'm.py'}:build")
    assert said.code == 1
    assert "Unexpected ModuleNotFoundError: No module named 'nonexistent_package_of_mine'" in said.message
    assert "FEEDALIGN_TRACEBACK=1" in said.err


def test_a_traceback_is_there_for_who_asks(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDALIGN_TRACEBACK", "1")
    with pytest.raises(ValueError, match="There is no rule 'pfa'"):
        main(["inspect", f"{model_file}:build", "--rule", "pfa"])
