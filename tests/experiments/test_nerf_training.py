"""Whole runs on the traced scene: what is learned, what is recorded, and how a stopped run goes on."""

import json
from dataclasses import replace

import pytest
import torch

import feedalign as fa
from feedalign.experiments import records
from feedalign.experiments.checkpoint import CHECKPOINT
from feedalign.experiments.data.scenes import SceneConfig, load_scene
from feedalign.experiments.errors import DivergedError, Interrupted, RecordError
from feedalign.experiments.models.nerf import FieldConfig
from feedalign.experiments.nerf.config import Config
from feedalign.experiments.nerf.presets import PRESETS, preset
from feedalign.experiments.nerf.rays import all_rays
from feedalign.experiments.nerf.rendering import RenderingConfig
from feedalign.experiments.nerf.restored import restored, undescribed
from feedalign.experiments.nerf.runs import NERF
from feedalign.experiments.nerf.shuffle import Shuffled
from feedalign.experiments.nerf.training import NerfTraining, falling
from feedalign.experiments.optimisation import OptimiserConfig
from feedalign.experiments.progress import Silent, Stop

SCENE = SceneConfig("traced", size=32, limit=24, held_limit=2)
TINY = Config(
    name="tiny",
    data=SCENE,
    model=FieldConfig(32, 2, skip=None, directions=False, position_octaves=4),
    rendering=RenderingConfig(12, 0, chunk=768),
    optimiser=OptimiserConfig("adam", 5e-3),
    iterations=20,
    every=10,
    rays=64,
    watched=100,
    device="cpu",
)
BOTH = replace(
    TINY,
    model=FieldConfig(16, 3, skip=2, position_octaves=4, direction_octaves=2),
    rendering=RenderingConfig(8, 8, noise=0.5, chunk=512),
)

SKIPPING = replace(BOTH, grid=12, skip_after=0)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scene():
    return load_scene(SCENE)


def training(config, folder, scene, progress=None):
    return NerfTraining(config, scene, folder, progress or Silent())


@pytest.mark.timeout(600)
def test_dfa_sees_the_scene_and_shallow_training_does_not(tmp_path):
    config = replace(
        preset("traced"),
        data=SceneConfig("traced", size=32),
        rendering=RenderingConfig(24, 0, chunk=6_144),
        iterations=240,
        every=120,
        rays=256,
        watched=512,
        alignment=64,
        device="cpu",
    )
    found = {rule: NERF.run(replace(config, rule=rule), tmp_path / rule) for rule in ("bp", "dfa", "shallow")}
    psnr = {rule: record.metrics["test"]["psnr"] for rule, record in found.items()}
    assert psnr["dfa"] > psnr["shallow"] + 3
    assert psnr["bp"] > psnr["shallow"] + 3
    first, *_, last = records.load(tmp_path / "dfa").curve
    for point in ("coarse.layers.0", "coarse.layers.1"):
        assert last["alignment"][point]["mean"] > first["alignment"][point]["mean"] + 0.1
    assert found["shallow"].alignment is None


@pytest.mark.parametrize("rule", ["bp", "dfa", "shallow", "ifa", "dkp"])
@pytest.mark.parametrize("config", [TINY, BOTH], ids=["one field", "two fields"])
def test_every_rule_that_broadcasts_trains_both_fields(rule, config, tmp_path, scene):
    run = training(replace(config, rule=rule, alignment=20), tmp_path, scene)
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    run.fit(Stop(), 1e9)
    run.release()
    changed = {name for name, value in run.network.named_parameters() if not torch.equal(value, before[name])}
    trained = {name for name in changed if "layers" in name}
    assert bool(trained) == (rule != "shallow")
    heads = {"head"} if config is TINY else {"density", "colour"}
    assert all(f"{field}.{head}.weight" in changed for field in run.network.fields for head in heads)
    if rule not in ("bp", "shallow"):
        assert {point.split(".")[0] for point in run.last["alignment"]} == set(run.network.fields)


def test_skipping_asks_less_and_learns_as_much(tmp_path, scene):
    config = replace(TINY, iterations=120, every=40, rays=256, rendering=RenderingConfig(24, 0, chunk=6_144), rule="bp")
    asked, reached = {}, {}
    for name, changed in {"all": config, "skipping": replace(config, grid=24, skip_after=40)}.items():
        run = training(changed, tmp_path / name, scene)
        places = []
        run.network.coarse.register_forward_hook(
            lambda module, inputs, output, places=places: places.append(inputs[0][..., 0].numel() * module.training)
        )
        (tmp_path / name).mkdir()
        run.fit(Stop(), 1e9)
        asked[name], reached[name] = sum(places), run.last["validation_psnr"]
    shares = [line.get("occupied_share") for line in run.curve]
    assert shares[:2] == [None, None]
    assert all(0 < share < 0.7 for share in shares[2:])
    assert asked["skipping"] < 0.9 * asked["all"]
    assert reached["skipping"] > reached["all"] - 1
    assert reached["skipping"] > run.curve[0]["validation_psnr"] + 3


def test_where_a_field_has_no_density_at_all_everything_is_asked_about(tmp_path, scene):
    run = training(replace(TINY, grid=4, skip_after=0), tmp_path, scene)
    run.network.coarse.head.weight.data[3].zero_()
    run.network.coarse.head.bias.data[3] = -1.0
    run.find_empty_space()
    assert run.network.occupancy is None


def test_a_field_that_has_become_empty_is_no_silent_end_of_learning(tmp_path, scene):
    config = replace(BOTH, rendering=replace(BOTH.rendering, noise=0.0))
    run = training(config, tmp_path, scene)
    run.evaluate()
    run.network.coarse.density.weight.data.zero_()
    run.network.coarse.density.bias.data.fill_(-1.0)
    with pytest.raises(DivergedError, match="Expected the coarse field to have some density, found none along 100 r"):
        run.evaluate()
    loss = next(run.batches())
    loss.backward()
    assert not any(value.grad is not None and value.grad.any() for value in run.network.coarse.parameters())
    run.config = BOTH  # noise brings it back
    run.network.rendering = BOTH.rendering
    said = []
    run.progress.message = said.append
    run.evaluate()
    assert said == [f"The coarse field is empty at {run.position}. Noise alone may bring it back."] * 2
    next(run.batches()).backward()
    assert run.network.coarse.density.bias.grad.any()


@pytest.mark.parametrize("changed", [{"skip_after": 5}, {"skip_after": -1, "grid": 8}])
def test_skipping_needs_a_grid(changed):
    with pytest.raises(ValueError, match="at least 0 after which empty space is skipped, and a grid of it, found skip"):
        replace(TINY, **changed)


def test_each_field_has_its_own_feedback(tmp_path, scene):
    run = training(BOTH, tmp_path, scene)
    next(run.batches()).backward()
    coarse, fine = (run.handles[name].planners[0].matrices()[0] for name in ("coarse", "fine"))
    assert coarse.shape == fine.shape
    assert not torch.allclose(coarse, fine)
    other = training(BOTH, tmp_path, scene)
    next(other.batches()).backward()
    assert torch.equal(other.handles["fine"].planners[0].matrices()[0], fine)


def test_the_step_of_dfa_is_that_of_the_projected_error(tmp_path, scene):
    """The renderer is differentiated exactly: the error of a field is the gradient at its raw output."""
    run = training(TINY, tmp_path, scene)
    rays, colours = run.rays(scene.train, run.order_of_rays(0))
    field, seen = run.network.coarse, []
    field.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    run.network.eval()
    loss = (run.network(rays).fine.colour - colours).square().mean()
    loss.backward()
    positions, _ = seen[0]
    gradient = field.layers[1].weight.grad.clone()
    run.release()
    raw = field(positions.detach(), rays.viewing).detach().requires_grad_()
    even = torch.linspace(scene.near, scene.far, 12).expand(64, 12)
    again = (run.network.pixels(raw, rays, even).colour - colours).square().mean()
    error = torch.autograd.grad(again, raw)[0]
    below = field.layers[0](_encoded(positions)).reshape(-1, 32)
    active = field.layers[1](below) > 0
    signal = error.reshape(-1, 4) @ run.handle.planners[0].matrices()[1].float() * active
    torch.testing.assert_close(gradient, signal.T @ below, atol=1e-7, rtol=1e-4)


def _encoded(positions):
    from feedalign.experiments.models.encoding import encode

    return encode(positions, 4)


def test_record_and_curve_hold_what_was_run(tmp_path, scene):
    record = NERF.run(replace(TINY, alignment=30), tmp_path)
    run = records.load(tmp_path)
    assert (record.experiment, record.name, record.rule) == ("nerf", "tiny", "dfa")
    assert record.data == {"name": "traced", "train": 24, "validation": 2, "test": 2, "height": 32, "width": 32}
    assert record.parameters == 27 * 32 + 32 + 32 * 32 + 32 + 32 * 4 + 4
    assert [(line["epoch"], line["step"]) for line in run.curve] == [(0, 0), (1, 10), (2, 20)]
    assert run.curve[-1]["train_loss"] < run.curve[0]["train_loss"]
    assert set(record.metrics["test"]["views"]) == set(scene.test.names)
    views = record.metrics["test"]["views"].values()
    assert record.metrics["test"]["psnr"] == pytest.approx(sum(view["psnr"] for view in views) / 2)
    assert undescribed(record.config) == replace(TINY, alignment=30)
    cosine = record.alignment["coarse.layers.0"]
    assert cosine["n"] + cosine["zero_error"] + cosine["undefined"] == 30 * 12
    assert not (tmp_path / CHECKPOINT).exists()


def test_nothing_is_rendered_where_no_view_is_to_be_tested(tmp_path):
    record = NERF.run(replace(TINY, tested=0), tmp_path)
    assert set(record.metrics) == {"final", "best"}
    assert not list(tmp_path.glob("*.png"))


class Stopping(Silent):
    """Asks a run to stop after some steps."""

    def __init__(self, after):
        self.stop, self.left = Stop(), after

    def step(self, epoch, step, loss):
        self.left -= 1
        self.stop.requested = self.left <= 0


@pytest.mark.parametrize("after", [4, 10, 17])
@pytest.mark.parametrize("config", [BOTH, SKIPPING], ids=["everywhere", "skipping"])
def test_a_stopped_run_goes_on_to_the_same_bits(after, config, tmp_path, scene):
    whole = training(config, tmp_path / "whole", scene)
    (tmp_path / "whole").mkdir()
    whole.fit(Stop(), 1e9)
    (tmp_path / "parts").mkdir()
    story = Stopping(after)
    first = training(config, tmp_path / "parts", scene, story)
    with pytest.raises(Interrupted, match="Nothing is lost"):
        first.fit(story.stop, 1e9)
    second = training(config, tmp_path / "parts", scene)
    second.restore()
    second.fit(Stop(), 1e9)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[name], value), name
    same = [{key: value for key, value in line.items() if key != "seconds"} for line in whole.curve]
    assert [{key: value for key, value in line.items() if key != "seconds"} for line in second.curve] == same


def test_rays_are_seen_once_in_each_turn_and_follow_from_the_iteration_alone():
    order = Shuffled(10, 3, seed=0)
    first = torch.cat([order(i) for i in range(3)])
    assert len(set(first.tolist())) == 9
    second = torch.cat([order(i) for i in range(3, 6)])
    assert first.tolist() != second.tolist()
    assert torch.equal(Shuffled(10, 3, seed=0)(4), order(4))
    assert not torch.equal(torch.cat([Shuffled(10, 3, seed=1)(i) for i in range(3)]), first)
    assert sorted(Shuffled(2, 5, seed=0)(7).tolist()) == [0, 1]


def test_batches_are_rays_of_all_training_views_with_their_colours(tmp_path, scene):
    run = training(TINY, tmp_path, scene)
    pixels = run.order_of_rays(0)
    rays, colours = run.rays(scene.train, pixels)
    every, truth = all_rays(scene.train, scene)
    for few, all_of_them in zip(rays, every, strict=True):
        torch.testing.assert_close(few, all_of_them[pixels])
    assert torch.equal(colours, truth[pixels])
    assert len(set((pixels // 32**2).tolist())) > 12  # of 24 views


def test_the_learning_rate_falls_to_a_tenth():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.Adam([weight], 1.0)
    schedule = falling(optimiser, 50)
    rates = []
    for _ in range(101):
        rates.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    assert rates[50] == pytest.approx(0.1)
    assert rates[100] == pytest.approx(0.01)
    assert rates[25] == pytest.approx(0.1**0.5)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("drtp", "nobody knows the colour and the density that a sample on a ray should have"),
        ("fa", "goes from layer to layer and does not know those of a radiance field"),
    ],
)
def test_rules_that_cannot_train_a_field_are_refused_before_anything_runs(rule, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        NERF.sweep([replace(TINY, rule=rule)], tmp_path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"iterations": 25}, "iterations that are a multiple of those between two lines of the curve, found 25 and 10"),
        ({"rays": 0}, "at least one ray in a step"),
        ({"rule": "dfb"}, "There is no rule 'dfb'"),
    ],
)
def test_impossible_settings_are_refused(changed, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **changed)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_built_and_kept(name):
    config = preset(name, "dfa", seed=3)
    assert undescribed(json.loads(json.dumps(records.describe(config)))) == config
    handles = config.attach(config.build(2.0, 6.0, white=True))
    assert list(handles) == (["coarse", "fine"] if config.rendering.fine else ["coarse"])
    assert all(isinstance(handle.rule, fa.DFA) for handle in handles.values())


def test_published_settings_are_those_of_the_code():
    lego, fern = preset("lego-published"), preset("fern-published")
    assert [lego.model.width, lego.model.depth, lego.model.skip] == [128, 4, None]
    assert (lego.optimiser.learning_rate, lego.decay, lego.iterations, lego.rays) == (1e-4, 500_000, 500_000, 1_024)
    assert (fern.optimiser.learning_rate, fern.decay, fern.iterations, fern.rays) == (5e-4, 250_000, 200_000, 4_096)
    assert (fern.rendering.noise, lego.rendering.noise, fern.data.shrink) == (1.0, 0.0, 4)
    assert preset("lego-wide").model.width == 512
    assert preset("fern-wide").model.width == 425
    assert preset("lego-paper").model == FieldConfig(256, 8, skip=5)


def test_a_trained_scene_comes_back_from_its_folder(tmp_path, scene):
    record = NERF.run(replace(BOTH, rule="dkp"), tmp_path, keep_checkpoint=True)
    config, _, model = restored(tmp_path)
    assert config.rule == "dkp"
    from feedalign.experiments.nerf.views import score

    assert score(model, scene, scene.test)["psnr"] == pytest.approx(record.metrics["test"]["psnr"], abs=1e-4)
    (tmp_path / CHECKPOINT).unlink()
    with pytest.raises(RecordError, match="Expected the weights of the run in"):
        restored(tmp_path)


def test_a_configuration_of_another_version_is_refused():
    with pytest.raises(RecordError, match="Expected a configuration of this version, found FieldConfig with colours"):
        undescribed({"type": "FieldConfig", "width": 16, "colours": 4})
    with pytest.raises(RecordError, match="found 'Nothing'"):
        undescribed({"type": "Nothing"})
