"""What a reproduction on click logs is asked for, and where it holds."""

from feedalign.experiments.ctr.cells import ALONE, Cells
from feedalign.experiments.ctr.presets import MODELS, PLANTED, REAL, cell
from feedalign.experiments.tables import Asked, Interval, Table, asked_table

CLOSE, SHARE = 0.005, 0.9
"""AUC, and the share of backpropagation's gain over the factorisation machine."""
HIDDEN = tuple(kind for kind in MODELS if kind != ALONE)
Place = tuple[str, str]
"""A log and a network."""


def demands_table(cells: Cells) -> Table:
    """Return how much of what is asked holds by the means over seeds under tuned settings, a row a demand."""
    compared = [(data, kind) for data in REAL for kind in ("deepfm", "afn")]
    real = [(data, kind) for data in REAL for kind in HIDDEN]
    planted = [(PLANTED, kind) for kind in HIDDEN]
    asked: list[Asked[Cells]] = [
        (f"DeepFM and AFN: DFA within {CLOSE} of backprop's AUC, or above", close, compared),
        ("DFA above the factorisation machine", above, real),
        ("backprop itself above the factorisation machine", above_by_backprop, real),
        ("shallow Deep & Cross lowest of all on its log", lowest, [(data, "dcn") for data in REAL]),
        (f"planted: DFA recovers {SHARE:.0%} of backprop's gain over FM, or more", recovers, planted),
    ]
    return asked_table("What is asked, by the means over seeds under tuned settings", asked, cells, cell)


def recovered(backprop: Interval | None, dfa: Interval | None) -> float | None:
    """Return DFA's mean gain as a share of backpropagation's; None where that is not shown to gain anything."""
    if backprop is None or dfa is None or backprop.mean <= (backprop.half_width or 0.0):
        return None
    return dfa.mean / backprop.mean


def close(cells: Cells, data: str, kind: str) -> bool | None:
    """Return whether DFA comes close to backpropagation's AUC, or exceeds it."""
    gap = cells.difference((cell(data, kind), "dfa"), (cell(data, kind), "bp"), "test_auc")
    return None if gap is None else gap.mean >= -CLOSE


def above(cells: Cells, data: str, kind: str, rule: str = "dfa") -> bool | None:
    """Return whether a network exceeds the factorisation machine's AUC under a rule."""
    gap = cells.difference((cell(data, kind), rule), (cell(data, ALONE), "bp"), "test_auc")
    return None if gap is None else gap.mean > 0


def above_by_backprop(cells: Cells, data: str, kind: str) -> bool | None:
    """Return whether a network exceeds the factorisation machine's AUC under backpropagation."""
    return above(cells, data, kind, "bp")


def lowest(cells: Cells, data: str, kind: str) -> bool | None:
    """Return whether shallow training of a network gives the lowest AUC of all networks and rules on a log."""
    floor = cells.figure(cell(data, kind), "shallow", "test_auc")
    rivals = [
        figure.mean
        for other in MODELS
        for rule in ("bp", "dfa", "shallow")
        if (other, rule) != (kind, "shallow") and (figure := cells.figure(cell(data, other), rule, "test_auc"))
    ]
    return None if floor is None or not rivals else floor.mean < min(rivals)


def recovers(cells: Cells, data: str, kind: str) -> bool | None:
    """Return whether DFA recovers enough of what backpropagation gains over the factorisation machine."""
    alone, name = (cell(data, ALONE), "bp"), cell(data, kind)
    gains = [cells.difference((name, rule), alone, "test_auc") for rule in ("bp", "dfa")]
    share = recovered(*gains)
    return None if share is None else share >= SHARE
