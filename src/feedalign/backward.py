"""What happens when the error arrives at an output: every rule makes the signals of its points, and learns."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from feedalign.delivery import Delivery, Planner
from feedalign.errors import SignalError
from feedalign.recording import Recording
from feedalign.rules import Broadcast, Inject

Push = Callable[[Recording, int, dict[int, int], Inject], list[Tensor | None]]


@dataclass(frozen=True)
class Delivered:
    """What one backward pass through one output brought."""

    error: Tensor
    """``[N, C]``"""
    signals: list[Tensor | None]
    """One an arrival that trains, in its shape; ``None`` where it belongs to another output."""
    lessons: list[Tensor | None]
    """The gradient of every matrix that is learned; ``None`` where its point belongs to another output."""
    made: list[tuple[Delivery, Sequence[Tensor]]]
    """The signals that are there; those of a device may be under way."""

    def norms(self) -> dict[str, Tensor]:
        """Return the norm of the signal that each point receives, by name."""
        return {name: norm for delivery, signals in self.made for name, norm in delivery.norms(signals).items()}


def deliver(
    planners: Sequence[Planner], recording: Recording, output: int, gradients: Sequence[Tensor | None], push: Push
) -> Delivered:
    """Return the signals of every arrival, and the gradients of what is learned.

    Args:
        planners: One a rule.
        recording: The forward pass.
        output: The number of the output's run.
        gradients: At the output's tensors.
        push: Runs the forward pass again with tangents.
    """
    error = recording.deliveries[0][output].error(gradients)
    made: list[tuple[Delivery, Sequence[Tensor]]] = []
    lessons: list[Tensor | None] = []
    shaped: list[list[Tensor | None]] = []
    for planner in planners:
        delivery = recording.deliveries[planner.number][output]
        sent = send(planner, recording, output, error, push)
        # Not where the backward pass is differentiated itself: what a device returned has no graph.
        if _deferred(planner, recording) and sent.layouts and not torch.is_grad_enabled():
            assert recording.mail is not None
            signals = recording.mail.defer((planner.number, output), planner.rule, sent, delivery)
        else:
            signals = planner.rule.signals(sent) if sent.layouts else []
            made.append((delivery, signals))
        shaped.append(delivery.shaped(signals))
        lessons += _lessons(planner, sent)
    return Delivered(error, _merged(shaped), lessons, made)


def begin(planners: Sequence[Planner], recording: Recording) -> None:
    """Begin in the forward pass what needs no error: projections of targets by a device."""
    for planner in planners:
        if not (planner.rule.targeted and recording.targets is not None and _deferred(planner, recording)):
            continue
        assert recording.mail is not None
        for output, delivery in enumerate(recording.deliveries[planner.number]):
            facts = recording.outputs[output].tensors[0]
            error = torch.zeros((), dtype=facts.dtype, device=facts.device).expand(delivery.rows, sum(delivery.sizes))
            sent = send(planner, recording, output, error, _no_push)
            if sent.layouts:
                recording.mail.begin((planner.number, output), planner.rule, sent)


def _deferred(planner: Planner, recording: Recording) -> bool:
    return (
        recording.mail is not None
        and recording.mail.carried == len(recording.trained())
        and planner.rule.defers
        and planner.rule.feedback.deferred
    )


def send(planner: Planner, recording: Recording, output: int, error: Tensor, push: Push) -> Broadcast:
    """Return all that one rule may use to make the signals of one output's points from its error ``[N, C]``."""
    delivery = recording.deliveries[planner.number][output]
    return planner.send(delivery, error, recording, partial(push, recording, output))


def compiled_pull(
    planners: Sequence[Planner], recording: Recording
) -> Callable[[list[Tensor | None]], list[Tensor | None]]:
    """Return the same for ``torch.compile``, made while the forward pass is traced."""
    # Not by way of the recording: constants of a graph cannot be put on objects that outlive its tracing.
    traced = recording.as_traced()
    planned = [(planner, planner.plan(traced)[0]) for planner in planners]

    def pull(gradients: list[Tensor | None]) -> list[Tensor | None]:
        found = []
        for planner, delivery in planned:
            sent = planner.send(delivery, delivery.error(gradients), traced, _no_push)
            found.append(delivery.shaped(planner.rule.signals(sent)))
        return _merged(found)

    return pull


def _lessons(planner: Planner, sent: Broadcast) -> list[Tensor | None]:
    learned = planner.learned()
    total: dict[str, Tensor] = {}
    if learned and sent.layouts:
        for layout, lesson in zip(sent.layouts, planner.rule.lessons(sent), strict=True):
            key = layout.site.key
            total[key] = total[key] + lesson if key in total else lesson
    if planner.store is not None:
        for key in total:
            planner.store.taught(key)
    return [total[key].to(matrix.dtype) if key in total else None for key, matrix in learned.items()]


def _merged(found: Iterable[list[Tensor | None]]) -> list[Tensor | None]:
    """Return one signal an arrival: that of the one rule which has one for it."""
    return [next((signal for signal in signals if signal is not None), None) for signals in zip(*found, strict=True)]


def _no_push(*_: object) -> list[Tensor | None]:
    raise SignalError(
        "The rule pushes tangents forward through the model, which is not supported under torch.compile. Train in "
        "eager mode, or choose a rule that does not (DFA)."
    )
