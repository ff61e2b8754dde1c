from copy import deepcopy
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import feedalign as fa
from feedalign.bench.accuracy import AccuracyConfig
from feedalign.bench.alignment import AlignmentConfig
from feedalign.bench.cases import CASES, MICRO, Encoder, cnn, mlp, select
from feedalign.bench.cost import flops, peak_memory
from feedalign.bench.feedback import FeedbackConfig
from feedalign.bench.memory import MemoryConfig, trainable
from feedalign.bench.memory_tables import growth_table, sizes_table, speed_table
from feedalign.bench.methods import METHODS, Trainee, label
from feedalign.bench.plots import PICTURES
from feedalign.bench.record import run
from feedalign.bench.step import USUAL, StepConfig, measure
from feedalign.bench.tables import bench_tables, ratio_table, step_table
from feedalign.experiments.errors import OutputError, RecordError
from feedalign.experiments.models import MLPConfig
from feedalign.experiments.records import SCHEMA, Record, describe, read_json, write_curve, write_json
from feedalign.experiments.vision import preset
from zoo import assert_same, collect

CPU = torch.device("cpu")
GIVEN = ("schema", "experiment", "name", "rule", "seed", "config", "data")
MISSING = [field.name for field in fields(Record) if field.name not in GIVEN]
RULES = ("backprop", "dfa", "shallow")
SMALL = {
    "mlp": (lambda: mlp(12, 3), (lambda: torch.randn(6, 12)), (6,), nn.ReLU),
    "cnn": (lambda: cnn(2, 8), (lambda: torch.randn(4, 3, 8, 8)), (4,), nn.ReLU),
    "macro": (lambda: Encoder(8, 2, 2), (lambda: torch.randint(256, (2, 5))), (2, 5), "layers.*"),
    "micro": (lambda: Encoder(8, 2, 2), (lambda: torch.randint(256, (2, 5))), (2, 5), MICRO),
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("bench")
    return run(StepConfig(cases=("mlp-16x256", "cnn"), methods=RULES, rounds=3, warmup=1), folder), folder


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> dict:
    config = MemoryConfig(
        depths=(2, 4, 12), widths=(32, 64), batches=(256, 128), depth=4, methods=("backprop", "two-pass-stepping"),
        rounds=2,
    )  # fmt: skip
    return run(config, tmp_path_factory.mktemp("memory"))


def trainee(name: str) -> Trainee:
    torch.manual_seed(0)
    model, inputs, rows, points = SMALL[name]
    return Trainee(model(), inputs(), torch.randint(10, rows), points, seed=3)


def stepped(name: str, method: str) -> dict[str, torch.Tensor | None]:
    """Return the momentum that three steps of a method leave: a sum of gradients."""
    trained = trainee(name)
    step = METHODS[method].build(trained)
    for _ in range(3):
        step()
    assert all(parameter.grad is None for parameter in trained.model.parameters())
    state = trained.optimizer.state
    return {key: state[p].get("momentum_buffer") for key, p in trained.model.named_parameters()}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    ("method", "same"),
    [
        ("leaves", "dfa"),
        ("hooks", "dfa"),
        ("two-pass", "dfa"),
        ("two-pass-stepping", "dfa"),
        ("checkpointing", "backprop"),
    ],
)
def test_peers_take_the_same_steps(name: str, method: str, same: str) -> None:
    assert_same(stepped(name, method), stepped(name, same), rtol=1e-4, atol=1e-7)


def test_one_pass_steps_are_those_of_drtp() -> None:
    trained = trainee("mlp")
    before = deepcopy(trained.model)
    step = METHODS["one-pass-stepping"].build(trained)
    handle = fa.attach(before, fa.DRTP(seed=3), points=nn.ReLU)
    handle.targets = trained.targets
    cross_entropy(before(trained.inputs), trained.targets).backward()
    step()
    momentum = {key: trained.optimizer.state[p]["momentum_buffer"] for key, p in trained.model.named_parameters()}
    assert_same(momentum, collect(before), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("method", ["backprop", "dfa"])
def test_compiled_steps_run_the_compiled_model(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def compile_(model: nn.Module) -> object:
        return lambda x: calls.append(len(model._forward_pre_hooks)) or model(x)

    monkeypatch.setattr(torch, "compile", compile_)
    assert_same(stepped("mlp", f"{method}-compiled"), stepped("mlp", method))
    assert calls == [1 if method == "dfa" else 0] * 3  # the rule was attached before


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning")
def test_a_compiled_rule_is_not_served_by_what_was_compiled_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    for method in ("backprop", "dfa"):
        assert_same(stepped("micro", f"{method}-compiled"), stepped("micro", method), rtol=1e-4, atol=1e-7)


def test_peers_form_the_gradients_that_nobody_reads() -> None:
    counted = {
        method: flops(METHODS[method].build(trainee("mlp"))) for method in ("backprop", "dfa", "leaves", "hooks")
    }
    assert counted["dfa"] < counted["backprop"]
    # The head's own input gradient takes the place that the projection of the error has beside it.
    projection = 2 * 6 * 10 * 12
    assert counted["leaves"] == counted["hooks"] == counted["backprop"] + projection


def test_checkpointing_forms_activations_twice() -> None:
    torch.manual_seed(0)
    counted, peaks = {}, {}
    for method in ("backprop", "checkpointing"):
        step = METHODS[method].build(
            Trainee(mlp(32, 16), torch.randn(256, 32), torch.randint(10, (256,)), nn.ReLU, seed=0)
        )
        step()
        counted[method], peaks[method] = flops(step), peak_memory(step, CPU)
    layer = 2 * 256 * 32 * 32
    assert 12 * layer <= counted["checkpointing"] - counted["backprop"] <= 16 * layer
    assert peaks["checkpointing"] < 0.6 * peaks["backprop"]


def test_half_precision_reaches_the_products() -> None:
    seen = []
    trained = trainee("mlp")
    trained.precision = "bf16"
    trained.model[0].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    METHODS["dfa"].build(trained)()
    assert seen == [torch.bfloat16]


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


@pytest.mark.parametrize(("setting", "words"), [("true", "2 threads bound to cores"), ("false", "2 threads,")])
def test_the_record_says_whether_threads_were_bound(
    setting: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OMP_PROC_BIND", setting)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    record = run(StepConfig(cases=("mlp-16x256",), methods=("backprop",), rounds=2, warmup=1), tmp_path)
    assert words in bench_tables(record)[0].title


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
    measure(
        StepConfig(cases=("mlp-16x256",), methods=("backprop",), rounds=2, warmup=1), lambda *state: told.append(state)
    )
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
        run(StepConfig(), tmp_path / "file" / "bench", lambda *state: told.append(state))
    assert told == []


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no method 'leafs'\. Did you mean 'leaves'\? They are: backprop, dfa"):
        StepConfig(methods=("backprop", "leafs"))
    with pytest.raises(ValueError, match=r"Expected backprop among the methods, since all are compared with it"):
        MemoryConfig(methods=("dfa",))


def test_sizes_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"at least one depth, width and batch, all of at least 1; found \(8, 0"):
        MemoryConfig(depths=(8,), widths=(0,))
    with pytest.raises(ValueError, match="at least one width of the error and of the point, all positive"):
        FeedbackConfig(classes=())


def test_peers_are_named_in_tables_and_left_out_of_the_overview() -> None:
    cases = [
        {"name": "a", "describe": "A", "rule": rule, "median_seconds": 0.1, "quartiles": [0.1, 0.2],
         "ratio_to_backprop": 1.0, "arithmetic_limit": 1.5, "peak_memory_bytes": 2**20}
        for rule in (*USUAL, "dfa-compiled")
    ]  # fmt: skip
    record = {"experiment": "bench-step", "config": {"rounds": 2}, "device": "cpu", "threads": 1, "cases": cases}
    assert [row[1] for row in step_table(record).rows] == [label(name) for name in (*USUAL, "dfa-compiled")]
    assert label("dfa-compiled") == "DFA, compiled"
    assert ratio_table(record).headings == ("case", "", "DFA (limit)", "shallow (limit)")
    bars = PICTURES["bench-step"][0](record, False).axes[0].patches
    assert len({bar.get_facecolor() for bar in bars}) == 6


def test_every_size_is_measured_once() -> None:
    config = MemoryConfig(depths=(8, 16), widths=(64, 32), batches=(10, 20), depth=16)
    assert config.systems == [(8, 64, 10), (16, 64, 10), (16, 32, 10), (16, 64, 20)]


def test_memory_over_depth_is_that_of_theory(sizes: dict) -> None:
    peaks = {
        (c["rule"], c["depth"]): c["peak_memory_bytes"] for c in sizes["cases"] if c["name"].endswith("x32, batch 256")
    }
    activation = 4 * 256 * 32
    assert peaks["backprop", 12] - peaks["backprop", 4] == 8 * activation
    assert peaks["two-pass-stepping", 12] == peaks["two-pass-stepping", 4]
    table = growth_table(sizes)
    assert table.headings == ("method", "2 layers", "4 layers", "12 layers", "KiB a layer more", "of backprop's growth")
    assert [row[-1] for row in table.rows] == ["100.0 %", "0.0 %"]
    assert "width 32, batch 256" in table.title


def test_times_over_depth_are_multiples_of_backprop(sizes: dict) -> None:
    base, two = (
        next(c for c in sizes["cases"] if c["rule"] == rule and c["depth"] == 12)
        for rule in ("backprop", "two-pass-stepping")
    )
    table = speed_table(sizes)
    assert table.rows[0][-1] == f"{base['median_seconds']:.3f}"
    assert table.rows[1][-1] == f"{two['median_seconds'] / base['median_seconds']:.2f}"


def test_the_roofline_is_below_what_was_measured(sizes: dict) -> None:
    for case in sizes["cases"]:
        assert 0 < case["roofline_seconds"] < case["quartiles"][1]
    assert len(sizes_table(sizes).rows) == 3 * 2


def test_gradients_of_deep_models_are_ordinary_numbers() -> None:
    torch.manual_seed(0)
    model = trainable(mlp(64, 128))
    cross_entropy(model(torch.randn(32, 64)), torch.zeros(32, dtype=torch.long)).backward()
    sizes = [layer.weight.grad.abs().mean().item() for layer in model if isinstance(layer, nn.Linear)]
    assert min(sizes) > 1e-12  # float32 ends at 1e-38


def test_feedback_is_measured_by_family(tmp_path: Path) -> None:
    record = run(FeedbackConfig(classes=(50,), widths=(64,), rows=8, rounds=2, warmup=1), tmp_path)
    found = {case["rule"]: case for case in record["cases"]}
    assert list(found) == ["dense", "regenerated", "hadamard", "sparse"]
    assert found["dense"]["kept_bytes"] == 4 * 50 * 64
    assert found["dense"]["peak_memory_bytes"] == 4 * 8 * 64
    assert found["dense"]["flops"] == 2 * 8 * 50 * 64
    assert found["regenerated"]["kept_bytes"] == 8  # the seed of one block
    assert found["sparse"]["kept_bytes"] == 4 * 64 * (4 + 8)
    (table,) = bench_tables(record)
    assert table.rows[0][-1] == "1.000"
    assert len(PICTURES["bench-feedback"][0](record, False).axes[0].get_lines()) == 4


def test_alignment_is_measured_in_training_steps(tmp_path: Path) -> None:
    record = run(AlignmentConfig(cases=("mlp-16x256",), rounds=2, warmup=1), tmp_path)
    step, backprop, default, blocks, copied = record["cases"]
    assert step["ratio_to_step"] == backprop["ratio_to_backprop"] == 1
    assert default["ratio_to_backprop"] == default["median_seconds"] / backprop["median_seconds"]
    assert default["median_seconds"] < blocks["median_seconds"]
    weights = 4 * copied["parameters"]
    assert copied["peak_memory_bytes"] > 2 * weights  # a model, and gradients of two
    assert default["peak_memory_bytes"] < copied["peak_memory_bytes"]
    (table,) = bench_tables(record)
    assert [row[1] for row in table.rows[:2]] == ["training step of DFA", "training step of backprop"]
    assert table.rows[2][4:6] == (f"{default['ratio_to_step']:.2f}", f"{default['ratio_to_backprop']:.2f}")
    assert len(PICTURES["bench-alignment"][0](record, True).axes[0].patches) == 3
    earlier = {key: value for key, value in default.items() if key != "ratio_to_backprop"} | {"rule": "signals"}
    (table,) = bench_tables({**record, "cases": [earlier]})
    assert (table.rows[0][1], table.rows[0][5]) == ("signals", "")


def test_memory_is_drawn_over_what_varies(sizes: dict) -> None:
    figure = PICTURES["bench-memory"][0](sizes, False)
    assert [axes.get_xlabel() for axes in figure.axes] == ["hidden layers"] * 2 + ["width"] * 2 + ["batch"] * 2
    lines = figure.axes[1].get_lines()
    assert [line.get_label() for line in lines] == ["backprop", label("two-pass-stepping"), "roofline of backprop"]


def write_run(folder: Path, rule: str, seed: int, accuracies: list[float]) -> None:
    """Write what is read of a run on digits with batches of 32: ten steps and three seconds an epoch."""
    config = replace(preset("digits-demo", rule, seed), model=MLPConfig(widths=(16, 16)), batch=32)
    given = (SCHEMA, "vision", "digits-demo", rule, seed, describe(config), {"name": "digits"})
    folder.mkdir()
    write_json(folder / "record.json", {**dict.fromkeys(MISSING), **dict(zip(GIVEN, given, strict=True))})
    lines = [
        {"epoch": n, "step": 10 * n, "seconds": 3.0 * n, "test_accuracy": accuracy}
        for n, accuracy in enumerate(accuracies)
    ]
    write_curve(folder / "curve.jsonl", lines)


def test_what_an_accuracy_costs_is_read_from_records(tmp_path: Path) -> None:
    write_run(tmp_path / "bp-seed0", "bp", 0, [0.1, 0.91, 0.92])
    write_run(tmp_path / "bp-seed1", "bp", 1, [0.1, 0.5, 0.9])
    write_run(tmp_path / "dfa-seed0", "dfa", 0, [0.1, 0.5, 0.95])
    write_run(tmp_path / "dfa-seed1", "dfa", 1, [0.1, 0.5, 0.89])
    record = run(AccuracyConfig(str(tmp_path), targets=(90.0, 99.0)), tmp_path / "bench")
    backprop, dfa = record["cases"]  # nothing reached 99 %
    forward = 2 * 32 * (64 * 16 + 16 * 16 + 16 * 10)
    operations = 3 * forward - 2 * 32 * 64 * 16
    assert (backprop["rule"], backprop["reached"], backprop["epochs"], backprop["seconds"]) == ("backprop", 2, 1.5, 4.5)
    assert backprop["flops"] == 15 * operations
    assert (dfa["rule"], dfa["reached"], dfa["flops"]) == ("dfa", 1, None)
    assert dfa["flops_a_step"] == 2 * forward + 2 * 32 * 10 * 16
    (table,) = bench_tables(record)
    tera = f"{15 * operations / 1e12:.2f}"
    assert table.rows == (("digits-demo", "digits", "90 %", "1.5", "4.5", tera, "1 of 2", "", ""),)
    assert len(PICTURES["bench-accuracy"][0](record, False).axes[0].get_lines()) == 2


def test_accuracies_of_runs_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"found none\. `feedalign train vision` makes some"):
        run(AccuracyConfig(str(tmp_path)), tmp_path / "bench")
    with pytest.raises(RecordError, match="Expected runs of a, b at or below"):
        run(AccuracyConfig(str(tmp_path), names=("b", "a")), tmp_path / "bench")


# ---- what is claimed -------------------------------------------------------------------------------------------------

RESULTS = Path(__file__).parent.parent / "results/bench"


def committed(kind: str) -> list[dict]:
    record = read_json(RESULTS / kind / "record.json")
    assert not record["dirty"], "a record of a tree with changes"
    return record["cases"]


def test_committed_memory_does_not_grow_with_depth() -> None:
    found = {(c["rule"], c["depth"]): c for c in committed("memory") if (c["width"], c["batch"]) == (512, 1024)}

    def growth(method: str) -> float:
        return found[method, 128]["peak_memory_bytes"] - found[method, 8]["peak_memory_bytes"]

    for method in ("two-pass-stepping", "one-pass-stepping"):
        assert growth(method) <= 0.05 * growth("backprop")
    two, checkpointed = found["two-pass-stepping", 64], found["checkpointing", 64]
    assert 1 / two["ratio_to_backprop"] <= 1.15
    assert two["median_seconds"] < checkpointed["median_seconds"]
    assert two["peak_memory_bytes"] < checkpointed["peak_memory_bytes"]


def test_committed_feedback_takes_a_tenth_of_dense() -> None:
    found = {c["rule"]: c for c in committed("feedback") if (c["classes"], c["width"]) == (32_000, 4096)}
    size = {rule: case["kept_bytes"] + case["peak_memory_bytes"] for rule, case in found.items()}
    assert size["regenerated"] < 0.1 * size["dense"]


def test_committed_alignment_costs_about_two_steps() -> None:
    found = {(case["name"], case["rule"]): case for case in committed("alignment")}
    for name in ("mlp-8x1024", "transformer-macro", "cnn"):
        assert found[name, "alignment"]["ratio_to_step"] <= 2.2, name
        copied = found[name, "with a second model"]
        assert found[name, "alignment"]["median_seconds"] < copied["median_seconds"], name
