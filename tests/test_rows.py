"""Where rows lie is found out from what the output depends on, stated, or refused; never guessed from sizes."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign.bench.cost import flops
from feedalign.evidence import by_size, candidates, judge, probe
from feedalign.layout import Placement, match

pytestmark = pytest.mark.usefixtures("float64")


def matrix(key: str, rows: int, columns: int, seed: int = 0) -> Tensor:
    """Return the matrix of one point, as the seed gives it."""
    return fa.Uniform().matrix(seed, key, rows, columns).double() / columns**0.5


class Recorded:
    """What arrives at one module's output, and the error at the model's."""

    def __init__(self, model: nn.Module, name: str) -> None:
        self.signal = self.error = None
        model.get_submodule(name).register_forward_hook(self._at_point)
        model.register_forward_hook(self._at_output)

    def _at_point(self, module: nn.Module, args: object, output: object) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        tensor.register_hook(lambda gradient: setattr(self, "signal", gradient.clone()))

    def _at_output(self, module: nn.Module, args: object, output: Tensor) -> None:
        output.register_hook(lambda gradient: setattr(self, "error", gradient.clone()))


class Between(nn.Module):
    """A point in some layout of ``[N, T, D]``, with a head per token."""

    def __init__(self, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.first, self.act, self.head = nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 5)
        self.there, self.back = there, back

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.back(self.act(self.there(self.first(x)))))


LAYOUTS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "time-first": (lambda h: h.transpose(0, 1), lambda h, n, t: h.transpose(0, 1)),
    "channels-first": (lambda h: h.transpose(1, 2), lambda h, n, t: h.transpose(1, 2)),
    "merged": (lambda h: h.flatten(0, 1), lambda h, n, t: h.unflatten(0, (n, t))),
    "merged-time-first": (
        lambda h: h.transpose(0, 1).flatten(0, 1), lambda h, n, t: h.unflatten(0, (t, n)).transpose(0, 1),
    ),
    "windows": (
        lambda h: h.unflatten(1, (2, -1)).flatten(0, 1), lambda h, n, t: h.unflatten(0, (n, 2)).flatten(1, 2),
    ),
    "windows-of-a-grid": (
        lambda h: h.unflatten(1, (2, h.shape[1] // 4, 2)).transpose(1, 2).flatten(2, 3).flatten(0, 1),
        lambda h, n, t: h.unflatten(0, (n, t // 4)).unflatten(2, (2, 2)).transpose(1, 2).flatten(1, 3),
    ),
    "heads": (
        lambda h: h.unflatten(2, (2, -1)).transpose(1, 2).flatten(0, 1),
        lambda h, n, t: h.unflatten(0, (n, 2)).transpose(1, 2).flatten(2, 3),
    ),
}  # fmt: skip


RULES = [fa.DFA(seed=0), fa.IFA(seed=0), fa.DKP(seed=0), fa.TernaryDFA(seed=0)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize(("n", "t", "width"), [(3, 8, 10), (8, 8, 8), (4, 8, 4)], ids=["differ", "coincide", "two"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_changes_no_gradient(layout: str, n: int, t: int, width: int, rule: fa.Rule) -> None:
    there, back = LAYOUTS[layout]
    torch.manual_seed(1)
    plain = Between(lambda h: h, lambda h: h, width)
    model = Between(there, lambda h: back(h, n, t), width)
    model.load_state_dict(plain.state_dict())
    x = torch.randn(n, t, 3)
    found = []
    for net in (plain, model):
        fa.attach(net, rule, "act", example=x)
        weights = torch.linspace(-1, 2, n * t).reshape(n, t, 1)  # every row has an error of its own
        (net(x).tanh() * weights).sum().backward()
        found.append([p.grad for p in net.parameters()])
    assert all(g is not None for g in found[1])
    if layout == "heads":  # the features come in the order of heads, so that other numbers meet them
        assert torch.allclose(found[0][2], found[1][2])
        assert all(g.abs().sum() > 0 for g in found[1])
    else:
        assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(*found, strict=True))


def test_a_convolution_has_one_error_per_position() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 6, 3, padding=1), nn.Tanh(), nn.Conv1d(6, 4, 1))
    seen = Recorded(model, "1")
    handle = fa.attach(model, fa.DFA(seed=0), "1")
    model(torch.randn(4, 2, 6)).square().sum().backward()
    assert handle.planner.error_width == 4
    expected = torch.einsum("ncl,cd->ndl", seen.error, matrix("shared", 4, 6))
    torch.testing.assert_close(seen.signal, expected)


@pytest.mark.parametrize("width", [3, 7])
def test_unbatched_and_a_batch_of_one_agree(width: int) -> None:
    """Also where the hidden width is that of the output."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3))
    x = torch.randn(5)
    found = []
    for given in (x, x[None]):
        net = copy.deepcopy(model)
        handle = fa.attach(net, fa.DFA(seed=0))
        for _ in range(2):
            net.zero_grad()
            net(given).square().sum().backward()
        found.append([p.grad for p in net.parameters()])
        assert handle.planner.error_width == 3
    assert all(map(torch.allclose, *found))


def test_a_batch_of_one_may_be_squeezed_away() -> None:
    class Squeezes(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).squeeze()

    for classes in (3, 1):
        torch.manual_seed(0)
        model = Squeezes(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, classes))
        plain = nn.Sequential(*copy.deepcopy(list(model)))
        for net in (model, plain):
            fa.attach(net, fa.DFA(seed=0))
            net(torch.ones(4, 5)).square().sum().backward()  # how wide the error is shows in a whole batch
            net.zero_grad()
            net(torch.ones(1, 5)).square().sum().backward()
        assert all(torch.allclose(a.grad, b.grad) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_a_recurrent_cell_as_wide_as_there_are_steps_is_refused() -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRUCell(2, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            state, found = x.new_zeros(len(x), 6), []
            for step in x.unbind(1):
                state = self.cell(step, state)
                found.append(self.head(state))
            return torch.stack(found, 1)

    model = Steps()
    fa.attach(model, fa.DFA(seed=0), "cell")
    with pytest.raises(fa.SignalError, match=r"(?s)point 'cell' of shape \(4, 6\).*rows=\{'cell': \(0, 1\)\}"):
        model(torch.randn(4, 6, 2))
    torch.manual_seed(0)
    model = Steps()
    seen = []
    fa.attach(model, fa.DFA(seed=0), "cell", rows={"cell": (0, None)})
    model.cell.register_forward_hook(lambda m, a, o: o.register_hook(seen.append) and None)
    output = model(torch.randn(4, 6, 2))
    (error,) = torch.autograd.grad(output.square().sum(), output, retain_graph=True)
    seen.clear()
    output.square().sum().backward()
    # Each step hears the sum over the steps: the last one comes first in a backward pass.
    torch.testing.assert_close(seen[0], error.sum(1) @ matrix("shared", 3, 6))


def test_a_tensor_that_all_samples_share_hears_the_sum() -> None:
    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code, self.act, self.head = nn.Linear(2, 7), nn.Tanh(), nn.Linear(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x * self.act(self.code(x.new_ones(2))))

    torch.manual_seed(0)
    model = Hyper()
    seen = Recorded(model, "act")
    fa.attach(model, fa.DFA(seed=0), "act")
    model(torch.randn(4, 7)).square().sum().backward()
    torch.testing.assert_close(seen.signal, seen.error.sum(0) @ matrix("shared", 3, 7))


def test_a_head_of_zeros_gives_no_evidence_and_the_leading_dimension_is_taken() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    nn.init.zeros_(model[2].weight)
    twin = copy.deepcopy(model)
    handle = fa.attach(model, fa.DFA(seed=0))
    x = torch.randn(6, 5)  # as many samples as features
    for net in (model, twin):
        if net is twin:
            fa.attach(net, fa.DFA(seed=0), rows={"1": (0,)})
        (net(x) - 1).square().sum().backward()
    assert not handle.structure.settled  # it is looked for again in the next pass
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_what_a_graph_mixes_is_told_apart_from_features() -> None:
    """Every node depends on all others, and there are as many of them as features."""
    torch.manual_seed(0)
    mixing = torch.eye(6) + 0.2 * torch.rand(6, 6)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    model.register_forward_hook(lambda m, a, o: mixing @ o)
    seen = Recorded(model, "1")
    fa.attach(model, fa.DFA(seed=0), "1")
    model(torch.randn(6, 4)).square().sum().backward()
    torch.testing.assert_close(seen.signal, seen.error @ matrix("shared", 3, 6))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"2": (0,)}, r"rows= names '2', which is neither a point nor an output.*The points are: 1"),
        ({"1": 0}, r"expected a tuple of dimensions such as \(1, 0\), found 0"),
    ],
)
def test_wrong_names_in_rows(rows: dict, message: str) -> None:
    with pytest.raises(fa.PointsError, match=message):
        fa.attach(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)), fa.DFA(), "1", rows=rows)


def test_rows_that_do_not_fit() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    handle = fa.attach(model, fa.DFA(), "1", rows={"1": (1,)})
    with pytest.raises(fa.SignalError, match=r"(?s)rows=\{'1': \(1,\)\} expected one dimension.*shape is \(5, 3\)"):
        model(torch.randn(5, 2))
    handle.remove()
    fa.attach(model, fa.DFA(), "1", rows={"": (0, 0)})
    with pytest.raises(fa.PointsError, match=r"expected dimensions of the output, whose shape is \(5, 2\)"):
        model(torch.randn(5, 2))


def test_rows_of_the_output_may_be_stated() -> None:
    """Of an image, one error per sample by default, and one per pixel if stated."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 1), nn.Tanh(), nn.Conv2d(5, 3, 1))
    seen = Recorded(model, "1")
    fa.attach(model, fa.DFA(seed=0), "1", rows={"": (0, 2, 3)})
    model(torch.randn(2, 2, 4, 4)).square().sum().backward()
    torch.testing.assert_close(seen.signal, torch.einsum("nchw,cd->ndhw", seen.error, matrix("shared", 3, 5)))


def test_later_batches_of_other_sizes_need_no_evidence() -> None:
    model = Between(lambda h: h.transpose(0, 1), lambda h: h.transpose(0, 1), 6)
    handle = fa.attach(model, fa.DFA(seed=0), "act")
    seen = Recorded(model, "act")
    for n, t in ((3, 5), (4, 4), (2, 7)):
        model(torch.randn(n, t, 3)).square().sum().backward()
        torch.testing.assert_close(seen.signal, (seen.error @ matrix("shared", 5, 6)).transpose(0, 1))
    assert handle.structure._tries == 1


def test_one_sample_lies_where_the_size_is_one() -> None:
    model = Between(lambda h: h.transpose(0, 1), lambda h: h.transpose(0, 1), 6)
    handle = fa.attach(model, fa.DFA(seed=0), "act")
    seen = Recorded(model, "act")
    for _ in range(3):
        model(torch.randn(1, 5, 3)).square().sum().backward()
        torch.testing.assert_close(seen.signal, (seen.error @ matrix("shared", 5, 6)).transpose(0, 1))
    assert handle.structure._tries == 1
    for n in (4, 3):
        model(torch.randn(n, 5, 3)).square().sum().backward()
        torch.testing.assert_close(seen.signal, (seen.error @ matrix("shared", 5, 6)).transpose(0, 1))
    assert handle.structure._tries == 1


def test_one_sample_of_one_token_tells_nothing_of_several() -> None:
    model = Between(lambda h: h.transpose(0, 1), lambda h: h.transpose(0, 1), 6)
    handle = fa.attach(model, fa.DFA(seed=0), "act")
    seen = Recorded(model, "act")
    for n, t in ((1, 1), (4, 5), (3, 5)):
        model(torch.randn(n, t, 3)).square().sum().backward()
        torch.testing.assert_close(seen.signal, (seen.error @ matrix("shared", 5, 6)).transpose(0, 1))
    assert handle.structure._tries == 2  # again with the second batch, and that is enough


def test_finding_out_leaves_no_trace() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))
    plain = copy.deepcopy(model)
    fa.attach(model, fa.DFA(seed=0))
    x = torch.randn(9, 4)
    states = []
    for net in (model, plain):
        torch.manual_seed(3)
        net(x).sum().backward()
        states.append((torch.get_rng_state(), [buffer.clone() for buffer in net.buffers()]))
    assert torch.equal(states[0][0], states[1][0])
    assert all(map(torch.equal, states[0][1], states[1][1]))


def test_evidence_costs_at_most_a_step_of_backpropagation() -> None:
    model = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(16, 16), nn.Tanh())), nn.Linear(16, 4))
    x = torch.randn(8, 16)
    step = flops(lambda: model(x).square().sum().backward())
    with torch.no_grad():
        forward = flops(lambda: model(x))
    assert flops(lambda: fa.attach(model, fa.DFA(), example=x)) - forward <= step


def test_evidence_of_what_is_exclusive_mixed_and_shared() -> None:
    torch.manual_seed(0)
    h = torch.randn(5, 6, 4, requires_grad=True)
    mixing = torch.eye(6) + 0.1 * torch.rand(6, 6)
    output = torch.einsum("st,ntd->nsd", mixing, h)
    probes = probe([output], [(0, 1)], (5, 6), [h], 6)
    verdict = judge(probes, 0, (5, 6, 4), mixing=False, called=False, final=True)
    assert verdict.placement == Placement(((0,), (1,)))
    assert verdict.exclusive
    spread = h.mean(1, keepdim=True).expand(-1, 6, -1) + 0 * h  # no token stands out
    probes = probe([spread * 1.0], [(0, 1)], (5, 6), [h], 9)
    refused = judge(probes, 0, (5, 6, 4), mixing=False, called=False, final=True)
    assert refused.placement is None
    assert "tells the rows" in refused.reason


def test_sizes_alone_decide_only_where_one_reading_is_left() -> None:
    assert by_size((7, 5), (7,)) == (Placement(((0,),)), False)
    assert by_size((7, 7), (7,)) == (None, True)
    assert by_size((7, 5), (3,)) == (None, False)
    assert next(iter(candidates((4, 3, 8), 12, []))) == next(iter(candidates((4, 3, 8), 12, [])))
    layout = match("p", (5, 7, 3), torch.float64, (7, 5), fa.Uniform(), Placement(((1,), (0,))))
    signal = torch.randn(35, 3)
    assert torch.equal(layout.unflatten(signal), signal.reshape(7, 5, 3).transpose(0, 1))
    assert torch.equal(layout.flatten(layout.unflatten(signal)), signal)
    assert torch.equal(layout.by_row(layout.unflatten(signal)), signal)
    numbers = layout.row_numbers(torch.device("cpu"))
    assert numbers.shape == (5, 7, 3)
    assert numbers[2, 4, 0] == 4 * 5 + 2
