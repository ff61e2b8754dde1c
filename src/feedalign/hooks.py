"""The hooks that cut at the points and splice the output to them, and what they remember in a forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from feedalign.backward import begin, compiled_pull, deliver
from feedalign.checks import check_above, check_compiled, check_graph, check_output, warn_of_bypass
from feedalign.compiled import hint
from feedalign.deferred import Mail, defers
from feedalign.delivery import Planner
from feedalign.errors import PointsError, SignalError
from feedalign.learned import LearnedFeedback
from feedalign.observe import Observation
from feedalign.points import Point, candidates
from feedalign.recording import Arriving, Facts, Output, Recording
from feedalign.replay import Inputs, Replay, Stage, again, forward_mode
from feedalign.rules import BroadcastRule, Inject
from feedalign.splice import Pull, splice
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
        output: The module whose output carries the error; ``None`` means what the model returns.
        planners: One a rule that broadcasts.
        planner_of: The number of the planner that makes a point's signal.
    """

    def __init__(
        self, model: nn.Module, points: list[Point], output: str | None, planners: list[Planner],
        planner_of: dict[str, int],
    ) -> None:  # fmt: skip
        self.model = model
        self.points = points
        self.output = output
        self.planners = planners
        self.targets: Any = None
        self.last: Last | None = None
        self._planner_of = planner_of
        self._learned: LearnedFeedback | None = None
        self._on = True
        self._anchor = False  # this forward pass trains by backpropagation
        self._mute = False  # cut and deliver nothing: shallow training for a while
        self._proven = False  # that an error arrives at all; asked until it has
        self._recording: Recording | None = None
        self._observation: Observation | None = None
        self._stage: Stage | None = None  # a forward pass of another kind is under way
        self._cuts: list[RemovableHandle] = []  # the hooks at the points' outputs, which are also among all

    def _install(self) -> list[RemovableHandle]:
        hooks = [self.model.register_forward_pre_hook(self._start, with_kwargs=True)]
        for point in self.points:
            module = self.model.get_submodule(point.module)
            if point.at_input:
                hooks.append(module.register_forward_pre_hook(partial(self._at_input, point)))
            else:
                self._cuts.append(module.register_forward_hook(partial(self._at_point, point)))
        if self.output is not None:
            hooks.append(self.model.get_submodule(self.output).register_forward_hook(self._at_output))
        hooks.append(self.model.register_forward_hook(self._finish))
        # Also after a forward pass that raised, so that it leaves no points behind.
        return [*hooks, *self._cuts, self.model.register_forward_hook(self._clear, always_call=True)]

    def _start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._stage is not None:
            self._stage.start(args, kwargs)
            return
        self._recording = None
        if self._on and torch.is_grad_enabled():
            rules = [planner.rule for planner in self.planners]
            check_compiled(rules)
            if self._is_anchor(rules):
                return
            self._recording = Recording(
                inputs=Inputs.of(args, kwargs) if any(rule.replays for rule in rules) else None,
                activations=[] if any(rule.learns for rule in rules) else None,
                targets=self.targets,
                mail=Mail() if self._observation is None and defers(rules) else None,
            )
        if not torch.compiler.is_compiling():
            self._cut_last()

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

    def _at_point(self, point: Point, module: nn.Module, args: Any, output: Any) -> Any:
        if not self._cuts_now(point):
            return None
        if not self._proven and self._recording is not None and str(point) in self._planner_of:
            check_graph(point, module, output, self.points)
        # A module without parameters that is used in several places is a point in each of them.
        own = next(module.parameters(), None) is None
        return self._cut(point, output, own)

    def _at_input(self, point: Point, module: nn.Module, args: tuple[Any, ...]) -> Any:
        if not self._cuts_now(point):
            return None
        if not args:
            raise PointsError(f"Point '{point}' expected {point.module!r} to be called with a positional input.")
        return (self._cut(point, args[0], own=False), *args[1:])

    def _at_output(self, module: nn.Module, args: Any, output: Any) -> Any:
        recording = self._recording
        leaves, rebuild = flatten(output)
        places = [place for place, leaf in enumerate(leaves) if is_floating(leaf)]
        tensors = [leaves[place] for place in places]
        if self._stage is not None:
            for place, tensor in zip(places, self._stage.at_output(tensors), strict=True):
                leaves[place] = tensor
            return rebuild(leaves)
        if recording is None or not recording.tensors or self._mute or not torch.is_grad_enabled():
            return None
        check_output(self.model, self._tap, output, tensors)
        facts = tuple(Facts(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)
        recording.outputs.append(Output(facts, len(recording.arrivals)))
        if self._observation is not None:
            self._observation.outputs.append(tensors)
            return output
        if not self._proven and not torch.compiler.is_compiling():
            check_above(self.model, tensors, recording)
            warn_of_bypass(tensors, recording)
        # What the rules learn gets its gradients in the same backward pass, like any parameter.
        learned = [matrix for planner in self.planners for matrix in planner.learned().values()]
        spliced = splice(tensors, [*recording.tensors, *learned], self._puller(recording))
        for place, tensor in zip(places, spliced, strict=True):
            leaves[place] = tensor
        if not self._proven and not torch.compiler.is_compiling():
            recording.nodes.update(tensor.grad_fn for tensor in spliced)
        return rebuild(leaves)

    def _finish(self, module: nn.Module, args: Any, output: Any) -> Any:
        recording = self._recording
        if self._stage is not None:
            return self._at_output(module, args, output) if self.output is None else None
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
        if self.output is None:
            spliced = self._at_output(module, args, output)
            output = output if spliced is None else spliced
        if not recording.tensors:
            return output
        if not recording.outputs:
            raise SignalError(
                f"{self._tap} did not run in this forward pass, so no error can reach the points. Name the module "
                f"whose output the loss is computed from. {candidates(self.model)}"
            )
        if not torch.compiler.is_compiling():
            recording.deliveries = [planner.plan(recording) for planner in self.planners]
            begin(self.planners, recording)
            if self._observation is not None:
                self._observation.recording, self._observation.tensors = recording, recording.tensors
            elif self.output is not None and not self._proven:
                self._watch(output, recording)
        recording.tensors, recording.nodes = [], set()
        return output

    def _clear(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._stage is None:
            self._recording = None

    # What the hooks do.

    @property
    def _tap(self) -> str:
        return "The model's return value" if self.output is None else f"The output {self.output!r}"

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
                "to it. Attach to the module that you call, or write `with handle.off(): ...` around this call."
            )
        return True

    def _cut(self, point: Point, output: Any, own: bool) -> Any:
        leaves, rebuild = flatten(output)
        places = [place for place, leaf in enumerate(leaves) if is_floating(leaf)]
        if point.leaf is not None and point.leaf >= len(places):
            raise PointsError(
                f"Point '{point}' expected the module to return at least {point.leaf + 1} tensors, found {len(places)}."
            )
        planner = self._planner_of.get(str(point), -1)
        names = [f"{point}[{n}]" if point.leaf is None and len(places) > 1 else str(point) for n in range(len(places))]
        arriving = [Arriving(n, planner, own) if point.leaf in (None, i) else None for i, n in enumerate(names)]
        tensors = [leaves[place] for place in places]
        if self._stage is not None:
            passed = self._stage.at_point(arriving, tensors)
        else:
            for each, tensor in zip(arriving, tensors, strict=True):
                if self._recording is not None and each is not None:
                    self._recording.add(each, tensor)
            passed = [self._sever(tensor) for tensor in tensors]
        for place, tensor in zip(places, passed, strict=True):
            leaves[place] = tensor
        return rebuild(leaves)

    def _sever(self, tensor: Tensor) -> Tensor:
        return tensor.detach() if self._observation is None else self._observation.sever(tensor)

    def _watch(self, output: Any, recording: Recording) -> None:
        def check() -> None:
            if not recording.delivered:
                raise SignalError(
                    f"A backward pass went through the model, but no error reached {self._tap}, so its points would "
                    "have learned nothing. Name the module whose output the loss is computed from. "
                    f"{candidates(self.model)}"
                )

        returned = [leaf for leaf in flatten(output)[0] if is_floating(leaf)]
        watch(returned, recording.nodes, check)

    def _puller(self, recording: Recording) -> Pull:
        if not torch.compiler.is_compiling():
            return partial(self._pull, recording, len(recording.outputs) - 1)
        if len(recording.outputs) > 1:
            raise SignalError(f"Under torch.compile {self._tap} may run once per forward pass; it ran twice.")
        return compiled_pull(self.planners, recording)

    def _pull(self, recording: Recording, output: int, gradients: list[Tensor | None]) -> list[Tensor | None]:
        delivered = deliver(self.planners, recording, output, gradients, self.push)
        recording.delivered = self._proven = True
        if not in_transform():  # whose tensors mean nothing outside of it
            self.last = Last(torch.linalg.vector_norm(delivered.error.detach()), delivered.norms())
            if recording.mail is not None:
                recording.mail.norms = self.last.signals
        return [*delivered.signals, *delivered.lessons]

    def push(self, recording: Recording, output: int, places: dict[int, int], inject: Inject) -> list[Tensor | None]:
        """Run the forward pass again with tangents that ``inject`` puts in at ``places``; return what comes out."""
        assert recording.inputs is not None  # a rule that asks for it says `replays`
        replay = Replay(lambda number, arrived: inject(places[number], arrived) if number in places else arrived)
        with again(self.model, recording.inputs), forward_mode(self.model), self.staged(replay):
            self.model(*recording.inputs.args, **recording.inputs.kwargs)
        return replay.tangents[output]

    @contextmanager
    def staged(self, stage: Stage) -> Iterator[None]:
        """Let forward passes inside the ``with`` block be of another kind, in the middle of whatever is going on."""
        before, self._stage = self._stage, stage
        try:
            yield
        finally:
            self._stage = before
