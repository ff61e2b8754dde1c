"""From what the last stage sends to the signals of a stage's points.

Letters: ``N`` rows of a micro-batch, ``C`` width of the error, ``D`` the most columns among the points of all stages.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from feedalign.errors import PointsError
from feedalign.feedback import Feedback, Kept, Parts, Projection, Site, kept
from feedalign.rules import DFA, Broadcast, BroadcastRule, Rule, SignDFA, TernaryDFA
from feedalign.targets import as_rows

Send = Literal["auto", "error", "product"]
Sent = Literal["error", "product", "nothing"]
"""What the last stage broadcasts: ``e [N, C]``, ``e B [N, D]``, or nothing where the rule sends targets."""
COLUMNS_OF_ONE_PRODUCT = (DFA, SignDFA, TernaryDFA)
"""The rules whose signals are columns of a single product, if the feedback is shared."""


def check_rule(rule: object) -> BroadcastRule:
    """Return the rule if a stage can follow it by itself.

    Raises:
        PointsError: It is a dict of rules, or a rule whose signals depend on more than the error and the stage.
        TypeError: It is no rule.
    """
    if isinstance(rule, Mapping):
        raise PointsError(
            "A stage expected one rule for all stages, found a dict of rules. Give every stage the same rule, such as "
            "feedalign.DFA(seed=0)."
        )
    if not isinstance(rule, Rule):
        raise TypeError(f"A stage expected a rule such as feedalign.DFA(seed=0), found {rule!r}.")
    name = type(rule).__name__
    if not isinstance(rule, BroadcastRule):
        raise PointsError(
            f"A stage expected a rule that broadcasts the error, such as DFA, found {name}, whose signals pass from "
            "layer to layer and would have to pass from stage to stage. For backpropagation use torch's own "
            "Schedule1F1B."
        )
    if rule.replays or rule.relays:
        raise PointsError(
            f"{name} pushes tangents forward through the whole model, and a stage holds a part of it. Choose DFA, "
            "SignDFA, TernaryDFA or DRTP, or train in one process."
        )
    if rule.learns:
        raise PointsError(
            f"{name} learns its feedback, which stages do not support yet. Choose DFA, SignDFA, TernaryDFA or DRTP, or "
            "train in one process."
        )
    return rule


def what_is_sent(send: Send, rule: BroadcastRule, width: int, columns: int) -> Sent:
    """Return what the last stage broadcasts.

    Args:
        send: What the user wants; ``"auto"`` is the narrower of error and product where both are possible.
        rule: The rule.
        width: ``C``
        columns: ``D``
    """
    if rule.targeted:
        return "nothing"
    if send != "auto":
        return send
    return "product" if may_send_product(rule) and 0 < columns < width else "error"


def may_send_product(rule: BroadcastRule) -> bool:
    """Return whether the signals of all points are columns of one product."""
    return type(rule) in COLUMNS_OF_ONE_PRODUCT and rule.feedback.shared


@dataclass(frozen=True)
class Agreement:
    """What all stages know of the whole model after its first forward pass."""

    rows: tuple[int, ...]
    """The leading dimensions of a micro-batch's error; their product is ``N``."""
    width: int
    """``C``"""
    dtype: torch.dtype
    """Of the error."""
    sites: tuple[Site, ...]
    """The points of all stages."""
    sent: Sent

    @property
    def widest(self) -> Site:
        """The most columns and the largest width among the points of all stages."""
        return Site(
            "",
            max((site.columns for site in self.sites), default=0),
            max((site.width for site in self.sites), default=0),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of what is broadcast for a micro-batch."""
        rows = 1
        for size in self.rows:
            rows *= size
        return rows, self.widest.columns if self.sent == "product" else self.width


@dataclass(frozen=True)
class _Arriving(Feedback):
    """Feedback whose product has been formed on the last stage: points take their columns of what arrives."""

    of: Feedback | None = None

    def draw(self, rows: int, columns: int, generator: torch.Generator) -> Tensor:
        """Draw nothing: the numbers are in what arrives."""
        raise NotImplementedError

    def factor(self, width: int, widest: int) -> float:
        """Return what the family that formed the product returns."""
        assert self.of is not None
        return self.of.factor(width, widest)

    def product(self, error: Tensor, parts: Parts, kept: Kept) -> Tensor:
        """Return what arrived."""
        return error


@dataclass
class Link:
    """Turns what arrives at a stage into the signals of its points, as one process would do it for the whole model.

    Args:
        rule: The user's rule.
    """

    rule: BroadcastRule
    agreed: Agreement | None = None
    arrived: Tensor | None = None
    """What the last stage sent for the micro-batch whose backward pass runs now."""
    targets: object = None
    """Of the micro-batch whose backward pass runs now, for rules that send targets."""
    _matrices: dict[object, Kept] = field(default_factory=dict)
    _projections: dict[tuple[Site, ...], Projection] = field(default_factory=dict)

    def agree(self, agreed: Agreement) -> None:
        """Take over what the stages have agreed on."""
        self.agreed = agreed
        self._matrices.clear()
        self._projections.clear()

    def outgoing(self, error: Tensor) -> Tensor:
        """Return what the last stage broadcasts for an error ``[N, C]``: itself, or its product ``[N, D]``."""
        assert self.agreed is not None
        if self.agreed.sent != "product":
            return error
        feedback, columns = self.rule.feedback, self.agreed.widest.columns
        parts: Parts = (("shared", columns, feedback.factor(columns, columns)),)
        numbers = self._keep(error)(parts)
        (product,) = self.rule.signals(Broadcast(error, lambda rows: [feedback.product(rows, parts, numbers)], []))
        return product

    def signals(self, sent: Broadcast) -> Sequence[Tensor]:
        """Return one signal per point of this stage."""
        assert self.agreed is not None
        sites = tuple(layout.site for layout in sent.layouts)
        if self.agreed.sent == "nothing":
            rows, width = self.agreed.shape
            like = torch.zeros((), dtype=self.agreed.dtype, device=sent.error.device).expand(rows, width)
            targets = as_rows(self.targets, like)
            return self.rule.signals(replace(sent, error=like, project=self._projection(sites, like), targets=targets))
        assert self.arrived is not None
        project = self._projection(sites, self.arrived)
        if self.agreed.sent == "product":
            return project(self.arrived)
        return self.rule.signals(replace(sent, error=self.arrived, project=project))

    def _projection(self, sites: tuple[Site, ...], like: Tensor) -> Projection:
        assert self.agreed is not None
        if sites not in self._projections:
            feedback, keep = self.rule.feedback, self._keep(like)
            if self.agreed.sent == "product":
                feedback, keep = _Arriving(shared=True, of=feedback), lambda parts: ()
            self._projections[sites] = feedback.projection(sites, self.agreed.widest, keep)
        return self._projections[sites]

    def _keep(self, like: Tensor) -> Callable[[Parts], Kept]:
        assert self.agreed is not None
        width, dtype, device = self.agreed.width, like.dtype, like.device

        def keep(parts: Parts) -> Kept:
            key = (parts, dtype, device)
            if key not in self._matrices:
                self._matrices[key] = kept(self.rule.feedback, self.rule.seed, parts, width, dtype, device)
            return self._matrices[key]

        return keep


@dataclass(frozen=True, repr=False)
class Linked(BroadcastRule):
    """The user's rule on a stage, with a link in place of the error that one process would see."""

    relays: ClassVar[bool] = False

    link: Link | None = None

    def __repr__(self) -> str:
        return repr(self.link.rule) if self.link is not None else "Linked()"

    def signals(self, sent: Broadcast) -> Sequence[Tensor]:
        """Return the signals of the points of this stage."""
        assert self.link is not None
        return self.link.signals(sent)
