"""What a stage cannot do is refused by name, and one stage alone is the ordinary attachment."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import feedalign as fa
from feedalign import pipelining as fp
from feedalign.feedback import Site
from feedalign.pipelining.agreement import Card, agreement, check
from feedalign.pipelining.link import Agreement
from pipelining.models import SYSTEMS, differing, one_process, staged

RULE = fa.DFA(seed=3)
SYSTEM = SYSTEMS["growing"]


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def stage(rule: Any = RULE, points: Any = ("0", "1", "2", "3"), part: nn.Module | None = None) -> fp.Stage:
    return fp.Stage(SYSTEM.build() if part is None else part, rule, points, index=0, stages=1)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("rule", [RULE, fa.DRTP(seed=1), fa.TernaryDFA(seed=2)])
def test_one_stage_is_the_ordinary_attachment(name: str, rule: Any) -> None:
    found = staged(SYSTEMS[name], rule, 4, 16, 0, 1)
    assert differing([found], one_process(SYSTEMS[name], rule, 4, 16)) == []


def test_a_stage_says_what_arrives() -> None:
    for send, said in (("error", "the error [4, 5] of a micro-batch"), ("product", "the product [4, 64] of error")):
        own = stage()
        assert repr(own).startswith("Stage 0 of 1: DFA(seed=3")
        assert repr(own).endswith("on Sequential, points 0, 1, 2, 3")
        x, y = SYSTEM.batch(16, 0)
        fp.ScheduleDFA(own, 4, SYSTEM.loss, send=send).step(x, target=y)
        assert said in repr(own)
        assert [line.split()[:4] for line in repr(own).splitlines()[3:5]] == [
            ["0", "[4,", "16]", "uniform"],
            ["1", "[4,", "32]", "uniform"],
        ]
    waiting = stage(fa.DRTP())
    fp.ScheduleDFA(waiting, 4, SYSTEM.loss).step(x, target=y)
    assert "it waits for no error" in repr(waiting)


@pytest.mark.parametrize("rule", [fa.IFA(), fa.FDFA(), fa.GrAPE()])
def test_rules_that_push_tangents(rule: Any) -> None:
    with pytest.raises(fa.PointsError, match=f"{type(rule).__name__} pushes tangents forward through the whole model"):
        stage(rule)


@pytest.mark.parametrize("rule", [fa.FA(), fa.USF(), fa.KolenPollack(), fa.Backprop(), fa.Shallow()])
def test_rules_that_do_not_broadcast(rule: Any) -> None:
    with pytest.raises(fa.PointsError, match=f"that broadcasts the error, such as DFA, found {type(rule).__name__}"):
        stage(rule)


def test_rules_that_learn_and_dicts_of_rules_and_no_rules() -> None:
    with pytest.raises(fa.PointsError, match="DKP learns its feedback, which stages do not support yet"):
        stage(fa.DKP())
    with pytest.raises(fa.PointsError, match="one rule for all stages, found a dict of rules"):
        stage({"0": fa.DFA()})
    with pytest.raises(TypeError, match="expected a rule such as"):
        stage("dfa")


def test_data_parallel_inside_of_a_stage() -> None:
    part = SYSTEM.build()
    part[0] = DistributedDataParallel(part[0])
    with pytest.raises(fa.SignalError, match=r"'0' is wrapped in DistributedDataParallel.*fully_shard"):
        stage(part=part)


def test_a_failed_attachment_leaves_no_hooks() -> None:
    part = SYSTEM.build()
    with pytest.raises(fa.PointsError, match="No module matches"):
        stage(points="layers.*", part=part)
    assert not part._forward_hooks
    assert not part._forward_pre_hooks


def test_a_removed_stage_leaves_the_part_as_it_was() -> None:
    part = SYSTEM.build()
    own = stage(part=part)
    own.remove()
    hooks = [dict(m._forward_hooks) | dict(m._forward_pre_hooks) for m in part.modules()]
    assert not any(hooks)


def test_as_many_stages_as_processes() -> None:
    with pytest.raises(ValueError, match="found 2 stages and a group of 1 processes"):
        fp.Stage(SYSTEM.build(), RULE, "0", index=0, stages=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_microbatches": 0}, "at least 1, found 0"),
        ({"ahead": -1}, "'flat' or 'all', found -1"),
        ({"ahead": "far"}, "'flat' or 'all', found 'far'"),
        ({"ahead": True}, "found True"),
        ({"send": "everything"}, "must be 'auto', 'error' or 'product', found 'everything'"),
        ({"timeout": 0}, "a number of seconds above 0, found 0"),
    ],
)
def test_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fp.ScheduleDFA(stage(), **{"n_microbatches": 4, "loss_fn": SYSTEM.loss, **options})


@pytest.mark.parametrize("rule", [fa.DFA(feedback=fa.Uniform(shared=False)), fa.DRTP()])
def test_a_product_that_does_not_serve_all_points(rule: Any) -> None:
    with pytest.raises(ValueError, match="send='product' expected DFA, SignDFA or TernaryDFA with shared feedback"):
        fp.ScheduleDFA(stage(rule), 4, SYSTEM.loss, send="product")


def test_a_stage_of_torch() -> None:
    from torch.distributed.pipelining import PipelineStage

    with pytest.raises(TypeError, match=r"expected a feedalign.pipelining.Stage, found PipelineStage"):
        fp.ScheduleDFA(PipelineStage(SYSTEM.build(), 0, 1, torch.device("cpu")), 4, SYSTEM.loss)


def test_training_without_gradients_or_targets() -> None:
    x, y = SYSTEM.batch(8, 0)
    schedule = fp.ScheduleDFA(stage(), 4, SYSTEM.loss)
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"Call eval\(\)"):
        schedule.step(x, target=y)
    with pytest.raises(
        fp.StageError, match=r"Stage 0 of 1 \(rank 0\) raised in the loss.*step\(target=...\) is missing"
    ):
        schedule.step(x)


def test_unequal_micro_batches() -> None:
    schedule = fp.ScheduleDFA(stage(), 4, SYSTEM.loss)
    x, y = SYSTEM.batch(10, 0)
    with pytest.raises(
        fp.StageError,
        match=r"the inputs of micro-batch 2, step 1 .* first micro-batch, \[3, 6\] \(float32\), found \[2, 6\]",
    ):
        schedule.step(x, target=y)


def test_a_smaller_last_batch() -> None:
    schedule = fp.ScheduleDFA(stage(), 4, SYSTEM.loss)
    x, y = SYSTEM.batch(16, 0)
    schedule.step(x, target=y)
    with pytest.raises(fp.StageError, match=r"micro-batch 0, step 2 .* drop_last=True"):
        schedule.step(x[:8], target=y[:8])


def test_a_loss_that_the_output_does_not_reach() -> None:
    schedule = fp.ScheduleDFA(stage(), 4, lambda output, target: torch.ones((), requires_grad=True))
    x, y = SYSTEM.batch(16, 0)
    with pytest.raises(fp.StageError, match="there is no error to send"):
        schedule.step(x, target=y)


def test_parameters_of_the_loss_learn_too() -> None:
    class Tempered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return SYSTEM.loss(output * self.scale, target)

    loss, again, model = Tempered(), Tempered(), SYSTEM.build()
    x, y = SYSTEM.batch(16, 0)
    fp.ScheduleDFA(stage(), 1, loss).step(x, target=y)
    again(model(x), y).backward()
    assert torch.equal(loss.scale.grad, again.scale.grad)
    assert loss.scale.grad.abs() > 0


@pytest.fixture
def first_of_two(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], fp.Stage]:
    """Makes a stage that has another one above it, which it is not to talk to."""
    monkeypatch.setattr(distributed, "get_world_size", lambda group=None: 2)
    return lambda points: fp.Stage(SYSTEM.build(0, 2), RULE, points, index=0, stages=2)


def test_named_arguments_of_the_part_and_of_the_loss() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = SYSTEM.build()

        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return self.layers(x) * scale

    def loss(output: torch.Tensor, target: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        return factor * SYSTEM.loss(output, target)

    x, y = SYSTEM.batch(16, 0)
    scale = torch.linspace(1, 2, 16).unsqueeze(1)
    names = [f"layers.{i}" for i in range(4)]
    part, model = Scaled(), Scaled()
    schedule = fp.ScheduleDFA(fp.Stage(part, RULE, names, index=0, stages=1), 4, loss, scale_grads=False)
    schedule.step(x, scale=scale, target=y, loss_kwargs={"factor": 3.0})
    fa.attach(model, RULE, names)
    for rows, factors, labels in zip(x.chunk(4), scale.chunk(4), y.chunk(4), strict=True):
        loss(model(rows, scale=factors), labels, 3.0).backward()
    for (name, found), expected in zip(part.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(found.grad, expected.grad), name


def test_a_part_outside_of_a_step(first_of_two: Callable[[Any], fp.Stage]) -> None:
    own = first_of_two(("0", "1"))
    x, _ = SYSTEM.batch(8, 0)
    with torch.no_grad():
        own.submod(x)
    with pytest.raises(fa.SignalError, match="Stage 0 ran with gradients outside of a step"):
        own.submod(x)
    assert repr(own.handle).startswith("DFA(seed=3")


@pytest.mark.parametrize(("points", "found"), [(("0",), "found 0"), ((), "found none")])
def test_a_stage_that_does_not_end_in_a_point(first_of_two: Callable[[Any], fp.Stage], points: Any, found: str) -> None:
    own = first_of_two(points)
    own.link.agree(Agreement((8,), 5, torch.float32, (), "error"))
    x, _ = SYSTEM.batch(8, 0)
    with pytest.raises(fa.PointsError, match=f"Stage 0 returns a tensor of shape .8, 32. that no point cuts.*{found}"):
        own.own.run(lambda: own.submod(x))


def card(**changes: Any) -> Card:
    given = {"settings": {"rule": "DFA"}, "parameters": ("a.weight",), "points": ("a",), "output": None}
    return Card(**{**given, **changes})


def test_names_on_two_stages() -> None:
    other = card(parameters=("b.weight",), points=("b",))
    check([card(), other])
    with pytest.raises(
        fa.PointsError, match=r"parameter 'a.weight' is on stages 0 and 2.*ModuleDict.*do not tie weights"
    ):
        check([card(), other, card(points=("c",))])
    with pytest.raises(fa.PointsError, match=r"point 'a' is on stages 0 and 1"):
        check([card(), card(parameters=())])


def test_settings_that_differ() -> None:
    with pytest.raises(fa.SignalError, match="the same rule, found DFA on stage 0 and DRTP on stage 1"):
        check([card(), card(settings={"rule": "DRTP"}, parameters=(), points=())])


@pytest.mark.parametrize(
    ("rule", "send", "width", "expected"),
    [
        (fa.DFA(), "auto", 10, "error"),
        (fa.DFA(), "auto", 100, "product"),
        (fa.DFA(), "error", 100, "error"),
        (fa.DFA(), "product", 10, "product"),
        (fa.DFA(feedback=fa.Normal(shared=False)), "auto", 100, "error"),
        (fa.SignDFA(), "auto", 100, "product"),
        (fa.DRTP(), "auto", 100, "nothing"),
    ],
)
def test_the_narrower_is_sent(rule: Any, send: Any, width: int, expected: str) -> None:
    cards = [card(), card(output=((4,), width, torch.float32))]
    agreed = agreement(cards, [(Site("a", 8, 8), Site("b", 64, 128)), (Site("c", 32, 256),)], send, rule)
    assert agreed.sent == expected
    assert agreed.widest == Site("", 64, 256)
    assert agreed.shape == (4, 64 if expected == "product" else width)
