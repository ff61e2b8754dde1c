"""What is known of how a model's tensors hang together: which rows are where, and which output a point leads to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from feedalign.errors import PointsError, SignalError
from feedalign.evidence import MORE_PROBES, PROBES, Probes, Verdict, by_size, judge, probe
from feedalign.graph import gates_below, is_convolution
from feedalign.layout import Placement, leading, row_dimensions
from feedalign.points import means
from feedalign.recording import Arrival, Facts, Output, Recording

Stated = Mapping[str, Sequence[int | None]]
"""Row dimensions that the user states: per point, the dimension that holds each row dimension of the error; per output,
the dimensions that are rows."""
SHAPES = 256
"""For how many combinations of shapes something is kept: sentences come in many lengths."""
SINGLES = 2
"""Forward passes after which a row dimension of size 1 is taken to stay so."""
TRIES = 20
"""Forward passes in which evidence is sought, where it does not come at once: the gradients may be zero at first."""


class Group(NamedTuple):
    """Tensors of one run of the output whose rows are the same, so that they form one error."""

    places: tuple[int, ...]
    """Their numbers among the tensors of the run."""
    rows: tuple[int, ...]
    """Sizes of their row dimensions."""


@dataclass
class Structure:
    """What evidence, and the user, say of a model.

    Attributes:
        stated: What the user says.
        reachable: Whether a point hears only the outputs that it leads to.
        settled: Whether nothing is left to find out.
        version: Changes whenever what is known does.
    """

    stated: Stated = field(default_factory=dict)
    reachable: bool = True
    settled: bool = False
    version: int = 0
    left_out: set[tuple[int, int]] = field(default_factory=set)
    """Tensors of the output that are a point's own and returned beside what is computed from it: hidden states. Per
    tensor the numbers of the output and of the tensor. No error is expected there."""
    taps: tuple[str, ...] = ("",)
    """The name of the output that each tensor of a run comes from, for ``stated``."""
    _leading: bool = False
    _tries: int = 0
    _dims: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _placements: dict[tuple[str, tuple[int, ...]], Verdict] = field(default_factory=dict)
    _heard: dict[tuple[str, int], frozenset[int]] = field(default_factory=dict)
    _channels: dict[str, int] = field(default_factory=dict)
    _known: dict[Any, list[Output]] = field(default_factory=dict)

    def outputs(self, recording: Recording, error_width: int | None = None) -> list[Output]:
        """Return the errors that a forward pass gives rise to: one per run, per rows, and per set of outputs heard."""
        if torch.compiler.is_compiling():
            return self._outputs(recording, error_width)
        key = (tuple(recording.runs), tuple(recording.arrivals), self.version, error_width)
        if key not in self._known:
            if len(self._known) >= SHAPES:
                self._known.clear()
            self._known[key] = self._outputs(recording, error_width)
        return self._known[key]

    def _outputs(self, recording: Recording, error_width: int | None) -> list[Output]:
        found = []
        for number, run in enumerate(recording.runs):
            facts = [self._read(place, each, error_width) for place, each in enumerate(run.tensors)]
            for group in _groups(facts):
                own = tuple(facts[place] for place in group.places)
                for heard, points in self._hearing(recording, group):
                    found.append(Output(own, run.before, number, group.places, heard, points))
        return found

    def trust_leading(self) -> None:
        """Take the leading dimensions of every point for rows, where no output is computed from the points.

        A stage of a pipeline is one: its error comes from another process.
        """
        self.settled = self._leading = True

    def channel(self, key: str) -> int | None:
        """Return the dimension that is known to hold a point's channels."""
        return self._channels.get(key)

    def placement(self, key: str, shape: torch.Size, output: Output, rows: tuple[int, ...]) -> Placement:
        """Return where an error's rows lie in a point's tensor.

        Raises:
            SignalError: That is not known.
        """
        stated = self._stated(key)
        shape = torch.Size(shape)
        if stated is not None:
            return _checked(key, shape, rows, stated)
        verdict = self._placements.get((key, output.places))
        if verdict is not None and any(rows[axis] > 1 for axis in verdict.single):
            verdict = None  # what was one sample, or one token, are several now: look at it in the next forward pass
        if verdict is not None and verdict.placement is None:
            raise SignalError(_unmatched(key, shape, rows, verdict.reason))
        if verdict is not None and verdict.placement is not None and verdict.placement.view(tuple(shape), rows):
            return verdict.placement
        if not shape and not rows:
            return Placement(())
        if self._leading and tuple(shape[: len(rows)]) == rows:
            return leading(len(rows))
        found, several = _leading_alone(shape, rows) if torch.compiler.is_compiling() else by_size(tuple(shape), rows)
        if found is None or (verdict is not None and not found.leading):
            reason = "several of its dimensions may be" if several else "none of its dimensions are"
            raise SignalError(_unmatched(key, shape, rows, f"{reason} the rows, by their sizes", evidence=False))
        if verdict is None and self.settled and not self._leading and not torch.compiler.is_compiling():
            self.settled = self._tries >= TRIES  # a point that did not run before: look at it in the next forward pass
        return found

    # Finding out.

    def learn(self, recording: Recording, model: nn.Module) -> None:
        """Take evidence from a forward pass whose graph is whole.

        Args:
            recording: With the tensors of the output and what is read from the points.
            model: The model. Where it normalises by batch statistics, the samples mix.
        """
        mixing = any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in model.modules())
        self._tries += 1
        self.version += 1
        ends = {number: end for number, end in recording.ends.items() if end.requires_grad}
        self._learn_heard(recording, ends)
        self._learn_channels(recording)
        settled, from_last = True, recording.from_last()
        for number, run in enumerate(recording.runs):
            tensors = recording.tapped[number]
            for place, tensor in enumerate(tensors):
                if place not in self._dims:
                    self._dims[place] = self._output_dims(place, tensor)
            facts = [self._read(place, each, None) for place, each in enumerate(run.tensors)]
            for group in _groups(facts):
                own = {
                    end: tensor
                    for end, tensor in ends.items()
                    if recording.paired(recording.arrivals[end], number)
                    and (self._hears(recording, recording.arrivals[end], from_last[end]) or frozenset())
                    & set(group.places)
                }
                settled &= self._learn_placements(recording, tensors, facts, group, own, mixing)
        self.settled = settled or self._tries >= TRIES

    def _learn_heard(self, recording: Recording, ends: dict[int, Tensor]) -> None:
        found: dict[int, set[int]] = {number: set() for number in ends}
        nodes = {end.grad_fn: number for number, end in ends.items()}
        for run, tensors in enumerate(recording.tapped):
            for place, tensor in enumerate(tensors):
                for number in gates_below(tensor, nodes):
                    if recording.paired(recording.arrivals[number], run):
                        found[number].add(place)
        from_last = recording.from_last()
        for number, places in found.items():
            key = (recording.arrivals[number].point, from_last[number])
            self._heard[key] = self._heard.get(key, frozenset()) | places

    def _hears(self, recording: Recording, arrival: Arrival, from_last: int) -> frozenset[int] | None:
        """Return the tensors of the output that an arrival leads to; ``None`` if that is not known.

        Args:
            recording: The forward pass.
            arrival: One of its arrivals.
            from_last: The number of its call counted from the last one, -1.
        """
        found = self._heard.get((arrival.point, from_last))
        if found is None and recording.calls[arrival.point] > 1:  # a longer sequence: what any step of it hears
            sets = [places for (point, _), places in self._heard.items() if point == arrival.point]
            found = frozenset().union(*sets) if sets else None
        return found

    def _learn_channels(self, recording: Recording) -> None:
        trained = iter(recording.tensors)
        for arrival in recording.arrivals:
            tensor = next(trained) if arrival.trains else None
            if tensor is not None and tensor.dim() == 3 and is_convolution(tensor):
                self._channels[recording.key(arrival)] = 1

    def _output_dims(self, place: int, tensor: Tensor) -> tuple[int, ...]:
        # A 1-D convolution puts its channels before the positions, and there is one error per position.
        if tensor.dim() == 3 and is_convolution(tensor):
            return (0, 2)
        return row_dimensions(tensor.shape)

    def _learn_placements(
        self, recording: Recording, tensors: Sequence[Tensor], facts: list[Facts], group: Group,
        ends: dict[int, Tensor], mixing: bool,
    ) -> bool:  # fmt: skip
        """Find out where the rows of one error lie in every point; return whether all is settled."""
        if not ends:
            return True
        wanted = {
            number: end
            for number, end in ends.items()
            if self._stated(recording.key(recording.arrivals[number])) is None
        }
        verdicts = self._verdicts(recording, tensors, facts, group, wanted, mixing)
        dims = self._dims[group.places[0]]
        if len(dims) == 1 and len(group.places) == 1 and self._unbatched(recording, facts, group, verdicts):
            # Numbers of one sample, without a batch dimension: the error has one row.
            self._dims[group.places[0]] = ()
            facts[group.places[0]] = facts[group.places[0]]._replace(dims=())
            group = Group(group.places, ())
            verdicts = dict.fromkeys(wanted, Verdict(Placement(())))
            self._placements |= {(recording.key(recording.arrivals[n]), group.places): v for n, v in verdicts.items()}
            return False  # with a batch it would be another one
        if not any(verdict.exclusive for verdict in verdicts.values()):
            # Rows depend on each other at every point: they are nodes of a graph, and come first.
            verdicts = {n: v if v.nodes is None else Verdict(v.nodes) for n, v in verdicts.items()}
        settled = True
        for number, verdict in verdicts.items():
            key = (recording.key(recording.arrivals[number]), group.places)
            before = self._placements.get(key)
            if before is None or _worth(verdict) > _worth(before):
                self._placements[key] = verdict
            elif verdict.placement is not None and set(before.single) - set(verdict.single):
                self._placements[key] = _joined(before, verdict)
            # One sample tells nothing of several: look again, but not for ever where there never are several.
            settled &= verdict.settled and (not verdict.single or self._tries > SINGLES)
        return settled

    def _verdicts(
        self, recording: Recording, tensors: Sequence[Tensor], facts: list[Facts], group: Group,
        ends: dict[int, Tensor], mixing: bool,
    ) -> dict[int, Verdict]:  # fmt: skip
        found: dict[int, Verdict] = {}
        for count in (PROBES, MORE_PROBES):
            left = [number for number in ends if number not in found or found[number].open]
            if left:
                probes = self._probe(tensors, facts, group, [ends[number] for number in left], count)
                for i, number in enumerate(left):
                    called = recording.calls_per_run(recording.arrivals[number].point) > 1
                    shape, final = tuple(ends[number].shape), count == MORE_PROBES
                    found[number] = judge(probes, i, shape, mixing, called, final)
        return found

    def _probe(
        self, tensors: Sequence[Tensor], facts: list[Facts], group: Group, ends: list[Tensor], count: int
    ) -> Probes:
        own = [place for place in group.places if tensors[place].requires_grad]
        return probe([tensors[i] for i in own], [facts[i].dims for i in own], group.rows, ends, count)

    def _unbatched(self, recording: Recording, facts: list[Facts], group: Group, verdicts: dict[int, Verdict]) -> bool:
        """Return whether a one-dimensional output holds the numbers of a single sample.

        Then each of them depends on all of a point's tensor, and no dimension of any point tells them apart.
        """
        shape = facts[group.places[0]].shape
        placements = [verdict.placement for verdict in verdicts.values()]
        if len(shape) != 1 or not verdicts or any(each is not None and each.axes != (None,) for each in placements):
            return False
        return self._named(group.places[0]) is None

    def _read(self, place: int, facts: Facts, error_width: int | None) -> Facts:
        stated = self._named(place)
        if stated is not None:
            wrong = [d for d in stated if d is None or not -len(facts.shape) <= d < len(facts.shape)]
            if wrong or len(set(stated)) != len(stated):
                raise PointsError(
                    f"rows={{{self._name(place)!r}: {tuple(stated)}}} expected dimensions of "
                    f"the output, whose shape is {tuple(facts.shape)}. Name each dimension that counts rows once."
                )
            return facts._replace(dims=tuple(d % len(facts.shape) for d in stated if d is not None))
        dims = self._dims.get(place)
        if len(facts.shape) <= 1 and error_width is not None and facts.shape.numel() == error_width != 1:
            return facts._replace(dims=())  # the batch of one was squeezed away
        if dims is None or (dims and max(dims) >= len(facts.shape)) or len(dims) > len(facts.shape):
            dims = row_dimensions(facts.shape)
        if dims == () and facts.shape and error_width is not None and facts.shape.numel() != error_width:
            dims = row_dimensions(facts.shape)
        return facts._replace(dims=dims)

    def _hearing(self, recording: Recording, group: Group) -> list[tuple[tuple[bool, ...], tuple[int, ...] | None]]:
        """Return which tensors of a group are heard together, and by which points; None for all points."""
        everything = tuple(True for _ in group.places)
        sets: dict[tuple[bool, ...], list[int]] = {}
        places = recording.from_last()
        for number, arrival in enumerate(recording.arrivals):
            heard = self._hears(recording, arrival, places[number])
            if heard is None or (heard and not self.reachable):
                flags = everything
            else:
                flags = tuple(place in heard for place in group.places)
            sets.setdefault(flags, []).append(number)
        if set(sets) <= {everything}:
            return [(everything, None)]
        return [(flags, tuple(points)) for flags, points in sets.items() if any(flags)]

    def _stated(self, key: str) -> tuple[int | None, ...] | None:
        name = key.split("#")[0]
        return next((tuple(dims) for pattern, dims in self.stated.items() if pattern and means(pattern, name)), None)

    def _named(self, place: int) -> tuple[int | None, ...] | None:
        dims = self.stated.get(self._name(place))
        return None if dims is None else tuple(dims)

    def _name(self, place: int) -> str:
        return self.taps[min(place, len(self.taps) - 1)]


def _leading_alone(shape: torch.Size, rows: tuple[int, ...]) -> tuple[Placement | None, bool]:
    """Return what :func:`by_size` does where it is simplest: only the leading dimensions have the sizes of the rows."""
    count = len(rows)
    if list(shape[:count]) != list(rows):
        return None, False
    alone = not any(other == size for other in shape[count:] for size in rows)
    alone = alone and not any(rows[i] == rows[k] for i in range(count) for k in range(i))
    return (leading(count), False) if alone else (None, True)


def _worth(verdict: Verdict) -> tuple[bool, bool]:
    """Return what says that one verdict is better than another."""
    return verdict.placement is not None, verdict.settled


def _joined(before: Verdict, new: Verdict) -> Verdict:
    """Return what two batches tell together, each of which had one sample, or one token, in other row dimensions."""
    assert before.placement is not None
    assert new.placement is not None
    if before.placement.split or new.placement.split:
        return new
    pairs = zip(before.placement.axes, new.placement.axes, strict=True)
    axes = tuple(old if axis in new.single else found for axis, (old, found) in enumerate(pairs))
    return replace(new, placement=Placement(axes), single=tuple(set(before.single) & set(new.single)))


def _groups(facts: Sequence[Facts]) -> list[Group]:
    found: dict[tuple[int, ...], list[int]] = {}
    for place, each in enumerate(facts):
        rows = tuple(each.shape[dim] for dim in each.dims)
        found.setdefault(rows, []).append(place)
    return [Group(tuple(places), rows) for rows, places in found.items()]


def _checked(key: str, shape: torch.Size, rows: tuple[int, ...], stated: tuple[int | None, ...]) -> Placement:
    own = tuple(None if dim is None else (dim % max(1, len(shape)),) for dim in stated)
    placement = Placement(own)
    used = [axis for axis in own if axis is not None]
    right = len(set(used)) == len(used) and all(dim is None or -len(shape) <= dim < len(shape) for dim in stated)
    if not right or placement.view(tuple(shape), rows) is None:
        raise SignalError(
            f"rows={{{key!r}: {stated}}} expected one dimension of the point, whose shape is {tuple(shape)}, per row "
            f"dimension of the error, whose sizes are {rows}, of the same size (None where the point has no such "
            "dimension). Correct it, or leave it out."
        )
    return placement


def _unmatched(key: str, shape: torch.Size, rows: tuple[int, ...], reason: str, evidence: bool = True) -> str:
    name = key.split("#")[0]
    example = "(" + ", ".join(str(i) for i in range(len(rows))) + ("," if len(rows) == 1 else "") + ")"
    first = (
        ""
        if evidence
        else " Let one training step run in eager mode first, or attach with example=, so that they can be found; or"
    )
    return (
        f"The error has {prod(rows)} rows (row dimensions {rows}) and cannot be matched to point {name!r} of shape "
        f"{tuple(shape)}: {reason}.{first} {'State' if evidence else 'state'} its row dimensions, as in "
        f"rows={{{name!r}: {example}}} with None for one that it does not have; choose points whose dimensions are "
        f"those of the output; name another output=; pick one tensor of a tuple with "
        f"points={name.split('[')[0] + '[0]'!r}; or call feedalign.splice in your own forward, where pull can map the "
        "rows."
    )
