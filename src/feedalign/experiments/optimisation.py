"""Optimisers and learning rate schedules by name."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, StepLR


@dataclass(frozen=True)
class OptimiserConfig:
    """How gradients change weights.

    Attributes:
        name: ``"sgd"`` or ``"adam"``.
        learning_rate: At the start.
        momentum: Of SGD.
        weight_decay: L2 penalty, added to the gradient.
    """

    name: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0

    def build(self, model: nn.Module, undecayed: Collection[nn.Parameter] = ()) -> torch.optim.Optimizer:
        """Return the optimiser of all parameters.

        Args:
            model: What is trained.
            undecayed: Parameters without weight decay.

        Raises:
            ValueError: There is none of that name.
        """
        spared = {id(parameter) for parameter in undecayed}
        decayed = [parameter for parameter in model.parameters() if id(parameter) not in spared]
        groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": self.weight_decay}]
        if undecayed:
            groups.append({"params": list(undecayed), "weight_decay": 0.0})
        if self.name == "sgd":
            return torch.optim.SGD(groups, self.learning_rate, momentum=self.momentum)
        if self.name == "adam":
            return torch.optim.Adam(groups, self.learning_rate)
        raise ValueError(f"Expected an optimiser out of sgd, adam, found {self.name!r}.")


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate changes from step to step.

    Attributes:
        name: ``"constant"``; ``"cosine"`` falls to zero at the last step; ``"step"`` multiplies now and then.
        every: Epochs between two multiplications of ``"step"``.
        factor: What ``"step"`` multiplies by.
    """

    name: Literal["constant", "cosine", "step"] = "constant"
    every: int = 10
    factor: float = 0.1

    def build(self, optimiser: torch.optim.Optimizer, epochs: int, steps: int) -> LRScheduler:
        """Return the schedule for so many epochs of so many steps.

        Raises:
            ValueError: There is none of that name.
        """
        if self.name == "constant":
            return ConstantLR(optimiser, factor=1.0)
        if self.name == "cosine":
            return CosineAnnealingLR(optimiser, max(1, epochs * steps))
        if self.name == "step":
            return StepLR(optimiser, self.every * steps, self.factor)
        raise ValueError(f"Expected a schedule out of constant, cosine, step, found {self.name!r}.")
