"""Where the cuts are: names, globs, types, predicates, and what is found by itself."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import feedalign as fa
from zoo import FunctionalMLP, ManyOutputs, ResNet, TransformerClassifier, mlp


def found(model: nn.Module, points: object, output: str | None = None) -> list[str]:
    return [str(point) for point in fa.attach(model, fa.DFA(), points, output).points]


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3))
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ("layers.*", ["layers.0", "layers.1", "layers.2"]),
        ("layers.*.1", ["layers.0.1", "layers.1.1", "layers.2.1"]),
        ("layers.?", ["layers.0", "layers.1", "layers.2"]),
        ("**.1", ["layers.0.1", "layers.1", "layers.1.1", "layers.2.1"]),
        (["layers.2", "layers.0"], ["layers.0", "layers.2"]),
        (nn.ReLU, ["layers.0.1", "layers.1.1", "layers.2.1"]),
        ([nn.ReLU, "layers.0.0"], ["layers.0.0", "layers.0.1", "layers.1.1", "layers.2.1"]),
        (lambda name, module: name.endswith("2"), ["layers.2"]),
        ("head:input", ["head:input"]),
        ("auto", ["layers.0.1", "layers.1.1", "layers.2.1"]),
    ],
)
def test_selectors(points: object, expected: list[str]) -> None:
    assert found(Deep(), points) == expected


def test_auto_in_a_chain_takes_every_non_linearity_but_the_one_that_shapes_the_output() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.1), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2))
    assert found(nn.Sequential(*model, nn.Softmax(dim=1)), "auto") == ["1", "4"]


def test_auto_finds_functions_behind_dropout_and_methods() -> None:
    assert found(FunctionalMLP(), "auto") == ["fc2:input", "fc3:input"]


def test_auto_looks_into_the_users_own_modules() -> None:
    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(F.relu(self.a(x)))

    model = nn.Sequential(Body(), nn.ReLU(), nn.Linear(4, 2))
    assert found(model, "auto") == ["0.b:input", "1"]


def test_auto_without_a_trace_takes_the_modules_in_order() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.relu, self.b, self.final = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2), nn.Sigmoid()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.relu(self.a(x))
            return self.final(self.b(x)) if x.sum() > 0 else self.b(x)  # cannot be traced

    assert found(Branching(), "auto") == ["relu"]


def test_auto_takes_repeated_blocks_and_micro_their_sublayers() -> None:
    assert found(ResNet(nn.BatchNorm2d), "auto") == ["stage.0", "stage.1", "stage.2"]
    layers = ["encoder.layers.0", "encoder.layers.1"]
    assert found(TransformerClassifier(False), "macro") == layers
    assert found(TransformerClassifier(False), "micro") == [
        point for layer in layers for point in (layer, f"{layer}.dropout", f"{layer}.norm1", f"{layer}.norm2")
    ]


def test_micro_gives_each_sublayer_one_signal_and_the_block_none_twice() -> None:
    model = TransformerClassifier(False)
    handle = fa.attach(model, fa.DFA(), "micro")
    model(torch.randint(11, (3, 5))).sum().backward()
    sublayers = {f"encoder.layers.{i}.{name}" for i in (0, 1) for name in ("dropout", "norm1", "norm2")}
    assert set(handle.last.signals) == sublayers
    assert "no signal: frozen below, or cut inside" in repr(handle)


@pytest.mark.parametrize(
    ("points", "output", "text"),
    [
        (
            "layer.*",
            None,
            r"No module matches points='layer\.\*'\. Did you mean 'layers[.0-9]*'\? The modules are:\n  layers ",
        ),
        ("layers.7", None, r"No module matches points='layers\.7'\. Did you mean 'layers\.\d"),
        (nn.Conv2d, None, r"No module matches points=Conv2d\. The modules are"),
        (lambda name, module: False, None, r"No module matches the predicate"),
        (3, None, r"points expected names, types or a predicate \(name, module\) -> bool, found 3"),
        ("macro", None, r"points='macro' needs blocks that repeat"),
        (
            "layers.*",
            "layers.*",
            r"output='layers\.\*' must name one module and matches 3\. Write one of:\n  layers\.0",
        ),
        ("layers.*", "hed", r"No module matches output='hed'\. Did you mean 'head'\?"),
        ("layers.*", "heda", r"No module matches output='heda'\. Did you mean 'head'\?"),
        ("macroo", None, r"No module matches points='macroo'\. Did you mean 'macro'\?"),
        (["mikro", "head"], None, r"No module matches points='mikro'\. Did you mean 'micro'\?"),
        ("layer.0", None, r"No module matches points='layer\.0'\. Did you mean 'layers\.0'\?"),
        ("**", "head", r"'head' is named both as a point and as the output\. Leave it out of points="),
    ],
)
def test_errors_say_what_was_expected_and_what_to_write(points: object, output: str | None, text: str) -> None:
    with pytest.raises(fa.PointsError, match=text):
        fa.attach(Deep(), fa.DFA(), points, output)


def test_a_misspelt_last_part_of_a_long_name_is_recognised() -> None:
    model = nn.ModuleDict({"the_whole_model_without_its_wrapper": Deep()})
    with pytest.raises(
        fa.PointsError, match=r"output='heda'\. Did you mean 'the_whole_model_without_its_wrapper\.head'"
    ):
        fa.attach(model, fa.DFA(), "**.layers.*", "heda")


def test_a_module_is_known_by_each_of_its_names() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))
            self.decoder, self.head, self.tap = self.encoder, nn.Linear(4, 2), None
            self.tap = self.head

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.encoder:
                x = layer(x)
            return self.tap(x)

    assert found(Tied(), "decoder.1") == ["encoder.1"]
    assert found(Tied(), "decoder.*") == ["encoder.0", "encoder.1"]
    assert found(Tied(), ["encoder.0", "decoder.*"]) == ["encoder.0", "encoder.1"]
    assert found(Tied(), "decoder.*.1") == ["encoder.0.1", "encoder.1.1"]
    assert fa.attach(Tied(), fa.DFA(), "encoder.*", output="tap").output == "head"
    with pytest.raises(fa.PointsError, match=r"'head' is named both as a point and as the output"):
        fa.attach(Tied(), fa.DFA(), ["encoder.*", "tap"], output="head")


def test_a_module_that_holds_itself_does_not_end_the_search() -> None:
    model = Deep()
    model.layers[0].again = model
    assert found(model, "layers.*") == ["layers.0", "layers.1", "layers.2"]


def test_a_rule_by_its_short_name() -> None:
    model = mlp()
    handle = fa.attach(model, "dfa")
    assert handle.rule == fa.DFA()
    assert [str(point) for point in handle.points] == ["1", "3"]
    handle.remove()
    assert fa.attach(model, {"1": "dfa", "3": fa.Shallow()}).rule == {"1": fa.DFA(), "3": fa.Shallow()}
    with pytest.raises(ValueError, match=r"There is no rule 'dfaa'\. Did you mean 'dfa'\?"):
        fa.attach(mlp(), "dfaa")
    with pytest.raises(ValueError, match=r"There is no rule 'shalow'\. Did you mean 'shallow'\?"):
        fa.attach(mlp(), {"1": "shalow"})


def test_nothing_found_by_itself_lists_the_modules() -> None:
    with pytest.raises(fa.PointsError, match=r"(?s)points='auto' found neither repeated blocks.*a  \(Linear\)"):
        fa.attach(nn.ModuleDict({"a": nn.Linear(3, 3)}), fa.DFA())


def test_a_model_without_modules_inside() -> None:
    with pytest.raises(fa.PointsError, match=r"in Linear\..*It has no modules inside\."):
        fa.attach(nn.Linear(3, 2), fa.DFA())


def test_backprop_takes_no_wrong_names_either() -> None:
    with pytest.raises(fa.PointsError, match=r"No module matches points='nope'"):
        fa.attach(Deep(), fa.Backprop(), "nope")
    assert "nothing is cut" in repr(fa.attach(nn.Linear(3, 2), fa.Backprop()))


def test_a_function_read_by_several_layers_cannot_be_cut_by_itself() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = F.relu(self.a(x))
            return self.b(h) + self.c(h)

    with pytest.raises(fa.PointsError, match=r"'relu' is read by several layers \(b, c\).*Make it a module"):
        fa.attach(Fork(), fa.DFA())


def test_a_point_that_is_the_output_itself() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    fa.attach(model, fa.DFA(), ["1", "2"])
    with pytest.raises(fa.PointsError, match=r"Point '2' is the output itself, where the error is known exactly"):
        model(torch.randn(4, 3))


def test_attaching_twice_and_to_a_compiled_model() -> None:
    model = mlp()
    handle = fa.attach(model, fa.DFA())
    with pytest.raises(fa.PointsError, match=r"has an attachment already\. Call its remove\(\)"):
        fa.attach(model, fa.Shallow())
    handle.remove()
    fa.attach(model, fa.Shallow()).remove()
    with pytest.raises(fa.PointsError, match=r"Attach first: attach\(model, \.\.\.\), then torch\.compile\(model\)"):
        fa.attach(torch.compile(model, backend="eager"), fa.DFA())


def test_one_tensor_of_a_tuple() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    fa.attach(model, fa.DFA(), "1[2]")
    with pytest.raises(
        fa.PointsError, match=r"Point '1\[2\]' expected the module to return at least 3 tensors, found 1"
    ):
        model(torch.randn(4, 3))


def test_the_table_shows_shapes_feedback_and_tap() -> None:
    model = mlp()
    handle = fa.attach(model, fa.DFA(seed=3))
    assert "(shapes are known after a forward pass)" in repr(handle)
    model(torch.randn(5, 6)).sum().backward()
    lines = repr(handle).splitlines()
    assert re.match(r"1 +\[5, 12\] +uniform \[4, 12\] x 0\.289, shared +the return value", lines[3])
    assert re.match(r"3 +\[5, 9\] +uniform \[4, 9\] x 0\.333, shared +the return value", lines[4])
    with handle.off():
        assert "(off: the model trains by backpropagation)" in repr(handle)
    shallow = fa.attach(ManyOutputs("tuple"), fa.Shallow())
    assert "no signal" in repr(shallow)
    assert "nothing is cut" in repr(fa.attach(mlp(), fa.Backprop()))
