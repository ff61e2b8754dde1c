"""The user's own backward hooks: which of them a rule keeps from running, said when it happens first.

PyTorch runs a module's full backward hooks when a gradient arrives at the output that the module's caller received.
Behind a point that output is cut off, and the gradient arrives above the cut.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import Tensor, nn

from feedalign.first import CheckingGates
from feedalign.graph import is_gate
from feedalign.installed import Installed
from feedalign.tree import flatten, is_floating

if TYPE_CHECKING:
    from feedalign.hooks import Hooks

INSTEAD = (
    "Register them on a module inside, or Tensor.register_hook on a tensor there; handle.last has norms of signals."
)


class BackwardHooks:
    """What one attachment has to do with the backward hooks of the user's."""

    def __init__(self, attachment: Hooks) -> None:
        self.attachment = attachment
        self.searched = False
        """Whether a forward pass has looked for hooks on modules that are no points."""
        self._said: set[str] = set()
        self._cut: set[str] = set()  # the modules whose hooks cannot run
        self._installed = Installed()
        self._originals: list[tuple[dict[int, Any], dict[int, Any]]] = []

    def search(self) -> None:
        """Look at the outputs of all modules that have backward hooks, in the forward pass that begins now.

        In the one whose graph is kept whole, backward passes also run to ask what would arrive where. The hooks take
        part in none of those in the forward pass, and once in the two of the first step, which are alike.
        """
        self.stop()
        self.searched = True
        everywhere = torch.nn.modules.module
        if everywhere._global_backward_hooks or everywhere._global_backward_pre_hooks:
            self._say(
                "every module",
                "Backward hooks that are registered for every module do not run on modules whose output is cut off.",
            )
        first = self.attachment._first
        for name, module in self.attachment.model.named_modules():
            if has_any(module):
                self._installed.behind(module, name, partial(self._check, name))
                if first is not None:
                    self._wrap(name, module, first.gates)

    def _wrap(self, name: str, module: nn.Module, gates: CheckingGates) -> None:
        # Weak: the graph holds the hooks, and the gates hold tensors of the graph.
        for hooks in (module._backward_hooks, module._backward_pre_hooks):
            self._originals.append((hooks, dict(hooks)))
            hooks.update({n: partial(self._run, name, hook, ref(gates), []) for n, hook in hooks.items()})

    def _run(self, name: str, hook: Callable[..., Any], gates: ref[CheckingGates], found: list[Any], *args: Any) -> Any:
        """Run a hook of the user's once, and let its second pass find what it returned in the first."""
        if self.attachment._first is not None or name in self._cut:
            return None
        those = gates()
        if those is not None and those.nested:
            found.append(hook(*args))
            return found[-1]
        return found.pop(0) if found else hook(*args)

    def stop(self) -> None:
        """End what :meth:`search` began."""
        if self.searched:
            self._installed.remove()
            for hooks, originals in self._originals:
                hooks.update({n: hook for n, hook in originals.items() if n in hooks})
            self._originals.clear()

    def _check(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        leaves = [leaf for leaf in flatten(output)[0] if is_floating(leaf)]
        sources = [*(leaf for leaf in flatten(args)[0] if isinstance(leaf, Tensor)), *module.parameters()]
        wanted = torch.is_grad_enabled() and any(source.requires_grad for source in sources)
        if leaves and wanted and not any(leaf.requires_grad and not _is_cut(leaf) for leaf in leaves):
            self.cut(name)

    def cut(self, name: str) -> None:
        """Warn once that the hooks of a module cannot run, since its output is cut off."""
        self._cut.add(name)
        self._say(
            name,
            f"The backward hooks of {name!r} cannot run: its output is cut off there, so no gradient arrives at it. "
            f"{INSTEAD}",
        )

    def without_input(self, name: str) -> None:
        """Warn once that the hooks of a module do not see the gradient of its input."""
        self._say(
            name,
            f"The backward hooks of {name!r} run with grad_output, and with None for grad_input: the rule forms the "
            "gradient of its input outside of the module.",
        )

    def _say(self, name: str, what: str) -> None:
        if name not in self._said and not torch.compiler.is_compiling():
            self._said.add(name)
            warnings.warn(what, stacklevel=2)


def _is_cut(leaf: Tensor) -> bool:
    """Return whether a tensor is cut off from what made it, in the first forward pass, where gates stand for cuts."""
    return leaf.grad_fn is not None and is_gate(leaf.grad_fn)


def has_any(module: nn.Module) -> bool:
    """Return whether a module has backward hooks of any kind."""
    return bool(module._backward_hooks or module._backward_pre_hooks)
