"""One optimiser of tables with sparse gradients and of everything else."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from feedalign.experiments.models.click_layers import ClickNetwork
from feedalign.experiments.optimisation import OptimiserConfig


class ClickOptimiser:
    """Adam, in its lazy form for tables with sparse gradients; gradients are clipped over all parameters first.

    The lazy form changes the rows of a table that a batch names, and their moments, and no others. Adam itself would
    go on moving the others by their moments: the two are not the same optimiser.

    Args:
        config: How gradients change weights.
        network: What is trained.
        clip: The norm that gradients are shortened to; ``None`` leaves them.

    Attributes:
        dense: The optimiser of what has dense gradients.
        sparse: That of the other parameters, None where there are none.
    """

    def __init__(self, config: OptimiserConfig, network: ClickNetwork, clip: float | None = None) -> None:
        tables = network.sparse_tables()
        held = {id(table) for table in tables}
        others = nn.ParameterList([parameter for parameter in network.parameters() if id(parameter) not in held])
        self.dense = config.build(others)
        self.sparse = torch.optim.SparseAdam(tables, config.learning_rate) if tables else None
        self.parameters = [*others, *tables]
        self.clip = clip

    @property
    def both(self) -> list[torch.optim.Optimizer]:
        """The optimisers."""
        return [self.dense] if self.sparse is None else [self.dense, self.sparse]

    def step(self) -> None:
        """Clip, and change the weights."""
        if self.clip is not None:
            shorten(self.parameters, self.clip)
        for optimiser in self.both:
            optimiser.step()

    def zero_grad(self) -> None:
        """Take the gradients away."""
        for optimiser in self.both:
            optimiser.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        return {str(number): optimiser.state_dict() for number, optimiser in enumerate(self.both)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put a state back."""
        for number, optimiser in enumerate(self.both):
            optimiser.load_state_dict(state_dict[str(number)])


def shorten(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale the gradients down so that their norm over all parameters is at most ``limit``; return the norm before.

    PyTorch's own function does not take sparse gradients.
    """
    with torch.no_grad():
        for parameter in (parameters := list(parameters)):
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()  # a category named twice has one gradient, their sum
        values = [one.grad._values() if one.grad.is_sparse else one.grad for one in parameters if one.grad is not None]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values)))
        torch._foreach_mul_(values, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm
