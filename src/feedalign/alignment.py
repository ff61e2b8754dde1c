"""Alignment: the cosine between what a rule delivers and what backpropagation would have delivered."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from feedalign.attach import Attachment
from feedalign.blocks import merged, reached, sample_cosines, trainable
from feedalign.checks import check_closure
from feedalign.cosine import as_real, cosine, row_cosines
from feedalign.errors import SignalError, listing
from feedalign.observe import Observation, observe, undisturbed
from feedalign.received import receive
from feedalign.summary import table


@dataclass(frozen=True)
class Cosine:
    """Per-sample cosines, summed up. A sample is a row: an image, a token, a node."""

    mean: float
    """In [-1, 1]; NaN if no sample counts."""
    std: float
    """Standard deviation over the samples (dividing by ``n``)."""
    n: int
    """Samples that count."""
    zero_error: int
    """Samples left out because their error is zero: masked, or fitted exactly."""
    undefined: int
    """Samples left out because the signal or the true gradient is zero though their error is not: dead units."""


@dataclass(frozen=True)
class Alignment:
    """What :func:`alignment` measured; ``print`` it for a table."""

    points: dict[str, Cosine]
    """By point: the signal against the true gradient there. By layer, for rules that transport through layers: the
    gradient that reaches its output against the true one; the last layer, where they are the same, is left out."""
    updates: dict[str, float]
    """By point, for the block that ends there: the cosine, in [-1, 1], between the gradients of the block's parameters
    under the rule and under backpropagation, over the whole batch. Those are what the optimiser follows: a small step
    along the rule's lowers the loss where this is positive. By layer, for rules that transport: of its own parameters.
    NaN where nothing trains, or a gradient is zero."""
    blocks: dict[str, Cosine] = field(default_factory=dict)
    """The same of the gradients that each sample by itself causes in the block. Empty unless asked for
    (``block_samples``). Its spread tells how unlike samples are; a batch's update need not align like their mean."""

    def __repr__(self) -> str:
        of_blocks = ("block: mean", "std") if self.blocks else ()
        rows: list[tuple[str, ...]] = [
            ("point", "signal: mean", "std", "update", *of_blocks, "samples", "zero error", "undefined")
        ]
        for name, found in self.points.items():
            block = self.blocks.get(name)
            numbers = (f"{block.mean:+.3f}", f"{block.std:.3f}") if block else ("",) * len(of_blocks)
            counts = (str(found.n), str(found.zero_error), str(found.undefined))
            signal = (f"{found.mean:+.3f}", f"{found.std:.3f}", f"{self.updates[name]:+.3f}")
            rows.append((name, *signal, *numbers, *counts))
        return table(rows)


def alignment(handle: Attachment, closure: Callable[[], Tensor], block_samples: int = 0) -> Alignment:
    r"""Measure how well the rule's signals, and the steps that they cause, point along backpropagation's.

    At every point :math:`i` and for every sample, :math:`\cos(\text{signal}_i, \partial L / \partial h_i)`; and for
    the block that ends at the point, the cosine of the gradients that its parameters get in all, from the batch
    (``updates``) and, if asked for, from single samples (``blocks``). One forward pass gives it all, with the same
    dropout masks and no copy of the model, followed by one backward pass of backpropagation and one of the rule:
    less than two training steps. It is scale-free: scaling the loss changes nothing. The model's gradients, buffers
    and the global random state are left as they were.

    High alignment shows that a rule sends useful directions. It does not show that the model is good.

    Args:
        handle: The attachment of a rule, such as DFA or FA.
        closure: Runs the model once and returns the loss: ``lambda: loss_fn(model(x), y)``.
        block_samples: On how many samples the blocks are also measured one by one; each costs two backward passes
            through every block.

    Returns:
        Mean, standard deviation and counts of the cosine by point, and the cosine of the updates.

    Raises:
        SignalError: The rule delivers nothing to measure, the attachment is off, or the closure is no such loss.

    References:
        Launay et al. 2020, section 2; Refinetti et al. 2021 (there at the pre-activations).
    """
    check_closure("alignment", closure)
    if not handle.planners and not handle.carriers:
        raise SignalError(
            f"alignment expected a rule that delivers signals, such as DFA, and found {handle.rule!r}: there is "
            "nothing to compare with backpropagation."
        )
    if not handle._on:
        raise SignalError("The attachment is off or removed, so no signals are delivered. Measure while it is on.")
    with observe(handle, closure) as (seen, loss):
        return _Measuring(handle, seen, loss).alignment(block_samples)


def weight_alignment(handle: Attachment, layers: Sequence[str] | None = None) -> dict[str, float]:
    r"""Measure how far the weights of a chain of linear layers have come to resemble the feedback.

    For the layer from point :math:`l-1` to point :math:`l` it is the cosine of :math:`W_l` with
    :math:`B_l^T B_{l-1}`, and for the last layer that of :math:`W_L` with :math:`B_{L-1}`, entry by entry. The first
    layer has no feedback matrix below it and is left out. Complex weights are conjugated, as they carry gradients.

    Args:
        handle: The attachment of a rule that broadcasts, on a model that has run once.
        layers: Names of the linear layers 2 to L, when they cannot be found by their widths.

    Returns:
        The cosine by layer, in [-1, 1].

    Raises:
        SignalError: The model has not run yet, or its linear layers do not form a chain over the points.

    References:
        Refinetti et al., *Align, then memorise*, ICML 2021.
    """
    planner = handle.planner
    if planner is None or planner.error_width is None:
        raise SignalError("weight_alignment expected an attached DFA model that has run. Run a forward pass first.")
    feedback = planner.matrices()
    with undisturbed(handle.model):  # to compute a parametrised weight may change its buffers
        weights = _chain(handle.model, layers, [matrix.shape[1] for matrix in feedback], planner.error_width)
    found = {}
    for i, (name, weight) in enumerate(weights.items()):
        target = feedback[i] if i == len(feedback) - 1 else feedback[i + 1].mH @ feedback[i]
        own = weight.detach().conj()
        a, b = (as_real(each.to(torch.promote_types(own.dtype, target.dtype))) for each in (own, target.to(own.device)))
        a, b = a.double().flatten(), b.double().flatten()
        found[name] = float(a @ b / (a.norm() * b.norm()))
    return found


def _chain(model: nn.Module, layers: Sequence[str] | None, widths: list[int], outputs: int) -> dict[str, Tensor]:
    linear = {name: module.weight for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    names = list(linear)[1:] if layers is None else list(layers)
    shapes = list(zip([*widths[1:], outputs], widths, strict=True))
    if [tuple(linear[name].shape) for name in names if name in linear] != shapes:
        raise SignalError(
            f"weight_alignment expected linear layers of shapes {shapes} after the first, one from each point to the "
            "next and one to the output. Found:\n"
            + listing(f"{name} {tuple(weight.shape)}" for name, weight in linear.items())
            + "\nName them with layers=[...], in order."
        )
    return {name: linear[name] for name in names}


class _Measuring:
    """The backward passes through one observation: a true one, and then one by the rule, block by block."""

    def __init__(self, handle: Attachment, seen: Observation, loss: Tensor) -> None:
        self.handle, self.seen, self.loss = handle, seen, loss
        named = trainable(handle.model)
        self.parameters = list(named.values())
        self.blocks = [reached(tensor, self.parameters) for tensor in seen.tensors]
        self.layers = [(name, tensor) for name, tensor in seen.layers if tensor.requires_grad]
        numbers = {parameter: i for i, parameter in enumerate(self.parameters)}
        self.of_layer = {
            name: {numbers[p] for p in handle.model.get_submodule(name).parameters() if p in numbers}
            for name, _ in self.layers
        }
        trained = sorted(set().union(*self.blocks, *self.of_layer.values()))
        outputs = [tensor for tensors in seen.outputs for tensor in tensors]
        inner = [*outputs, *seen.tensors, *(tensor for _, tensor in self.layers)]
        seen.open = True
        found = list(_gradients([loss], None, [*inner, *(self.parameters[i] for i in trained)]))
        seen.open = False
        self.true_updates = dict(zip(trained, found[len(inner) :], strict=True))
        self.true_layers = found[len(outputs) + len(seen.tensors) : len(inner)]
        self.truths = found[len(outputs) : len(outputs) + len(seen.tensors)]
        gradients = iter(found[: len(outputs)])
        errors = [[next(gradients) for _ in tensors] for tensors in seen.outputs]
        self.received = receive(handle, seen, errors) if handle.planners else {}

    def alignment(self, block_samples: int) -> Alignment:
        points = self._points()
        blocks = self._blocks(block_samples) if block_samples else {}
        self.truths = []  # what is measured goes before the next gradients come
        updates: dict[str, float] = {}
        if self.layers:
            layers, updates = self._layers()
            points |= layers
        else:
            for part in merged(self.blocks):
                updates |= self._updates(part, self._by_rule(part))
        return Alignment(points, {name: updates.get(name, float("nan")) for name in points}, blocks)

    def _points(self) -> dict[str, Cosine]:
        cosines: defaultdict[str, list[Tensor]] = defaultdict(list)
        zero_error: defaultdict[str, int] = defaultdict(int)
        for place, received in self.received.items():
            signal, truth = received.rows(received.signal), received.rows(self.truths[place])
            found = row_cosines(signal, truth, len(received.has_error))
            cosines[received.key].append(found[received.has_error])
            zero_error[received.key] += int((~received.has_error).sum())
        return {key: summed(torch.cat(found), zero_error[key]) for key, found in cosines.items()}

    def _blocks(self, samples: int) -> dict[str, Cosine]:
        cosines: defaultdict[str, list[Tensor]] = defaultdict(list)
        for place, received in self.received.items():
            chosen = received.has_error.nonzero().flatten()[:samples].tolist()
            parameters = [self.parameters[i] for i in sorted(self.blocks[place])]
            cosines[received.key] += sample_cosines(
                self.seen.tensors[place],
                received.signal,
                self.truths[place],
                received.layout.row_numbers(received.signal.device),
                chosen,
                parameters,
            )
        return {key: summed(torch.cat(found), 0) for key, found in cosines.items() if found}

    def _by_rule(self, part: set[int], places: Sequence[Tensor] = ()) -> list[Tensor]:
        """Return what the rule causes at ``places``, then in the parameters of ``part``.

        A part by itself has no use for the gradients of what is below its gates, so autograd does not form them.
        """
        sent = [
            (self.seen.tensors[place], received.signal)
            for place, received in self.received.items()
            if places or self.blocks[place] & part
        ]
        if places or reached(self.loss, self.parameters) & part:  # tied to the head
            sent.append((self.loss, torch.ones_like(self.loss)))
        ends, gradients = [tensor for tensor, _ in sent], [gradient for _, gradient in sent]
        if not ends:
            return [torch.zeros_like(self.parameters[i]) for i in sorted(part)]
        return list(_gradients(ends, gradients, [*places, *(self.parameters[i] for i in sorted(part))]))

    def _updates(self, part: set[int], gradients: list[Tensor]) -> dict[str, float]:
        """Return the cosine with the true gradients of ``part``, by point or layer; they are freed."""
        by_rule = dict(zip(sorted(part), gradients, strict=True))
        of: defaultdict[str, set[int]] = defaultdict(set)
        for place, received in self.received.items():
            of[received.key] |= self.blocks[place] & part
        for name, numbers in self.of_layer.items():
            of[name] |= numbers & part
        found = {
            name: cosine([(by_rule[i], self.true_updates[i]) for i in sorted(numbers)])
            for name, numbers in of.items()
            if numbers
        }
        for i in part:
            del self.true_updates[i]
        return found

    def _layers(self) -> tuple[dict[str, Cosine], dict[str, float]]:
        """Return the cosines at the outputs of the layers that a rule transports through, and all updates."""
        everything = set(self.true_updates)
        found = self._by_rule(everything, [tensor for _, tensor in self.layers])
        # Unless points lie above, what reaches the last layer is the truth.
        inner = len(self.layers) - (not self.received)
        cosines: defaultdict[str, list[Tensor]] = defaultdict(list)
        zero_error: defaultdict[str, int] = defaultdict(int)
        top = self.true_layers[-1].reshape(len(self.true_layers[-1]), -1).abs().amax(dim=1) > 0
        for (name, _), truth, signal in list(zip(self.layers, self.true_layers, found, strict=False))[:inner]:
            rows = len(truth)
            has_error = top if len(top) == rows else torch.ones(rows, dtype=torch.bool, device=truth.device)
            cosines[name].append(row_cosines(signal, truth, rows)[has_error])
            zero_error[name] += int((~has_error).sum())
        at_layers = {name: summed(torch.cat(rows), zero_error[name]) for name, rows in cosines.items()}
        return at_layers, self._updates(everything, found[len(self.layers) :])


def _gradients(ends: list[Tensor], gradients: list[Tensor] | None, places: list[Tensor]) -> Sequence[Tensor]:
    return torch.autograd.grad(ends, places, gradients, retain_graph=True, allow_unused=True, materialize_grads=True)


def summed(cosines: Tensor, zero_error: int) -> Cosine:
    """Return mean, spread and counts of per-sample cosines, of which NaN ones are undefined."""
    defined = cosines[~cosines.isnan()]
    if defined.numel() == 0:
        return Cosine(float("nan"), float("nan"), 0, zero_error, cosines.numel())
    mean, std = defined.mean().item(), defined.std(correction=0).item()
    return Cosine(mean, std, defined.numel(), zero_error, cosines.numel() - defined.numel())
