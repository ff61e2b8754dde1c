"""What flows backward: one file a rule."""

from feedalign.rules.backprop import Backprop
from feedalign.rules.dfa import DFA
from feedalign.rules.rule import BroadcastRule, Rule
from feedalign.rules.shallow import Shallow
from feedalign.rules.table import RULES, rule

__all__ = ["DFA", "RULES", "Backprop", "BroadcastRule", "Rule", "Shallow", "rule"]
