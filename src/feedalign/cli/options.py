"""Types of options that may be left out, as their help shows them."""

from typing import Annotated, TypeVar

import tyro

T = TypeVar("T")
# The sentence about the option says itself what holds without it.
Omitted = Annotated[T | None, tyro.conf.arg(help_behavior_hint="")]
OfPreset = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: that of the preset)")]
