"""A Transformer that predicts the next token of a text, as Launay et al. 2020 trained it, and with modern options.

Letters: ``N`` chunks, ``T`` tokens of a chunk, ``D`` width of the model, ``V`` tokens of the vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from feedalign.experiments.models.attention import KINDS, AttentionKind, attention, check_fixed
from feedalign.experiments.models.positions import PositionKind, positions

Norm = Literal["post", "pre"]
Placement = Literal["macro", "micro"]
Tap = Literal["logits", "hidden"]
RANGE = 0.1
"""Vectors of tokens, and weights of the head, start uniform in so far on either side of zero."""


class Block(nn.Module):
    r"""Attention and two linear layers, each with a way around it.

    With ``norm="post"`` the sums are normalised, :math:`x \leftarrow \mathrm{LN}(x + f(x))`, as published; with
    ``"pre"`` what each part reads is, :math:`x \leftarrow x + f(\mathrm{LN}(x))`.

    Args:
        config: Of the whole model.

    Shapes:
        ``[N, T, D]`` to ``[N, T, D]``.
    """

    def __init__(self, config: "TransformerConfig") -> None:
        super().__init__()
        width, dropout = config.width, config.dropout
        self.pre = config.norm == "pre"
        self.attention = attention(config.attention, width, config.heads, config.context, dropout)
        self.norm1 = nn.LayerNorm(width)
        self.hidden = nn.Sequential(nn.Linear(width, config.hidden), nn.ReLU(), nn.Dropout(dropout))
        self.output = nn.Sequential(nn.Linear(config.hidden, width), nn.Dropout(dropout))
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the block makes of ``x``."""
        if self.pre:
            x = x + self.attention(self.norm1(x))
            return x + self.output(self.hidden(self.norm2(x)))  # type: ignore[no-any-return]
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.output(self.hidden(x)))  # type: ignore[no-any-return]


class Embedding(nn.Module):
    r"""Vectors of tokens times :math:`\sqrt{D}`, with vectors of positions added, and dropout.

    Args:
        config: Of the whole model.
        vocabulary: ``V``.

    Shapes:
        Tokens ``[N, T]`` to ``[N, T, D]``.
    """

    def __init__(self, config: "TransformerConfig", vocabulary: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, config.width)
        self.positions = positions(config.positions, config.context, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.scale = math.sqrt(config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the vectors of the tokens, each at its place."""
        vectors = self.tokens(tokens) * self.scale + self.positions(tokens.shape[1])
        return self.dropout(vectors)  # type: ignore[no-any-return]


class Copy(nn.Module):
    """What it is given, in memory of its own.

    The output of the last block and the error before the vocabulary are at one place, and yet the published code sends
    the last block a random signal. As a copy, that place is two.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy."""
        return x.clone()


class LanguageModel(nn.Module):
    """A decoder-only Transformer: scores of what the next token is, at every token, from it and those before it.

    Args:
        config: Its sizes and options.
        vocabulary: ``V``.

    Shapes:
        Tokens ``[N, T]`` (int64, at most ``context`` a chunk) to logits ``[N, T, V]``.
    """

    def __init__(self, config: "TransformerConfig", vocabulary: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config, vocabulary)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.final = nn.LayerNorm(config.width) if config.norm == "pre" else Copy()
        self.head = nn.Linear(config.width, vocabulary, bias=not config.tied)
        nn.init.uniform_(self.embedding.tokens.weight, -RANGE, RANGE)
        if config.tied:
            self.head.weight = self.embedding.tokens.weight
        else:
            nn.init.uniform_(self.head.weight, -RANGE, RANGE)
            nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits.

        Raises:
            ValueError: The tokens are not ``[N, T]``, or are more than the context.
        """
        if tokens.dim() != 2 or tokens.shape[1] > self.config.context:
            raise ValueError(
                f"Expected chunks of at most {self.config.context} tokens, [N, T], found {list(tokens.shape)}. Cut the "
                "text into chunks no longer than the model's context."
            )
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.final(hidden))  # type: ignore[no-any-return]

    def points(self, kind: Placement, embedding: bool = False, last: bool = True) -> list[str]:
        """Return the names of the feedback points.

        Args:
            kind: ``"macro"``: the output of every block. ``"micro"``: of every sub-layer of it. With post-LN that is
                behind either normalisation and behind the ReLU and its dropout. With pre-LN it is what attention and
                the ReLU return, before they join the residual stream, and the stream itself where the block ends: so
                the stream is cut once a block, and every parameter of a block receives one signal.
            embedding: Also behind the embedding, its positions and dropout. Without it the embedding learns by what
                comes through the first block.
            last: Also at the output of the last block, as published. Without it the last block (its last sub-layer)
                learns by what is backpropagated to it from the error.

        Raises:
            ValueError: There is no placement of that name.
        """
        if kind not in ("macro", "micro"):
            raise ValueError(f"Expected a placement out of macro, micro, found {kind!r}.")
        inside = {"post": ("norm1", "hidden"), "pre": ("attention", "hidden")}[self.config.norm]
        found = ["embedding"] if embedding else []
        for number in range(self.config.blocks):
            found += [f"blocks.{number}.{part}" for part in inside] if kind == "micro" else []
            found.append(f"blocks.{number}")
        return found if last else found[:-1]

    def tap(self, error: Tap) -> str | None:
        """Return where the error is tapped, as ``output=`` of :func:`feedalign.attach`.

        Args:
            error: ``"logits"``: at the scores of the vocabulary, as the text of Launay et al. 2020 has it; ``None`` is
                returned, for what the model returns. ``"hidden"``: before the projection to the vocabulary, as their
                code does by default: the error that the points receive has then come backwards through the weights of
                the head, which is weight transport through one layer.

        Raises:
            ValueError: There is no such place.
        """
        if error not in ("logits", "hidden"):
            raise ValueError(f"Expected the error at logits or hidden, found {error!r}.")
        return None if error == "logits" else "final"


@dataclass(frozen=True)
class TransformerConfig:
    """A language model. The defaults are those of Launay et al. 2020.

    Attributes:
        width: ``D``.
        blocks: How many.
        heads: Of attention.
        hidden: Units between the two linear layers of a block.
        context: Most tokens of a chunk.
        dropout: Probability of zeroing a unit, and a weight of attention.
        norm: ``"post"`` normalises behind every sum, ``"pre"`` before every part, and once more before the head.
        attention: ``"dot"`` products, ``"dense"`` or ``"random"`` Synthesizer, or ``"fixed"`` patterns.
        positions: ``"sinusoidal"`` or ``"learned"``.
        tied: Let the head have the embedding's weights, and no bias.
    """

    width: int = 512
    blocks: int = 6
    heads: int = 8
    hidden: int = 2048
    context: int = 128
    dropout: float = 0.1
    norm: Norm = "post"
    attention: AttentionKind = "dot"
    positions: PositionKind = "sinusoidal"
    tied: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (
            ("norm", ("post", "pre")),
            ("attention", KINDS),
            ("positions", ("sinusoidal", "learned")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"Expected {name} out of {', '.join(allowed)}, found {getattr(self, name)!r}.")
        for name in ("width", "blocks", "heads", "hidden", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected {name} of at least 1, found {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"Expected a dropout of at least 0 and below 1, found {self.dropout}.")
        if self.width % self.heads:
            raise ValueError(f"Expected a width that {self.heads} heads can share evenly, found {self.width}.")
        if self.attention == "fixed":
            check_fixed(self.heads)

    def build(self, vocabulary: int) -> LanguageModel:
        """Return a new model, drawn from the global random number generator.

        Args:
            vocabulary: ``V``, how many tokens there are.

        Raises:
            ValueError: There are none.
        """
        if vocabulary < 1:
            raise ValueError(f"Expected a vocabulary of at least 1 token, found {vocabulary}.")
        return LanguageModel(self, vocabulary)
