"""Attach rules to a model: what a user holds while they are on it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from feedalign.assignment import Assigned, Rules, assign
from feedalign.compiled import tell_hooks_apart
from feedalign.delivery import Planner
from feedalign.errors import PointsError, SignalError, listing
from feedalign.hooks import Hooks
from feedalign.installed import owners, sweep
from feedalign.learned import NAME, LearnedFeedback
from feedalign.observe import Observation, undisturbed
from feedalign.points import Point, Points, find_module
from feedalign.rules import BroadcastRule, TransportRule
from feedalign.summary import summary
from feedalign.transport import Carrier


def attach(
    model: nn.Module, rule: Rules, points: Points = "auto", output: str | None = None, *, example: Any = None
) -> "Attachment":
    """Let ``model`` train by ``rule``: the loop, the loss and the optimiser stay as they are.

    Args:
        model: Any module. Attach before ``torch.compile`` and before wrapping it in DDP. What was compiled and called
            before is dropped, with a warning, since it could go on to run for the model without its rule.
        rule: What flows backward, such as ``feedalign.DFA(seed=0)``; or a dict that gives each group of points its
            own rule, ``{"conv*": FA(), "fc*": DFA()}``, with what ``points`` takes for its keys.
        points: Where the backward pass is cut: names, globs (``"layers.*"``), types, a predicate
            ``(name, module) -> bool``, ``"macro"`` (behind every repeated block), ``"micro"`` (also behind every
            sub-layer of it), or ``"auto"``. See :func:`feedalign.points.select`. For rules that transport through
            layers (FA and its kin) they name those layers, or modules that contain them; ``"auto"`` is all of them.
        output: The module whose output carries the error, by name or glob. ``None`` means what the model
            returns. Needed when the loss is computed inside the model.
        example: One batch, as the model takes it: a tensor, a tuple of arguments, or a dict of named ones. Needed by
            rules that learn their feedback (DKP, Kolen-Pollack, ...), whose shapes must be known before the optimiser
            is made.

    Returns:
        The attachment: ``print`` it, ``off()`` it for a while, ``remove()`` it.

    Raises:
        PointsError: No module, or several where one is meant, match ``points`` or ``output``; or the model has
            an attachment already; or an example is missing; or a module takes no hooks. Whatever is raised, the model
            is left as it was.

    Example:
        >>> handle = attach(model, DFA(seed=0), points="layers.*", output="head")
        >>> loss_fn(model(x), y).backward()  # the gradients are those of DFA
        >>> handle.remove()  # the model is bitwise what it was
    """
    if isinstance(model, torch._dynamo.OptimizedModule) or model._compiled_call_impl is not None:
        raise PointsError("The model is compiled already. Attach first: attach(model, ...), then torch.compile(model).")
    if _on_root(model) is not None:
        raise PointsError(
            "The model has an attachment already. Call its remove() before attaching another rule: "
            "feedalign.attached(model).remove()."
        )
    assigned = assign(model, rule, points)
    name = None if output is None else find_module(model, output)
    if any(point.module == name and not point.at_input for each in assigned for point in each.points):
        raise PointsError(f"{name!r} is named both as a point and as the output. Leave it out of points=.")
    tell_hooks_apart()
    handle = Attachment(model, rule, assigned, name)
    try:
        handle._begin([each for each in assigned if each.rule.learns])
        handle._learn(example)
    except BaseException:
        handle.remove()  # a model that could not be attached to is left as it was
        sweep(model, handle)
        raise
    return handle


def attached(model: nn.Module) -> "Attachment | None":
    """Return the attachment of ``model``: of a model that was copied, unpickled, or handed on without its handle.

    Copies carry their own attachment (``copy.deepcopy``, ``pickle``, ``torch.optim.swa_utils.AveragedModel``), and
    this finds it. A wrapper (``DistributedDataParallel``, ``torch.compile``, ``AveragedModel``, or a module of your
    own) has that of the model inside.

    Args:
        model: The module that a rule was attached to, a copy of it, or a module that contains one such.

    Returns:
        The attachment, also inside of its ``off()`` block; None if there is none.

    Raises:
        PointsError: ``model`` itself has none, and contains several.

    Example:
        >>> handle = attached(copy.deepcopy(model))
    """
    found = {name: handle for name, module in model.named_modules() if (handle := _on_root(module)) is not None}
    if len(found) > 1 and "" not in found:
        raise PointsError(
            f"{type(model).__name__} contains several models with an attachment:\n{listing(found)}\nName one: "
            f"attached(model.get_submodule({next(iter(found))!r}))."
        )
    return found.get("", next(iter(found.values()), None))


_off: WeakKeyDictionary[nn.Module, "Attachment"] = WeakKeyDictionary()
"""The attachments that are off, by model: these carry no hooks by which they could be found."""


def _on_root(model: nn.Module) -> "Attachment | None":
    """Return the attachment that was made for this very module."""
    found = [owner for owner in owners(model) if owner.model is model]
    return found[0] if found else _off.get(model)


class Attachment(Hooks):
    """A rule at work on a model. Made by :func:`feedalign.attach`; ``print`` it to see where the cuts are.

    Nothing is kept on the model but hooks, and the matrices that a rule learns, and nothing between forward and
    backward but the autograd graph. The attachment travels with the model through ``copy.deepcopy`` and ``pickle``.

    Attributes:
        model: The model.
        rule: The rule, or the dict of rules.
        points: Where the backward pass is cut.
        output: The module whose output carries the error; ``None`` means what the model returns.
        targets: For rules that send targets (DRTP): set it before each forward pass, to class indices or values.
        last: Norms of the last backward pass's error and signals. Not recorded under ``torch.compile``, nor
            inside of ``torch.func``.
    """

    def __init__(self, model: nn.Module, rule: Rules, assigned: list[Assigned], output: str | None) -> None:
        broadcast = [each for each in assigned if isinstance(each.rule, BroadcastRule)]
        super().__init__(
            model,
            [point for each in assigned for point in each.points],
            output,
            [Planner(each.rule, i) for i, each in enumerate(broadcast) if isinstance(each.rule, BroadcastRule)],
            {str(point): i for i, each in enumerate(broadcast) for point in each.points},
        )
        self.rule = rule
        self._title = f"{_names(rule)} on {type(model).__name__}"
        self.known: dict[str, Any] = {}  # what two_pass found out about forward passes
        self.carriers = [
            Carrier(self, each.rule, layer, form)
            for each in assigned
            if isinstance(each.rule, TransportRule)
            for layer, form in each.layers.items()
        ]

    def _begin(self, learning: list[Assigned]) -> None:
        """Change the model, now that nothing is left that could be refused."""
        self._learned = self._store(learning)
        self._install()
        for carrier in self.carriers:
            self._cuts += carrier.install(self._installed)

    @property
    def planner(self) -> Planner | None:
        """The planner of the one rule that broadcasts, None if there is none."""
        if len(self.planners) > 1:
            raise SignalError("Several rules broadcast on this model; look at them one by one: handle.planners.")
        return self.planners[0] if self.planners else None

    def planner_of(self, point: Point) -> Planner | None:
        """Return the planner that makes a point's signal; None if it gets none."""
        number = self._planner_of.get(str(point))
        return None if number is None else self.planners[number]

    @property
    def learned(self) -> LearnedFeedback | None:
        """The module that holds the matrices which a rule learns; None if no rule does."""
        return self._learned

    def _store(self, learning: list[Assigned]) -> LearnedFeedback | None:
        if not learning:
            return None
        if hasattr(self.model, NAME):
            raise PointsError(
                f"{type(self.model).__name__} has an attribute {NAME!r}, where {type(learning[0].rule).__name__} would "
                "keep the matrices it learns. Rename it."
            )
        store = LearnedFeedback()
        self.model.add_module(NAME, store)
        return store

    def _learn(self, example: Any) -> None:
        """Run the example to know the shapes of what is learned at the points."""
        learning = [planner for planner in self.planners if planner.rule.learns]
        if self._learned is None:
            return
        if example is None:
            raise PointsError(
                f"{_names(self.rule)} learns feedback matrices, which must exist before the optimiser is made. Write "
                "attach(..., example=x) with one batch x, then make the optimiser."
            )
        args = example if isinstance(example, tuple) else () if isinstance(example, dict) else (example,)
        kwargs = example if isinstance(example, dict) else {}
        self._observation = observation = Observation()  # so that nothing is delivered and nothing trains
        try:
            with undisturbed(self.model), torch.enable_grad():
                self.model(*args, **kwargs)
        finally:
            self._observation = None
            observation.forget()
        for carrier in self.carriers:
            carrier.start(self._learned)
        for planner in learning:
            if planner.error_width is None:
                raise PointsError("No point ran on example= with anything to train below it. Choose other points.")
            planner.start(self._learned, next(self.model.parameters()).device)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Train by plain backpropagation inside the ``with`` block.

        The hooks are taken off the model for that time, so that it can also be exported, traced, scripted, or copied
        without the rule. Blocks may be nested.
        """
        if torch.compiler.is_compiling() or not self._on:  # hooks cannot change while they are traced
            before, self._on = self._on, False
            try:
                yield
            finally:
                self._on = before
            return
        self._on, _off[self.model] = False, self
        try:
            with self._installed.paused():
                yield
        finally:
            _off.pop(self.model, None)
            self._on = bool(self._installed)  # unless removed inside the block

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Deliver nothing inside the ``with`` block, so that only what lies above the last cut learns."""
        before, self._mute = self._mute, True
        try:
            yield
        finally:
            self._mute = before

    def remove(self) -> None:
        """Take everything off the model, which is then bitwise what it was. Removing twice does no harm."""
        self._installed.remove()
        if self._learned is not None and getattr(self.model, NAME, None) is self._learned:
            delattr(self.model, NAME)
        self._cuts, self._on = [], False
        _off.pop(self.model, None)

    def __repr__(self) -> str:
        return summary(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recording": None, "_observation": None, "_stage": None, "last": None, "known": {}}


def _names(rules: Rules) -> str:
    return ", ".join(type(rule).__name__ for rule in (rules.values() if isinstance(rules, Mapping) else [rules]))
