"""Models that are split into stages, each layer with the start values that belong to its name."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa

DTYPE = torch.float32


class Block(nn.Module):
    """A pre-LN Transformer block, [N, T, D] to [N, T, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Embed(nn.Module):
    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tokens(tokens)


class Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def linear(a: int, b: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(a, b), nn.ReLU())


def convolution(a: int, b: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())


@dataclass(frozen=True)
class System:
    """A model as a list of layers, the points among them, and what its stages are."""

    layers: tuple[Callable[[], nn.Module], ...]
    points: tuple[int, ...]
    inputs: Callable[[int, torch.Generator], Tensor]
    outputs: int
    splits: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """The first layer of every stage, by the number of stages."""
    sequence: bool = False

    def build(self, stage: int = 0, stages: int = 1) -> nn.Sequential:
        starts = [*((0,) if stages == 1 else self.splits[stages]), len(self.layers)]
        numbers = range(starts[stage], starts[stage + 1])
        return nn.Sequential(OrderedDict((str(i), named(f"{i}", self.layers[i])) for i in numbers))

    def names(self, part: nn.Module) -> list[str]:
        return [str(i) for i in self.points if hasattr(part, str(i))]

    def batch(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        x = self.inputs(count, generator)
        shape = x.shape[:2] if self.sequence else x.shape[:1]
        return x, torch.randint(self.outputs, shape, generator=generator)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, -2), target.flatten())


def named(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    """Build a layer with start values that follow from its name, on whatever process."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def rows(*shape: int) -> Callable[[int, torch.Generator], Tensor]:
    return lambda count, generator: torch.randn(count, *shape, generator=generator)


def tokens(vocabulary: int, length: int) -> Callable[[int, torch.Generator], Tensor]:
    return lambda count, generator: torch.randint(vocabulary, (count, length), generator=generator)


def mlp(*widths: int) -> tuple[Callable[[], nn.Module], ...]:
    hidden = [linear(a, b) for a, b in pairwise(widths[:-1])]
    return (*hidden, lambda: nn.Linear(widths[-2], widths[-1]))


SYSTEMS = {
    "growing": System(mlp(6, 16, 32, 48, 64, 5), (0, 1, 2, 3), rows(6), 5, {2: (0, 2), 4: (0, 1, 2, 3)}),
    # More classes than columns, so that "auto" sends the product.
    "shrinking": System(mlp(6, 64, 48, 32, 16, 96), (0, 1, 2, 3), rows(6), 96, {2: (0, 3), 4: (0, 1, 2, 4)}),
    "transformer": System(
        (lambda: Embed(40, 16), *(lambda: Block(16) for _ in range(4)), lambda: nn.Linear(16, 40)),
        (1, 2, 3, 4), tokens(40, 6), 40, {2: (0, 3), 4: (0, 2, 3, 4)}, sequence=True,
    ),
    "cnn": System(
        (convolution(3, 4), convolution(4, 6), convolution(6, 8), convolution(8, 5), Pool, lambda: nn.Linear(5, 7)),
        (0, 1, 2, 3), rows(3, 6, 6), 7, {2: (0, 2), 4: (0, 1, 2, 3)},
    ),
}  # fmt: skip


def gradients(part: nn.Module) -> dict[str, Tensor]:
    return {name: torch.zeros(0) if p.grad is None else p.grad.clone() for name, p in part.named_parameters()}


def one_process(system: System, rule: Any, micro_batches: int, count: int, steps: int = 2) -> dict[str, Tensor]:
    """Train one process with an ordinary attachment, and return the gradients of the last step and all weights."""
    model = system.build()
    handle = fa.attach(model, rule, system.names(model))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        x, y = system.batch(count, step)
        for part, target in zip(x.chunk(micro_batches), y.chunk(micro_batches), strict=True):
            handle.targets = target
            system.loss(model(part), target).backward()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(micro_batches)
        optimizer.step()
    found = {f"gradient of {name}": value for name, value in gradients(model).items()}
    return found | {name: value.detach() for name, value in model.state_dict().items()}


def staged(
    system: System, rule: Any, micro_batches: int, count: int, stage: int, stages: int, steps: int = 2, **options: Any
) -> dict[str, Tensor]:
    """Train one stage of several processes in the same way."""
    from feedalign import pipelining as fp

    part = system.build(stage, stages)
    own = fp.Stage(part, rule, system.names(part), index=stage, stages=stages)
    schedule = fp.ScheduleDFA(own, micro_batches, system.loss, **options)
    optimizer = torch.optim.SGD(part.parameters(), 0.1, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        x, y = system.batch(count, step)
        targets = {"target": y} if own.is_last or rule.targeted else {}
        schedule.step(*([x] if own.is_first else []), **targets)
        optimizer.step()
    found = {f"gradient of {name}": value for name, value in gradients(part).items()}
    return found | {name: value.detach() for name, value in part.state_dict().items()}


def differing(found: Sequence[dict[str, Tensor]], expected: dict[str, Tensor]) -> list[str]:
    """Return the names whose bits are not those expected; raises if a name is missing or there twice."""
    together: dict[str, Tensor] = {}
    for part in found:
        assert not together.keys() & part.keys()
        together |= part
    assert together.keys() == expected.keys()
    return [name for name, value in expected.items() if not torch.equal(together[name], value)]
