"""The training loop of language models: what a step is, and how a text is foretold."""

from collections.abc import Iterator
from math import exp, inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from feedalign.experiments.data.texts import TextData
from feedalign.experiments.data.token_stream import TOKENIZER, TokenStream
from feedalign.experiments.files import write_atomically
from feedalign.experiments.lines import lean
from feedalign.experiments.lm.config import CHOSEN_BY, Config
from feedalign.experiments.models.transformer import LanguageModel
from feedalign.experiments.optimisation import OnPlateau
from feedalign.experiments.progress import Progress
from feedalign.experiments.training import Training

TRAIN_CHUNKS = 64
"""The training loss of a line is that of so many chunks, spread evenly over the text, the same ones every time."""
LARGEST = 700.0
"""Of what is raised to the power of e: above, a perplexity is infinite to a computer."""


def perplexity(loss: float) -> float:
    """Return e to the power of a mean loss in nats."""
    return exp(loss) if loss < LARGEST else inf


class Kept:
    """The weights of the best evaluation so far, as a part of a checkpoint."""

    def __init__(self) -> None:
        self.weights: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the weights."""
        return self.weights

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Put weights back."""
        self.weights = state_dict

    def take(self, model: torch.nn.Module) -> None:
        """Copy the weights of a model."""
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}


class LmTraining(Training[Config]):
    """A run on a text in chunks of tokens. The validation text decides; the test text is read once, at the end.

    Args:
        config: What is run.
        data: The text.
        directory: The folder of the run; the tokenizer is written there.
        progress: Who is told.
    """

    experiment = "lm"
    chosen_by = CHOSEN_BY
    reported = ("train_loss", "validation_loss", "validation_perplexity", "validation_word_perplexity", CHOSEN_BY)

    def __init__(self, config: Config, data: TextData, directory: Path, progress: Progress) -> None:
        super().__init__(config, directory, progress, config.precision)
        write_atomically(directory / TOKENIZER, data.encoding.encode())
        self.data, self.context = data, config.model.context
        chunks = data.train.chunks(self.context)
        self.chunks = config.build_order(chunks)
        self.sample = torch.linspace(0, chunks - 1, min(TRAIN_CHUNKS, chunks)).long()
        self.network: LanguageModel = config.model.build(data.vocabulary)
        # Counted first: feedback that is learned adds parameters which the network's output does not depend on.
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())
        self.handle = config.attach(self.network, data.train.batch(self.sample[:2], self.context)[0])
        optimiser = config.build_optimiser(self.network)
        self.model, self.optimiser = self.accelerator.prepare(self.network, optimiser)
        self.steps = config.every or max(1, chunks // config.batch)
        self.schedule = config.schedule.build(optimiser, config.epochs * self.steps, config.model.width)
        self.kept = Kept()

    def batches(self) -> Iterator[Tensor]:
        """Yield the loss of each step that is left of an epoch."""
        for step in range(self.epoch * self.steps + self.step, (self.epoch + 1) * self.steps):
            yield self.batch_loss(self.chunks(step))

    def batch_loss(self, chunks: Tensor) -> Tensor:
        """Return the loss of a batch of chunks: its value is that of all of them, its gradient that of the last part.

        The gradients of the parts before have been sent back already.
        """
        *first, last = torch.split(chunks, len(chunks) // self.config.accumulate)
        before = torch.zeros((), device=self.accelerator.device)
        for part in first:
            loss = self.part_loss(part)
            self.accelerator.backward(loss)
            before += loss.detach()
        return self.part_loss(last) + before

    def part_loss(self, chunks: Tensor) -> Tensor:
        """Return what a part of a batch adds to the mean loss of a step."""
        return self.loss(*self.data.train.batch(chunks, self.context)) / self.config.accumulate

    def loss(self, tokens: Tensor, following: Tensor) -> Tensor:
        """Return the mean cross-entropy, in nats, of the tokens ``[N, T]`` that follow."""
        device = self.accelerator.device
        following = following.to(device).flatten()
        if self.config.sends_targets:
            self.handle.targets = following
        scores: Tensor = self.model(tokens.to(device))
        return cross_entropy(scores.flatten(0, 1).float(), following)

    def backward(self, loss: Tensor) -> None:
        """Send the loss back, and clip all gradients together."""
        super().backward(loss)
        if self.config.optimiser.clip is not None:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.config.optimiser.clip)

    def evaluate(self) -> dict[str, Any]:
        """Return the loss of some of the training text, and how well all of the validation text is foretold."""
        trained = self.total([self.data.train.batch(part, self.context) for part in torch.split(self.sample, 16)])
        done = (self.epoch * self.steps + self.step) * self.config.batch * self.context
        return {
            "train_loss": trained / (len(self.sample) * self.context),
            **self.foretold("validation", self.data.validation),
            "tokens_per_second": done / self.seconds if self.seconds else 0.0,
        }

    def foretold(self, name: str, stream: TokenStream) -> dict[str, float]:
        """Return how well every token of a text is foretold from those before it in its chunk, each once.

        Args:
            name: What the figures are called after.
            stream: The text.

        Returns:
            ``loss`` in nats a token, ``perplexity`` a token, ``word_perplexity`` a word (the ends of lines are words
            too), and ``likelihood``: the geometric mean of the probabilities that the tokens were given.
        """
        total = self.total(stream.every_token(self.context, self.config.batch // self.config.accumulate))
        loss = total / (len(stream) - 1)
        figures = {
            "loss": loss,
            "perplexity": perplexity(loss),
            "word_perplexity": perplexity(total / stream.words),
            "likelihood": exp(-loss),
        }
        return {f"{name}_{what}": figure for what, figure in figures.items()}

    @torch.no_grad()
    def total(self, batches: Any) -> float:
        """Return the summed cross-entropy, in nats, of all tokens that follow, in evaluation mode."""
        self.network.eval()
        total = sum(self.loss(tokens, following).item() * following.numel() for tokens, following in batches)
        self.network.train()
        return float(total)

    def close_epoch(self) -> None:
        """Evaluate, tell a schedule that listens, and keep the weights if they are the best so far."""
        super().close_epoch()
        if self.best["epoch"] == self.epoch:
            self.kept.take(self.network)
        if self.epoch and isinstance(self.schedule, OnPlateau):
            self.schedule.observe(self.last["validation_loss"])

    def aligned(self) -> dict[str, dict[str, Any]] | None:
        """Return the alignment at every point on the first validation chunks.

        Dropout is off: behind a point it would zero a part of the true gradient at random, and no rule can know where.
        """
        chunks = min(self.config.alignment, self.data.validation.chunks(self.context))
        if not chunks:
            return None
        tokens, following = self.data.validation.batch(torch.arange(chunks), self.context)
        self.network.eval()
        found = self.measured(lambda: self.loss(tokens, following))
        self.network.train()
        return found

    def counts(self) -> dict[str, Any]:
        """Return how many tokens and words every part has."""
        return self.data.counts

    def written(self, line: dict[str, Any]) -> dict[str, Any]:
        """Return a line with the step, and with four digits a number: many runs are kept."""
        return {**lean(line), "step": line["step"], "learning_rate": line["learning_rate"]}

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds the state of: also the best weights."""
        return {**super().parts, "best": self.kept}

    def extras(self) -> dict[str, Any]:
        """Return the figures with those of the test text, for the last weights and the best ones, and the speed."""
        last = self.foretold("test", self.data.test)
        best = last
        if self.best["epoch"] != self.epoch:
            trained = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
            self.network.load_state_dict(self.kept.weights)
            best = self.foretold("test", self.data.test)
            self.network.load_state_dict(trained)
        speed = {"tokens_per_second": self.last["tokens_per_second"], "training_seconds": self.seconds}
        return {
            "final": {**self._figures(self.last), **last},
            "best": {**self._figures(self.best), **best},
            "speed": speed,
        }
