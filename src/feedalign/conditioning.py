"""Conditioning: how evenly the directions of the error are learned, which decides how well DFA can align."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Any

import torch
from torch import Tensor

from feedalign.attach import Attachment
from feedalign.checks import check_closure
from feedalign.errors import SignalError
from feedalign.observe import Observation, observe
from feedalign.summary import table
from feedalign.tree import flatten, is_floating


@dataclass(frozen=True)
class PointConditioning:
    """What :func:`conditioning` found at one point. Letters: ``C`` width of the error."""

    matrix: Tensor
    """The alignment matrix of the layer above the point, as it begins to grow: ``[C, C]``, float64, of trace 1."""
    rank: int
    """In how many directions of the error that layer learns anything. Errors of a softmax have ``C - 1``."""
    condition: float
    """The largest over the smallest eigenvalue of the matrix in these directions: 1 is best. Infinite if none."""
    product: float
    """The same for what all layers above do together: the map from the error to the point, in feedback coordinates."""
    alignment: float
    """The forecast: the cosine of signal and true gradient early in training, over errors of all these directions
    alike. NaN if there are none."""


@dataclass(frozen=True)
class Conditioning:
    """What :func:`conditioning` found; ``print`` it for a table."""

    points: dict[str, PointConditioning]
    """By point, from the bottom to the top."""
    rows: int
    """Samples with an error."""

    @property
    def alignment(self) -> float:
        """The forecast for the whole model: the mean over its points."""
        return sum(point.alignment for point in self.points.values()) / len(self.points)

    def __repr__(self) -> str:
        head = ("point", "forecast alignment", "condition of the layer above", "of all above", "directions")
        rows: list[tuple[str, ...]] = [head]
        for name, point in self.points.items():
            numbers = (f"{point.alignment:+.3f}", f"{point.condition:.3g}", f"{point.product:.3g}", str(point.rank))
            rows.append((name, *numbers))
        return table(rows)


def conditioning(handle: Attachment, closure: Callable[[], Tensor]) -> Conditioning:
    r"""Forecast from one batch, before training, how well DFA will align.

    A layer that learns by DFA grows as :math:`F_l A_l F_{l-1}^T`, with :math:`F_l = B_l^T`. The signal points along
    the true gradient as far as these *alignment matrices* ``[C, C]`` resemble the identity. Early in training

    .. math:: A_{l+1} \propto M_{l-1} M_{l-1}^T, \qquad M_{l-1} = \mathbb{E}[e\, h_{l-1}^T],

    where :math:`h_{l-1}` is what enters the block below point :math:`l` (the model's input, for the first one). Large
    and small singular values of this correlation are learned at different speeds; the condition number of the
    alignment matrix is the square of theirs. Above a point, backpropagation delivers :math:`F_l H_l e` with the
    product :math:`H_l = A_{l+1}^T G_{l+1} A_{l+2}^T \cdots`, :math:`G = F^T F`, and the forecast is its cosine with
    :math:`F_l e`, over errors :math:`e` of all directions alike.

    It is exact for deep linear networks in the limits of small initial weights and early times; a layer whose input
    is still zero takes :math:`A_{l+1} \propto A_l G_{l-1} A_l` instead. Elsewhere it is a rule of thumb, for comparing
    tasks and inputs of one architecture: not the value that will be reached, and not a comparison of depths or
    activations. From PyTorch's own initial weights, which need to move little, it goes with the weight alignment
    reached and hardly with that of the gradients; `feedalign theory forecast` measures how far, and that the condition
    number of the lowest point alone ranks tasks at least as well. It says nothing about

    * later times: alignment improves as large modes are fitted, and may decay as single samples are;
    * shared weights: a convolution cannot take the form of a product of dense feedback, whatever the conditioning;
    * skip connections and branches: the points are taken for a chain, in the order in which they ran;
    * Adam, under which weights do not grow in this form;
    * success: a model may align and be bad.

    The batch must be larger than ``C``, ten times for small directions to be more than noise. It is scale-free, and the
    model is left as it was. For rules that send something else than ``e @ B_i`` it is the forecast for DFA with their
    matrices.

    Args:
        handle: The attachment of one rule that broadcasts.
        closure: Runs the model once and returns the loss: ``lambda: loss_fn(model(x), y)``.

    Returns:
        Matrix, condition numbers and forecast by point.

    Raises:
        SignalError: The rule does not broadcast, the attachment is off, no error reaches a point, or the closure is no
            such loss.

    References:
        Refinetti et al., *Align, then memorise*, ICML 2021 (alignment matrices).
    """
    check_closure("conditioning", closure)
    if handle.planner is None:
        raise SignalError(
            f"conditioning expected a rule that broadcasts, such as DFA, found {handle.rule!r}: its weights do not "
            "grow along feedback matrices. Attach DFA to the model for the forecast."
        )
    if not handle._on:
        raise SignalError("The attachment is off or removed, so there are no points. Forecast while it is on.")
    entering: list[Tensor] = []

    def enter(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entering.extend(leaf.detach() for leaf in flatten((args, kwargs))[0] if is_floating(leaf))

    hook = handle.model.register_forward_pre_hook(enter, with_kwargs=True)
    try:
        with observe(handle, closure) as (seen, loss):
            return _found(handle, *_correlations(handle, seen, loss, entering[:1]))
    finally:
        hook.remove()


def _correlations(
    handle: Attachment, seen: Observation, loss: Tensor, entering: list[Tensor]
) -> tuple[dict[str, Tensor], Tensor, float]:
    """Return ``M [C, D]`` of the input (under ``""``, if it fits) and every point, the errors, and their precision."""
    assert handle.planner is not None
    outputs = [tensor for tensors in seen.outputs for tensor in tensors]
    formed = torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True, materialize_grads=True)
    gradients = iter(formed)
    runs = [[next(gradients) for _ in tensors] for tensors in seen.outputs]
    found: dict[str, Tensor] = {}
    errors = []
    arrivals = seen.recording.trained()
    deliveries = seen.recording.deliveries[handle.planner.number]
    for output, delivery in zip(seen.recording.outputs, deliveries, strict=True):
        error = delivery.error(output.gradients(runs[output.run])).detach()
        if error.is_complex():
            raise SignalError("conditioning is defined for real errors, and the output is complex.")
        error = error.double()
        errors.append(error)
        layouts = [layout for layout, trains in zip(delivery.layouts, delivery.trains, strict=True) if trains]
        below = [
            ("", tensor.reshape(delivery.rows, -1))
            for tensor in entering
            if delivery.rows in accumulate(tensor.shape, mul)
        ]
        served = zip(arrivals, layouts, seen.tensors, strict=False)
        below += [
            (seen.recording.key(arrival), layout.flatten(tensor.detach()))
            for arrival, layout, tensor in served
            if layout is not None
        ]
        for key, tensor in below:
            correlation = error.T @ tensor.to(error)
            found[key] = found[key] + correlation if key in found else correlation
    precision = max(torch.finfo(tensor.dtype).eps for tensor in outputs)
    return found, torch.cat(errors), precision


def _found(handle: Attachment, correlations: dict[str, Tensor], errors: Tensor, precision: float) -> Conditioning:
    assert handle.planner is not None
    errors = errors[errors.abs().amax(dim=1) > 0]
    planner = handle.planner
    names = planner.learned() if planner.rule.learns else planner.layouts
    matrices = dict(zip(names, planner.matrices(), strict=True))
    points = [key for key in correlations if key in matrices]
    if not points or not len(errors):
        raise SignalError(
            "conditioning expected a batch on which an error reaches a point, found none. Measure a batch that the "
            "model does not fit exactly."
        )
    feedback = [matrices[key].to(errors) for key in points]
    gathered = [B @ B.T for B in feedback]
    entering = [correlations.get("", correlations[points[0]]), *(correlations[key] for key in points[:-1])]
    grown = _growing(entering, gathered, precision)
    found = {}
    product, rank = torch.eye(errors.shape[1]).to(errors), errors.shape[1]
    for i in reversed(range(len(points))):
        matrix, own, condition = grown[i]
        product, rank = _scaled(matrix.T @ product), min(rank, own)
        values = torch.linalg.svdvals(product)
        together = float(values[0] / values[rank - 1]) if rank and values[0] > 0 else float("inf")
        sent, true = (_learned(matrix, own) @ each for each in (feedback[i], product.T @ feedback[i]))
        forecast = float((sent * true).sum() / (sent.norm() * true.norm())) if own else float("nan")
        found[points[i]] = PointConditioning(matrix, own, condition, together, forecast)
        product = gathered[i] @ product
    return Conditioning({key: found[key] for key in points}, len(errors))


def _growing(entering: list[Tensor], gathered: list[Tensor], precision: float) -> list[tuple[Tensor, int, float]]:
    """Return the alignment matrix of the layer above every point, its rank and its condition number."""
    grown: list[tuple[Tensor, int, float]] = []
    for i, correlation in enumerate(entering):
        if i and not correlation.any():  # the block's input is zero until the one below has grown
            below = grown[-1]
            matrix = _scaled(below[0] @ gathered[i - 1] @ below[0])
            grown.append((matrix, below[1], _condition(torch.linalg.svdvals(matrix)[: below[1]])))
            continue
        values = torch.linalg.svdvals(correlation)
        rank = int((values > max(correlation.shape) * precision * values[0]).sum())
        grown.append((_scaled(correlation @ correlation.T), rank, _condition(values[:rank]) ** 2))
    return grown


def _learned(matrix: Tensor, rank: int) -> Tensor:
    """Return unit errors ``[rank, C]``, one in each direction in which anything is learned."""
    directions: Tensor = torch.linalg.svd(matrix)[0]
    return directions[:, :rank].T


def _condition(values: Tensor) -> float:
    return float(values[0] / values[-1]) if len(values) else float("inf")


def _scaled(matrix: Tensor) -> Tensor:
    """Return the matrix with a trace of 1 where it has one to scale, else of norm 1: products of many stay finite."""
    size = matrix.trace()
    size = size if size > 0 else matrix.norm()
    return matrix / size if size > 0 else matrix
