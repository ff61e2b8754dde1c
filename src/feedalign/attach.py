"""Attach a rule to a model: hooks that cut at the points, and splice the output to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from feedalign.checks import check_above, check_graph, check_output, warn_of_bypass
from feedalign.delivery import Planner
from feedalign.errors import PointsError, SignalError
from feedalign.observe import Observation
from feedalign.points import Point, Points, candidates, find_module, select
from feedalign.recording import Facts, Output, Recording
from feedalign.rules import BroadcastRule, Rule
from feedalign.splice import Pull, splice
from feedalign.summary import summary
from feedalign.tree import flatten, is_floating
from feedalign.watch import in_backward, in_transform, watch


class Last(NamedTuple):
    """Norms (Frobenius, 0-dimensional tensors) of what the last backward pass carried."""

    error: Tensor
    signals: dict[str, Tensor]


def attach(model: nn.Module, rule: Rule, points: Points = "auto", output: str | None = None) -> "Attachment":
    """Let ``model`` train by ``rule``: the loop, the loss and the optimiser stay as they are.

    Args:
        model: Any module. Attach before ``torch.compile`` and before wrapping it in DDP.
        rule: What flows backward, such as ``feedalign.DFA(seed=0)``.
        points: Where the backward pass is cut: names, globs (``"layers.*"``), types, a predicate
            ``(name, module) -> bool``, ``"macro"`` (behind every repeated block), ``"micro"`` (also behind every
            sub-layer of it), or ``"auto"``. See :func:`feedalign.points.select`.
        output: The module whose output carries the error, by name or glob. ``None`` means what the model
            returns. Needed when the loss is computed inside the model.

    Returns:
        The attachment: ``print`` it, ``off()`` it for a while, ``remove()`` it.

    Raises:
        PointsError: No module, or several where one is meant, match ``points`` or ``output``; or the model has
            an attachment already.

    Example:
        >>> handle = attach(model, DFA(seed=0), points="layers.*", output="head")
        >>> loss_fn(model(x), y).backward()  # the gradients are those of DFA
        >>> handle.remove()  # the model is bitwise what it was
    """
    if not isinstance(rule, Rule):
        raise TypeError(f"rule expected a rule such as feedalign.DFA(seed=0), found {rule!r}.")
    if isinstance(model, torch._dynamo.OptimizedModule) or model._compiled_call_impl is not None:
        raise PointsError("The model is compiled already. Attach first: attach(model, ...), then torch.compile(model).")
    if any(isinstance(getattr(hook, "__self__", None), Attachment) for hook in model._forward_pre_hooks.values()):
        raise PointsError("The model has an attachment already. Call its remove() before attaching another rule.")
    # Backpropagation cuts nothing, but a name that is wrong for the other rules is wrong for it too.
    selected = select(model, points) if rule.cuts or points != "auto" else []
    name = None if output is None else find_module(model, output)
    if any(point.module == name and not point.at_input for point in selected):
        raise PointsError(f"{name!r} is named both as a point and as the output. Leave it out of points=.")
    return Attachment(model, rule, selected, name)


class Attachment:
    """A rule at work on a model. Made by :func:`feedalign.attach`; ``print`` it to see where the cuts are.

    Nothing is kept on the model but forward hooks, and nothing between forward and backward but the autograd
    graph. The attachment travels with the model through ``copy.deepcopy`` and ``pickle``.

    Attributes:
        model: The model.
        rule: The rule.
        points: Where the backward pass is cut.
        output: The module whose output carries the error; ``None`` means what the model returns.
        last: Norms of the last backward pass's error and signals. Not recorded under ``torch.compile``, nor
            inside of ``torch.func``.
    """

    def __init__(self, model: nn.Module, rule: Rule, points: list[Point], output: str | None) -> None:
        self.model = model
        self.rule = rule
        self.points = points
        self.output = output
        self.last: Last | None = None
        self.planner = Planner(rule) if isinstance(rule, BroadcastRule) else None
        self._on = True
        self._proven = False  # that an error arrives at all; asked until it has
        self._recording: Recording | None = None
        self._observation: Observation | None = None
        self._cuts: list[RemovableHandle] = []  # the hooks at the points' outputs, which are also among all
        self._hooks = self._install() if rule.cuts else []

    def _install(self) -> list[RemovableHandle]:
        hooks = [self.model.register_forward_pre_hook(self._start)]
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

    @contextmanager
    def off(self) -> Iterator[None]:
        """Train by plain backpropagation inside the ``with`` block."""
        before, self._on = self._on, False
        try:
            yield
        finally:
            self._on = before

    def remove(self) -> None:
        """Take every hook off the model, which is then bitwise what it was. Removing twice does no harm."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._cuts, self._on = [], [], False

    def __repr__(self) -> str:
        return summary(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recording": None, "_observation": None, "last": None}

    # The hooks, in the order in which a forward pass meets them.

    def _start(self, module: nn.Module, args: Any) -> None:
        self._recording = Recording() if self._on and torch.is_grad_enabled() else None
        if not torch.compiler.is_compiling():
            self._cut_last()

    def _cut_last(self) -> None:
        """Let hooks that were added later see the uncut tensor: FSDP2's gather parameters when its gradient comes."""
        for hook in self._cuts:
            hooks = hook.hooks_dict_ref()
            if hooks and next(reversed(hooks)) != hook.id:
                hooks.move_to_end(hook.id)

    def _at_point(self, point: Point, module: nn.Module, args: Any, output: Any) -> Any:
        if not self._cuts_now(point):
            return None
        if not self._proven and self._recording is not None and self.rule.delivers:
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
        if recording is None or not recording.tensors or not torch.is_grad_enabled():
            return None
        leaves, rebuild = flatten(output)
        places = [place for place, leaf in enumerate(leaves) if is_floating(leaf)]
        tensors = [leaves[place] for place in places]
        check_output(self.model, self._tap, output, tensors)
        facts = tuple(Facts(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)
        recording.outputs.append(Output(facts, len(recording.arrivals)))
        if self._observation is not None:
            self._observation.outputs.append(tensors)
            return output
        if not self._proven and not torch.compiler.is_compiling():
            check_above(self.model, tensors, recording)
            warn_of_bypass(tensors, recording)
        spliced = splice(tensors, recording.tensors, self._puller(recording))
        for place, tensor in zip(places, spliced, strict=True):
            leaves[place] = tensor
        if not self._proven and not torch.compiler.is_compiling():
            recording.nodes.update(tensor.grad_fn for tensor in spliced)
        return rebuild(leaves)

    def _finish(self, module: nn.Module, args: Any, output: Any) -> Any:
        recording = self._recording
        if recording is None:
            return None
        if not recording.arrivals:
            raise SignalError(
                "None of the points ran in this forward pass, so the model would train by backpropagation: "
                f"{', '.join(map(str, self.points))}. Choose points that its forward runs. {candidates(self.model)}"
            )
        if not self.rule.delivers:
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
            self._plan(recording)
            if self._observation is not None:
                self._observation.recording, self._observation.tensors = recording, recording.tensors
            elif self.output is not None and not self._proven:
                self._watch(output, recording)
        recording.tensors, recording.nodes = [], set()
        return output

    def _clear(self, module: nn.Module, args: Any, output: Any) -> None:
        self._recording = None

    # What the hooks do.

    @property
    def _tap(self) -> str:
        return "The model's return value" if self.output is None else f"The output {self.output!r}"

    def _cuts_now(self, point: Point) -> bool:
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
        for number, place in enumerate(places):
            if self._recording is not None and point.leaf in (None, number):
                name = f"{point}[{number}]" if point.leaf is None and len(places) > 1 else str(point)
                self._recording.add(name, own, leaves[place], self.rule.delivers)
            leaves[place] = self._sever(leaves[place])
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

    def _plan(self, recording: Recording) -> None:
        assert self.planner is not None  # a rule that delivers broadcasts
        recording.deliveries = self.planner.plan(recording)

    def _puller(self, recording: Recording) -> Pull:
        if not torch.compiler.is_compiling():
            return partial(self._pull, recording, len(recording.outputs) - 1)
        if len(recording.outputs) > 1:
            raise SignalError(f"Under torch.compile {self._tap} may run once per forward pass; it ran twice.")
        assert self.planner is not None
        # Not by way of the recording: constants of a graph cannot be put on objects that outlive its tracing.
        return self.planner.plan(recording.as_traced())[0].pull

    def _pull(self, recording: Recording, output: int, gradients: list[Tensor | None]) -> list[Tensor | None]:
        delivery = recording.deliveries[output]
        error = delivery.error(gradients)
        signals = delivery.signals(error)
        recording.delivered = self._proven = True
        if not in_transform():  # whose tensors mean nothing outside of it
            self.last = Last(torch.linalg.vector_norm(error.detach()), delivery.norms(signals))
        return delivery.shaped(signals)
