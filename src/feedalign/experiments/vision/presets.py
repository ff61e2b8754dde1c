"""Configurations by name: those of the papers, and those tuned per rule with equal budgets.

What was tuned, and how each trial did, is in ``results/vision/<name>/tuning.json``.
"""

from dataclasses import replace

import feedalign as fa
from feedalign.experiments.data import DataConfig
from feedalign.experiments.models import CNNConfig, MLPConfig
from feedalign.experiments.optimisation import OptimiserConfig, ScheduleConfig
from feedalign.experiments.settings import Preset, configured, named
from feedalign.experiments.vision.config import Config


def preset(name: str, rule: str = "dfa", seed: int = 0) -> Config:
    """Return the configuration called ``name`` for a rule and a seed.

    Raises:
        ExperimentError: There is no preset of that name.
        ValueError: There is no rule of that name.
    """
    return configured(PRESETS, name, rule, seed)


def preset_row(name: str) -> Preset[Config]:
    """Return the preset called ``name``, with what each rule changes in it.

    Raises:
        ExperimentError: There is none of that name.
    """
    return named(PRESETS, name)


LAUNAY = Config(
    data=DataConfig("mnist"),
    model=MLPConfig((256, 256)),
    feedback=fa.Uniform(shared=True, scale="widest"),
    optimiser=OptimiserConfig("sgd", 0.01, momentum=0.9),
    epochs=15,
    embedding=1_000,
)

# Tanh in fully connected nets, where ReLU takes DRTP and rules with a coarse error far below the others.
RULES_MNIST = Config(
    data=DataConfig("mnist"),
    model=MLPConfig((256, 256), activation="tanh"),
    optimiser=OptimiserConfig("adam", 1e-3),
    schedule=ScheduleConfig("cosine"),
    epochs=12,
)
# Averaged over positions, as most convolutional networks are, so that what is learned has to be in the convolutions.
RULES_CIFAR10 = Config(
    data=DataConfig("cifar10", validation=5_000, limit=25_000),
    model=CNNConfig((16, 32, 64), kernel=5, hidden=128, halving="stride", average=True),
    optimiser=OptimiserConfig("adam", 1e-3, weight_decay=1e-4),
    schedule=ScheduleConfig("cosine"),
    epochs=10,
)

PRESETS: dict[str, Preset[Config]] = {
    "digits-demo": Preset(
        "scikit-learn's digits, a 64-128-128-128-10 tanh net: seconds, no download",
        Config(
            data=DataConfig("digits"),
            model=MLPConfig((128, 128, 128), activation="tanh"),
            optimiser=OptimiserConfig("sgd", 0.05, momentum=0.9),
            epochs=30,
            batch=32,
            alignment=256,
            embedding=397,
        ),
    ),
    "launay-mnist": Preset(
        "MNIST, 784-256-256-10 ReLU, exactly as in Launay et al. 2020: all images train, the last epoch counts",
        replace(LAUNAY, data=DataConfig("mnist", validation=0)),
    ),
    "launay-mnist-tuned": Preset(
        "the same net for 30 epochs of Adam with a cosine schedule, learning rate and dropout tuned per rule",
        replace(LAUNAY, optimiser=OptimiserConfig("adam", 1e-3), schedule=ScheduleConfig("cosine"), epochs=30),
        {
            "bp": {"optimiser.learning_rate": 0.001, "model.dropout": 0.1},
            "dfa": {"optimiser.learning_rate": 0.001, "model.dropout": 0.0},
            "shallow": {"optimiser.learning_rate": 0.004, "model.dropout": 0.0},
        },
    ),
    "nokland-mnist": Preset(
        "MNIST, 784-800-800-800-10 tanh as in Nøkland 2016, tuned per rule",
        Config(
            data=DataConfig("mnist"),
            model=MLPConfig((800, 800, 800), activation="tanh"),
            optimiser=OptimiserConfig("adam", 1e-3),
            schedule=ScheduleConfig("cosine"),
            epochs=20,
            embedding=1_000,
        ),
        {
            "bp": {"optimiser.learning_rate": 0.002, "model.dropout": 0.1},
            "dfa": {"optimiser.learning_rate": 0.002, "model.dropout": 0.1},
            "shallow": {"optimiser.learning_rate": 0.002, "model.dropout": 0.1},
        },
    ),
    "fashion-mlp": Preset(
        "Fashion-MNIST, 784-512-512-512-10 ReLU",
        Config(
            data=DataConfig("fashion-mnist"),
            model=MLPConfig((512, 512, 512)),
            optimiser=OptimiserConfig("adam", 1e-3),
            schedule=ScheduleConfig("cosine"),
            epochs=20,
            embedding=1_000,
        ),
    ),
    "cifar10-cnn": Preset(
        "CIFAR-10, two convolutions (32, 64 of 5 x 5), 256 hidden units, ReLU",
        Config(
            data=DataConfig("cifar10"),
            model=CNNConfig(),
            optimiser=OptimiserConfig("adam", 1e-3),
            schedule=ScheduleConfig("cosine"),
            epochs=20,
            embedding=1_000,
        ),
    ),
    "mnist-rules": Preset(
        "MNIST, 784-256-256-10 tanh, for a comparison of all rules",
        RULES_MNIST,
        {
            "bp": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0001},
            "dfa": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0001},
            "ifa": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0001},
            "drtp": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0001},
            "sign_dfa": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0},
            "ternary_dfa": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0001},
            "dkp": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0},
            "fdfa": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0},
            "grape": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0001},
            "fa": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0001},
            "usf": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0001},
            "brsf": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0},
            "frsf": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0001},
            "mirror": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0},
            "kp": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0001},
            "product": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0001},
            "shallow": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0001},
        },
    ),
    "mnist-deep": Preset(
        "MNIST, 784-256-256-256-256-10 tanh, for a comparison of all rules by depth",
        replace(RULES_MNIST, model=MLPConfig((256, 256, 256, 256), activation="tanh")),
        {
            "bp": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0001},
            "dfa": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0001},
            "dkp": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0001},
            "fdfa": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0},
            "grape": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0001},
            "shallow": {"optimiser.learning_rate": 0.003, "optimiser.weight_decay": 0.0001},
        },
    ),
    "mnist-deep-plain": Preset(
        "the same net without weight decay, for alignment by depth",
        replace(
            RULES_MNIST,
            model=MLPConfig((256, 256, 256, 256), activation="tanh"),
            optimiser=OptimiserConfig("adam", 3e-3),
        ),
    ),
    "cifar10-rules": Preset(
        "half of CIFAR-10, three strided convolutions (16, 32, 64 of 5 x 5), averaged, 128 hidden, for all rules",
        RULES_CIFAR10,
        {
            "bp": {"optimiser.learning_rate": 0.003},
            "dfa": {"optimiser.learning_rate": 0.001},
            "dfa-repeat": {"optimiser.learning_rate": 0.001},
            "ifa": {"optimiser.learning_rate": 0.001},
            "drtp": {"optimiser.learning_rate": 0.0003},
            "sign_dfa": {"optimiser.learning_rate": 0.001},
            "ternary_dfa": {"optimiser.learning_rate": 0.003},
            "dkp": {"optimiser.learning_rate": 0.0003},
            "dkp-repeat": {"optimiser.learning_rate": 0.003},
            "fdfa": {"optimiser.learning_rate": 0.003},
            "grape": {"optimiser.learning_rate": 0.003},
            "fa": {"optimiser.learning_rate": 0.001},
            "usf": {"optimiser.learning_rate": 0.003},
            "brsf": {"optimiser.learning_rate": 0.003},
            "frsf": {"optimiser.learning_rate": 0.003},
            "mirror": {"optimiser.learning_rate": 0.003},
            "kp": {"optimiser.learning_rate": 0.001},
            "product": {"optimiser.learning_rate": 0.003},
            "shallow": {"optimiser.learning_rate": 0.003},
        },
        variants=("dfa-repeat", "dkp-repeat"),
    ),
    "cifar10-rules-gpu": Preset(
        "CIFAR-10, three strided convolutions (64, 128, 256 of 5 x 5), averaged, 512 hidden, for all rules on a GPU",
        replace(
            RULES_CIFAR10,
            data=DataConfig("cifar10"),
            model=CNNConfig((64, 128, 256), kernel=5, hidden=512, halving="stride", average=True),
            epochs=60,
        ),
        variants=("dfa-repeat", "dkp-repeat"),
    ),
}
