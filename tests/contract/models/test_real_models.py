"""Real models: the gradients under Direct Feedback Alignment are those of an oracle that is told every layout.

Each model runs with sizes that differ from each other, and with sizes that coincide so that only what the model
computes tells its dimensions apart.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from contract.models.case import Case, Sizes
from contract.models.models import CASES, REFUSED, Refused
from contract.models.oracle import at_row, expected, flat, forward, reaches, solved
from contract.models.page import page

SEED = 1
CLOSE = {"rtol": 1e-9, "atol": 1e-11}  # float64, sums in another order

pytestmark = [
    pytest.mark.usefixtures("float64"),
    # Of other libraries: what they will change, and that a time-first encoder is slow in evaluation mode.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:enable_nested_tensor"),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
both_sizes = pytest.mark.parametrize("which", [0, 1], ids=["sizes-differ", "sizes-coincide"])


def run(
    case: Case, sizes: Sizes, arguments: dict[str, object], weights: int = 0
) -> tuple[fa.Attachment, dict[str, Tensor | None]]:
    """Train the attached model for one step, as its user would, and return the gradients."""
    model, given = case.model(sizes, weights), case.batch(sizes, weights)
    handle = fa.attach(model, fa.DFA(seed=SEED), **arguments)
    if case.method:
        handle.register_forward_method(case.method)
    if case.warns:
        with pytest.warns(UserWarning, match="path"):
            value = case.call(model, given)
    else:
        value = case.call(model, given)
    case.loss(value, [] if case.module else case.tap(value), given).backward()
    return handle, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def assert_same(found: dict[str, Tensor | None], wanted: dict[str, Tensor | None]) -> None:
    """Compare by parameter; no gradient and one of zeros are the same."""
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        if gradient is None:
            assert found[name] is None or not found[name].any(), name
        else:
            torch.testing.assert_close(found[name], gradient, **CLOSE, msg=lambda m, n=name: f"{n}: {m}")


@both_sizes
@every_case
def test_gradients_are_those_of_the_oracle(case: Case, which: int) -> None:
    sizes, arguments = case.sizes[which], case.arguments
    if case.stated[which]:
        with pytest.raises(fa.SignalError, match="rows="):
            run(case, sizes, arguments)
        arguments = {**arguments, "rows": case.rows()}
    handle, found = run(case, sizes, arguments)
    assert_same(found, expected(case, sizes, SEED))
    points = [str(point).split("[")[0] for point in handle.points]
    assert points == [point.split("[")[0] for point in case.points(handle.model)]


@pytest.mark.slow
@pytest.mark.parametrize("weights", [1000, 2000, 3000, 4000])
@both_sizes
@every_case
def test_with_other_weights_gradients_are_right_or_refused(case: Case, which: int, weights: int) -> None:
    wanted = expected(case, case.sizes[which], SEED, weights)
    try:
        _, found = run(case, case.sizes[which], case.arguments, weights)
    except fa.SignalError as refused:
        if "rows=" not in str(refused):
            raise
    else:
        assert_same(found, wanted)
    if "rows" not in case.arguments and case.stated[which]:
        _, found = run(case, case.sizes[which], {**case.arguments, "rows": case.rows()}, weights)
        assert_same(found, wanted)


@every_case
def test_every_parameter_that_backpropagation_trains_gets_a_gradient(case: Case) -> None:
    model, given = case.model(case.sizes[0]), case.batch(case.sizes[0])
    value = case.call(model, given)
    case.loss(value, [] if case.module else case.tap(value), given).backward()
    wanted = expected(case, case.sizes[0], SEED)
    # The keys' bias of an attention layer has no gradient in truth, and rounding in practice.
    trained = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-12}
    assert trained - {n for n, gradient in wanted.items() if gradient is not None and gradient.any()} == set()


@pytest.mark.parametrize("case", [case for case in CASES if not case.coupled], ids=lambda case: case.name)
def test_the_plain_model_keeps_the_samples_where_the_layout_says(case: Case) -> None:
    run = forward(case, case.model(case.sizes[1]), case.batch(case.sizes[1]), cut=False)
    known = dict(case.merged(case.sizes[1]))
    for letters, output in zip(case.error, run.tapped, strict=True):
        known.update(solved(letters, output.shape, known, rows_only=True))
    for letters, output in zip(case.error, run.tapped, strict=True):
        for arrived in run.arrived:
            if "n" in flat(arrived.letters) and reaches(output, arrived.tensor):
                seen = False
                for sample in (0, known["n"] - 1):
                    own = at_row(output, letters, known, {"n": sample})
                    (found,) = torch.autograd.grad(own.square().sum(), [arrived.tensor], retain_graph=True)
                    seen |= bool(at_row(found, arrived.letters, known, {"n": sample}).any())
                    for other in set(range(known["n"])) - {sample}:
                        assert not at_row(found, arrived.letters, known, {"n": other}).any()
                assert seen


def test_the_oracle_is_right_in_closed_form() -> None:
    sizes = Sizes(n=3, d=4, c=2)
    build = lambda s: nn.Sequential(nn.Linear(s.d, 5), nn.Tanh(), nn.Linear(5, s.c))  # noqa: E731
    case = Case("mlp", "own", build, lambda s: (torch.randn(s.n, s.d),), ("n C",), {"1": "n D"}, sizes=(sizes, sizes))
    model, (x,) = case.model(sizes), case.batch(sizes)
    hidden = model[:2](x)
    output = model(x)
    (error,) = torch.autograd.grad(case.loss(output, [output], (x,)), [output])
    matrix = fa.Uniform().matrix(SEED, "shared", 2, 5).double() / 5**0.5
    below = (error @ matrix) * (1 - hidden**2)
    wanted = {"0.weight": below.T @ x, "0.bias": below.sum(0), "2.weight": error.T @ hidden, "2.bias": error.sum(0)}
    for name, gradient in expected(case, sizes, SEED).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: refused.name)
def test_what_cannot_be_delivered_raises(refused: Refused) -> None:
    model = refused.build().double()

    def train() -> None:
        fa.attach(model, fa.DFA(seed=SEED), **refused.arguments)
        refused.step(model)

    with pytest.raises(refused.error, match=refused.says):
        train()


def test_the_list_is_long_enough_and_needs_few_arguments() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)
    assert sum(not case.arguments for case in CASES) >= len(CASES) / 2


def test_the_page_of_models_is_up_to_date() -> None:
    file = Path(__file__).parents[3] / "docs/models.md"
    assert file.read_text() == page(), "Run `python -m contract.models.page` with tests/ on the path."
