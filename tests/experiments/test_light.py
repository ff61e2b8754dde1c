"""The study of simulated light: what is compared, and that each run has the hardware that its condition names."""

import json
from pathlib import Path

import pytest
import torch

import feedalign as fa
from feedalign.experiments.comparison import classified
from feedalign.experiments.configured_rule import rule_for
from feedalign.experiments.errors import ExperimentError
from feedalign.experiments.light import CONDITIONS, SYSTEMS, BenchConfig, GraphConfig, configs
from feedalign.experiments.light.conditions import parts
from feedalign.experiments.light.tables import light_tables
from feedalign.experiments.records import Record, Run, describe
from feedalign.optics.bench import Bench

pytestmark = pytest.mark.filterwarnings("ignore:About .* of the pixels saturate:UserWarning")


def test_every_condition_of_every_system_is_a_configuration() -> None:
    for system, row in SYSTEMS.items():
        found = list(configs(system, seeds=[3]))
        assert [parts(config.name) for config in found] == [(system, name) for name in row.conditions]
        assert len({(config.name, config.rule) for config in found}) == len(found)
        for config in found:
            if isinstance(config, GraphConfig):
                rule = rule_for(config.rule, config.seed, config.feedback)
            else:
                rule = config.build_rule()
            condition = CONDITIONS[parts(config.name)[1]]
            if condition.bench is not None:
                assert isinstance(rule.feedback, fa.Hardware)
            elif isinstance(rule, fa.BroadcastRule):
                assert rule.seed == 3
                assert type(rule.feedback) is type(condition.feedback)
                assert rule.feedback.gain == row.config.feedback.gain


def test_everything_but_the_way_of_the_error_is_shared() -> None:
    plain, *others = configs("mnist", seeds=[0])
    for other in others:
        for name in ("data", "model", "optimiser", "schedule", "epochs", "batch", "points"):
            assert getattr(other, name) == getattr(plain, name)


def test_a_device_is_what_its_configuration_says() -> None:
    device = BenchConfig(recovery="phase", tau=100.0, phase_walk=0.3, watch=7, columns=33).build(5)
    bench = device.driver.device
    assert isinstance(bench, Bench)
    assert (bench.recovery, bench.tau, bench.phase_walk, bench.columns, bench.seed) == ("phase", 100.0, 0.3, 33, 5)
    assert device.watch == 7
    assert BenchConfig().build(0).driver.device.tau == float("inf")


def test_what_there_is_not_is_named() -> None:
    with pytest.raises(ExperimentError, match="There is no system 'minst'"):
        list(configs("minst"))
    with pytest.raises(ExperimentError, match="cora has no condition 'drift-10'"):
        list(configs("cora", ["drift-10"]))


def record(condition: str, seed: int, accuracy: float) -> Run:
    metrics = {"best": {"epoch": 1, "test_accuracy": accuracy}, "final": {"epoch": 2, "test_accuracy": accuracy - 0.01}}
    alignment = None if condition == "shallow" else {"a": {"mean": 0.2}, "b": {"mean": 0.4}}
    made = Record(
        "light", f"mnist_{condition}", CONDITIONS[condition].rule, seed, {}, {}, "cpu", 1, None, False, "", 1.0, 1, 1,
        {"name": "mnist", "test": 10}, metrics, alignment,
    )  # fmt: skip
    return Run(Path(), made, [], None)


def test_the_table_compares_seed_by_seed() -> None:
    runs = [record("ternary", seed, 0.95 + 0.01 * seed) for seed in range(3)]
    runs += [record("optical", seed, 0.94 + 0.01 * seed) for seed in range(3)] + [record("shallow", 0, 0.9)]
    (table,) = light_tables(runs)
    cells = {row[0]: row for row in table.rows}
    assert cells["ternary DFA"][2].startswith("96.00")
    assert cells["light: anchor, 8 bits, 300 photoelectrons"][4] == "-1.00 ± 0.00"
    assert cells["light: anchor, 8 bits, 300 photoelectrons"][5].startswith("0.300")
    assert cells["shallow"][4:] == ("-5.00", "")
    assert classified(runs) == []  # they have tables of their own


def test_light_trains_a_small_network_as_well_as_three_levels_do() -> None:
    """And what is not linear, or does not hold still, trains nothing."""

    def loss(feedback: fa.Feedback) -> float:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh(),
                                    torch.nn.Linear(64, 4))  # fmt: skip
        x = torch.randn(256, 8)
        y = (x[:, :2].sign().add(1) / 2 @ torch.tensor([1.0, 2.0])).long()
        fa.attach(model, fa.TernaryDFA(feedback=feedback))
        optimiser = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(150):
            optimiser.zero_grad()
            error = torch.nn.functional.cross_entropy(model(x), y)
            error.backward()
            optimiser.step()
        return error.item()

    exact, light = loss(fa.Normal()), loss(fa.Optical())
    assert light < 2 * exact + 0.05
    assert loss(fa.Hardware(Bench(128, tau=2), watch=0)) > 2 * light


def test_records_hold_every_number_of_every_condition() -> None:
    """JSON has no infinity: an option that is one would come back as another configuration."""
    for system in SYSTEMS:
        for config in configs(system, seeds=[0]):
            described = describe(config)
            assert json.loads(json.dumps(described, allow_nan=False)) == described
