"""What happens when the error arrives at an output: every rule makes the signals of its points, and learns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from feedalign.delivery import Delivery, Planner
from feedalign.errors import SignalError
from feedalign.recording import Output, Recording
from feedalign.rules import Broadcast, Inject
from feedalign.structure import Structure

Push = Callable[[Recording, int, Output, dict[int, int], Inject], list[Tensor | None]]


@dataclass(frozen=True)
class BackwardResult:
    """What one backward pass through one run of the output brought."""

    error_norm: Tensor
    """Frobenius norm of the errors."""
    signals: list[Tensor | None]
    """One per arrival that trains, in its shape; ``None`` where it belongs to another output."""
    feedback_grads: list[Tensor | None]
    """The gradient of every matrix that is learned; ``None`` where its point belongs to another output."""
    made: list[tuple[Delivery, Sequence[Tensor]]]
    """Per error and rule, the signal of each point as the rule made it; not those that a device has yet to return."""
    deferred: dict[str, Tensor] = field(default_factory=dict)
    """The norms of signals that a device returned since, by point."""

    def norms(self) -> dict[str, Tensor]:
        """Return the norm of the signal that each point receives, by name."""
        found = dict(self.deferred)
        for delivery, signals in self.made:
            for name, norm in delivery.norms(signals).items():
                found[name] = torch.hypot(found[name], norm) if name in found else norm
        return found


def deliver(
    planners: Sequence[Planner], recording: Recording, run: int, gradients: Sequence[Tensor | None], push: Push
) -> BackwardResult:
    """Return the signals of every arrival, and the gradients of what is learned.

    Args:
        planners: One per rule.
        recording: The forward pass.
        run: The number of the output's run.
        gradients: At the tensors of that run.
        push: Runs the forward pass again with tangents.

    Raises:
        SignalError: An error has come that a point hears and that cannot be matched to it.
    """
    made: list[tuple[Delivery, Sequence[Tensor]]] = []
    found: list[list[Tensor | None]] = []
    grads: dict[tuple[int, str], Tensor] = {}
    norm: Tensor | None = None
    for number, output in enumerate(recording.outputs):
        own = output.gradients(gradients)
        if output.run != run or all(gradient is None for gradient in own):
            continue
        for planner in planners:
            delivery = recording.deliveries[planner.number][number]
            if delivery.problem:
                raise SignalError(delivery.problem)
            error = delivery.error(own)
            if planner.number == 0:
                size = torch.linalg.vector_norm(error.detach())
                norm = size if norm is None else torch.hypot(norm, size)
            if not delivery.serves:
                continue
            sent = planner.send(delivery, error, recording, partial(push, recording, run, output))
            # Not where the backward pass is differentiated itself: what a device returned has no graph.
            if _deferred(planner, recording) and not torch.is_grad_enabled():
                assert recording.mail is not None
                signals = recording.mail.defer((planner.number, number), planner.rule, sent, delivery)
            else:
                signals = planner.rule.signals(sent)
                made.append((delivery, signals))
            found.append(delivery.shaped(signals))
            if planner.store is not None:
                _add_feedback_grads(planner, sent, grads)
    count = sum(arrival.trains for arrival in recording.arrivals)
    shaped = found[0] if len(found) == 1 else [_sum(each) for each in zip(*found, strict=True)]
    shaped += [None] * (count - len(shaped))  # arrivals after the run are not in it
    learned = [
        grads[planner.number, key].to(matrix.dtype) if (planner.number, key) in grads else None
        for planner in planners
        for key, matrix in planner.learned().items()
    ]
    assert norm is not None  # a backward pass reaches an output by one of its tensors
    return BackwardResult(norm, shaped, learned, made)


def begin(planners: Sequence[Planner], recording: Recording) -> None:
    """Begin in the forward pass what needs no error: projections of targets by a device."""
    for planner in planners:
        if not (planner.rule.targeted and recording.targets is not None and _deferred(planner, recording)):
            continue
        assert recording.mail is not None
        for number, delivery in enumerate(recording.deliveries[planner.number]):
            facts = recording.outputs[number].tensors[0]
            error = torch.zeros((), dtype=facts.dtype, device=facts.device).expand(delivery.rows, sum(delivery.sizes))
            if delivery.serves:
                sent = planner.send(delivery, error, recording, _no_push)
                recording.mail.begin((planner.number, number), planner.rule, sent)


def _deferred(planner: Planner, recording: Recording) -> bool:
    return (
        recording.mail is not None
        and recording.mail.carried == len(recording.trained())
        and planner.rule.defers
        and planner.rule.feedback.deferred
    )


def _sum(signals: Sequence[Tensor | None]) -> Tensor | None:
    total: Tensor | None = None
    for signal in signals:
        if signal is not None:
            total = signal if total is None else total + signal
    return total


def _add_feedback_grads(planner: Planner, sent: Broadcast, total: dict[tuple[int, str], Tensor]) -> None:
    assert planner.store is not None
    for layout, grad in zip(sent.layouts, planner.rule.lessons(sent), strict=True):
        place = (planner.number, layout.site.key)
        total[place] = total[place] + grad if place in total else grad
    for key in dict.fromkeys(layout.site.key for layout in sent.layouts):
        planner.store.taught(key)


def compiled_pull(
    planners: Sequence[Planner], recording: Recording, structure: Structure
) -> Callable[[list[Tensor | None]], list[Tensor | None]]:
    """Return the same for ``torch.compile``, made while the forward pass is traced."""
    # Not by way of the recording: constants of a graph cannot be put on objects that outlive its tracing.
    traced = recording.as_traced()
    traced.outputs = structure.outputs(traced)
    planned = [(planner, planner.plan(traced)) for planner in planners]

    def pull(gradients: list[Tensor | None]) -> list[Tensor | None]:
        found = []
        for planner, deliveries in planned:
            for output, delivery in zip(traced.outputs, deliveries, strict=True):
                own = output.gradients(gradients)
                if delivery.serves and any(gradient is not None for gradient in own):
                    sent = planner.send(delivery, delivery.error(own), traced, _no_push)
                    found.append(delivery.shaped(planner.rule.signals(sent)))
        return [_sum(each) for each in zip(*found, strict=True)]

    return pull


def _no_push(*_: object) -> list[Tensor | None]:
    raise SignalError(
        "The rule pushes tangents forward through the model, which is not supported under torch.compile. Train in "
        "eager mode, or choose a rule that does not (DFA)."
    )
