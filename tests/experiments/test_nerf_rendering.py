"""Sampling, compositing and rendering against closed forms, and the grid of empty space."""

import math

import pytest
import torch
from torch import nn

import feedalign as fa
from feedalign.experiments.models.nerf import FieldConfig
from feedalign.experiments.nerf.compositing import composite
from feedalign.experiments.nerf.occupancy import Occupancy, learned
from feedalign.experiments.nerf.rays import Rays
from feedalign.experiments.nerf.rendering import Radiance, RenderingConfig
from feedalign.experiments.nerf.sampling import refined, resampled, stratified

CPU = torch.device("cpu")
SMALL = FieldConfig(16, 2, skip=None, position_octaves=3, direction_octaves=1)
ORANGE = torch.tensor([2.0, 0.0, -2.0])


class Ball(nn.Module):
    """A ball of constant density and colour around the origin, in the place of a network."""

    def __init__(self, radius=1.0, density=3.0):
        super().__init__()
        self.radius, self.density, self.asked = radius, density, 0

    def forward(self, positions, directions):
        self.asked += positions[..., 0].numel()
        inside = positions.norm(dim=-1) < self.radius
        raw = torch.where(inside, self.density, -1.0)[..., None]
        return torch.cat([ORANGE.expand(*positions.shape), raw], dim=-1)


def rays_along_z(offsets, length=1.0):
    count = len(offsets)
    origins = torch.stack([torch.tensor(offsets), torch.zeros(count), torch.full((count,), -4.0)], dim=1)
    unit = torch.tensor([0.0, 0.0, 1.0]).expand(count, 3)
    return Rays(origins, unit * length, unit)


def scene_of(field, samples=400, fine=0, white=True, **options):
    model = Radiance(SMALL, RenderingConfig(samples, fine, **options), near=2.0, far=6.0, white=white)
    model.coarse = field
    if fine:
        model.fine = field
    return model.eval()


# Compositing


def test_light_falls_off_exponentially_in_a_fog():
    distances = torch.linspace(2, 6, 101, dtype=torch.float64).expand(2, 101)
    raw = torch.zeros(2, 101, 4, dtype=torch.float64)
    raw[..., 3], raw[:, -1, 3] = 0.7, -1.0  # a fog, and nothing behind it
    lengths = torch.tensor([1.0, 1.5], dtype=torch.float64)
    seen = composite(raw, distances, lengths, white=True)
    opacity = 1 - torch.exp(-0.7 * 4 * lengths)  # a longer direction crosses more of it
    torch.testing.assert_close(seen.opacity, opacity)
    torch.testing.assert_close(seen.colour, (0.5 * opacity + 1 - opacity)[:, None].expand(2, 3))
    dark = composite(raw, distances, lengths, white=False).colour
    torch.testing.assert_close(dark, (0.5 * opacity)[:, None].expand(2, 3))


def test_a_wall_hides_what_is_behind_it():
    raw = torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(0))
    raw[..., 3] = torch.tensor([-1.0, -1.0, -1.0, 1e6, 5.0, 5.0, 5.0, 5.0])
    distances = torch.linspace(1, 8, 8)[None]
    seen = composite(raw, distances, torch.ones(1), white=True)
    torch.testing.assert_close(seen.colour, raw[:, 3, :3].sigmoid())
    assert seen.depth.item() == pytest.approx(4)
    assert seen.opacity.item() == pytest.approx(1)


@pytest.mark.parametrize("white", [True, False])
def test_nothing_is_the_background(white):
    seen = composite(torch.full((3, 5, 4), -2.0), torch.linspace(0, 1, 5).expand(3, 5), torch.ones(3), white=white)
    assert seen.colour.eq(1.0 if white else 0.0).all()
    assert not seen.opacity.any()
    assert not seen.depth.any()


def test_the_last_sample_has_no_end():
    raw = torch.zeros(1, 3, 4)
    raw[0, :, 3] = torch.tensor([-1.0, -1.0, 1e-3])
    assert composite(raw, torch.tensor([[0.0, 1.0, 2.0]]), torch.ones(1), white=False).opacity.item() == 1


def by_alphas(raw, distances, lengths, noise):
    """The sum as the paper's code writes it: a loop over samples, alphas multiplied."""
    colour, clear = torch.zeros(len(raw), 3, dtype=raw.dtype), torch.ones(len(raw), dtype=raw.dtype)
    for i in range(raw.shape[1]):
        step = distances[:, i + 1] - distances[:, i] if i + 1 < raw.shape[1] else torch.full_like(clear, 1e10)
        alpha = 1 - torch.exp(-(raw[:, i, 3] + noise[:, i]).relu() * step * lengths)
        colour = colour + (clear * alpha)[:, None] * raw[:, i, :3].sigmoid()
        clear = clear * (1 - alpha)
    return colour + clear[:, None]


def test_sums_and_their_gradients_are_those_of_the_paper():
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(6, 9, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    distances = torch.rand(6, 9, generator=generator, dtype=torch.float64).sort(dim=1).values
    lengths, noise = torch.rand(6, generator=generator).double() + 0.5, torch.randn(6, 9, generator=generator).double()
    target = torch.rand(6, 3, generator=generator).double()
    found = composite(raw, distances, lengths, white=True, noise=noise).colour
    expected = by_alphas(raw, distances, lengths, noise)
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad((colour - target).square().sum(), raw)[0] for colour in (found, expected))
    torch.testing.assert_close(ours, theirs)


# Sampling


def test_distances_are_even_or_one_to_an_interval():
    even = stratified(2, 6, 3, 5, random=False, device=CPU)
    assert even.tolist() == [[2, 3, 4, 5, 6]] * 3
    torch.manual_seed(0)
    drawn = stratified(2, 6, 4000, 5, random=True, device=CPU)
    edges = torch.tensor([2, 2.5, 3.5, 4.5, 5.5, 6])
    assert (drawn >= edges[:-1]).all()
    assert (drawn <= edges[1:]).all()
    middle = (edges[:-1] + edges[1:]) / 2
    torch.testing.assert_close(drawn.mean(dim=0), middle, atol=0.02, rtol=0)
    with pytest.raises(ValueError, match="at least two samples and near < far, found 1, 2 and 6"):
        stratified(2, 6, 3, 1, random=False, device=CPU)


def test_quantiles_of_a_density_in_steps():
    edges, weights = torch.tensor([[0.0, 1.0, 3.0]]), torch.tensor([[1.0, 3.0]])  # a quarter, then three on length 2
    found = resampled(edges, weights, 5, random=False)
    torch.testing.assert_close(found, torch.tensor([[0, 1, 1 + 2 / 3, 1 + 4 / 3, 3]]), atol=1e-4, rtol=0)


def test_draws_follow_the_density():
    torch.manual_seed(0)
    weights = torch.tensor([[1.0, 0.0, 3.0, 4.0]])
    found = resampled(torch.tensor([[0.0, 1.0, 2.0, 4.0, 5.0]]), weights, 20_000, random=True)[0]
    share = torch.histogram(found, torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])).hist / len(found)
    torch.testing.assert_close(share, torch.tensor([1, 0, 1.5, 1.5, 4]) / 8, atol=0.015, rtol=0)


def test_where_nothing_was_seen_all_is_sampled_evenly():
    found = resampled(torch.tensor([[2.0, 4.0, 6.0]]), torch.zeros(1, 2), 5, random=False)
    torch.testing.assert_close(found, torch.tensor([[2.0, 3, 4, 5, 6]]))


def test_refined_distances_hold_the_old_ones_in_order_and_crowd_where_the_weight_is():
    distances = torch.linspace(2, 6, 9)[None]
    weights = torch.zeros(1, 9, requires_grad=True) + torch.eye(9)[4]
    found = refined(distances, weights, 20, random=False)
    assert not found.requires_grad
    assert (found.diff() >= 0).all()
    assert set(distances[0].tolist()) <= set(found[0].tolist())
    new = sorted(set(found[0].tolist()) - set(distances[0].tolist()))
    assert sum(3.75 <= one <= 4.25 for one in new) >= 18  # between the midpoints around the fifth sample


# Rendering


def test_a_ball_is_as_thick_as_its_chord():
    offsets = [0.0, 0.5, 0.9, 1.5]
    seen = scene_of(Ball(density=0.8), samples=4001)(rays_along_z(offsets)).fine
    opacity = [1 - math.exp(-0.8 * 2 * math.sqrt(max(0, 1 - x * x))) for x in offsets]
    assert seen.opacity.tolist() == pytest.approx(opacity, abs=2e-3)
    expected = torch.tensor(opacity)[:, None] * ORANGE.sigmoid() + 1 - torch.tensor(opacity)[:, None]
    torch.testing.assert_close(seen.colour, expected, atol=2e-3, rtol=0)


def test_the_depth_of_a_dense_ball_is_that_of_its_surface():
    for length in (1.0, 2.0):
        model = scene_of(Ball(density=1e5), samples=2001)
        model.near, model.far = 2 / length, 6 / length
        seen = model(rays_along_z([0.0, 0.6], length)).fine
        expected = [3 / length, (4 - 0.8) / length]
        assert seen.depth.tolist() == pytest.approx(expected, abs=3e-3)


def test_fine_samples_sharpen_the_picture():
    offsets = [0.1, 0.4, 0.8]
    rays, exact = rays_along_z(offsets), [1 - math.exp(-2 * math.sqrt(1 - x * x)) for x in offsets]
    coarse = scene_of(Ball(density=1.0), samples=12)(rays).fine.opacity
    both = scene_of(Ball(density=1.0), samples=12, fine=64)(rays)
    error = [(found - torch.tensor(exact)).abs().max() for found in (coarse, both.fine.opacity)]
    assert error[1] < 0.6 * error[0]
    torch.testing.assert_close(both.coarse.opacity, coarse)


def test_evaluation_draws_nothing_and_training_does():
    torch.manual_seed(0)
    model = Radiance(SMALL, RenderingConfig(8, 4, noise=1.0), 2.0, 6.0, white=True)
    rays = rays_along_z([0.1, 0.2])
    state = torch.get_rng_state()
    first, second = (model.eval()(rays).fine.colour for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    third, fourth = (model.train()(rays).fine.colour for _ in range(2))
    assert not torch.equal(third, fourth)


def test_chunks_change_nothing():
    torch.manual_seed(0)
    rays = rays_along_z([0.1 * i for i in range(13)])
    whole, parts = (Radiance(SMALL, RenderingConfig(8, 4, chunk=chunk), 2.0, 6.0, white=True) for chunk in (600, 48))
    parts.load_state_dict(whole.state_dict())
    for one, other in zip(whole.eval()(rays), parts.eval()(rays), strict=True):
        for found, expected in zip(one, other, strict=True):
            torch.testing.assert_close(found, expected)


def test_the_dual_picture_is_of_the_mean_of_both_fields():
    model = scene_of(Ball(density=2.0), samples=200, fine=100)
    model.coarse = Ball(density=4.0)
    model.dual = True
    seen = model(rays_along_z([0.0]))
    assert seen.fine.opacity.item() == pytest.approx(1 - math.exp(-3 * 2), abs=2e-3)
    assert seen.coarse.opacity.item() == pytest.approx(1 - math.exp(-4 * 2), abs=2e-3)


# Empty space

LOW, HIGH = torch.full((3,), -1.5), torch.full((3,), 1.5)


def test_a_full_grid_gives_the_same_picture():
    torch.manual_seed(0)
    model = Radiance(SMALL, RenderingConfig(16, 8), 2.0, 6.0, white=True).eval()
    rays = rays_along_z([0.05 * i for i in range(40)])
    plain = model(rays).fine
    model.occupancy = Occupancy.full(LOW, HIGH, 8)
    for found, expected in zip(model(rays).fine, plain, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_a_learnt_grid_gives_a_close_picture_from_fewer_answers():
    ball = Ball()
    model = scene_of(ball, samples=200)
    model.near, model.far = 2.5, 5.5  # inside of the box all the way
    rays = rays_along_z([0.04 * i for i in range(40)])
    plain, asked = model(rays).fine, ball.asked
    model.occupancy = learned([ball], LOW, HIGH, resolution=32)
    ball.asked = 0
    found = model(rays).fine
    torch.testing.assert_close(found.colour, plain.colour, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.opacity, plain.opacity, atol=1e-4, rtol=0)
    assert ball.asked < 0.6 * asked
    assert model.occupancy.share < 0.35  # the ball fills 16 % of the box, and its neighbours count


def test_what_lies_outside_of_the_box_is_asked_about():
    grid = Occupancy(LOW, HIGH, torch.zeros(4, 4, 4, dtype=torch.bool))
    places = torch.tensor([[0.0, 0, 0], [1.49, -1.49, 0], [1.6, 0, 0], [0, -9, 0]])
    assert grid.occupied(places).tolist() == [False, False, True, True]
    model = scene_of(Ball())
    model.occupancy = grid
    rays = rays_along_z([0.0])
    model.near, model.far = 3.0, 5.0  # inside of the box all the way
    assert not model(rays).fine.opacity.any()


def half():
    """A grid in which the lower half of the box, with negative z, is not empty."""
    cells = torch.zeros(4, 4, 4, dtype=torch.bool)
    cells[:, :, :2] = True
    return Occupancy(LOW, HIGH, cells)


@pytest.mark.parametrize("rule", [fa.Backprop(), fa.DFA()], ids=["backprop", "DFA"])
def test_what_is_skipped_sends_no_error_and_the_rest_sends_the_same(rule):
    """Against one pass over all places in which the raw answers in empty space are put to nothing afterwards."""
    torch.manual_seed(0)
    model = Radiance(SMALL, RenderingConfig(16, 0), 2.6, 5.4, white=True).eval()
    field, rays = model.coarse, rays_along_z([0.05 * i for i in range(-4, 8)])
    example = torch.zeros(1, 2, 3), torch.zeros(1, 3)
    handle = fa.attach(field, rule, points=field.points, example=example)

    def gradients(pixels):
        field.zero_grad()
        (pixels.colour - 0.2).square().mean().backward()
        return {name: value.grad.clone() for name, value in field.named_parameters()}

    model.occupancy = half()
    skipping = gradients(model(rays).fine)
    even = torch.linspace(2.6, 5.4, 16).expand(12, 16)
    places = rays.origins[:, None] + even[..., None] * rays.directions[:, None]
    kept = (places[..., 2] < 0)[..., None]
    assert 0.4 < kept.float().mean() < 0.6
    raw = torch.where(kept, field(places, rays.viewing), -1.0)
    whole = gradients(model.pixels(raw, rays, even))
    handle.remove()
    for name, expected in whole.items():
        torch.testing.assert_close(skipping[name], expected, msg=lambda text, name=name: f"{name}: {text}")
    assert all(value.any() for value in skipping.values())


def test_rays_that_meet_nothing_have_gradients_of_zero():
    torch.manual_seed(0)
    model = Radiance(SMALL, RenderingConfig(8, 4), 3.0, 5.0, white=True)
    model.occupancy = Occupancy(LOW, HIGH, torch.zeros(4, 4, 4, dtype=torch.bool))
    model.coarse.density.weight.data.zero_()
    model.coarse.density.bias.data.fill_(-1.0)
    model.fine.load_state_dict(model.coarse.state_dict())
    seen = model(rays_along_z([0.0, 0.1]))
    assert seen.fine.colour.eq(1).all()
    (seen.fine.colour.sum() + seen.coarse.colour.sum()).backward()
    assert not any(value.grad.any() for value in model.parameters() if value.grad is not None)


@pytest.mark.parametrize("changed", [{"coarse": 2}, {"fine": -1}, {"noise": -1.0}, {"chunk": 0}])
def test_impossible_settings_are_refused(changed):
    with pytest.raises(ValueError, match="Expected at least 3 coarse samples"):
        RenderingConfig(**changed)
