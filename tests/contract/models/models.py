"""The models under contract. A new model joins by one entry in the list of its kind."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import nn

import feedalign as fa
from contract.models.case import DIFFERENT, Case
from contract.models.graphs import GRAPHS, Pooled
from contract.models.hugging_face import MIXED, TEXT, VISION
from contract.models.recurrent import RECURRENT, Packed, ragged
from contract.models.signals import SIGNALS
from contract.models.systems import SYSTEMS, chain

CASES: list[Case] = [*TEXT, *VISION, *MIXED, *GRAPHS, *RECURRENT, *SIGNALS, *SYSTEMS]


@dataclass(frozen=True)
class Refused:
    """A model and points that get no signal: the first step of training raises."""

    name: str
    library: str
    build: Callable[[], nn.Module]
    step: Callable[[nn.Module], None]
    """One training step of the attached model."""
    why: str
    says: str
    """What the message holds."""
    arguments: dict[str, Any] = field(default_factory=dict)
    error: type[Exception] = fa.SignalError


def label_per_graph(model: nn.Module) -> None:
    """Train on two graphs, of two and of four nodes."""
    graphs = torch.tensor([0, 0, 1, 1, 1, 1])
    pairs = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 0, 3, 2, 5, 4]])
    model(torch.randn(6, DIFFERENT.d), pairs, graphs).square().mean().backward()


def differential_equation(model: nn.Module) -> None:
    """Train a network u(x) on u' = -u, as physics-informed networks are."""
    x = torch.linspace(0, 1, 5)[:, None].requires_grad_()
    u = model(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (slope + u).square().mean().backward()


REFUSED = [
    Refused("graph classification, points at the convolutions", "torch_geometric, own", lambda: Pooled(DIFFERENT),
            label_per_graph, "the nodes of graphs of different sizes are no dimension of an error per graph", "conv1",
            {"points": ["conv1", "head.1"]}),
    Refused("LightGCN", "torch_geometric", lambda: pyg.LightGCN(6, 8, 2), lambda model: None,
            "embeddings and sums over neighbours: no layer to put a point behind", "points=", error=fa.PointsError),
    Refused("nn.GRU, packed, point at the layer", "own", lambda: Packed(DIFFERENT),
            lambda model: model(*ragged(DIFFERENT)).square().mean().backward(),
            "the steps of series of different lengths are no dimension of the error; cut at `head:input`", "rnn",
            {"points": "rnn[0]"}),
    Refused("physics-informed network", "own", lambda: nn.Sequential(*chain(1, 8, 1)), differential_equation,
            "the loss holds derivatives by the input, which would pass the cuts", "derivative"),
]  # fmt: skip
