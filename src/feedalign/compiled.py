"""Other ways to run a model than calling it: what was compiled before a rule was attached, and what is exported."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from feedalign.errors import SignalError
from feedalign.feedback.feedback import dense, kept

if TYPE_CHECKING:
    from feedalign.hooks import Hooks


def check_exported(hooks: Hooks) -> None:
    """Raise if the model is being exported or traced while a rule is on: the result would hold cuts and splices.

    Raises:
        SignalError: It is. ``torch.jit.script``, which runs nothing, is refused by :class:`feedalign.installed.Hook`.
    """
    traced = torch._C._get_tracing_state() is not None
    if traced or torch.compiler.is_exporting():
        raise SignalError(
            f"{'torch.jit.trace' if traced else 'torch.export'} runs the model with an attachment that is on "
            f"({hooks._title}), whose cuts and splices belong to training. Export the plain model, also to ONNX: write "
            "`with handle.off():` around the call. feedalign.attached(model) returns the handle."
        )


def eagerly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call ``function`` as it is, also where ``torch.compile`` runs a model in pieces.

    It could trace a piece of what a rule does that cannot be compiled, and leave out the rest.
    """
    if not _DISABLED:
        _DISABLED.append(torch._dynamo.disable(_call))  # type: ignore[no-untyped-call]
    return _DISABLED[0](function, *args, **kwargs)


def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


_DISABLED: list[Callable[..., Any]] = []  # made when it is needed, since it imports torch's compiler


def tell_hooks_apart() -> None:
    """Let ``torch.compile`` compile again for a model that hooks were added to, as every attachment adds.

    By default (``torch._dynamo.config.skip_nnmodule_hook_guards``) PyTorch takes it that a model without hooks never
    gets any. What it has compiled for the model, or for another one like it, would go on to serve once a rule is
    attached, and the model would train by backpropagation. So that default is changed, and what was compiled under it
    is dropped, with a warning, since compiling again may take long.
    """
    # Under torch.compile the numbers are constants of the graph: drawing them is not to be traced. They are marked here
    # and not where they are defined, since the mark imports torch's compiler, which takes as long as torch itself.
    simulated = sys.modules.get("feedalign.feedback.simulated")  # imported if the rule sends by light or by an array
    for function in (kept, dense, *([] if simulated is None else [simulated.constant_settings])):
        torch.compiler.assume_constant_result(function)  # type: ignore[no-untyped-call]
    config = torch._dynamo.config
    if not getattr(config, "skip_nnmodule_hook_guards", False):
        return
    config.skip_nnmodule_hook_guards = False
    compiled = _anything_compiled()
    torch.compiler.reset()
    if compiled:
        warnings.warn(
            "Something was compiled before attach(), and could have gone on to run for this model without its rule. So "
            "all that was compiled is dropped (torch.compiler.reset()) and compiled again when it is next called. To "
            "compile once, attach before the first call of anything that torch.compile made.",
            stacklevel=3,
        )


def _anything_compiled() -> bool:
    """Return whether code is alive that was compiled in this process; False where this PyTorch does not tell."""
    codes = getattr(getattr(torch._dynamo.convert_frame, "output_codes", None), "seen", ())
    return any(code() is not None for code in codes)


def hint() -> str:
    """Return what to add to a complaint that hooks did not run, if compiled code may be why; else nothing."""
    if not getattr(torch._dynamo.config, "skip_nnmodule_hook_guards", False):
        return ""
    return (
        " If it was compiled: what torch.compile made before attach() may have run again, since "
        "torch._dynamo.config.skip_nnmodule_hook_guards was set back to True. Set it to False, and call "
        "torch.compiler.reset()."
    )
