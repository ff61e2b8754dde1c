"""The hooks that cut at the points and splice the output to them, and what they remember in a forward pass."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from feedalign.backward import BackwardResult, begin, compiled_pull, deliver
from feedalign.backward_hooks import BackwardHooks, has_any
from feedalign.checks import check_compiled, check_graph, check_output, output_itself, warn_of_bypass
from feedalign.compiled import check_exported, eagerly, hint
from feedalign.deferred import Mail, defers
from feedalign.delivery import Planner
from feedalign.errors import PointsError, SignalError
from feedalign.first import CheckingGates, FirstPass
from feedalign.graph import nodes_below, trains
from feedalign.installed import Installed
from feedalign.learned import LearnedFeedback
from feedalign.observe import Observation
from feedalign.points import Point, candidates
from feedalign.recording import Arriving, Facts, Output, Recording, Run
from feedalign.replay import Inputs, Replay, Stage, again, forward_mode
from feedalign.rules import BroadcastRule, Inject
from feedalign.splice import Collector, PullTensors, splice_tensors
from feedalign.structure import Structure
from feedalign.taps import Tap
from feedalign.tree import flatten, is_floating
from feedalign.watch import in_backward, in_transform, watch


class Last(NamedTuple):
    """Norms (Frobenius, 0-dimensional tensors) of what the last backward pass carried."""

    error: Tensor
    signals: dict[str, Tensor]


class Hooks:
    """The hooks of an attachment, in the order in which a forward pass meets them; made by it alone.

    Args:
        model: The model.
        points: Where the backward pass is cut.
        taps: Where the errors are taken.
        planners: One per rule that broadcasts.
        planner_of: The number of the planner that makes a point's signal.
        structure: What is known of rows and of which output a point leads to.
    """

    _title: str
    """The rules and the model in a few words, for messages."""

    def __init__(
        self, model: nn.Module, points: list[Point], taps: list[Tap], planners: list[Planner],
        planner_of: dict[str, int], structure: Structure,
    ) -> None:  # fmt: skip
        self.model = model
        self.points = points
        self.planners = planners
        self.targets: Any = None
        self.structure = structure
        structure.taps = tuple(tap.module or "" for tap in taps[:1])
        self._taps = taps
        self._planner_of = planner_of
        self._rules = [planner.rule for planner in planners]
        self._eager = any(rule.eager or rule.learns or rule.feedback.eager for rule in self._rules)
        self._deferred = any(rule.feedback.deferred for rule in self._rules)
        self._replays, self._learns = (
            any(flags) for flags in ([r.replays for r in self._rules], [r.learns for r in self._rules])
        )
        self._learned: LearnedFeedback | None = None
        self._on = True
        self._anchor = False  # this forward pass trains by backpropagation
        self._mute = False  # cut and deliver nothing: shallow training for a while
        self._simple = False  # this forward pass only cuts at the points
        self._began = False  # whether a forward pass was ever seen, or backpropagation was asked for
        self._proven = False  # that an error arrives at all; asked until it has
        self._call: Callable[..., Any] = model  # what the forward pass that is under way runs
        self._method = False  # a method other than forward is under way as a forward pass
        self._recording: Recording | None = None
        self._observation: Observation | None = None
        self._stage: Stage | None = None  # a forward pass of another kind is under way
        self._first: FirstPass | None = None  # what the first forward pass finds out
        self._collector: Collector | None = None
        self._closed: weakref.ref[CheckingGates] | None = None  # those of the last forward pass that had any
        self._result: BackwardResult | None = None  # of the last backward pass, until the next forward pass
        self._norms: Last | None = None
        self._installed = Installed()
        self._of_user = BackwardHooks(self)
        self._cuts: list[RemovableHandle] = []  # the hooks that have to be the last of their module
        self._plain = {
            point: Arriving(str(point), planner_of.get(str(point), -1), _own(model, point)) for point in points
        }

    @property
    def last(self) -> Last | None:
        """Norms of what the last backward pass carried; ``None`` before the first one."""
        if self._result is not None:
            self._norms, self._result = Last(self._result.error_norm, self._result.norms()), None
        return self._norms

    @last.setter
    def last(self, value: Last | None) -> None:
        self._norms, self._result = value, None

    @property
    def error_width(self) -> int | None:
        """Width of the error; ``None`` before the first forward pass."""
        return next((planner.error_width for planner in self.planners if planner.error_width is not None), None)

    def _install(self) -> None:
        hooks = self._installed
        if not self.points:  # nothing is cut: the hook makes the attachment known, and refuses an export
            hooks.before(self.model, "", self._enter)
            return
        hooks.before(self.model, "", self._start, with_kwargs=True)
        hooks.eager = self._eager
        for point in self.points:
            module = self.model.get_submodule(point.module)
            if point.at_input:
                hooks.before(module, point.module, partial(self._at_input, point))
            else:
                self._cuts.append(
                    hooks.behind(module, point.module, partial(self._at_point, point, self._plain[point]))
                )
        self._install_taps()
        hooks.behind(self.model, "", self._finish)
        # Also after a forward pass that raised, so that it leaves no points behind.
        hooks.behind(self.model, "", self._clear, always_call=True)

    def _install_taps(self) -> None:
        for number, tap in enumerate(self._taps):
            if tap.module is not None:
                module = self.model.get_submodule(tap.module)
                self._installed.behind(module, tap.module, partial(self._at_tap, number))

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        check_exported(self)
        if not torch.compiler.is_compiling():
            self._cut_last()

    def _start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._method:
            return
        check_exported(self)
        if torch.compiler.is_compiling():
            check_compiled(self._rules)
        if self._eager:
            eagerly(self._begin, args, kwargs)
        else:
            self._begin(args, kwargs)

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._stage is not None:
            self._stage.start(args, kwargs)
            return
        self._recording, self._simple = None, False
        if self._on and torch.is_grad_enabled():
            self._began = True
            if not torch.compiler.is_compiling():
                self._result = None
            if self._is_anchor(self._rules):
                return
            self._recording = Recording(
                inputs=Inputs.of(args, kwargs) if self._replays else None,
                activations=[] if self._learns else None,
                targets=self.targets,
                call=self._call,
            )
            self._collector = Collector() if len(self._taps) > 1 else None
            if not torch.compiler.is_compiling():
                self._begin_first(args, kwargs)
                if self._recording.gates is None and self._deferred and defers(self._rules):
                    self._recording.mail = Mail()
        if not torch.compiler.is_compiling():
            self._cut_last()
            training = self._recording is not None and self._observation is None
            # Nothing is asked at the points any more: what arrives is noted and cut.
            self._simple = training and self._proven and self._first is None
            if training and (self._first is not None or not self._of_user.searched):
                self._of_user.search()

    def _begin_first(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the graph whole in the first forward pass, to find out how the model's tensors hang together."""
        recording = self._recording
        assert recording is not None
        if self._observation is not None:
            recording.gates = self._observation
        elif self.planners and not self._mute and not self.structure.settled and not in_transform():
            self._first = FirstPass(self.model, args, kwargs)
            recording.gates = self._first.gates

    def _is_anchor(self, rules: list[BroadcastRule]) -> bool:
        """Count the forward passes that train; return whether this one is left to plain backpropagation."""
        self._anchor = False
        if self._learned is not None and self._observation is None:
            self._learned.forwards += 1
            self._anchor = any(rule.anchored(self._learned.forwards) for rule in rules)
        return self._anchor

    def _cut_last(self) -> None:
        """Let hooks that were added later see the uncut tensor: FSDP2's gather parameters when its gradient comes."""
        for hook in self._cuts:
            hooks = hook.hooks_dict_ref()
            if hooks and next(reversed(hooks)) != hook.id:
                hooks.move_to_end(hook.id)

    def _at_point(self, point: Point, arriving: Arriving, module: nn.Module, args: Any, output: Any) -> Any:
        if self._simple and type(output) is Tensor and self._stage is None and torch.is_grad_enabled():
            recording = self._recording
            if recording is not None and not point.leaf and is_floating(output) and not has_any(module):
                recording.add(arriving, output, output.requires_grad)
                return output.detach()
        if not self._cuts_now(point):
            return None
        if has_any(module) and self._observation is None:
            self._of_user.cut(point.module)
        if not self._proven and self._recording is not None and str(point) in self._planner_of:
            check_graph(point, module, output, self.points)
        return self._cut(point, output)

    def _at_input(self, point: Point, module: nn.Module, args: tuple[Any, ...]) -> Any:
        if not self._cuts_now(point):
            return None
        if not args:
            raise PointsError(f"Point '{point}' expected {point.module!r} to be called with a positional input.")
        if has_any(module):
            self._of_user.without_input(point.module)
        return (self._cut(point, args[0]), *args[1:])

    def _at_tap(self, number: int, module: nn.Module, args: Any, output: Any) -> Any:
        recording, tap = self._recording, self._taps[number]
        leaves, rebuild = flatten(output)
        places = tap.places(output, leaves)
        if self._stage is not None:
            for place, tensor in zip(places, self._stage.at_output([leaves[i] for i in places]), strict=True):
                leaves[place] = tensor
            return rebuild(leaves)
        if recording is None or not recording.arrivals or self._mute or not torch.is_grad_enabled():
            return None
        if self._first is not None:
            if self._first.discover(self._taps, leaves, places):
                return None  # the loss is computed inside: the pass is run again, with other taps
            places = self._drop(recording, tap, leaves, places)
        elif not torch.compiler.is_compiling() and not self._proven:
            self._check_points([leaves[place] for place in places], recording)
        if self.structure.left_out:
            places = [place for place in places if (number, place) not in self.structure.left_out]
        tensors = [leaves[place] for place in places]
        if not self._simple:
            check_output(self.model, self._called(tap), output, tensors, self._squeezed)
        if not recording.tensors and recording.gates is None:
            return None
        self._record_run(recording, number, tensors)
        if self._observation is not None:
            if len(recording.ran) > 1:  # several outputs are one run together
                self._observation.outputs.pop()
            self._observation.outputs.append(recording.tapped[-1])
            return output
        if not recording.tensors:
            return None
        if not self._proven and not torch.compiler.is_compiling():
            warn_of_bypass(self.model, tensors, recording)
        spliced = self._splice(recording, number, tensors)
        for place, tensor in zip(places, spliced, strict=True):
            leaves[place] = tensor
        if not self._proven and not torch.compiler.is_compiling():
            recording.nodes.update(tensor.grad_fn for tensor in spliced)
        return rebuild(leaves)

    def _record_run(self, recording: Recording, number: int, tensors: list[Tensor]) -> None:
        """Note a run of the output; several outputs are one run together."""
        facts = tuple(Facts(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)
        if len(self._taps) == 1:
            recording.runs.append(Run(facts, len(recording.arrivals)))
            recording.tapped.append(tensors if recording.gates is not None else [])
            return
        if number in recording.ran:
            raise SignalError(
                f"{self._called(self._taps[number])} ran twice in one forward pass, which is not supported where "
                "output= names several. Name the one whose error counts."
            )
        recording.ran[number] = facts
        recording.parts[number] = tensors if recording.gates is not None else []
        numbers = sorted(recording.ran)  # whatever the order in which they ran
        together = tuple(each for i in numbers for each in recording.ran[i])
        recording.runs = [Run(together, len(recording.arrivals))]
        recording.tapped = [[tensor for i in numbers for tensor in recording.parts[i]]]

    def _splice(self, recording: Recording, number: int, tensors: list[Tensor]) -> Sequence[Tensor]:
        # What the rules learn gets its gradients in the same backward pass, like any parameter.
        if self._collector is None:
            learned = [matrix for planner in self.planners for matrix in planner.learned().values()]
            return splice_tensors(tensors, [*recording.tensors, *learned], self._puller(recording))
        if torch.compiler.is_compiling():
            raise SignalError(
                "Several outputs are not supported under torch.compile: name one module, or fields of the return value."
            )
        start = recording.spliced
        recording.spliced = len(recording.tensors)
        first = start == 0
        learned = [m for planner in self.planners for m in planner.learned().values()] if first else []
        pull = partial(self._pull_part, recording, start, recording.spliced, first)
        self._collector.sizes = [len(recording.ran.get(i, ())) for i in range(len(self._taps))]
        note = partial(self._expect, recording, tensors if recording.gates is not None else [])
        return self._collector.splice(number, tensors, [*recording.tensors[start:], *learned], pull, note)

    def _expect(self, recording: Recording, tensors: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        """Note which gradients reach the points through the output, in the first backward pass."""
        if isinstance(recording.gates, CheckingGates) and tensors:
            recording.gates.expect(tensors, gradients)

    def _finish(self, module: nn.Module, args: Any, output: Any) -> Any:
        return None if self._method else self._end(output, returned=True)

    def _end(self, output: Any, returned: bool) -> Any:
        """End a forward pass: splice what it returned, if that is the output, and plan the signals.

        Args:
            output: What it returned.
            returned: Whether it returned anything: code in a ``with`` block does not.
        """
        recording = self._recording
        at_return = len(self._taps) - 1 if self._taps[-1].module is None else None  # it comes last
        if self._stage is not None:
            return None if at_return is None else self._at_tap(at_return, self.model, (), output)
        if recording is None:
            return None
        if not recording.arrivals:
            raise SignalError(
                "None of the points ran in this forward pass, so the model would train by backpropagation: "
                f"{', '.join(map(str, self.points))}. Choose points that its forward runs.{hint()} "
                f"{candidates(self.model)}"
            )
        if not self.planners or self._mute:
            return None
        if at_return is not None and returned:
            spliced = self._at_tap(at_return, self.model, (), output)
            output = output if spliced is None else spliced
        if self._first is not None and self._first.taps:
            return self._run_again(self._first)
        if not recording.arrivals or not (recording.tensors or recording.runs):
            return output
        if not recording.runs:
            raise SignalError(
                f"{self._called(self._taps[0])} did not run in this forward pass, so no error can reach the points. "
                f"Name the module whose output the loss is computed from. {candidates(self.model)}"
            )
        if not torch.compiler.is_compiling():
            self._plan(output, recording)
        recording.tensors, recording.nodes, recording.ends = [], set(), {}
        recording.tapped, recording.parts = [], {}
        return output

    def _plan(self, output: Any, recording: Recording) -> None:
        if recording.ran:
            each = sorted(recording.ran.items())
            self.structure.taps = tuple(self._taps[n].module or "" for n, facts in each for _ in facts)
        if recording.gates is not None and not self.structure.settled:
            self.structure.learn(recording, self.model)
        recording.outputs = self.structure.outputs(recording, self.error_width)
        recording.deliveries = [planner.plan(recording) for planner in self.planners]
        if recording.mail is not None:
            begin(self.planners, recording)
        if self._observation is not None:
            self._observation.recording, self._observation.tensors = recording, recording.tensors
        elif any(tap.module is not None or tap.paths for tap in self._taps) and not self._proven:
            self._watch(output, recording)
        if self._first is not None:
            if any(planner.rule.delivers for planner in self.planners):
                self._first.check_reached(recording)
            self._first.close(recording, self._all_called())
            self._closed = weakref.ref(self._first.gates)
            self._first = None

    def _clear(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._stage is None and not self._method:
            self._drop_pass()

    def _drop_pass(self) -> None:
        self._recording, self._collector = None, None
        self._of_user.stop()
        if self._first is not None:
            self._first.forget()
            self._first = None

    # What the hooks do.

    def _called(self, tap: Tap) -> str:
        if tap.module is None:
            return f"The model's return value{': ' + str(tap) if tap.paths else ''}"
        return f"The output {str(tap)!r}"

    def _all_called(self) -> list[str]:
        """Return what the outputs are called in the middle of a sentence."""
        names = [self._called(tap) for tap in self._taps]
        return [name[0].lower() + name[1:] for name in names]

    @property
    def _squeezed(self) -> bool:
        """Whether a tensor without dimensions may be an error: one number wide, in a batch of one."""
        return any(planner.error_width == 1 for planner in self.planners)

    def _cuts_now(self, point: Point) -> bool:
        if self._stage is not None:
            return True
        if self._anchor:
            return False
        if not self._on or not torch.is_grad_enabled():
            if self._on and self._recording is not None:
                raise SignalError(
                    f"Point '{point}' ran under torch.no_grad() inside a forward pass that records gradients, so its "
                    "signal could train nothing. With activation checkpointing, write use_reentrant=False; else "
                    "leave the point out."
                )
            return False
        # Activation checkpointing runs a block again in the backward pass: the same operations, nothing recorded.
        if self._recording is None and not in_backward():
            raise SignalError(
                f"Point '{point}' ran outside of {type(self.model).__name__}.forward, where no output can be spliced "
                "to it. Attach to the module that you call; or let a method be a forward pass, "
                "handle.register_forward_method('its name'), or any code, `with handle.forward(): ...`; or write "
                "`with handle.off(): ...` around this call."
            )
        return True

    def _cut(self, point: Point, output: Any) -> Any:
        if isinstance(output, Tensor) and self._stage is None and is_floating(output) and not point.leaf:
            return self._passed(self._plain[point], output)
        leaves, rebuild = flatten(output)
        # A tensor that is returned twice is one.
        firsts = {id(leaf): place for place, leaf in reversed(list(enumerate(leaves))) if is_floating(leaf)}
        places = [place for place, leaf in enumerate(leaves) if is_floating(leaf)]
        if point.leaf is not None and point.leaf >= len(places):
            raise PointsError(
                f"Point '{point}' expected the module to return at least {point.leaf + 1} tensors, found {len(places)}."
            )
        planner, own = self._planner_of.get(str(point), -1), self._plain[point].own
        several = point.leaf is None and len(places) > 1
        name = self._plain[point].point  # joined below by +, which torch.compile takes for a constant
        chosen = {
            place: Arriving(name + "[" + str(n) + "]" if several else name, planner, own)
            if point.leaf is None or firsts[id(leaves[places[point.leaf]])] == place
            else None
            for n, place in enumerate(places)
            if firsts[id(leaves[place])] == place
        }
        if self._stage is not None:
            passed = dict(
                zip(chosen, self._stage.at_point(list(chosen.values()), [leaves[i] for i in chosen]), strict=True)
            )
        else:
            passed = {place: self._passed(arriving, leaves[place]) for place, arriving in chosen.items()}
        cut = [passed[firsts[id(leaf)]] if is_floating(leaf) else leaf for leaf in leaves]
        return rebuild(cut)

    def _passed(self, arriving: Arriving | None, tensor: Tensor) -> Tensor:
        """Return what the next block reads of a tensor that leaves a point."""
        recording = self._recording
        if recording is None or (self._first is not None and self._first.probing):
            # A checkpointed block runs again in a backward pass: the same operations, and nothing is recorded.
            gates = self._first.gates if self._first is not None else self._closed() if self._closed else None
            again = gates is not None and (self._first is not None or gates.reruns())
            return gates.gate(-1, tensor) if gates is not None and again else tensor.detach()
        if recording.gates is None:
            if arriving is not None:
                recording.add(arriving, tensor, tensor.requires_grad)
            return tensor.detach()
        number = len(recording.arrivals) if arriving is not None else -1 - len(recording.ends)
        if arriving is not None:
            recording.add(arriving, tensor, tensor.requires_grad if self._observation is not None else trains(tensor))
        end = recording.gates.gate(number, tensor)
        if arriving is not None:
            recording.ends[number] = end
            if self._first is not None:
                self._first.gates.ends[number] = end
        return end

    def _drop(self, recording: Recording, tap: Tap, leaves: list[Any], places: list[int]) -> list[int]:
        """Return the places that carry the error, in the first pass, where a point may turn out to be the output."""
        number = self._taps.index(tap)
        tensors = [leaves[place] for place in places]
        itself = output_itself(tensors, recording)
        others = {
            arrival: any(i not in same and depends(tensors[i], recording.ends[arrival]) for i in range(len(tensors)))
            for arrival, same in itself.items()
        }
        left = set(places)
        if len(itself) > 1 and any(others.values()) and not tap.paths:
            # Hidden states, which are returned beside what is computed from them: the error of the latter counts.
            hidden = {places[i] for arrival, same in itself.items() if others[arrival] for i in same}
            self.structure.left_out |= {(number, place) for place in hidden}
            left -= hidden
            itself = {arrival: same for arrival, same in itself.items() if not others[arrival]}
        for arrival in itself:
            self._remove_point(recording, arrival)
        return [place for place in places if place in left]

    def _remove_point(self, recording: Recording, number: int) -> None:
        """Take away a point that is the output itself, if it was found and not named."""
        arrival = recording.arrivals[number]
        point = next((p for p in self.points if arrival.point.split("[")[0] == str(p).split("[")[0]), None)
        if point is None or not point.found or len(self.points) == 1:
            raise PointsError(
                f"Point {arrival.point!r} is the output itself, where the error is known exactly. Leave it out of "
                f"points=, or name an output above it. {candidates(self.model)}"
            )
        assert recording.gates is not None
        gone = [i for i, each in enumerate(recording.arrivals) if each.point.split("[")[0] == str(point)]
        recording.gates.removed |= set(gone)
        kept = {i: tensor for i, tensor in zip(
            [i for i, each in enumerate(recording.arrivals) if each.trains], recording.tensors, strict=True
        ) if i not in gone}  # fmt: skip
        recording.tensors = list(kept.values())
        if recording.activations is not None:
            recording.activations = [tensor.detach() for tensor in recording.tensors]
        for i in gone:
            recording.arrivals[i] = recording.arrivals[i]._replace(trains=False, planner=-1)
        self.points.remove(point)
        module = self.model.get_submodule(point.module)
        for hook in [h for h in self._cuts if h.id in module._forward_hooks]:
            hook.remove()
            self._cuts.remove(hook)

    def _check_points(self, tensors: list[Tensor], recording: Recording) -> None:
        for number in output_itself(tensors, recording):
            raise PointsError(
                f"Point {recording.arrivals[number].point!r} is the output itself, where the error is known exactly. "
                f"Leave it out of points=, or name an output above it. {candidates(self.model)}"
            )

    def _run_again(self, first: FirstPass) -> Any:
        """Run the forward pass again, with the error taken where the loss inside the model is computed from."""
        self._taps = first.taps
        self._install_taps()
        with first.as_it_began() as (args, kwargs):
            self._first, self._recording = None, None
            return self._call(*args, **kwargs)

    def _watch(self, output: Any, recording: Recording) -> None:
        def check() -> None:
            asking = isinstance(recording.gates, CheckingGates) and recording.gates.nested
            if not recording.delivered and not asking:
                raise SignalError(
                    f"A backward pass went through the model, but no error reached {' and '.join(self._all_called())}, "
                    "so its points would have learned nothing. Name the module whose output the loss is computed from. "
                    f"{candidates(self.model)}"
                )

        returned = [leaf for leaf in flatten(output)[0] if is_floating(leaf)]
        watch(returned, recording.nodes, check)

    def _puller(self, recording: Recording) -> PullTensors:
        if not torch.compiler.is_compiling():
            return partial(self._pull, recording, len(recording.runs) - 1)
        if len(recording.runs) > 1:
            name = self._called(self._taps[0])
            raise SignalError(f"Under torch.compile {name} may run once per forward pass; it ran twice.")
        return compiled_pull(self.planners, recording, self.structure)  # type: ignore[return-value]

    def _pull(self, recording: Recording, run: int, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        if isinstance(recording.gates, CheckingGates) and recording.gates.nested:  # that only asks what would arrive
            learned = sum(len(planner.learned()) for planner in self.planners)
            return [None] * (sum(arrival.trains for arrival in recording.arrivals) + learned)
        result = deliver(self.planners, recording, run, gradients, self.push)
        recording.delivered = self._proven = True
        if isinstance(recording.gates, CheckingGates) and not recording.ran:
            tensors = [*recording.gates.tapped[run], *recording.gates.points]
            recording.gates.expect(tensors, [*gradients, *result.signals])
        if not in_transform():  # whose tensors mean nothing outside of it
            self._result = result
            if recording.mail is not None:
                recording.mail.norms = result.deferred
        return [*result.signals, *result.feedback_grads]

    def _pull_part(
        self, recording: Recording, start: int, end: int, learned: bool, gradients: list[Tensor | None]
    ) -> list[Tensor | None]:
        """Return the signals of the points from ``start`` to ``end``; the same as :meth:`_pull` for several outputs."""
        found = self._pull(recording, 0, gradients)
        signals = sum(arrival.trains for arrival in recording.arrivals)
        if isinstance(recording.gates, CheckingGates) and not recording.gates.nested:
            recording.gates.expect(recording.gates.points[start:end], found[start:end])
        return [*found[start:end], *(found[signals:] if learned else [])]

    def push(
        self, recording: Recording, run: int, output: Output, places: dict[int, int], inject: Inject
    ) -> list[Tensor | None]:
        """Run the forward pass again with tangents that ``inject`` puts in at ``places``; return what comes out."""
        assert recording.inputs is not None  # a rule that asks for it says `replays`
        if not self._on:
            raise SignalError(
                "The rule runs the forward pass again in the backward pass, and the attachment is off or removed. Call "
                "backward() before the end of the attachment, and outside of `with handle.off():`."
            )
        replay = Replay(lambda number, arrived: inject(places[number], arrived) if number in places else arrived)
        with again(self.model, recording.inputs), forward_mode(self.model), self.staged(replay):
            assert recording.call is not None
            recording.call(*recording.inputs.args, **recording.inputs.kwargs)
        by_output = dict(zip(recording.ran, replay.tangents, strict=False))  # in the order in which they ran
        several = [tangent for number in sorted(by_output) for tangent in by_output[number]]
        return output.gradients(several if len(self._taps) > 1 else replay.tangents[run])

    @contextmanager
    def staged(self, stage: Stage | None) -> Iterator[None]:
        """Let forward passes inside the ``with`` block be of another kind, in the middle of whatever is going on."""
        before, self._stage = self._stage, stage
        try:
            yield
        finally:
            self._stage = before


def depends(tensor: Tensor, end: Tensor) -> bool:
    """Return whether a tensor was computed from what is read from a point."""
    return end.grad_fn is not None and end.grad_fn in set(nodes_below([tensor.grad_fn]))


def _own(model: nn.Module, point: Point) -> bool:
    # A module without parameters that is used in several places is a point in each of them.
    return not point.at_input and next(model.get_submodule(point.module).parameters(), None) is None
