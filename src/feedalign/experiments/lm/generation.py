"""Text sampled from a trained language model, from the folder of its run."""

from collections.abc import Iterator
from dataclasses import fields
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from feedalign.experiments import checkpoint
from feedalign.experiments.data import bpe
from feedalign.experiments.data.token_stream import TOKENIZER
from feedalign.experiments.errors import CheckpointError, ExperimentError
from feedalign.experiments.models.transformer import LanguageModel, TransformerConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TABLE = "embedding.tokens.weight"


class Restored(NamedTuple):
    """A trained model.

    Attributes:
        model: In evaluation mode, with the weights of the best evaluation.
        tokenizer: What it was trained with.
    """

    model: LanguageModel
    tokenizer: "Tokenizer"


def restored(folder: Path) -> Restored:
    """Return what was trained in the folder of a run that kept its checkpoint.

    Raises:
        CheckpointError: There is no checkpoint, or it is damaged or not one of a language model.
        DataError: There is no tokenizer beside it, or one of another vocabulary.
    """
    file = folder / checkpoint.CHECKPOINT
    if not file.exists():
        raise CheckpointError(
            f"Expected the weights of a run at {file}, found no such file. Train with --keep, which keeps them: "
            "`feedalign train lm --keep`."
        )
    found = checkpoint.read(file)
    weights = found["parts"].get("best") or found["parts"]["model"]
    if TABLE not in weights:
        raise CheckpointError(
            f"Expected the weights of a language model in {file}, found none. Name a folder of `feedalign train lm`."
        )
    names = {field.name for field in fields(TransformerConfig)}
    config = TransformerConfig(**{name: value for name, value in found["config"]["model"].items() if name in names})
    vocabulary = len(weights[TABLE])
    model = config.build(vocabulary)
    # Learned feedback lies among the weights, and is not needed to run the model.
    own = {name: weights[name] for name in model.state_dict() if name in weights}
    try:
        model.load_state_dict(own)
    except RuntimeError as error:
        raise CheckpointError(f"The weights in {file} do not fit the model of its configuration: {error}") from error
    return Restored(model.eval(), bpe.read(folder / TOKENIZER, vocabulary))


def generate(
    trained: Restored,
    prompt: str,
    *,
    tokens: int = 100,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> str:
    """Return the prompt, and what the model goes on with.

    Args:
        trained: The model and its tokenizer.
        prompt: What to go on from; a line feed ends a line. It stands at the beginning of a line itself.
        tokens: How many to sample.
        temperature: Above 1 makes rare tokens likelier, below 1 rarer; 0 always takes the likeliest.
        top_k: Sample among so many likeliest tokens only.
        seed: Decides what is sampled.

    Raises:
        ExperimentError: A number is out of its range.
    """
    if tokens < 0 or temperature < 0 or not isfinite(temperature) or (top_k is not None and top_k < 1):
        raise ExperimentError(
            "Expected at least 0 tokens, a temperature of at least 0 and top-k of at least 1, found "
            f"{tokens}, {temperature} and {top_k}."
        )
    end = bpe.end_of(trained.tokenizer)
    read = [end]  # a text begins where a line has ended
    for number, line in enumerate(prompt.split("\n")):
        read += [*([end] if number else []), *trained.tokenizer.encode(line).ids]
    generator = torch.Generator().manual_seed(seed)
    sampled = list(_sampled(trained.model, read, tokens, temperature, top_k, generator))
    return prompt + bpe.decode(trained.tokenizer, sampled)


@torch.no_grad()
def _sampled(
    model: LanguageModel, read: list[int], tokens: int, temperature: float, top_k: int | None, generator: Any
) -> Iterator[int]:
    for _ in range(tokens):
        seen = torch.tensor(read[-model.config.context :])[None]
        token = _choice(model(seen)[0, -1], temperature, top_k, generator)
        read.append(token)
        yield token


def _choice(scores: Tensor, temperature: float, top_k: int | None, generator: Any) -> int:
    if top_k is not None and top_k < len(scores):
        # The likeliest ones by rank: with ties, no more than so many.
        kept = torch.topk(scores, top_k).indices
        scores = torch.full_like(scores, -torch.inf).scatter(0, kept, scores[kept])
    if temperature == 0:
        return int(scores.argmax())
    scores = scores - scores.max()  # so that none overflows at a low temperature
    return int(torch.multinomial(torch.softmax(scores / temperature, 0), 1, generator=generator))
