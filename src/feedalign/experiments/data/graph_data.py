"""What a graph is here: nodes with features, edges, labels, and which nodes train, validate and test."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from feedalign.experiments.errors import DataError


@dataclass(frozen=True, eq=False)
class GraphData:
    """A graph whose nodes are to be classified.

    The readers give every undirected edge once in each direction, sorted by target and then by source, without
    self-loops. A graph of your own may hold self-loops, an edge twice (it then counts twice) and nodes without edges.

    Attributes:
        name: Of the data set.
        x: Features ``[N, F]``, float32.
        edge_index: Source and target of each edge ``[2, E]``, int64; messages flow from the first to the second.
        y: Labels ``[N]``, int64.
        classes: How many there are.
        train: Which nodes are trained on, ``[N]``, bool. A class may be missing among them.
        validation: Which nodes decide about epochs and settings.
        test: Which nodes decide about nothing.
    """

    name: str
    x: Tensor
    edge_index: Tensor
    y: Tensor
    classes: int
    train: Tensor
    validation: Tensor
    test: Tensor

    @property
    def nodes(self) -> int:
        """How many nodes there are, N."""
        return self.x.shape[0]

    @property
    def features(self) -> int:
        """How many features a node has, F."""
        return self.x.shape[1]

    @property
    def counts(self) -> dict[str, int]:
        """The graph's size for records. An undirected edge counts once."""
        return {
            "nodes": self.nodes,
            "edges": len(undirected_keys(self.edge_index, self.nodes)),
            "features": self.features,
            **{part: int(getattr(self, part).sum()) for part in PARTS},
        }

    def to(self, device: torch.device | str) -> "GraphData":
        """Return the same graph on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("x", "edge_index", "y", *PARTS)}
        return replace(self, **moved)

    def check(self) -> "GraphData":
        """Return the graph itself if it can be trained on.

        Raises:
            DataError: It cannot: a wrong shape or dtype, features that are not finite, an edge to a node that is not
                there, a label out of range, no node to train, validate or test on, or one in two of these parts.
        """
        for name, dtype, shape in (
            ("x", torch.float32, (None, None)),
            ("edge_index", torch.int64, (2, None)),
            ("y", torch.int64, (self.x.shape[0],)),
            *((part, torch.bool, (self.x.shape[0],)) for part in PARTS),
        ):
            self._check_form(name, dtype, shape)
        self._check_features()
        self._check_range("edge_index", self.edge_index, self.nodes, "Number the nodes from 0.")
        self._check_range("y", self.y, self.classes, "Number the classes from 0, or set `classes`.")
        self._check_parts()
        return self

    def _check_form(self, name: str, dtype: torch.dtype, shape: tuple[int | None, ...]) -> None:
        found = getattr(self, name)
        expected = ["N" if size is None else str(size) for size in shape]
        fits = len(found.shape) == len(shape) and all(
            size in (None, length) for size, length in zip(shape, found.shape, strict=True)
        )
        if not fits or found.dtype != dtype:
            raise DataError(
                f"Graph {self.name!r}: expected `{name}` of shape [{', '.join(expected)}] and dtype {dtype}, "
                f"found {list(found.shape)} and {found.dtype}. Do convert it before."
            )

    def _check_features(self) -> None:
        bad = ~self.x.isfinite().all(dim=1)
        if bad.any():
            raise DataError(
                f"Graph {self.name!r}: expected finite features, found NaN or infinity in `x` of {int(bad.sum()):,} of "
                f"{self.nodes:,} nodes, the first being node {int(bad.nonzero()[0])}. Do mend or drop them."
            )

    def _check_range(self, name: str, values: Tensor, end: int, remedy: str) -> None:
        if values.numel() == 0:
            return
        low, high = (int(value) for value in values.aminmax())
        if low < 0 or high >= end:
            raise DataError(
                f"Graph {self.name!r}: expected `{name}` within 0 and {end - 1:,}, found {low:,} to {high:,}. {remedy}"
            )

    def _check_parts(self) -> None:
        for part in PARTS:
            if not getattr(self, part).any():
                raise DataError(
                    f"Graph {self.name!r}: expected at least one node in the mask `{part}`, found none. Do set some."
                )
        for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
            shared = int((getattr(self, first) & getattr(self, second)).sum())
            if shared:
                raise DataError(
                    f"Graph {self.name!r}: expected the masks `{first}` and `{second}` to share no node, "
                    f"found {shared:,} in both. Do clear them in one."
                )


PARTS = ("train", "validation", "test")


def mask(indices: Tensor, nodes: int) -> Tensor:
    """Return the boolean mask ``[N]`` of the nodes listed."""
    chosen = torch.zeros(nodes, dtype=torch.bool)
    chosen[indices] = True
    return chosen


def undirected_keys(edge_index: Tensor, nodes: int) -> Tensor:
    """Return ``smaller * N + larger`` of every undirected edge once, sorted; self-loops too. Shape ``[P]``."""
    small, large = edge_index.sort(dim=0).values
    keys: Tensor = torch.unique(small * nodes + large)
    return keys


def both_directions(pairs: Tensor, nodes: int) -> Tensor:
    """Return edges ``[2, E]`` both ways, each once, sorted by target and then by source, without self-loops.

    Args:
        pairs: Edges ``[2, P]`` in either direction or both.
        nodes: How many nodes there are.
    """
    pairs = pairs[:, pairs[0] != pairs[1]]
    source, target = torch.cat([pairs, pairs.flip(0)], dim=1)
    keys = torch.unique(target * nodes + source)
    return torch.stack([keys % nodes, keys // nodes])
