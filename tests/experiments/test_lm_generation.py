"""Text sampled from a trained model: what it goes on with, what decides it, and what is said of wrong folders."""

import shutil
from dataclasses import replace

import pytest
import torch

from feedalign.experiments.checkpoint import CHECKPOINT
from feedalign.experiments.data import bpe
from feedalign.experiments.data.texts import TextConfig, load_text
from feedalign.experiments.data.token_stream import TOKENIZER
from feedalign.experiments.errors import CheckpointError, DataError, ExperimentError
from feedalign.experiments.lm import LM, Config
from feedalign.experiments.lm.generation import generate, restored
from feedalign.experiments.models.transformer import TransformerConfig
from feedalign.experiments.optimisation import AdamConfig, PaceConfig

LINE = " one two three four five"
CONFIG = Config(
    name="counting",
    data=TextConfig("text", 300),
    model=TransformerConfig(width=16, blocks=1, heads=2, hidden=32, context=12, dropout=0.0),
    rule="bp",
    optimiser=AdamConfig("adam", 2e-2, beta2=0.999, epsilon=1e-8, clip=None),
    schedule=PaceConfig("constant"),
    epochs=1,
    every=80,
    batch=4,
    alignment=0,
    device="cpu",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that has learned to count to five."""
    root = tmp_path_factory.mktemp("counting")
    (root / "text").mkdir()
    for part, lines in (("train", 100), ("validation", 10), ("test", 10)):
        (root / "text" / f"{part}.txt").write_text(f"{LINE}\n" * lines, encoding="utf-8")
    LM.run(
        CONFIG,
        root / "run",
        read=lambda config: load_text(config, root, cache=root / "cache"),
        keep_checkpoint=True,
    )
    return root / "run"


@pytest.fixture(scope="module")
def trained(folder):
    return restored(folder)


def test_model_goes_on_as_it_has_learned(trained):
    assert generate(trained, " one two", tokens=9, temperature=0) == f"{LINE}\n{LINE}"


def test_no_prompt_begins_a_line(trained):
    assert generate(trained, "", tokens=6, temperature=0) == LINE + "\n"


def test_prompt_with_lines_ends_them(trained):
    assert generate(trained, f"{LINE}\n{LINE}\n", tokens=5, temperature=0) == f"{LINE}\n{LINE}\n{LINE}"


def test_no_tokens_are_the_prompt_itself(trained):
    assert generate(trained, " six é", tokens=0) == " six é"


def test_prompt_longer_than_the_context_is_cut(trained):
    assert generate(trained, f"{LINE}\n" * 20, tokens=5, temperature=0).endswith(f"\n{LINE}")


def test_seed_decides_what_is_sampled(trained):
    hot = {"tokens": 30, "temperature": 3.0}
    torch.manual_seed(1)
    first = generate(trained, " one", seed=3, **hot)
    torch.manual_seed(2)
    assert generate(trained, " one", seed=3, **hot) == first
    assert generate(trained, " one", seed=4, **hot) != first


def test_one_token_to_choose_from_is_the_likeliest(trained):
    greedy = generate(trained, " one", tokens=20, temperature=0)
    assert generate(trained, " one", tokens=20, temperature=5.0, top_k=1) == greedy


def test_top_k_keeps_out_the_others(trained):
    """With uniform scores every token is likely; of three that may be chosen no fourth is."""
    flat = restored_with_flat_scores(trained)
    texts = {generate(flat, "", tokens=1, temperature=1.0, top_k=3, seed=seed) for seed in range(60)}
    assert len(texts) == 3
    free = {generate(flat, "", tokens=1, temperature=1.0, seed=seed) for seed in range(60)}
    assert len(free) > 20


def restored_with_flat_scores(trained):
    import copy

    model = copy.deepcopy(trained.model)
    for parameter in model.head.parameters():
        torch.nn.init.zeros_(parameter)
    return trained._replace(model=model)


def test_tokens_come_as_often_as_they_are_likely(trained):
    tokenizer, flat = trained.tokenizer, restored_with_flat_scores(trained)
    a, b = tokenizer.encode("a").ids[0], tokenizer.encode("b").ids[0]
    with torch.no_grad():
        flat.model.head.bias.fill_(-1e9)
        flat.model.head.bias[a], flat.model.head.bias[b] = 0.0, torch.log(torch.tensor(3.0))
    drawn = generate(flat, "", tokens=800, seed=0)
    assert set(drawn) == {"a", "b"}
    assert drawn.count("b") == pytest.approx(600, abs=5 * (800 * 0.75 * 0.25) ** 0.5)
    cold = generate(flat, "", tokens=800, temperature=0.5, seed=0)  # 1 to 9
    assert cold.count("b") == pytest.approx(720, abs=5 * (800 * 0.9 * 0.1) ** 0.5)


def test_weights_are_those_of_the_best_evaluation(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    file = tmp_path / "run" / CHECKPOINT
    found = torch.load(file, weights_only=True)
    found["parts"]["model"] = {name: torch.zeros_like(value) for name, value in found["parts"]["model"].items()}
    torch.save(found, file)
    assert generate(restored(tmp_path / "run"), "", tokens=6, temperature=0) == LINE + "\n"


@pytest.mark.parametrize(
    "options", [{"tokens": -1}, {"temperature": -0.1}, {"temperature": float("nan")}, {"top_k": 0}]
)
def test_numbers_out_of_range_are_refused(trained, options):
    with pytest.raises(ExperimentError, match="Expected at least 0 tokens, a temperature of at least 0 and top-k of"):
        generate(trained, "", **options)


def test_folder_without_weights_says_how_to_keep_them(tmp_path):
    with pytest.raises(CheckpointError, match=r"Expected the weights of a run at .*Train with --keep"):
        restored(tmp_path)


def test_weights_of_something_else_are_refused(folder, tmp_path):
    found = torch.load(folder / CHECKPOINT, weights_only=True)
    found["parts"] = {"model": {"layer.weight": torch.zeros(2, 2)}}
    torch.save(found, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointError, match=r"Expected the weights of a language model in .*, found none"):
        restored(tmp_path)


def test_damaged_weights_are_refused(folder, tmp_path):
    (tmp_path / CHECKPOINT).write_bytes((folder / CHECKPOINT).read_bytes()[:1_000])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        restored(tmp_path)


def test_tokenizer_of_another_vocabulary_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / TOKENIZER).write_text(bpe.learn([LINE] * 3, 259).to_str(), encoding="utf-8")
    with pytest.raises(DataError, match=r"Expected a tokenizer of \d+ tokens at .*, found one of 259: it belongs to"):
        restored(tmp_path / "run")


def test_missing_tokenizer_is_said_so(folder, tmp_path):
    shutil.copy(folder / CHECKPOINT, tmp_path / CHECKPOINT)
    with pytest.raises(DataError, match=r"Expected a tokenizer at .*, found none"):
        restored(tmp_path)


def test_run_with_learned_feedback_can_be_sampled_from(folder, tmp_path):
    root = folder.parent
    LM.run(
        replace(CONFIG, rule="dkp", every=5),
        tmp_path,
        read=lambda config: load_text(config, root, cache=root / "cache"),
        keep_checkpoint=True,
    )
    assert generate(restored(tmp_path), "", tokens=3)
