"""Layer-wise rules on weights that are computed in every forward pass, and on layers that are not PyTorch's own.

The weight is that of the forward pass, once: weight and spectral norm, orthogonal and pruned weights, the ``Conv1D`` of
Hugging Face, whose weight is [in, out], and the ``Linear`` of PyG. Letters: W the weight in effect [out, in], B what
carries the gradient back, e error at the output.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

import feedalign as fa
from closed_form.oracle_numbers import Array, array, close, normal, of_weight

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning"),
]


def hf_linear(inputs: int, outputs: int) -> nn.Module:
    from transformers.pytorch_utils import Conv1D

    layer = Conv1D(outputs, inputs)
    nn.init.normal_(layer.weight, std=0.4)
    nn.init.normal_(layer.bias, std=0.4)
    return layer


def pyg_linear(inputs: int, outputs: int) -> nn.Module:
    from torch_geometric.nn.dense import Linear

    return Linear(inputs, outputs)


class OwnLinear(nn.Module):
    """A layer that someone wrote, with what it does to x around the product."""

    def __init__(self, inputs: int, outputs: int, before: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) * 0.4)
        self.before = before

    def forward(self, x: Tensor) -> Tensor:
        return self.before(x) @ self.weight


def pruned(layer: nn.Module) -> nn.Module:
    return prune.random_unstructured(layer, "weight", amount=0.3)


LINEAR: dict[str, Callable[[int, int], nn.Module]] = {
    "plain": nn.Linear,
    "weight-norm": lambda i, o: parametrizations.weight_norm(nn.Linear(i, o)),
    "spectral-norm": lambda i, o: parametrizations.spectral_norm(nn.Linear(i, o)),
    "orthogonal": lambda i, o: parametrizations.orthogonal(nn.Linear(i, o)),
    "old-weight-norm": lambda i, o: old_weight_norm(nn.Linear(i, o)),
    "old-spectral-norm": lambda i, o: old_spectral_norm(nn.Linear(i, o)),
    "pruned": lambda i, o: pruned(nn.Linear(i, o)),
    "huggingface": hf_linear,
    "pyg": pyg_linear,
    "own": OwnLinear,
    "huggingface-weight-norm": lambda i, o: parametrizations.weight_norm(hf_linear(i, o)),
    "pyg-old-spectral-norm": lambda i, o: old_spectral_norm(pyg_linear(i, o)),
}
TRANSPOSED = ("huggingface", "own", "huggingface-weight-norm")
SIZES = {"other-widths": (5, 6, 3), "one-width": (4, 4, 4)}


def normalised(x: Tensor) -> Tensor:
    return x / x.norm()


def in_effect(kind: str, layer: nn.Module) -> Tensor:
    """Return W [out, in] of the next forward pass in training, with its graph, from the parameters alone."""
    if kind in ("plain", "pyg", "huggingface", "own"):
        weight = layer.weight
    elif kind == "pruned":
        weight = layer.weight_orig * layer.weight_mask
    elif kind.endswith("old-weight-norm"):
        weight = layer.weight_g * layer.weight_v / layer.weight_v.norm(dim=1, keepdim=True)
    elif kind.endswith("weight-norm"):
        g, v = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
        weight = g * v / v.norm(dim=1, keepdim=True)
    elif kind.endswith("old-spectral-norm"):
        raw = layer.weight_orig
        v = normalised(raw.detach().T @ layer.weight_u)
        u = normalised(raw.detach() @ v)
        weight = raw / (u @ raw @ v)
    elif kind == "spectral-norm":
        raw, norm = layer.parametrizations.weight.original, layer.parametrizations.weight[0]
        u = normalised(raw.detach() @ norm._v)
        v = normalised(raw.detach().T @ u)
        weight = raw / (u @ raw @ v)
    else:
        weight = layer.weight  # of an orthogonal one PyTorch's own, which reading does not change
    return weight.T if kind in TRANSPOSED else weight


def bias(layer: nn.Module) -> Tensor:
    return getattr(layer, "bias", torch.zeros(()))


@dataclass
class Net:
    """Two layers with a tanh between them; what is needed of one forward pass and its error."""

    kind: str
    sizes: tuple[int, int, int]

    def __post_init__(self) -> None:
        torch.manual_seed(3)
        make = LINEAR[self.kind]
        self.model = nn.Sequential(make(*self.sizes[:2]), nn.Tanh(), make(*self.sizes[1:]))
        self.x, self.e = torch.randn(7, self.sizes[0], requires_grad=True), torch.randn(7, self.sizes[2])

    def backward(self) -> None:
        """Take one step's gradients; W and h are those of the forward pass."""
        self.weights = [in_effect(self.kind, self.model[0]), in_effect(self.kind, self.model[2])]
        self.h = torch.tanh(self.x @ self.weights[0].T + bias(self.model[0])).detach()
        output = self.model(self.x)
        torch.testing.assert_close(output, self.h @ self.weights[1].T + bias(self.model[2]), rtol=1e-12, atol=1e-12)
        (output * self.e).sum().backward()

    def assert_carried(self, B: list[Array]) -> None:
        """Compare every gradient with the formulas, given what carries it back through the two layers."""
        h, x, e = array(self.h), array(self.x), array(self.e)
        below = (e @ B[1]) * (1 - h**2)
        close(self.x.grad, below @ B[0])
        for layer, weight, gradient, total in (
            (self.model[2], self.weights[1], e.T @ h, e.sum(0)),
            (self.model[0], self.weights[0], below.T @ x, below.sum(0)),
        ):
            if hasattr(layer, "bias"):
                close(layer.bias.grad, total)
            raw = [p for name, p in layer.named_parameters() if name != "bias"]
            expected = torch.autograd.grad(weight, raw, torch.as_tensor(gradient))
            for parameter, own in zip(raw, expected, strict=True):
                close(parameter.grad, array(own))


@pytest.fixture(params=SIZES)
def sizes(request: pytest.FixtureRequest) -> tuple[int, int, int]:
    return SIZES[request.param]


@pytest.fixture(params=LINEAR)
def net(request: pytest.FixtureRequest, sizes: tuple[int, int, int]) -> Net:
    return Net(request.param, sizes)


NAMES = ("0.weight", "2.weight")


def drawn(seed: int, net: Net, labels: tuple[str, str] = ("", "")) -> list[Array]:
    """Return the feedback of both layers: by the name ``weight`` and the shape [out, in], however W is computed."""
    return [of_weight(seed, n, w, label) for n, w, label in zip(NAMES, net.weights, labels, strict=True)]


def test_fa(net: Net) -> None:
    fa.attach(net.model, fa.FA(seed=2))
    for _ in range(2):  # power iterations go on
        net.model.zero_grad()
        net.x.grad = None
        net.backward()
        net.assert_carried(drawn(2, net))


def test_usf(net: Net) -> None:
    fa.attach(net.model, fa.USF(seed=2))
    net.backward()
    net.assert_carried(
        [np.sign(array(w)) * np.sqrt((b**2).mean()) for w, b in zip(net.weights, drawn(2, net), strict=True)]
    )


def test_frsf(net: Net) -> None:
    fa.attach(net.model, fa.FRSF(seed=2))
    net.backward()
    net.assert_carried([np.sign(array(w)) * np.abs(b) for w, b in zip(net.weights, drawn(2, net), strict=True)])


class SeenBRSF(fa.BRSF):
    """Notes the sum of the sizes of the weights that it sees: what it draws follows from the last bit of that."""

    seen: ClassVar[list[float]] = []

    def matrix(self, layer: fa.Layer) -> Tensor:
        self.seen.append(layer.fingerprint())
        return super().matrix(layer)


def test_brsf(net: Net) -> None:
    fa.attach(net.model, SeenBRSF(seed=2))
    net.backward()
    labels = [f"@{SeenBRSF.seen.pop(0)}" for _ in net.weights][::-1]  # the upper layer comes first
    for weight, label in zip(net.weights, labels, strict=True):
        assert float(label[1:]) == pytest.approx(np.abs(array(weight)).sum(), rel=1e-12)
    B = [np.sign(array(w)) * np.abs(b) for w, b in zip(net.weights, drawn(2, net, tuple(labels)), strict=True)]
    net.assert_carried(B)


def test_kolen_pollack(net: Net) -> None:
    handle = fa.attach(net.model, fa.KolenPollack(seed=2), example=net.x)
    net.backward()
    B = drawn(2, net)
    net.assert_carried(B)
    close(handle.learned.get("2.weight").grad, array(net.e).T @ array(net.h))


class SeenMirror(fa.WeightMirror):
    """Notes the sum of the sizes of the weights that it sees, from which the noise follows."""

    seen: ClassVar[list[float]] = []

    def lesson(self, layer: fa.Layer, gradient: Tensor | None) -> Tensor:
        self.seen.append(layer.fingerprint())
        return super().lesson(layer, gradient)


def test_weight_mirror(net: Net) -> None:
    handle = fa.attach(net.model, SeenMirror(seed=2, samples=16), example=net.x)
    net.backward()
    B = drawn(2, net)
    net.assert_carried(B)
    for place in (1, 0):
        W, size = array(net.weights[place]), SeenMirror.seen.pop(0)
        assert size == pytest.approx(np.abs(W).sum(), rel=1e-12)
        generator = torch.Generator().manual_seed(hash((2, size)) & (2**63 - 1))
        noise = array(torch.randn(16, W.shape[1], generator=generator, dtype=torch.float32))
        close(handle.learned.get(NAMES[place]).grad, B[place] - (noise @ W.T).T @ noise / 16)


def test_product_feedback(net: Net) -> None:
    handle = fa.attach(net.model, fa.ProductFA(seed=2, expansion=3), example=net.x)
    net.backward()
    legs = []
    for name, weight in zip(NAMES, net.weights, strict=True):
        outputs, inputs = weight.shape
        legs.append(
            (normal(2, f"{name}/first", outputs, 3 * outputs), normal(2, f"{name}/second", 3 * outputs, inputs))
        )
    net.assert_carried([first @ second for first, second in legs])
    close(handle.learned.get("2.weight").grad, legs[1][0].T @ (array(net.e).T @ array(net.h)))


@dataclass(frozen=True)
class Transport(fa.TransportRule):
    """Backpropagation, by way of the layer-wise machinery: the weight itself goes back."""

    carries: ClassVar[str] = "the weight"

    def matrix(self, layer: fa.Layer) -> Tensor:
        return layer.weight


CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.Conv1d(4, 4, 3, padding=1), (4, 7)),
    "2d": (lambda: nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2), (4, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 4, 2, stride=2), (4, 3, 3)),
}
WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight-norm": parametrizations.weight_norm,
    "spectral-norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old-weight-norm": old_weight_norm,
    "old-spectral-norm": old_spectral_norm,
    "pruned": pruned,
}


def everything(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.detach().requires_grad_()
    model.zero_grad()
    output = model(x)
    (output * torch.linspace(-1, 2, output.numel()).reshape(output.shape)).sum().backward()
    own = {name: p.grad for name, p in model.named_parameters() if not name.startswith("feedalign.")}
    return {"x": x.grad, **own, **{f"buffer {name}": b.clone() for name, b in model.named_buffers()}}


def convolution(shape: str, wrap: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(5)
    make, inputs = CONVOLUTIONS[shape]
    return nn.Sequential(nn.Tanh(), WRAPPED[wrap](make())), torch.randn(3, *inputs)


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_a_convolution_that_carries_its_own_weight_is_backpropagation(shape: str, wrap: str) -> None:
    expected = everything(*convolution(shape, wrap))
    model, x = convolution(shape, wrap)
    fa.attach(model, Transport())
    found = everything(model, x)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-13, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_fa_of_a_convolution_is_that_of_the_plain_one(shape: str, wrap: str) -> None:
    """Its closed form is tested elsewhere; the feedback of a weight has one name, however it is computed."""
    model, x = convolution(shape, wrap)
    fa.attach(model, fa.FA(seed=4))
    found = everything(model, x)
    plain = nn.Sequential(nn.Tanh(), CONVOLUTIONS[shape][0]())
    fa.attach(plain, fa.FA(seed=4))
    torch.testing.assert_close(found["x"], everything(plain, x)["x"], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", LINEAR)
def test_a_layer_that_carries_its_own_weight_is_backpropagation(kind: str, sizes: tuple[int, int, int]) -> None:
    plain, ruled = Net(kind, sizes), Net(kind, sizes)
    expected = everything(plain.model, plain.x)
    fa.attach(ruled.model, Transport())
    found = everything(ruled.model, ruled.x)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-13, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kind", LINEAR)
def test_alignment_takes_the_weight_in_effect_for_the_truth(kind: str) -> None:
    net = Net(kind, SIZES["other-widths"])
    handle = fa.attach(net.model, Transport())
    buffers = [buffer.clone() for buffer in net.model.buffers()]
    found = fa.alignment(handle, lambda: (net.model(net.x) * net.e).sum())
    assert found.points["0"].mean == pytest.approx(1, abs=1e-12)
    assert found.updates["0"] == pytest.approx(1, abs=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(buffers, net.model.buffers(), strict=True))


@pytest.mark.parametrize("kind", [kind for kind in LINEAR if kind not in TRANSPOSED and "pyg" not in kind])
def test_weight_alignment_leaves_a_power_iteration_where_it_is(kind: str) -> None:
    net = Net(kind, SIZES["other-widths"])
    handle = fa.attach(net.model, fa.DFA(seed=1))
    (net.model(net.x) * net.e).sum().backward()
    buffers = [buffer.clone() for buffer in net.model.buffers()]
    assert -1 <= fa.weight_alignment(handle)["2"] <= 1
    assert all(torch.equal(a, b) for a, b in zip(buffers, net.model.buffers(), strict=True))


@pytest.mark.parametrize("rule", [fa.FA, fa.BRSF, fa.KolenPollack, fa.WeightMirror])
@pytest.mark.parametrize("kind", ["weight-norm", "spectral-norm", "orthogonal"])
def test_a_parametrisation_is_evaluated_once_in_a_forward_pass(kind: str, rule: type[fa.TransportRule]) -> None:
    net = Net(kind, SIZES["other-widths"])
    calls: list[nn.Module] = []
    for layer in (net.model[0], net.model[2]):
        layer.parametrizations.weight.register_forward_hook(lambda module, args, output: calls.append(module))
    handle = fa.attach(net.model, rule(seed=1), example=net.x)
    del calls[:]
    net.model(net.x).sum().backward()
    assert len(calls) == 2
    assert "[6, 5]" in repr(handle)  # which evaluates nothing
    assert len(calls) == 2


def test_attaching_with_an_example_leaves_the_power_iteration_where_it_was() -> None:
    for kind in ("spectral-norm", "old-spectral-norm", "pyg-old-spectral-norm"):
        plain, ruled = Net(kind, SIZES["other-widths"]), Net(kind, SIZES["other-widths"])
        fa.attach(ruled.model, fa.WeightMirror(seed=1), example=ruled.x)
        for (name, found), expected in zip(ruled.model.named_buffers(), plain.model.buffers(), strict=True):
            assert torch.equal(found, expected), (kind, name)


def test_cached_parametrisations() -> None:
    """Inside parametrize.cached() a second run of a layer reads the weight of the first."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = parametrizations.spectral_norm(nn.Linear(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.tanh(self.layer(x)))

    def gradient(rule: fa.Rule | None) -> Tensor:
        torch.manual_seed(1)
        model, x = Twice(), torch.randn(3, 4, requires_grad=True)
        if rule is not None:
            fa.attach(model, rule)
        with parametrize.cached():
            model(x).sum().backward()
        return x.grad

    torch.testing.assert_close(gradient(Transport()), gradient(None), rtol=1e-12, atol=1e-14)


def test_parametrised_or_freed_after_attaching() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    fa.attach(model, fa.FA(seed=1))
    parametrizations.spectral_norm(model[2])
    with pytest.raises(fa.SignalError, match=r"weight of layer '2' was parametrised after attach\(\).*then attach"):
        model(torch.randn(3, 4, requires_grad=True))
    parametrize.remove_parametrizations(model[2], "weight")
    x = torch.randn(3, 4, requires_grad=True)
    model(x).sum().backward()
    assert x.grad.abs().sum() > 0


# Of torch itself: Dynamo looks for .grad on what it traces, and makes an instance of every autograd Function.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning")
def test_compiled() -> None:
    torch.compiler.reset()
    for kind in ("weight-norm", "orthogonal", "old-weight-norm", "huggingface"):
        eager, fast = Net(kind, SIZES["other-widths"]), Net(kind, SIZES["other-widths"])
        fa.attach(eager.model, fa.FA(seed=1))
        fa.attach(fast.model, fa.FA(seed=1))
        expected = everything(eager.model, eager.x)
        run = torch.compile(fast.model, backend="aot_eager")
        x = fast.x.detach().requires_grad_()
        output = run(x)
        (output * torch.linspace(-1, 2, output.numel()).reshape(output.shape)).sum().backward()
        torch.testing.assert_close(x.grad, expected["x"], rtol=1e-10, atol=1e-12)
        for name, parameter in fast.model.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-10, atol=1e-12)
    torch.compiler.reset()


# ---- which layers are found ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["huggingface", "pyg"])
def test_the_orientation_is_found_of_square_layers_that_are_still_zero(kind: str) -> None:
    layer = LINEAR[kind](4, 4)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    model, x, e = nn.Sequential(layer), torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    handle = fa.attach(model, fa.KolenPollack(seed=1), example=x)
    (model(x) * e).sum().backward()
    close(x.grad, array(e) @ of_weight(1, "0.weight", layer.weight))
    gradient = array(e).T @ array(x)
    close(handle.learned.get("0.weight").grad, gradient)
    close(layer.weight.grad, gradient.T if kind == "huggingface" else gradient)


def test_trying_a_layer_out_leaves_no_trace() -> None:
    state = torch.get_rng_state()
    layer = OwnLinear(4, 4)
    torch.set_rng_state(state)
    model = nn.Sequential(OwnLinear(4, 4)).eval()
    calls: list[nn.Module] = []
    model[0].register_forward_hook(lambda module, args, output: calls.append(module))
    after = torch.get_rng_state()
    fa.attach(model, fa.FA())
    assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(model[0].weight, layer.weight)
    assert isinstance(model[0].weight, nn.Parameter)
    assert not model[0].training
    assert not calls


@pytest.mark.parametrize(
    "before",
    [torch.relu, lambda x: x.clamp(-3, 3), lambda x: F.dropout(x, 0.5), lambda x: 2 * x, lambda x: x.sin()],
    ids=["relu", "clamp", "dropout", "twice", "sine"],
)
def test_a_layer_that_does_more_than_multiply_is_named_in_a_warning(before: Callable[[Tensor], Tensor]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), OwnLinear(4, 4, before))
    with pytest.warns(UserWarning, match=r"(?s)hold matrices of their own.*1 \(OwnLinear\)"):
        handle = fa.attach(model, fa.FA())
    assert [carrier.name for carrier in handle.carriers] == ["0"]


def test_a_layer_with_a_buffer_is_not_taken_for_a_product() -> None:
    layer = OwnLinear(4, 4)
    layer.register_buffer("mask", torch.ones(4))
    with pytest.warns(UserWarning, match=r"1 \(OwnLinear\)"):
        fa.attach(nn.Sequential(nn.Linear(4, 4), layer), fa.FA())


def test_a_symmetric_weight_that_is_computed_tells_no_orientation() -> None:
    layer = OwnLinear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4))
    model = nn.Sequential(parametrizations.weight_norm(layer))
    with pytest.raises(fa.PointsError, match=r"weight of layer '0' .*equals its transpose.*\[in, out\] or \[out, in\]"):
        fa.attach(model, fa.FA())


def test_embeddings_with_a_norm_are_no_layers() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Embedding(5, 4)), nn.Linear(4, 2))
    handle = fa.attach(model, fa.FA())
    assert [carrier.name for carrier in handle.carriers] == ["1"]


def test_lazy_layers() -> None:
    model, x, e = nn.Sequential(nn.Tanh(), nn.LazyLinear(3)), torch.randn(4, 5, requires_grad=True), torch.randn(4, 3)
    handle = fa.attach(model, fa.FA(seed=1))
    assert "?" in repr(handle)
    (model(x) * e).sum().backward()
    B = of_weight(1, "1.weight", model[1].weight)
    close(x.grad, (array(e) @ B) * (1 - np.tanh(array(x)) ** 2))
    with pytest.raises(fa.PointsError, match=r"Layer '0' \(Linear\) has no shape yet. Run the model on one batch"):
        fa.attach(nn.Sequential(pyg_linear(-1, 3)), fa.FA())


def test_complex_weights_are_refused() -> None:
    for layer in (nn.Linear(4, 3, dtype=torch.complex128), nn.Conv1d(2, 2, 1, dtype=torch.complex64)):
        for rule in (fa.FA(), fa.USF(), fa.WeightMirror(), fa.KolenPollack()):
            with pytest.raises(fa.PointsError, match=r"Layer '0' has complex weights.*real ones.*such as DFA"):
                fa.attach(nn.Sequential(layer), rule, example=torch.randn(2, 4))


@pytest.mark.parametrize(
    "make",
    [
        lambda: old_weight_norm(nn.LSTM(3, 4), "weight_hh_l0"),
        lambda: parametrizations.weight_norm(nn.MultiheadAttention(4, 2), "in_proj_weight"),
        lambda: prune.random_unstructured(nn.GRUCell(3, 4), "weight_hh", 0.5),
    ],
    ids=["lstm", "attention", "cell"],
)
def test_computed_weights_inside_of_fused_layers_are_refused(make: Callable[[], nn.Module]) -> None:
    model = nn.ModuleDict({"inner": make()})
    with pytest.raises(
        fa.PointsError, match=r"'inner' is computed from other parameters .*formed inside.*Leave it out"
    ):
        fa.attach(model, fa.FA())


def test_copies_carry_the_weight_in_effect() -> None:
    net = Net("weight-norm", SIZES["other-widths"])
    fa.attach(net.model, fa.FA(seed=1))
    expected = everything(net.model, net.x)
    found = everything(copy.deepcopy(net.model), net.x)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
