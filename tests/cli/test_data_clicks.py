"""The click logs among the data sets of the command line."""

import shutil
from pathlib import Path

from feedalign.cli.failures import code, message


def test_data_list_shows_the_click_logs(command, data_root: Path, tmp_path: Path) -> None:
    said = command("data", "list", "--data-root", tmp_path)
    assert said.code == 0
    assert f"Click logs under {tmp_path}" in said.out
    assert "not there; goes to criteo/train.txt" in said.out
    assert "not there; a download goes to movielens-100k/ua.base" in said.out
    said = command("data", "list", "--data-root", data_root)
    assert "criteo/criteo_train.txt, criteo/criteo_dev.txt, criteo/criteo_test.txt" in said.out


def test_data_check_reads_click_logs(command, data_root: Path) -> None:
    names = ["planted", "criteo-sample", "criteo-indexed", "avazu-sample", "movielens-100k"]
    said = command("data", "check", *names, "--data-root", data_root)
    assert said.code == 0
    assert said.out == (
        "planted: 50,000 rows of 9 fields, complete; built in, no file to check.\n"
        "criteo-sample: 8,000 rows of 39 fields, complete; every file has its known hash.\n"
        "criteo-indexed: 20,000 rows of 39 fields, complete; every file has its known hash.\n"
        "avazu-sample: 8,999 rows of 22 fields, complete; every file has its known hash.\n"
        "movielens-100k: 100,000 rows of 2 fields, complete; every file has its known hash.\n"
    )


def test_a_log_without_a_known_hash_is_read_line_by_line(command, data_root: Path, tmp_path: Path) -> None:
    (tmp_path / "criteo").mkdir()
    file = tmp_path / "criteo" / "train.txt"
    shutil.copyfile(data_root / "criteo" / "criteo_dev.txt", file)
    said = command("data", "check", "criteo", "--data-root", tmp_path)
    assert said.code == 0
    assert said.out == (
        "criteo: 409 rows of 39 fields (the whole of it has 45,840,617); "
        "every line was checked, but no hash is known.\n"
    )
    file.write_bytes(file.read_bytes()[:-30])
    said = command("data", "check", "criteo", "--data-root", tmp_path)
    assert said.code == 2
    assert f"criteo: not usable. {file}, line 409: expected 40 columns between tabs, found" in said.out


def test_what_cannot_be_fetched_says_where_it_is(command, tmp_path: Path) -> None:
    said = command("data", "fetch", "avazu", "--data-root", tmp_path)
    assert said.code == 2
    assert "https://www.kaggle.com/c/avazu-ctr-prediction/data" in said.message


def test_bench_clicks_teaches_and_refuses_lengths_that_are_too_short(command, tmp_path: Path) -> None:
    said = command("bench", "clicks", "--help")
    assert said.code == 0
    assert "Example: feedalign bench clicks --rows 200000 1000000" in said.out
    said = command("bench", "clicks", "--rows", "5", "--output", tmp_path)
    assert said.code == 2
    assert "Expected at least one length, of at least 10 rows each; found (5,)." in said.message


def test_bench_clicks_says_which_rows_it_needs(command, tmp_path: Path) -> None:
    said = command("bench", "clicks", "--rows", "20", "--data-root", tmp_path, "--output", tmp_path / "runs")
    assert said.code == 2
    assert "Criteo, the first 8,000 rows is missing. Expected:" in said.message


def test_the_missing_extra_is_named_with_its_command() -> None:
    error = ModuleNotFoundError("No module named 'polars'", name="polars")
    assert message(error).endswith("needs the package 'polars', which is not installed: pip install \"feedalign[ctr]\"")
    assert code(error) == 2
