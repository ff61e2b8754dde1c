"""What a training step of a language model costs over the size of its vocabulary, by where the error is tapped.

Tapped at the logits the error is as wide as the vocabulary, and so is the feedback; tapped before them it is as wide as
the model. Backpropagation stands beside both.
"""

from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign.bench.cost import Step, flops, peak_memory
from feedalign.bench.methods import Trainee
from feedalign.bench.step import Precision
from feedalign.bench.timing import Progress, check_device, check_rounds, interleaved, summed_up
from feedalign.errors import nearest
from feedalign.experiments.models.transformer import LanguageModel, Placement, Tap, TransformerConfig
from feedalign.feedback import Feedback, Hadamard, Regenerated, Uniform

HEAD = 32
"""Width of a head of attention."""


class Way(NamedTuple):
    """A way to take a step by DFA."""

    placement: Placement
    error: Tap
    feedback: Feedback
    label: str


WAYS: dict[str, Way | None] = {
    "backprop": None,
    "macro-hidden": Way("macro", "hidden", Uniform(), "DFA macro, error before the vocabulary"),
    "micro-hidden": Way("micro", "hidden", Uniform(), "DFA micro, error before the vocabulary"),
    "macro-logits": Way("macro", "logits", Uniform(), "DFA macro, error at the logits"),
    "macro-regenerated": Way("macro", "logits", Regenerated(), "DFA macro, at the logits, regenerated"),
    "macro-hadamard": Way("macro", "logits", Hadamard(), "DFA macro, at the logits, Hadamard"),
    "micro-logits": Way("micro", "logits", Uniform(), "DFA micro, error at the logits"),
    "micro-hadamard": Way("micro", "logits", Hadamard(), "DFA micro, at the logits, Hadamard"),
}


@dataclass(frozen=True)
class VocabularyConfig:
    """What to measure.

    Attributes:
        vocabularies: Sizes ``V``.
        widths: Of the model, ``D``, multiples of 32; every one with every vocabulary. Blocks are 4 D wide inside.
        ways: Names of the ways to take a step.
        blocks: Of the model, post-LN.
        chunks: In a step.
        context: Tokens of a chunk.
        rounds: Timed rounds a size; each is one step in every way.
        warmup: Rounds before these, not counted.
        device: Where the step runs.
        precision: Of the forward pass: float32 (``"no"``) or autocast to bfloat16.
        seed: Of weights, tokens and feedback.
    """

    vocabularies: tuple[int, ...] = (4000, 32_000)
    widths: tuple[int, ...] = (128,)
    ways: tuple[str, ...] = tuple(WAYS)
    blocks: int = 2
    chunks: int = 16
    context: int = 128
    rounds: int = 5
    warmup: int = 1
    device: str = "cpu"
    precision: Precision = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        check_rounds(self.rounds, self.warmup)
        check_device(self.device)
        for name in self.ways:
            if name not in WAYS:
                raise ValueError(f"There is no way {name!r}.{nearest(name, WAYS)} They are: {', '.join(WAYS)}.")
        if "backprop" not in self.ways:
            raise ValueError(f"Expected backprop among the ways, since all are compared with it; found {self.ways}.")
        sizes = (*self.vocabularies, *self.widths, self.blocks, self.chunks, self.context)
        if not (self.vocabularies and self.widths) or min(sizes) < 1:
            raise ValueError(f"Expected at least one vocabulary and one width, all sizes positive; found {sizes}.")
        for width in self.widths:
            if width % HEAD:
                raise ValueError(f"Expected widths that are multiples of {HEAD}, found {width}.")


def measure(config: VocabularyConfig, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Return one entry per size and way: times, arithmetic, peak memory of a step, and what feedback keeps.

    Args:
        config: What to measure.
        progress: Called as ``progress(size, rounds done, rounds)``.
    """
    entries = []
    for vocabulary, width in product(config.vocabularies, config.widths):
        entries += _measure_size(vocabulary, width, config, progress)
    return entries


def _measure_size(
    vocabulary: int, width: int, config: VocabularyConfig, progress: Progress | None
) -> list[dict[str, Any]]:
    device, name = torch.device(config.device), f"{vocabulary:,} tokens, width {width}"
    torch.manual_seed(config.seed)
    sizes = TransformerConfig(width, config.blocks, width // HEAD, 4 * width, config.context, dropout=0.0)
    model = sizes.build(vocabulary).to(device)
    inputs, targets = (torch.randint(vocabulary, (config.chunks, config.context), device=device) for _ in range(2))
    trained = {
        way: attached(WAYS[way], Trainee(deepcopy(model), inputs, targets, nn.ReLU, config.seed, config.precision))
        for way in config.ways
    }
    steps = {way: step for way, (step, _) in trained.items()}
    seconds = interleaved(steps, name, config.rounds, config.warmup, device, progress)
    times = {way: summed_up(found) for way, found in seconds.items()}
    arithmetic = {way: flops(step) + _uncounted(handle, inputs.numel()) for way, (step, handle) in trained.items()}
    return [
        {
            "name": name,
            "vocabulary": vocabulary,
            "width": width,
            "rule": way,
            **times[way],
            "ratio_to_backprop": times["backprop"]["median_seconds"] / times[way]["median_seconds"],
            "flops": arithmetic[way],
            "arithmetic_limit": arithmetic["backprop"] / arithmetic[way],
            "peak_memory_bytes": peak_memory(step, device),
            "kept_bytes": 0 if handle is None else kept_bytes(handle, inputs.device),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        }
        for way, (step, handle) in trained.items()
    ]


def attached(way: Way | None, trainee: Trainee) -> tuple[Step, fa.Attachment | None]:
    """Return the whole training step of a language model, and the attachment that trains it, if there is one."""
    model = trainee.model
    assert isinstance(model, LanguageModel)
    if way is None:
        return trainee.plainly(model), None
    rule = fa.DFA(seed=trainee.seed, feedback=way.feedback)
    handle = fa.attach(model, rule, points=list(model.points(way.placement)), output=model.tap(way.error))
    return trainee.plainly(model), handle


def _uncounted(handle: fa.Attachment | None, tokens: int) -> int:
    """Return the operations of products that the counter cannot see: those with feedback that is regenerated."""
    planner = None if handle is None else handle.planner
    if planner is None or planner.error_width is None or not isinstance(planner.rule.feedback, Regenerated):
        return 0
    return 2 * tokens * planner.error_width * planner.widest().columns


def kept_bytes(handle: fa.Attachment, device: torch.device) -> int:
    """Return how many bytes of float32 the shared feedback of a rule that has run keeps from step to step."""
    planner = handle.planner
    assert planner is not None
    assert planner.error_width is not None
    parts = (("shared", planner.widest().columns, 1.0),)
    kept: tuple[Tensor, ...] = planner.rule.feedback.keep(
        planner.rule.seed, parts, planner.error_width, torch.float32, device
    )
    return sum(tensor.numel() * tensor.element_size() for tensor in kept)
