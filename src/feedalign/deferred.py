"""Signals that are collected where they are needed: a device projects while the backward pass goes on.

Autograd runs the nodes that are ready by age, the youngest first. A :func:`carry` that is made when a point runs is
older than everything above the point. So a splice need only *begin* the projection: the backward pass of what lies
above the last point runs next, and the last point's carry, which waits for the answer, comes after it.

    forward    h_i leaves its block and goes into the splice by way of  carry(h_i)
    backward   splice begins the projection and hands every carry a placeholder, which takes no memory
               ... the backward pass of everything above the last point ...
               carry waits for the answer and hands on its signal in the placeholder's place
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from feedalign.watch import in_transform

if TYPE_CHECKING:
    from feedalign.delivery import Delivery
    from feedalign.rules import Broadcast, BroadcastRule

Collect = Callable[[], Tensor]
Key = tuple[int, int]
"""The numbers of a planner and an output."""


@dataclass
class Mail:
    """The signals of one forward pass's points that have been begun and not collected."""

    waiting: dict[int, dict[Key, Collect]] = field(default_factory=lambda: defaultdict(dict))
    """By the number of the point's tensor. What nobody came for gives way to the next backward pass of its output."""
    begun: dict[Key, Tensor] = field(default_factory=dict)
    """What was sent before there was an error, by planner and output."""
    carried: int = 0
    """How many tensors went by way of :func:`carry`: all of them, or none may be handed a placeholder."""
    norms: dict[str, Tensor] | None = None
    """Where the norms of signals are noted when they arrive."""

    def begin(self, key: Key, rule: "BroadcastRule", sent: "Broadcast") -> None:
        """Begin the projection of a rule that needs no error (DRTP), in the forward pass."""
        self.begun[key] = _rows(rule, sent)
        rule.feedback.prefetch(self.begun[key])

    def defer(self, key: Key, rule: "BroadcastRule", sent: "Broadcast", delivery: "Delivery") -> Sequence[Tensor]:
        """Begin a rule's projection and return placeholders of its signals; :meth:`take` will return the signals.

        Args:
            key: The planner's and the output's number.
            rule: It ``defers``.
            sent: What its signals are made of.
            delivery: Which point gets which.
        """
        rows = self.begun.pop(key, None)
        if rows is None:
            rows = _rows(rule, sent)
            rule.feedback.prefetch(rows)
        project, layouts, error = sent.project, sent.layouts, sent.error

        @cache
        def signals() -> list[Tensor | None]:
            flat = project(rows)
            if self.norms is not None:
                self.norms.update(delivery.norms(flat))
            return delivery.shaped(flat)

        def collect(number: int) -> Tensor:
            signal = signals()[number]
            assert signal is not None
            return signal

        nothing = error.new_zeros(())
        placeholders = [nothing.expand(len(error), layout.site.columns) for layout in layouts]
        for number, placeholder in enumerate(delivery.shaped(placeholders)):
            if placeholder is not None:
                self.waiting[number][key] = partial(collect, number)
        return placeholders

    def take(self, number: int) -> Tensor | None:
        """Return the sum of the signals that wait for a point's tensor; None if none does."""
        waiting = list(self.waiting.pop(number, {}).values())
        if not waiting:
            return None
        total = waiting[0]()
        for more in waiting[1:]:
            total = total + more()
        return total


def defers(rules: Iterable["BroadcastRule"]) -> bool:
    """Return whether any of the rules sends by a device, and sends nothing but what the device returns.

    Not where PyTorch traces or transforms what runs: a device refuses to serve there, and says so itself.
    """
    if torch.compiler.is_compiling() or in_transform():
        return False
    return any(rule.defers and rule.feedback.deferred for rule in rules)


def _rows(rule: "BroadcastRule", sent: "Broadcast") -> Tensor:
    """Return what a rule projects, without projecting it."""
    asked: list[Tensor] = []

    def project(rows: Tensor) -> list[Tensor]:
        asked.append(rows)
        return []

    rule.signals(replace(sent, project=project))
    (rows,) = asked
    return rows


class _Carry(torch.autograd.Function):
    """Identity; backward exchanges a placeholder for the signal that waits in its place."""

    @staticmethod
    def forward(tensor: Tensor, mail: Mail, number: int) -> Tensor:
        return tensor.detach()

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Mail, int], output: Tensor) -> None:
        _, ctx.mail, ctx.number = inputs  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        signal = ctx.mail.take(ctx.number)
        return gradient if signal is None else signal, None, None


def carry(tensor: Tensor, mail: Mail, number: int) -> Tensor:
    """Return a point's tensor on its way to the splice, where it can wait for its signal.

    Args:
        tensor: What left the point, uncut.
        mail: That of the forward pass.
        number: The tensor's number among those that receive signals.
    """
    if torch.compiler.is_compiling():  # a piece of a model that is not compiled as a whole
        return tensor
    mail.carried += 1
    carried: Tensor = _Carry.apply(tensor, mail, number)  # type: ignore[no-untyped-call]
    return carried
