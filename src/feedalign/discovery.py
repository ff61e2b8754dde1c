"""Points found by themselves: repeated blocks, sub-layers of blocks, and the non-linearities of plain chains."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from feedalign.errors import PointsError
from feedalign.repeated import blocks
from feedalign.tracing import has_parameters, is_container, trace

NON_LINEARITIES: tuple[type[nn.Module], ...] = tuple(
    getattr(nn, name) for name in nn.modules.activation.__all__ if name not in ("MultiheadAttention", "Softmax2d")
)
NORMALISATIONS: tuple[type[nn.Module], ...] = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
)

_NAMES = [
    "relu", "relu6", "tanh", "sigmoid", "gelu", "elu", "selu", "celu", "silu", "mish", "softplus", "leaky_relu",
    "hardtanh", "hardswish", "hardsigmoid", "rrelu", "prelu", "glu", "logsigmoid", "softsign", "tanhshrink",
]  # fmt: skip
FUNCTIONS: set[Callable[..., Any]] = {
    getattr(space, name) for space in (F, torch) for name in _NAMES if hasattr(space, name)
}
METHODS = {name for name in _NAMES if hasattr(torch.Tensor, name)}


def sublayers(model: nn.Module) -> list[str]:
    """Return the blocks, and within them every normalisation and non-linearity.

    PyTorch's own Transformer layers call their non-linearity as a function; its ``dropout`` module comes right
    after and stands for it, which is where Launay et al. 2020 cut too.
    """
    found = []
    for block in blocks(model):
        owners = dict(model.get_submodule(block).named_modules())
        for name, module in owners.items():
            owner = owners[name.rpartition(".")[0]] if name else None
            after_function = isinstance(owner, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer)
            if isinstance(module, NON_LINEARITIES + NORMALISATIONS) or (after_function and name == "dropout"):
                found.append(f"{block}.{name}")
        found.append(block)
    return found


def chain(model: nn.Module) -> list[str]:
    """Return the points behind the non-linearities of plain chains, those written as functions included.

    A functional non-linearity has no module to cut behind, so the point is the input of the layer that reads it.
    A non-linearity with no layer after it shapes the output itself and is no point. Parts of the model that its forward
    leaves out (a critic that another method calls) are chains of their own.

    Raises:
        PointsError: A functional non-linearity is read by several layers, so cutting one of them would not cut.
    """
    modules = dict(model.named_modules())
    graph = trace(model, deep=True)
    if graph is None:
        # Functions with several readers are left uncut: here the trace of a part is no more than a help.
        functions = [point for point, readers in _functions(model, "") if readers == 1]
        return list(dict.fromkeys([*_modules_in_order(model), *functions]))
    found: list[str] = []
    for node in graph.nodes:
        if not _is_non_linearity(node, modules):
            continue
        readers = _readers(node, modules)
        if node.op == "call_module" and readers:
            found.append(str(node.target))
        elif len(readers) == 1:
            found.append(f"{readers[0]}:input")
        elif readers:
            raise PointsError(
                f"The result of the function {node.name!r} is read by several layers ({', '.join(readers)}), so "
                "points='auto' cannot cut it. Make it a module (nn.ReLU() and the like), or name the points."
            )
    for name in _left_out(graph, model):
        found += [f"{name}.{point}" for point in chain(modules[name])]
    return list(dict.fromkeys(found))


def _modules_in_order(model: nn.Module) -> list[str]:
    """Return the non-linearity modules that are followed by a layer with parameters, in the order of definition."""
    leaves = [(name, module) for name, module in model.named_modules() if next(module.children(), None) is None]
    with_parameters = [i for i, (_, module) in enumerate(leaves) if has_parameters(module)]
    last = max(with_parameters, default=0)
    return [name for name, module in leaves[:last] if name and isinstance(module, NON_LINEARITIES)]


def _functions(module: nn.Module, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield the points of functional non-linearities in what can be traced, each with how many layers read it."""
    deep = trace(module, deep=True)
    graph = deep or trace(module, deep=False)
    modules = dict(module.named_modules())
    for node in graph.nodes if graph is not None else ():
        if node.op != "call_module" and _is_non_linearity(node, modules):
            readers = _readers(node, modules)
            yield from ((f"{prefix}{reader}:input", len(readers)) for reader in readers)
    if deep is None:
        for name, child in _parts(module):
            yield from _functions(child, f"{prefix}{name}.")


def _parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules with modules inside that a module owns, with nothing but containers in between."""
    for name, child in module.named_children():
        if is_container(child):
            yield from _parts(child, f"{prefix}{name}.")
        elif next(child.children(), None) is not None:
            yield f"{prefix}{name}", child


def _left_out(graph: fx.Graph, model: nn.Module) -> list[str]:
    """Return the parts of a model with parameters that its traced forward uses nothing of."""
    used = {""}
    for node in graph.nodes:
        name = str(node.target) if node.op in ("call_module", "get_attr") else ""
        while name not in used:
            used.add(name)
            name = name.rpartition(".")[0]
    return [
        name
        for name, module in model.named_modules()
        if name not in used and name.rpartition(".")[0] in used and has_parameters(module)
    ]


def _is_non_linearity(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], NON_LINEARITIES)
    return (node.op == "call_function" and node.target in FUNCTIONS) or (
        node.op == "call_method" and node.target in METHODS
    )


def _readers(node: fx.Node, modules: dict[str, nn.Module]) -> list[str]:
    """Return the layers with parameters that read the node's value, directly or through operations without any."""
    found: dict[str, None] = {}
    seen: set[fx.Node] = set()
    stack = list(node.users)
    while stack:
        user = stack.pop(0)
        if user in seen:
            continue
        seen.add(user)
        if user.op == "call_module" and has_parameters(modules[str(user.target)]):
            found[str(user.target)] = None
        else:
            stack.extend(user.users)
    return list(found)
