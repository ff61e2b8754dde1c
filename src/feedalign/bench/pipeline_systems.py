"""What the stages of a measured pipeline compute: real products, or nothing but time."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedalign.experiments.models.transformer import Block, Embedding, TransformerConfig

CLASSES, VOCABULARY, TOKENS, HEADS = 10, 512, 64, 8
SLEEPING_WIDTH = 8
SystemName = Literal["mlp", "transformer", "sleep"]
Placement = Literal["macro", "micro"]


class _Sleep(torch.autograd.Function):
    """The identity, which takes its time forward and backward."""

    @staticmethod
    def forward(ctx: Any, passed: Tensor, forward: float, backward: float) -> Tensor:
        ctx.seconds = backward
        time.sleep(forward)
        return passed.view_as(passed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        time.sleep(ctx.seconds)
        return gradient, None, None


class Sleeper(nn.Module):
    """A small linear layer that takes a given time.

    Args:
        forward: Seconds of a forward pass.
        backward: Seconds of a backward pass.
    """

    def __init__(self, forward: float, backward: float) -> None:
        super().__init__()
        self.linear = nn.Linear(SLEEPING_WIDTH, SLEEPING_WIDTH)
        self.seconds = (forward, backward)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the linear layer makes of ``x [N, 8]``."""
        passed: Tensor = _Sleep.apply(self.linear(x), *self.seconds)  # type: ignore[no-untyped-call]
        return passed


@dataclass(frozen=True)
class System:
    """A model that is split evenly into stages.

    Args:
        name: ``"mlp"``, ``"transformer"`` or ``"sleep"``.
        depth: Hidden layers or blocks, over all stages.
        width: Of the layers.
        rows: Samples of a micro-batch; sequences, for the Transformer.
        points: Behind every layer or block (``"macro"``), or also behind the parts of a block (``"micro"``).
        sleep: For ``"sleep"``: seconds of a stage's forward pass.
        backward: For ``"sleep"``: DFA's backward pass in forward passes; backprop's is twice the forward pass.
    """

    name: SystemName
    depth: int
    width: int
    rows: int
    points: Placement = "macro"
    sleep: float = 0.0
    backward: float = 1.0

    @property
    def describe(self) -> str:
        """The system in words."""
        if self.name == "sleep":
            return f"stages that sleep {1000 * self.sleep:g} ms forward and {self.backward:g} times that backward"
        if self.name == "mlp":
            return f"MLP, {self.depth} hidden layers of {self.width} ReLU, {self.rows} rows a micro-batch"
        where = {"macro": "a point per block", "micro": "a point per sub-layer"}[self.points]
        return (
            f"pre-LN Transformer, {self.depth} blocks of width {self.width}, {self.rows} x {TOKENS} tokens a "
            f"micro-batch, vocabulary {VOCABULARY}, {where}"
        )

    def part(self, stage: int, stages: int, processes: int, rule: bool) -> nn.Sequential:
        """Return one of ``stages`` parts, under the names that its layers have in the whole model.

        Args:
            stage: Which part.
            stages: How many parts there are.
            processes: How many processes there are: a sleeping stage of a process with several takes its share of the
                time.
            rule: Whether it is for a rule with points, whose backward pass takes another time.
        """
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if self.name == "sleep":
            share = self.sleep * processes / stages
            # Backpropagation's second half is that of the weights, which the stage's runner sleeps.
            layers[f"layer{stage}"] = Sleeper(share, share * (self.backward if rule else 1.0))
            return nn.Sequential(layers)
        each = self.depth // stages
        config = self._config()
        if self.name == "transformer" and stage == 0:
            layers["embedding"] = Embedding(config, VOCABULARY)
        for number in range(stage * each, (stage + 1) * each):
            if self.name == "mlp":
                layers[f"layer{number}"] = nn.Sequential(nn.Linear(self.width, self.width), nn.ReLU())
            else:
                layers[f"layer{number}"] = Block(config)
        if stage == stages - 1:
            if self.name == "mlp":
                layers["head"] = nn.Linear(self.width, CLASSES)
            else:
                layers["final"] = nn.LayerNorm(self.width)
                layers["head"] = nn.Linear(self.width, VOCABULARY)
        return nn.Sequential(layers)

    def names(self, part: nn.Sequential, last: bool) -> list[str]:
        """Return the points of a part: behind every layer, and inside of blocks if so placed."""
        found = [name for name, _ in part.named_children() if name.startswith("layer")]
        if self.name == "sleep" and last:
            return []  # its output is where the error is known
        if self.name == "transformer" and self.points == "micro":
            return [f"{name}{inner}" for name in found for inner in (".attention", ".hidden", "")]
        return found

    def batch(self, micro_batches: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a step."""
        rows = self.rows * micro_batches
        if self.name == "transformer":
            tokens = torch.randint(VOCABULARY, (2, rows, TOKENS))
            return tokens[0], tokens[1]
        width = SLEEPING_WIDTH if self.name == "sleep" else self.width
        return torch.randn(rows, width), torch.randint(SLEEPING_WIDTH if self.name == "sleep" else CLASSES, (rows,))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the cross entropy."""
        return F.cross_entropy(output.flatten(0, -2), target.flatten())

    def runner(self, stages: int, processes: int) -> Callable[[], Callable[..., None]] | None:
        """Return what makes backprop's gradients of weights; ``None`` if autograd makes them."""
        if self.name != "sleep":
            return None
        share = self.sleep * processes / stages
        return lambda: lambda *_: time.sleep(share)

    def _config(self) -> TransformerConfig:
        return TransformerConfig(
            width=self.width,
            blocks=self.depth,
            heads=HEADS,
            hidden=4 * self.width,
            context=TOKENS,
            dropout=0.0,
            norm="pre",
        )
