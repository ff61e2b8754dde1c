"""All that decides the numbers of a run of a language model."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

import feedalign as fa
from feedalign.experiments.configured_rule import feedback_for, rule_for
from feedalign.experiments.data.texts import TextConfig
from feedalign.experiments.data.token_stream import Order, Shuffled, Streams
from feedalign.experiments.models.transformer import LanguageModel, Placement, Tap, TransformerConfig
from feedalign.experiments.names import rule_of, short_name, transports
from feedalign.experiments.optimisation import AdamConfig, PaceConfig
from feedalign.rules import RULES, BroadcastRule

Batching = Literal["shuffled", "streams"]
CHOSEN_BY = "validation_likelihood"
"""The figure that decides between epochs and between settings: one over the validation perplexity per token."""


@dataclass(frozen=True)
class Config:
    """All that decides the numbers of a run.

    Attributes:
        name: Of the configuration; see :func:`feedalign.experiments.lm.presets.cell`.
        data: Which text, and how it is cut into tokens.
        model: The network; its context is the length of a chunk.
        rule: The learning rule, such as ``bp``, ``dfa`` or ``shallow``.
        points: Where the backward pass is cut: behind every block (``"macro"``) or every sub-layer (``"micro"``).
        error: Where the error is tapped, at the ``"logits"`` or before the projection to them (``"hidden"``).
        last: Whether the output of the last block is a point too, as published; else that block learns from the error
            itself.
        embedding: Whether there is a point behind the embedding.
        seed: Of the first weights, dropout, the order of chunks and the feedback.
        feedback: Which numbers carry the error, for rules that broadcast one.
        optimiser: How gradients change weights, and how long they may be.
        schedule: How the learning rate changes.
        block_rate: The learning rate of a block, over that of the block above; the embedding counts as the lowest.
        epochs: Stretches of training, with an evaluation after each.
        every: Steps in a stretch; ``None`` for as many as one pass over the text has.
        batch: Chunks in a step.
        accumulate: Parts that a step's batch goes through the network in, one after the other: less memory, and the
            same gradient but for dropout.
        order: ``"shuffled"`` chunks, or as many parallel ``"streams"`` as a batch has rows, as published.
        alignment: Measure the alignment on so many validation chunks with every line; 0 for not at all.
        device: ``"cpu"``, or ``"auto"`` for an accelerator where there is one.
        precision: ``"no"`` for float32, or mixed with ``"bf16"``.
    """

    name: str = "lm"
    data: TextConfig = field(default_factory=TextConfig)
    model: TransformerConfig = field(default_factory=TransformerConfig)
    rule: str = "dfa"
    points: Placement = "macro"
    error: Tap = "hidden"
    last: bool = True
    embedding: bool = False
    seed: int = 0
    feedback: fa.Feedback = field(default_factory=fa.Uniform)
    optimiser: AdamConfig = field(default_factory=AdamConfig)
    schedule: PaceConfig = field(default_factory=PaceConfig)
    block_rate: float = 1.0
    epochs: int = 20
    every: int | None = None
    batch: int = 64
    accumulate: int = 1
    order: Batching = "shuffled"
    alignment: int = 8
    device: Literal["auto", "cpu"] = "auto"
    precision: Literal["no", "bf16"] = "no"

    def __post_init__(self) -> None:
        if self.epochs < 0 or (self.every is not None and self.every < 1):
            raise ValueError(
                f"Expected epochs of at least 0, of at least 1 step each, found {self.epochs} of {self.every}."
            )
        if self.accumulate < 1 or self.batch < 1 or self.batch % self.accumulate:
            raise ValueError(
                f"Expected a batch that {self.accumulate} parts can share evenly, found {self.batch} chunks."
            )
        if self.block_rate <= 0:
            raise ValueError(f"Expected a block rate above 0, found {self.block_rate}.")
        # One name a rule, so that folders and tables agree: an unknown one raises here.
        object.__setattr__(self, "rule", short_name(self.rule))
        object.__setattr__(self, "feedback", feedback_for(self.rule, self.feedback))
        if self.sends_targets and self.error != "logits":
            raise ValueError(
                f"Expected the error at the logits for {self.rule}, which sends the token in the error's place, found "
                f"{self.error}. Set error to logits."
            )

    @property
    def sends_targets(self) -> bool:
        """Whether the rule must be told the tokens to be foretold."""
        rule = RULES[rule_of(self.rule)].rule
        return issubclass(rule, BroadcastRule) and rule.targeted

    @property
    def broadcasts(self) -> bool:
        """Whether the rule sends an error to points, so that it matters where they are and where it is tapped."""
        return issubclass(RULES[rule_of(self.rule)].rule, BroadcastRule)

    def attach(self, model: LanguageModel, example: Tensor) -> fa.Attachment:
        """Attach the rule to a model at the configured points.

        Args:
            model: The network.
            example: Tokens ``[N, T]``, from which rules that learn take the shapes of their feedback.

        Raises:
            PointsError: The rule cannot be attached to such a model.
        """
        points = "auto" if transports(self.rule) else model.points(self.points, self.embedding, self.last)
        rule = rule_for(self.rule, self.seed, self.feedback)
        return fa.attach(model, rule, points=points, output=model.tap(self.error), example=example)

    def build_optimiser(self, model: LanguageModel) -> torch.optim.Optimizer:
        """Return the optimiser, with a learning rate a block where they differ."""
        if self.block_rate == 1:
            return self.optimiser.build(model)
        blocks = self.model.blocks
        rates = {f"blocks.{number}": self.block_rate ** (blocks - 1 - number) for number in range(blocks)}
        return self.optimiser.build(model, {"embedding": self.block_rate**blocks, **rates})

    def build_order(self, chunks: int) -> Order:
        """Return which chunks, of so many, a step takes."""
        return Shuffled(chunks, self.batch, self.seed) if self.order == "shuffled" else Streams(chunks, self.batch)
