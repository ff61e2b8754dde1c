"""The networks for click logs by name."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from feedalign.experiments.models.afn import AFN
from feedalign.experiments.models.autoint import AutoInt
from feedalign.experiments.models.click_layers import ClickNetwork
from feedalign.experiments.models.dcn import DeepCross
from feedalign.experiments.models.deepfm import DeepFM
from feedalign.experiments.models.fm import FM

ClickKind = Literal["fm", "deepfm", "dcn", "autoint", "afn"]
SIZES: dict[str, dict[str, Any]] = {
    "fm": {"width": 16, "hidden": ()},
    "deepfm": {"width": 10, "hidden": (400, 400, 400)},
    "dcn": {"width": 16, "hidden": (1024, 1024)},
    "autoint": {"width": 16, "hidden": (400, 400, 400)},
    "afn": {"width": 10, "hidden": (400, 400, 400)},
}
"""As published: width of an embedding, widths of the hidden layers."""


@dataclass(frozen=True)
class ClickModelConfig:
    """A network for click logs. What is ``None`` is as published, see :meth:`filled`.

    Attributes:
        kind: Factorisation machine (``"fm"``), ``"deepfm"``, Deep & Cross (``"dcn"``), ``"autoint"`` or ``"afn"``.
        width: Of an embedding.
        hidden: Widths of the hidden layers. The factorisation machine has none.
        dropout: Probability of zeroing a hidden unit.
        cross: Cross layers of Deep & Cross.
        units: Of the logarithmic layer of AFN.
        attention: Width of a field in the attention of AutoInt.
        heads: Of the attention.
        layers: Of the attention.
        frozen: Leave AFN's embeddings as they are drawn wherever the backward pass is cut, as the published code does.
        sparse: Whether tables have sparse gradients, so that a step touches the categories of its batch alone.
    """

    kind: ClickKind = "deepfm"
    width: int | None = None
    hidden: tuple[int, ...] | None = None
    dropout: float = 0.0
    cross: int = 6
    units: int = 1_500
    attention: int = 32
    heads: int = 2
    layers: int = 3
    frozen: bool = False
    sparse: bool = False

    def __post_init__(self) -> None:
        if self.kind not in SIZES:
            raise ValueError(f"Expected a network for clicks out of {', '.join(SIZES)}, found {self.kind!r}.")
        if self.frozen and self.kind != "afn":
            raise ValueError(f"Expected frozen embeddings with afn only, found them with {self.kind}. Leave it out.")
        if self.kind != "fm" and self.hidden is not None and not self.hidden:
            raise ValueError(f"Expected at least one hidden layer for {self.kind}, found none. Do give its width.")
        counts = (self.cross, self.units, self.attention, self.heads, self.layers, *(self.hidden or ()))
        if min(*counts, self.width or 1) < 1:
            raise ValueError(f"Expected sizes of at least 1, found {min(*counts, self.width or 1)} in {self}.")

    def filled(self) -> "ClickModelConfig":
        """Return the configuration with the published values in place of ``None``."""
        missing = {name: value for name, value in SIZES[self.kind].items() if getattr(self, name) is None}
        return replace(self, **missing)

    def build(self, sizes: Sequence[int]) -> ClickNetwork:
        """Return a new network, drawn from the global random number generator.

        Args:
            sizes: Categories of each field.
        """
        return _build(self.filled(), sizes)


def _build(config: ClickModelConfig, sizes: Sequence[int]) -> ClickNetwork:
    width, hidden, dropout, sparse = config.width, config.hidden, config.dropout, config.sparse
    assert width is not None
    assert hidden is not None
    match config.kind:
        case "fm":
            return FM(sizes, width, sparse)
        case "deepfm":
            return DeepFM(sizes, width, hidden, dropout, sparse)
        case "dcn":
            return DeepCross(sizes, width, config.cross, hidden, dropout, sparse)
        case "autoint":
            attention = (config.attention, config.heads, config.layers)
            return AutoInt(sizes, width, *attention, hidden, dropout, sparse)
        case "afn":
            return AFN(sizes, width, config.units, hidden, dropout, config.frozen, sparse)
