"""Whole runs of language models: what is learned, what is recorded, and how a stopped run goes on."""

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import log_softmax

from feedalign.experiments import records
from feedalign.experiments.checkpoint import CHECKPOINT
from feedalign.experiments.data.texts import TextConfig, load_text
from feedalign.experiments.data.token_stream import TOKENIZER
from feedalign.experiments.errors import DataError, Interrupted
from feedalign.experiments.lm import LM, Config
from feedalign.experiments.lm.training import LmTraining, perplexity
from feedalign.experiments.models.transformer import TransformerConfig
from feedalign.experiments.optimisation import AdamConfig, PaceConfig
from feedalign.experiments.progress import Silent

WORDS = (" the cat sat on the mat", " a dog lay by the door", " the hat was on the cat", " no dog sat on a hat")
MODEL = TransformerConfig(width=16, blocks=2, heads=2, hidden=32, context=8, dropout=0.0)
TINY = Config(
    name="tiny",
    data=TextConfig("text", 300),
    model=MODEL,
    optimiser=AdamConfig("adam", 1e-2, beta2=0.999, epsilon=1e-8, clip=None),
    schedule=PaceConfig("constant"),
    epochs=2,
    every=10,
    batch=4,
    alignment=2,
    device="cpu",
)


def text(lines, first=0):
    """Lines that a small model can learn: which one comes next is decided by the one before."""
    return "".join(WORDS[(first + number) % 4] + "\n" for number in range(lines))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "text").mkdir()
    for part, lines in (("train", 120), ("validation", 24), ("test", 13)):
        (folder / "text" / f"{part}.txt").write_text(text(lines, lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def data(root):
    return load_text(TINY.data, root, cache=root / "cache")


def run(config, folder, data, **options):
    return LM.run(config, folder, read=lambda _: data, **options)


def training(config, folder, data):
    folder.mkdir(exist_ok=True)
    return LmTraining(config, data, folder, Silent())


def weights(folder, part="model"):
    return torch.load(folder / CHECKPOINT, weights_only=True)["parts"][part]


RULES = [
    ("bp", "macro", "hidden"),
    ("shallow", "macro", "hidden"),
    ("dfa", "macro", "hidden"),
    ("dfa", "macro", "logits"),
    ("dfa", "micro", "hidden"),
    ("dfa", "micro", "logits"),
    ("drtp", "macro", "logits"),
    ("dkp", "macro", "hidden"),
    ("dkp", "micro", "logits"),
    ("grape", "macro", "hidden"),
    ("fa", "macro", "hidden"),
]


@pytest.mark.parametrize(("rule", "points", "error"), RULES)
def test_every_rule_learns_at_every_placement(rule, points, error, tmp_path, data):
    record = run(replace(TINY, rule=rule, points=points, error=error), tmp_path, data)
    first, *_, last = records.load(tmp_path).curve
    assert last["train_loss"] < first["train_loss"] - 0.2
    assert (record.alignment is not None) == (rule not in ("bp", "shallow"))
    if rule in ("dfa", "dkp"):
        assert len(record.alignment) == (2 if points == "macro" else 6)


def test_backprop_learns_what_dfa_learns_slower_and_shallow_cannot(tmp_path, data):
    found = {
        rule: run(replace(TINY, rule=rule, epochs=6), tmp_path / rule, data).metrics["best"]["test_perplexity"]
        for rule in ("bp", "dfa", "shallow")
    }
    assert found["bp"] < found["dfa"] < found["shallow"]
    assert found["bp"] < 3  # of a text in which every token but few is decided by those before


def test_record_says_what_was_run(tmp_path, data):
    record = run(TINY, tmp_path, data)
    loaded = records.load(tmp_path)
    assert (record.experiment, record.name, record.rule) == ("lm", "tiny", "dfa")
    assert record.data == {"name": "text", **data.counts}
    assert record.config["points"] == "macro"
    assert [line["epoch"] for line in loaded.curve] == [0, 1, 2]
    assert [line["step"] for line in loaded.curve] == [0, 10, 20]
    best = record.metrics["best"]
    assert best["validation_perplexity"] == pytest.approx(math.exp(best["validation_loss"]))
    assert best["validation_likelihood"] == pytest.approx(1 / best["validation_perplexity"])
    assert record.metrics["speed"]["tokens_per_second"] > 0
    assert (tmp_path / TOKENIZER).read_text(encoding="utf-8") == data.encoding
    assert sum(path.stat().st_size for path in tmp_path.iterdir() if path.name != TOKENIZER) < 6_000


def test_perplexities_are_those_of_a_plain_sum(tmp_path, data):
    """Counted token by token, each from nothing but those before it in its chunk of eight."""
    started = training(TINY, tmp_path, data)
    figures = started.foretold("test", data.test)
    tokens, total = data.test.tokens.tolist(), 0.0
    model = started.network.eval()
    for place in range(1, len(tokens)):
        begin = (place - 1) // 8 * 8
        with torch.no_grad():
            scores = model(torch.tensor(tokens[begin:place])[None])[0, -1]
        total -= log_softmax(scores, 0)[tokens[place]].item()
    assert figures["test_loss"] == pytest.approx(total / (len(tokens) - 1), rel=1e-5)
    assert figures["test_word_perplexity"] == pytest.approx(math.exp(total / (13 * 7)), rel=1e-4)


def test_model_that_knows_nothing_has_the_vocabulary_for_its_perplexity(tmp_path, data):
    started = training(TINY, tmp_path, data)
    for parameter in started.network.head.parameters():
        torch.nn.init.zeros_(parameter)
    assert started.foretold("test", data.test)["test_perplexity"] == pytest.approx(data.vocabulary, rel=1e-5)


def test_perplexity_of_a_loss_beyond_numbers_is_infinite():
    assert perplexity(1e6) == math.inf


def test_held_out_text_does_not_reach_the_weights(tmp_path, data):
    other = replace(data, test=data.train)
    one, two = (run(TINY, tmp_path / str(i), found, keep_checkpoint=True) for i, found in enumerate((data, other)))
    first, second = weights(tmp_path / "0"), weights(tmp_path / "1")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert one.metrics["best"]["validation_loss"] == two.metrics["best"]["validation_loss"]
    assert one.metrics["best"]["test_loss"] != two.metrics["best"]["test_loss"]


def test_test_figures_are_of_the_weights_with_the_best_validation(tmp_path, data):
    """At this rate a model spoils what it has learned: the best evaluation is not the last."""
    config = replace(TINY, rule="bp", epochs=8, every=4, optimiser=replace(TINY.optimiser, learning_rate=0.3))
    record = run(config, tmp_path, data, keep_checkpoint=True)
    best, final = record.metrics["best"], record.metrics["final"]
    assert 0 < best["epoch"] < 8  # or this shows nothing
    started = training(config, tmp_path / "again", data)
    started.network.load_state_dict(weights(tmp_path, "best"))
    again = {**started.foretold("validation", data.validation), **started.foretold("test", data.test)}
    assert {name: best[name] for name in again} == pytest.approx(again)
    started.network.load_state_dict(weights(tmp_path))
    assert final["test_loss"] == pytest.approx(started.foretold("test", data.test)["test_loss"])


class Stop(Silent):
    """Asks to stop after so many steps."""

    def __init__(self, step):
        self.left = step

    def step(self, epoch, step, loss):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


RESUMED = {
    "dropout": {"model": replace(MODEL, dropout=0.2)},
    "streams": {"order": "streams", "accumulate": 2},
    "schedule": {"schedule": PaceConfig("plateau", patience=0), "rule": "bp"},
    "one cycle": {"schedule": PaceConfig("one-cycle")},
    "learned": {"rule": "dkp", "points": "micro"},
}


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("step", [3, 10, 14])
@pytest.mark.usefixtures("interruptible")
def test_stopped_run_ends_with_the_same_bits(name, step, tmp_path, data):
    config = replace(TINY, epochs=3, every=6, **RESUMED[name])
    whole = run(config, tmp_path / "whole", data, keep_checkpoint=True)
    with pytest.raises(Interrupted, match="Nothing is lost"):
        run(config, tmp_path / "stopped", data, progress=Stop(step))
    resumed = run(config, tmp_path / "stopped", data, keep_checkpoint=True)
    assert {**resumed.metrics, "speed": 0} == {**whole.metrics, "speed": 0}
    for part in ("model", "best"):
        one, two = weights(tmp_path / "whole", part), weights(tmp_path / "stopped", part)
        assert all(torch.equal(one[key], two[key]) for key in one)
    curves = [
        [{**line, "seconds": 0, "tokens_per_second": 0} for line in records.load(tmp_path / folder).curve]
        for folder in ("whole", "stopped")
    ]
    assert curves[0] == curves[1]


def gradient(network):
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@pytest.mark.parametrize("rule", ["bp", "dfa"])
def test_parts_of_a_batch_add_up_to_it(rule, tmp_path, data):
    found = []
    for parts in (1, 4):
        started = training(replace(TINY, rule=rule, batch=8, accumulate=parts), tmp_path, data)
        loss = next(started.batches())
        started.backward(loss)
        found.append((loss.item(), gradient(started.network)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1])
    assert found[0][1].norm() > 0


def test_gradients_are_clipped_together(tmp_path, data):
    lengths = []
    for clip in (None, 1e-3):
        started = training(replace(TINY, optimiser=replace(TINY.optimiser, clip=clip)), tmp_path, data)
        started.backward(next(started.batches()))
        lengths.append(gradient(started.network).norm().item())
    assert lengths[0] > 0.1
    assert lengths[1] == pytest.approx(1e-3, rel=1e-2)


def test_pass_over_the_text_is_an_epoch_where_no_steps_are_given(tmp_path, data):
    started = training(replace(TINY, every=None), tmp_path, data)
    assert started.steps == data.train.chunks(8) // 4


def test_rate_falls_where_the_validation_loss_does_not(tmp_path, data):
    config = replace(
        TINY,
        rule="bp",
        epochs=4,
        every=4,
        optimiser=replace(TINY.optimiser, learning_rate=3.0),
        schedule=PaceConfig("plateau", factor=0.5, patience=0),
    )
    run(config, tmp_path, data)
    rates = [line["learning_rate"] for line in records.load(tmp_path).curve]
    assert rates[0] == 3.0
    assert rates[-1] < 3.0


def test_blocks_may_learn_at_rates_of_their_own(tmp_path, data):
    started = training(replace(TINY, block_rate=0.5), tmp_path, data)
    rates = {id(parameter): group["lr"] for group in started.optimiser.param_groups for parameter in group["params"]}
    by_name = {name: rates[id(parameter)] for name, parameter in started.network.named_parameters()}
    assert by_name["head.weight"] == by_name["blocks.1.norm1.weight"] == pytest.approx(0.01)
    assert by_name["blocks.0.norm1.weight"] == pytest.approx(0.005)
    assert by_name["embedding.tokens.weight"] == pytest.approx(0.0025)


HALF = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from feedalign.experiments.data.texts import load_text
from feedalign.experiments.lm import LM
from feedalign.experiments import records
sys.path.insert(0, sys.argv[3])
from test_lm_training import TINY
torch.set_num_threads(1)
root, folder = Path(sys.argv[1]), Path(sys.argv[2])
data = load_text(TINY.data, root, cache=root / "cache")
LM.run(replace(TINY, precision="bf16"), folder, read=lambda _: data)
"""


def test_half_precision_trains(tmp_path, root, data):
    """In a process of its own: a process has one precision."""
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", HALF, str(root), str(tmp_path), here], check=True, timeout=250)
    loaded = records.load(tmp_path)
    first, *_, last = loaded.curve
    assert last["train_loss"] < first["train_loss"] - 0.2
    assert loaded.record.config["precision"] == "bf16"
    assert run(TINY, tmp_path / "whole", data).metrics["best"]["test_loss"] == pytest.approx(
        loaded.record.metrics["best"]["test_loss"], rel=0.05
    )


@pytest.mark.parametrize("attention", ["dense", "random"])
def test_other_attention_trains(attention, tmp_path, data):
    run(replace(TINY, model=replace(MODEL, attention=attention, norm="pre", tied=True)), tmp_path, data)
    first, *_, last = records.load(tmp_path).curve
    assert last["train_loss"] < first["train_loss"]


def test_text_shorter_than_a_chunk_is_found_out_before_anything_is_run(tmp_path, root):
    config = replace(TINY, data=replace(TINY.data, limit=1), model=replace(MODEL, context=64))
    with pytest.raises(
        DataError, match="Expected more than 64 tokens, a chunk and one to be foretold, in the train text"
    ):
        LM.sweep([replace(TINY, name="first"), config], tmp_path, root=root)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": -1}, "Expected epochs of at least 0"),
        ({"every": 0}, "of at least 1 step each, found 2 of 0"),
        ({"accumulate": 3}, "Expected a batch that 3 parts can share evenly, found 4 chunks"),
        ({"block_rate": 0.0}, "Expected a block rate above 0"),
        ({"rule": "drtp"}, "Expected the error at the logits for drtp.*Set error to logits"),
        ({"rule": "dfq"}, "There is no rule 'dfq'"),
    ],
)
def test_settings_that_cannot_be_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changed)


@pytest.mark.slow
@pytest.mark.parametrize("row", ["noam", "adam", "beta2", "plateau", "radam", "one-cycle"])
def test_published_model_runs_a_step_and_an_evaluation(row, tmp_path, data_root, monkeypatch):
    """Of the published size, on the beginning of its text; evaluated on a little of it, and once in a whole batch."""
    from feedalign.experiments.lm import preset

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = replace(preset(f"wikitext-103-paper-{row}"), epochs=1, every=1, alignment=1, device="cpu")
    assert (config.batch, config.model.context) == (64, 128)
    config = replace(config, accumulate=8) if row == "noam" else replace(config, batch=4)
    whole = load_text(config.data, data_root)
    cut = {
        part: replace(stream, tokens=stream.tokens[:2_000])
        for part, stream in (("validation", whole.validation), ("test", whole.test))
    }
    record = run(config, tmp_path / "run", replace(whole, **cut))
    assert record.parameters == 2 * 32_000 * 512 + 32_000 + 6 * (4 * 512 * 513 + 512 * 2048 * 2 + 2048 + 512 + 4 * 512)
    assert len(record.alignment) == 6
    # A step hardly changes what it starts from: about as many choices as there are tokens.
    assert 5_000 < record.metrics["final"]["validation_perplexity"] < 200_000
