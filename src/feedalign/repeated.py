"""The repeated blocks of a model: what its author would call its layers, found by how its modules are nested.

A *series* is two or more modules of one class that one module owns, in a list or sequence or numbered by their names,
and that pass a stream from one to the next. Modules side by side (twin critics, experts, the heads of attention) are no
series. A trace of the owner's forward tells the two apart. Where it cannot be traced, modules count as a series unless
their own traces show that none could read what another makes.

Series may be nested. The inner modules are the blocks if the outer ones are *stages*: if they hold less than a block
beside the inner series, and either differ in their sizes or are no more than it has modules (the stages of Swin and
ResNet, an encoder and a decoder). Else the outer modules are the blocks, and what repeats inside is a part of a block.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from torch import fx, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from feedalign.tracing import has_parameters, is_container, is_last, made_last, reached, read_first, trace

ALIKE = 0.5
"""Two modules have one design if they share this part of their parameters, by name and shape."""
FEWEST_LAYERS = 2
"""With fewer layers that have weights, a module is a layer itself (a convolution with its normalisation, a pooler, a
graph convolution). Such modules are blocks only where no others are."""
WIDTHS = (
    ("in_features", "out_features"), ("in_channels", "out_channels"), ("embed_dim", "embed_dim"), ("nx", "nf"),
)  # fmt: skip
"""What layers call the widths that they read and make."""


@dataclass(eq=False)
class Node:
    """A module in the tree of modules."""

    name: str
    module: nn.Module = field(repr=False)
    place: int
    """Its place in the order of definition."""
    parent: "Node | None" = field(repr=False)
    children: "list[Node]" = field(default_factory=list, repr=False)
    end: int = 0
    """The first place behind it and all that is inside of it."""

    @cached_property
    def layers(self) -> int:
        """The number of layers with weights."""
        return has_weight(self.module) + sum(child.layers for child in self.children)

    @cached_property
    def graph(self) -> fx.Graph | None:
        """The trace of its own forward, in which modules inside are single operations."""
        return trace(self.module, deep=False)

    @cached_property
    def composite(self) -> bool:
        """Whether it is made of others, has parameters, and is more than a container."""
        return bool(self.children) and not is_container(self.module) and has_parameters(self.module)

    @property
    def key(self) -> str:
        """Its name in its parent."""
        return self.name.rpartition(".")[2]

    @property
    def listed(self) -> bool:
        """Whether it is an element of a list or sequence."""
        if self.parent is None:
            return False
        kind = type(self.parent.module)
        return issubclass(kind, nn.ModuleList) or kind.forward is nn.Sequential.forward

    def within(self) -> "Iterator[Node]":
        """Yield it and the modules inside of it, in the order of definition."""
        yield self
        for child in self.children:
            yield from child.within()

    def elements(self) -> "Iterator[Node]":
        """Yield the composite modules that it owns, with nothing but containers in between."""
        for child in self.children:
            if child.composite:
                yield child
            elif is_container(child.module):
                yield from child.elements()


@dataclass
class Tree:
    """The modules of a model."""

    nodes: list[Node]
    """In the order of definition, the model first. A parametrised layer is a layer: what is inside is left out."""
    last: int
    """The place of the last module with parameters of its own. A module with a second name is also at its place."""

    @property
    def root(self) -> Node:
        """The model."""
        return self.nodes[0]


@dataclass
class Found:
    """What was found inside of a module."""

    blocks: list[Node]
    others: list[Node]
    """Points of other classes: a stage without a series inside, a module of another class in a list of blocks."""

    def add(self, other: "Found") -> None:
        """Take in what was found elsewhere."""
        self.blocks += other.blocks
        self.others += other.others


def blocks(model: nn.Module) -> list[str]:
    """Return the names of the repeated blocks, in the order of definition.

    A block that no layer comes after shapes the output itself and is left out.
    """
    tree = module_tree(model)
    found = _inside(tree.root)
    layers: defaultdict[type[nn.Module], int] = defaultdict(int)
    for node in found.blocks:
        layers[type(node.module)] = max(layers[type(node.module)], node.layers)
    least = FEWEST_LAYERS if any(count >= FEWEST_LAYERS for count in layers.values()) else 1
    kinds = {kind for kind, count in layers.items() if count >= least}
    # A class that is a block in one place is one everywhere, such as between an encoder and a decoder.
    chosen = [node for node in tree.nodes[1:] if type(node.module) in kinds and node.composite]
    places = {node.place for node in chosen}
    chosen += [node for node in found.others if places.isdisjoint(range(node.place, node.end))]
    last = _last(tree)
    return [node.name for node in _outermost(chosen) if not last(node)]


def module_tree(model: nn.Module) -> Tree:
    """Return the tree of a model's modules."""
    nodes: list[Node] = []
    seen: set[nn.Module] = set()
    place = last = 0

    def grow(name: str, module: nn.Module, parent: Node | None) -> None:
        nonlocal place, last
        node = Node(name, module, place, parent)
        seen.add(module)
        nodes.append(node)
        if parent is not None:
            parent.children.append(node)
        if own_parameters(module):
            last = place
        place += 1
        for key, child in module._modules.items():
            if child is None or (key == "parametrizations" and is_parametrized(module)):
                continue
            if child not in seen:
                grow(f"{name}.{key}" if name else key, child, node)
            elif has_parameters(child):
                last, place = place, place + 1
        node.end = place

    grow("", model, None)
    return Tree(nodes, last)


def own_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that a module holds itself, and those that its parametrised ones are made from."""
    parametrizations = module._modules.get("parametrizations") if is_parametrized(module) else None
    sources = parametrizations.parameters() if parametrizations is not None else ()
    return [parameter for parameter in (*module._parameters.values(), *sources) if parameter is not None]


def _inside(owner: Node) -> Found:
    """Return the blocks inside of a module."""
    found = Found([], [])
    elements = list(owner.elements())
    series = _series(owner, elements)
    for nodes in series:
        found.add(_blocks_of(nodes))
    lists = {node.parent for node in found.blocks if node.parent and isinstance(node.parent.module, nn.ModuleList)}
    taken = {node for nodes in series for node in nodes}
    for node in elements:
        if node not in taken:
            inner = _inside(node)
            if not inner.blocks and node.parent in lists and node.layers >= FEWEST_LAYERS:
                inner.others.append(node)
            found.add(inner)
    return found


def _blocks_of(nodes: list[Node]) -> Found:
    """Return the modules of a series if they are blocks, or the blocks inside of them if they are stages."""
    alike = sum(_alike(a, b) for a, b in pairwise(nodes))
    if 0 < len(nodes) - 1 <= 2 * alike and len(_inside_stage(nodes[0]).blocks) < len(nodes):
        return Found(nodes, [])
    stages = {node: inner for node in nodes if _is_stage(node, inner := _inside_stage(node))}
    if not stages:
        return Found(nodes, [])
    found = Found([], [node for node in nodes if node not in stages])
    for inner in stages.values():
        found.add(inner)
    return found


def _is_stage(node: Node, inner: Found) -> bool:
    """Return whether a module holds blocks, and less than a block beside them."""
    beside = node.layers - sum(each.layers for each in (*inner.blocks, *inner.others))
    return bool(inner.blocks) and beside < FEWEST_LAYERS


def _inside_stage(node: Node) -> Found:
    found = _inside(node)
    found.blocks = [block for block in found.blocks if block.layers >= FEWEST_LAYERS]
    return found


def _series(owner: Node, elements: list[Node]) -> list[list[Node]]:
    """Return the series among the modules that ``owner`` owns."""
    classes: defaultdict[type[nn.Module], list[Node]] = defaultdict(list)
    for node in elements:
        classes[type(node.module)].append(node)
    return [nodes for nodes in map(_in_a_row, classes.values()) if _is_series(owner, nodes)]


def _in_a_row(nodes: list[Node]) -> list[Node]:
    """Return those modules of a class that are in lists, or whose names differ in a number alone (layer1, layer2)."""
    stems: defaultdict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        if not node.listed and re.search(r"\d", node.key):
            stems[re.sub(r"\d+[a-z]?(?![a-z])", "#", node.key)].append(node)
    listed = [node for node in nodes if node.listed]
    if len(listed) == 1:  # the first of a row may be outside of the list
        return nodes
    return [*listed, *(node for group in stems.values() if len(group) > 1 for node in group)]


def _is_series(owner: Node, nodes: list[Node]) -> bool:
    if len(nodes) < 2:
        return bool(nodes) and _alone(nodes[0])
    passes = _passes_on(owner, nodes)
    return _could_pass_on(nodes) if passes is None else passes


def _alone(node: Node) -> bool:
    """Return whether it is the one block of a list: in a model of one block, or one block that runs many times."""
    return node.listed and node.parent is not None and len(node.parent.children) == 1 and _could_pass_on([node])


def _passes_on(owner: Node, nodes: list[Node]) -> bool | None:
    """Return whether one module's result reaches another in the owner's forward; None if that is not known."""
    if owner.graph is None:
        return None
    start = len(owner.name) + 1 if owner.name else 0
    names = {node.name[start:] for node in nodes}
    calls = [call for call in owner.graph.nodes if call.op == "call_module" and call.target in names]
    if len({call.target for call in calls}) < 2:
        return None
    return any(reader.target != call.target for call in calls for reader in reached(call).intersection(calls))


def _could_pass_on(nodes: list[Node]) -> bool:
    """Return whether one module could read what another makes, by all that is known.

    It could not if traces of the modules show that all read one width and none makes it.
    """
    reads: set[int | None] = set()
    makes: set[int | None] = set()
    for node in nodes:
        graph = trace(node.module, deep=True)
        if graph is None:
            return True
        modules = dict(node.module.named_modules())
        first, last = read_first(graph, modules), made_last(graph, modules)
        if None in last:  # what came in goes out, as in a residual block
            return True
        reads |= {_widths(modules[name])[0] for name in first}
        makes |= {_widths(modules[name])[1] for name in last if name is not None}
    return len(reads) != 1 or None in reads | makes or not reads.isdisjoint(makes)


def _widths(layer: nn.Module) -> tuple[int | None, int | None]:
    """Return the widths that a layer reads and makes; None for what is not known."""
    for first, last in WIDTHS:
        found = getattr(layer, first, None), getattr(layer, last, None)
        if all(isinstance(width, int) and width > 0 for width in found):
            return found
    vectors = own_parameters(layer)
    if vectors and not any(is_lazy(p) or p.dim() != 1 for p in vectors):
        return len(vectors[0]), len(vectors[0])  # a normalisation
    return None, None


def has_weight(module: nn.Module) -> bool:
    """Return whether a module holds a matrix, or a stack of such, that is no table (of tokens, of positions).

    What a module of modules holds itself beside them, with a first dimension of 1, is such a table or a token.
    """
    if isinstance(module, nn.Embedding):
        return False
    alone = is_parametrized(module) or next(module.children(), None) is None
    return any(is_lazy(p) or (p.dim() > 1 and (alone or len(p) > 1)) for p in own_parameters(module))


def _alike(a: Node, b: Node) -> bool:
    """Return whether two modules have one design, sizes included."""
    first, second = (
        {(name, None if is_lazy(p) else p.shape) for name, p in each.module.named_parameters()} for each in (a, b)
    )
    return len(first & second) >= ALIKE * max(len(first), len(second))


def _outermost(nodes: list[Node]) -> list[Node]:
    """Return the nodes that are inside of no other, in the order of definition."""
    found: list[Node] = []
    for node in sorted(nodes, key=lambda node: node.place):
        if not found or node.place >= found[-1].end:
            found.append(node)
    return found


def _last(tree: Tree) -> Callable[[Node], bool]:
    """Return a function that says whether no layer comes after a block: by a trace, else by the order of definition."""
    graph = tree.root.graph
    calls: defaultdict[str, list[fx.Node]] = defaultdict(list)
    for call in graph.nodes if graph is not None else ():
        if call.op == "call_module":
            calls[str(call.target)].append(call)
    modules = dict(tree.root.module.named_modules())

    def last(node: Node) -> bool:
        if node.name in calls:
            return all(is_last(call, modules) for call in calls[node.name])
        return tree.last < node.end

    return last
