"""Health audit: a rule against backpropagation and shallow training, on the user's own batch or in a short run."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from feedalign.advice import Untried
from feedalign.assignment import Rules
from feedalign.attach import Attachment
from feedalign.audit_batch import measure
from feedalign.audit_depth import Batch, Depth
from feedalign.audit_trials import FEWEST, Optimizer, Trials, compare
from feedalign.audit_words import findings
from feedalign.checks import check_closure
from feedalign.errors import SignalError
from feedalign.summary import table

Closure = Callable[[], Tensor]


@dataclass(frozen=True)
class Audit:
    """What :func:`audit` found; ``print`` it for the table, the losses and the findings."""

    title: str
    kind: str
    """What the depths are called: ``"points"``, ``"layers"``, or ``"places"`` for both."""
    batch: Batch
    """The batch in the state that the model is in; ``batch.depths`` are its points or layers, the lowest first."""
    after: Batch | None
    """The same after the rule's own training; None without ``steps``, or if it diverged."""
    trials: Trials | None
    """The losses of the trainings; None without ``steps``."""
    findings: tuple[str, ...]
    """What is wrong, or that nothing is, in plain words."""

    def __repr__(self) -> str:
        parts = [self.title, self._depths(), self._growth()]
        if self.trials is not None:
            parts.append(repr(self.trials))
        return "\n".join([*parts, *(f"- {finding}" for finding in self.findings)])

    def _depths(self) -> str:
        head = ["", self.kind.removesuffix("s"), "alignment", "std", "step", "activation", "signal", "true gradient"]
        rows = [(*head, "ratio", "dead", *(["step after"] if self.after else []))]
        later = {depth.name: depth.descent for depth in self.after.depths} if self.after else {}
        for number, depth in enumerate(self.batch.depths, start=1):
            rows.append((str(number), depth.name, *_cells(depth)))
            if self.after:
                rows[-1] = (*rows[-1], _signed(later[depth.name]))
        return table(rows)

    def _growth(self) -> str:
        between = max(1, sum(depth.units > 0 for depth in self.batch.depths) - 1)
        sizes = (("activation of a unit upwards", "activation", 1), ("signal downwards", "signal", -1),
                 ("true gradient downwards", "truth", -1))  # fmt: skip
        factors = {name: self.batch.growth(what) ** (way / between) for name, what, way in sizes}
        known = ", ".join(f"{name} {factor:.2g}" for name, factor in factors.items() if not math.isnan(factor))
        lines = f"factor from one to the next: {known}\n" if known else ""
        return f"{lines}step of the whole model: cosine {self.batch.descent:+.2f} with backpropagation's"


def audit(
    handle: Attachment, closure: Closure | Sequence[Closure], steps: int = 0, optimizer: Optimizer | None = None
) -> Audit:
    """Say whether a rule trains what it should, where it does not, and what to try.

    Without ``steps`` one batch is looked at: at every point, whether the signal and the step that it causes point
    along backpropagation's, how large it is, how sizes grow over depth, who receives nothing, which units are dead.

    With ``steps`` the model is also trained, from the same state on the same batches, by the rule, by
    backpropagation, and shallow; and where the rule beats shallow training, by the rule with nothing delivered to its
    lowest ``k`` points, for the few ``k`` that halving tries. So "points 1-3 learn nothing" is measured: without
    their signals the loss is the same. That costs ``3 + log2(points)`` trainings.

    Afterwards parameters, buffers, gradients, random state, learned feedback and the attachment are what they were.

    Args:
        handle: The attachment of a rule.
        closure: Runs the model once and returns the loss: ``lambda: loss_fn(model(x), y)``. A list of such, one a
            batch, is gone through again and again; each must hold its batch fast, so that all trainings see the same:
            ``[lambda x=x, y=y: loss_fn(model(x), y) for x, y in batches]``. The first one is the batch that is looked
            at. (For DRTP, set ``handle.targets`` in it.)
        steps: Steps of each training; 0 for none, or at least 8. The losses of the last quarter are compared.
        optimizer: Makes a new optimiser for each training: ``lambda parameters: torch.optim.SGD(parameters, 0.1)``.

    Returns:
        The table and the findings. A difference of losses counts if it is larger than the noise, see
        ``Trials.worse``; one run on few batches is no substitute for several seeds.

    Raises:
        SignalError: The rule delivers nothing, the attachment is off, the closure is no such loss, or the trainings
            would not see the same batches.

    References:
        Launay et al. 2020 (the shallow baseline); Refinetti et al. 2021 (alignment by depth).
    """
    closures = list(closure) if isinstance(closure, Sequence) else [closure]
    _check(handle, closures, steps, optimizer)
    batch, trials, after = measure(handle, closures[0]), None, None
    if steps and optimizer is not None:
        trials, after = compare(handle, closures, steps, optimizer, batch)
    kind = "layers" if not handle.points else "points" if not handle.carriers else "places"
    title = f"Audit of {_names(handle.rule)} on {type(handle.model).__name__}, {batch.rows} rows"
    return Audit(title, kind, batch, after, trials, findings(batch, after, trials, kind, Untried.on(handle)))


def _names(rules: Rules) -> str:
    if isinstance(rules, Mapping):
        return ", ".join(f"{where}: {type(rule).__name__}" for where, rule in rules.items())
    return type(rules).__name__


def _check(handle: Attachment, closures: list[Closure], steps: int, optimizer: Optimizer | None) -> None:
    if not handle.planners and not handle.carriers:
        raise SignalError(
            f"audit expected a rule that delivers signals, such as DFA, and found {handle.rule!r}: there is nothing to "
            "audit. Backpropagation and shallow training are what a rule is compared with."
        )
    if not handle._on:
        raise SignalError("The attachment is off or removed, so no signals are delivered. Audit while it is on.")
    if not closures:
        raise SignalError("audit expected at least one closure, found an empty list. Give one a batch.")
    for closure in closures:
        check_closure("audit", closure, ", or a list of such")
    if steps and steps < FEWEST:
        raise SignalError(f"steps expected 0 or at least {FEWEST} (the last quarter is compared), found {steps}.")
    if steps and (optimizer is None or isinstance(optimizer, torch.optim.Optimizer)):
        raise SignalError(
            f"audit with steps={steps} expected a function that makes an optimiser for each training, found "
            f"{type(optimizer).__name__}. Write optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1)."
        )


def _cells(depth: Depth) -> tuple[str, ...]:
    if depth.nothing and not depth.units:
        return ("nothing:", "", "", "", "", "", "", "")
    cosine = depth.alignment
    numbers = (_signed(cosine.mean), f"{cosine.std:.2f}") if cosine else ("", "")
    sizes = [f"{size:.3g}" for size in (depth.activation, depth.signal, depth.truth, depth.ratio)]
    return (*numbers, _signed(depth.descent), *sizes, "" if math.isnan(depth.dead) else f"{depth.dead:.0%}")


def _signed(cosine: float) -> str:
    return "" if math.isnan(cosine) else f"{cosine:+.2f}"
