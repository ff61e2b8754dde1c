"""One norm of the gradients of all stages."""

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from feedalign.pipelining.stage import Stage


def clip_grad_norm_(stage: Stage, max_norm: float) -> Tensor:
    """Scale the gradients of all stages so that their common norm is ``max_norm`` at most; every process calls it.

    All stages wait for each other here, so that every step of the pipeline is a first step: it takes ``(S - 1) f``
    longer. ``torch.nn.utils.clip_grad_norm_(part.parameters(), max_norm)`` clips each stage by itself, and waits for
    none.

    Args:
        stage: This process's stage.
        max_norm: The largest norm that is left as it is.

    Returns:
        The norm of all gradients before.

    Raises:
        ValueError: ``max_norm`` is not above 0.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0, found {max_norm}.")
    parameters = [parameter for parameter in stage.submod.parameters() if parameter.grad is not None]
    own = torch.zeros((), device=stage.device)
    if parameters:
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        own = (norm.full_tensor() if isinstance(norm, DTensor) else norm).detach().float().square().to(stage.device)
    distributed.all_reduce(own, group=stage.group)
    total = own.sqrt()
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, total)
    return total
