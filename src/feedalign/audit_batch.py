"""What one batch shows, by depth: how well each signal points downhill, how large it is, and who receives nothing."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from feedalign.attach import Attachment
from feedalign.audit_depth import Batch, Depth, Rows
from feedalign.blocks import reached, trainable
from feedalign.cosine import cosine
from feedalign.observe import Observation, observe
from feedalign.received import Received, receive


def measure(handle: Attachment, closure: Callable[[], Tensor]) -> Batch:
    """Return what one batch shows; the model, its gradients and the random state stay as they were.

    Raises:
        SignalError: The closure did not run the model once, or returned no loss.
    """
    with unnoticed(handle), observe(handle, closure) as (seen, loss):
        return _Measuring(handle, seen, loss).batch()


@contextmanager
def unnoticed(handle: Attachment) -> Iterator[None]:
    """Leave what the attachment notes of forward and backward passes as it was before the block."""
    learned = handle.learned
    counts = None if learned is None else (learned.forwards, learned._witness, learned._lessons)
    last, targets = handle.last, handle.targets
    try:
        yield
    finally:
        handle.last, handle.targets = last, targets
        if learned is not None and counts is not None:
            learned.forwards, learned._witness, learned._lessons = counts


class _Measuring:
    """The backward passes through one observation: one true, one by the rule, and between them one for the error."""

    def __init__(self, handle: Attachment, seen: Observation, loss: Tensor) -> None:
        self.handle, self.seen, self.loss = handle, seen, loss
        named = trainable(handle.model)
        self.names, self.parameters = list(named), list(named.values())
        self.layers = [(name, tensor) for name, tensor in seen.layers if tensor.requires_grad]
        tensors = [tensor for _, tensor in self.layers]
        seen.open = True
        truths = self._gradients([loss], [*seen.tensors, *tensors, *self.parameters])
        points, inner = len(seen.tensors), len(seen.tensors) + len(tensors)
        self.truths, self.layer_truths, self.true_step = truths[:points], truths[points:inner], truths[inner:]
        seen.open = False
        self.received, self.zero_error, self.rows = self._deliver()
        ends = [(seen.tensors[place], received.signal) for place, received in self.received.items()]
        rule = self._gradients(
            [loss, *(t for t, _ in ends)], [*tensors, *self.parameters], [torch.ones_like(loss), *(s for _, s in ends)]
        )
        self.layer_signals, self.step = rule[: len(tensors)], rule[len(tensors) :]

    def batch(self) -> Batch:
        depths = [*self._points(), *self._layers()]
        if self.handle.points and self.handle.carriers:  # dicts of both kinds: from the bottom to the top
            order = {name: i for i, (name, _) in enumerate(self.handle.model.named_modules())}
            depths.sort(key=lambda depth: order.get(_module(depth.name), len(order)))
        recording = self.seen.recording
        calls = {(arrival.point, arrival.call): recording.key(arrival) for arrival in recording.arrivals}
        return Batch(tuple(depths), self.rows, self.zero_error, self._cosine(range(len(self.parameters))), calls)

    def _gradients(
        self, ends: Sequence[Tensor], places: Sequence[Tensor], sent: Sequence[Tensor] | None = None
    ) -> Sequence[Tensor]:
        return torch.autograd.grad(ends, places, sent, retain_graph=True, allow_unused=True, materialize_grads=True)

    def _deliver(self) -> tuple[dict[int, Received], int, int]:
        """Return what every arrival receives, by its number among the tensors, and the counts of rows."""
        seen = self.seen
        if not self.handle.planners:
            return {}, 0, 0
        errors = [self._gradients([self.loss], tensors) for tensors in seen.outputs]
        zero, rows = 0, 0
        for output, delivery in zip(seen.recording.outputs, seen.recording.deliveries[0], strict=True):
            has_error = delivery.error(output.gradients(errors[output.run])).abs().amax(dim=1) > 0
            rows, zero = rows + len(has_error), zero + int((~has_error).sum())
        return receive(self.handle, seen, errors), zero, rows

    def _points(self) -> list[Depth]:
        found: defaultdict[str, Rows] = defaultdict(Rows)
        inside: defaultdict[str, set[int]] = defaultdict(set)
        why: dict[str, str] = {}
        recording, place = self.seen.recording, -1
        for arrival in recording.arrivals:
            key = recording.key(arrival)
            if not arrival.trains:
                silent = "nothing below it can train (frozen?)"
                why.setdefault(key, "its rule delivers nothing" if arrival.planner < 0 else silent)
                continue
            place += 1
            received = self.received.get(place)
            if received is None:
                why.setdefault(key, "no output belongs to it")
                continue
            why[key] = ""
            tensor = self.seen.tensors[place]
            activation, signal, truth = map(received.rows, (tensor, received.signal, self.truths[place]))
            found[key].add(activation, signal, truth, received.has_error)
            inside[key] |= reached(tensor, self.parameters)
        ran = {arrival.point.split("[")[0] for arrival in recording.arrivals}
        for point in self.handle.points:
            if str(point).split("[")[0] not in ran:
                why[str(point)] = "it did not run"
        return [
            Depth(name, nothing=reason)
            if reason
            else found[name].depth(name, self._cosine(inside[name]), layer=False, flattened=self._flattened(name))
            for name, reason in why.items()
        ]

    def _layers(self) -> list[Depth]:
        """Return what the layers show that a rule transports through."""
        found: defaultdict[str, Rows] = defaultdict(Rows)
        last = self.layer_truths[-1] if self.layers else None
        # Unless points lie above, what reaches the last layer is the truth.
        inner = len(self.layers) - (not self.handle.planners)
        for (name, tensor), signal, truth in list(zip(self.layers, self.layer_signals, self.layer_truths, strict=True))[
            : max(inner, 0)
        ]:
            assert last is not None
            has_error = truth.new_ones(len(truth), dtype=torch.bool)
            if len(last) == len(truth):
                has_error = last.reshape(len(last), -1).abs().amax(dim=1) > 0
            found[name].add(tensor, signal, truth, has_error)
        if last is not None and not self.rows:
            self.rows, self.zero_error = len(last), int((last.reshape(len(last), -1).abs().amax(dim=1) == 0).sum())
        ran = [name for name, _ in self.seen.layers]
        names = sorted((c.name for c in self.handle.carriers), key=lambda name: _place(ran, name))
        top = self.layers[-1][0] if self.layers else None
        return [self._layer(name, found, ran) for name in names if name in found or name != top]

    def _layer(self, name: str, found: dict[str, Rows], ran: list[str]) -> Depth:
        module = self.handle.model.get_submodule(name)
        own = {f"{name}.{key}" if name else key for key, _ in module.named_parameters()}
        places = [i for i, parameter in enumerate(self.names) if parameter in own]
        if name not in found or not places:
            return Depth(name, nothing="it did not run" if name not in ran else "its weights are frozen")
        return found[name].depth(name, self._cosine(places), layer=True, flattened=False)

    def _cosine(self, places: Iterable[int]) -> float:
        return cosine([(self.step[i], self.true_step[i]) for i in sorted(places)])

    def _flattened(self, name: str) -> bool:
        layouts = [planner.layouts[name] for planner in self.handle.planners if name in planner.layouts]
        return any(not layout.repeated and len(layout.shape) > 3 for layout in layouts)


def _module(name: str) -> str:
    return name.split("#")[0].split("[")[0].removesuffix(":input")


def _place(names: list[str], name: str) -> int:
    return names.index(name) if name in names else len(names)
