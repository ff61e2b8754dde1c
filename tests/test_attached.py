"""What an attachment leaves on a model: all of it or nothing, nothing while it is off, and found again on copies."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import feedalign as fa
from zoo import assert_same, collect, gradients

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]
X = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(5, 4)
RULES: dict[str, tuple[Any, Any]] = {
    "dfa": (fa.DFA(seed=1), "auto"),
    "fa": (fa.FA(seed=1), "auto"),
    "dkp": (fa.DKP(seed=1), "auto"),
    "kp": (fa.KolenPollack(seed=1), "auto"),
    "input": (fa.DFA(seed=1), ["1", "4:input"]),
    "both": ({"2": fa.FA(seed=1), "3": fa.DFA(seed=1)}, "auto"),
    "backprop": (fa.Backprop(), "auto"),
    "parametrised": (fa.FA(seed=1), "auto"),
}
HOOKS = [key for key in vars(nn.Module()) if "hooks" in key]


def net(name: str = "dfa") -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    if name == "parametrised":
        nn.utils.parametrizations.weight_norm(model[2])
    return model


def attach(name: str, model: nn.Module) -> fa.Attachment:
    rule, points = RULES[name]
    return fa.attach(model, rule, points, example=X)


def traces(model: nn.Module) -> dict[str, Any]:
    """Return everything that an attachment may have put on a model, hooks by what PyTorch notes of them."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        found[name] = (
            set(vars(module)),
            list(module._modules),
            {key: list(getattr(module, key).items()) for key in HOOKS},
        )
    return {"modules": found, "parameters": {n: dict(p._backward_hooks or {}) for n, p in model.named_parameters()}}


# ---- all or nothing --------------------------------------------------------------------------------------------------


class Interrupt:
    """Raises at the n-th time that a hook or module is put on, before it or right after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, after: bool, error: type[BaseException]) -> None:
        self.left, self.after, self.error = at, after, error
        for name in ("register_forward_hook", "register_forward_pre_hook", "add_module"):
            monkeypatch.setattr(nn.Module, name, self.around(getattr(nn.Module, name)))

    def around(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0 and not self.after:
                raise self.error("stop")
            found = method(*args, **kwargs)
            if self.left == 0:
                raise self.error("stop")
            return found

        return call


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", RULES)
def test_an_attach_that_is_interrupted_leaves_nothing(
    name: str, after: bool, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = gradients(attach(name, net(name)).model, (X,))
    model = net(name)
    before, stops = traces(model), []
    number, refused = 0, True
    while refused:
        number += 1
        with monkeypatch.context() as patch:
            Interrupt(patch, number, after, error)
            try:
                handle = attach(name, model)
                refused = False
            except (fa.PointsError, RuntimeError, KeyboardInterrupt) as stopped:
                stops.append(stopped)
        if refused:
            assert traces(model) == before
            assert fa.attached(model) is None
    assert all("stop" in str(stopped) for stopped in stops)
    kinds = {type(stopped) for stopped in stops}
    assert kinds == {KeyboardInterrupt} if error is KeyboardInterrupt else fa.PointsError in kinds
    assert number > 1
    assert handle is fa.attached(model)
    assert_same(gradients(model, (X,)), expected)


@pytest.mark.parametrize("points", [["1", "0"], ["0", "1"]])
def test_a_scripted_module_among_the_points(points: list[str]) -> None:
    model = nn.Sequential(
        torch.jit.script(nn.Sequential(nn.Linear(4, 6), nn.Tanh())),
        nn.Sequential(nn.Linear(6, 5), nn.Tanh()),
        nn.Linear(5, 3),
    ).double()
    before = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    with pytest.raises(fa.PointsError, match=r"No hook can be put on module '0' \(RecursiveScriptModule\).*points="):
        fa.attach(model, fa.DFA(seed=1), points)
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == before
    fa.attach(model, fa.DFA(seed=1), ["1"])
    model(X).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_scripted_model_and_a_scripted_output() -> None:
    for scripted in (torch.jit.script(net()), torch.jit.trace(net(), X)):
        for rule in (fa.DFA(), fa.FA()):
            with pytest.raises(fa.PointsError, match=r"scripted or traced, and takes no hooks.*that it was made from"):
                fa.attach(scripted, rule)
    model = net()
    model[4] = torch.jit.script(model[4])
    before = traces(model[1])
    with pytest.raises(fa.PointsError, match=r"No hook can be put on module '4' \(RecursiveScriptModule\)"):
        fa.attach(model, fa.DFA(), points=["1"], output="4")
    assert traces(model[1]) == before


def test_a_module_that_refuses_hooks_in_a_way_of_its_own() -> None:
    class Closed(nn.Tanh):
        def register_forward_hook(self, *args: Any, **kwargs: Any) -> Any:
            raise LookupError("closed for hooks")

    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), Closed(), nn.Linear(5, 3)).double()
    before = traces(model)
    with pytest.raises(fa.PointsError, match=r"put on module '3' \(Closed\): LookupError: closed for hooks") as raised:
        fa.attach(model, fa.DFA(), ["1", "3"])
    assert isinstance(raised.value.__cause__, LookupError)
    assert traces(model) == before


def test_an_example_that_fails_leaves_nothing_and_shows_the_users_own_error() -> None:
    for name in ("dkp", "kp"):
        model = net()
        before = traces(model)
        with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
            fa.attach(model, RULES[name][0], example=torch.randn(3, 7).double())
        assert traces(model) == before


@pytest.mark.parametrize("name", RULES)
def test_remove_leaves_nothing(name: str) -> None:
    model = net(name)
    before = traces(model)
    handle = attach(name, model)
    handle.remove()
    assert traces(model) == before
    assert fa.attached(model) is None


@pytest.mark.parametrize("name", RULES)
def test_a_model_is_attached_to_once(name: str) -> None:
    model = net(name)
    handle = attach(name, model)
    for block in (torch.no_grad, handle.off):
        with block(), pytest.raises(fa.PointsError, match=r"an attachment already.*feedalign.attached\(model\).remove"):
            attach(name, model)
    fa.attached(model).remove()
    attach(name, model)


# ---- off -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_off_takes_all_hooks_off_and_puts_them_back(name: str) -> None:
    model = net(name)
    plain = gradients(model, (X,))
    handle = attach(name, model)
    on = traces(model)
    ruled = gradients(copy.deepcopy(model), (X,))
    with handle.off():
        own = [m for m in model.modules() if m is not handle.learned]
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in own)
        assert_same(gradients(model, (X,)), plain)
    assert traces(model)["modules"] == on["modules"]
    assert_same(gradients(model, (X,)), ruled)


def test_off_nests_and_survives_exceptions() -> None:
    model = net()
    handle = attach("dfa", model)
    on = traces(model)["modules"]
    with handle.off():
        with handle.off():
            assert not model._forward_hooks
        assert not model._forward_hooks
        assert fa.attached(model) is handle
    assert traces(model)["modules"] == on
    with pytest.raises(ZeroDivisionError), handle.off():
        raise ZeroDivisionError
    assert traces(model)["modules"] == on


def test_remove_inside_of_off() -> None:
    model = net()
    before = traces(model)
    handle = attach("dfa", model)
    with handle.off():
        handle.remove()
    assert traces(model) == before
    assert fa.attached(model) is None
    with pytest.raises(fa.SignalError, match="is off or removed"):
        fa.alignment(handle, lambda: model(X).sum())


def test_the_users_hooks_keep_their_order_over_off() -> None:
    model, order = net(), []
    for place in ("first", "second"):
        model[1].register_forward_hook(lambda module, args, output, place=place: order.append(place))
    handle = attach("dfa", model)
    last = model[1].register_forward_hook(lambda module, args, output: order.append("third"))
    model(X).sum().backward()  # the first pass finds out about the model
    del order[:]
    with handle.off():
        model[1].register_forward_hook(lambda module, args, output: order.append("fourth"))
        last.remove()
        model(X)
        assert order == ["first", "second", "fourth"]
    del order[:]
    model(X).sum().backward()
    assert order == ["first", "second", "fourth"]
    assert model[0].weight.grad.abs().sum() > 0
    handle.remove()
    del order[:]
    model(X)
    assert order == ["first", "second", "fourth"]


def test_backward_of_a_rule_that_runs_forward_again_is_not_for_off() -> None:
    model = net()
    handle = fa.attach(model, fa.IFA(seed=1))
    loss = model(X).square().sum()
    with handle.off(), pytest.raises(fa.SignalError, match=r"runs the forward pass again.*outside of `with handle.off"):
        loss.backward(retain_graph=True)
    loss.backward()
    assert model[0].weight.grad.abs().sum() > 0


# ---- found again -----------------------------------------------------------------------------------------------------


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved], ids=["copy", "pickle", "save"]
)
@pytest.mark.parametrize("name", [name for name in RULES if name != "parametrised"])
def test_copies_are_found(name: str, way: Callable[[nn.Module], nn.Module]) -> None:
    model = net(name)
    handle = attach(name, model)
    expected = gradients(model, (X,))
    other = way(model)
    found = fa.attached(other)
    assert found is not None
    assert found is not handle
    assert found.model is other
    assert_same(gradients(other, (X,)), expected)
    found.remove()
    assert fa.attached(other) is None
    assert fa.attached(model) is handle
    assert_same(gradients(other, (X,)), gradients(net(name), (X,)))


def test_an_average_of_weights_has_an_attachment_of_its_own() -> None:
    model = net()
    handle = fa.attach(model, fa.DKP(seed=1), example=X)
    average = AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    average.update_parameters(model)
    begun = copy.deepcopy(dict(model.named_parameters()))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(X).square().sum().backward()
    optimizer.step()
    average.update_parameters(model)
    found = fa.attached(average)
    assert found is fa.attached(average.module)
    assert found.model is average.module
    assert found is not handle
    for name, parameter in found.learned.named_parameters():
        expected = (begun[f"feedalign.{name}"] + dict(model.named_parameters())[f"feedalign.{name}"]) / 2
        torch.testing.assert_close(parameter, expected)


def test_wrappers_and_parts() -> None:
    inner, plain = net(), nn.Linear(3, 2).double()
    handle = attach("dfa", inner)
    outer = nn.Sequential(inner, plain)
    assert fa.attached(outer) is handle
    assert fa.attached(inner) is handle
    assert fa.attached(torch.compile(inner)) is handle
    assert fa.attached(inner[1]) is None  # a point, and not what was attached to
    assert fa.attached(plain) is None
    assert fa.attached(net()) is None


def test_several_inside_have_to_be_told_apart() -> None:
    both = nn.ModuleDict({"actor": net(), "critic": net()})
    handles = {name: attach("dfa", model) for name, model in both.items()}
    with pytest.raises(
        fa.PointsError, match=r"(?s)contains several models.*actor\n.*critic\n.*get_submodule\('actor'\)"
    ):
        fa.attached(both)
    assert fa.attached(both["critic"]) is handles["critic"]
    handles["actor"].remove()
    assert fa.attached(both) is handles["critic"]


def test_a_copy_made_while_off_has_no_rule() -> None:
    model = net()
    handle = attach("dfa", model)
    with handle.off():
        assert fa.attached(model) is handle
        plain = copy.deepcopy(model)
    assert fa.attached(plain) is None
    assert_same(gradients(plain, (X,)), gradients(net(), (X,)))


# ---- exported, traced, scripted --------------------------------------------------------------------------------------


WAYS: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {
    "trace": lambda model: torch.jit.trace(model, X),
    "script": torch.jit.script,
    "export": lambda model: torch.export.export(model, (X,)).module(),
    "strict": lambda model: torch.export.export(model, (X,), strict=True).module(),
}


@pytest.mark.parametrize(
    ("name", "way"),
    # PyTorch scripts no parametrised module.
    [(name, way) for name in RULES for way in WAYS if (name, way) != ("parametrised", "script")],
)
def test_exports_are_refused_while_on_and_right_while_off(name: str, way: str, tmp_path: Path) -> None:
    model = net(name)
    expected = model(X)
    handle = attach(name, model)
    for block in (torch.enable_grad, torch.no_grad):
        with block(), pytest.raises(RuntimeError, match=r"(?s) on Sequential\).*with handle\.off\(\):"):
            WAYS[way](model)
    with handle.off():
        exported = WAYS[way](model)
        torch.testing.assert_close(exported(X), expected)
    torch.testing.assert_close(exported(X), expected)
    if way in ("trace", "script"):
        exported.save(str(tmp_path / "exported.pt"))
    assert_same(gradients(model, (X,)), gradients(attach(name, net(name)).model, (X,)))


@pytest.mark.parametrize("way", WAYS)
def test_exports_of_a_model_around_it(way: str) -> None:
    inner = net()
    handle = attach("dfa", inner)
    outer = nn.Sequential(nn.Linear(4, 4).double(), inner)
    with pytest.raises(RuntimeError, match=r"(?s)DFA on Sequential.*with handle\.off\(\):"):
        WAYS[way](outer)
    with handle.off():
        torch.testing.assert_close(WAYS[way](outer)(X), outer(X))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnx_is_refused_while_on(tmp_path: Path) -> None:
    """The exporter by way of jit.trace runs the model before it looks for the onnx package."""
    model = net()
    attach("dfa", model)
    with pytest.raises(fa.SignalError, match=r"also to ONNX: write `with handle\.off\(\):`"):
        torch.onnx.export(model, (X,), str(tmp_path / "model.onnx"), dynamo=False)


def test_hooks_have_no_name_for_other_tools_either() -> None:
    model = net()
    attach("dfa", model)
    for hook in (*model._forward_hooks.values(), *model._forward_pre_hooks.values()):
        assert not hasattr(hook, "__name__")
        assert getattr(hook, "__name__", "nameless") == "nameless"
        with pytest.raises(fa.SignalError, match=r"torch\.jit\.script cannot compile the hooks.*\(DFA on Sequential\)"):
            hook.__name__  # noqa: B018


def test_registered_methods_are_off_too() -> None:
    class Model(nn.Sequential):
        def encode(self, x: Tensor) -> Tensor:
            return self(x)

    model = Model(*net())
    handle = attach("dfa", model)
    handle.register_forward_method("encode")
    assert "encode" in vars(model)
    with handle.off():
        assert "encode" not in vars(model)
        torch.testing.assert_close(torch.jit.script(model)(X), model(X))
    assert "encode" in vars(model)
    model.encode(X).sum().backward()
    assert collect(model)["0.weight"].abs().sum() > 0
