"""Schedules side by side: which one is chosen, and what is said of it."""

from pathlib import Path

import pytest

from feedalign.bench.planning import Question, advice, best, compare, plan_table, size, timeline
from feedalign.pipelining.simulator import Plan, simulate

VOCABULARY = Plan(16, 16, backward=1.75, activation=2**26, error=2**34, bandwidth=2**32, latency=1e-5)


def test_the_shortest_period_wins_and_the_least_held_among_equals() -> None:
    candidates = compare(Question(Plan(8, 16)))
    chosen = best(candidates)
    assert chosen is not None
    assert (chosen.name, chosen.ahead, max(chosen.found.held)) == ("dfa", "flat", 8)
    assert "Best: DFA, flat, error by chain, a period of 32 s, 2.16 times as fast as 1F1B" in advice(
        Question(Plan(8, 16)), candidates
    )


def test_memory_decides() -> None:
    question = Question(Plan(8, 16), kept=2.0, memory=16.0, aheads=(0, "flat", "all"))
    candidates = compare(question)
    assert {(each.label, each.fits) for each in candidates} >= {
        ("GPipe, backprop", False),
        ("DFA, all, error by chain", False),
        ("DFA, flat, error by chain", True),
        ("DRTP", True),
    }
    table = plan_table(question, candidates)
    held = {row[0]: row[5] for row in table.rows}
    assert held["GPipe, backprop"] == "16 (32 B, too much)"
    assert held["DFA, flat, error by chain"] == "8 (16 B)"
    small = Question(Plan(8, 16), kept=2.0, memory=3.0)
    assert best(compare(small)) is None
    assert advice(small, compare(small)).startswith(
        "No schedule fits into 3 B: every one of them holds 8 micro-batches"
    )


def test_the_error_of_a_vocabulary_is_not_sent_by_tree() -> None:
    question = Question(VOCABULARY, product=2.0**26, aheads=("flat", "all"))
    candidates = compare(question)
    chosen = best(candidates)
    assert chosen is not None
    assert chosen.sent == "product"
    said = advice(question, candidates)
    assert "DFA, all, error by tree would be slower than backpropagation by 1F1B" in said
    assert "it waits for the last stage's sending of errors: " in said
    by = {each.label: each.found.period for each in candidates}
    assert by["DFA, all, product by chain"] < by["1F1B, backprop"] < by["DFA, all, error by tree"]


def test_a_norm_of_all_gradients_counts() -> None:
    free, stopped = (compare(Question(Plan(8, 8), barrier=barrier)) for barrier in (False, True))
    periods = [{each.label: each.found.period for each in found} for found in (free, stopped)]
    assert [found["DFA, flat, error by chain"] for found in periods] == [16, 23]
    assert "with one norm of all gradients in each" in plan_table(Question(Plan(8, 8), barrier=True), stopped).notes[0]


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (1023, "1023 B"), (2**26, "64 MiB"), (1.5 * 2**40, "1.5 TiB")]
)
def test_sizes(number: float, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize("stages", [2, 100])
def test_the_picture_has_a_row_per_process(stages: int, tmp_path: Path) -> None:
    spans = simulate(Plan(stages, 3), steps=2, spans=True, ahead="all").spans
    axes = timeline(spans, "Two steps").axes[0]
    assert axes.get_title() == "Two steps"
    assert [text.get_text() for text in axes.get_yticklabels()] == [str(s) for s in range(0, stages, 1 + (stages > 64))]
    numbers = [text.get_text() for text in axes.texts]
    assert numbers.count("0") == (8 if stages == 2 else 0)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["forward", "backward"]
