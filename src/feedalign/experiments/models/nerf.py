"""Radiance fields: networks that answer with a colour and a density for a position and a direction."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, relu_

from feedalign.experiments.models.encoding import encode, encoded_width

RAW = 4
"""Numbers that come out: red, green and blue before the sigmoid, density before the ReLU."""
FIRST_DENSITY = 0.2
"""What the bias of the raw density starts from. At random it is as often as not so far below zero that the density is
zero everywhere: then every gradient is zero too, and training never begins."""


@dataclass(frozen=True)
class FieldConfig:
    """The shape of a radiance field.

    The default is the network of Mildenhall et al. 2020. Launay et al. 2020 trained
    ``FieldConfig(128, 4, skip=None, feature="relu")``, and their tiny one is
    ``FieldConfig(128, 2, skip=None, directions=False)``.

    Attributes:
        width: Units of a hidden layer; the one that sees the direction has half as many.
        depth: Hidden layers that see the position alone.
        skip: Behind so many of them the encoded position is joined once more; ``None`` for nowhere.
        directions: Whether the colour depends on the direction of view.
        feature: What follows the linear layer between the two parts: ``"linear"`` nothing, ``"relu"`` a ReLU.
        position_octaves: See :func:`feedalign.experiments.models.encoding.encode`.
        direction_octaves: The same for directions.
    """

    width: int = 256
    depth: int = 8
    skip: int | None = 5
    directions: bool = True
    feature: Literal["linear", "relu"] = "linear"
    position_octaves: int = 10
    direction_octaves: int = 4

    def __post_init__(self) -> None:
        if self.width < 2 or self.depth < 1 or self.position_octaves < 0 or self.direction_octaves < 0:
            raise ValueError(
                "Expected a width of at least 2, a depth of at least 1 and octaves of at least 0, found "
                f"{self.width}, {self.depth}, {self.position_octaves} and {self.direction_octaves}."
            )
        if self.skip is not None and not 0 < self.skip < self.depth:
            raise ValueError(f"Expected a skip between 1 and {self.depth - 1}, found {self.skip}. None leaves it out.")

    def build(self) -> "RadianceField":
        """Return such a network with random weights."""
        return RadianceField(self)


class Layer(nn.Linear):
    """A linear layer of one or two inputs side by side, and what follows it.

    Two inputs are never copied beside each other: the second may have one row for many rows of the first.

    Args:
        inputs: Width of the first input.
        outputs: Units.
        joined: Width of the second input, 0 for none.
        activated: Whether a ReLU follows.

    Shapes:
        ``[R, S, inputs]`` and ``[R, S, joined]`` or ``[R, 1, joined]`` to ``[R, S, outputs]``.
    """

    def __init__(self, inputs: int, outputs: int, joined: int = 0, activated: bool = True) -> None:
        super().__init__(inputs + joined, outputs)
        self.inputs, self.activated = inputs, activated

    def forward(self, input: Tensor, joined: Tensor | None = None) -> Tensor:  # noqa: A002 -- the name of the parent
        """Return the units' answers."""
        if joined is None:
            out = linear(input, self.weight, self.bias)
        else:
            own, other = self.weight[:, : self.inputs], self.weight[:, self.inputs :]
            out = linear(input, own) + linear(joined, other, self.bias)
        return relu_(out) if self.activated else out


class RadianceField(nn.Module):
    """A network that answers with a raw colour and a raw density.

    Args:
        config: Its shape.

    Attributes:
        config: Its shape.
        points: The feedback points: every hidden layer. The layers behind the last of them, which make the colour
            and the density, get their exact gradient.

    Shapes:
        Positions ``[R, S, 3]`` and directions of unit length ``[R, 3]`` to ``[R, S, 4]``: R rays, S samples on each.
    """

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.config = config
        place = encoded_width(3, config.position_octaves)
        width, last = config.width, config.depth - 1
        joins = [config.skip is not None and i == config.skip for i in range(config.depth)]
        self.layers = nn.ModuleList(
            Layer(place if i == 0 else width, width, place if joins[i] else 0) for i in range(last + 1)
        )
        self.points = [f"layers.{i}" for i in range(config.depth)]
        if config.directions:
            self.density = nn.Linear(width, 1)
            self.feature = Layer(width, width, activated=config.feature == "relu")
            self.view = Layer(width, width // 2, encoded_width(3, config.direction_octaves))
            self.colour = nn.Linear(width // 2, RAW - 1)
            self.points += ["feature", "view"]
            nn.init.constant_(self.density.bias, FIRST_DENSITY)
        else:
            self.head = nn.Linear(width, RAW)
            nn.init.constant_(self.head.bias[RAW - 1 :], FIRST_DENSITY)

    def forward(self, positions: Tensor, directions: Tensor) -> Tensor:
        """Return raw colours and densities ``[R, S, 4]``."""
        place = encode(positions, self.config.position_octaves)
        hidden = place
        for i, layer in enumerate(self.layers):
            hidden = layer(hidden, place) if i == self.config.skip else layer(hidden)
        if not self.config.directions:
            raw: Tensor = self.head(hidden)
            return raw
        view = encode(directions, self.config.direction_octaves)[:, None]
        colour = self.colour(self.view(self.feature(hidden), view))
        return torch.cat([colour, self.density(hidden)], dim=-1)
