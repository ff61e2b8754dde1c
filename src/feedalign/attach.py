"""Attach rules to a model: what a user holds while they are on it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import nn

from feedalign.assignment import Assigned, Named, Rules, assign, resolve
from feedalign.compiled import check_exported, tell_hooks_apart
from feedalign.delivery import Planner
from feedalign.errors import PointsError, SignalError, listing, nearest
from feedalign.hooks import Hooks
from feedalign.installed import owners, sweep
from feedalign.learned import NAME, LearnedFeedback
from feedalign.observe import Observation, undisturbed
from feedalign.points import Point, Points, candidates, means
from feedalign.rules import BroadcastRule, TransportRule
from feedalign.structure import Stated, Structure
from feedalign.summary import summary
from feedalign.taps import Outputs, Tap, parse
from feedalign.transport import Carrier
from feedalign.watch import ParameterWatch


def attach(
    model: nn.Module, rule: Named | Mapping[Points, Named], points: Points = "auto", output: Outputs = None, *,
    rows: Stated | None = None, error: Literal["reachable", "global"] = "reachable", example: Any = None,
) -> "Attachment":  # fmt: skip
    """Let ``model`` train by ``rule``: the loop, the loss and the optimiser stay as they are.

    Args:
        model: Any module. Attach before ``torch.compile`` and before wrapping it in DDP. What was compiled and called
            before is dropped, with a warning, since it could go on to run for the model without its rule.
        rule: What flows backward, such as ``feedalign.DFA(seed=0)``, or its short name, ``"dfa"``, see
            :func:`feedalign.rule`; or a dict that gives each group of points its own rule,
            ``{"conv*": FA(), "fc*": DFA()}``, with what ``points`` takes for its keys.
        points: Where the backward pass is cut: names, globs (``"layers.*"``), types, a predicate
            ``(name, module) -> bool``, ``"macro"`` (behind every repeated block), ``"micro"`` (also behind every
            sub-layer of it), or ``"auto"``. See :func:`feedalign.points.select`. For rules that transport through
            layers (FA and its kin) they name those layers, or modules that contain them; ``"auto"`` is all of them.
        output: Where the error is taken: modules by name or glob, ``"head"``, ``("classes", "boxes")``; fields of what
            the model returns, ``".logits"``, ``"[0]"``; or, by default, everything that it returns. Where it returns a
            scalar, a loss that is computed inside, the modules that the loss is computed from are found in the first
            forward pass. Tensors with the same rows form one error, side by side; others carry errors of their own.
        rows: Which dimensions are rows (samples, tokens, nodes), where that cannot be found out. Per point (name or
            glob) the dimension of its tensor that holds each row dimension of the error, ``{"lstm[0]": (1, 0)}`` for
            ``[T, N, D]`` under ``[N, T, C]``; ``None`` where the point has no such dimension, so that each of its rows
            receives the sum over it, ``{"encoder.*": (0, None)}``. Per output, by its name or ``""`` for what the model
            returns, the dimensions that are rows. By default they are found from what the output depends on, in the
            first forward pass that trains.
        error: ``"reachable"`` lets a point hear the outputs that are computed from it, so that towers which share
            nothing do not teach each other. ``"global"`` sends everything to every point, as published.
        example: One batch, as the model takes it: a tensor, a tuple of arguments, or a dict of named ones. Rows are
            found out on it at once. Needed by rules that learn their feedback (DKP, Kolen-Pollack, ...), whose shapes
            must be known before the optimiser is made.

    Returns:
        The attachment: ``print`` it, ``off()`` it for a while, ``remove()`` it.

    Raises:
        PointsError: No module, or several where one is meant, match ``points`` or ``output``; or the model has
            an attachment already; or an example is missing; or a module takes no hooks. Whatever is raised, the model
            is left as it was.
        ValueError: There is no rule of that name.

    Example:
        >>> handle = attach(model, DFA(seed=0), points="layers.*", output="head")
        >>> loss_fn(model(x), y).backward()  # the gradients are those of DFA
        >>> handle.remove()  # the model is bitwise what it was
    """
    if isinstance(model, torch._dynamo.OptimizedModule) or model._compiled_call_impl is not None:
        raise PointsError("The model is compiled already. Attach first: attach(model, ...), then torch.compile(model).")
    if isinstance(model, torch.jit.ScriptModule):
        raise PointsError(
            "The model is scripted or traced, and takes no hooks. Attach to the model that it was made from."
        )
    if _on_root(model) is not None:
        raise PointsError(
            "The model has an attachment already. Call its remove() before attaching another rule: "
            "feedalign.attached(model).remove()."
        )
    rule = resolve(rule)
    assigned = assign(model, rule, points)
    taps = parse(model, output)
    for each in assigned:
        for point in list(each.points):
            if any(point.module == tap.module and not point.at_input for tap in taps):
                if not point.found or len(each.points) == 1:
                    raise PointsError(
                        f"{point.module!r} is named both as a point and as the output. Leave it out of points=."
                    )
                each.points.remove(point)  # what is found by itself gives way to what is named
    if error not in ("reachable", "global"):
        raise ValueError(f"error must be 'reachable' or 'global'; found {error!r}.")
    structure = Structure(_stated(model, rows, assigned, taps), error == "reachable")
    tell_hooks_apart()
    handle = Attachment(model, rule, assigned, taps, structure)
    try:
        handle._put_on([each for each in assigned if each.rule.learns])
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
        output: Where the error is taken, as a name; ``None`` for what the model returns.
        targets: For rules that send targets (DRTP): set it before each forward pass, to class indices or values.
        last: Norms of the last backward pass's error and signals. Not recorded under ``torch.compile``, nor
            inside of ``torch.func``.
    """

    def __init__(
        self, model: nn.Module, rule: Rules, assigned: list[Assigned], taps: list[Tap], structure: Structure
    ) -> None:
        broadcast = [each for each in assigned if isinstance(each.rule, BroadcastRule)]
        super().__init__(
            model,
            [point for each in assigned for point in each.points],
            taps,
            [
                Planner(each.rule, i, structure=structure)
                for i, each in enumerate(broadcast)
                if isinstance(each.rule, BroadcastRule)
            ],
            {str(point): i for i, each in enumerate(broadcast) for point in each.points},
            structure,
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
        self._parameter_watch: ParameterWatch | None = None

    def _put_on(self, learning: list[Assigned]) -> None:
        """Change the model, now that nothing is left that could be refused."""
        self._store(learning)
        self._install()
        for carrier in self.carriers:
            self._cuts += carrier.install(self._installed)
        self._watch_parameters()

    def _watch_parameters(self) -> None:
        """Raise at the first gradient if no forward pass was seen: something else than ``forward`` trains the model."""
        if not self.points or not any(planner.rule.delivers for planner in self.planners):
            return

        def check() -> bool:
            if not self._began:
                raise SignalError(
                    f"A gradient arrived in {type(self.model).__name__}, but no forward pass of it was seen, so it "
                    "would train by backpropagation. A method that does not call the model is a forward pass of its "
                    "own: write handle.register_forward_method('its name'); or run the code inside "
                    "`with handle.forward(): ...`, with output= naming modules; or write `with handle.off(): ...` if "
                    "backpropagation is meant."
                )
            return False

        self._parameter_watch = ParameterWatch(check)
        self._parameter_watch.start(self.model)

    @property
    def output(self) -> str | None:
        """Where the error is taken, as a name or several; ``None`` for all that the model returns."""
        return None if self._taps == [Tap(None)] else ", ".join(map(str, self._taps))

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

    def _store(self, learning: list[Assigned]) -> None:
        if not learning:
            return
        if hasattr(self.model, NAME):
            raise PointsError(
                f"{type(self.model).__name__} has an attribute {NAME!r}, where {type(learning[0].rule).__name__} would "
                "keep the matrices it learns. Rename it."
            )
        self._learned = LearnedFeedback()
        self.model.add_module(NAME, self._learned)

    def _learn(self, example: Any) -> None:
        """Run the example to know the shapes of what is learned at the points."""
        learning = [planner for planner in self.planners if planner.rule.learns]
        if self._learned is None and (example is None or not self.planners):
            return
        if example is None:
            raise PointsError(
                f"{_names(self.rule)} learns feedback matrices, which must exist before the optimiser is made. Write "
                "attach(..., example=x) with one batch x, then make the optimiser."
            )
        args = example if isinstance(example, tuple) else () if isinstance(example, dict) else (example,)
        self._find_out(args, example if isinstance(example, dict) else {})
        if self._learned is None:
            return
        for carrier in self.carriers:
            carrier.start(self._learned)
        for planner in learning:
            if planner.error_width is None:
                raise PointsError("No point ran on example= with anything to train below it. Choose other points.")
            planner.start(self._learned, next(self.model.parameters()).device)

    def _find_out(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run the model once to know its shapes and rows, without a trace."""
        # An observation, so that nothing is delivered and nothing trains.
        before, self._observation = self._observation, Observation()
        try:
            with undisturbed(self.model), torch.enable_grad():
                self._call(*args, **kwargs)
        finally:
            self._observation.clear()
            self._observation = before

    def register_forward_method(self, name: str) -> None:
        """Let a method of the model be a forward pass too, as ``log_prob``, ``evaluate_actions`` or ``encode`` may be.

        A call of it then begins and ends a forward pass, and what it returns is the output, unless ``output=`` names
        modules. Calls of the model inside it are part of it. ``remove()`` takes it off again. It is used as
        ``torch.distributed.fsdp.register_fsdp_forward_method`` is.

        Args:
            name: Of the method.

        Raises:
            PointsError: The model has no such method.
        """
        method = getattr(type(self.model), name, None)
        if not callable(method):
            methods = [key for key in dir(type(self.model)) if callable(getattr(type(self.model), key))]
            raise PointsError(f"{type(self.model).__name__} has no method {name!r}.{nearest(name, methods)}")
        if name == "forward":
            return
        self.model.__dict__[name] = ForwardMethod(self, name)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Let the code inside the ``with`` block be a forward pass, whatever it calls.

        Nothing is returned that could carry the error, so ``output=`` must name modules. The loss may be computed
        inside or after the block.

        Raises:
            SignalError: The error is taken at what the model returns.
        """
        if any(tap.module is None for tap in self._taps):
            raise SignalError(
                "handle.forward() expected output= to name the modules that the loss is computed from, since a block "
                f"of code returns nothing. Write attach(..., output='head'). {candidates(self.model)}"
            )
        unfit = [type(planner.rule).__name__ for planner in self.planners if planner.rule.replays]
        if unfit or self._stage is not None:
            raise SignalError(
                f"handle.forward() cannot be run again, as {', '.join(unfit) or 'two_pass'} needs. Write the block as "
                "a method of the model, and handle.register_forward_method('its name')."
            )
        with self._as_forward(self.model, (), {}):
            yield
            self._end(None, returned=False)

    @contextmanager
    def _as_forward(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
        """Let calls of the model inside the block be part of one forward pass, which ``call`` runs."""
        before, self._call = self._call, call
        try:
            check_exported(self)
            self._begin(args, kwargs)
            self._method = True
            yield
        finally:
            self._method, self._call = False, before
            if self._stage is None:
                self._drop_pass()

    @contextmanager
    def off(self) -> Iterator[None]:
        """Train by plain backpropagation inside the ``with`` block.

        The hooks are taken off the model for that time, so that it can also be exported, traced, scripted, or copied
        without the rule. Blocks may be nested.
        """
        self._began = True
        if torch.compiler.is_compiling() or not self._on:  # hooks cannot change while they are traced
            before, self._on = self._on, False
            try:
                yield
            finally:
                self._on = before
            return
        self._on, _off[self.model] = False, self
        methods = self._take_methods()
        try:
            with self._installed.paused():
                yield
        finally:
            _off.pop(self.model, None)
            self._on = bool(self._installed)  # unless removed inside the block
            if self._on:
                self.model.__dict__.update(methods)

    def _take_methods(self) -> dict[str, "ForwardMethod"]:
        """Take off the methods that were registered as forward passes, and return them."""
        methods = {name: value for name, value in vars(self.model).items() if isinstance(value, ForwardMethod)}
        for name in methods:
            del self.model.__dict__[name]
        return methods

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
        self._take_methods()
        if self._parameter_watch is not None:
            self._parameter_watch.remove()
        self._cuts, self._on = [], False
        _off.pop(self.model, None)

    def __repr__(self) -> str:
        return summary(self)

    def __getstate__(self) -> dict[str, Any]:
        kept = (
            "_parameter_watch",
            "_closed",
            "_recording",
            "_observation",
            "_stage",
            "_first",
            "_collector",
            "_result",
            "_norms",
        )
        return {**self.__dict__, **dict.fromkeys(kept), "known": {}}


class ForwardMethod:
    """A method of a model that is run as a forward pass.

    Args:
        handle: The attachment.
        name: Of the method.
    """

    def __init__(self, handle: Attachment, name: str) -> None:
        self._handle = handle
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the method."""
        handle = self._handle
        method = getattr(type(handle.model), self._name)
        if handle._method:  # inside another one
            return method(handle.model, *args, **kwargs)
        with handle._as_forward(self, args, kwargs):
            handle._method = True
            return handle._end(method(handle.model, *args, **kwargs), returned=True)


def _names(rules: Rules) -> str:
    return ", ".join(type(rule).__name__ for rule in (rules.values() if isinstance(rules, Mapping) else [rules]))


def _stated(model: nn.Module, rows: Stated | None, assigned: list[Assigned], taps: list[Tap]) -> dict[str, Any]:
    """Return ``rows=`` after a check that every key means a point or an output."""
    points = [str(point) for each in assigned for point in each.points]
    outputs = {tap.module or "" for tap in taps}
    for key, dims in (rows or {}).items():
        if key not in outputs and not any(means(key.split("[")[0], point.split("[")[0]) for point in points):
            raise PointsError(
                f"rows= names {key!r}, which is neither a point nor an output.{nearest(key, points)} The points are: "
                f"{', '.join(points)}. What the model returns is called ''."
            )
        if not isinstance(dims, tuple | list):
            raise PointsError(f"rows={{{key!r}: ...}} expected a tuple of dimensions such as (1, 0), found {dims!r}.")
    return {key: tuple(dims) for key, dims in (rows or {}).items()}
