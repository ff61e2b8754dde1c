"""What a module returns, taken apart into tensors and put together again.

Tensors, tuples, lists, dicts and everything registered with PyTorch's pytrees (named tuples, the outputs of
Hugging Face models) work, and so do plain dataclasses.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree  # the registry that torch.func, torch.export and DDP use


def flatten(value: object) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """Return the leaves of ``value`` and the function that rebuilds it from as many leaves."""
    if isinstance(value, Tensor):
        return [value], lambda leaves: leaves[0]
    if dataclasses.is_dataclass(value) and type(value) not in pytree.SUPPORTED_NODES:
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        leaves, spec = pytree.tree_flatten(fields)
        return leaves, lambda new: dataclasses.replace(value, **pytree.tree_unflatten(new, spec))  # type: ignore[type-var]
    leaves, spec = pytree.tree_flatten(value)
    return leaves, lambda new: pytree.tree_unflatten(new, spec)


def is_floating(leaf: object) -> bool:
    """Return whether a leaf is a tensor that can carry a gradient."""
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())
