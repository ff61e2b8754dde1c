"""The splice against a second, slow and plain implementation: one autograd call per block, no graph surgery.

Every point's output is replaced by a leaf; the error is the gradient at the output; each point's block is then
differentiated by itself with the signal ``e @ B_i``, where ``B_i`` comes from the seed once more.
"""

from collections import defaultdict

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from contract.rules import MEASURED, RULES
from contract.test_promises import CLOSE, attached
from feedalign.tree import flatten, is_floating
from zoo import ZOO, Exhibit, assert_same, batch, build, gradients, run

BROADCAST = [
    name for name, make in RULES.items() if name not in MEASURED and isinstance(make(), fa.DFA | fa.DKP | fa.FDFA)
]
# Here a signal is wanted per call of the model's parts, in pairs or per use, which this loop does not sort out.
PLAIN = [e for e in ZOO if e.name not in ("siamese", "mlp-reused-relu", "image-to-image")]


pytestmark = pytest.mark.usefixtures("float64")


def slow(exhibit: Exhibit, handle: fa.Attachment, inputs: tuple[Tensor, ...]) -> dict[str, Tensor | None]:
    model = build(exhibit).eval()
    uncut: list[tuple[str, Tensor, Tensor]] = []
    outputs: list[Tensor] = []
    for point in handle.points:
        module = model.get_submodule(point.module)
        if point.at_input:
            module.register_forward_pre_hook(lambda m, args, p=point: (cut(p, args[0], uncut), *args[1:]))
        else:
            module.register_forward_hook(lambda m, args, out, p=point: cut(p, out, uncut))
    tapped = model if exhibit.output is None else model.get_submodule(exhibit.output)
    tapped.register_forward_hook(lambda m, args, out: outputs.extend(t for t in flatten(out)[0] if is_floating(t)))
    loss = run(model, inputs)
    parts = torch.autograd.grad(loss, outputs, retain_graph=True)
    rows = outputs[0].shape[0] if outputs[0].dim() < 3 else outputs[0].shape[0] * outputs[0].shape[1]
    error = torch.cat([part.reshape(rows, -1) for part in parts], 1)
    matrices = dict(zip(handle.planner.layouts, handle.planner.matrices(), strict=True))
    total: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
    parameters = dict(model.named_parameters())

    def add(output: Tensor, signal: Tensor | None) -> None:
        found = torch.autograd.grad(output, list(parameters.values()), signal, allow_unused=True, retain_graph=True)
        for name, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                total[name] = total[name] + gradient

    add(loss, None)
    for number, (name, tensor, read) in enumerate(uncut):
        later = [each for _, each, _ in uncut[number + 1 :]]
        ends = [end for end in (loss, *later) if end.requires_grad]
        found = torch.autograd.grad(sum(end.sum() for end in ends), read, retain_graph=True, allow_unused=True)
        if found[0] is None:  # nothing reads it: the last state of a memory cell, say
            continue
        layout = handle.planner.layouts[name]
        narrow = [1 if dim in layout.repeated else size for dim, size in enumerate(layout.shape)]
        signal = (error @ matrices[name]).reshape(narrow).expand(layout.shape)
        add(tensor, signal)
    return {name: total.get(name) for name in parameters}


def cut(point: object, output: object, uncut: list[tuple[str, Tensor, Tensor]]) -> object:
    leaves, rebuild = flatten(output)
    floating = [i for i, leaf in enumerate(leaves) if is_floating(leaf)]
    for number, i in enumerate(floating):
        tensor = leaves[i]
        if tensor.requires_grad:
            leaf = getattr(point, "leaf", None)
            if leaf in (None, number):
                name = f"{point}[{number}]" if leaf is None and len(floating) > 1 else str(point)
                leaves[i] = tensor.detach().requires_grad_()
                uncut.append((name, tensor, leaves[i]))
            else:
                leaves[i] = tensor.detach()
    return rebuild(leaves)


@pytest.mark.parametrize("exhibit", PLAIN, ids=lambda exhibit: exhibit.name)
@pytest.mark.parametrize("name", BROADCAST)
def test_splice_equals_one_autograd_call_per_block(exhibit: Exhibit, name: str) -> None:
    inputs = batch(exhibit)
    model, handle = attached(exhibit, RULES[name]())
    found = gradients(model.eval(), inputs)
    assert_same(found, slow(exhibit, handle, inputs), **CLOSE)
    assert isinstance(model, nn.Module)
