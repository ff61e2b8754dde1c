"""Symbolic traces of a module's forward (``torch.fx``): what reads what, known before anything has run."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def is_container(module: nn.Module) -> bool:
    """Return whether a module only holds others: a list, a dict or a plain sequence, no class of its own."""
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        return type(module).forward is nn.Module.forward
    return type(module) is nn.Sequential


def has_parameters(module: nn.Module) -> bool:
    """Return whether the module or one inside of it has parameters."""
    return next(module.parameters(), None) is not None


class _Tracer(fx.Tracer):
    """Traces through the user's own modules down to PyTorch's layers, or the one forward and containers only."""

    def __init__(self, deep: bool) -> None:
        super().__init__()
        self.deep = deep

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if is_container(m):
            return False
        return not self.deep or super().is_leaf_module(m, module_qualified_name)


def trace(module: nn.Module, deep: bool) -> fx.Graph | None:
    """Return the graph of a module's forward; ``None`` if it cannot be traced.

    Args:
        module: The module. It, its buffers, and PyTorch's random numbers are left as they were; hooks do not run.
        deep: Whether to trace through the forward of the user's own modules inside, or take each as one operation.
    """
    with _unchanged(module), catch_warnings(), torch.random.fork_rng(devices=[]):
        simplefilter("ignore")
        try:
            return _Tracer(deep).trace(module)
        except Exception:  # noqa: BLE001 - a forward may raise anything when run on proxies; then it is not traced
            return None


def reached(node: fx.Node) -> set[fx.Node]:
    """Return the operations whose result depends on the node's."""
    seen: set[fx.Node] = set()
    stack = list(node.users)
    while stack:
        reader = stack.pop()
        if reader not in seen:
            seen.add(reader)
            stack.extend(reader.users)
    return seen


def is_last(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Return whether no operation with parameters depends on the node's result."""
    return not any(_uses_parameters(reader, modules) for reader in reached(node))


def read_first(graph: fx.Graph, modules: dict[str, nn.Module]) -> set[str]:
    """Return the modules with parameters that read an input of the graph, with no other such module in between."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    return {str(node.target) for node in _nearest(inputs, modules, lambda node: list(node.users))}


def made_last(graph: fx.Graph, modules: dict[str, nn.Module]) -> set[str | None]:
    """Return the modules with parameters that the output is made of, with no other such module in between.

    ``None`` is among them if an input reaches the output by a path without any.
    """
    outputs = [node for node in graph.nodes if node.op == "output"]
    found = _nearest(outputs, modules, lambda node: node.all_input_nodes)
    return {str(node.target) if node.op == "call_module" else None for node in found}


def _nearest(
    starts: list[fx.Node], modules: dict[str, nn.Module], step: Callable[[fx.Node], list[fx.Node]]
) -> set[fx.Node]:
    """Return the first modules with parameters, and the inputs, that ``step`` leads to."""
    seen: set[fx.Node] = set()
    found: set[fx.Node] = set()
    stack = [node for start in starts for node in step(start)]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "placeholder" or (node.op == "call_module" and has_parameters(modules[str(node.target)])):
            found.add(node)
        else:
            stack.extend(step(node))
    return found


def _uses_parameters(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return has_parameters(modules[str(node.target)])
    read = [str(source.target).rpartition(".") for source in node.all_input_nodes if source.op == "get_attr"]
    return any(owner in modules and key in modules[owner]._parameters for owner, _, key in read)


@contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    """Take off the hooks, and then take back what a forward wrote on its modules: attributes and buffers."""
    attributes: list[tuple[dict[str, Any], dict[str, Any]]] = [(m.__dict__, dict(m.__dict__)) for m in module.modules()]
    for now, _ in attributes:
        now.update({hooks: OrderedDict() for hooks in HOOKS if now.get(hooks)})
    buffers = [(b, b.clone(), b._version) for b in module.buffers() if not is_lazy(b) and not b.is_inference()]
    try:
        yield
    finally:
        for now, before in attributes:
            for name in [name for name in now if name not in before]:
                del now[name]
            now.update(before)
        with torch.no_grad():
            for buffer, value, version in buffers:
                if buffer._version != version:
                    buffer.copy_(value)
