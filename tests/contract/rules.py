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
    "dfa-regenerated": lambda: fa.DFA(seed=1, feedback=fa.Regenerated()),
    "dfa-hadamard": lambda: fa.DFA(seed=1, feedback=fa.Hadamard(shared=False)),
    "dfa-sparse": lambda: fa.DFA(seed=1, feedback=fa.Sparse(positions="repeat")),
    "dfa-optical": lambda: fa.DFA(seed=1, feedback=fa.Optical()),
    "ternary-dfa-phase": lambda: fa.TernaryDFA(seed=1, feedback=fa.Optical(recovery="phase", camera=None)),
    "dfa-microring": lambda: fa.DFA(seed=1, feedback=fa.Crossbar.microring(0.05, shared=False)),
    "dfa-crossbar": lambda: fa.DFA(seed=1, feedback=fa.Crossbar(bits_in=14, bits_out=14, bound=2.0, tile=3)),
    "ifa": lambda: fa.IFA(seed=1),
    "drtp": lambda: fa.DRTP(seed=1, reduction="sum"),
    "sign-dfa": lambda: fa.SignDFA(seed=1),
    "ternary-dfa": lambda: fa.TernaryDFA(seed=1, threshold=0.3),
    "dkp": lambda: fa.DKP(seed=1),
    "fdfa": lambda: fa.FDFA(seed=1),
    "grape": lambda: fa.GrAPE(seed=1),
    "fa": lambda: fa.FA(seed=1),
    "usf": lambda: fa.USF(seed=1),
    "brsf": lambda: fa.BRSF(seed=1),
    "frsf": lambda: fa.FRSF(seed=1),
    "mirror": lambda: fa.WeightMirror(seed=1),
    "kp": lambda: fa.KolenPollack(seed=1),
    "product": lambda: fa.ProductFA(seed=1),
}


FUSED = (
    "lstm-cell-in-time", "lstm-whole", "transformer-post-ln", "transformer-post-ln-micro", "transformer-pre-ln",
    "lm-tied",
)  # fmt: skip
FOLLOWS = "it needs the gradient of each weight by itself, which attention and recurrent layers form inside"
MEASURED = ("dfa-optical", "ternary-dfa-phase", "dfa-microring", "dfa-crossbar")
"""Their signals are measurements: near the error times a matrix, and not equal to it."""
NOISE = "its noise follows from the bits of the error, which are other ones in float32"
LESS_PRECISE = {
    "dfa-optical": NOISE,
    "dfa-microring": NOISE,
    "brsf": "its numbers follow from the bits of the weights, which are other ones in float32",
    "lm-tied-sign-dfa": "rounded to bfloat16, small errors change their signs",
    **{
        f"{exhibit}-{rule}": "forward mode through a convolution under autocast mixes types in PyTorch"
        for exhibit in ("resnet-groupnorm", "resnet-batchnorm")
        for rule in ("ifa", "fdfa", "grape")
    },
}


def refused(exhibit: str, rule: fa.Rule) -> str | None:
    """Return why a rule is not defined for an exhibit, None if it is."""
    return FOLLOWS if exhibit in FUSED and getattr(rule, "follows", False) else None
