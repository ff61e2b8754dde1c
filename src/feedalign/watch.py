"""Whether an error has arrived: nothing else would show that a wrong output was named."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle


def in_backward() -> bool:
    """Return whether this thread is in the middle of a backward pass (a checkpointed block runs again there)."""
    return torch._C._current_graph_task_id() != -1


def in_transform() -> bool:
    """Return whether this runs inside ``torch.func.grad``, ``vmap`` and the like, on tensors of that transform."""
    return torch._C._functorch.maybe_current_level() is not None


def in_nested_gradient() -> bool:
    """Return whether this runs inside ``torch.func.grad`` (or ``vjp``, ``jacrev``) that is itself differentiated."""
    stack = torch._C._functorch.get_interpreter_stack() or []
    return sum(level.key() == torch._C._functorch.TransformType.Grad for level in stack) > 1


def watch(returned: Iterable[Tensor], expected: set[Node], check: Callable[[], None]) -> None:
    """Call ``check`` at the end of a backward pass that leaves the model by another way than it should.

    Args:
        returned: What the model returns; a gradient at one of these starts the question.
        expected: The nodes that the error must pass. A backward pass that could reach one is in order.
        check: Raises if no error has arrived by then.
    """

    def ask(node: Node | None) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if not _reaches(node, expected):
                # Another tensor that was returned may still lead there: ask when all is done.
                torch.autograd.Variable._execution_engine.queue_callback(check)

        return hook

    for tensor in returned:
        if tensor.requires_grad:
            tensor.register_hook(ask(tensor.grad_fn))  # type: ignore[no-untyped-call]


class ParameterWatch:
    """Calls ``check`` when a first gradient arrives at any parameter of a model, and then watches no more.

    Args:
        check: Returns whether to go on watching; may raise.
    """

    def __init__(self, check: Callable[[], bool]) -> None:
        self._check = check
        self._hooks: list[RemovableHandle] = []

    def start(self, model: nn.Module) -> None:
        """Put hooks on the parameters of a model."""
        for parameter in model.parameters():
            if parameter.requires_grad:
                self._hooks.append(parameter.register_hook(self._arrived))  # type: ignore[no-untyped-call]

    def _arrived(self, gradient: Tensor) -> None:
        if self._hooks and not in_transform() and not self._check():
            self.remove()

    def remove(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __getstate__(self) -> dict[str, Any]:
        return {"_check": None, "_hooks": []}  # copies of parameters have no hooks


def _reaches(start: Node | None, targets: set[Any]) -> bool:
    seen: set[Any] = set()
    stack: list[Any] = [start]
    while stack:
        node = stack.pop()
        if node in targets:
            return True
        if node is not None and node not in seen:
            seen.add(node)
            stack.extend(following for following, _ in node.next_functions)
    return False
