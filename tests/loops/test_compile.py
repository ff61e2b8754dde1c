"""torch.compile gives what eager gives: from the first backward on, for every size of batch, whatever is switched."""

import pytest
import torch
from torch import nn

import feedalign as fa
from zoo import ZOO, Exhibit, assert_same, batch, build, collect, gradients, run

CLOSE = {"rtol": 1e-9, "atol": 1e-11}  # float64, sums in another order
NAMES = [
    "mlp", "mlp-functional", "mlp-reused-relu", "cnn-grouped", "resnet-batchnorm", "lstm-cell-in-time",
    "transformer-post-ln", "transformer-post-ln-micro", "outputs-tuple", "outputs-dict", "outputs-dataclass",
    "loss-inside", "one-number-per-row",
]  # fmt: skip
# Of torch itself: Dynamo looks for .grad on what it traces, and makes an instance of every autograd Function.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning"),
]
EXHIBITS = {exhibit.name: exhibit for exhibit in ZOO}


@pytest.fixture(autouse=True)
def _fresh():
    torch.set_default_dtype(torch.float64)
    torch.compiler.reset()
    yield
    torch.compiler.reset()
    torch.set_default_dtype(torch.float32)


def attached(exhibit: Exhibit, rule: fa.Rule) -> tuple[nn.Module, fa.Attachment]:
    model = build(exhibit).eval()
    # With an example, since where rows lie cannot be found out while a forward pass is traced.
    return model, fa.attach(model, rule, exhibit.points, exhibit.output, example=batch(exhibit))


def compiled(model: nn.Module, backend: str = "aot_eager") -> nn.Module:
    return torch.compile(model, fullgraph=True, backend=backend)


def of(model: nn.Module, callable_model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor | None]:
    model.zero_grad()
    run(callable_model, inputs).backward()
    return collect(model)


@pytest.mark.parametrize("name", NAMES)
def test_equals_eager_for_every_size_of_batch(name: str) -> None:
    exhibit = EXHIBITS[name]
    eager, _ = attached(exhibit, fa.DFA(seed=1))
    model, _ = attached(exhibit, fa.DFA(seed=1))
    fast = compiled(model)
    for size in (6, 6, 3, 4):  # the third is the last, smaller batch, and makes sizes symbols
        inputs = batch(exhibit, size)
        assert_same(of(model, fast, inputs), gradients(eager, inputs), **CLOSE)


@pytest.mark.parametrize("name", ["mlp", "outputs-tuple"])
def test_shallow_leaves_no_gradient_below_the_points(name: str) -> None:
    exhibit = EXHIBITS[name]
    eager, _ = attached(exhibit, fa.Shallow())
    model, _ = attached(exhibit, fa.Shallow())
    expected = gradients(eager, batch(exhibit))
    assert None in expected.values()  # not zeros, which weight decay would act on
    assert_same(of(model, compiled(model), batch(exhibit)), expected, **CLOSE)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # inductor's imports
def test_inductor_equals_eager() -> None:
    exhibit = EXHIBITS["mlp"]
    eager, _ = attached(exhibit, fa.DFA(seed=1))
    model, _ = attached(exhibit, fa.DFA(seed=1))
    fast = compiled(model, "inductor")
    for seed in (3, 4):
        inputs = batch(exhibit, seed=seed)
        assert_same(of(model, fast, inputs), gradients(eager, inputs), **CLOSE)


@pytest.mark.parametrize(
    "feedback",
    [fa.Normal(shared=False), fa.Orthogonal(scale="widest"), fa.Uniform(positions="repeat")],
    ids=["separate", "widest", "repeat"],
)
def test_every_feedback_equals_eager(feedback: fa.Feedback) -> None:
    exhibit = EXHIBITS["cnn-grouped"]
    eager, _ = attached(exhibit, fa.DFA(seed=1, feedback=feedback))
    model, _ = attached(exhibit, fa.DFA(seed=1, feedback=feedback))
    assert_same(of(model, compiled(model), batch(exhibit)), gradients(eager, batch(exhibit)), **CLOSE)


def test_a_whole_step_is_one_graph() -> None:
    """A function that runs the model and its loss, compiled: nothing of the rule breaks the graph."""
    exhibit = EXHIBITS["outputs-tuple"]
    eager, _ = attached(exhibit, fa.DFA(seed=1))
    model, _ = attached(exhibit, fa.DFA(seed=1))
    graphs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    loss = torch.compile(lambda inputs: run(model, inputs), fullgraph=True, backend=graphs)
    loss(batch(exhibit)).backward()
    assert graphs.frame_count == 1
    assert_same(collect(model), gradients(eager, batch(exhibit)), **CLOSE)


def test_module_compile_equals_eager() -> None:
    exhibit = EXHIBITS["outputs-dict"]
    eager, _ = attached(exhibit, fa.DFA(seed=1))
    model, _ = attached(exhibit, fa.DFA(seed=1))
    model.compile(fullgraph=True, backend="aot_eager")
    for size in (6, 3):
        assert_same(gradients(model, batch(exhibit, size)), gradients(eager, batch(exhibit, size)), **CLOSE)


@pytest.mark.parametrize("name", ["mlp", "loss-inside"])
def test_off_and_remove_reach_the_compiled_model(name: str) -> None:
    exhibit = EXHIBITS[name]
    inputs = batch(exhibit)
    backprop = gradients(build(exhibit).eval(), inputs)
    model, handle = attached(exhibit, fa.DFA(seed=1))
    ruled = gradients(attached(exhibit, fa.DFA(seed=1))[0], inputs)
    fast = compiled(model)
    assert_same(of(model, fast, inputs), ruled, **CLOSE)
    with handle.off():
        assert_same(of(model, fast, inputs), backprop, **CLOSE)
    assert_same(of(model, fast, inputs), ruled, **CLOSE)
    handle.remove()
    assert_same(of(model, fast, inputs), backprop, **CLOSE)


def test_eager_runs_before_and_between_change_nothing() -> None:
    exhibit = EXHIBITS["transformer-post-ln"]
    inputs = batch(exhibit)
    model, handle = attached(exhibit, fa.DFA(seed=1))
    eager = gradients(model, inputs)
    fast = compiled(model)
    assert_same(of(model, fast, inputs), eager, **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(fast(*inputs), model(*inputs))
    assert_same(gradients(model, inputs), eager)
    assert_same(of(model, fast, inputs), eager, **CLOSE)
    assert handle.last.error > 0


def test_a_compiled_model_is_refused() -> None:
    exhibit = EXHIBITS["mlp"]
    model = build(exhibit)
    with pytest.raises(fa.PointsError, match=r"Attach first: attach\(model, ...\), then torch.compile\(model\)"):
        fa.attach(torch.compile(model), fa.DFA(seed=1))
    model.compile()
    with pytest.raises(fa.PointsError, match="The model is compiled already"):
        fa.attach(model, fa.DFA(seed=1))


def test_an_output_that_runs_twice_is_refused() -> None:
    model, _ = attached(EXHIBITS["siamese"], fa.DFA(seed=1))
    with pytest.raises(Exception, match=r"Under torch\.compile The output 'head' may run once per forward pass"):
        run(compiled(model), batch(EXHIBITS["siamese"]))
