"""Questions to the autograd graph: what a tensor was made from, and what lies between two places."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

GATE = "_GateBackward"
"""How autograd calls what stands in for a cut while the graph is whole."""
_VIEWS = (
    "View", "Reshape", "UnsafeView", "Permute", "Transpose", "T", "Squeeze", "Unsqueeze", "Alias",
)  # fmt: skip
_ELEMENTWISE = (
    "Add", "Sub", "Mul", "Div", "Relu", "Gelu", "Silu", "Tanh", "Sigmoid", "Elu", "LeakyRelu", "Hardtanh", "Softplus",
    "NativeDropout", "NativeBatchNorm", "BatchNorm", "CudnnBatchNorm", "NativeGroupNorm", "Prelu", "Clamp", "ToCopy",
    "Alias", "Clone", "Mish", "Hardswish", "Squeeze", "Threshold", "SymbolicPrelu", "MaskedFill", "Pow",
)  # fmt: skip


def nodes_below(
    roots: Iterable[Node | None], stop: Collection[Any] = (), through: Collection[int] | None = None
) -> Iterator[Node]:
    """Yield every operation that leads to ``roots``, each once, not going below ``stop``.

    Args:
        roots: Operations.
        stop: Operations that are yielded and not followed.
        through: The numbers of the gates that are followed; ``None`` for all.
    """
    seen: set[Node] = set()
    stack = [root for root in roots if root is not None]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        if node not in stop and not (through is not None and is_gate(node) and node.number not in through):  # type: ignore[attr-defined]
            stack.extend(below for below, _ in node.next_functions if below is not None)


def training(nodes: Iterable[Node]) -> set[Node]:
    """Return those of some operations that lead down to anything that trains, not counting what lies behind gates."""
    above: dict[Node, list[Node]] = {}
    nodes = list(nodes)
    for node in nodes:
        for below, _ in node.next_functions if not is_gate(node) else ():
            if below is not None:
                above.setdefault(below, []).append(node)
    found: set[Node] = set()
    stack = [node for node in nodes if not node.next_functions and not is_gate(node)]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(above.get(node, ()))
    return found


def is_gate(node: Node) -> bool:
    """Return whether an operation stands in for a cut."""
    return type(node).__name__ == GATE


def gates_below(tensor: Tensor, gates: dict[Node | None, int]) -> set[int]:
    """Return the numbers of the gates, among ``gates``, that a tensor depends on."""
    return {gates[node] for node in nodes_below([tensor.grad_fn]) if node in gates}


def trains(tensor: Tensor) -> bool:
    """Return whether anything that trains lies between a tensor and the gates below it."""
    if not tensor.requires_grad:
        return False
    if tensor.grad_fn is None:
        return True
    return any(not node.next_functions and not is_gate(node) for node in nodes_below([tensor.grad_fn], through=()))


def is_convolution(tensor: Tensor) -> bool:
    """Return whether a tensor is a convolution's output, but for operations that act on each element by itself."""
    stack, seen = [tensor.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = type(node).__name__
        if name.startswith("Convolution") or name.startswith("MkldnnConvolution"):
            return True
        if name.rstrip("0123456789").removesuffix("Backward") in _ELEMENTWISE or name == GATE:
            stack.extend(below for below, _ in node.next_functions)
    return False


def same_values(tensor: Tensor, node: Node | None) -> bool:
    """Return whether a tensor holds just the values that ``node`` made, in another shape or type at most."""
    found = tensor.grad_fn
    while found is not None:
        if found is node:
            return True
        if type(found).__name__.rstrip("0123456789").removesuffix("Backward") not in _VIEWS:
            return False
        found = found.next_functions[0][0] if found.next_functions else None
    return False


def leaves_below(tensors: Iterable[Tensor], through: Collection[int] | None = None) -> set[Tensor]:
    """Return the parameters and other leaves that lead to tensors; ``through`` is that of :func:`nodes_below`."""
    tensors = list(tensors)
    leaves = {tensor for tensor in tensors if tensor.grad_fn is None}
    nodes = nodes_below((tensor.grad_fn for tensor in tensors), through=through)
    return leaves | {node.variable for node in nodes if hasattr(node, "variable")}


def executes(node: Node) -> bool:
    """Return whether the backward pass that is going on runs an operation."""
    return bool(torch._C._will_engine_execute_node(node))
