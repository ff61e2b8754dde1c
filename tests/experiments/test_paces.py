"""Optimisers and schedules of long runs: closed forms, what PyTorch is handed, and records that stay as they were."""

import json
from dataclasses import fields
from math import cos, pi
from pathlib import Path

import pytest
import torch
from torch import nn

from feedalign.experiments.optimisation import AdamConfig, OnPlateau, OptimiserConfig, PaceConfig, ScheduleConfig

RESULTS = Path(__file__).parents[2] / "results"


def model():
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))


def rates(pace, steps, rate=1.0, width=16):
    """The learning rate that each step of the optimiser is taken with."""
    optimiser = AdamConfig(learning_rate=rate).build(model())
    schedule, found = pace.build(optimiser, steps, width), []
    for _ in range(steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return found


def test_noam_rises_in_a_straight_line_and_falls_with_the_root():
    found = rates(PaceConfig("noam", warmup=10), 40, rate=2.0)
    expected = [2.0 / 16**0.5 * min(step**-0.5, step / 10**1.5) for step in range(1, 41)]
    assert found == pytest.approx(expected)
    assert max(found) == found[9]


def test_cosine_ends_near_zero():
    found = rates(PaceConfig("cosine", warmup=4), 24, rate=0.5)
    assert found[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert found[4:] == pytest.approx([0.25 * (1 + cos(pi * k / 20)) for k in range(20)])


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_one_cycle_lasts_as_long_as_the_run(steps):
    found = rates(PaceConfig("one-cycle"), steps, rate=0.5)
    assert all(0 < rate <= 0.5 + 1e-9 for rate in found)
    if steps == 30:
        assert found[0] == pytest.approx(0.5 / 25)
        assert max(found) == pytest.approx(0.5)
        assert found[-1] < 1e-5


def test_plateau_listens_to_the_validation_loss_and_to_nothing_else():
    optimiser = AdamConfig(learning_rate=1e-4, beta2=0.999).build(model())
    schedule = PaceConfig("plateau", factor=0.2, patience=1).build(optimiser, 100, 16)
    assert isinstance(schedule, OnPlateau)
    for loss, expected in ((5.0, 1e-4), (4.0, 1e-4), (4.1, 1e-4), (4.2, 2e-5), (4.3, 2e-5), (4.3, 4e-6)):
        for _ in range(7):
            optimiser.step()
            schedule.step()
        schedule.observe(loss)
        assert optimiser.param_groups[0]["lr"] == pytest.approx(expected)


def test_a_constant_rate_stays():
    assert rates(PaceConfig("constant"), 3, rate=5e-5) == [5e-5] * 3


@pytest.mark.parametrize("name", ["noam", "cosine", "one-cycle", "plateau"])
def test_a_schedule_goes_on_from_its_state(name, tmp_path):
    def begun():
        optimiser = AdamConfig(learning_rate=0.1).build(model())
        return optimiser, PaceConfig(name, warmup=5, patience=0).build(optimiser, 20, 16)

    def walk(optimiser, schedule, steps):
        found = []
        for step in range(steps):
            optimiser.step()
            schedule.step()
            if name == "plateau":
                schedule.observe(1.0 + step % 2)
            found.append(optimiser.param_groups[0]["lr"])
        return found

    whole = begun()
    walk(*whole, 8)
    torch.save([part.state_dict() for part in whole], tmp_path / "state.pt")
    resumed = begun()
    for part, state in zip(resumed, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    assert walk(*resumed, 8) == walk(*whole, 8)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("radam", torch.optim.RAdam)])
def test_all_settings_reach_the_optimiser(name, kind):
    optimiser = AdamConfig(name, 0.01, beta1=0.8, beta2=0.999, epsilon=1e-7, weight_decay=0.1).build(model())
    assert type(optimiser) is kind
    (group,) = optimiser.param_groups
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (0.01, (0.8, 0.999), 1e-7, 0.1)
    assert len(group["params"]) == 4


def test_modules_may_have_rates_of_their_own_which_the_schedule_keeps_in_proportion():
    net = nn.Sequential(model(), nn.Linear(2, 2))
    optimiser = AdamConfig(learning_rate=0.2).build(net, {"0": 0.5, "0.1": 3.0})
    of = {id(p): group for group in optimiser.param_groups for p in group["params"]}
    named = {name: of[id(p)]["lr"] for name, p in net.named_parameters()}
    assert named == pytest.approx(
        {"0.0.weight": 0.1, "0.0.bias": 0.1, "0.1.weight": 0.6, "0.1.bias": 0.6, "1.weight": 0.2, "1.bias": 0.2}
    )
    PaceConfig("noam", warmup=2).build(optimiser, 5, 16)
    assert of[id(net[1].weight)]["lr"] == pytest.approx(0.2 / 4 / 2**1.5)
    assert of[id(net[0][1].weight)]["lr"] == pytest.approx(3 * 0.2 / 4 / 2**1.5)
    with pytest.raises(ValueError, match="Expected the name of a module with parameters of its own rate, found '2'"):
        AdamConfig().build(net, {"2": 0.5})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdamConfig("adamw"), "Expected an optimiser out of adam, radam, found 'adamw'"),
        (lambda: AdamConfig(learning_rate=0.0), "Expected a learning rate above 0, found 0.0"),
        (lambda: AdamConfig(beta2=1.0), "Expected beta2 of at least 0 and below 1, found 1.0"),
        (lambda: AdamConfig(clip=0.0), "Expected clip above 0, found 0.0. Leave it out"),
        (lambda: PaceConfig("1cycle"), "Expected a schedule out of noam, .*, found '1cycle'"),
        (lambda: PaceConfig(warmup=0), "Expected at least 1 step of warm-up, .* found 0, 1 and 0.2"),
        (lambda: PaceConfig("plateau", factor=2.0), "a factor between 0 and 1, found 4000, 1 and 2.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("experiment", ["vision", "graph"])
def test_records_of_other_experiments_hold_the_settings_they_held(experiment):
    config = json.loads(next((RESULTS / experiment).glob("*/*/record.json")).read_text(encoding="utf-8"))["config"]
    assert {"type", *(field.name for field in fields(OptimiserConfig))} == set(config["optimiser"])
    if "schedule" in config:
        assert {"type", *(field.name for field in fields(ScheduleConfig))} == set(config["schedule"])
