"""Which parameters lie in a block: between a point's tensor and the gates below it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from feedalign.cosine import row_cosines
from feedalign.graph import GATE
from feedalign.learned import NAME


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that a rule trains, by name: not the frozen ones, nor feedback that is learned."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad and not n.startswith(f"{NAME}.")}


def reached(tensor: Tensor, parameters: Sequence[Tensor]) -> set[int]:
    """Return the numbers of the parameters in the block that ends at ``tensor``: above the gates of other points."""
    numbers: dict[Tensor, int] = {parameter: i for i, parameter in enumerate(parameters)}
    found: set[int] = set()
    seen: set[Node] = set()
    stack = [tensor.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen or node.name() == GATE:
            continue
        seen.add(node)
        stack.extend(below for below, _ in node.next_functions)
        number = numbers.get(getattr(node, "variable", tensor))
        found |= set() if number is None else {number}
    return found


def merged(blocks: Sequence[set[int]]) -> list[set[int]]:
    """Return the blocks, those made one that share parameters, also by way of others; without empty ones."""
    found: list[set[int]] = []
    for block in blocks:
        shared = [other for other in found if other & block]
        found = [other for other in found if not other & block] + [block.union(*shared)]
    return [block for block in found if block]


def sample_cosines(
    tensor: Tensor, signal: Tensor, truth: Tensor, rows: Tensor, chosen: Sequence[int], parameters: Sequence[Tensor]
) -> list[Tensor]:
    """Return, for each chosen row, the cosine of the gradients that it causes in the parameters of one block.

    Args:
        tensor: What the block returned, with its graph.
        signal: What the rule delivers there, in the tensor's shape.
        truth: The true gradient there.
        rows: The number of the row that each element of the tensor is in, in a shape that expands to the tensor's.
        chosen: The rows to measure; each takes two backward passes through the block.
        parameters: Those of the block.
    """
    if not parameters:
        return []

    def caused(at_point: Tensor, row: int) -> Tensor:
        found = torch.autograd.grad(tensor, parameters, at_point.where(rows == row, 0), retain_graph=True)
        return torch.cat([(each.to_dense() if each.is_sparse else each).flatten() for each in found])

    return [row_cosines(caused(signal, row), caused(truth, row), 1) for row in chosen]
