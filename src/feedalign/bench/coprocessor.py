"""When an optical co-processor would pay: time and energy of a training step, by arithmetic alone.

Nothing is timed here. Operations follow from the library's own count of products, rates and powers from what is
written about devices, and every assumption is printed. Letters: ``P`` parameters, ``n`` rows (tokens) of a step, ``R``
operations per second of the GPU, ``C`` width of the error, ``D`` columns of the projection, ``k`` camera frames per
row, ``gamma`` the share of the products ``dX`` that direct feedback leaves out.
"""

import math
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import nn

import feedalign as fa
from feedalign.bench.cases import MICRO, VOCABULARY, Encoder, mlp
from feedalign.bench.cost import flops
from feedalign.bench.timing import Progress
from feedalign.errors import nearest

MIRRORS, PIXELS = 912 * 1140, 2048 * 1088
"""Of the devices of LightOn, as their driver states them."""
PEAK = 1500e12
"""Operations per second that are claimed for the whole of them, two for each product of a mirror and a pixel."""
LINE, LINES = 2048, 1088
STATE_BYTES = 16
"""Per parameter: weights, gradients and Adam's moments in mixed precision."""
HADAMARD_BYTES = 64
"""Per entry of a row: sixteen reads and writes of a number in single precision, for two transforms."""
Placement = Literal["mlp", "macro", "micro"]


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: With its precision.
        peak: Operations per second.
        watts: Under load.
        memory: Bytes.
        bandwidth: Of its memory, bytes per second.
    """

    name: str
    peak: float
    watts: float
    memory: float
    bandwidth: float


@dataclass(frozen=True)
class Opu:
    """An optical co-processor.

    Attributes:
        name: Of its speed.
        frame: Seconds of the shortest frame: exposure, or the mirrors.
        watts: Of the whole box.
    """

    name: str
    frame: float
    watts: float = 30.0

    def seconds(self, columns: int) -> float:
        """Return the seconds of one frame of which ``columns`` pixels are read."""
        full_rate = PEAK / (2 * MIRRORS * PIXELS)
        return max(self.frame, math.ceil(columns / LINE) / LINES / full_rate)


GPUS = {
    "a100": Gpu("A100, bfloat16", 312e12, 400, 80e9, 2.04e12),
    "a100-40gb": Gpu("A100 of 40 GB, bfloat16", 312e12, 400, 40e9, 1.56e12),
    "a100-fp32": Gpu("A100 of 40 GB, float32", 19.5e12, 400, 40e9, 1.56e12),
    "h100": Gpu("H100, bfloat16", 989e12, 700, 80e9, 2.04e12),
}
OPUS = {
    "full": Opu("all pixels read", 2 * MIRRORS * PIXELS / PEAK),
    "2khz": Opu("500 us per frame", 500e-6),
    "20khz": Opu("20 kHz mirrors", 50e-6),
}


@dataclass(frozen=True)
class CoprocessorConfig:
    """What to compute.

    Attributes:
        gpus: Names of GPUs.
        opus: Names of co-processors.
        widths: Of Transformers, every one with every depth, vocabulary and number of rows.
        depths: Blocks.
        vocabularies: Width of the error.
        rows: Tokens of a step.
        placement: A point behind every block (``macro``) or sub-layer (``micro``).
        frames: Camera frames per row: 1 for signs off axis, 4 for three levels with an anchor.
        utilisation: Share of the peak that a GPU reaches.
        idle: Watts of a GPU that waits.
        link: Bytes per second to and from the co-processor.
        host: Bytes per second to and from the host's memory.
        latency: Seconds between the last row and its projection.
        activation: Bytes of activations per row, block and unit of width that are kept: of a block its input in 16
            bits, where all else is computed again, as it is by two passes of DFA.
        device: What the products are counted on.
    """

    gpus: tuple[str, ...] = ("a100-40gb", "h100")
    opus: tuple[str, ...] = ("full", "2khz", "20khz")
    widths: tuple[int, ...] = (1024, 4096, 12_288)
    depths: tuple[int, ...] = (48,)
    vocabularies: tuple[int, ...] = (50_000,)
    rows: tuple[int, ...] = (16_384,)
    placement: Placement = "macro"
    frames: int = 1
    utilisation: float = 0.4
    idle: float = 0.0
    link: float = 2e9
    host: float = 25e9
    latency: float = 1e-3
    activation: float = 2.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for names, known in ((self.gpus, GPUS), (self.opus, OPUS)):
            for name in names:
                if name not in known:
                    raise ValueError(f"There is no {name!r}.{nearest(name, known)} There are: {', '.join(known)}.")
        sizes = (*self.widths, *self.depths, *self.vocabularies, *self.rows, self.frames)
        if not sizes or min(sizes) < 1:
            raise ValueError(f"Expected sizes and frames of at least 1, found {min(sizes, default=0)}.")
        if not 0 < self.utilisation <= 1 or self.idle < 0 or min(self.link, self.host) <= 0:
            raise ValueError("Expected a utilisation up to 1, watts of at least 0, and links above 0.")


@cache
def skipped_share(placement: Placement) -> float:
    """Return ``gamma``, the share of the products ``dX`` that DFA leaves out, counted on a small model of the kind.

    The operations of one step under backpropagation are taken as three equal parts: forward, ``dW`` and ``dX``.
    """
    torch.manual_seed(0)
    model: nn.Module
    if placement == "mlp":
        model, inputs, points, width, columns = mlp(64, 16), torch.randn(8, 64), nn.ReLU, 10, 64
    else:
        model, inputs = Encoder(64, 8, 4), torch.randint(VOCABULARY, (2, 32))
        points = "layers.*" if placement == "macro" else MICRO  # type: ignore[assignment]
        width, columns = VOCABULARY, 256 if placement == "micro" else 64

    def step() -> None:
        model(inputs).square().sum().backward()

    whole = flops(step)
    handle = fa.attach(model, fa.DFA(), points)
    step()
    projection = 2 * inputs.numel() // (64 if placement == "mlp" else 1) * width * columns
    found = flops(step) - projection
    handle.remove()
    return (whole - found) / (whole / 3)


def parameters(width: int, depth: int, vocabulary: int) -> int:
    """Return the parameters of a Transformer: ``12 L d^2 + V d``."""
    return 12 * depth * width**2 + vocabulary * width


def crossover(frames: int, seconds: float, rate: float, share: float) -> float:
    """Return the parameters above which a co-processor saves more time than it takes, ``k t R / (2 gamma)``."""
    return frames * seconds * rate / (2 * share)


def energy_crossover(frames: int, seconds: float, watts: float, joules: float, share: float) -> float:
    """Return the parameters above which it saves more energy than it takes, ``W k t / (2 gamma j)``."""
    return watts * frames * seconds / (2 * share * joules)


def measure(config: CoprocessorConfig, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Return one entry per GPU, system and way to take a step: seconds, joules, and what they are made of.

    Args:
        config: What to compute.
        progress: Called as ``progress(system, rounds done, rounds)``.
    """
    share = skipped_share(config.placement)
    found = []
    systems = [
        (width, depth, vocabulary, rows)
        for width in config.widths
        for depth in config.depths
        for vocabulary in config.vocabularies
        for rows in config.rows
    ]
    for name in config.gpus:
        for number, system in enumerate(systems):
            found += _steps(config, name, system, share)
            if progress is not None:
                progress(name, number + 1, len(systems))
    return found


def _steps(
    config: CoprocessorConfig, gpu_name: str, system: tuple[int, int, int, int], share: float
) -> list[dict[str, Any]]:
    width, depth, vocabulary, rows = system
    gpu = GPUS[gpu_name]
    rate = gpu.peak * config.utilisation
    size = parameters(width, depth, vocabulary)
    # Micro points are as wide as the inside of a block.
    columns = 4 * width if config.placement == "micro" else width
    activations = config.activation * width * depth * rows
    full, direct = 6 * size * rows / rate, (6 - 2 * share) * size * rows / rate
    spilled = _offload(config, gpu, STATE_BYTES * size + activations)
    # Direct feedback can take a block at a time (two_pass): one block's activations, and no gradients that wait.
    kept = _offload(config, gpu, STATE_BYTES * size + activations / depth)
    head = 2 * vocabulary * width * rows / rate
    dense = 2 * vocabulary * columns * rows / rate
    power = 1 << (max(vocabulary, columns) - 1).bit_length()
    hadamard = HADAMARD_BYTES * power * rows / gpu.bandwidth
    shared = {
        "name": f"{width} x {depth}",
        "gpu": gpu_name,
        "width": width,
        "depth": depth,
        "vocabulary": vocabulary,
        "rows": rows,
        "parameters": size,
        "share": share,
    }
    found = [
        {**shared, "rule": "backprop", **_cost(gpu.watts, full + spilled), "projection_seconds": 0.0},
        {**shared, "rule": "dfa", **_cost(gpu.watts, direct + dense + kept), "projection_seconds": dense},
        {**shared, "rule": "hadamard", **_cost(gpu.watts, direct + hadamard + kept), "projection_seconds": hadamard},
    ]
    for opu_name in config.opus:
        opu = OPUS[opu_name]
        frame = max(opu.seconds(columns), vocabulary / 8 / config.link, columns / config.link)
        projection = rows * config.frames * frame + config.latency
        waiting = max(0.0, projection - head)
        seconds = direct + waiting + kept
        joules = gpu.watts * (direct + kept) + config.idle * waiting + opu.watts * seconds
        found.append(
            {**shared, "rule": opu_name, "seconds": seconds, "joules": joules, "projection_seconds": projection}
        )
    return found


def _cost(watts: float, seconds: float) -> dict[str, float]:
    return {"seconds": seconds, "joules": watts * seconds}


def _offload(config: CoprocessorConfig, gpu: Gpu, size: float) -> float:
    """Return the seconds that what does not fit into the GPU's memory takes, there and back."""
    return 2 * max(0.0, size - gpu.memory) / config.host


def crossovers(config: CoprocessorConfig, share: float) -> list[dict[str, Any]]:
    """Return one entry per GPU and co-processor: a row's time and energy, and the sizes from which it would pay."""
    found = []
    for gpu_name in config.gpus:
        gpu = GPUS[gpu_name]
        rate = gpu.peak * config.utilisation
        for opu_name in config.opus:
            opu = OPUS[opu_name]
            watts = opu.watts + config.idle
            found.append(
                {
                    "gpu": gpu_name,
                    "opu": opu_name,
                    "row_seconds": config.frames * opu.frame,
                    "row_joules": opu.watts * config.frames * opu.frame,
                    "parameters": crossover(config.frames, opu.frame, rate, share),
                    "energy_parameters": energy_crossover(config.frames, opu.frame, watts, gpu.watts / rate, share),
                    "side": math.sqrt(config.frames * opu.frame * rate / 2),
                }
            )
    return found


def claims(config: CoprocessorConfig) -> list[dict[str, str]]:
    """Return what is claimed in the literature beside what arithmetic gives, in words."""
    a100, single, small = GPUS["a100"], GPUS["a100-fp32"], GPUS["a100-40gb"]
    slow, full = OPUS["2khz"], OPUS["full"]
    half, whole = a100.peak * config.utilisation, single.peak * 0.55
    mlp_side = 1000
    used = mlp_side**2 / (MIRRORS * PIXELS)
    transform = HADAMARD_BYTES * 2**21 / a100.bandwidth
    matrix = 2 * MIRRORS * PIXELS
    return [
        {
            "claim": "optical DFA is faster than backpropagation from about 2.7 billion parameters",
            "arithmetic": f"{_billions(crossover(1, slow.frame, half, 1.0))} with bfloat16 on an A100 at "
            f"{100 * config.utilisation:.0f} % of its peak and one frame of 500 us per row; "
            f"{_billions(crossover(1, slow.frame, whole, 1.0))} with float32 at 55 %; with three levels and an anchor, "
            "four frames per row, four times as many",
        },
        {
            "claim": "because backpropagation fills the GPU's memory",
            "arithmetic": f"{STATE_BYTES} bytes per parameter fill {small.memory / 1e9:.0f} GB at "
            f"{_billions(small.memory / STATE_BYTES)}. That needs no light: digital DFA frees the memory likewise "
            "(feedalign.two_pass takes a block at a time)",
        },
        {
            "claim": "1,500 TeraOPS at 30 W",
            "arithmetic": f"of all {MIRRORS:,} mirrors and {PIXELS:,} pixels, {1 / full.frame:.0f} frames per "
            f"second. A projection of {mlp_side} x {mlp_side} uses {used:.1e} of them: "
            f"{2 * mlp_side**2 / slow.frame / 1e9:.0f} GigaOPS at 2 kHz, where an A100 needs "
            f"{1e9 * 2 * mlp_side**2 / half:.0f} ns per row and the device {1e6 * slow.frame:.0f} us",
        },
        {
            "claim": "no GPU holds so large a matrix",
            "arithmetic": f"{matrix / 1e12:.1f} TB in bfloat16, which is so. But a Hadamard transform of that size "
            f"(feedalign.Hadamard) stores signs, takes {1e6 * transform:.0f} us and {1e3 * transform * a100.watts:.0f} "
            f"mJ on an A100, and the device {1e3 * full.frame:.1f} ms and {1e3 * full.frame * full.watts:.0f} mJ",
        },
        {
            "claim": "what counts is the time of a step",
            "arithmetic": "DFA takes more steps than backpropagation to a given loss, where it reaches it at all: a "
            "cheaper step is no cheaper training",
        },
    ]


def _billions(number: float) -> str:
    return f"{number / 1e9:.3g} billion parameters"


def assumptions(config: CoprocessorConfig) -> dict[str, Any]:
    """Return everything that is taken for granted, by name."""
    return {
        **{f"gpu {name}": asdict(GPUS[name]) for name in config.gpus},
        **{f"opu {name}": asdict(OPUS[name]) for name in config.opus},
    }
