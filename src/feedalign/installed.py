"""The hooks that an attachment puts on a model: all of them or none, off for a while, found again on a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from feedalign.compiled import eagerly
from feedalign.errors import PointsError, SignalError

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_MARKS = ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
"""Where ``nn.Module`` keeps forward hooks, and what it notes of each by the same number."""


class NotScriptableError(SignalError, AttributeError):
    """``torch.jit.script`` met the hooks of an attachment. Also an AttributeError, so that ``hasattr`` says no."""


class Hook(partial[Any]):
    """A method of an attachment, or of one of its carriers, as it is registered on a module.

    ``torch.jit.script`` compiles the hooks of a module, and asks each for its name first. These cannot be compiled, so
    they have none, and say why.
    """

    @property
    def owner(self) -> Any:
        """The attachment that the hook belongs to."""
        function: Any = self.args[0] if self.func is eagerly else self.func
        while isinstance(function, partial):
            function = function.func
        bound = function.__self__
        return getattr(bound, "attachment", bound)

    @property
    def __name__(self) -> str:
        raise NotScriptableError(
            f"torch.jit.script cannot compile the hooks of an attachment ({self.owner._title}). Script the plain "
            "model: write `with handle.off():` around the call. feedalign.attached(model) returns the handle."
        )


class Installed:
    """The hooks of one attachment, in the order in which they were registered."""

    def __init__(self) -> None:
        self.eager = False
        """Whether what is registered from now on is to be kept from ``torch.compile``."""
        self._handles: list[RemovableHandle] = []

    def before(self, module: nn.Module, name: str, function: Callable[..., Any], **options: bool) -> RemovableHandle:
        """Register a forward pre-hook; ``name`` is the module's, for the error.

        Raises:
            PointsError: The module takes no hooks.
        """
        return self._add(module.register_forward_pre_hook, module, name, function, options)

    def behind(self, module: nn.Module, name: str, function: Callable[..., Any], **options: bool) -> RemovableHandle:
        """Register a forward hook; ``name`` is the module's, for the error.

        Raises:
            PointsError: The module takes no hooks.
        """
        return self._add(module.register_forward_hook, module, name, function, options)

    def _add(
        self, register: Any, module: nn.Module, name: str, function: Callable[..., Any], options: dict[str, bool]
    ) -> RemovableHandle:
        try:
            handle: RemovableHandle = register(Hook(eagerly, function) if self.eager else Hook(function), **options)
        except Exception as error:  # whatever a module of the user's own raises
            where = f"module {name!r}" if name else "the model itself"
            raise PointsError(
                f"No hook can be put on {where} ({type(module).__name__}): {type(error).__name__}: {error}. Name other "
                "modules with points= and output=, or attach to the model as it was before torch.jit.script."
            ) from error
        self._handles.append(handle)
        return handle

    def __bool__(self) -> bool:
        return bool(self._handles)

    def remove(self) -> None:
        """Take all hooks off for good."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take all hooks off for the ``with`` block; afterwards each is back in its place among other hooks.

        Hooks that are registered or removed inside the block stay so.
        """
        own: dict[int, tuple[dict[int, Any], set[int]]] = {}
        for handle in self._handles:
            hooks = handle.hooks_dict_ref()
            if hooks is not None and handle.id in hooks:
                own.setdefault(id(hooks), (hooks, set()))[1].add(handle.id)
        before = [(hooks, numbers, dict(hooks)) for hooks, numbers in own.values()]
        for hooks, numbers, _ in before:
            for number in numbers:
                del hooks[number]
        try:
            yield
        finally:
            if self._handles:  # else they were removed for good inside the block
                for hooks, numbers, were in before:
                    now = dict(hooks)
                    hooks.clear()
                    hooks.update({n: hook for n, hook in were.items() if n in numbers or n in now})
                    hooks.update(now)


def sweep(model: nn.Module, owner: object) -> None:
    """Remove every hook of ``owner`` from a model, also one whose registration was interrupted half-way."""
    for module in model.modules():
        for place in _HOOKS:
            hooks = getattr(module, place)
            for number in [n for n, hook in hooks.items() if isinstance(hook, Hook) and hook.owner is owner]:
                del hooks[number]
                for mark in _MARKS:
                    getattr(module, mark).pop(number, None)


def owners(module: nn.Module) -> Iterator[Any]:
    """Yield the attachments that have a hook on the input of a module."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, Hook):
            yield hook.owner
