"""Shallow training: the baseline that any rule has to beat."""

from dataclasses import dataclass
from typing import ClassVar

from feedalign.rules.rule import Rule


@dataclass(frozen=True)
class Shallow(Rule):
    """Cut at every point and deliver nothing: only what lies above the last point learns.

    A network whose lower layers stay random can do well. So a rule is shown to train them only where it beats
    this baseline at equal tuning. Parameters below the points receive no gradient (``None``, not zeros).

    References:
        Launay et al. 2020, the rows called "shallow" (there also ``no_training``).
    """

    cuts: ClassVar[bool] = True
    delivers: ClassVar[bool] = False
