"""Times, sizes and rates as they are written on a command line: ``16.5ms``, ``64MiB``, ``50GB/s``."""

import re

from feedalign.cli.failures import UsageError

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
BYTES = {
    "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
    "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40,
}  # fmt: skip
RATES = {f"{unit}/s": value for unit, value in BYTES.items()} | {
    f"{prefix}bit/s": value / 8 for prefix, value in (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9))
}


def seconds(text: str, option: str) -> float:
    """Return a time in seconds."""
    return _quantity(text, option, SECONDS, "a time such as 16.5ms")


def size(text: str, option: str) -> float:
    """Return a size in bytes."""
    return _quantity(text, option, BYTES, "a size such as 64MiB")


def rate(text: str, option: str) -> float:
    """Return bytes per second."""
    return _quantity(text, option, RATES, "a rate such as 50GB/s")


def _quantity(text: str, option: str, units: dict[str, float], what: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*(\S+)?\s*", text)
    unit = found[2] if found else None
    if found is None or (unit not in units and not (unit is None and float(found[1]) == 0)):
        raise UsageError(f"--{option} expected {what}, found {text!r}. The units are {', '.join(units)}.")
    return float(found[1]) * (units[unit] if unit is not None else 1.0)
