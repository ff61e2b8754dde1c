"""The rules by name, for command lines and configuration files."""

from typing import Any, NamedTuple

from feedalign.errors import nearest
from feedalign.rules.backprop import Backprop
from feedalign.rules.dfa import DFA
from feedalign.rules.rule import Rule
from feedalign.rules.shallow import Shallow


class Entry(NamedTuple):
    """One row of the table of rules."""

    rule: type[Rule]
    flows: str
    paper: str


RULES: dict[str, Entry] = {
    "backprop": Entry(Backprop, "the true gradient", "Rumelhart et al. 1986"),
    "shallow": Entry(Shallow, "nothing below the last point", "Launay et al. 2020"),
    "dfa": Entry(DFA, "the error through fixed random matrices", "Nøkland 2016"),
}
ALIASES = {"bp": "backprop"}


def rule(name: str, **options: Any) -> Rule:
    """Return the rule called ``name``.

    Args:
        name: ``backprop`` (or ``bp``), ``shallow`` or ``dfa``.
        options: Options of the rule's class, such as ``seed=0``.

    Raises:
        ValueError: There is no rule of that name. (A misspelt name must never train something else.)
        TypeError: The rule has no such option.
    """
    known = [*RULES, *ALIASES]
    if name not in known:
        raise ValueError(f"There is no rule {name!r}.{nearest(name, known)} The rules are: {', '.join(RULES)}.")
    return RULES[ALIASES.get(name, name)].rule(**options)
