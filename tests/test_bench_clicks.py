"""What making the cache of a click log takes."""

from pathlib import Path
from typing import Any

import pytest

from feedalign.bench.click_file import NEW, write_rows
from feedalign.bench.clicks import WHOLE, ClicksConfig, foretold
from feedalign.bench.plots import PICTURES
from feedalign.bench.record import run
from feedalign.bench.tables import bench_tables
from feedalign.experiments.data.clicks import CLICKS, ClickConfig, load_clicks


def case(rows: int, seconds: float, peak: int) -> dict[str, Any]:
    return {"rows": rows, "cpu_seconds": seconds, "peak_memory_bytes": peak}


def test_the_record_holds_what_was_measured(data_root: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    config = ClicksConfig(rows=(500,), data_root=str(data_root), scratch=str(tmp_path))
    record = run(config, tmp_path / "record", lambda *state: told.append(state))
    assert told == [("500 rows", 1, 1)]
    (found,) = record["cases"]
    assert found["rows"] == 500
    assert found["cache_bytes"] == 500 * (39 * 4 + 1)
    assert found["cpu_seconds"] == pytest.approx(found["counting_cpu_seconds"] + found["writing_cpu_seconds"])
    assert 0 < found["memory_before_bytes"] < found["peak_memory_bytes"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["record"], "the file and its cache are gone"
    (table,) = bench_tables(record)
    assert table.rows[0][0] == "500"
    assert "foretell" in table.notes[1]
    figure = PICTURES["bench-clicks"][0](record, False)
    assert [axes.get_title() for axes in figure.axes] == ["CPU minutes", "peak memory, GiB"]


def test_the_made_rows_are_real_ones_with_new_categories_among_them(data_root: Path, tmp_path: Path) -> None:
    sources = CLICKS["criteo-sample"].locate(data_root)
    file = tmp_path / "criteo" / "train.txt"
    file.parent.mkdir()
    write_rows(20_000, sources, file)
    made = [line.split("\t") for line in file.read_text().splitlines()]
    real = [line.split("\t") for path in sources for line in path.read_text().splitlines()]
    assert len(made) == 20_000
    pairs = list(zip(made, (real * 3)[:20_000], strict=True))
    assert all(row[0] == original[0] for row, original in pairs)
    changed = sum(
        ours != theirs for row, original in pairs for ours, theirs in zip(row[14:], original[14:], strict=True)
    )
    assert changed / (26 * 20_000) == pytest.approx(NEW, rel=0.05)
    assert load_clicks(ClickConfig("criteo"), tmp_path, cache=tmp_path).counts["rows"] == 20_000


def test_what_two_lengths_foretell_is_on_their_line() -> None:
    cases = [case(5, 60.0, 900), case(1, 20.0, 500), case(2, 30.0, 600)]
    assert foretold(cases, 10) == pytest.approx((60 + 5 * 10, 900 + 5 * 100))
    assert foretold([case(5, 60.0, 900)], 10) == pytest.approx((120, 1800))
    assert WHOLE == 45_840_617


def test_lengths_must_be_long_enough() -> None:
    with pytest.raises(ValueError, match="Expected at least one length, of at least 10 rows each"):
        ClicksConfig(rows=(5,))
