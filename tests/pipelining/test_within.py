"""Inside of a stage: checkpointed activations, sharded parameters, bfloat16, and a model too large for one process."""

import resource
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import feedalign as fa
from feedalign import pipelining as fp
from pipelining.models import SYSTEMS, System, differing, gradients, one_process
from pipelining.processes import run

RULE = fa.DFA(seed=3, feedback=fa.Uniform(gain=3.0))
MICRO_BATCHES, COUNT = 4, 16
Bits = dict[str, Tensor]


class Checkpointed(nn.Module):
    """A layer whose activations are computed again in the backward pass, under the names that it has without that."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._modules.update(layer._modules)
        self._parameters.update(layer._parameters)
        self.inner = [layer]

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner[0], x, use_reentrant=False)


def checkpointed(rank: int, world: int) -> Bits:
    system = SYSTEMS["transformer"]
    part = system.build(rank, world)
    for name in system.names(part):
        setattr(part, name, Checkpointed(getattr(part, name)))
    return trained(system, part, rank, world)


def trained(
    system: System, part: nn.Module, stage: int, stages: int, group: Any = None, rows: slice = slice(None)
) -> Bits:
    own = fp.Stage(part, RULE, system.names(part), index=stage, stages=stages, group=group)
    schedule = fp.ScheduleDFA(own, MICRO_BATCHES, system.loss)
    optimizer = torch.optim.SGD(part.parameters(), 0.1, momentum=0.9)
    for step in range(2):
        optimizer.zero_grad()
        x, y = (whole[rows] for whole in system.batch(COUNT, step))
        schedule.step(*([x] if own.is_first else []), **({"target": y} if own.is_last else {}))
        optimizer.step()
    found = {f"gradient of {name}": value for name, value in gradients(part).items()}
    return found | {name: value.detach() for name, value in part.state_dict().items()}


def sharded(name: str, rank: int, world: int) -> Bits:
    """Two stages, each sharded over two processes that see half of the batch each."""
    mesh = distributed.init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("stage", "shard"))
    stage, shard = mesh.get_coordinate()
    system = SYSTEMS[name]
    part = system.build(stage, 2)
    for layer in part.children():
        if next(layer.parameters(), None) is not None:
            fully_shard(layer, mesh=mesh["shard"], reshard_after_forward=False)
    rows = slice(shard, None, 2)
    found = trained(system, part, stage, 2, mesh["stage"].get_group(), rows)
    return {name: value.full_tensor() for name, value in found.items()}


def cast(rank: int, world: int) -> Bits:
    """Two steps in bfloat16, by autocast."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return trained(SYSTEMS["growing"], SYSTEMS["growing"].build(rank, world), rank, world)


def clipped(rank: int, world: int) -> Bits:
    """The gradients after clipping them by the norm of all stages' gradients, and that norm."""
    system = SYSTEMS["growing"]
    part = system.build(rank, world)
    own = fp.Stage(part, RULE, system.names(part), index=rank, stages=world)
    schedule = fp.ScheduleDFA(own, MICRO_BATCHES, system.loss)
    x, y = system.batch(COUNT, 0)
    schedule.step(*([x] if own.is_first else []), **({"target": y} if own.is_last else {}))
    norm = fp.clip_grad_norm_(own, 0.1)
    return {**gradients(part), "norm": norm}


class Pair(nn.Module):
    """A stage that returns two tensors, one of them whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 8), nn.ReLU())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(x), torch.ones(len(x), dtype=torch.int64)


class Joined(nn.Module):
    """A stage that takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.head = nn.Sequential(nn.Linear(8, 7), nn.ReLU()), nn.Linear(7, 5)

    def forward(self, x: Tensor, number: Tensor) -> Tensor:
        return self.head(self.second(x)) * number.unsqueeze(1)


class Both(nn.Module):
    """The same on one process."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        below = Pair()
        torch.manual_seed(1)
        above = Joined()
        self.first, self.second = below.first, above.second  # the names that the points have on the stages
        self.below, self.above = below, above

    def forward(self, x: Tensor) -> Tensor:
        return self.above(*self.below(x))


def several(rank: int, world: int) -> Bits:
    """Several tensors between stages."""
    torch.manual_seed(rank)
    part = [Pair, Joined][rank]()
    own = fp.Stage(part, RULE, ["first", "second"][rank], index=rank, stages=world)
    schedule = fp.ScheduleDFA(own, MICRO_BATCHES, F.cross_entropy)
    x, y = SYSTEMS["growing"].batch(COUNT, 0)
    schedule.step(*([x] if own.is_first else []), **({"target": y} if own.is_last else {}))
    return gradients(part)


# Weights of 36 MiB each: smaller ones would come from a heap, which has gaps.
WIDTH, OUTPUTS, LAYERS, LIMIT = 3072, 16, 8, 440 * 2**20


def large(rank: int, world: int) -> str:
    """Train layers that need 252 MiB for weights and as much for gradients, under a limit; return how it went."""
    each = LAYERS // world
    numbers = range(rank * each, (rank + 1) * each)
    with torch.device("meta"):
        part = nn.ModuleDict({str(i): nn.Linear(WIDTH, WIDTH if i < LAYERS - 1 else OUTPUTS) for i in numbers})
    part.forward = lambda x: _through(part, x)  # type: ignore[method-assign]
    last = rank == world - 1
    points = [str(i) for i in numbers][: -1 if last else None]
    own = fp.Stage(part, fa.DFA(seed=0), points, index=rank, stages=world, device=torch.device("cpu"))
    schedule = fp.ScheduleDFA(own, 2, F.mse_loss)
    given = [torch.ones(4, WIDTH)] if own.is_first else []
    target = {"target": torch.ones(4, OUTPUTS)} if own.is_last else {}
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_used() + LIMIT, before[1]))
    try:
        part.to_empty(device="cpu")
        for parameter in part.parameters():
            nn.init.constant_(parameter, 1e-3)
        for _ in range(2):
            schedule.step(*given, **target)
        return "trained"
    except (RuntimeError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _through(part: nn.ModuleDict, x: Tensor) -> Tensor:
    for layer in part.values():
        x = layer(x)
    return x


def _used() -> int:
    """Bytes of data that this process has by now, its libraries included."""
    with open("/proc/self/status") as status:  # noqa: PTH123
        line = next(line for line in status if line.startswith("VmData"))
    return int(line.split()[1]) * 1024


def frozen(which: int, rank: int, world: int) -> Bits:
    """One of the stages has nothing to train."""
    system = SYSTEMS["growing"]
    part = system.build(rank, world).requires_grad_(rank != which)
    own = fp.Stage(part, RULE, system.names(part), index=rank, stages=world)
    schedule = fp.ScheduleDFA(own, MICRO_BATCHES, system.loss)
    x, y = system.batch(COUNT, 0)
    schedule.step(*([x] if own.is_first else []), **({"target": y} if own.is_last else {}))
    return gradients(part)


class Products(TorchDispatchMode):
    """Counts matrix products, by the number of their operations."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            a, b = args[-2:]
            self.found.append(a.shape[0] * a.shape[1] * b.shape[1])
        return function(*args, **(kwargs or {}))


def counted(send: Any, rank: int, world: int) -> list[int]:
    """The products of a step, after one in which the stages get to know each other."""
    system = SYSTEMS["shrinking"]
    part = system.build(rank, world)
    own = fp.Stage(part, RULE, system.names(part), index=rank, stages=world)
    schedule = fp.ScheduleDFA(own, 1, system.loss, send=send)
    x, y = system.batch(4, 0)
    given, target = ([x] if own.is_first else []), ({"target": y} if own.is_last else {})
    schedule.step(*given, **target)
    with Products() as counter:
        schedule.step(*given, **target)
    return sorted(counter.found)


SCENARIOS: dict[str, Any] = {
    "large": large,
    "checkpointed": checkpointed,
    "cast": cast,
    "clipped": clipped,
    "several": several,
}


SCENARIOS |= {f"frozen-{which}": partial(frozen, which) for which in (0, 1)}
SCENARIOS |= {f"counted-{send}": partial(counted, send) for send in ("error", "product")}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Any]]:
    return run(2, tmp_path_factory.mktemp("two"), SCENARIOS)


def test_checkpointed_activations(two: Callable[[str], list[Any]]) -> None:
    expected = one_process(SYSTEMS["transformer"], RULE, MICRO_BATCHES, COUNT)
    assert differing(two("checkpointed"), expected) == []


def test_bfloat16(two: Callable[[str], list[Any]]) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = one_process(SYSTEMS["growing"], RULE, MICRO_BATCHES, COUNT)
    found = {name: value for part in two("cast") for name, value in part.items()}
    assert found.keys() == expected.keys()
    # Mostly the same bits; once, among many other tests in one process, they were not, for a reason not found yet.
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0.02, atol=0.02 * float(value.abs().max()))


def test_one_norm_of_all_gradients(two: Callable[[str], list[Any]]) -> None:
    system = SYSTEMS["growing"]
    model = system.build()
    fa.attach(model, RULE, system.names(model))
    x, y = system.batch(COUNT, 0)
    for part, target in zip(x.chunk(MICRO_BATCHES), y.chunk(MICRO_BATCHES), strict=True):
        (system.loss(model(part), target) / MICRO_BATCHES).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    assert norm > 0.1
    first, second = two("clipped")
    assert torch.equal(first.pop("norm"), second.pop("norm"))
    for name, value in gradients(model).items():
        torch.testing.assert_close({**first, **second}[name], value, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("which", [0, 1])
def test_a_stage_that_does_not_train(two: Callable[[str], list[Any]], which: int) -> None:
    system = SYSTEMS["growing"]
    model = system.build()
    of_stage = [set(dict(system.build(stage, 2).named_parameters())) for stage in range(2)]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in of_stage[which])
    fa.attach(model, RULE, system.names(model))
    x, y = system.batch(COUNT, 0)
    for part, target in zip(x.chunk(MICRO_BATCHES), y.chunk(MICRO_BATCHES), strict=True):
        system.loss(model(part), target).backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.div_(MICRO_BATCHES)
    assert differing(two(f"frozen-{which}"), gradients(model)) == []


def test_no_stage_forms_the_gradient_of_an_input(two: Callable[[str], list[Any]]) -> None:
    """Two products per layer; beside them e B, on every stage if the error is sent, else on the last one alone."""
    rows, classes, widest = 4, 96, 64
    hidden = [[6 * 64, 64 * 48, 48 * 32], [32 * 16]]
    head, signal = 16 * classes * rows, classes * widest * rows
    for send in ("error", "product"):
        first, second = two(f"counted-{send}")
        own = [rows * each for each in hidden[0] * 2]
        assert first == sorted([*own, signal] if send == "error" else own)
        assert second == sorted([rows * each for each in hidden[1] * 2] + [head, head] + [signal])


def test_several_tensors_between_stages(two: Callable[[str], list[Any]]) -> None:
    model = Both()
    fa.attach(model, RULE, ["first", "second"])
    x, y = SYSTEMS["growing"].batch(COUNT, 0)
    for part, target in zip(x.chunk(MICRO_BATCHES), y.chunk(MICRO_BATCHES), strict=True):
        F.cross_entropy(model(part), target).backward()
    found = {**two("several")[0], **two("several")[1]}
    expected = {f"{n}": p.grad / MICRO_BATCHES for m in (model.below, model.above) for n, p in m.named_parameters()}
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


def test_stages_that_are_sharded(tmp_path: Any) -> None:
    names = ["growing", "transformer"]
    found = run(4, tmp_path, {name: partial(sharded, name) for name in names})
    for name in names:
        expected = by_halves(SYSTEMS[name])
        parts = found(name)
        for first, second in (parts[:2], parts[2:]):
            assert differing([second], first) == []
        together = {**parts[0], **parts[2]}
        assert together.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(together[key], value, rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")


def by_halves(system: System) -> Bits:
    """One process on the micro-batches that the shards have together."""
    model = system.build()
    handle = fa.attach(model, RULE, system.names(model))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for step in range(2):
        optimizer.zero_grad()
        x, y = system.batch(COUNT, step)
        for half in range(2):
            parts = zip(x[half::2].chunk(MICRO_BATCHES), y[half::2].chunk(MICRO_BATCHES), strict=True)
            for part, target in parts:
                (system.loss(model(part), target) / (2 * MICRO_BATCHES)).backward()
        optimizer.step()
    handle.remove()
    found = {f"gradient of {name}": value for name, value in gradients(model).items()}
    return found | {name: value.detach() for name, value in model.state_dict().items()}


def test_a_model_that_one_process_cannot_hold(two: Callable[[str], list[Any]], tmp_path: Any) -> None:
    assert two("large") == ["trained", "trained"]
    (alone,) = run(1, tmp_path, {"large": large})("large")
    assert "alloc" in alone
