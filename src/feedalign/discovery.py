"""Points found by themselves: repeated blocks, sub-layers of blocks, and the non-linearities of a plain chain."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from feedalign.errors import PointsError

NON_LINEARITIES: tuple[type[nn.Module], ...] = tuple(
    getattr(nn, name) for name in nn.modules.activation.__all__ if name not in ("MultiheadAttention", "Softmax2d")
)
NORMALISATIONS: tuple[type[nn.Module], ...] = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
)
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

_NAMES = [
    "relu", "relu6", "tanh", "sigmoid", "gelu", "elu", "selu", "celu", "silu", "mish", "softplus", "leaky_relu",
    "hardtanh", "hardswish", "hardsigmoid", "rrelu", "prelu", "glu", "logsigmoid", "softsign", "tanhshrink",
]  # fmt: skip
FUNCTIONS: set[Callable[..., Any]] = {
    getattr(space, name) for space in (F, torch) for name in _NAMES if hasattr(space, name)
}
METHODS = {name for name in _NAMES if hasattr(torch.Tensor, name)}


def blocks(model: nn.Module) -> list[str]:
    """Return the repeated blocks: modules of one composite class of which the model has two or more.

    Of blocks within blocks the outermost count. Containers are no blocks, nor are modules without children.
    """
    members: defaultdict[type[nn.Module], list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        composite = next(module.children(), None) is not None and not isinstance(module, CONTAINERS)
        if name and composite and next(module.parameters(), None) is not None:
            members[type(module)].append(name)
    repeated = [name for names in members.values() if len(names) > 1 for name in names]
    outermost = [name for name in repeated if not any(name.startswith(other + ".") for other in repeated)]
    order = [name for name, _ in model.named_modules()]
    return sorted(outermost, key=order.index)


def sublayers(model: nn.Module) -> list[str]:
    """Return the blocks, and within them every normalisation and non-linearity.

    PyTorch's own Transformer layers call their non-linearity as a function; its ``dropout`` module comes right
    after and stands for it, which is where Launay et al. 2020 cut too.
    """
    found = []
    for block in blocks(model):
        for name, module in model.get_submodule(block).named_modules():
            owner = model.get_submodule(".".join([block, *name.split(".")][:-1])) if name else None
            after_function = isinstance(owner, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer)
            if isinstance(module, NON_LINEARITIES + NORMALISATIONS) or (after_function and name == "dropout"):
                found.append(f"{block}.{name}")
        found.append(block)
    return found


def chain(model: nn.Module) -> list[str]:
    """Return the points behind the non-linearities of a plain chain, those written as functions included.

    A functional non-linearity has no module to cut behind, so the point is the input of the layer that reads it.
    A non-linearity with no layer after it shapes the output itself and is no point.

    Raises:
        PointsError: A functional non-linearity is read by several layers, so cutting one of them would not cut.
    """
    graph = _trace(model)
    if graph is None:
        return _modules_in_order(model)
    modules = dict(model.named_modules())
    found: list[str] = []
    for node in graph.nodes:
        if not _is_non_linearity(node, modules):
            continue
        readers = list(dict.fromkeys(_readers(node, modules)))
        if node.op == "call_module" and readers:
            found.append(str(node.target))
        elif len(readers) == 1:
            found.append(f"{readers[0]}:input")
        elif readers:
            raise PointsError(
                f"The result of the function {node.name!r} is read by several layers ({', '.join(readers)}), so "
                "points='auto' cannot cut it. Make it a module (nn.ReLU() and the like), or name the points."
            )
    return list(dict.fromkeys(found))


def _modules_in_order(model: nn.Module) -> list[str]:
    """Return the non-linearity modules that are followed by a layer with parameters, in the order of definition."""
    leaves = [(name, module) for name, module in model.named_modules() if next(module.children(), None) is None]
    with_parameters = [i for i, (_, module) in enumerate(leaves) if next(module.parameters(), None) is not None]
    last = max(with_parameters, default=0)
    return [name for name, module in leaves[:last] if name and isinstance(module, NON_LINEARITIES)]


class _LayersAreLeaves(fx.Tracer):
    """Traces through the user's own modules down to layers, or not into children at all."""

    def __init__(self, shallow: bool) -> None:
        super().__init__()
        self.shallow = shallow

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, CONTAINERS):
            return False
        return self.shallow or super().is_leaf_module(m, module_qualified_name)


def _trace(model: nn.Module) -> fx.Graph | None:
    for shallow in (False, True):
        try:
            return _LayersAreLeaves(shallow).trace(model)
        except Exception:  # noqa: BLE001 - a model may raise anything when run on proxies; then it is not traced
            continue
    return None


def _is_non_linearity(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], NON_LINEARITIES)
    return (node.op == "call_function" and node.target in FUNCTIONS) or (
        node.op == "call_method" and node.target in METHODS
    )


def _readers(node: fx.Node, modules: dict[str, nn.Module]) -> Iterator[str]:
    """Yield the layers with parameters that read the node's value, directly or through operations without any."""
    for user in node.users:
        if user.op == "call_module" and next(modules[str(user.target)].parameters(), None) is not None:
            yield str(user.target)
        elif user.op != "output":
            yield from _readers(user, modules)
