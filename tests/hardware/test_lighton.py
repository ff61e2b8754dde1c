"""The adapter over LightOn's object, against one that has its methods and its traps."""

import numpy as np
import pytest
import torch

import feedalign as fa
from feedalign.hardware.calibrate import correlation
from feedalign.optics import encode
from hardware.conftest import gradients, network


class OPU:
    """What lightonml's object does, as far as it can hurt: casts in silence, and scales by what is shown."""

    def __init__(self, n_components: int = 64) -> None:
        self.n_components, self.max_n_features, self.fits = n_components, 1000, 0
        self.shown: list[np.ndarray] = []

    def fit1d(self, n_features: int) -> "OPU":
        self.fits += 1
        self.matrix = np.random.default_rng(self.fits).standard_normal((n_features, self.n_components))
        return self

    def linear_transform(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x).astype(np.uint8)  # -1 becomes 255, without a word
        self.shown.append(x)
        assert len({int(row.sum()) for row in x}) == 1  # else the exposure, and the gain, would vary
        return (0.0155 * x.astype(float) @ self.matrix).astype(np.float32)


def test_it_projects_the_rounded_error() -> None:
    opu = OPU()
    feedback = fa.Hardware(fa.lighton(opu))
    error = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    found = feedback.product(error, (("shared", 64, 1.0),), ())
    encoded = encode(error)
    matrix = torch.tensor(opu.matrix[:5] - opu.matrix[5:], dtype=torch.float32)
    assert correlation(found, (encoded.scale * encoded.integers) @ matrix) > 0.99999
    assert all(shown.max() <= 1 for shown in opu.shown)
    assert opu.fits == 1
    assert feedback.calibration.scale == pytest.approx(0.0155 * 2**0.5, rel=0.15)


def test_it_trains() -> None:
    model = network()
    fa.attach(model, fa.TernaryDFA(feedback=fa.Hardware(fa.lighton(OPU()))))
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model))


def test_what_would_go_wrong_in_silence_is_refused() -> None:
    device = fa.lighton(OPU())
    with pytest.raises(
        fa.SignalError, match=r"zeros and ones in uint8, found torch\.int8 from -1 to 1.*-1 would become 255"
    ):
        device.start(torch.tensor([[-1, 1]], dtype=torch.int8))
    with pytest.raises(fa.SignalError, match="zeros and ones in uint8"):
        device.start(torch.tensor([[255, 1]], dtype=torch.uint8))
    device.collect(device.start(torch.ones(1, 2, dtype=torch.uint8)))
    with pytest.raises(
        fa.SignalError, match=r"fitted for errors 2 wide, found 3\. Fitting again may change its matrix"
    ):
        device.start(torch.ones(1, 3, dtype=torch.uint8))
    with pytest.raises(
        fa.SignalError, match=r"No projector\. fa\.lighton expects an opened lightonml\.OPU.*Found object"
    ):
        fa.lighton(object())
    model = network(outputs=600)
    fa.attach(model, fa.DFA(feedback=fa.Hardware(fa.lighton(OPU()))))
    with pytest.raises(fa.SignalError, match=r"The error is 600 wide; the device shows 500 mirrors"):
        model(torch.randn(2, 6))
