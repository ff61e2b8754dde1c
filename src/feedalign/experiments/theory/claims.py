"""What the theory says, and what was measured: claims with tolerances, held to the records."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from feedalign.experiments.tables import Interval, Table, interval
from feedalign.experiments.theory import convolution_tables as nets
from feedalign.experiments.theory.study import Written

Measured = Callable[[Written], Interval]


@dataclass(frozen=True)
class Claim:
    """A number that the theory fixes, or bounds.

    Attributes:
        study: Whose record holds it.
        says: In words.
        expected: What the theory says, in words or numbers.
        measured: Takes it from the record.
        low: The claim holds if the mean is at least this,
        high: and at most this.
        digits: Shown.
    """

    study: str
    says: str
    expected: str
    measured: Measured
    low: float = -math.inf
    high: float = math.inf
    digits: int = 2

    def holds(self, record: Written) -> bool:
        """Return whether the record bears it out."""
        return self.low <= self.measured(record).mean <= self.high

    def verdict(self, record: Written) -> str:
        """Return in a word or two whether the record bears it out, and whether chance could have done so."""
        found = self.measured(record)
        half = found.half_width or 0.0
        if self.low <= found.mean - half and found.mean + half <= self.high:
            return "yes"
        return "in the mean" if self.holds(record) else "no"


def claims_table(records: dict[str, Written]) -> Table:
    """Return all claims on these studies, with what was measured."""
    rows = []
    for claim in CLAIMS:
        if (record := records.get(claim.study)) is not None:
            found = claim.measured(record)
            text = f"{found.text(claim.digits)}" + (f" ({found.n})" if found.n > 1 else "")
            rows.append((claim.study, claim.says, claim.expected, text, claim.verdict(record)))
    return Table(
        title="What the theory says, and what was measured",
        headings=("study", "what", "expected", "measured", "holds"),
        rows=tuple(rows),
        notes=(
            "Mean ± half the 95 % interval (over how many: students, nets or draws). In the mean: part of the interval "
            "lies outside, so it may be chance.",
        ),
        text_columns=3,
    )


def _deviations(record: Written) -> Interval:
    """Return the largest deviation of simulated from integrated errors, in shares of the first, over cases."""
    found = [case[rule]["deviation"] for case in record["findings"]["cases"] for rule in ("backprop", "dfa")]
    return interval([max(students) for students in found])


def _slopes(record: Written) -> Interval:
    return interval(record["findings"]["slopes"])


def _moments(rule: str, what: str) -> Measured:
    def measured(record: Written) -> Interval:
        found = [one[what] for one in record["findings"]["integrated"][rule]["phases"]]
        return interval([float(value) for value in found if value is not None])

    return measured


def _earlier(record: Written) -> Interval:
    found = record["findings"]["integrated"]
    pairs = zip(found["backprop"]["phases"], found["dfa"]["phases"], strict=True)
    return interval([late["half_time"] / early["half_time"] for late, early in pairs])


def _ends(case: int, rule: str, what: str) -> Measured:
    def measured(record: Written) -> Interval:
        groups = record["findings"]["cases"][case][rule]
        shares = [[float(end[what]) for end in group if end["converged"]] for group in groups]
        return interval([sum(share) / len(share) for share in shares if share])

    return measured


def _trials(case: int, what: Callable[[dict[str, Any]], list[float]]) -> Measured:
    return lambda record: interval(what(record["findings"]["trials"][case]["dfa"]))


def _modes(record: Written) -> Interval:
    """Return how far weight alignment ended from that of the exact modes, by depth and layer."""
    found = []
    for case in record["findings"]["curves"]:
        ends = [rows[-1] for rows in case["orthonormal"]["weight_alignment"]]
        means = [sum(layer) / len(layer) for layer in zip(*ends, strict=True)]
        found += [abs(mean - exact) for mean, exact in zip(means, case["final_weight"], strict=True)]
    return interval(found)


def _onsets(record: Written) -> Interval:
    found = record["findings"]["onsets"]
    return interval([sum(one["measured"]) / len(one["measured"]) / one["predicted"] for one in found])


def _later(record: Written) -> Interval:
    """Return by how many epochs the highest hidden weights align later than the lowest, for every net."""
    pairs = [
        (halves[0], halves[-2])  # the last one is the readout, which learns by its true gradient
        for case in record["findings"]["cases"]
        for halves in case["dfa"]["half"]["weight_alignment"]
    ]
    return interval([high - low for low, high in pairs if low is not None and high is not None])


def _fall(record: Written) -> Interval:
    """Return what the weights' alignment loses from its peak on, in the first case, for every net that has a peak."""
    seeds = [seed["weight"] for seed in record["findings"]["cases"][0]["dfa"]["phases"]]
    return interval([seed["peak_alignment"] - seed["final_alignment"] for seed in seeds if seed["peak_alignment"]])


def _best_targets(what: Callable[[dict[str, Any]], list[float]]) -> Measured:
    """Take something from the best conditioned random targets, under ReLU."""
    return lambda record: interval(what(record["findings"]["relu"]["cells"][-1]))


def _delays(record: Written) -> Interval:
    """Return by how many epochs the most noisy labels delay alignment, seed by seed."""
    found = []
    for data in record["findings"]["data"]:
        pairs = zip(data["shares"][0]["aligned"], data["shares"][-1]["aligned"], strict=True)
        found += [noisy - clean for clean, noisy in pairs if clean is not None and noisy is not None]
    return interval(found)


def _forecast(record: Written) -> Interval:
    """Return the rank correlation within each family of small first weights."""
    return interval(record["findings"]["ranks"]["small"]["forecast, weight_final"]["within"])


def _gap(better: tuple[str, str], worse: tuple[str, str], what: str, task: str, activation: str = "tanh") -> Measured:
    """Return the difference between two (net, rule), seed by seed."""

    def value(run: dict[str, Any]) -> float:
        return sum(run[what]) / len(run[what]) if isinstance(run[what], list) else 100 * float(run[what])

    def measured(record: Written) -> Interval:
        first, second = (nets.chosen(record, (task, activation), *pair) for pair in (better, worse))
        return interval([value(a) - value(b) for a, b in zip(first, second, strict=True)])

    return measured


def _room(record: Written) -> Interval:
    """Return how far the weights of all nets stay below what their form allows."""
    pairs = [layer for run in record["findings"]["runs"] for layer in run["weights"]]
    return interval([min(layer["best"] - layer["cosine"] for layer in pairs)])


def _law(what: str, against: str, power: float = 1.0) -> Measured:
    """Return the best cosine of every shape over what the law says, the mean over draws."""

    def measured(record: Written) -> Interval:
        found = [(case, case["best"].get(what) or case.get(what)) for case in record["findings"]["shapes"]]
        return interval([sum(best) / len(best) / case[against] for case, best in found if best])

    return measured


CONVOLUTION, DENSE, LOCAL = "convolutional", "dense", "locally connected"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "ode", "largest deviation of simulated errors from the equations, over the first error", "below 0.05",
        _deviations, 0, 0.05, 3,
    ),
    Claim(
        "ode", "slope of the deviation over the number of inputs, both logarithmic", "-0.5", _slopes, -0.8, -0.2,
    ),
    Claim(
        "phases", "students under DFA whose second layer aligns before the error is at half of its start", "all",
        _moments("dfa", "aligned_first"), 0.999, 1,
    ),
    Claim(
        "phases", "how many times as early as under backprop the error is at half, from small weights", "about 5.5",
        _earlier, 4, 7, 1,
    ),
    Claim(
        "phases", "cosine of second layer and feedback in the end", "0.973",
        _moments("dfa", "final_alignment"), 0.968, 0.978, 4,
    ),
    Claim(
        "degeneracy", "signs of the second layer are those of the feedback: K = 2, small weights, DFA", "1",
        _ends(0, "dfa", "follows"), 0.999, 1,
    ),
    Claim(
        "degeneracy", "the same for backprop", "1/4, by chance", _ends(0, "backprop", "follows"), 0.1, 0.4,
    ),
    Claim(
        "degeneracy", "overlap with the feedback over its highest: K = 3, small weights, DFA", "0.93 to 1",
        _ends(2, "dfa", "overlap"), 0.93, 1, 3,
    ),
    Claim(
        "relu", "share of students with K = M = 2 that learn, DFA", "1/4",
        _trials(0, lambda found: [float(value) for value in found["success"]]), 0.21, 0.29,
    ),
    Claim(
        "linear", "distance of weight alignment in the end from that of the exact modes", "below 0.01",
        _modes, -0.01, 0.01, 4,
    ),
    Claim(
        "linear", "point at which layers emerge from their first weights, over the predicted one", "1 ± 0.05",
        _onsets, 0.95, 1.05,
    ),
    Claim(
        "deep", "epochs by which the highest hidden weights align later than the lowest", "above 0",
        _later, 0, digits=1,
    ),
    Claim(
        "deep", "what the alignment of all weights loses from its peak on (teacher, tanh)", "above 0",
        _fall, 0, digits=3,
    ),
    Claim(
        "targets", "highest alignment of all weights, ReLU, alpha = beta = 1", "0.235 ± 0.02",
        _best_targets(lambda cell: list(cell["peak"])), 0.215, 0.255, 3,
    ),
    Claim(
        "targets", "what it loses from there on", "above 0",
        _best_targets(lambda cell: [a - b for a, b in zip(cell["peak"], cell["weight_alignment"], strict=True)]), 0,
        digits=3,
    ),
    Claim(
        "noise", "epochs by which the noisiest labels delay alignment", "above 0", _delays, 0, digits=1,
    ),
    Claim(
        "forecast", "rank correlation over tasks of the forecast with the weight alignment, small first weights",
        "above 0", _forecast, 0,
    ),
    Claim(
        "convolutions", "alignment of a dense net less that of a locally connected one (motif, tanh)", "above 0",
        _gap((DENSE, "dfa"), (LOCAL, "dfa"), "alignment", "motif"), 0,
    ),
    Claim(
        "convolutions", "of a locally connected net less that of a convolutional one", "above 0",
        _gap((LOCAL, "dfa"), (CONVOLUTION, "dfa"), "alignment", "motif"), 0,
    ),
    Claim(
        "convolutions", "of a convolutional net with repeated feedback less that without", "above 0",
        _gap((CONVOLUTION, "dfa-repeat"), (CONVOLUTION, "dfa"), "alignment", "motif"), 0,
    ),
    Claim(
        "convolutions", "test accuracy (%) of backprop less that of DFA: dense (motif, tanh)", "above 0",
        _gap((DENSE, "backprop"), (DENSE, "dfa"), "test_accuracy", "motif"), 0, digits=1,
    ),
    Claim(
        "convolutions", "the same: convolutional", "more than dense",
        _gap((CONVOLUTION, "backprop"), (CONVOLUTION, "dfa"), "test_accuracy", "motif"), 5, digits=1,
    ),
    Claim(
        "convolutions", "what repeated feedback adds to the test accuracy (%) of DFA: convolutional", "above 0",
        _gap((CONVOLUTION, "dfa-repeat"), (CONVOLUTION, "dfa"), "test_accuracy", "motif"), 0, digits=1,
    ),
    Claim(
        "convolutions", "the same on CIFAR-10", "above 0",
        _gap((CONVOLUTION, "dfa-repeat"), (CONVOLUTION, "dfa"), "test_accuracy", "CIFAR-10"), 0, digits=1,
    ),
    Claim(
        "convolutions", "the least that any layer's weight alignment stays below what its form allows", "above 0",
        _room, 0, digits=3,
    ),
    Claim(
        "bound", "best cosine of a convolution over root of p / D, every shape", "1 ± 0.08",
        _law("independent", "law"), 0.92, 1.08, 3,
    ),
    Claim(
        "bound", "the same without sharing, over its own law", "1 ± 0.02",
        _law("locally_connected", "locality"), 0.98, 1.02, 3,
    ),
)  # fmt: skip
