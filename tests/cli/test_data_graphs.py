"""The graphs among the data sets of the command line."""

import shutil
from pathlib import Path


def test_data_list_shows_the_graphs(command, data_root: Path, tmp_path: Path) -> None:
    said = command("data", "list", "--data-root", tmp_path)
    assert said.code == 0
    assert f"Graphs under {tmp_path}" in said.out
    assert "not there; a download goes to planetoid/ind.cora.x" in said.out
    assert "planetoid/ind.cora.x and 7 more" in command("data", "list", "--data-root", data_root).out


def test_data_check_reads_graphs(command, data_root: Path) -> None:
    said = command("data", "check", "karate", "cora", "--data-root", data_root)
    assert said.code == 0
    assert said.out == (
        "karate: 34 nodes and 78 edges, complete; built in, no file to check.\n"
        "cora: 2,708 nodes and 5,278 edges, complete; every file has its known hash.\n"
    )


def test_a_damaged_graph_ends_in_two(command, data_root: Path, tmp_path: Path) -> None:
    (tmp_path / "planetoid").mkdir()
    for file in (data_root / "planetoid").glob("ind.cora.*"):
        shutil.copyfile(file, tmp_path / "planetoid" / file.name)
    damaged = tmp_path / "planetoid" / "ind.cora.graph"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + b"!")
    said = command("data", "fetch", "cora", "--data-root", tmp_path)
    assert said.code == 2
    assert "ind.cora.graph is damaged or was changed: expected sha256" in said.message


def test_a_misspelt_data_set_ends_in_two(command, tmp_path: Path) -> None:
    said = command("data", "fetch", "corra", "--data-root", tmp_path)
    assert said.code == 2
    assert "There is no data set 'corra'. Did you mean 'cora'? There are: digits, mnist," in said.message
