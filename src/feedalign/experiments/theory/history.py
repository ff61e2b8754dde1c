"""What deep nets do while they learn: losses and alignment by layer, at times that are dense where much happens."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign.experiments.theory.nets import Ensemble, Loss
from feedalign.experiments.theory.study import Progress

Curve = dict[str, Any]
"""``{"epochs": [..], "<what>": [..]}`` of one net; by layer, ``[[layer 1, ..], ..]``."""


@dataclass(frozen=True, eq=False)
class Task:
    """What the nets of an ensemble learn, each its own targets.

    Attributes:
        loss: Summed over samples.
        inputs: ``[P, d]``, the same for all, or ``[nets, P, d]``.
        targets: ``[nets, P, ...]``
        test: Inputs ``[T, d]`` and labels ``[T]`` never trained on, if any.
        probe: On how many training samples alignment is measured.
    """

    loss: Loss
    inputs: Tensor
    targets: Tensor
    test: tuple[Tensor, Tensor] | None = None
    probe: int = 500

    def batch(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of the samples ``chosen [nets, N]``."""
        nets = torch.arange(len(chosen))[:, None]
        inputs = self.inputs[chosen] if self.inputs.dim() == 2 else self.inputs[nets, chosen]
        return inputs, self.targets[nets, chosen]

    def own(self, net: int, samples: int) -> tuple[Tensor, Tensor]:
        """Return the first samples of one net."""
        inputs = self.inputs if self.inputs.dim() == 2 else self.inputs[net]
        return inputs[:samples], self.targets[net, :samples]


@dataclass(frozen=True)
class Schedule:
    """How long nets learn, and when they are looked at.

    Attributes:
        epochs: How many.
        rate: Of learning, a sample: losses are sums.
        batch: Samples a step; a last smaller batch is left out.
        looks: How often they are looked at, from before the first step to after the last, evenly on a logarithmic
            scale.
        seed: Of the order of samples, with the seed of each net.
    """

    epochs: int
    rate: float = 1e-3
    batch: int = 32
    looks: int = 40
    seed: int = 0

    def times(self, steps: int) -> list[int]:
        """Return the numbers of steps after which the nets are looked at."""
        spaced = np.geomspace(max(1, min(5, steps - 1)), steps, self.looks - 1).round().astype(int).tolist()
        return sorted({0, *spaced})


def history(
    ensemble: Ensemble, task: Task, schedule: Schedule, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Curve]:
    """Train the nets and return one curve each.

    Args:
        ensemble: Trained in place.
        task: What they learn.
        schedule: How long.
        progress: Called with steps done and steps in all.
    """
    samples = task.targets.shape[1]
    each = samples // schedule.batch
    steps = each * schedule.epochs
    looks = set(schedule.times(steps))
    curves: list[Curve] = [{} for _ in ensemble.seeds]
    orders = [torch.Generator().manual_seed(hash((schedule.seed, seed)) & (2**63 - 1)) for seed in ensemble.seeds]
    for done in range(steps + 1):
        if done in looks:
            progress(done, steps)
            for curve, seen in zip(curves, look(ensemble, task), strict=True):
                for what, value in {"epochs": done / each, **seen}.items():
                    curve.setdefault(what, []).append(value)
        if done % each == 0:
            order = torch.stack([torch.randperm(samples, generator=generator) for generator in orders])
        if done < steps:
            start = done % each * schedule.batch
            chosen = order[:, start : start + schedule.batch]
            ensemble.step(task.loss, *task.batch(chosen), schedule.rate)
    return curves


def look(ensemble: Ensemble, task: Task) -> list[dict[str, Any]]:
    """Return what every net is like now, see :func:`seen`; for classes also ``accuracy`` and ``test_accuracy``."""
    found = []
    outputs = ensemble.outputs(task.inputs)
    tested = None if task.test is None else ensemble.outputs(task.test[0]).argmax(-1)
    for number in range(len(ensemble.seeds)):
        with ensemble.alone(number) as model:
            entry = seen(model, ensemble.handle, ensemble.net.layers, task.loss, *task.own(number, task.probe))
        entry["loss"] = float(task.loss(outputs[number], task.targets[number])) / task.targets.shape[1]
        if tested is not None and task.test is not None:
            entry["accuracy"] = float((outputs[number].argmax(-1) == task.targets[number]).double().mean())
            entry["test_accuracy"] = float((tested[number] == task.test[1]).double().mean())
        found.append(entry)
    return found


def seen(
    model: nn.Module, handle: fa.Attachment, layers: Sequence[str], loss: Loss, inputs: Tensor, targets: Tensor
) -> dict[str, Any]:
    """Return the alignment of one net, by layer from the bottom.

    Returns:
        ``weight_alignment`` of layers 2 .. L, and ``weight_alignment_total``, the cosine of all of them at once.
        ``gradient_alignment`` of layers 1 .. L-1: the mean over samples of the cosine of DFA's and
        backpropagation's gradients at the layer's output, before the non-linearity; ``gradient_alignment_total``: of
        all these layers at once. ``batch_alignment`` of layers 1 .. L-1: the cosine of the two gradients of the
        weights, summed over the samples. ``undefined``: the share of these cosines of samples that are left out since
        a gradient is zero.
    """
    with handle.off():
        true_deltas, true_steps = _gradients(model, layers, loss, inputs, targets)
    deltas, steps = _gradients(model, layers, loss, inputs, targets)
    cosines = [_cosines(a, b) for a, b in zip(deltas, true_deltas, strict=True)]
    total = _cosines(torch.cat(deltas, 1), torch.cat(true_deltas, 1))
    every = torch.stack(cosines)
    return {
        "weight_alignment": list(fa.weight_alignment(handle, layers[1:]).values()),
        "weight_alignment_total": _total(model, handle, layers),
        "gradient_alignment": [float(each.nanmean()) for each in cosines],
        "gradient_alignment_total": float(total.nanmean()),
        "batch_alignment": [
            float(_cosines(a.flatten()[None], b.flatten()[None])) for a, b in zip(steps, true_steps, strict=True)
        ],
        "undefined": float(every.isnan().double().mean()),
    }


def _gradients(
    model: nn.Module, layers: Sequence[str], loss: Loss, inputs: Tensor, targets: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the gradients at the outputs and of the weights of the hidden layers."""
    with _caught(model, layers[:-1]) as outputs, torch.enable_grad():
        value = loss(model(inputs), targets)
    weights = [model.get_parameter(f"{layer}.weight") for layer in layers[:-1]]
    found = torch.autograd.grad(value, [*outputs, *weights])
    return list(found[: len(outputs)]), list(found[len(outputs) :])


@contextmanager
def _caught(model: nn.Module, layers: Sequence[str]) -> Iterator[list[Tensor]]:
    outputs: list[Tensor] = []

    def catch(module: nn.Module, args: Any, output: Tensor) -> None:
        outputs.append(output)

    # In front of the attachment's own hooks, which may cut here.
    hooks = [model.get_submodule(layer).register_forward_hook(catch, prepend=True) for layer in layers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of every row, NaN where one of the two is zero."""
    a, b = a.double(), b.double()
    cosines: Tensor = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    return cosines


def _total(model: nn.Module, handle: fa.Attachment, layers: Sequence[str]) -> float:
    """Return the cosine of all weights above the first with what the feedback makes of them, all layers in one row.

    How much a layer counts depends on the scale of the feedback: between hidden layers it is squared, at the readout
    not. It is taken here as the authors' code has it: numbers as large as those of a uniform draw from [-1, 1].
    """
    assert handle.planner is not None
    B = [matrix / (3.0 * matrix.square().mean()).sqrt() for matrix in handle.planner.matrices()]
    aims = [*(above.T @ below for below, above in pairwise(B)), B[-1]]
    weights = [model.get_parameter(f"{layer}.weight").detach() for layer in layers[1:]]
    joined = (torch.cat([each.double().flatten() for each in matrices])[None] for matrices in (weights, aims))
    return float(_cosines(*joined))


def seed_similarity(ensemble: Ensemble, groups: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return, for each group of nets, the cosine of all weights of every pair of them.

    With the same feedback, and different initial weights, it says whether learning ends in one place.
    """
    flat = ensemble.flat().detach().double()
    units = flat / flat.norm(dim=1, keepdim=True)
    return [[float(units[i] @ units[j]) for k, i in enumerate(group) for j in group[k + 1 :]] for group in groups]


def counted(progress: Progress, what: str) -> Callable[[int, int], None]:
    """Return a progress of steps that reports under a name."""
    return lambda done, total: progress(what, done, total)
