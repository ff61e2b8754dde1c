"""What a module returns, taken apart into tensors and put together again.

Tensors, tuples, lists, dicts and everything registered with PyTorch's pytrees (named tuples, the outputs of
Hugging Face models) work; so do dataclasses and ``torch.distributions``, wherever they are, and any other object that
holds tensors as attributes, if it is the whole of what is returned. (Inside of something else such an object is left
alone: a cache of keys and values, which rides along with the output, is no part of it.)
"""

import copy
import dataclasses
from collections.abc import Callable, MutableMapping, Sequence
from types import FunctionType, MethodType, ModuleType, NoneType
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils import _pytree as pytree  # the registry that torch.func, torch.export and DDP use

from feedalign.errors import SignalError

Rebuild = Callable[[Sequence[Any]], Any]
_OPAQUE = (Tensor, nn.Module, NoneType, str, bytes, int, float, complex, type, FunctionType, MethodType, ModuleType)
"""These hold no tensors of an output."""
INSTEAD = "Return tensors, tuples, dicts or dataclasses, or name a module that does with points= or output=."


def flatten(value: object) -> tuple[list[Any], Rebuild]:
    """Return the leaves of ``value`` and the function that rebuilds it from as many leaves.

    Raises:
        SignalError: An object refers to itself; or, when it is rebuilt, it cannot be copied or its attributes not set.
    """
    if isinstance(value, Tensor):
        return [value], lambda leaves: leaves[0]
    return _flatten(value, whole=True, above=())


def is_floating(leaf: object) -> bool:
    """Return whether a leaf is a tensor that can carry a gradient."""
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def _flatten(value: object, whole: bool, above: tuple[int, ...]) -> tuple[list[Any], Rebuild]:
    leaves, spec = pytree.tree_flatten(value)
    inner = whole and len(leaves) == 1 and leaves[0] is value  # else what is in it is inside of something registered
    opened: dict[int, tuple[list[Any], Rebuild]] = {}
    for place, leaf in enumerate(leaves):
        found = None if isinstance(leaf, _OPAQUE) else _open(leaf, inner, above)
        if found is not None:
            opened[place] = found
    if not opened:
        return leaves, lambda new: pytree.tree_unflatten(new, spec)
    parts = [opened[place][0] if place in opened else [leaf] for place, leaf in enumerate(leaves)]

    def rebuild(new: Sequence[Any]) -> Any:
        found, rest = [], iter(new)
        for place, part in enumerate(parts):
            own = [next(rest) for _ in part]
            found.append(opened[place][1](own) if place in opened else own[0])
        return pytree.tree_unflatten(found, spec)

    return [leaf for part in parts for leaf in part], rebuild


def _open(leaf: object, whole: bool, above: tuple[int, ...]) -> tuple[list[Any], Rebuild] | None:
    """Return the leaves of an object with tensors among its attributes, and how to rebuild it; None for all others."""
    if not (whole or dataclasses.is_dataclass(leaf) or isinstance(leaf, Distribution)):
        return None
    if id(leaf) in above:
        raise SignalError(
            f"An output of type {type(leaf).__name__} refers to itself, so it cannot be taken apart into tensors. "
            f"{INSTEAD}"
        )
    items = isinstance(leaf, MutableMapping)  # a dict of a class of its own, which pytrees do not know
    parts: dict[Any, Any] = dict(leaf) if isinstance(leaf, MutableMapping) else _attributes(leaf)
    found = {name: _flatten(part, whole=True, above=(*above, id(leaf))) for name, part in parts.items()}
    if not any(isinstance(each, Tensor) for leaves, _ in found.values() for each in leaves):
        return None

    def rebuild(new: Sequence[Any]) -> Any:
        rest = iter(new)
        parts = {name: again([next(rest) for _ in leaves]) for name, (leaves, again) in found.items()}
        return _with(leaf, parts, items)

    return [each for leaves, _ in found.values() for each in leaves], rebuild


def _attributes(value: object) -> dict[str, Any]:
    """Return the attributes that an object holds: fields, slots, and what is in its ``__dict__``, by name."""
    names = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else slots
    names += getattr(value, "__dict__", {})
    return {name: getattr(value, name) for name in dict.fromkeys(names) if hasattr(value, name)}


def _with(value: object, parts: dict[Any, Any], items: bool) -> Any:
    """Return a copy of an object with other parts; its ``__init__`` is not run again."""
    try:
        new: Any = copy.copy(value)
        frozen = getattr(getattr(value, "__dataclass_params__", None), "frozen", False)
        for name, part in parts.items():
            if items:
                new[name] = part
            elif frozen:
                object.__setattr__(new, name, part)
            elif getattr(new, name) is not part:
                setattr(new, name, part)
    except Exception as error:  # whatever a class of the user's own raises
        raise SignalError(
            f"An output of type {type(value).__name__} cannot be made again with other tensors: "
            f"{type(error).__name__}: {error}. {INSTEAD}"
        ) from error
    return new
