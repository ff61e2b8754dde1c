"""The abstract rule that sends every point a signal of its own, and what it may make that signal from."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from feedalign.feedback import Feedback, Projection, Uniform
from feedalign.layout import Layout
from feedalign.rules.rule import Rule

Inject = Callable[[int, Tensor | None], Tensor | None]


@dataclass(frozen=True)
class Broadcast:
    """One error on its way to the ``n`` points below one output: all that a rule may use.

    Letters: ``N`` rows (samples, tokens, nodes), ``C`` width of the error, ``D_i`` width of point ``i``.
    """

    error: Tensor
    """``e [N, C]``: the gradient of the loss at the output, with the 1/N of a mean loss."""
    project: Projection
    """Maps a tensor ``[N, C]`` through the feedback matrices: ``[x @ B_1, ..., x @ B_n]``."""
    layouts: Sequence[Layout]
    """How each point's output is read as rows times features."""
    activations: Sequence[Tensor] = ()
    """``h_i [N, D_i]``, without a graph. Only for rules that learn."""
    matrices: Sequence[Tensor] = ()
    """``B_i [C, D_i]``, without a graph. Only for rules that learn."""
    targets: Tensor | None = None
    """What ``handle.targets`` held, ``[N, C]``, class indices as one-hot rows. Only for rules that are ``targeted``."""
    jvp: Callable[[Inject], Tensor] | None = None
    """Pushes tangents forward through the model and returns the one that comes out, ``[N, C]``: ``jvp(inject)``.

    ``inject(i, arrived)`` is called at every point, in the order of the forward pass, with the tangent that arrives
    there (``None`` if none does), and returns the tangent that goes on, both in the shape of the point. Only for rules
    that ``replay``.
    """

    def shaped(self, signals: Sequence[Tensor]) -> list[Tensor]:
        """Return flat signals ``[N, D_i]`` in the shapes of their points."""
        return [layout.unflatten(signal) for layout, signal in zip(self.layouts, signals, strict=True)]

    def flat(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return tensors in the shapes of the points as ``[N, D_i]``, summed over repeated positions.

        It is the adjoint of :meth:`shaped`: a Jacobian with respect to what a signal repeats is such a sum.
        """
        return [layout.flatten(tensor) for layout, tensor in zip(self.layouts, tensors, strict=True)]

    def noise(self, seed: int) -> list[Tensor]:
        """Return standard normal numbers in the shapes of the points.

        They follow from the seed and the error itself: other ones in every step and on every rank, the same ones when
        a step is repeated, and none of them taken from the global random number generator.
        """
        fingerprint = float(self.error.detach().double().abs().sum())
        generator = torch.Generator("cpu").manual_seed(hash((seed, fingerprint)) & (2**63 - 1))
        # In float32 whatever the default type is, as all numbers of the feedback.
        return [
            torch.randn(layout.shape, generator=generator, dtype=torch.float32, device="cpu").to(
                self.error.device, layout.dtype
            )
            for layout in self.layouts
        ]


@dataclass(frozen=True)
class BroadcastRule(Rule):
    """A rule that sends every point a signal of its own, computed from the error at the output.

    A subclass implements :meth:`signals`; cutting, splicing, shapes, devices and types are done for it.

    Args:
        seed: Decides every number of the feedback, together with each point's name and shape.
        feedback: Which numbers: :class:`feedalign.Uniform` (default), ``Normal``, ``Orthogonal`` or another family.
    """

    cuts: ClassVar[bool] = True
    delivers: ClassVar[bool] = True
    replays: ClassVar[bool] = False
    """Whether it uses ``jvp``, which runs the forward pass once more in every backward pass."""
    relays: ClassVar[bool] = False
    """Whether what it sends to a point goes on to the points above, so that points which do not train count too."""
    targeted: ClassVar[bool] = False
    """Whether it needs ``handle.targets``."""
    defers: ClassVar[bool] = False
    """Whether its signals are one projection as it is returned, so that a device may be waited for late."""

    seed: int = 0
    feedback: Feedback = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        if not isinstance(self.feedback, Feedback):
            raise TypeError(
                f"feedback expected a Feedback such as feedalign.Uniform(), found {self.feedback!r}. "
                "The families are Uniform, Normal, Orthogonal, Hadamard, Sparse, Regenerated, Optical, Crossbar and "
                "Hardware."
            )
        if self.learns and self.feedback.shared:
            raise ValueError(
                f"{type(self).__name__} learns a matrix for every point, so they cannot share one. Write "
                f"feedback=feedalign.{type(self.feedback).__name__}(shared=False)."
            )

    def first(self, matrix: Tensor) -> Tensor:
        """Return what a point's matrix is before any step, given the one ``[C, D_i]`` that the seed draws."""
        return matrix

    def anchored(self, forwards: int) -> bool:
        """Return whether forward pass number ``forwards`` (the first is 1) belongs to plain backpropagation."""
        return False

    @abstractmethod
    def signals(self, sent: Broadcast) -> Sequence[Tensor]:
        """Return one signal per point, ``[N, D_i]`` or in the shape of the point."""

    def lessons(self, sent: Broadcast) -> Sequence[Tensor]:
        """Return the gradient of every point's matrix, ``[C, D_i]``. Only for rules that learn."""
        raise NotImplementedError
