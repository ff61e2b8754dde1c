"""``feedalign train lm``, ``feedalign tune lm`` and ``feedalign generate``."""

from pathlib import Path

import pytest

from feedalign.experiments.records import load_all, read_json

WORDS = (" the cat sat on the mat", " a dog lay by the door", " the hat was on the cat", " no dog sat on a hat")
TINY = ("--data", "text", "--vocabulary", "300", "--epochs", "1", "--every", "4", "--threads", "1")
ENDING = "_data-text_vocabulary-300_epochs-1_every-4"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("texts")
    (root / "text").mkdir()
    for part, lines in (("train", 200), ("validation", 30), ("test", 30)):
        text = "".join(WORDS[number % 4] + "\n" for number in range(lines))
        (root / "text" / f"{part}.txt").write_text(text, encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def cache(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(texts / "cache"))


def names(folder: Path) -> set[str]:
    return {f"{run.record.name}/{run.record.rule}-{run.record.seed}" for run in load_all(folder)}


def test_rules_placements_and_taps_stand_in_one_table_and_a_text_goes_on(command, texts: Path, tmp_path: Path) -> None:
    words = ("train", "lm", *TINY, "--data-root", texts, "--output", tmp_path, "--keep")
    said = command(*words, "--points", "macro", "micro", "--error", "hidden", "logits")
    assert said.code == 0, said.err
    dfa = {
        f"python-small-{points}-{error}{ENDING}/dfa-0"
        for points in ("macro", "micro")
        for error in ("hidden", "logits")
    }
    assert names(tmp_path) == {f"python-small{ENDING}/bp-0", f"python-small{ENDING}/shallow-0", *dfa}
    assert said.out.count(f"python-small{ENDING}: perplexity") == 1
    assert [" ".join(row[:3]) for row in said.rows] == [
        "backprop 1 " + said.rows[0][2],
        "DFA macro, before",
        "DFA macro, at",
        "DFA micro, before",
        "DFA micro, at",
        "shallow 1 " + said.rows[-1][2],
    ]
    assert "validation perplexity" in said.err
    assert "tokens/s" in said.err
    report = (tmp_path / "report.html").read_text()
    assert "Language models" in report
    assert "which layers align with backpropagation, and when" in report

    again = command(*words, "--points", "macro")
    assert again.code == 0
    assert "holds this run already, finished" in again.err

    folder = tmp_path / f"python-small{ENDING}" / "bp-seed0"
    sample = command("generate", folder, "--prompt", " the cat", "--tokens", "5", "--temperature", "0")
    assert sample.code == 0
    assert sample.out.startswith(" the cat")
    assert len(sample.out) > len(" the cat\n")
    same = [command("generate", folder, "--tokens", "20", "--seed", seed).out for seed in ("1", "1", "2")]
    assert same[0] == same[1] != same[2]


def test_tuning_tries_the_settings_of_the_preset_first(command, texts: Path, tmp_path: Path, monkeypatch) -> None:
    from dataclasses import replace

    from feedalign.experiments.lm import presets

    row = presets.PRESETS["python-small"]
    tiny = replace(row.config, data=replace(row.config.data, name="text", vocabulary=300))
    for name in ("python-small", "python-small-tuned"):
        monkeypatch.setitem(presets.PRESETS, name, replace(row, config=tiny))
    shared = ("--threads", "1", "--data-root", texts, "--output", tmp_path)
    kept = tmp_path / "kept.json"
    said = command("tune", "lm", "--trials", "2", "--steps", "3", "--keep", kept, *shared)
    assert said.code == 0, said.err
    summary = read_json(tmp_path / "python-small-tuned" / "tuning.json")
    for rule in ("bp", "dfa"):
        first, second = summary["trials"][rule]
        assert first["settings"]["optimiser.learning_rate"] == 2e-3
        assert first["settings"] != second["settings"]
        assert 0 < first["validation_likelihood"] < 1
    assert "feedback.gain" not in summary["trials"]["bp"][0]["settings"]
    assert summary["trials"]["dfa"][0]["settings"]["error"] == "hidden"
    assert "settings chosen by validation perplexity" in said.out

    train = ("train", "lm", "--preset", "python-small-tuned", "--epochs", "1", "--every", "2", *shared)
    assert "it was not tuned. Do tune it first: `feedalign tune lm" in command(*train, "--rule", "bp").message
    done = command(*train, "--rule", "bp", "dfa", "--tuned", tmp_path)
    assert done.code == 0, done.err
    found = {run.record.rule: run.record.config for run in load_all(tmp_path)}
    for rule, config in found.items():
        chosen = summary["chosen"][rule]
        assert config["optimiser"]["learning_rate"] == chosen["optimiser.learning_rate"]
        assert config["model"]["norm"] == chosen["model.norm"]
    assert found["dfa"]["error"] == summary["chosen"]["dfa"]["error"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train", "lm", "--preset", "wikitext-2-smal"), "There is no preset 'wikitext-2-smal'. Did you mean"),
        (("train", "lm", "--rule", "dfb"), "There is no rule 'dfb'. Did you mean 'dfa'?"),
        (("train", "lm", "--seeds", "0"), "Expected at least one seed"),
        (("train", "lm", "--threads", "0"), "Expected at least one thread, found 0."),
        (("train", "lm", "--rule", "drtp"), "Expected the error at the logits for drtp"),
        (("train", "lm", "--data", "wikitext3"), "There is no text 'wikitext3'"),
        (("train", "lm", "--vocabulary", "10"), "Expected a vocabulary of at least 258 tokens"),
        (("tune", "lm", "--trials", "0"), "Expected at least one trial and run, found 0 and 1."),
        (("tune", "lm", "--steps", "0"), "Expected at least one step, found 0."),
        (("generate", "nowhere"), "Expected the weights of a run at nowhere/checkpoint.pt, found no such file."),
    ],
)
def test_mistakes_end_in_two_and_a_sentence(command, words, expected: str, tmp_path: Path) -> None:
    output = () if words[0] == "generate" else ("--output", tmp_path)
    said = command(*words, *output)
    assert said.code == 2
    assert expected in said.message
