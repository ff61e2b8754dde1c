"""Families that store no matrix: they project as their dense twins do, in little memory, wherever a projection runs."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.profiler import ProfilerActivity, profile

import feedalign as fa
from feedalign.bench.cost import peak_memory
from feedalign.feedback import Hadamard, Regenerated, Sparse, dense, kept
from feedalign.feedback import regenerated as regenerated_module
from feedalign.feedback.hadamard import transform, walsh
from feedalign.feedback.regenerated import BLOCK
from zoo import ZOO, assert_same, batch, build, collect, gradients, run

CPU = torch.device("cpu")
FAMILIES = [Regenerated, Hadamard, Sparse]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
PARTS = (("a", 70, 0.3), ("b", 20, 2.0), ("c", 64, 1.0))


@dataclass(frozen=True)
class Stored(fa.Feedback):
    """The dense twin of a family: the numbers that it draws, stored."""

    of: fa.Feedback = field(default_factory=fa.Uniform)

    def draw(self, rows: int, columns: int, generator: torch.Generator) -> Tensor:
        return self.of.draw(rows, columns, generator)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regenerated_module, "BLOCK", 100)


def product(
    feedback: fa.Feedback, parts: tuple = PARTS, rows: int = 12, dtype: torch.dtype = torch.float64
) -> Callable:
    keep = kept(feedback, 3, parts, rows, dtype, CPU)
    return lambda error: feedback.product(error, parts, keep)


def twin(feedback: fa.Feedback, parts: tuple = PARTS, rows: int = 12) -> Tensor:
    return dense(feedback, 3, parts, rows, torch.float64, CPU)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("feedback", [Regenerated(), Hadamard(), Sparse(), Sparse(nonzeros=16)], ids=repr)
def test_a_projection_is_the_product_with_the_dense_twin(feedback: fa.Feedback) -> None:
    """Bit for bit: all numbers here are integers times powers of two, so that no order of a sum can matter."""
    parts = (("a", 64, 0.125), ("b", 50, 4.0))
    error = torch.randint(-9, 10, (7, 64), generator=torch.Generator().manual_seed(0)).double()
    matrix = twin(feedback, parts, rows=64)
    project = product(feedback, parts, rows=64)
    assert torch.equal(project(torch.eye(64, dtype=torch.float64)), matrix)
    assert torch.equal(project(error), error @ matrix)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 5, 12, 100])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_type_and_width(family: type[fa.Feedback], rows: int, dtype: torch.dtype) -> None:
    error = torch.randn(7, rows, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    found, expected = product(family(), PARTS, rows, dtype)(error), error.double() @ twin(family(), PARTS, rows)
    assert found.dtype == dtype
    one_rounding = torch.finfo(dtype).eps * expected.abs().max().item()
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=4 * one_rounding)
    assert product(family(), PARTS, rows, dtype)(error[:0]).shape == (0, 154)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "options", [{}, {"shared": False, "gain": 0.5}, {"scale": "widest", "positions": "repeat"}], ids=repr
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_learns_as_with_the_dense_twin(family: type[fa.Feedback], options: dict, device: str) -> None:
    """Sharing, scale, gain, and signals repeated over positions."""
    learnt = []
    for feedback in (family(**options), Stored(**options, of=family())):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.Tanh(), nn.Conv2d(6, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 9), nn.Tanh(),
            nn.Linear(9, 5),
        ).double()  # fmt: skip
        x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
        fa.attach(model, fa.DFA(seed=4, feedback=feedback), nn.Tanh)
        model.to(device)(x.to(device)).square().sum().backward()
        learnt.append([parameter.grad.cpu() for parameter in model.parameters()])
    for found, expected in zip(*learnt, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_as_large_as_a_tenth_of_the_matrix_is_ever_in_memory(family: type[fa.Feedback]) -> None:
    """A vocabulary of 32,000 and a layer of 4,096: 524 MB, which ``Uniform`` is seen to take."""
    rows, parts = 32_000, (("shared", 4_096, 0.1),)
    whole = 4 * rows * 4_096
    error = torch.randn(2, rows)
    made = []
    assert peak(lambda: made.append(kept(family(), 0, parts, rows, torch.float32, CPU))) < whole / 100
    assert sum(tensor.nbytes for tensor in made[0]) < whole / 1000
    assert peak(lambda: family().product(error, parts, made[0])) < whole / 20
    # The instrument itself, on a smaller matrix.
    assert peak(lambda: kept(fa.Uniform(), 0, parts, rows // 100, torch.float32, CPU)) >= whole / 100


def peak(action: Callable[[], object]) -> int:
    """Return the most bytes of tensors that were allocated at a time, beyond those before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        action()
    changes = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        now += change.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize(("rows", "columns"), [(10, 1024), (1000, 300), (3, 2000)])
@pytest.mark.parametrize("family", FAMILIES)
def test_moments(family: type[fa.Feedback], rows: int, columns: int) -> None:
    """Mean zero, the variance that ``gain`` counts on, and features that hear different errors independently."""
    matrices = torch.stack([family().matrix(seed, "p", rows, columns) for seed in range(20)])
    few = 6 / matrices.numel() ** 0.5  # six standard deviations of a mean
    variance = 1 / 3 if family is Regenerated else 1.0
    assert matrices.mean().abs() < few * 2
    assert matrices.square().mean().item() == pytest.approx(variance, rel=4 * few)
    products = torch.einsum("scd,sed->sce", matrices, matrices) / columns / variance
    crossed = products[:, ~torch.eye(rows, dtype=torch.bool)]
    assert crossed.mean().abs() < 6 / crossed.numel() ** 0.5
    assert crossed.square().mean().sqrt() < 1.5 / columns**0.5  # no more than of independent entries
    assert (matrices[0] - matrices[1]).square().mean() > variance


def test_regenerated_entries_are_uniform_on_odd_multiples() -> None:
    entries, counts = (Regenerated().matrix(0, "p", 100, 1280) * 128).unique(return_counts=True)
    assert entries.tolist() == list(range(-127, 128, 2))
    assert (counts - 1000).abs().max() < 6 * 1000**0.5
    assert torch.equal(entries.bfloat16().double(), entries)


def test_regenerated_blocks_follow_from_their_own_seeds() -> None:
    """The first block of a wide matrix can be had without the others; no two blocks are alike."""
    rows, width = 4096, BLOCK // 4096
    (seeds,) = Regenerated().keep(3, (("a", 2 * width + 5, 1.0),), rows, torch.float32, CPU)
    assert len(seeds) == len(seeds.unique()) == 3
    wide = Regenerated().matrix(3, "a", rows, 2 * width + 5)
    last = Regenerated().product(torch.eye(9, rows), (("a", 5, 1.0),), (seeds[2:],))
    assert torch.equal(last.double(), wide[:9, 2 * width :])
    assert not torch.equal(wide[:, :width], wide[:, width : 2 * width])


@pytest.mark.parametrize("size", [1, 2, 8, 32, 64, 512, 2048])
def test_the_transform_counts_the_bits_that_row_and_column_share(size: int) -> None:
    expected = [[(-1.0) ** (row & column).bit_count() for column in range(size)] for row in range(size)]
    found = transform(torch.eye(size, dtype=torch.float64), walsh(32))
    assert torch.equal(found, torch.tensor(expected, dtype=torch.float64))


def test_hadamard_rows_are_orthogonal_and_its_columns_differ() -> None:
    matrix = Hadamard().matrix(0, "p", 10, 1024)
    torch.testing.assert_close(matrix @ matrix.T, 1024 * torch.eye(10, dtype=torch.float64))
    directions = matrix * matrix[0].sign()  # a single transform would leave 16 of them
    assert len(directions.T.round(decimals=9).unique(dim=0)) > 900
    assert matrix.pow(4).mean().item() == pytest.approx(3, abs=0.3)  # as of Gaussian numbers


def test_hadamard_projects_a_large_error_in_little_memory() -> None:
    feedback, parts, error = Hadamard(), (("p", 24, 0.5), ("q", 3, 2.0)), torch.randn(500, 5000)
    numbers = feedback.keep(0, parts, 5000, error.dtype, error.device)
    expected = error @ feedback.scaled(0, parts, 5000, error.dtype)
    torch.testing.assert_close(feedback.product(error, parts, numbers), expected, rtol=1e-4, atol=1e-4)
    peak = peak_memory(lambda: feedback.product(error, parts, numbers), error.device)
    assert peak < 3 * error.numel() * error.element_size()  # padded to 8192 and transformed whole it would be 5 times


def test_hadamard_rows_do_not_repeat_where_the_error_is_wider_than_the_point() -> None:
    matrix = Hadamard().matrix(0, "p", 1000, 256)
    alike = (matrix @ matrix.T / 256).fill_diagonal_(0).abs().max()
    assert alike < 0.45  # a single transform has pairs of equal rows: 1


@pytest.mark.parametrize(("rows", "nonzeros", "expected"), [(100, 4, 4), (100, 1, 1), (3, 4, 3), (40, 40, 40)])
def test_sparse_columns_have_as_many_entries_as_asked(rows: int, nonzeros: int, expected: int) -> None:
    matrix = Sparse(nonzeros=nonzeros).matrix(0, "p", rows, 5000)
    assert (matrix != 0).sum(0).eq(expected).all()
    entries = matrix[matrix != 0]
    torch.testing.assert_close(entries.abs(), torch.full_like(entries, (rows / expected) ** 0.5))
    assert entries.sign().mean().abs() < 6 / len(entries) ** 0.5
    in_row = (matrix != 0).sum(1).double()
    mean = 5000 * expected / rows
    assert (in_row - mean).abs().max() < 6 * mean**0.5  # no row is preferred


def test_sparse_needs_an_entry() -> None:
    with pytest.raises(ValueError, match=r"nonzeros must be at least 1, found 0.*feedalign\.Shallow\(\)"):
        Sparse(nonzeros=0)
    with pytest.raises(ValueError, match=r"scale must be one of 'point', 'widest'; found 'pont'\."):
        Sparse(scale="pont")


PINNED = {
    Regenerated: [-0.7421875, 0.2890625, -0.2109375, 0.3828125, -0.9921875, 0.5546875],
    Hadamard: [0.707106781, -0.707106781, -1.414213562, 0.0, -1.414213562, 0.0],
    Sparse: [-1.5, 0.0, 0.0, 1.5, 1.5, -1.5],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_are_pinned(family: type[fa.Feedback]) -> None:
    """A release that drew other numbers would silently change every trained model's feedback."""
    row = family().matrix(0, "shared", 9, 20)[2, :6]
    torch.testing.assert_close(row, torch.tensor(PINNED[family], dtype=torch.float64), rtol=0, atol=1e-7)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("family", FAMILIES)
def test_derivatives_of_a_projection(family: type[fa.Feedback]) -> None:
    """For gradients of gradients, and gradients per sample in any dimension."""
    error = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    project, matrix = product(family()), twin(family())
    assert torch.autograd.gradcheck(project, error)
    assert torch.autograd.gradgradcheck(project, error)
    stack = torch.randn(4, 12, 3, dtype=torch.float64)
    expected = torch.einsum("ncs,cd->snd", stack, matrix)
    torch.testing.assert_close(vmap(project, in_dims=2)(stack), expected)
    squares = lambda rows: project(rows).square().sum()  # noqa: E731
    expected = torch.einsum("snd,cd->snc", 2 * expected, matrix)
    torch.testing.assert_close(vmap(grad(squares), in_dims=2)(stack), expected)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_per_sample(family: type[fa.Feedback]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 20), nn.Tanh(), nn.Linear(20, 7)).double()
    fa.attach(model, fa.DFA(feedback=family(shared=False)))
    x = torch.randn(5, 4, dtype=torch.float64)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    loss = lambda parameters, x: functional_call(model, parameters, (x[None],)).square().sum()  # noqa: E731
    found = vmap(grad(loss), (None, 0))(parameters, x)
    for i in range(5):
        model.zero_grad()
        model(x[i : i + 1]).square().sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name][i], parameter.grad, rtol=1e-10, atol=1e-13)


# Of torch itself: Dynamo makes an instance of every autograd Function, and looks for .grad on what it traces.
compiles = [
    pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]
BACKENDS = [pytest.param(name, marks=compiles) for name in ("aot_eager", "inductor")]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_compiled_projection_holds_no_matrix(family: type[fa.Feedback], backend: str) -> None:
    torch.compiler.reset()
    rows, parts = 300, (("shared", 400, 0.05),)
    sizes = []

    def inspect(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        held = [*inputs, *module.parameters(), *module.buffers()]
        sizes.extend(tensor.numel() for tensor in held if isinstance(tensor, Tensor))
        return torch._dynamo.lookup_backend(backend)(module, inputs)

    def project(error: Tensor) -> Tensor:
        feedback = family()
        return feedback.product(error, parts, kept(feedback, 3, parts, rows, error.dtype, CPU))

    compiled = torch.compile(project, fullgraph=True, backend=inspect)
    for size in (5, 3, 4):
        error = torch.randn(size, rows, dtype=torch.float64)
        torch.testing.assert_close(compiled(error), error @ twin(family(), parts, rows))
    assert 0 < max(sizes) < rows * 400 / 20
    torch.compiler.reset()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("feedback", [Regenerated(shared=False), Hadamard(), Sparse(positions="repeat")], ids=repr)
def test_a_compiled_model_learns_as_in_eager_mode(feedback: fa.Feedback, backend: str) -> None:
    torch.compiler.reset()
    exhibit = next(exhibit for exhibit in ZOO if exhibit.name == "cnn-grouped")
    model = build(exhibit).eval()
    fa.attach(model, fa.DFA(seed=1, feedback=feedback), exhibit.points, exhibit.output)
    fast = torch.compile(model, fullgraph=True, backend=backend)
    for size in (6, 3, 4):
        inputs = batch(exhibit, size)
        expected = gradients(model, inputs)
        model.zero_grad()
        run(fast, inputs).backward()
        assert_same(collect(model), expected, rtol=1e-9, atol=1e-11)
    torch.compiler.reset()
