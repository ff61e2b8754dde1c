"""The commands and their help."""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import tyro
from tyro.extras import SubcommandApp

from feedalign.cli.bench import (
    BenchAccuracy,
    BenchAlignment,
    BenchClicks,
    BenchFeedback,
    BenchMemory,
    BenchProducts,
    BenchStep,
)
from feedalign.cli.bench_coprocessor import BenchCoprocessor
from feedalign.cli.bench_ctr import BenchCtr
from feedalign.cli.bench_nerf import BenchNerf
from feedalign.cli.bench_pipeline import BenchPipeline
from feedalign.cli.bench_vocabulary import BenchVocabulary
from feedalign.cli.data import CheckData, FetchData, ListData
from feedalign.cli.demo import Demo
from feedalign.cli.generate import Generate
from feedalign.cli.inspect import Inspect
from feedalign.cli.plan import PlanPipeline
from feedalign.cli.render import Render
from feedalign.cli.report import Report
from feedalign.cli.serve import Serve
from feedalign.cli.table import ShowTable
from feedalign.cli.theory import Theory
from feedalign.cli.train import TrainVision
from feedalign.cli.train_ctr import TrainCtr
from feedalign.cli.train_graph import TrainGae, TrainGraph
from feedalign.cli.train_light import TrainLight
from feedalign.cli.train_lm import TrainLm
from feedalign.cli.train_nerf import TrainNerf
from feedalign.cli.tune import TuneVision
from feedalign.cli.tune_ctr import TuneCtr
from feedalign.cli.tune_graph import TuneGraph
from feedalign.cli.tune_lm import TuneLm
from feedalign.cli.tune_nerf import TuneNerf

DESCRIPTION = """\
Train PyTorch models without weight transport. Backpropagation sends the output error back through the transposed
forward weights, layer after layer. Direct Feedback Alignment (DFA) sends it to every layer at once, through fixed
random matrices. These commands compare the two (and "shallow", where only the last layer learns).

  feedalign demo                                      all three, on small digits
  feedalign train vision --data mnist                 the same on MNIST
  feedalign train vision --data mnist --rule all      and with every rule of the family
  feedalign train graph                               networks that classify the nodes of a graph
  feedalign train ctr                                 networks that tell which rows of a log are clicks
  feedalign train lm                                  a Transformer that foretells text
  feedalign generate runs/lm/python-small/bp-seed0    and goes on with one (train it with --keep)
  feedalign train nerf                                a scene from photographs
  feedalign train light                               networks through simulated light
  feedalign tune vision --preset mnist-rules          find learning rates, with equal budgets
  feedalign report runs/demo                          tables and pictures
  feedalign bench step --cases mlp-8x1024             time of a training step
  feedalign bench memory --depths 8 64                and its memory, over depth
  feedalign plan --stages 8 --micro-batches 16 --forward 20ms   what a pipeline would take
  feedalign theory all --short                        why it learns: Align, then memorise
  feedalign inspect model.py:build --shape 1,1,28,28  where to cut your model
  feedalign serve                                     a device, offered to training processes
  feedalign data list                                 data sets, and where
"""

TRAIN = """Train one of the papers' systems with one or more learning rules, and compare.

Example: feedalign train vision --data mnist --rule bp dfa shallow --seeds 5"""
TUNE = """Find the settings of each rule, with the same trials for every one.

Example: feedalign tune vision --preset mnist-rules --rule all --trials 4 --epochs 3"""
BENCH = """Measure what a rule costs.

Example: feedalign bench step --cases mlp-8x1024"""
DATA = """Find, check and download data sets.

Example: feedalign data list"""


class Command(Protocol):
    """A parsed command line."""

    def run(self) -> None:
        """Do it."""


def parse(arguments: Sequence[str]) -> Command:
    """Return the command that the words of a command line stand for; exits with a message if they stand for none.

    An option that takes several values may be given several times: ``--rule bp --rule dfa`` is ``--rule bp dfa``.
    """
    command = _parsed(arguments)
    repeated = [name for name in _repeated(arguments) if isinstance(getattr(command, name, None), tuple)]
    return _parsed(_joined(arguments, repeated)) if repeated else command


def _parsed(arguments: Sequence[str]) -> Command:
    command: Command = _app().cli(
        prog="feedalign",
        description=DESCRIPTION,
        args=list(arguments),
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
    )
    return command


def _option(word: str) -> str | None:
    """Return the name of the attribute that an option sets, None for a word that is no option."""
    return word[2:].partition("=")[0].replace("-", "_") if word.startswith("--") and len(word) > 2 else None


def _repeated(arguments: Sequence[str]) -> list[str]:
    """Return the options that are given several times, by the names of their attributes."""
    return [name for name, count in Counter(map(_option, arguments)).items() if name is not None and count > 1]


def _joined(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return a command line in which each of some options stands once, with the values of all its places."""
    values: dict[str, list[str]] = {name: [] for name in names}
    kept: list[str] = []
    current = kept
    for word in arguments:
        name = _option(word)
        if name in values:
            current = values[name]
            current += [word.partition("=")[2]] if "=" in word else []
            continue
        if word.startswith("--"):
            current = kept
        current.append(word)
    return [*kept, *(word for name, found in values.items() for word in (f"--{name.replace('_', '-')}", *found))]


def _app() -> SubcommandApp:
    train, tune, bench, data = SubcommandApp(), SubcommandApp(), SubcommandApp(), SubcommandApp()
    train.command(name="vision")(TrainVision)
    train.command(name="graph")(TrainGraph)
    train.command(name="gae")(TrainGae)
    train.command(name="ctr")(TrainCtr)
    train.command(name="lm")(TrainLm)
    train.command(name="nerf")(TrainNerf)
    train.command(name="light")(TrainLight)
    tune.command(name="vision")(TuneVision)
    tune.command(name="graph")(TuneGraph)
    tune.command(name="nerf")(TuneNerf)
    tune.command(name="ctr")(TuneCtr)
    tune.command(name="lm")(TuneLm)
    bench.command(name="step")(BenchStep)
    bench.command(name="memory")(BenchMemory)
    bench.command(name="feedback")(BenchFeedback)
    bench.command(name="alignment")(BenchAlignment)
    bench.command(name="products")(BenchProducts)
    bench.command(name="accuracy")(BenchAccuracy)
    bench.command(name="clicks")(BenchClicks)
    bench.command(name="nerf")(BenchNerf)
    bench.command(name="vocabulary")(BenchVocabulary)
    bench.command(name="ctr")(BenchCtr)
    bench.command(name="pipeline")(BenchPipeline)
    bench.command(name="coprocessor")(BenchCoprocessor)
    data.command(name="list")(ListData)
    data.command(name="check")(CheckData)
    data.command(name="fetch")(FetchData)
    app = SubcommandApp()
    app.command(name="demo")(Demo)
    app.command(train, name="train", help=TRAIN)
    app.command(tune, name="tune", help=TUNE)
    app.command(name="generate")(Generate)
    app.command(name="render")(Render)
    app.command(name="report")(Report)
    app.command(bench, name="bench", help=BENCH)
    app.command(name="plan")(PlanPipeline)
    app.command(name="theory")(Theory)
    app.command(name="inspect")(Inspect)
    app.command(data, name="data", help=DATA)
    app.command(name="table")(ShowTable)
    app.command(name="serve")(Serve)
    return app
