r"""The teacher-student experiment itself: stochastic gradient descent on real networks of finite width.

The students are a ``torch`` module that :func:`feedalign.attach` makes learn by DFA, so that the equations of
:mod:`feedalign.theory.odes` and the library check each other. ``S`` students learn side by side, each from samples of
its own; further letters as in :mod:`feedalign.theory.order`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign.feedback.feedback import Feedback, Kept, Parts
from feedalign.theory.integrals import Array
from feedalign.theory.odes import Learning, Trajectory
from feedalign.theory.order import Order

CHUNK = 64  # steps whose samples are drawn at once
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "erf": lambda z: torch.erf(z / sqrt(2)),
    "linear": lambda z: z.clone(),
    "relu": torch.relu,
}


@dataclass(frozen=True)
class Given(Feedback):
    """Chosen numbers instead of random ones: the theory asks what a certain feedback does.

    Attributes:
        numbers: ``[S, D]``: a vector for every row of a scalar error, or one for all.
    """

    numbers: tuple[tuple[float, ...], ...] = ((1.0,),)

    def draw(self, rows: int, columns: int, generator: torch.Generator) -> Tensor:
        """Return the one vector that serves all rows, ``[1, D]``.

        Raises:
            ValueError: There are several, or the error or the point has another width.
        """
        found = torch.tensor(self.numbers, dtype=torch.float64)
        if found.shape != (rows, columns):
            raise ValueError(
                f"Expected numbers of shape {(rows, columns)} for this error and point, found {tuple(found.shape)}."
            )
        return found

    def factor(self, width: int, widest: int) -> float:
        """Return 1: the numbers are meant as they are."""
        return 1.0

    def keep(self, seed: int, parts: Parts, rows: int, dtype: torch.dtype, device: torch.device) -> Kept:
        """Return the numbers."""
        return (torch.tensor(self.numbers, dtype=dtype, device=device),)

    def product(self, error: Tensor, parts: Parts, kept: Kept) -> Tensor:
        """Return ``error [S, 1]`` times the vector of its row, ``[S, D]``."""
        return error * kept[0]


class Activation(nn.Module):
    """An activation by name, as a module that feedback can be attached to."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, z: Tensor) -> Tensor:
        """Return ``g(z)``."""
        return FUNCTIONS[self.name](z)


class SoftCommittees(nn.Module):
    r"""Two-layer networks side by side, :math:`\hat y = \sum_k v_k\, g(w_k \cdot x / \sqrt N)`.

    Args:
        w: ``[S, K, N]``.
        v: ``[S, K]``.
        activation: Its name.
    """

    def __init__(self, w: Array, v: Array, activation: str) -> None:
        super().__init__()
        self.w, self.v = nn.Parameter(torch.tensor(w)), nn.Parameter(torch.tensor(v))
        self.hidden = Activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs ``[S, 1]`` for one input each, ``[S, N]``."""
        fields = torch.bmm(self.w, x.unsqueeze(2)).squeeze(2) / sqrt(x.shape[1])
        outputs: Tensor = (self.v * self.hidden(fields)).sum(1, keepdim=True)
        return outputs


@dataclass(frozen=True, eq=False)
class Weights:
    """Students as they begin, and their teacher."""

    w: Array
    """``[S, K, N]``."""
    v: Array
    """``[S, K]``."""
    B: Array
    """The teacher's first layer ``[M, N]``."""
    A: Array
    """Its second, ``[M]``."""

    @property
    def order(self) -> Order:
        """Their order parameters, with the students as first dimension."""
        return Order.of(self.w, self.v, self.B, self.A)


def draw(students: int, units: int, A: Sequence[float], inputs: int, deviation: float, seed: int) -> Weights:
    """Return normal weights for students, and a teacher whose units are orthonormal: ``T`` is the identity.

    Teacher and students come from independent streams of random numbers. Student ``s`` is the same however many
    there are.

    Args:
        students: How many, ``S``.
        units: Hidden units of each, ``K``.
        A: The teacher's second layer.
        inputs: Width of the input, ``N``.
        deviation: Standard deviation of the students' weights in both layers.
        seed: Decides all of it.
    """
    teacher = np.random.default_rng([seed, 0])
    B = np.linalg.qr(teacher.normal(size=(inputs, len(A))))[0].T * np.sqrt(inputs)
    streams = [np.random.default_rng([seed, 1, s]) for s in range(students)]
    w = np.stack([deviation * stream.normal(size=(units, inputs)) for stream in streams])
    v = np.stack([deviation * stream.normal(size=units) for stream in streams])
    return Weights(w, v, B, np.asarray(A, dtype=np.float64))


def simulate(
    weights: Weights,
    feedback: Sequence[float] | Array | None,
    learning: Learning,
    times: Sequence[float] | Array,
    seed: int,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Trajectory:
    """Train students by stochastic gradient descent, a fresh sample every step, and return their order parameters.

    Args:
        weights: Where they begin.
        feedback: ``F``, ``[K]`` for all or ``[S, K]``; ``None`` is backpropagation.
        learning: The activation and the rates.
        times: When to report, increasing, in steps over ``N``; rounded to a step, each of which is reported once.
        seed: Of the samples.
        told: Called with the reports made and their number.

    Returns:
        The order parameters, with first dimensions ``[times, S]``, and the times as rounded.

    Raises:
        ValueError: The gradient flow is asked for, which has no steps; or the feedback does not fit.
        ArithmeticError: A weight stopped being finite: the rates are too large.
    """
    if learning.flow:
        raise ValueError("Expected flow=False, found True: a simulation takes steps of finite size. Lower the rates.")
    students, _, inputs = weights.w.shape
    model = SoftCommittees(weights.w, weights.v, learning.activation)
    fa.attach(model, _rule(feedback, weights.v.shape), points="hidden")
    rates = learning.rates
    optimiser = torch.optim.SGD([{"params": [model.w], "lr": rates[0]}, {"params": [model.v], "lr": rates[1] / inputs}])
    samples = _samples(weights, learning, students, seed)
    reports = np.unique(np.round(np.asarray(times, dtype=np.float64) * inputs).astype(int))
    found, step = [], 0
    for report in reports:
        for _ in range(report - step):
            x, y = next(samples)
            optimiser.zero_grad()
            (0.5 * (model(x) - y) ** 2).sum().backward()
            optimiser.step()
        step = report
        found.append(_order(model, weights))
        told(len(found), len(reports))
    return Trajectory(reports / inputs, _stacked(found))


def _rule(feedback: Sequence[float] | Array | None, shape: tuple[int, ...]) -> fa.Rule:
    if feedback is None:
        return fa.Backprop()
    numbers = np.atleast_2d(np.asarray(feedback, dtype=np.float64))
    if numbers.shape not in (shape, (1, shape[1])):
        raise ValueError(f"Expected feedback of shape {shape[1:]} or {shape}, found {np.shape(feedback)}.")
    return fa.DFA(feedback=Given(numbers=tuple(tuple(row) for row in numbers.tolist())))


def _samples(weights: Weights, learning: Learning, students: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs ``[S, N]`` and the teacher's outputs ``[S, 1]``."""
    generator = torch.Generator().manual_seed(seed)
    B, A = torch.tensor(weights.B), torch.tensor(weights.A)
    N = B.shape[1]
    while True:
        x = torch.randn(CHUNK, students, N, generator=generator, dtype=torch.float64)
        y = FUNCTIONS[learning.activation](x @ B.T / sqrt(N)) @ A
        if learning.noise:
            y = y + learning.noise * torch.randn(y.shape, generator=generator, dtype=torch.float64)
        yield from zip(x, y.unsqueeze(-1), strict=True)


def _order(model: SoftCommittees, weights: Weights) -> Order:
    w, v = (parameter.detach().numpy().copy() for parameter in (model.w, model.v))
    if not np.isfinite(w).all():
        raise ArithmeticError("Expected finite weights, found a student whose are not. Lower the rates.")
    return Order.of(w, v, weights.B, weights.A)


def _stacked(orders: list[Order]) -> Order:
    Q, R, v = (np.stack([getattr(order, name) for order in orders]) for name in ("Q", "R", "v"))
    return Order(Q, R, orders[0].T, v, orders[0].A)
