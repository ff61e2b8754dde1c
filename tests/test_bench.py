from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import feedalign as fa
from feedalign.bench.cases import CASES, MICRO, Encoder, cnn, mlp, select
from feedalign.bench.cost import flops, flops_of_a_later_step, peak_memory
from feedalign.bench.feedback import FeedbackConfig
from feedalign.bench.memory import MemoryConfig
from feedalign.bench.methods import METHODS, Trainee, label
from feedalign.bench.plots import PICTURES
from feedalign.bench.record import run
from feedalign.bench.step import USUAL, StepConfig, measure
from feedalign.bench.tables import bench_tables, ratio_table, step_table
from feedalign.experiments.errors import OutputError
from feedalign.experiments.records import read_json
from zoo import assert_same, collect

CPU = torch.device("cpu")
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
        method: flops_of_a_later_step(METHODS[method].build(trainee("mlp")))
        for method in ("backprop", "dfa", "leaves", "hooks")
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
    assert set(seen) == {torch.bfloat16}


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
