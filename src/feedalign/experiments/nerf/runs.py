"""Runs on scenes."""

from feedalign.experiments.data.scenes import Scene, load_scene
from feedalign.experiments.names import label, rule_of, transports
from feedalign.experiments.nerf.config import Config
from feedalign.experiments.nerf.training import NerfTraining
from feedalign.experiments.runs import Experiment
from feedalign.rules import RULES, BroadcastRule


def _rehearse(config: Config, scene: Scene) -> None:
    if transports(config.rule):
        raise ValueError(
            f"{label(config.rule)} goes from layer to layer and does not know those of a radiance field, which may "
            "take two inputs. Do choose a rule that broadcasts, such as dfa."
        )
    rule = RULES[rule_of(config.rule)].rule
    if issubclass(rule, BroadcastRule) and rule.targeted:
        raise ValueError(
            f"{label(config.rule)} sends targets instead of errors, and nobody knows the colour and the density that a "
            "sample on a ray should have. Do choose another rule."
        )
    for handle in config.attach(config.build(scene.near, scene.far, scene.white)).values():
        handle.remove()


NERF = Experiment(load_scene, _rehearse, NerfTraining)
