"""``feedalign bench``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.progress import Progress

from feedalign.bench.accuracy import AccuracyConfig
from feedalign.bench.alignment import AlignmentConfig
from feedalign.bench.cases import CASES
from feedalign.bench.clicks import ClicksConfig
from feedalign.bench.feedback import FeedbackConfig
from feedalign.bench.memory import SAVING, MemoryConfig
from feedalign.bench.methods import METHODS
from feedalign.bench.products import SYSTEMS, ProductsConfig
from feedalign.bench.record import Config, run
from feedalign.bench.step import USUAL, StepConfig
from feedalign.bench.tables import bench_tables
from feedalign.cli.console import say, show, standard_error, standard_output
from feedalign.cli.options import Omitted
from feedalign.experiments.provenance import threads_bound

CASE_NAMES = f"Which systems: {', '.join(case.name for case in CASES)}; transformer stands for both of its placements."
METHOD_NAMES = "Ways to take a step, backprop among them: " + "; ".join(
    name if name == row.label else f"{name} ({row.label})" for name, row in METHODS.items()
)
Cases = Annotated[tuple[str, ...], tyro.conf.arg(help=CASE_NAMES)]
Methods = Annotated[tuple[str, ...], tyro.conf.arg(help=f"{METHOD_NAMES}.")]


@dataclass(frozen=True)
class BenchStep:
    """Time a whole training step of backprop, DFA, shallow and peers, interleaved in one process.

    Prints medians and quartiles, the ratio to backprop, the limit that the count of operations sets, and the peak
    memory of a step; writes them as a record. Peers: checkpointing, and DFA as other software does it, by leaves that
    require gradients (TinyDFA) or hooks that replace gradients (BioTorch). Compiling takes a minute a case.

    Example: feedalign bench step --cases mlp-8x1024 --rounds 50

    Example: feedalign bench step --methods backprop dfa backprop-compiled dfa-compiled

    Attributes:
        cases: Which systems.
        methods: Ways to take a step.
        rounds: Timed rounds a case; each is one step of every method.
        warmup: Rounds before these, not counted.
        device: Where to run: cpu, or an accelerator such as cuda.
        precision: no for float32, or bf16 for autocast to bfloat16.
        seed: Seed of weights, inputs and feedback.
        output: Folder of the record.
    """

    cases: Cases = tuple(case.name for case in CASES)
    methods: Methods = USUAL
    rounds: int = 30
    warmup: int = 3
    device: str = "cpu"
    precision: Literal["no", "bf16"] = "no"
    seed: int = 0
    output: Path = Path("runs/bench/step")

    def run(self) -> None:
        """Measure, with a bar per case, and print the table."""
        config = StepConfig(
            self.cases, self.methods, self.rounds, self.warmup, self.device, self.precision, self.seed
        )  # fmt: skip
        run_bench(config, self.output)


@dataclass(frozen=True)
class BenchMemory:
    """Measure the peak memory and the time of a training step over depth, width and batch, on ReLU MLPs.

    Backprop keeps every layer's activations until its backward pass. Two passes of DFA, or one of DRTP, keep those of
    one layer; with the optimiser given ("stepping") they free its gradients too. Prints memory over depth, its growth
    a layer, times as multiples of backprop's, and the roofline: the time that the products alone would take.

    Example: feedalign bench memory --depths 8 32 --widths 512 --batches 1024

    Attributes:
        depths: Hidden layers of MLPs of the first width and batch.
        widths: Units a layer; those after the first with --depth layers.
        batches: Samples in a step; those after the first with --depth layers.
        depth: Hidden layers where width or batch vary.
        methods: Ways to take a step.
        rounds: Timed rounds a system; each is one step of every method.
        warmup: Rounds before these, not counted.
        device: Where to run: cpu, or an accelerator such as cuda.
        precision: no for float32, or bf16 for autocast to bfloat16.
        seed: Seed of weights, inputs and feedback.
        output: Folder of the record.
    """

    depths: tuple[int, ...] = MemoryConfig.depths
    widths: tuple[int, ...] = MemoryConfig.widths
    batches: tuple[int, ...] = MemoryConfig.batches
    depth: int = MemoryConfig.depth
    methods: Methods = SAVING
    rounds: int = 5
    warmup: int = 1
    device: str = "cpu"
    precision: Literal["no", "bf16"] = "no"
    seed: int = 0
    output: Path = Path("runs/bench/memory")

    def run(self) -> None:
        """Measure, with a bar per system, and print the tables."""
        config = MemoryConfig(
            self.depths, self.widths, self.batches, self.depth, self.methods, self.rounds, self.warmup, self.device,
            self.precision, self.seed,
        )  # fmt: skip
        run_bench(config, self.output)


@dataclass(frozen=True)
class BenchFeedback:
    """Measure the memory and the time of a projection of the error, by family of feedback.

    Dense feedback keeps a matrix of C x D numbers. Regenerated feedback draws it anew each time and keeps nothing,
    Hadamard keeps a few signs, sparse a few entries for each feature.

    Example: feedalign bench feedback --classes 32000 --widths 4096

    Attributes:
        classes: Widths C of the error.
        widths: Widths D of the point, every one with every C.
        rows: Samples or tokens in a step.
        rounds: Timed rounds a size; each is one projection by every family.
        warmup: Rounds before these, not counted.
        device: Where to run: cpu, or an accelerator such as cuda.
        seed: Seed of errors and feedback.
        output: Folder of the record.
    """

    classes: tuple[int, ...] = FeedbackConfig.classes
    widths: tuple[int, ...] = FeedbackConfig.widths
    rows: int = FeedbackConfig.rows
    rounds: int = 10
    warmup: int = 2
    device: str = "cpu"
    seed: int = 0
    output: Path = Path("runs/bench/feedback")

    def run(self) -> None:
        """Measure, with a bar per size, and print the table."""
        config = FeedbackConfig(
            self.classes, self.widths, self.rows, self.rounds, self.warmup, self.device, self.seed
        )  # fmt: skip
        run_bench(config, self.output)


@dataclass(frozen=True)
class BenchAlignment:
    """Measure what feedalign.alignment costs, in training steps and in memory.

    It needs one forward pass and no second model; beside it stand single samples' gradients (block_samples=32) and the
    usual way, with a copy of the model.

    Example: feedalign bench alignment --cases mlp-8x1024

    Attributes:
        cases: Which systems.
        rounds: Timed rounds a case; each is one step of DFA, one of backprop, and one of each measurement.
        warmup: Rounds before these, not counted.
        device: Where to run: cpu, or an accelerator such as cuda.
        seed: Seed of weights, inputs and feedback.
        output: Folder of the record.
    """

    cases: Cases = AlignmentConfig.cases
    rounds: int = 10
    warmup: int = 2
    device: str = "cpu"
    seed: int = 0
    output: Path = Path("runs/bench/alignment")

    def run(self) -> None:
        """Measure, with a bar per case, and print the table."""
        run_bench(AlignmentConfig(self.cases, self.rounds, self.warmup, self.device, self.seed), self.output)


@dataclass(frozen=True)
class BenchProducts:
    """Measure whether forming the weight gradients of equal layers as one batched product pays.

    Under DFA no layer waits for another, so the products could be formed all at once; but signals and inputs must be
    copied side by side for it ("stacked").

    Example: feedalign bench products --systems 64x64x32 --device cuda

    Attributes:
        systems: Hidden layers, their width, and the batch, as in 8x1024x512.
        rounds: Timed rounds a system; each forms all gradients in every way.
        warmup: Rounds before these, not counted.
        device: Where to run: cpu, or an accelerator such as cuda.
        seed: Seed of the numbers.
        output: Folder of the record.
    """

    systems: tuple[str, ...] = SYSTEMS
    rounds: int = 30
    warmup: int = 3
    device: str = "cpu"
    seed: int = 0
    output: Path = Path("runs/bench/products")

    def run(self) -> None:
        """Measure, with a bar per system, and print the table."""
        run_bench(ProductsConfig(self.systems, self.rounds, self.warmup, self.device, self.seed), self.output)


@dataclass(frozen=True)
class BenchAccuracy:
    """Tell what an accuracy costs: epochs, seconds and operations until runs reached it, from their records.

    A step of DFA is cheaper than one of backprop; how many steps it takes is another matter. Nothing is trained:
    seconds and curves are those of the records, the operations of a step are counted.

    Example: feedalign bench accuracy results/vision --names nokland-mnist --targets 97 98

    Attributes:
        runs: Folder with the records of runs, such as those of feedalign train vision.
        names: Configurations; all that are there by default.
        targets: Test accuracies in percent. Those that not even backprop reached are left out.
        output: Folder of the record.
    """

    runs: Annotated[Path, tyro.conf.Positional]
    names: tuple[str, ...] = ()
    targets: tuple[float, ...] = AccuracyConfig.targets
    output: Path = Path("runs/bench/accuracy")

    def run(self) -> None:
        """Look through the records, and print the table."""
        run_bench(AccuracyConfig(str(self.runs), self.names, self.targets), self.output)


@dataclass(frozen=True)
class BenchClicks:
    """Measure the time and the peak memory of making the cache of a click log, over its length.

    Files in Criteo's format are made of the 8,000 real rows of criteo-sample, repeated, with new categories among them.
    Prints rows a second and peak memory, and what they foretell for all 45.8 million rows of Criteo Kaggle.

    Example: feedalign bench clicks --rows 200000 1000000

    Attributes:
        rows: Lengths of the files.
        data_root: Folder of data sets; by default that of FEEDALIGN_DATA, else the user's cache folder.
        scratch: Folder for a file and its cache, 420 bytes a row; by default that of temporary files.
        device: Where it runs: the CPU, since there is nothing for an accelerator to do.
        seed: Seed of what is replaced in the rows.
        output: Folder of the record.
    """

    rows: tuple[int, ...] = ClicksConfig.rows
    data_root: Omitted[Path] = None
    scratch: Omitted[Path] = None
    device: Literal["cpu"] = "cpu"
    seed: int = 0
    output: Path = Path("runs/bench/clicks")

    def run(self) -> None:
        """Measure, with a bar per length, and print the table."""
        root, scratch = (None if path is None else str(path) for path in (self.data_root, self.scratch))
        run_bench(ClicksConfig(self.rows, root, scratch, self.device, self.seed), self.output)


def run_bench(config: Config, output: Path) -> None:
    """Measure with a bar, write the record, and print the tables."""
    timed = not isinstance(config, AccuracyConfig | ClicksConfig)
    if timed and config.device == "cpu" and torch.get_num_threads() > 1 and not threads_bound():
        say(
            standard_error(),
            "Threads may come to share a core, which halves the speed of one method or another by chance. To keep each "
            "on a core of its own: OMP_PROC_BIND=true feedalign bench ...",
        )
    with Progress(console=standard_error(), transient=True) as bars:
        tasks = {}

        def progress(what: str, done: int, rounds: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=rounds)
            bars.update(tasks[what], completed=done)

        record = run(config, output, progress)
    console = standard_output()
    show(console, bench_tables(record))
    say(console, f"\nRecord: {output / 'record.json'}\nPictures: feedalign report {output}")
