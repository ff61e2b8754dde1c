"""How the processes of a job find each other, again after a restart."""

import os
from datetime import timedelta

from torch import distributed
from torch._C._distributed_c10d import PrefixStore, TCPStore

VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")


def init_process_group(backend: str | None = None, timeout: float = 600.0) -> None:
    """Join the processes that ``torchrun`` has started; use it where you would call ``torch.distributed``'s own.

    ``torchrun --max-restarts`` starts all processes again when one has failed, and they meet in the store of the
    process that watches them. There the addresses of the life before are still written, and processes that read them
    cannot connect. So every life has keys of its own in that store.

    Args:
        backend: ``"gloo"``, ``"nccl"``, ...; by default what torch chooses.
        timeout: Seconds after which a collective operation gives up.

    Raises:
        RuntimeError: The process was not started by ``torchrun``.
    """
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise RuntimeError(
            f"Expected a process that torchrun has started, and found no {', '.join(missing)} in its environment. "
            "Write torchrun --nproc-per-node 2 train.py."
        )
    host, port, rank, world = (os.environ[name] for name in VARIABLES)
    life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    # torchrun hosts the store itself; without it the first process does.
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    seconds = timedelta(seconds=timeout)
    store = TCPStore(
        host, int(port), int(world), is_master=rank == "0" and not hosted, timeout=seconds, wait_for_workers=False
    )
    distributed.init_process_group(
        backend,
        store=PrefixStore(f"life-{life}", store),
        rank=int(rank),
        world_size=int(world),
        timeout=seconds,
    )
