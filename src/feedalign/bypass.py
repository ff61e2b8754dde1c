"""Whether the error reaches a block by a way that no point cuts, such as a skip connection around the points."""

from collections.abc import Iterable, Sequence

from torch import Tensor
from torch.autograd.graph import Node

from feedalign.recording import Recording


def bypassed(outputs: Sequence[Tensor], recording: Recording) -> list[str]:
    """Return the points below which the error also arrives by backpropagation, through what no point cuts.

    Call it before the splice: then the graph above the points and the graphs below them share no operation, unless
    something leads around the points. Parameters used in both (tied weights) are no such thing.

    Args:
        outputs: The output's tensors.
        recording: The forward pass, with the uncut tensors of the points.
    """
    above = _operations(tensor.grad_fn for tensor in outputs)
    return [
        arrival.point
        for arrival, tensor in zip(recording.trained(), recording.tensors, strict=True)
        if above & _operations([tensor.grad_fn])
    ]


def _operations(roots: Iterable[Node | None]) -> set[Node]:
    """Return the operations that lead to ``roots``, without parameters and what merely reshapes or casts one."""
    seen: set[Node] = set()
    stack = [root for root in roots if root is not None]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(below for below, _ in node.next_functions if below is not None)
    return {node for node in seen if not _of_parameter(node)}


def _of_parameter(node: Node) -> bool:
    while len(node.next_functions) == 1 and node.next_functions[0][0] is not None:
        node = node.next_functions[0][0]
    return hasattr(node, "variable")  # AccumulateGrad, the leaf of the graph
