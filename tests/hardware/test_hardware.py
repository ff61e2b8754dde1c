"""A device in the place of a matrix: what comes back is right, or there is an error that says what to do."""

import copy
import math
import pickle
import time
import warnings
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

import feedalign as fa
from feedalign.feedback.feedback import seeded
from feedalign.hardware import Function
from feedalign.hardware.calibrate import correlation, same_device
from feedalign.optics import Camera, encode
from feedalign.optics.bench import Bench
from hardware.conftest import batch, gradients, network

QUIET = {"camera": None}


def attached(device: object, rule: type[fa.BroadcastRule] = fa.DFA, **options: object) -> nn.Sequential:
    model = network()
    fa.attach(model, rule(feedback=fa.Hardware(device, **options)))
    return model


@pytest.mark.parametrize("recovery", ["anchor", "phase", "offaxis"])
@pytest.mark.parametrize("levels", [2, 3, 31])
def test_it_delivers_the_rounded_error_times_the_devices_matrix(recovery: str, levels: int) -> None:
    device = Bench(40, recovery=recovery, **QUIET)
    feedback = fa.Hardware(device, levels=levels)
    error = torch.randn(50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    error[3] = 0
    found = feedback.product(error, (("shared", 30, 0.5),), ())
    field = device.matrix(7).to(torch.complex128)
    weights = device._anchor.to(torch.complex128) / math.sqrt(device.reference)
    matrix = (
        math.sqrt(2) * (field * weights.conj() if recovery == "anchor" else field)
    ).real / feedback.calibration.scale
    encoded = encode(error, levels)
    expected = 0.5 * (encoded.scale * encoded.integers) @ matrix[:, :30]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found[3] == 0).all()
    entries = matrix.square().mean().item()
    assert entries == pytest.approx(1, abs=0.25)  # measured, from a few rows


def test_a_device_without_faults_is_optical_without_light() -> None:
    """The device with the medium of ``Optical`` gives the gradients of ``Optical(recovery="exact")``."""
    columns, width = 12, 4
    numbers = [
        torch.randn(width, columns, generator=g) for g in [seeded(0, "shared", width, columns)] for _ in range(2)
    ]
    medium = torch.complex(*numbers) / math.sqrt(2)
    model = attached(Bench(columns, recovery="phase", matrix=medium, **QUIET), fa.TernaryDFA, threshold=0.0)
    exact = network()
    fa.attach(exact, fa.TernaryDFA(feedback=fa.Optical(recovery="exact")))
    for found, expected in zip(gradients(model), gradients(exact), strict=True):
        assert torch.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.99999
    scale = model[0].weight.grad.norm() / exact[0].weight.grad.norm()
    assert scale == pytest.approx(1, abs=0.15)  # entries have variance 1 as measured, not as drawn


@pytest.mark.parametrize("inputs", ["real", "ternary", "binary"])
def test_any_function_is_a_device(inputs: str) -> None:
    matrix = torch.randn(4, 20, generator=torch.Generator().manual_seed(5))
    seen: list[Tensor] = []

    def project(rows: Tensor) -> Tensor:
        seen.append(rows)
        return 7 * rows.float() @ matrix

    feedback = fa.Hardware(project, columns=20, inputs=inputs)
    error = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    found = feedback.product(error, (("shared", 20, 1.0),), ())
    encoded = encode(error)
    shown = error if inputs == "real" else encoded.scale * encoded.integers
    expected = shown @ matrix
    assert correlation(found, expected) > 0.99999
    allowed = {"real": (torch.float32, -1, 1), "ternary": (torch.int8, -1, 1), "binary": (torch.uint8, 0, 1)}[inputs]
    assert all(rows.dtype == allowed[0] and rows.min() >= allowed[1] and rows.max() <= allowed[2] for rows in seen)
    assert feedback.calibration.scale == pytest.approx(7 * matrix.square().mean().sqrt().item(), rel=0.1)


def test_equal_and_dark_frames_are_not_shown() -> None:
    device = Bench(20)
    feedback = fa.Hardware(device, watch=0)
    error = torch.eye(4).repeat(25, 1)
    feedback.product(error, (("shared", 20, 1.0),), ())
    before = device.frames
    signal = feedback.product(error, (("shared", 20, 1.0),), ())
    assert device.frames - before == 4  # a hundred rows, four patterns, and no negative half
    assert torch.equal(signal[:4], signal[4:8])
    assert torch.equal(feedback.product(torch.zeros(5, 4), (("shared", 20, 1.0),), ()), torch.zeros(5, 20))
    assert device.frames - before == 4


def test_the_table_of_an_attachment_says_which_device() -> None:
    model = network()
    handle = fa.attach(model, fa.DFA(feedback=fa.Hardware(Bench(64, dead=0.1))))
    assert "Bench: not yet calibrated" in repr(handle)
    gradients(model)
    assert "hardware [4, 12]" in repr(handle)
    dead = handle.rule.feedback.calibration.dead
    assert f"dead and replaced by spare ones: {dead[0]}, {dead[1]}" in repr(handle)
    assert fa.alignment(handle, lambda: model(batch()[0]).square().sum()).points


def test_dead_columns_are_replaced_or_refused() -> None:
    device = Bench(40, dead=0.3, **QUIET)
    feedback = fa.Hardware(device)
    error = torch.randn(60, 4)
    signal = feedback.product(error, (("shared", 20, 1.0),), ())
    assert len(feedback.calibration.dead) > 3
    assert set(feedback.calibration.dead) == set(device._dead.nonzero()[:, 0].tolist())
    assert (signal.square().mean(0) > 0).all()
    with pytest.raises(
        fa.SignalError, match=r"of the 40 columns of Bench are dead, and 0 are to spare for points of 40"
    ):
        feedback.product(error, (("shared", 40, 1.0),), ())


# ---- calibration -----------------------------------------------------------------------------------------------------


def test_calibration_measures_what_was_put_in() -> None:
    clean = fa.calibrate(Bench(200, **QUIET), 10, pause=0)
    assert clean.snr > 1e4
    assert clean.linearity > 0.9999
    assert clean.stability > 0.9999
    assert fa.calibrate(Bench(200, recovery="phase", **QUIET), 10, pause=0).dead == ()
    noisy = Bench(400, signal=30, reference=100, camera=Camera(2000, 10, 8))
    found = fa.calibrate(noisy, 10, pause=0)
    expected = fa.optics.snr("anchor", 30, 100, noisy.camera.floor)
    assert found.snr == pytest.approx(expected, rel=0.25)
    assert found.stability == pytest.approx(found.snr / (1 + found.snr), abs=0.02)
    raw = fa.calibrate(Bench(200, recovery="none", **QUIET), 10, pause=0)
    assert raw.linearity < 0.85
    assert raw.stability > 0.9999
    drifting = fa.calibrate(Bench(400, tau=10, recovery="phase", **QUIET), 10, pause=0)
    assert drifting.stability == pytest.approx(math.exp(-0.1), abs=0.03)
    assert drifting.linearity == pytest.approx(math.exp(-0.1), abs=0.03)
    anchored = fa.calibrate(Bench(400, tau=10, **QUIET), 10, pause=0)
    assert anchored.stability == pytest.approx(math.exp(-0.2), abs=0.05)  # its anchor drifts too
    assert fa.calibrate(Bench(1, **QUIET), 1, pause=0).linearity == 1.0  # one entry cannot be two rows apart
    assert "scale" in str(clean)


def test_a_device_that_answers_nothing_is_refused() -> None:
    with pytest.raises(fa.SignalError, match="answers the same to every frame: no light reaches it"):
        fa.calibrate(Function(lambda rows: torch.zeros(len(rows), 8), 8, "binary"), 5, pause=0)


def test_raw_intensities_are_refused() -> None:
    model = attached(Bench(64, recovery="none"))
    with pytest.raises(fa.SignalError, match=r"Bench is not linear: P\(u \+ v\) and .* Raw intensities train nothing"):
        gradients(model)


def test_saturation_warns_and_then_raises() -> None:
    model = attached(Bench(64, signal=1000, reference=2400, camera=Camera(13_000)))
    with pytest.warns(UserWarning, match=r"2\.\d % of the pixels of Bench saturate\. At 3323 photoelectrons per pixel"):
        gradients(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradients(model)  # said once
    model = attached(Bench(64, signal=4000, reference=8000, camera=Camera(13_000)))
    with pytest.raises(
        fa.SignalError, match=r"\d\d % of the pixels of Bench saturate, so that its projection is no longer"
    ):
        gradients(model)


# ---- which device ----------------------------------------------------------------------------------------------------


def test_another_device_after_a_resume_is_refused() -> None:
    first = fa.Hardware(Bench(64, seed=1))
    assert first.fingerprint is None
    first.product(torch.randn(9, 4), (("shared", 64, 1.0),), ())
    known = first.fingerprint
    again = fa.Hardware(Bench(64, seed=1), expect=known)
    again.product(torch.randn(9, 4), (("shared", 64, 1.0),), ())
    other = attached(Bench(64, seed=2), expect=known)
    with pytest.raises(
        fa.SignalError, match=r"Expected the device [0-9a-f]{8} that training began with, found Bench \("
    ):
        gradients(other)
    with pytest.raises(fa.SignalError, match=r"Expected a fingerprint as feedalign\.fingerprint"):
        gradients(attached(Bench(64), expect="rubbish"))
    assert same_device(known, fa.fingerprint(Bench(64, seed=1), 4)) > 0.9
    assert abs(same_device(known, fa.fingerprint(Bench(64, seed=2), 4))) < 0.3
    assert same_device(known, fa.fingerprint(Bench(64, seed=1), 5)) < 0.9


def test_no_device_says_what_to_do() -> None:
    for nothing in (None, 3):
        with pytest.raises(
            fa.SignalError, match=r"No projector\. .*write feedback=fa\.Optical\(\).*pyopu is not LightOn's"
        ):
            fa.Hardware(nothing)
    with pytest.raises(fa.SignalError, match="Expected columns= with a function"):
        fa.Hardware(lambda rows: rows)
    with pytest.raises(ValueError, match="A device has one matrix, which all points share"):
        fa.Hardware(Bench(4), shared=False)
    with pytest.raises(ValueError, match="timeout and tries expected numbers above 0"):
        fa.Hardware(Bench(4), tries=0)
    with pytest.raises(ValueError, match="levels expected 2"):
        fa.Hardware(Bench(4), levels=4)


def test_widths_are_checked_in_the_forward_pass() -> None:
    model = attached(Bench(10))
    with pytest.raises(
        fa.SignalError, match=r"Point '1' has 12 features and the projector returns 10 numbers\. Use points"
    ):
        model(batch()[0])
    model = attached(Bench(64, mirrors=3))
    with pytest.raises(fa.SignalError, match=r"The error is 4 wide; the device shows 3 mirrors"):
        model(batch()[0])


def test_what_cannot_hold_a_device_says_so() -> None:
    device = Bench(64)
    model = attached(device)
    with pytest.raises(
        fa.SignalError, match=r"Bench cannot be pickled: a device is in one place\. Offer it with `feedalign"
    ):
        pickle.dumps(model)
    other = copy.deepcopy(model)  # the same device
    assert all(torch.isfinite(g).all() for g in gradients(other))
    assert device.frames > 0
    x, _ = batch()
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    loss = lambda parameters, x: functional_call(model, parameters, (x[None],)).square().sum()  # noqa: E731
    with pytest.raises(fa.SignalError, match=r"cannot be used inside of torch\.func"):
        vmap(grad(loss), (None, 0))(parameters, x)
    with pytest.raises(fa.SignalError, match="is measured and not drawn"):
        fa.Hardware(device).draw(2, 3, torch.Generator())


def test_it_is_refused_under_compile() -> None:
    torch.compiler.reset()
    compiled = torch.compile(attached(Bench(64)), backend="aot_eager", fullgraph=True)
    with pytest.raises(Exception, match=r"Hardware is not supported under torch\.compile.*feedalign\.Optical\(\)"):
        compiled(batch()[0])
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_without_fullgraph_it_trains_as_in_eager_mode() -> None:
    torch.compiler.reset()
    model, eager = attached(Bench(64, **QUIET)), attached(Bench(64, **QUIET))
    fast = torch.compile(model, backend="aot_eager")
    x, y = batch()
    nn.functional.cross_entropy(fast(x), y).backward()
    for parameter, expected in zip(model.parameters(), gradients(eager), strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)
    torch.compiler.reset()


@pytest.mark.parametrize("inputs", ["real", "ternary", "binary"])
def test_rows_that_are_not_finite_have_signals_that_are_not(inputs: str) -> None:
    """As any product would: loss scaling then takes the step back. The other rows are projected."""
    matrix = torch.randn(4, 20, generator=torch.Generator().manual_seed(5))
    feedback = fa.Hardware(lambda rows: rows.float() @ matrix, columns=20, inputs=inputs)
    error = torch.randn(6, 4)
    expected = feedback.product(error, (("shared", 20, 1.0),), ())
    error[1, 2], error[4, 0] = math.nan, math.inf
    found = feedback.product(error, (("shared", 20, 1.0),), ())
    assert found[[1, 4]].isnan().all()
    torch.testing.assert_close(found[[0, 2, 3, 5]], expected[[0, 2, 3, 5]])


def test_a_model_that_is_checkpointed_trains_through_a_device() -> None:
    def learnt(checkpointed: bool) -> list[Tensor]:
        model = network()
        fa.attach(model, fa.DFA(feedback=fa.Hardware(Bench(64, **QUIET), watch=0)), nn.Tanh)
        if checkpointed:
            model.forward = partial(checkpoint, model.forward, use_reentrant=False)
        return gradients(model)

    for a, b in zip(learnt(True), learnt(False), strict=True):
        assert torch.equal(a, b)


# ---- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", r"Bench failed in 5 tries\. The last: OSError: the simulated device lost its camera"),
        ("nan", r"Bench failed in 5 tries\. The last: it returned numbers that are not finite"),
        ("shape", r"The last: it expected to return \[\d+, 64\], and returned \[\d+, 64\]"),
        ("columns", r"The last: it expected to return \[\d+, 64\], and returned \[\d+, 63\]"),
    ],
)
def test_a_fault_that_stays_raises_and_one_that_passes_does_not(fault: str, message: str) -> None:
    """Nothing is ever trained on zeros: below the points there is no gradient at all."""
    device = Bench(64, **QUIET)
    model = attached(device, watch=0)
    expected = gradients(model)
    device.fail(fault, times=4)
    for found, right in zip(gradients(model), expected, strict=True):
        assert torch.equal(found, right)
    device.fail(fault, times=5)
    model.zero_grad()
    x, y = batch()
    with pytest.raises(fa.SignalError, match=message):
        nn.functional.cross_entropy(model(x), y).backward()
    assert model[0].weight.grad is None
    assert all(torch.equal(a, b) for a, b in zip(gradients(model), expected, strict=True))  # it works again


def test_a_device_that_hangs_is_given_up_in_time() -> None:
    device = Bench(64)
    model = attached(device, timeout=0.3)
    gradients(model)
    device.fail("hang")
    began = time.monotonic()
    with pytest.raises(fa.SignalError, match=r"Bench did not answer within 0\.3 s\. No step was taken"):
        gradients(model)
    assert time.monotonic() - began < 3
    gradients(model)


def test_a_closed_device_says_so() -> None:
    with Bench(64) as device:
        model = attached(device)
        gradients(model)
    with pytest.raises(fa.SignalError, match="The simulated device is closed"):
        gradients(model)
    with pytest.raises(fa.SignalError, match=r"The device shows zeros and ones in uint8, found torch.int8"):
        Bench(4).start(torch.ones(1, 2, dtype=torch.int8))
    for options in ({"columns": 0}, {"dead": 1.0}, {"recovery": "magic"}):
        with pytest.raises(ValueError, match=r"expected|must be one of"):
            Bench(**{"columns": 4, **options})


# ---- drift -----------------------------------------------------------------------------------------------------------


def steps_until_error(device: Bench, steps: int, **options: object) -> tuple[int, str]:
    feedback = fa.Hardware(device, **options)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        try:
            feedback.product(torch.randn(8, 10, generator=generator), (("shared", 64, 1.0),), ())
        except fa.SignalError as error:
            return step, str(error)
    return steps, ""


@pytest.mark.parametrize("tau", [10.0, 100.0, 300.0])
def test_a_medium_that_drifts_is_caught(tau: float) -> None:
    """With a reference that is still: with an anchor, which drifts too, the matrix lasts half as long."""
    step, message = steps_until_error(Bench(256, recovery="phase", tau=tau, **QUIET), 400)
    assert step == 10  # the first look
    assert "The medium of Bench decorrelates within" in message
    assert "signals no longer belong to one matrix, which trains worse than Shallow()" in message
    lasting = float(message.split("decorrelates within ")[1].split()[0])
    assert 0.6 * tau < lasting < 1.3 * tau  # the looks themselves take some ticks


def test_a_slow_drift_is_a_warning_and_none_is_silent() -> None:
    with pytest.warns(UserWarning, match=r"decorrelates within \d+ steps .* Training bears it"):
        step, _ = steps_until_error(Bench(1024, recovery="phase", tau=3000, **QUIET), 150)
    assert step == 150
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert steps_until_error(Bench(256), 250) == (250, "")
        dim = Bench(256, signal=1, reference=10, camera=Camera(110, 10, 8))  # more noise than signal
        assert steps_until_error(dim, 250) == (250, "")
        assert steps_until_error(Bench(256, tau=10), 250, watch=0) == (250, "")


def test_a_reference_arm_that_wanders_is_told_from_a_medium_that_drifts() -> None:
    step, message = steps_until_error(Bench(256, recovery="phase", phase_walk=0.3, **QUIET), 400)
    assert step < 100
    assert "The reference arm of Bench wanders" in message
    assert "Recover by an anchor (recovery='anchor')" in message


def test_an_anchor_does_not_see_the_phase() -> None:
    rows = torch.randint(2, (50, 10), dtype=torch.uint8)
    still, wandering = Bench(64), Bench(64, phase_walk=1.0)
    for _ in range(3):
        assert torch.equal(still.collect(still.start(rows)), wandering.collect(wandering.start(rows)))
    turning = Bench(64, recovery="phase", phase_walk=1.0, **QUIET)
    first = turning.collect(turning.start(rows))
    assert correlation(first, turning.collect(turning.start(rows))) < 0.95


def test_a_drifting_device_decorrelates_as_it_says() -> None:
    device = Bench(2000, tau=20, **QUIET)
    rows = torch.randint(2, (200, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    start = device.fields(rows)
    for _ in range(10):
        device.collect(device.start(rows))
    now = device.fields(rows)
    field = ((start.conj() * now).sum() / (start.norm() * now.norm())).real.item()
    assert field == pytest.approx(math.exp(-0.5), abs=0.03)
