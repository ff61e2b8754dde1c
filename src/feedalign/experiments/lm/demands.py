"""What is asked of the small model on WikiText-2, and whether it is met."""

from dataclasses import dataclass
from itertools import pairwise

from feedalign.experiments.lm.presets import TUNED
from feedalign.experiments.lm.rows import OPENED, WHERE, Family, figure
from feedalign.experiments.tables import Table

LARGEST = {("macro", "hidden"): 1.35, ("macro", "logits"): 1.5, ("micro", "hidden"): 2.0}
"""Perplexity over that of backpropagation, by placement and tap."""
ORDER = ("bp", "macro", "micro", "shallow")
GAP = 1.05
"""A row is clearly behind another where its perplexity is so many times as large."""


@dataclass(frozen=True)
class Demand:
    """One thing that is asked, what was found, and whether that meets it; ``None`` where a run is missing."""

    asked: str
    found: str
    met: bool | None


def demands_table(name: str, rows: Family) -> Table:
    """Return what is asked of the small model on WikiText-2, a row a demand, by the mean test perplexities.

    The same is asked again of runs whose last block is open, where there are some. Of tuned settings it is asked once:
    whether that block is open was chosen with them.

    Args:
        name: The preset.
        rows: Its runs.
    """
    kinds: tuple[tuple[str, ...], ...] = ((OPENED,),) if any(row.more == OPENED for row in rows) else ()
    kinds = (("", OPENED),) if name.endswith(TUNED) else (("",), *kinds)
    demands = [one for kind in kinds for one in _demands(_means(rows, kind), kind[0])]
    words = {True: "yes", False: "no", None: "not run"}
    return Table(
        title=f"{name}: what is asked, by the mean test perplexities over seeds",
        headings=("what", "found", "met"),
        rows=tuple((demand.asked, demand.found, words[demand.met]) for demand in demands),
        text_columns=2,
    )


Means = dict[tuple[str, str], float]


def _means(rows: Family, kinds: tuple[str, ...]) -> Means:
    """Return the mean test perplexity by placement (or rule, where there is none) and tap."""
    asked = [row for row in rows if row.rule == "bp" or (row.rule in ("dfa", "shallow") and row.more in kinds)]
    return {(row.points or row.rule, row.error): figure(rows[row], "test_perplexity").mean for row in asked}


def _demands(means: Means, more: str) -> list[Demand]:
    ending = f", {more}" if more else ""
    return [_order(means, ending), *(_ratio(means, *where, ending) for where in LARGEST)]


def _order(means: Means, ending: str) -> Demand:
    # Before the vocabulary where that was run; tuning may have chosen the logits.
    found = [next((means[name, tap] for tap in ("", *WHERE) if (name, tap) in means), None) for name in ORDER]
    asked = f"{' < '.join(ORDER)}, each at least {100 * (GAP - 1):.0f} % apart{ending}"
    there = [one for one in found if one is not None]
    if len(there) < len(ORDER):
        return Demand(asked, "-", None)
    met = all(below * GAP <= above for below, above in pairwise(there))
    return Demand(asked, ", ".join(f"{one:.1f}" for one in there), met)


def _ratio(means: Means, points: str, error: str, ending: str) -> Demand:
    largest, ours, baseline = LARGEST[points, error], means.get((points, error)), means.get(("bp", ""))
    asked = f"{points}, {WHERE[error]}, over backprop: at most {largest:g}{ending}"
    if ours is None or baseline is None:
        return Demand(asked, "-", None)
    return Demand(asked, f"{ours / baseline:.2f}", ours / baseline <= largest)
