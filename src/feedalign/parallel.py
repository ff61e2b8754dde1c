"""What :func:`feedalign.two_pass` asks of ``DistributedDataParallel``, which averages each gradient when it comes.

Gradients that come block by block are averaged like any others, as long as each parameter has its own once.
"""

from torch.nn.parallel import DistributedDataParallel

from feedalign.errors import SignalError


def averaged(stepping: bool) -> bool:
    """Return whether the forward pass that begins now is one whose gradients are averaged over processes.

    Args:
        stepping: Whether an optimiser steps each block at once.

    Raises:
        SignalError: The gradients would be wrong on every process.
    """
    wrapper = DistributedDataParallel._get_active_ddp_module()  # type: ignore[no-untyped-call]
    if wrapper is None:
        return False
    if stepping:
        raise SignalError(
            "two_pass with an optimiser steps each block at once, before DistributedDataParallel has averaged its "
            "gradients over the processes. Leave the optimiser out, and call optimizer.step() afterwards."
        )
    if not wrapper.require_backward_grad_sync:  # inside of no_sync()
        return False
    for option in ("find_unused_parameters", "static_graph"):
        if getattr(wrapper, option):
            raise SignalError(
                f"two_pass expected DistributedDataParallel without {option}=True, which looks for gradients in the "
                "graph of the forward pass, and found it set. Leave it out; freeze parameters that get no gradient "
                "with requires_grad_(False) before wrapping the model."
            )
    return True
