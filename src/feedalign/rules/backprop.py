"""Backpropagation, as a rule among the others, so that comparisons run the same program."""

from dataclasses import dataclass
from typing import ClassVar

from feedalign.rules.rule import Rule


@dataclass(frozen=True)
class Backprop(Rule):
    """Cut nothing: the model trains by ordinary backpropagation, bitwise.

    References:
        Rumelhart, Hinton & Williams, *Learning representations by back-propagating errors*, Nature 1986.
    """

    cuts: ClassVar[bool] = False
    delivers: ClassVar[bool] = False
