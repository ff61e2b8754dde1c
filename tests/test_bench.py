from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import feedalign as fa
from feedalign.bench.cases import CASES, cnn, mlp, select
from feedalign.bench.cost import flops, peak_memory
from feedalign.bench.record import run_step, step_table
from feedalign.bench.step import RULES, StepConfig, measure
from feedalign.experiments.errors import OutputError
from feedalign.experiments.records import read_json

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("bench")
    return run_step(StepConfig(cases=("mlp-16x256", "cnn"), rounds=3, warmup=1), folder), folder


def gradient_step(rule: str, model: nn.Module, batch: int, width: int) -> object:
    """Return a closure for forward, loss and backward, as the bench times them but for the optimiser."""
    model = deepcopy(model)
    if rule != "backprop":
        fa.attach(model, fa.rule(rule), points=nn.ReLU)
    inputs, targets = torch.randn(batch, width), torch.zeros(batch, dtype=torch.long)

    def step() -> None:
        model.zero_grad()
        cross_entropy(model(inputs), targets).backward()

    step()
    return step


@pytest.mark.parametrize(("width", "depth", "classes", "batch"), [(32, 8, 10, 16), (24, 3, 5, 7)])
def test_operations_are_those_of_theory(width: int, depth: int, classes: int, batch: int) -> None:
    model = mlp(width, depth, classes)
    forward = 2 * batch * (depth * width * width + width * classes)
    first, head = 2 * batch * width * width, 2 * batch * width * classes
    theory = {
        "backprop": 3 * forward - first,  # dW everywhere, dX everywhere but at the input
        "dfa": 2 * forward + head,  # dW everywhere, and one product e @ B as large as the head's
        "shallow": forward + head,  # dW of the head alone
    }
    assert {rule: flops(gradient_step(rule, model, batch, width)) for rule in RULES} == theory


def test_the_limit_of_deep_networks_is_three_halves() -> None:
    model = mlp(64, 40)
    counted = {rule: flops(gradient_step(rule, model, 8, 64)) for rule in ("backprop", "dfa")}
    assert counted["backprop"] / counted["dfa"] == pytest.approx(1.5, abs=0.03)


def test_peak_memory_is_exact() -> None:
    def step() -> None:
        first = torch.empty(1000)
        second = torch.empty(500)
        del first
        third = torch.empty(200)
        del second, third

    assert peak_memory(step, CPU) == 4 * 1500


def test_peak_memory_counts_nothing_that_was_there_before() -> None:
    kept = torch.ones(100_000)
    assert peak_memory(lambda: kept.add_(1), CPU) < 1000


def test_the_profiler_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    peak_memory(lambda: torch.ones(10), CPU)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_the_record_holds_what_was_measured(recorded: tuple[dict, Path]) -> None:
    record, folder = recorded
    assert read_json(folder / "record.json") == record
    assert record["experiment"] == "bench-step"
    assert record["config"]["rounds"] == 3
    assert [(case["name"], case["rule"]) for case in record["cases"]] == [
        (name, rule) for name in ("mlp-16x256", "cnn") for rule in RULES
    ]
    for case in record["cases"]:
        low, high = case["quartiles"]
        assert 0 < low <= case["median_seconds"] <= high
        assert case["peak_memory_bytes"] > 0
    base, dfa, shallow = record["cases"][:3]
    assert dfa["ratio_to_backprop"] == base["median_seconds"] / dfa["median_seconds"]
    assert base["ratio_to_backprop"] == base["arithmetic_limit"] == 1
    assert dfa["arithmetic_limit"] == base["flops"] / dfa["flops"]
    assert 1.4 < dfa["arithmetic_limit"] < 1.5 < shallow["arithmetic_limit"] < 3
    assert base["parameters"] == sum(parameter.numel() for parameter in mlp(256, 16).parameters())
    assert record["cases"][3]["parameters"] == sum(parameter.numel() for parameter in cnn().parameters())


def test_the_table_holds_what_the_record_holds(recorded: tuple[dict, Path]) -> None:
    record, _ = recorded
    table = step_table(record)
    assert len(table.rows) == 6
    row, case = table.rows[1], record["cases"][1]
    assert row[:3] == ("mlp-16x256", "DFA", f"{1000 * case['median_seconds']:.2f}")
    assert row[4:] == (
        f"{case['ratio_to_backprop']:.2f}",
        f"{case['arithmetic_limit']:.2f}",
        f"{case['peak_memory_bytes'] / 2**20:.1f}",
    )
    assert "3 interleaved rounds" in table.title


def test_progress_is_told_round_by_round() -> None:
    told: list[tuple[str, int, int]] = []
    measure(StepConfig(cases=("mlp-16x256",), rounds=2, warmup=1), lambda *state: told.append(state))
    assert told == [("mlp-16x256", 0, 2), ("mlp-16x256", 1, 2), ("mlp-16x256", 2, 2)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_step_changes_what_the_rule_says_it_trains(case) -> None:
    torch.manual_seed(0)
    inputs, targets = (tensor[:2] for tensor in case.batch())
    for rule in ("dfa", "shallow"):
        model = case.model()
        fa.attach(model, fa.rule(rule), points=case.points)
        cross_entropy(model(inputs).flatten(0, -2), targets.flatten()).backward()
        trained = [parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.parameters()]
        assert trained[-2:] == [True, True]
        assert all(trained) == (rule == "dfa")


def test_transformer_stands_for_both_placements() -> None:
    assert [case.name for case in select(("transformer", "cnn"))] == ["transformer-macro", "transformer-micro", "cnn"]


def test_an_unknown_case_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no bench case 'mlp-8x1025'\. Did you mean 'mlp-8x1024'"):
        StepConfig(cases=("mlp-8x1025",))


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds must be at least 2 and warmup at least 1; found 1 and 3"):
        StepConfig(rounds=1)


def test_an_unwritable_folder_is_found_out_before_measuring(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    told: list[object] = []
    with pytest.raises(OutputError, match="Expected a folder that can be written"):
        run_step(StepConfig(), tmp_path / "file" / "bench", lambda *state: told.append(state))
    assert told == []
