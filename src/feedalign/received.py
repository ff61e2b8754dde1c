"""What every arrival of an observed forward pass receives from its rule."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from feedalign.attach import Attachment
from feedalign.layout import Layout
from feedalign.observe import Observation


@dataclass
class Received:
    """What one arrival receives in all: usually from one error, from several if it serves several."""

    key: str
    """The name of its point, as its feedback matrix is drawn for."""
    signal: Tensor
    """In the shape of the point's tensor."""
    has_error: Tensor
    """``[rows of the point]``: which of its rows have an error that is not zero."""
    layout: Layout
    """How the point's tensor is read as rows."""

    def rows(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the point's shape with one of its rows per row."""
        return self.layout.by_row(tensor)


def receive(handle: Attachment, seen: Observation, errors: Sequence[Sequence[Tensor]]) -> dict[int, Received]:
    """Return what the arrivals receive, by their number among ``seen.tensors``.

    Args:
        handle: The attachment.
        seen: The forward pass.
        errors: Per run of the output the gradients at its tensors.
    """
    received: dict[int, Received] = {}
    for number, output in enumerate(seen.recording.outputs):
        for planner, deliveries in zip(handle.planners, seen.recording.deliveries, strict=True):
            delivery = deliveries[number]
            if not delivery.serves:
                continue
            error = delivery.error(output.gradients(errors[output.run]))
            push = partial(handle.push, seen.recording, output.run, output)
            sent = planner.send(delivery, error, seen.recording, push)
            signals = delivery.shaped(planner.rule.signals(sent))
            has_error = error.abs().amax(dim=1) > 0
            training = [layout for layout, trains in zip(delivery.layouts, delivery.trains, strict=True) if trains]
            for place, (layout, signal) in enumerate(zip(training, signals, strict=True)):
                if layout is not None and signal is not None:
                    new = Received(layout.site.key, signal, layout.own_rows(has_error), layout)
                    old = received.get(place)
                    if old is not None and len(old.has_error) == len(new.has_error):
                        new = Received(new.key, new.signal + old.signal, new.has_error | old.has_error, layout)
                    elif old is not None:
                        new = Received(old.key, new.signal + old.signal, old.has_error, old.layout)
                    received[place] = new
    return received
