"""Writes docs/models.md from the list of models: ``PYTHONPATH=tests python -m contract.models.page``."""

from pathlib import Path

from contract.models.case import Case
from contract.models.elsewhere import ELSEWHERE
from contract.models.graphs import GRAPHS
from contract.models.hugging_face import MIXED, TEXT, VISION
from contract.models.models import CASES, REFUSED
from contract.models.recurrent import RECURRENT
from contract.models.signals import SIGNALS
from contract.models.systems import SYSTEMS

FILE = Path(__file__).parents[3] / "docs/models.md"
KINDS = {
    "Text (Hugging Face Transformers)": TEXT,
    "Images and video (Hugging Face Transformers)": VISION,
    "Speech, series and several modalities (Hugging Face Transformers)": MIXED,
    "Graphs (PyTorch Geometric)": GRAPHS,
    "Over time": RECURRENT,
    "Images, waves, sets and rays": SIGNALS,
    "Several inputs, outputs or methods": SYSTEMS,
}

HEAD = """# Models that were tried

<!-- Written by tests/contract/models/page.py from the list that the tests run. -->

{count} models, each built tiny and trained for one step in the tests of every change. {plain} of them need no arguments
but the model and the rule. Each is checked in two sizes: with sizes that all differ, and with batch, tokens, width,
heads and classes the same, so that no dimension can be told from another by its size.

**What is checked.** The gradient of every parameter equals that of an oracle, in float64, to nine digits. The oracle
knows the layout of each model from its source and uses none of the library's code but the numbers of the feedback
matrix: it cuts the plain model with hooks, takes the error by autograd, fills in the signal row by row, and
differentiates once. Besides, every parameter that backpropagation trains gets a gradient.

**How to read a layout.** Small letters are rows of the error (`n` samples or nodes, `t` tokens or steps) and capitals
are features: `n t D` is `[samples, tokens, width]`, and `(n a) K D` holds the parts `a` of each sample one after the
other. A point without one of the error's rows gets the sum of the error over it. Under "points" stand the points and
their layouts, under "error" the layouts of the tensors that carry the error.
"""


def page() -> str:
    """Return the text of docs/models.md."""
    plain = sum(not case.arguments and not case.stated[0] for case in CASES)
    parts = [HEAD.format(count=len(CASES), plain=plain)]
    for title, cases in KINDS.items():
        parts.append(f"## {title}\n\n{table(cases)}")
    parts.append(
        "## Other libraries\n\nThe tests do not need these libraries. The same was checked by hand: "
        "`python -m contract.models.elsewhere`.\n\n" + table(ELSEWHERE)
    )
    refused = [
        f"| {each.name} | {each.library} | {code(each.arguments)} | `{each.error.__name__}` | {each.why} |"
        for each in REFUSED
    ]
    parts.append(
        "## What raises\n\nNo signal is delivered here; the first step says so.\n\n"
        "| model | from | arguments of `attach` | raises | why |\n|---|---|---|---|---|\n" + "\n".join(refused) + "\n"
    )
    return "\n".join(parts)


def table(cases: list[Case]) -> str:
    """Return one row per case."""
    rows = [
        f"| {case.name} | {case.library} | {arguments(case)} | {layout(case)} | {error(case)} | {case.notes} |\n"
        for case in cases
    ]
    return "| model | from | arguments of `attach` | points | error | notes |\n|---|---|---|---|---|---|\n" + "".join(
        rows
    )


def arguments(case: Case) -> str:
    own = code(case.arguments)
    if case.stated[1]:
        own += (", " if own else "") + ("`rows=`" if case.stated[0] else "`rows=` where sizes coincide")
    if case.method:
        own += (", " if own else "") + f'`handle.register_forward_method("{case.method}")`'
    return own or "none"


def code(given: dict[str, object]) -> str:
    return ", ".join(f"`{name}={value!r}`".replace("'", '"') for name, value in given.items())


def layout(case: Case) -> str:
    return ", ".join(f"`{point}`: `{letters}`" for point, letters in case.layout.items() if letters != "-")


def error(case: Case) -> str:
    return ", ".join(f"`{letters}`" for letters in dict.fromkeys(case.error))


if __name__ == "__main__":
    FILE.write_text(page())
