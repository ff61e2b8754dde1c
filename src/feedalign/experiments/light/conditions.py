"""What is compared: the systems that are trained, and the conditions that each is trained under."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import feedalign as fa
from feedalign.errors import nearest
from feedalign.experiments.data import DataConfig
from feedalign.experiments.errors import ExperimentError
from feedalign.experiments.graph import preset as graph_preset
from feedalign.experiments.graph import presets as graph_presets
from feedalign.experiments.graph.presets import shipped
from feedalign.experiments.light.config import BenchConfig, GraphConfig, ImageConfig
from feedalign.experiments.models import MLPConfig
from feedalign.experiments.names import short_name
from feedalign.experiments.optimisation import OptimiserConfig, ScheduleConfig
from feedalign.experiments.vision import preset as image_preset

READ_NOISE = 10.0


@dataclass(frozen=True)
class Condition:
    """One way to carry the error.

    Attributes:
        label: How tables name it.
        group: What is varied in it; conditions of one group are points of one curve.
        rule: The learning rule.
        feedback: Which numbers carry the error.
        value: What is varied, as a number.
        bench: The device, where there is one.
    """

    label: str
    group: str
    rule: str
    feedback: fa.Feedback = field(default_factory=fa.Normal)
    value: float | None = None
    bench: BenchConfig | None = None


def _photons(signal: float, read_noise: float = READ_NOISE) -> fa.Optical:
    """Return light with an anchor ten times as bright as the signal, and a camera whose gain is set to it."""
    return fa.Optical(
        signal=signal, reference=10 * signal, camera=fa.Camera(full_well=110 * signal, read_noise=read_noise)
    )


DIGITAL = {
    "bp": Condition("backprop", "digital", "bp"),
    "dfa": Condition("DFA", "digital", "dfa"),
    "ternary": Condition("ternary DFA", "digital", "ternary_dfa"),
    "shallow": Condition("shallow", "digital", "shallow"),
}
LIT = {
    "optical": Condition("light: anchor, 8 bits, 300 photoelectrons", "light", "ternary_dfa", fa.Optical()),
    "optical-10": Condition("light: anchor, 8 bits, 10 photoelectrons", "photons", "ternary_dfa", _photons(10), 10),
}
PHOTONS = {
    f"optical-{signal:g}": Condition(
        f"light: {signal:g} photoelectrons, read noise {READ_NOISE:g}",
        "photons",
        "ternary_dfa",
        _photons(signal),
        signal,
    )
    for signal in (1.0, 3.0, 30.0, 100.0, 1000.0)
} | {
    f"shot-{signal:g}": Condition(
        f"light: {signal:g} photoelectrons, no read noise", "shot", "ternary_dfa", _photons(signal, 0.0), signal
    )
    for signal in (1.0, 10.0)
}
BITS = {
    f"bits-{bits}": Condition(
        f"light: {bits} bits", "bits", "ternary_dfa", fa.Optical(camera=fa.Camera(bits=bits)), bits
    )
    for bits in (4, 6, 12)
}
LEVELS = {
    f"levels-{levels}": Condition(f"light: {words} of the error", "levels", "dfa", fa.Optical(levels=levels), levels)
    for levels, words in ((2, "signs"), (15, "15 levels"))
}
REFERENCE = {
    "arm-3": Condition("light: reference arm, three levels", "light", "ternary_dfa", fa.Optical(recovery="phase")),
    "arm-15": Condition(
        "light: reference arm, 15 levels of the error", "light", "dfa", fa.Optical(recovery="phase", levels=15)
    ),
}
RINGS = {
    f"ring-{sigma:g}": Condition(
        f"microrings: noise {sigma:g} of a product", "rings", "dfa", fa.Crossbar.microring(sigma, mean=0.0), sigma
    )
    for sigma in (0.05, 0.098, 0.195, 0.39, 0.78)
}
MEMORY = {
    f"pcm-{hours:g}h": Condition(
        f"phase-change memory: {words} after programming", "pcm", "dfa", fa.Crossbar.pcm(hours), hours
    )
    for hours, words in ((0.0, "20 s"), (720.0, "a month"))
}
DRIFT = {
    f"drift-{tau:g}": Condition(
        f"medium decorrelates in {tau:g} steps", "drift", "ternary_dfa", value=tau, bench=BenchConfig(tau=tau)
    )
    for tau in (10.0, 100.0, 1000.0, 10_000.0)
}
PHASE = {
    f"phase-{walk:g}": Condition(
        f"reference wanders by {walk:g} rad per step",
        "phase",
        "ternary_dfa",
        value=walk,
        bench=BenchConfig(recovery="phase", phase_walk=walk),
    )
    for walk in (0.003, 0.03, 0.3)
}


def _saturated() -> dict[str, Condition]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the saturation that is studied
        return {
            f"full-well-{share:g}": Condition(
                f"light: {share:g} times the full well",
                "saturation",
                "ternary_dfa",
                fa.Optical(camera=fa.Camera(full_well=1300 / share)),
                share,
            )
            for share in (0.25, 1.0, 4.0)
        }


NONLINEAR = {
    "none": Condition("light: intensities, no recovery", "light", "ternary_dfa", fa.Optical(recovery="none")),
}
CONDITIONS: dict[str, Condition] = {
    **DIGITAL, **LIT, **NONLINEAR, **PHOTONS, **BITS, **_saturated(), **LEVELS, **REFERENCE, **RINGS, **MEMORY,
    **DRIFT, **PHASE,
}  # fmt: skip
FEW = (*DIGITAL, *LIT)


@dataclass(frozen=True)
class System:
    """What is trained.

    Attributes:
        about: In a sentence.
        config: With the settings that all conditions share.
        conditions: Which conditions belong to it.
    """

    about: str
    config: ImageConfig | GraphConfig
    conditions: tuple[str, ...]


def _graph() -> GraphConfig:
    plain = graph_preset(graph_presets(shipped()), "cora-gcn", "dfa", 0)
    # What tuning chose for DFA, but Gaussian feedback as light has it; no embedding.
    return GraphConfig(**{**vars(plain), "feedback": fa.Normal(gain=plain.feedback.gain), "embedding": 0})


def _whole() -> ImageConfig:
    return ImageConfig(**vars(image_preset("mnist-rules", "ternary_dfa")))


SHORT = ImageConfig(
    data=DataConfig("mnist", limit=20_000),
    model=MLPConfig((256, 256), activation="tanh"),
    optimiser=OptimiserConfig("adam", 0.003, weight_decay=1e-4),
    schedule=ScheduleConfig("cosine"),
    epochs=6,
    alignment=512,
    device="cpu",
)
SYSTEMS: dict[str, System] = {
    "mnist": System(
        "MNIST, 784-256-256-10 tanh, 20,000 images, 6 epochs, the settings of mnist-rules for every condition",
        SHORT,
        tuple(CONDITIONS),
    ),
    "mnist-whole": System(
        "MNIST, 784-256-256-10 tanh, all images, 12 epochs: mnist-rules, with its settings for ternary DFA",
        _whole(),
        ("ternary", *LIT),
    ),
    "mnist-800": System(
        "MNIST, 784-800-800-10 tanh, 20,000 images, 6 epochs",
        replace(SHORT, model=MLPConfig((800, 800), activation="tanh")),
        (*FEW, *RINGS),
    ),
    "fashion": System(
        "Fashion-MNIST, 784-256-256-10 tanh, 20,000 images, 6 epochs",
        replace(SHORT, data=DataConfig("fashion-mnist", limit=20_000)),
        (*FEW, "none", "optical-1", "drift-100", "drift-10"),
    ),
    "cora": System(
        "Cora, a GCN, the settings that tuning chose for DFA", _graph(), (*DIGITAL, *LIT, "levels-15", *REFERENCE)
    ),
}


def configs(
    system: str, conditions: Sequence[str] = (), seeds: Sequence[int] = range(5)
) -> Iterator[ImageConfig | GraphConfig]:
    """Yield one configuration per seed and condition of a system.

    Args:
        system: Its name.
        conditions: Some of those that belong to it; all by default.
        seeds: Of the runs.

    Raises:
        ExperimentError: There is no such system or condition.
    """
    if system not in SYSTEMS:
        raise ExperimentError(
            f"There is no system {system!r}.{nearest(system, SYSTEMS)} There are: {', '.join(SYSTEMS)}."
        )
    row = SYSTEMS[system]
    for name in conditions:
        if name not in row.conditions:
            raise ExperimentError(
                f"{system} has no condition {name!r}.{nearest(name, row.conditions)} "
                f"It has: {', '.join(row.conditions)}."
            )
    for seed in seeds:
        for name in conditions or row.conditions:
            condition = CONDITIONS[name]
            rule = short_name(condition.rule)
            feedback = replace(condition.feedback, gain=row.config.feedback.gain)
            changed = {"name": f"{system}_{name}", "rule": rule, "seed": seed, "feedback": feedback}
            if isinstance(row.config, ImageConfig):
                yield replace(row.config, **changed, bench=condition.bench)  # type: ignore[arg-type]
            else:
                yield replace(row.config, **changed)  # type: ignore[arg-type]


def parts(name: str) -> tuple[str, str]:
    """Return the system and the condition that a configuration is of, from its name."""
    system, _, condition = name.partition("_")
    return system, condition
