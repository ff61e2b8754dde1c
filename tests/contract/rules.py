"""The rules under contract. A new rule joins every promise by one line here."""

from collections.abc import Callable

import feedalign as fa

RULES: dict[str, Callable[[], fa.Rule]] = {
    "backprop": fa.Backprop,
    "shallow": fa.Shallow,
    "dfa": lambda: fa.DFA(seed=1),
    "dfa-separate-normal": lambda: fa.DFA(seed=1, feedback=fa.Normal(shared=False)),
    "dfa-orthogonal-widest": lambda: fa.DFA(seed=1, feedback=fa.Orthogonal(scale="widest", gain=1.5)),
    "dfa-repeated": lambda: fa.DFA(seed=1, feedback=fa.Uniform(positions="repeat")),
}
