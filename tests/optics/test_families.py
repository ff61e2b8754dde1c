"""What every simulated family promises: derivatives of the exact product, per-sample gradients, compiled graphs."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import feedalign as fa
from feedalign.feedback import Kept, Parts, dense, kept
from zoo import ZOO, assert_same, batch, build, collect, gradients, run

CPU = torch.device("cpu")
PARTS: Parts = (("a", 30, 0.3), ("b", 20, 2.0))
FAMILIES = {
    "optical": fa.Optical(),
    "phase": fa.Optical(recovery="phase", speckles=2, levels=15),
    "offaxis": fa.Optical(recovery="offaxis", levels=2),
    "exact": fa.Optical(recovery="exact"),
    "microring": fa.Crossbar.microring(),
    "pcm": fa.Crossbar.pcm(24),
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> fa.Feedback:
    return FAMILIES[request.param]


def numbers(family: fa.Feedback, rows: int = 12, dtype: torch.dtype = torch.float64) -> Kept:
    return kept(family, 3, PARTS, rows, dtype, CPU)


def test_derivatives_are_those_of_the_product_with_the_matrix(family: fa.Feedback) -> None:
    held = numbers(family)
    matrix = dense(family, 3, PARTS, 12, torch.float64, CPU)
    error = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 50, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad((family.product(error, PARTS, held) * weights).sum(), error, create_graph=True)
    torch.testing.assert_close(first, weights @ matrix.T, rtol=1e-5, atol=1e-6)
    (second,) = torch.autograd.grad(first.square().sum(), weights)
    torch.testing.assert_close(second, 2 * first @ matrix, rtol=1e-5, atol=1e-5)


def test_rows_are_mapped(family: fa.Feedback) -> None:
    held = numbers(family)
    stack = torch.randn(4, 12, 3, dtype=torch.float64)
    found = vmap(lambda rows: family.product(rows, PARTS, held), in_dims=2)(stack)
    for i in range(3):
        torch.testing.assert_close(
            found[i], family.product(stack[..., i].contiguous(), PARTS, held), rtol=1e-9, atol=1e-9
        )


def test_gradients_per_sample(family: fa.Feedback) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 7)).double()
    fa.attach(model, fa.DFA(feedback=family))
    x = torch.randn(5, 4, dtype=torch.float64)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    loss = lambda parameters, x: functional_call(model, parameters, (x[None],)).square().sum()  # noqa: E731
    found = vmap(grad(loss), (None, 0))(parameters, x)
    for i in range(5):
        model.zero_grad()
        model(x[i : i + 1]).square().sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name][i], parameter.grad, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_type(family: fa.Feedback, dtype: torch.dtype) -> None:
    error = torch.randn(30, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    found = family.product(error, PARTS, numbers(family, dtype=dtype))
    assert found.dtype == dtype
    matrix = dense(family, 3, PARTS, 12, torch.float64, CPU)
    alike = torch.corrcoef(torch.stack([found.double().flatten(), (error.double() @ matrix).flatten()]))[0, 1]
    assert alike > 0.7  # noise and few levels, and still the same projection
    assert family.product(error[:0], PARTS, numbers(family, dtype=dtype)).shape == (0, 50)


def test_numbers_do_not_depend_on_defaults(family: fa.Feedback) -> None:
    error = torch.randn(9, 12)
    expected = family.product(error, PARTS, numbers(family, dtype=torch.float32))
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            held = numbers(family, dtype=torch.float32)
        assert torch.equal(family.product(error, PARTS, held), expected)
    finally:
        torch.set_default_dtype(torch.float32)


compiles = [
    pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]


@pytest.mark.parametrize("backend", [pytest.param(name, marks=compiles) for name in ("aot_eager", "inductor")])
@pytest.mark.parametrize("name", ["optical", "microring"])
def test_a_compiled_model_learns_as_in_eager_mode(name: str, backend: str) -> None:
    torch.compiler.reset()
    exhibit = next(exhibit for exhibit in ZOO if exhibit.name == "cnn-grouped")
    model = build(exhibit).eval()
    fa.attach(model, fa.DFA(seed=1, feedback=FAMILIES[name]), exhibit.points, exhibit.output)
    fast = torch.compile(model, fullgraph=True, backend=backend)
    for size in (6, 3):
        inputs = batch(exhibit, size)
        expected = gradients(model, inputs)
        model.zero_grad()
        run(fast, inputs).backward()
        assert_same(collect(model), expected, rtol=1e-6, atol=1e-9)
    torch.compiler.reset()


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_the_same_noise_on_every_device(family: fa.Feedback, device: str) -> None:
    error: Tensor = torch.randn(9, 12, dtype=torch.float64)
    expected = family.product(error, PARTS, numbers(family))
    held = kept(family, 3, PARTS, 12, torch.float64, torch.device(device))
    torch.testing.assert_close(family.product(error.to(device), PARTS, held).cpu(), expected, rtol=1e-3, atol=1e-3)
