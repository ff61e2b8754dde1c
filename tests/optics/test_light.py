"""The physics of the simulated light against closed forms, at a million numbers each."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

import feedalign as fa
from feedalign.feedback import dense, kept
from feedalign.optics import Camera, Noise, anchor, drift, encode, off_axis, phase_shift, shown, snr, speckles
from feedalign.optics.camera import poisson
from feedalign.optics.encoding import ternary_cosine
from feedalign.optics.medium import transmission
from feedalign.optics.noise import row_keys
from feedalign.optics.recovery import DARK

CPU = torch.device("cpu")
ROWS, COLUMNS = 1000, 1000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(rows: int = ROWS, seed: int = 1) -> Noise:
    return Noise(torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator(seed)))


def fields(mean: float, seed: int = 0) -> Tensor:
    """Return fully developed speckle, ``complex128 [ROWS, COLUMNS]``."""
    parts = torch.randn(2, ROWS, COLUMNS, generator=generator(seed), dtype=torch.float64) * (mean / 2) ** 0.5
    return torch.complex(*parts)


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1].item()


# ---- noise -----------------------------------------------------------------------------------------------------------


def test_noise_is_standard_normal_and_independent() -> None:
    first, second = noise().pair(COLUMNS, 0)
    other, _ = noise().pair(COLUMNS, 1)
    numbers = first.double().flatten()
    assert stats.kstest(numbers[:100_000].numpy(), "norm").pvalue > 1e-3
    assert numbers.mean().abs() < 5e-3
    assert numbers.pow(2).mean().item() == pytest.approx(1, abs=0.006)
    assert numbers.pow(4).mean().item() == pytest.approx(3, abs=0.06)
    for a, b in ((first, second), (first, other), (first[:, 1:], first[:, :-1]), (first[1:], first[:-1])):
        assert abs(correlation(a, b)) < 5e-3
        assert abs(correlation(a.square(), b.square())) < 5e-3


def test_noise_follows_from_each_row_alone_and_not_from_its_scale() -> None:
    error = torch.randn(50, 7, generator=generator(), dtype=torch.float64)
    keys = row_keys(error, 3)
    assert len(keys.unique()) == 50
    assert torch.equal(row_keys(error[20:30], 3), keys[20:30])
    assert torch.equal(row_keys(error * 2.0**-70, 3), keys)
    assert torch.equal(row_keys(error * (1 + 1e-14), 3), keys)
    assert not (row_keys(error * (1 + 1e-6), 3) == keys).any()
    assert not (row_keys(error, 4) == keys).any()
    assert not (row_keys(error.flip(1), 3) == keys).any()
    assert row_keys(torch.zeros(2, 7)).unique().numel() == 1


def test_photons_have_a_poisson_distribution() -> None:
    """Mean, variance and third moment equal the mean; below sixteen numbers are whole and frequent as expected."""
    for mean in (0.05, 1.0, 7.5, 15.9, 16.1, 300.0):
        counts = poisson(torch.full((ROWS, COLUMNS), mean, dtype=torch.float64), noise().pair(COLUMNS, 2)[0].double())
        error = 6 * math.sqrt(mean / counts.numel())
        assert counts.mean().item() == pytest.approx(mean, abs=error)
        assert counts.var().item() == pytest.approx(mean, rel=0.01 + 6e-3)
        assert (counts - mean).pow(3).mean().item() == pytest.approx(mean, rel=0.25 if mean > 16 else 0.1)
        if mean < 16:
            values, frequency = counts.unique(return_counts=True)
            assert torch.equal(values, values.round())
            expected = stats.poisson(mean).pmf(values.numpy()) * counts.numel()
            often = expected > 1000
            assert abs(frequency.numpy()[often] / expected[often] - 1).max() < 0.2


# ---- speckle and camera ----------------------------------------------------------------------------------------------


def test_speckle_has_contrast_one_and_an_exponential_law() -> None:
    frames = (torch.rand(ROWS, 32, generator=generator()) < 0.5).float()
    intensity = shown(frames, transmission(32, COLUMNS, generator(1)), 300.0).abs().square().double()
    # Pixels of one medium see 32 mirrors, so the distribution over many media is the one to compare.
    many = speckles(fields(300.0)[None])
    assert many.mean().item() == pytest.approx(300, rel=0.005)
    assert (many.std() / many.mean()).item() == pytest.approx(1, abs=0.005)
    assert intensity.mean().item() == pytest.approx(300, rel=0.1)
    sample = many.flatten()[:100_000].numpy()
    assert stats.kstest(sample, stats.expon(scale=300).cdf).pvalue > 1e-3
    for k in (1, 3):
        assert (many > k * 300).double().mean().item() == pytest.approx(math.exp(-k), rel=0.02)


@pytest.mark.parametrize("grains", [2, 5])
def test_grains_lower_the_contrast(grains: int) -> None:
    intensity = speckles(torch.stack([fields(100.0, seed) for seed in range(grains)]))
    assert (intensity.std() / intensity.mean()).item() == pytest.approx(grains**-0.5, rel=0.01)
    sample = intensity.flatten()[:100_000].numpy()
    assert stats.kstest(sample, stats.gamma(grains, scale=100 / grains).cdf).pvalue > 1e-3


@pytest.mark.parametrize("ratio", [2.0, 3.0, 5.0])
def test_saturation_is_that_of_an_exponential_law(ratio: float) -> None:
    camera = Camera(full_well=10_000, read_noise=0, bits=16)
    mean = camera.full_well / ratio
    assert camera.saturated(mean) == pytest.approx(math.exp(-ratio))
    counts = camera.counts(speckles(fields(mean)[None]), noise(), 0)
    clipped = (counts >= camera.full_well).double().mean().item()
    assert clipped == pytest.approx(math.exp(-ratio), rel=0.02)
    assert counts.max().item() == pytest.approx(camera.full_well)


def test_the_converter_adds_the_variance_of_rounding() -> None:
    camera = Camera(full_well=255 * 20.0, read_noise=0.0, bits=8)
    assert camera.step == 20
    mean = torch.rand(ROWS, COLUMNS, generator=generator(), dtype=torch.float64) * 2000 + 1000
    exact = poisson(mean, noise().pair(COLUMNS, 0)[0].double())
    error = camera.counts(mean, noise(), 0) - exact
    assert error.var().item() == pytest.approx(400 / 12, rel=0.01)
    assert error.abs().max() <= 10.01
    assert Camera(13_000, 10, 8).floor == pytest.approx(100 + (13_000 / 255) ** 2 / 12)
    dark = Camera(full_well=1000, read_noise=5, bits=12, dark=3.0).counts(torch.zeros(ROWS, COLUMNS), noise(), 0)
    assert dark.mean() > 3  # negative counts are cut off


# ---- recovery --------------------------------------------------------------------------------------------------------


# With read noise so much light that counts below zero, which the camera cuts off, are rare.
@pytest.mark.parametrize(
    ("signal", "reference", "read_noise"),
    [(10.0, 100.0, 0.0), (100.0, 1000.0, 0.0), (1.0, 100.0, 0.0), (300.0, 1000.0, 10.0), (1000.0, 3000.0, 13.0)],
)
@pytest.mark.parametrize("how", ["phase", "anchor", "offaxis", "divided"])
def test_signal_to_noise_laws(how: str, signal: float, reference: float, read_noise: float) -> None:
    """``1 - correlation`` with the ideal projection within 2 %, at a full well that is never reached."""
    camera = Camera(full_well=2.0**16 - 1, read_noise=read_noise, bits=16)
    z = fields(signal)
    a = torch.complex(*(torch.randn(2, COLUMNS, generator=generator(5), dtype=torch.float64) * (reference / 2) ** 0.5))
    floor = camera.floor
    if how == "phase":
        found = phase_shift(z.abs().square(), z.real * reference**0.5, reference, camera, noise())
        ideal, law = z.real, snr("phase", signal, reference, floor)
    elif how == "offaxis":
        found, ideal = off_axis(z, reference, camera, noise()).real, z.real
        law = snr("offaxis", signal, reference, floor)
    else:
        divide = how == "divided"
        counts = a.abs().square()
        ideal = (z * a.conj()).real / (counts.sqrt() if divide else reference**0.5)
        found = anchor(z.abs().square(), (z * a.conj()).real, counts, reference, camera, noise(), divide=divide)
        law = snr("anchor", signal, counts.mean().item(), floor)
        if divide:
            bright = counts >= DARK * reference
            assert (found[:, ~bright] == 0).all()
            assert bright.double().mean().item() == pytest.approx(math.exp(-DARK), abs=0.03)
            ideal, found, counts = ideal[:, bright], found[:, bright], counts[bright]
            law = (signal / 2) / ((counts + 2 * signal + 2 * floor) / (4 * counts)).mean().item()
    expected = (1 + 1 / law) ** -0.5
    assert 1 - correlation(found, ideal) == pytest.approx(1 - expected, rel=0.02)


def test_published_figures_of_the_laws() -> None:
    """Correlations of single recoveries without read noise, from the laws as they are written down."""
    figures = {("phase", 10, 100): 0.9866, ("anchor", 10, 100): 0.9715}
    for (how, signal, reference), expected in figures.items():
        assert (1 + 1 / snr(how, signal, reference, 0.0)) ** -0.5 == pytest.approx(expected, abs=3e-4)
    with pytest.raises(ValueError, match=r"holds no linear projection\. Choose anchor, phase or offaxis"):
        snr("none", 1, 1, 0)


def test_without_noise_every_recovery_is_exact() -> None:
    z = fields(50.0)[:10]
    a = fields(70.0, 3)[0]
    power, still = z.abs().square(), noise(10)
    for found, expected in (
        (phase_shift(power, z.real * 9, 81.0, None, still), z.real),
        (anchor(power, (z * a.conj()).real, a.abs().square(), 70.0, None, still), (z * a.conj()).real / 70**0.5),
        (off_axis(z, 900.0, None, still), z),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_phase_of_a_reference_costs_its_cosine() -> None:
    z = fields(1.0)
    for phase in (0.3, 1.0, 1.4):
        turned = z * torch.polar(torch.tensor(1.0, dtype=torch.float64), torch.tensor(-phase, dtype=torch.float64))
        found = phase_shift(turned.abs().square(), turned.real * 3, 9.0, None, noise())
        assert correlation(found, z.real) == pytest.approx(math.cos(phase), abs=0.003)


@pytest.mark.parametrize("share", [0.1, 0.2, 1.0])
def test_drift_of_field_and_intensity(share: float) -> None:
    """``exp(-t/tau)`` and, by the Siegert relation, ``exp(-2 t/tau)``; in one step or in ten."""
    start = transmission(ROWS, COLUMNS, generator())
    for steps in (1, 10):
        now = start
        for i in range(steps):
            now = drift(now, share / steps, 1.0, generator(i + 1))
        assert now.abs().square().mean().item() == pytest.approx(1, abs=0.01)
        field = ((start.conj() * now).mean() / start.abs().square().mean()).real.item()
        assert field == pytest.approx(math.exp(-share), abs=0.005)
        assert correlation(start.abs().square(), now.abs().square()) == pytest.approx(math.exp(-2 * share), abs=0.006)
    assert drift(start, 5, math.inf, generator()) is start


# ---- encoding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.0, 0.798), (0.25, 0.863), (0.5, 0.896), (0.612, 0.900), (1.0, 0.859)]
)
def test_the_cosine_of_three_levels(threshold: float, expected: float) -> None:
    assert ternary_cosine(threshold) == pytest.approx(expected, abs=6e-4)
    error = torch.randn(1000, 1000, generator=generator(), dtype=torch.float64)
    found = encode(error, 3, threshold, "rms")
    cosine = torch.cosine_similarity((found.scale * found.integers).flatten(), error.flatten(), dim=0)
    # The size of each row is one number more than the formula has, which hardly matters at a thousand entries.
    assert cosine.item() == pytest.approx(ternary_cosine(threshold), abs=1e-3)


def test_the_cosine_of_signs() -> None:
    error = torch.randn(1000, 1000, generator=generator(), dtype=torch.float64)
    found = encode(error, 2)
    cosine = torch.cosine_similarity((found.scale * found.integers).flatten(), error.flatten(), dim=0)
    assert cosine.item() == pytest.approx((2 / math.pi) ** 0.5, abs=1e-3)
    assert ternary_cosine(0) == pytest.approx((2 / math.pi) ** 0.5)


@pytest.mark.parametrize(("levels", "expected"), [(3, 0.623), (5 + 2, 0.949), (15, 0.990), (31, 0.998)])
def test_uniform_levels_of_the_largest_entry(levels: int, expected: float) -> None:
    """Three levels that are rounded by the largest entry are the worst; ``threshold=0.5`` is that rounding."""
    error = torch.randn(1000, 1000, generator=generator(), dtype=torch.float64)
    found = encode(error, levels, threshold=0.5)
    cosine = torch.cosine_similarity(found.scale * found.integers, error, dim=1).mean()
    assert cosine.item() == pytest.approx(expected, abs=0.005)


def test_frames_add_up_to_the_integers() -> None:
    error = torch.randint(-15, 16, (200, 12), generator=generator()).double()
    error[:, 0] = 15
    found = encode(error * 0.3, 31)
    assert torch.equal(found.integers, error.long())
    planes = found.planes()
    assert len(planes) == 8
    assert all(frame.dtype == torch.bool for _, frame in planes)
    assert torch.equal(sum(weight * frame for weight, frame in planes), error)
    signs = encode(error, 2)
    ((weight, frame),) = signs.planes()
    assert torch.equal(weight * frame - 1.0, torch.where(error >= 0, 1.0, -1.0).to(frame.device))
    for levels in (1, 4, 5, 16):
        with pytest.raises(ValueError, match=rf"levels expected 2 .* found {levels}"):
            encode(error, levels)


def test_rows_of_zeros_are_dark_and_what_is_no_number_stays_none() -> None:
    error = torch.tensor([[0.0, 0, 0], [1, -2, 0], [math.nan, 1, 1], [math.inf, 1, 0]])
    for levels in (2, 3, 15):
        found = encode(error, levels)
        assert (found.integers[0] == 0).all()
        assert found.scale[0] == 0
        assert found.scale[1].isfinite()
        assert not found.scale[2:].isfinite().any()
        signal = product(fa.Optical(levels=levels), error)
        assert (signal[0] == 0).all()
        assert signal[1].isfinite().all()
        assert signal[2:].isnan().all()


# ---- the family ------------------------------------------------------------------------------------------------------

PARTS = (("shared", 700, 1.0),)


def product(feedback: fa.Feedback, error: Tensor, seed: int = 0) -> Tensor:
    return feedback.product(error, PARTS, kept(feedback, seed, PARTS, error.shape[1], error.dtype, CPU))


def matrix(feedback: fa.Feedback, rows: int, seed: int = 0) -> Tensor:
    return dense(feedback, seed, PARTS, rows, torch.float64, CPU)


def test_exact_recovery_is_normal_feedback_bit_for_bit() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        error = torch.randn(30, 12, generator=generator(), dtype=torch.float64).to(dtype)
        assert torch.equal(product(fa.Optical(recovery="exact"), error), product(fa.Normal(), error))
    # A reference arm recovers the same matrix from light; an anchor the same with weights.
    assert torch.allclose(matrix(fa.Optical(recovery="phase"), 12), matrix(fa.Normal(), 12), rtol=1e-6)
    ratio = matrix(fa.Optical(), 12) / matrix(fa.Normal(), 12)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-5, atol=0)


@pytest.mark.parametrize("speckle_grains", [1, 3])
@pytest.mark.parametrize("recovery", ["anchor", "phase", "offaxis"])
@pytest.mark.parametrize("levels", [2, 3, 15])
def test_without_noise_it_is_the_product_with_its_matrix(recovery: str, levels: int, speckle_grains: int) -> None:
    if recovery == "offaxis" and speckle_grains > 1:
        with pytest.raises(ValueError, match="resolves every grain"):
            fa.Optical(recovery=recovery, speckles=speckle_grains)
        return
    feedback = fa.Optical(recovery=recovery, levels=levels, speckles=speckle_grains, camera=None)
    error = torch.randn(40, 12, generator=generator(), dtype=torch.float64)
    encoded = encode(error, levels)
    expected = (encoded.scale * encoded.integers) @ matrix(feedback, 12)
    found = product(feedback, error)
    assert ((found - expected).norm() / expected.norm()).item() < 1e-6


def test_three_levels_need_no_rounding_twice() -> None:
    """What ``TernaryDFA`` sends is shown as it is; ``DFA`` with three levels of light is ``TernaryDFA``."""
    error = torch.randn(40, 12, generator=generator(), dtype=torch.float64)
    size = error.abs()
    on = size > 0.25 * size.amax(1, keepdim=True)
    ternary = torch.where(on, error.sign() * (size * on).sum(1, keepdim=True) / on.sum(1, keepdim=True), 0.0)
    quiet = fa.Optical(recovery="phase", camera=None)
    torch.testing.assert_close(product(quiet, ternary), ternary @ matrix(quiet, 12), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(product(quiet, error), product(quiet, ternary), rtol=1e-9, atol=1e-9)


def test_the_more_light_the_nearer_to_the_exact_product() -> None:
    error = torch.randn(60, 12, generator=generator(), dtype=torch.float64)
    encoded = encode(error)
    found = []
    for photons in (1.0, 10.0, 100.0, 1e4, 1e6):
        feedback = fa.Optical(signal=photons, reference=10 * photons, camera=Camera(200 * photons, 0.1, bits=20))
        expected = (encoded.scale * encoded.integers) @ matrix(feedback, 12)
        found.append(1 - correlation(product(feedback, error), expected))
    assert found == sorted(found, reverse=True)
    assert found[-1] < 1e-5
    for name in ("signal", "reference"):
        with pytest.raises(ValueError, match=rf"{name} expected photoelectrons per pixel above 0.*without light"):
            fa.Optical(**{name: 0.0})


def test_intensities_alone_are_not_linear() -> None:
    raw = fa.Optical(recovery="none", camera=None)
    u, v = torch.zeros(300, 12, dtype=torch.float64), torch.zeros(300, 12, dtype=torch.float64)
    u[:, :6] = (torch.rand(300, 6, generator=generator()) < 0.7).double()
    v[:, 6:] = (torch.rand(300, 6, generator=generator(1)) < 0.7).double()
    u[:, 0] = v[:, 6] = 1
    linear = [correlation(product(f, u + v), product(f, u) + product(f, v)) for f in (raw, fa.Optical(camera=None))]
    assert linear[0] < 0.9
    assert linear[1] > 0.999999


def test_entries_of_the_recovered_matrix() -> None:
    for recovery in ("phase", "anchor"):
        entries = fa.Optical(recovery=recovery).matrix(0, "p", 200, 5000).double()
        assert entries.mean().abs() < 5e-3
        assert entries.square().mean().item() == pytest.approx(1, rel=0.05)
        crossed = entries.T[:300] @ entries.T[:300].T / 200
        off = crossed[~torch.eye(300, dtype=torch.bool)]
        assert off.var().item() == pytest.approx(1 / 200, rel=0.1)
    columns = fa.Optical(recovery="phase").matrix(0, "p", 200, 5000)
    assert stats.shapiro(columns[:, 7].numpy()).pvalue > 1e-3
    weights = fa.Optical().matrix(0, "p", 2000, 3000).double().square().mean(0).sqrt()
    assert stats.kstest(weights.numpy(), stats.rayleigh(scale=0.5**0.5).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("recovery", "variance"), [("phase", 2.0), ("anchor", 5.0)])
def test_johnson_lindenstrauss(recovery: str, variance: float) -> None:
    """``|e B|^2 / |e|^2`` has mean 1 and variance ``2/D``; with an anchor's weights ``5/D``."""
    size, ratios = 50, []
    e = torch.randn(40, generator=generator(), dtype=torch.float64)
    e /= e.norm()
    for seed in range(4000):
        ratios.append(
            ((e @ fa.Optical(recovery=recovery).matrix(seed, "p", 40, size).double()).square().sum() / size).item()
        )
    found = torch.tensor(ratios, dtype=torch.float64)
    assert found.mean().item() == pytest.approx(1, abs=0.02)
    assert found.var().item() == pytest.approx(variance / size, rel=0.12)


def test_angles_are_kept() -> None:
    a, b = torch.randn(2, 400, 60, generator=generator(), dtype=torch.float64)
    b = a + b
    for size in (500, 8000):
        projected = fa.Optical(recovery="phase").matrix(0, "p", 60, size).double()
        before = torch.cosine_similarity(a, b, dim=1)
        after = torch.cosine_similarity(a @ projected, b @ projected, dim=1)
        assert (before - after).square().mean().sqrt() < 2 / size**0.5


def test_noise_is_the_same_for_the_same_error_and_touches_no_generator() -> None:
    error = torch.randn(20, 12, generator=generator(), dtype=torch.float64)
    before = torch.get_rng_state()
    once, again = product(fa.Optical(), error), product(fa.Optical(), error)
    assert torch.equal(once, again)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(product(fa.Optical(), error[5:9]), once[5:9])  # whatever batch a row is in
    other = product(fa.Optical(), error * (1 + 1e-7))
    assert not torch.equal(other, once)
    assert correlation(other, once) > 0.99


def test_a_camera_that_saturates_is_named() -> None:
    with pytest.warns(
        UserWarning, match=r"About 20 % of the pixels saturate: 8000 .* well of 13000\. At 3323 or fewer"
    ):
        fa.Optical(signal=2000, reference=6000)
    with pytest.raises(ValueError, match="full_well expected"):
        Camera(full_well=0)
    with pytest.raises(ValueError, match="bits expected 1 to 24, found 0"):
        Camera(bits=0)
    with pytest.raises(ValueError, match="at least 0, found -1 and 0"):
        Camera(read_noise=-1)
    for options, message in (
        ({"recovery": "holography"}, "recovery must be one of 'anchor', 'phase'"),
        ({"relative": "mean"}, "relative must be 'max' or 'rms'"),
        ({"threshold": 1.0}, r"threshold must be in \[0, 1\)"),
        ({"speckles": 0}, "speckles expected at least 1"),
        ({"recovery": "none", "levels": 7}, "shows two frames, of levels=3"),
    ):
        with pytest.raises(ValueError, match=message):
            fa.Optical(**options)
