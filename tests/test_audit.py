"""What the audit says of models with a known fault."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from audited import deep, loss_of, sgd, task

pytestmark = pytest.mark.usefixtures("float64")


def findings(model: nn.Module, rule, steps: int = 0, rate: float = 0.3, **where) -> str:
    handle = fa.attach(model, rule, **where)
    return "\n".join(fa.audit(handle, loss_of(model), steps, sgd(rate)).findings)


def test_feedback_too_weak_to_teach() -> None:
    found = findings(deep(3), fa.DFA(feedback=fa.Uniform(gain=1e-4)), steps=40)
    assert "Points 1-3 (1 to 5) learn nothing: shallow does as well (the loss is " in found
    assert re.search(r"Signals there are as small as \S+ times the true gradient: try a larger gain=", found)
    assert "so a learning rate that suits the rest does not suit" in found


@pytest.mark.parametrize("idle", [1, 2])
def test_the_depth_up_to_which_nothing_is_learnt_is_measured(idle: int) -> None:
    weak, sound = fa.DFA(feedback=fa.Uniform(gain=1e-5, shared=False)), fa.DFA(feedback=fa.Uniform(shared=False))
    model = deep(4)
    handle = fa.attach(model, {str(2 * i + 1): weak if i < idle else sound for i in range(4)})
    found = fa.audit(handle, loss_of(model), 60, sgd(0.3))
    named = (
        "Point 1 (1) learns nothing: without its signal",
        "Points 1-2 (1 to 3) learn nothing: without their signals",
    )
    assert any(finding.startswith(named[idle - 1]) for finding in found.findings)
    trials = found.trials
    assert trials.idle == idle
    assert {idle, idle + 1} - {4} <= set(trials.without)
    assert not trials.worse(trials.without[idle], trials.rule)
    assert trials.worse(trials.without[idle + 1], trials.rule)
    assert f"the rule, nothing to the lowest {idle}" in repr(found)


def test_a_rule_that_goes_uphill_and_one_that_is_backpropagation() -> None:
    for sign, words in (
        (
            -1,
            (
                "does worse than shallow training",
                "leads hardly or not at all down the slope",
                "backpropagation's is -1.00",
            ),
        ),
        (1, ("All is well", "cosine +1.00", "the rule reaches 100%")),
    ):
        model = deep(1)
        handle, closure = fa.attach(model, fa.DFA()), loss_of(model)
        closure().backward()
        with torch.no_grad():
            model[2].weight.copy_(sign * handle.planner.matrices()[0])
        model[2].requires_grad_(False)  # so that it stays
        found = fa.audit(handle, closure, 20, sgd(0.3))
        assert all(word in repr(found) for word in words), found


def test_flattened_feedback_of_convolutions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 6, 3, padding=1), nn.Tanh(),
        nn.Conv2d(6, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 64, 4),
    )  # fmt: skip
    x, y = torch.randn(32, 1, 8, 8), torch.randint(4, (32,))  # nothing can be learnt of it but by heart
    handle = fa.attach(model, fa.DFA(seed=0))
    found = fa.audit(handle, lambda: F.cross_entropy(model(x), y))
    assert any(depth.flattened for depth in found.batch.depths)
    assert min(depth.descent for depth in found.batch.depths) < 0.05
    assert "audit again with steps=. Try feedback=feedalign.Uniform(positions='repeat')" in repr(found)
    assert "macro" not in repr(found)  # there are no blocks
    handle.remove()
    handle = fa.attach(model, fa.DFA(seed=0, feedback=fa.Uniform(positions="repeat")))
    found = fa.audit(handle, lambda: F.cross_entropy(model(x), y))
    assert not any(depth.flattened for depth in found.batch.depths)
    assert "positions=" not in repr(found)


def test_frozen_blocks_receive_nothing() -> None:
    model = deep(3)
    model[0].requires_grad_(False)
    assert "Point 1 (1) receives nothing: nothing below it can train (frozen?). If that is not" in findings(
        model, fa.DFA()
    )
    model = deep(4)
    for i in (0, 4):
        model[i].requires_grad_(False)
    found = fa.audit(fa.attach(model, fa.FA()), loss_of(model))
    assert "Layers 1, 3 (0, 4) receive nothing: their weights are frozen." in repr(found)
    assert "nothing:" in repr(found).splitlines()[3]


class Named(nn.Module):
    """Its points have names with capitals, and one of them does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.Lower, self.Upper, self.Spare, self.head = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.Upper(self.Lower(x).tanh()).tanh())


class Silent(fa.DFA):
    def signals(self, sent):
        return [0 * signal for signal in super().signals(sent)]


def test_points_that_do_not_run_or_get_nothing_by_their_rule() -> None:
    found = findings(Named(), fa.DFA(), points=["Lower", "Upper", "Spare"])
    assert "Point 3 (Spare) receives nothing: it did not run. Take it out of points=" in found
    found = findings(Named(), {"Lower": fa.Shallow(), "Upper": fa.DFA()})
    assert "Point 1 (Lower) receives nothing: its rule delivers nothing." in found
    found = findings(Named(), Silent(), points=["Lower", "Upper"])
    assert "Points 1-2 (Lower to Upper) receive nothing: their signals are zero. Look at the rule's options" in found
    found = findings(Named(), fa.FA())
    assert "(Spare) receives nothing: it did not run." in found


def test_dead_units() -> None:
    for rule, place in ((fa.DFA(), r"points 1-3 \(1 to 5\)"), (fa.FA(), r"layers 1-3 \(0 to 4\)")):
        model = deep(3, nn.ReLU)
        with torch.no_grad():
            for i in (0, 2, 4):
                model[i].bias[:8] = -100
        found = findings(model, rule)
        assert re.search(rf"At {place} up to [5-9]\d% of the units are dead: the same for every row", found)
        assert "tanh or LeakyReLU for ReLU" in found
    model = deep(3)
    with torch.no_grad():
        for i in (0, 2, 4):
            model[i].bias[:8] = -100
    assert "Try a lower learning rate, or a normalisation in front of it." in findings(model, fa.DFA())


def test_signals_that_vanish() -> None:
    found = findings(deep(10), fa.FA(feedback=fa.Uniform(shared=False, gain=0.5)))
    assert re.search(r"The signals vanish: over 10 layers by a factor of \S+ downwards \(backpropagation's: ", found)
    handle = fa.attach(deep(1), fa.DFA())
    assert np.isnan(fa.audit(handle, loss_of(handle.model)).batch.growth("signal"))  # one point does not grow


def test_activations_that_explode() -> None:
    model = deep(6, nn.ReLU)
    with torch.no_grad():
        for i in range(0, 12, 2):
            model[i].weight.mul_(6)
    assert re.search(
        r"The activations explode: over 6 points by a factor of \S+ upwards\. Try another init",
        findings(model, fa.DFA()),
    )


def test_training_that_diverges_or_cannot_judge() -> None:
    found = findings(deep(2, nn.ReLU), fa.DFA(), steps=20, rate=1e200)
    assert "The rule's training diverged within 20 steps. Lower the learning rate" in found
    found = findings(deep(2), fa.DFA(), steps=20, rate=0.0)
    assert "In 20 steps not even backpropagation lowers the loss" in found


def test_shallow_training_that_suffices_shows_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 30), nn.Tanh(), nn.Linear(30, 3))
    with torch.no_grad():
        model[0].weight.mul_(1e-3)  # so that the layer below hardly matters to the bias, which has all to learn
    x = task()[0]
    handle = fa.attach(model, fa.DFA(feedback=fa.Uniform(gain=1e-3)))
    found = fa.audit(handle, lambda: F.mse_loss(model(x), torch.ones(64, 3)), 100, sgd(0.03))
    assert "Shallow training does as well as backpropagation here" in repr(found)
    assert "cannot show what the lower layers learn" in repr(found)


def test_rows_without_error() -> None:
    model, (x, y) = deep(2), task()
    handle = fa.attach(model, fa.DFA())
    found = fa.audit(handle, lambda: F.cross_entropy(model(x)[:10], y[:10]))
    assert "54 of 64 rows have zero error (masked, or fitted exactly) and teach nothing." in found.findings
    found = fa.audit(handle, lambda: 0 * model(x).sum())
    assert "Every row has zero error, so nothing is learned at all" in repr(found)
    handle.remove()
    found = fa.audit(fa.attach(model, fa.FA()), lambda: F.cross_entropy(model(x)[:10], y[:10]))
    assert "54 of 64 rows have zero error" in repr(found)


def test_a_rule_that_comes_short_and_one_batch_that_is_well() -> None:
    model = deep(4)
    handle, closure = fa.attach(model, fa.DFA()), loss_of(model)
    optimiser = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(200):
        optimiser.zero_grad()
        closure().backward()
        optimiser.step()
    found = fa.audit(handle, closure)
    (finding,) = found.findings
    assert finding.startswith("All is well: the steps of points 1-4 (1 to 7) go down the slope")
    assert finding.endswith("That is one batch: steps= compares with backpropagation and shallow training.")
    found = findings(deep(4), fa.FA(), steps=40, rate=0.3)
    assert re.search(r"beats shallow training .* is only \d+% of the way .* another learning rate for the rule", found)


def test_nothing_below_what_is_delivered() -> None:
    model = nn.Sequential(nn.Linear(16, 3))
    found = fa.audit(fa.attach(model, fa.FA()), loss_of(model))
    assert found.findings == ("There is nothing to judge: no parameters lie below what the rule delivers to.",)


def test_errors() -> None:
    model = deep(2)
    closure = loss_of(model)
    for rule in (fa.Shallow(), fa.Backprop()):
        handle = fa.attach(model, rule)
        with pytest.raises(
            fa.SignalError, match=rf"expected a rule that delivers.*found {type(rule).__name__}.*nothing"
        ):
            fa.audit(handle, closure)
        handle.remove()
    handle = fa.attach(model, fa.DFA())
    with handle.off(), pytest.raises(fa.SignalError, match=r"is off or removed.*Audit while it is on"):
        fa.audit(handle, closure)
    with pytest.raises(fa.SignalError, match=r"steps=8 expected a function that makes an optimiser .* found NoneType"):
        fa.audit(handle, closure, 8)
    with pytest.raises(fa.SignalError, match="makes an optimiser for each training, found SGD"):
        fa.audit(handle, closure, 8, torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(fa.SignalError, match=r"expected a function that returns a torch.optim.Optimizer, found .* 3"):
        fa.audit(handle, closure, 8, lambda parameters: 3)
    with pytest.raises(fa.SignalError, match=r"expected 0 or at least 8 .* found 4"):
        fa.audit(handle, closure, 4, sgd(0.1))
    with pytest.raises(fa.SignalError, match="at least one closure, found an empty list"):
        fa.audit(handle, [])
    with pytest.raises(fa.SignalError, match=r"a function that returns the loss, or a list of such, found generator\."):
        fa.audit(handle, (closure for _ in range(3)))
    with pytest.raises(fa.SignalError, match="and ran it several times"):
        fa.audit(handle, lambda: closure() + closure())
    with pytest.raises(fa.SignalError, match=r"must return the loss, a scalar.*found a tensor of shape \(64, 3\)"):
        fa.audit(handle, lambda: model(task()[0]))


def test_the_page_shows_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parent.parent / "docs/audit.md").read_text()
    torch.set_default_dtype(torch.float32)
    program = "\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    exec(compile(program, "audit.md", "exec"), {})

    def plain(text: str) -> str:  # the last digits differ between versions of PyTorch
        return re.sub(r"[-\s]+", " ", re.sub(r"[+-]?\d[\d.e%-]*", "0", text))

    printed, shown = plain(capsys.readouterr().out), re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
    assert shown
    assert all(plain(block).strip() in printed for block in shown)
