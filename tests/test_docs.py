"""The documentation runs, and says what is so."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import feedalign as fa

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize(("name", "outputs"), [("first-steps", 2), ("align-then-memorise", 1), ("train-with-light", 6)])
def test_the_tutorials_run(capsys: pytest.CaptureFixture[str], name: str, outputs: int) -> None:
    page = (ROOT / f"docs/tutorials/{name}.md").read_text()
    program = "\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    exec(compile(program, f"{name}.md", "exec"), {})
    printed = capsys.readouterr().out
    shown = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
    assert len(shown) == outputs
    for block in shown:
        assert all(line.rstrip() in printed for line in block.splitlines())


def test_the_tutorial_of_many_processes_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs/tutorials/from-one-process-to-many.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "train.py").write_text(program)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    (shown,) = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
    assert [line for line in shown.splitlines() if line not in done.stdout] == []


def test_the_device_of_the_tutorial_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file to start from works as it is, and the page names all that it has."""
    monkeypatch.syspath_prepend(str(ROOT / "docs/tutorials"))
    from example_device import Rig

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    rig = Rig(columns=64)
    assert isinstance(rig, fa.Projector)
    handle = fa.attach(model, fa.DFA(feedback=fa.Hardware(rig)))
    x = torch.randn(64, 4)
    y = x[:, :3].argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert "the rig in the cellar" in repr(handle)
    page = (ROOT / "docs/tutorials/connect-your-own-device.md").read_text()
    assert all(name in page for name in ("columns", "inputs", "start(", "collect(", "fa.Remote(", "feedalign serve"))


def test_importing_the_library_imports_no_compiler() -> None:
    """It takes as long to import as torch itself; ``attach`` does it, since a model may be compiled afterwards."""
    program = (
        "import sys, torch\nbefore = set(sys.modules)\nimport feedalign\nprint(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    new = done.stdout.split()
    assert "feedalign.attach" in new
    assert [name for name in new if name.split(".")[0] not in ("feedalign", *sys.stdlib_module_names)] == []


def test_the_rule_of_the_rules_page_runs() -> None:
    page = (ROOT / "docs/rules.md").read_text()
    programs = re.findall(r"```python\n(.*?)```", page.split("## Writing a rule")[1], flags=re.DOTALL)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    scope = {"model": model, "__name__": "page"}
    for program in programs:
        exec(compile(program, "rules.md", "exec"), scope)
    model(torch.randn(5, 4)).sum().backward()
    assert scope["handle"].last.signals["1"] > 0
    scope["handle"].remove()
    fa.attach(model, scope["NoisyTransport"](seed=0))
    model(torch.randn(5, 4)).sum().backward()
    assert model[0].weight.grad.norm() > 0


def test_every_rule_has_a_row() -> None:
    page = (ROOT / "docs/rules.md").read_text()
    from feedalign.rules import RULES

    for name, entry in RULES.items():
        assert f"| `{entry.rule.__name__}` (`" in page, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_public_names_exist_and_are_documented() -> None:
    assert sorted(fa.__all__) == sorted(set(fa.__all__))
    for name in fa.__all__:
        value = getattr(fa, name)
        assert isinstance(value, str) or (value.__doc__ and len(value.__doc__) > 40), name


def test_the_library_needs_torch_alone_and_never_its_experiments() -> None:
    source = ROOT / "src/feedalign"
    library = [
        *source.glob("*.py"),
        *(source / "rules").glob("*.py"),
        *(source / "feedback").glob("*.py"),
        *(source / "transport").glob("*.py"),
        *(source / "pipelining").glob("*.py"),
        *(source / "optics").glob("*.py"),
        *(source / "hardware").glob("*.py"),
    ]
    allowed = set(sys.stdlib_module_names) | {"torch", "feedalign"}
    for file in library:
        if file.name == "__main__.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in allowed, f"{file.name} imports {name}"
                assert not name.startswith(("feedalign.experiments", "feedalign.bench", "feedalign.cli")), file.name
    for file in (source / "theory").glob("*.py"):  # on numpy and scipy, and for use without experiments
        assert not re.search(r"^\s*(from|import) feedalign\.(experiments|bench|cli)", file.read_text(), re.M), file.name
    program = "import sys, feedalign; print([m for m in sys.modules if m.startswith('feedalign.')])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"feedalign\.(experiments|bench|cli|theory|pipelining)", found)
