"""Optimisers and learning rate schedules by name.

Two pairs: :class:`OptimiserConfig` with :class:`ScheduleConfig` for short runs, and :class:`AdamConfig` with
:class:`PaceConfig`, which warms up and listens to the validation loss, for long ones. They are apart so that the
records of the one know nothing of the settings of the other.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)


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


@dataclass(frozen=True)
class AdamConfig:
    """Adam or RAdam with all their settings. The defaults are those of the language model of Launay et al. 2020.

    Attributes:
        name: ``"adam"`` (Kingma & Ba 2015) or ``"radam"``, rectified (Liu et al. 2020).
        learning_rate: What the schedule multiplies: 1 for Noam's, which makes rates of its own.
        beta1: How much of the mean gradient is kept from step to step.
        beta2: The same of the mean square.
        epsilon: Added to the root of the mean square.
        weight_decay: L2 penalty, added to the gradient.
        clip: Gradients of all parameters together that are longer are cut down to this norm; ``None`` leaves them.
            The training loop does it, behind gradient accumulation.
    """

    name: Literal["adam", "radam"] = "adam"
    learning_rate: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-9
    weight_decay: float = 0.0
    clip: float | None = 0.5

    def __post_init__(self) -> None:
        if self.name not in ("adam", "radam"):
            raise ValueError(f"Expected an optimiser out of adam, radam, found {self.name!r}.")
        if not (isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"Expected a learning rate above 0, found {self.learning_rate}.")
        for name, beta in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0 <= beta < 1:
                raise ValueError(f"Expected {name} of at least 0 and below 1, found {beta}.")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"Expected clip above 0, found {self.clip}. Leave it out (None) to clip nothing.")

    def build(self, model: nn.Module, rates: Mapping[str, float] | None = None) -> torch.optim.Optimizer:
        """Return the optimiser of all parameters.

        Args:
            model: What is trained.
            rates: What the learning rate of some modules is multiplied by, by their names, as in
                ``{"blocks.0": 0.5}``. Of several that contain a parameter, the longest name counts.

        Raises:
            ValueError: No parameter lies in a module of such a name.
        """
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            inside = [module for module in rates or {} if name == module or name.startswith(f"{module}.")]
            groups.setdefault(max(inside, key=len, default=""), []).append(parameter)
        for module in rates or {}:
            if module not in groups:
                raise ValueError(f"Expected the name of a module with parameters of its own rate, found {module!r}.")
        factors = {"": 1.0, **(rates or {})}
        kind = torch.optim.Adam if self.name == "adam" else torch.optim.RAdam
        return kind(
            [{"params": group, "lr": self.learning_rate * factors[module]} for module, group in groups.items()],
            lr=self.learning_rate,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            weight_decay=self.weight_decay,
        )


class OnPlateau(ReduceLROnPlateau):
    """A schedule that lowers the rate when the validation loss no longer falls, and otherwise steps like any other."""

    def step(self, *_: Any) -> None:
        """Change nothing: a training step was done."""

    def observe(self, loss: float) -> None:
        """Take note of a validation loss; lower the learning rate if there were too many without a better one."""
        super().step(loss)


@dataclass(frozen=True)
class PaceConfig:
    r"""How the learning rate :math:`\eta` changes over a long run. Step :math:`s` is 1 for the first one.

    Attributes:
        name: ``"noam"``: :math:`\eta D^{-1/2} \min(s^{-1/2}, s w^{-3/2})` with the width :math:`D` of the model and
            :math:`w` steps of warm-up (Vaswani et al. 2017). ``"constant"``. ``"cosine"``: a straight warm-up to
            :math:`\eta`, then half a cosine to zero. ``"one-cycle"``: from :math:`\eta / 25` up to :math:`\eta` and
            down to almost nothing, with beta1 falling while the rate rises (Smith & Topin 2018; PyTorch's).
            ``"plateau"``: multiplies when the validation loss no longer falls.
        warmup: Steps until the rate is highest, for ``"noam"`` and ``"cosine"``.
        factor: What ``"plateau"`` multiplies by.
        patience: Validations without a lower loss that ``"plateau"`` tolerates.
    """

    name: Literal["noam", "constant", "cosine", "one-cycle", "plateau"] = "noam"
    warmup: int = 4000
    factor: float = 0.2
    patience: int = 1

    def __post_init__(self) -> None:
        names = ("noam", "constant", "cosine", "one-cycle", "plateau")
        if self.name not in names:
            raise ValueError(f"Expected a schedule out of {', '.join(names)}, found {self.name!r}.")
        if self.warmup < 1 or self.patience < 0 or not 0 < self.factor < 1:
            raise ValueError(
                "Expected at least 1 step of warm-up, a patience of at least 0 and a factor between 0 and 1, found "
                f"{self.warmup}, {self.patience} and {self.factor}."
            )

    def build(self, optimiser: torch.optim.Optimizer, steps: int, width: int) -> LRScheduler:
        """Return the schedule. Its ``step()`` is called after every step of the optimiser.

        One that listens to the validation loss is an :class:`OnPlateau`, and is told it by ``observe(loss)``.

        Args:
            optimiser: Whose learning rates are changed, those of all groups in proportion.
            steps: Of the whole run.
            width: ``D``.
        """
        match self.name:
            case "noam":
                return LambdaLR(optimiser, self._noam(width))
            case "cosine":
                return LambdaLR(optimiser, self._cosine(steps))
            case "one-cycle":
                rates = [group["lr"] for group in optimiser.param_groups]
                return OneCycleLR(optimiser, rates, total_steps=max(1, steps))
            case "plateau":
                return OnPlateau(optimiser, factor=self.factor, patience=self.patience)
            case _:
                return ConstantLR(optimiser, factor=1.0)

    def _noam(self, width: int) -> Any:
        return lambda done: width**-0.5 * min((done + 1) ** -0.5, (done + 1) * self.warmup**-1.5)

    def _cosine(self, steps: int) -> Any:
        def multiple(done: int) -> float:
            if done < self.warmup:
                return (done + 1) / self.warmup
            return (1 + cos(pi * min(1.0, (done - self.warmup) / max(1, steps - self.warmup)))) / 2

        return multiple
