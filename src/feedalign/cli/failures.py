"""What the command line says, and returns, when something goes wrong. Imports nothing that may be missing."""

import os

VARIABLE = "FEEDALIGN_TRACEBACK"
# Modules that an extra brings, by the names under which Python misses them.
OPTIONAL = {
    **dict.fromkeys(
        ("accelerate", "jinja2", "markupsafe", "matplotlib", "numpy", "pooch", "rich", "scipy", "sklearn", "tyro"),
        "vision",
    ),
    **dict.fromkeys(("optuna", "torch_geometric"), "graph"),
    "polars": "ctr",
    "tokenizers": "lm",
    **dict.fromkeys(("PIL", "skimage"), "nerf"),
}


def wants_traceback() -> bool:
    """Return whether errors are to be shown as Python shows them."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


def code(error: BaseException) -> int:
    """Return the exit code: 130 stopped, 1 a failed run or an error of the program, 2 what a user can mend."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"KeyboardInterrupt", "Interrupted"}:
        return 130
    if "DivergedError" in names:
        return 1
    return 2 if _mendable(error, names) else 1


def message(error: BaseException) -> str:
    """Return what to tell the user about an error."""
    if isinstance(error, KeyboardInterrupt):
        return "Stopped."
    if isinstance(error, ModuleNotFoundError) and (module := _top(error)) in OPTIONAL:
        extra = OPTIONAL[module]
        return f'This command needs the package {module!r}, which is not installed: pip install "feedalign[{extra}]"'
    if _mendable(error, {kind.__name__ for kind in type(error).__mro__}):
        return str(error)
    return (
        f"Unexpected {type(error).__name__}: {error}\n"
        f"This is a fault of the program or of the model it was given. Set {VARIABLE}=1 to see where it happened."
    )


def _mendable(error: BaseException, names: set[str]) -> bool:
    if isinstance(error, ModuleNotFoundError):
        return _top(error) in OPTIONAL
    return isinstance(error, ValueError | OSError) or bool(names & {"ExperimentError", "SignalError", "UsageError"})


def _top(error: ModuleNotFoundError) -> str:
    return (error.name or "").partition(".")[0]


class UsageError(Exception):
    """A command was given something it cannot work with."""
