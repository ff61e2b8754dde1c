"""Where a result comes from: versions, commit, machine."""

import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGE = Path(__file__).parent.parent


def provenance(device: str) -> dict[str, Any]:
    """Return versions, device, threads, commit and whether the sources differ from it, for a record."""
    commit, dirty = source_commit()
    return {
        "versions": {
            "feedalign": version("feedalign"),
            "torch": str(torch.__version__),  # a subclass of str, which a safe checkpoint cannot hold
            "python": platform.python_version(),
            "numpy": version("numpy"),
        },
        "device": device,
        "threads": torch.get_num_threads(),
        "commit": commit,
        "dirty": dirty,
    }


def machine(record: dict[str, Any]) -> str:
    """Return what a record was made on, in words: ``"cpu with 2 threads"``."""
    threads = record["threads"]
    bound = " bound to cores" if record.get("threads_bound") else ""
    return f"{record['device']} with {threads} {'thread' if threads == 1 else 'threads'}{bound}"


def threads_bound() -> bool:
    """Return whether OpenMP keeps every CPU thread on a core of its own, as ``OMP_PROC_BIND=true`` asks it to."""
    return os.environ.get("OMP_PROC_BIND", "false").lower() not in ("", "false")


def source_commit(package: Path = PACKAGE) -> tuple[str | None, bool]:
    """Return the commit that the running sources belong to, and whether they differ from it.

    An installed package has none, ``(None, False)``, even where it lies inside somebody's repository.
    """
    tracked = _git(package, "ls-files", "--", ".")
    if not tracked:
        return None, False
    return _git(package, "rev-parse", "HEAD"), bool(_git(package, "status", "--porcelain", "--", "."))


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:  # git is not installed
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory in use so far: of the accelerator where there is one, else of the process.

    The process's peak never falls, so in a sweep it is that of the largest run until then.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
