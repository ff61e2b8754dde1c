"""All layers' weight gradients at once, against one by one."""

from pathlib import Path

import pytest
import torch

from feedalign.bench.plots import PICTURES
from feedalign.bench.products import ProductsConfig, ways
from feedalign.bench.record import run
from feedalign.bench.tables import bench_tables


def test_every_way_forms_the_gradients_of_autograd() -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(6, 6, bias=False, dtype=torch.float64) for _ in range(4)]
    inputs = [torch.randn(5, 6, dtype=torch.float64) for _ in layers]
    gradients = [torch.randn(5, 6, dtype=torch.float64) for _ in layers]
    for layer, x, g in zip(layers, inputs, gradients, strict=True):
        layer(x).backward(g)
    expected = torch.stack([layer.weight.grad for layer in layers])
    for way, step in ways(gradients, inputs).items():
        found = step()
        torch.testing.assert_close(torch.stack(list(found)), expected, msg=lambda m, way=way: f"{way}: {m}")


def test_the_record_holds_what_was_measured(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    config = ProductsConfig(systems=("3x16x8", "2x32x64"), rounds=2, warmup=1)
    record = run(config, tmp_path, lambda *state: told.append(state))
    assert told[-1] == ("2x32x64", 2, 2)
    apart, stacked, batched = record["cases"][:3]
    assert [case["rule"] for case in record["cases"][:3]] == ["one by one", "stacked and batched", "batched"]
    assert {case["flops"] for case in record["cases"][:3]} == {3 * 2 * 8 * 16 * 16}
    assert apart["ratio_to_one_by_one"] == 1
    assert batched["ratio_to_one_by_one"] == apart["median_seconds"] / batched["median_seconds"]
    gradients, copies = 4 * 3 * 16 * 16, 4 * 2 * 3 * 8 * 16
    assert apart["peak_memory_bytes"] == batched["peak_memory_bytes"] == gradients
    assert stacked["peak_memory_bytes"] == gradients + copies
    (table,) = bench_tables(record)
    assert table.rows[0][:2] == ("3 x 16, batch 8", "one by one")
    assert table.rows[2][4] == f"{batched['ratio_to_one_by_one']:.2f}"
    assert "2 interleaved rounds" in table.notes[0]
    assert len(PICTURES["bench-products"][0](record, False).axes[0].patches) == 4


def test_sizes_must_be_three() -> None:
    with pytest.raises(ValueError, match="Expected layers, width and batch as in 8x1024x512"):
        ProductsConfig(systems=("8x1024",))
