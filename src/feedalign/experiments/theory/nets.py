"""Deep nets without biases, as the theory has them, and many of them learning side by side."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import feedalign as fa

Activation = Literal["linear", "tanh", "relu"]
FUNCTIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}
Loss = Callable[[Tensor, Tensor], Tensor]
"""Summed over samples, so that a rate is one of a sample."""


@dataclass(frozen=True)
class Net:
    """The shape of a net.

    Attributes:
        inputs: ``d``
        width: ``n``, of every hidden layer.
        outputs: ``C``
        depth: ``L``, the number of weight matrices.
        activation: Behind every hidden layer; ``"linear"`` for none.
    """

    inputs: int
    width: int
    outputs: int
    depth: int
    activation: Activation = "tanh"

    def __post_init__(self) -> None:
        if self.depth < 2:
            raise ValueError(f"Expected a depth of at least 2 weight matrices, found {self.depth}.")

    @property
    def layers(self) -> list[str]:
        """Names of the weight matrices ``W_1 .. W_L``."""
        return [f"layer{number}" for number in range(1, self.depth + 1)]

    @property
    def points(self) -> list[str]:
        """Names of the hidden layers' outputs, behind the non-linearity."""
        return [f"{'layer' if self.activation == 'linear' else 'act'}{number}" for number in range(1, self.depth)]

    def build(self, seed: int, scale: float | None = None) -> nn.Sequential:
        """Return a net.

        Args:
            seed: Of its weights.
            scale: Their standard deviation, normally distributed; 0 for zeros. By default PyTorch's: uniform in
                ``1 / sqrt(fan_in)``.
        """
        widths = [self.inputs, *[self.width] * (self.depth - 1), self.outputs]
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (below, above) in enumerate(pairwise(widths), start=1):
            parts[f"layer{number}"] = nn.Linear(below, above, bias=False)
            if self.activation != "linear" and number < self.depth:
                parts[f"act{number}"] = FUNCTIONS[self.activation]()
        net = nn.Sequential(parts)
        generator = torch.Generator().manual_seed(seed)
        for weight in net.parameters():
            bound = weight.shape[1] ** -0.5
            with torch.no_grad():
                if scale is None:
                    weight.uniform_(-bound, bound, generator=generator)
                else:
                    weight.normal_(generator=generator).mul_(scale)
        return net

    def attach(self, net: nn.Module, rule: fa.Rule) -> fa.Attachment:
        """Return the rule attached to a net of this shape."""
        return fa.attach(net, rule, points=self.points)


class Ensemble:
    """Nets of one shape that learn side by side, each as if it were alone.

    One attached model serves all of them: it is called on stacked weights, under ``torch.func.vmap``.

    Args:
        net: Their shape.
        feedback: Their feedback: they share it, whatever their weights.
        feedback_seed: Of its numbers.
        seeds: Of their weights, one a net.
        scale: See :meth:`Net.build`.
        backprop: Whether they learn by backpropagation instead of DFA. Alignment is measured all the same.
    """

    def __init__(
        self,
        net: Net,
        seeds: Sequence[int],
        feedback: fa.Feedback | None = None,
        scale: float | None = None,
        backprop: bool = False,
        feedback_seed: int = 0,
    ) -> None:
        self.net, self.seeds, self.backprop = net, list(seeds), backprop
        built = [net.build(seed, scale) for seed in self.seeds]
        self.model = built[0]
        rule = fa.DFA(seed=feedback_seed, feedback=feedback or fa.Uniform(shared=False))
        self.handle = net.attach(self.model, rule)
        self.weights = {
            name: torch.stack([dict(each.named_parameters())[name].detach() for each in built])
            for name, _ in self.model.named_parameters()
        }
        with torch.enable_grad():
            self.model(torch.zeros(1, net.inputs))  # shapes, and with them the feedback, are known from here on

    def step(self, loss: Loss, inputs: Tensor, targets: Tensor, rate: float) -> None:
        """Take one step of gradient descent with every net.

        Args:
            loss: ``loss(outputs, targets)``
            inputs: ``[nets, N, d]``
            targets: ``[nets, N, ...]``
            rate: Of learning.
        """

        def one(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return loss(functional_call(self.model, weights, (x,)), y)

        with self.handle.off() if self.backprop else nullcontext():
            gradients = vmap(grad(one))(self.weights, inputs, targets)
        for name, gradient in gradients.items():
            self.weights[name].sub_(gradient, alpha=rate)

    @contextmanager
    def alone(self, number: int) -> Iterator[nn.Module]:
        """Give the model the weights of one net inside the ``with`` block."""
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, weights in self.weights.items():
                own[name].copy_(weights[number])
        yield self.model

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return what every net makes of ``inputs [N, d]``, or ``[nets, N, d]``: ``[nets, N, C]``."""
        h = inputs
        with torch.no_grad():
            for layer in self.net.layers:
                h = h @ self.weights[f"{layer}.weight"].mT
                if self.net.activation != "linear" and layer != self.net.layers[-1]:
                    h = h.tanh() if self.net.activation == "tanh" else h.relu()
        return h

    def flat(self) -> Tensor:
        """Return all weights of every net in one row, ``[nets, parameters]``."""
        return torch.cat([weight.flatten(1) for weight in self.weights.values()], dim=1)
