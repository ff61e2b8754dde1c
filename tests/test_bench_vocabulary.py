"""The cost of a vocabulary: what is timed trains as it says, what is kept is counted, and the table compares both."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import feedalign as fa
from feedalign.bench.methods import Trainee
from feedalign.bench.plots import PICTURES
from feedalign.bench.record import run
from feedalign.bench.tables import bench_tables
from feedalign.bench.vocabulary import WAYS, VocabularyConfig, attached, kept_bytes
from feedalign.experiments.models.transformer import TransformerConfig

VOCABULARY, WIDTH = 600, 32
MODEL = TransformerConfig(WIDTH, 2, 1, 4 * WIDTH, 8, dropout=0.0)


def trainee() -> Trainee:
    torch.manual_seed(0)
    model, tokens = MODEL.build(VOCABULARY), torch.randint(VOCABULARY, (3, 8))
    return Trainee(model, tokens, tokens.roll(1, 1), nn.ReLU, seed=3)


@pytest.mark.parametrize("name", WAYS)
def test_a_step_is_the_one_its_name_says(name: str) -> None:
    trained, way = trainee(), WAYS[name]
    plain = deepcopy(trained.model)
    step, handle = attached(way, trained)
    step()
    if way is not None:
        assert handle is not None
        assert handle.planner is not None
        assert handle.planner.error_width == (VOCABULARY if way.error == "logits" else WIDTH)
        assert len(handle.points) == (2 if way.placement == "macro" else 6)
        rule = fa.DFA(seed=3, feedback=way.feedback)
        fa.attach(plain, rule, points=plain.points(way.placement), output=plain.tap(way.error))
    cross_entropy(plain(trained.inputs).flatten(0, 1), trained.targets.flatten()).backward()
    for parameter, expected in zip(trained.model.parameters(), plain.parameters(), strict=True):
        found = trained.optimizer.state[parameter]["momentum_buffer"]
        torch.testing.assert_close(found, expected.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("macro-hidden", 4 * WIDTH * WIDTH),
        ("macro-logits", 4 * VOCABULARY * WIDTH),
        ("micro-logits", 4 * VOCABULARY * 4 * WIDTH),  # one matrix, as wide as the widest point
        ("macro-hadamard", 4 * (32 * 32 + VOCABULARY + 1024)),  # a small matrix, and two vectors of signs
    ],
)
def test_what_feedback_keeps_is_counted(name: str, expected: int) -> None:
    step, handle = attached(WAYS[name], trainee())
    step()
    assert handle is not None
    assert kept_bytes(handle, torch.device("cpu")) == expected


def test_regenerated_feedback_keeps_seeds_alone() -> None:
    step, handle = attached(WAYS["macro-regenerated"], trainee())
    step()
    assert handle is not None
    assert kept_bytes(handle, torch.device("cpu")) < 100


def test_the_record_holds_what_was_measured(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    config = VocabularyConfig((50, VOCABULARY), (WIDTH,), blocks=2, chunks=4, context=8, rounds=2)
    record = run(config, tmp_path, lambda *state: told.append(state))
    assert told[-1] == ("600 tokens, width 32", 2, 2)
    assert [case["rule"] for case in record["cases"]] == [*WAYS, *WAYS]
    cases = {case["rule"]: case for case in record["cases"] if case["vocabulary"] == VOCABULARY}
    base, tokens = cases["backprop"], 4 * 8
    assert base["ratio_to_backprop"] == base["arithmetic_limit"] == 1
    # Three products with the vocabulary in backprop, and in macro DFA, whose third one is with its feedback.
    assert base["flops"] > 3 * 2 * tokens * VOCABULARY * WIDTH
    assert cases["macro-hidden"]["flops"] <= base["flops"]
    assert cases["macro-logits"]["flops"] <= base["flops"]
    assert cases["macro-regenerated"]["flops"] == cases["macro-logits"]["flops"]
    wider, spared = VOCABULARY * 4 * WIDTH, VOCABULARY * WIDTH + WIDTH * 4 * WIDTH
    assert cases["micro-logits"]["flops"] - cases["micro-hidden"]["flops"] == 2 * tokens * (wider - spared)
    for way in ("macro-hidden", "macro-logits", "macro-regenerated"):
        # The widest moment is inside the loss, alike for all; a signal or two may lie beside it.
        assert cases[way]["peak_memory_bytes"] <= base["peak_memory_bytes"] + 2 * 4 * tokens * WIDTH
    (table,) = bench_tables(record)
    assert table.rows[0][:2] == ("50 tokens, width 32", "backprop")
    assert table.rows[len(WAYS) + 3][1] == "DFA macro, error at the logits"
    assert table.rows[len(WAYS) + 3][4] == f"{1 / cases['macro-logits']['ratio_to_backprop']:.2f}"
    whole = cases["macro-logits"]["peak_memory_bytes"] + 4 * VOCABULARY * WIDTH
    assert table.rows[len(WAYS) + 3][8] == f"{whole / base['peak_memory_bytes']:.2f}"
    assert "2 blocks, 4 x 8 tokens, 2 rounds, interleaved" in table.notes[0]
    assert len(PICTURES["bench-vocabulary"][0](record, False).axes[0].patches) == 2 * (len(WAYS) - 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": ("backprop", "macro-logit")}, r"There is no way 'macro-logit'. Did you mean 'macro-logits'\?"),
        ({"ways": ("macro-logits",)}, "Expected backprop among the ways, since all are compared with it"),
        ({"vocabularies": ()}, "Expected at least one vocabulary and one width, all sizes positive"),
        ({"widths": (100,)}, "Expected widths that are multiples of 32, found 100"),
        ({"rounds": 1}, "rounds must be at least 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VocabularyConfig(**options)
