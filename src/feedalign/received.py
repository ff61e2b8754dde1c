"""What every arrival of an observed forward pass receives from its rule."""

from dataclasses import dataclass

from torch import Tensor

from feedalign.attach import Attachment
from feedalign.backward import send
from feedalign.observe import Observation


@dataclass
class Received:
    """What one arrival receives in all: usually from one output, from several if it serves several."""

    key: str
    """The name of its point, as its feedback matrix is drawn for."""
    signal: Tensor
    """In the shape of the point's tensor."""
    has_error: Tensor
    """``[N]``: which of its rows have an error that is not zero."""


def receive(handle: Attachment, seen: Observation, errors: list[Tensor]) -> dict[int, Received]:
    """Return what the arrivals receive, by their number among ``seen.tensors``.

    Args:
        handle: The attachment.
        seen: The forward pass.
        errors: The gradients at the tensors of all outputs.
    """
    errors = list(errors)
    received: dict[int, Received] = {}
    for output, tensors in enumerate(seen.outputs):
        gradients = [errors.pop(0) for _ in tensors]
        for planner, deliveries in zip(handle.planners, seen.recording.deliveries, strict=True):
            delivery = deliveries[output]
            error = delivery.error(gradients)
            sent = send(planner, seen.recording, output, error, handle.push)
            signals = delivery.shaped(planner.rule.signals(sent) if sent.layouts else [])
            has_error = error.abs().amax(dim=1) > 0
            training = [layout for layout, trains in zip(delivery.layouts, delivery.trains, strict=True) if trains]
            for place, (layout, signal) in enumerate(zip(training, signals, strict=True)):
                if layout is not None and signal is not None:
                    new = Received(layout.site.key, signal, has_error)
                    old = received.get(place)
                    if old is not None:
                        new = Received(new.key, new.signal + old.signal, new.has_error | old.has_error)
                    received[place] = new
    return received
