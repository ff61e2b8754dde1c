"""Where a rule that learns its feedback keeps it: in one module of the model, as parameters."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from feedalign.cosine import as_real
from feedalign.watch import in_transform

NAME = "feedalign"
"""What the module is called in the model, and so in its ``state_dict``."""
PATIENCE = 200
"""After so many gradients and no change at all, nobody can be training it: more than any accumulated batch has."""


class LearnedFeedback(nn.Module):
    """The matrices that rules learn, by the name of the point or weight that they belong to.

    They are parameters of the model while the rule is attached, so the model's optimiser trains them, ``state_dict``
    holds them, and DDP averages their gradients. It also counts the forward passes that recorded gradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forwards = 0
        self._witness: tuple[str, float] | None = None  # the first matrix that was taught, and the sum of its numbers
        self._lessons = 0  # how many it has had

    def add(self, name: str, value: Tensor) -> None:
        """Start to learn a matrix."""
        self.register_parameter(_stored(name), nn.Parameter(value.detach().clone()))

    def get(self, name: str) -> Tensor | None:
        """Return the matrix of that name as it is now, None if none is learned.

        It is the parameter, or what ``torch.func.functional_call`` has put in its place.
        """
        return getattr(self, _stored(name), None)

    def taught(self, name: str) -> None:
        """Note that a matrix is given a gradient; warn once if it has had many and no optimiser ever acts on it."""
        if torch.compiler.is_compiling() or in_transform() or self._lessons >= PATIENCE:
            return
        matrix = self.get(name)
        if not isinstance(matrix, nn.Parameter) or not matrix.requires_grad:
            return  # functional_call has put a tensor in its place, or it is frozen on purpose
        if self._witness is None:
            self._witness = (name, _sum(matrix))
        if name != self._witness[0]:
            return
        self._lessons += 1
        if self._lessons == PATIENCE and _sum(matrix) == self._witness[1]:
            warnings.warn(
                f"The feedback that the rule learns has received {PATIENCE} gradients and never changed, so no "
                "optimiser trains it: the rule is one of fixed feedback. Make the optimiser after attach(model, ...), "
                "which adds the matrices to model.parameters().",
                stacklevel=2,
            )

    def forward(self, passed: Any) -> Any:
        """Return what comes in: an ``nn.Sequential`` runs every module it holds, this one last."""
        return passed

    def get_extra_state(self) -> Tensor:
        """Return the count, for ``state_dict``."""
        return torch.tensor(self.forwards)

    def set_extra_state(self, state: Any) -> None:
        """Restore the count."""
        self.forwards = int(state)


def _sum(matrix: Tensor) -> float:
    return float(as_real(matrix.detach()).double().sum())


def _stored(name: str) -> str:
    return name.replace(".", "/")  # PyTorch allows no dots in the name of a parameter
