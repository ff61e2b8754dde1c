"""All that decides the numbers of a run on a scene."""

from dataclasses import dataclass, field
from typing import Literal
from zlib import crc32

import feedalign as fa
from feedalign.experiments.configured_rule import feedback_for, rule_for
from feedalign.experiments.data.scenes import SceneConfig
from feedalign.experiments.models.nerf import FieldConfig
from feedalign.experiments.names import short_name
from feedalign.experiments.nerf.rendering import Radiance, RenderingConfig
from feedalign.experiments.optimisation import OptimiserConfig


@dataclass(frozen=True)
class Config:
    """All that decides the numbers of a run.

    Attributes:
        name: Of the configuration; runs of one name belong into one table.
        data: Which scene, and how large its pictures are.
        model: The shape of a field.
        rendering: How rays are sampled; whether there is a fine field beside the coarse one.
        rule: The learning rule, such as ``bp``, ``dfa`` or ``shallow``.
        seed: Of the first weights, the order of rays, the places of samples, and the feedback.
        feedback: Which numbers carry the error, for rules that broadcast one. Each field has its own.
        optimiser: How gradients change weights.
        decay: Iterations in which the learning rate falls to a tenth, a little each; 0 leaves it as it is.
        iterations: Steps, each with ``rays`` rays.
        every: Iterations between two lines of the curve.
        rays: Of a step, from all training views, shuffled.
        watched: Rays of training and of validation views that a line of the curve is measured on, the same every time.
        alignment: Measure the alignment on so many rays with every line; 0 for not at all.
        tested: Views of the validation and of the test part that are rendered in full at the end; ``None`` for all.
        pictured: Test views, out of these, whose pictures are kept.
        grid: Cells along each side of the grid of empty space that is learnt at the end, so that full views are
            rendered faster; 0 for none.
        skip_after: Iterations after which empty space is skipped in training too, on such a grid that is learnt anew
            with every line of the curve; ``None`` to ask about every sample, as the publications do.
        device: ``"cpu"``, or ``"auto"`` for an accelerator where there is one.
        precision: ``"no"`` for float32, else mixed with ``"bf16"`` or ``"fp16"``.
    """

    name: str = "nerf"
    data: SceneConfig = field(default_factory=SceneConfig)
    model: FieldConfig = field(default_factory=FieldConfig)
    rendering: RenderingConfig = field(default_factory=RenderingConfig)
    rule: str = "dfa"
    seed: int = 0
    feedback: fa.Feedback = field(default_factory=fa.Uniform)
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig("adam", 5e-4))
    decay: int = 0
    iterations: int = 5_000
    every: int = 250
    rays: int = 1_024
    watched: int = 2_048
    alignment: int = 0
    tested: int | None = None
    pictured: int = 2
    grid: int = 0
    skip_after: int | None = None
    device: Literal["auto", "cpu"] = "auto"
    precision: Literal["no", "bf16", "fp16"] = "no"

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.every < 1 or self.iterations % self.every:
            raise ValueError(
                "Expected iterations that are a multiple of those between two lines of the curve, found "
                f"{self.iterations} and {self.every}."
            )
        if self.rays < 1 or self.watched < 1 or self.decay < 0:
            raise ValueError(
                "Expected at least one ray in a step and one that is watched, and a decay of at least 0, found "
                f"{self.rays}, {self.watched} and {self.decay}."
            )
        if self.skip_after is not None and (self.skip_after < 0 or not self.grid):
            raise ValueError(
                "Expected iterations of at least 0 after which empty space is skipped, and a grid of it, found "
                f"skip_after={self.skip_after} and grid={self.grid}."
            )
        # One name a rule, so that folders and tables agree: an unknown one raises here.
        object.__setattr__(self, "rule", short_name(self.rule))
        object.__setattr__(self, "feedback", feedback_for(self.rule, self.feedback))

    @property
    def epochs(self) -> int:
        """How many stretches of ``every`` iterations there are."""
        return self.iterations // self.every

    def build(self, near: float, far: float, white: bool) -> Radiance:
        """Return the fields with random weights, for a scene between these ends of its rays."""
        return Radiance(self.model, self.rendering, near, far, white)

    def attach(self, model: Radiance) -> dict[str, fa.Attachment]:
        """Attach the rule to each field at its hidden layers; the error is that of its own raw colours and densities.

        Returns:
            The attachments, by the names of the fields.

        Raises:
            PointsError: The rule cannot be attached to such a field.
        """
        return {name: self._attach(name, model) for name in model.fields}

    def _attach(self, name: str, model: Radiance) -> fa.Attachment:
        network = model.get_submodule(name)
        points = list(network.points)  # type: ignore[arg-type]
        # Layers of both fields have the same names, and a matrix follows from seed, name and shape.
        seed = crc32(f"{name} {self.seed}".encode())
        weight = next(network.parameters())
        example = weight.new_zeros(1, 2, 3), weight.new_zeros(1, 3)
        return fa.attach(network, rule_for(self.rule, seed, self.feedback), points=points, example=example)
