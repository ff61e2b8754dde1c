import gzip
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from feedalign.cli import main
from feedalign.cli.progress import Bars, Lines
from feedalign.cli.train import TrainVision, cpu_threads

MODEL = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10))

def tokens():
    return nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 50))

def number():
    return 3
"""


class Said:
    """The exit code and the two outputs of a command."""

    def __init__(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        capsys.readouterr()
        try:
            self.code = main(arguments)
        except SystemExit as stop:  # what the parser does on --help and on words it does not know
            self.code = int(stop.code or 0)
        self.out, self.err = capsys.readouterr()


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("FEEDALIGN_TRACEBACK", raising=False)
    return lambda *words: Said([str(word) for word in words], capsys)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    words = shlex.split(
        "train vision --epochs 1 --widths 16 --limit 200 --rule dfa bp --seeds 2 --device cpu --threads 1"
    )
    assert main([*words, "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    file = tmp_path / "model.py"
    file.write_text(MODEL, encoding="utf-8")
    return file


def one_line(said: Said) -> str:
    """Return the error, after asserting that it is a message and not a traceback."""
    assert "Traceback" not in said.err
    return " ".join(said.err.split())


# ---- help ---------------------------------------------------------------------------------------------------------


def test_help_teaches(command) -> None:
    said = command("--help")
    assert said.code == 0
    assert "Direct Feedback Alignment (DFA) sends it to every layer at once" in " ".join(said.out.split())
    for name in ("demo", "train", "report", "bench", "inspect", "data"):
        assert f"feedalign {name}" in said.out


@pytest.mark.parametrize(
    "words", [["demo"], ["train", "vision"], ["report"], ["bench", "step"], ["inspect"], ["data", "fetch"], ["table"]]
)
def test_every_command_has_an_example(command, words: list[str]) -> None:
    said = command(*words, "--help")
    assert said.code == 0
    assert f"Example: feedalign {' '.join(words)}" in said.out


def test_unknown_words_end_in_two(command) -> None:
    said = command("trian")
    assert said.code == 2
    assert "train" in said.out + said.err


# ---- train --------------------------------------------------------------------------------------------------------


def test_training_ends_with_table_report_and_next_steps(command, trained: Path) -> None:
    words = shlex.split(
        "train vision --epochs 1 --widths 16 --limit 200 --rule dfa bp --seeds 2 --device cpu --threads 1"
    )
    said = command(*words, "--output", trained)
    assert said.code == 0
    name = "digits-demo_limit-200_widths-16_epochs-1"
    assert [line.split()[1:4] for line in said.out.splitlines() if line.startswith("│ ")][:3] == [
        ["backprop", "│", "2"],
        ["DFA", "│", "2"],
        ["shallow", "│", "0"],
    ]
    assert said.err.count("holds this run already, finished") == 4
    report = trained / name / "report.html"
    assert f"Report: {report}" in said.out
    assert report.read_text(encoding="utf-8").startswith("<!doctype html>")
    (following,) = (line.strip() for line in said.out.splitlines() if line.strip().endswith("--rule shallow"))
    assert command(*following.split()[1:], "--device", "cpu").code == 0
    assert (trained / name / "shallow-seed0" / "record.json").exists()


def test_the_options_reach_the_run(trained: Path) -> None:
    file = trained / "digits-demo_limit-200_widths-16_epochs-1" / "dfa-seed1" / "record.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["seed"] == 1
    assert record["config"]["epochs"] == 1
    assert record["config"]["model"]["widths"] == [16]
    assert record["data"]["train"] == 200
    assert record["threads"] == 1


def test_the_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_an_option_with_the_presets_value_changes_nothing(command, tmp_path: Path) -> None:
    assert TrainVision(preset="launay-mnist", epochs=15, data="mnist").name == "launay-mnist"
    assert TrainVision(data="mnist", learning_rate=0.1).name == "launay-mnist_learning-rate-0.1"
    assert TrainVision(data="cifar10").preset_name == "cifar10-cnn"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rule dfaa", "There is no rule 'dfaa'. Did you mean 'dfa'?"),
        ("--data mnits", "There is no data set 'mnits'. Did you mean 'mnist'?"),
        ("--preset launy-mnist", "There is no preset 'launy-mnist'. Did you mean 'launay-mnist'?"),
        ("--rule dfa --points layers.relu7", "No module matches points="),
        ("--seeds 0", "Expected at least one rule and one seed, found 3 rules and 0 seeds."),
        ("--threads 0", "Expected at least one thread, found 0."),
        ("--learning-rate -1", "Expected a learning rate above 0, found -1.0."),
    ],
)
def test_mistakes_of_the_user_end_in_two(command, tmp_path: Path, words: str, message: str) -> None:
    said = command("train", "vision", *words.split(), "--output", tmp_path, "--device", "cpu")
    assert said.code == 2
    assert message in one_line(said)


def test_a_loss_that_is_no_number_ends_in_one(command, tmp_path: Path) -> None:
    words = shlex.split("train vision --rule bp --epochs 1 --limit 200 --learning-rate 1e38 --device cpu")
    said = command(*words, "--output", tmp_path)
    assert said.code == 1
    assert re.search(r"Expected a finite loss, found (nan|inf) at epoch 1 of 1, step \d+", one_line(said))
    assert "Try a learning rate a tenth as large" in one_line(said)


def test_an_unwritable_output_ends_in_two(command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    said = command("train", "vision", "--output", tmp_path / "file" / "runs")
    assert said.code == 2
    assert "Choose another output folder" in one_line(said)


def test_ctrl_c_ends_in_130_and_says_how_to_go_on(tmp_path: Path) -> None:
    options = shlex.split("train vision --rule shallow --epochs 100000 --limit 100 --device cpu --threads 1 --output")
    words = [*options, str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "feedalign", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    curve = tmp_path / "digits-demo_limit-100_epochs-100000" / "shallow-seed0" / "curve.jsonl"
    deadline = time.monotonic() + 120
    while not curve.exists() or curve.read_text(encoding="utf-8").count("\n") < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "Give the same command again and the run goes on from there" in err
    assert curve.with_name("checkpoint.pt").exists()


# ---- report, table --------------------------------------------------------------------------------------------------


def test_report_goes_where_it_is_told(command, trained: Path, tmp_path: Path) -> None:
    said = command("report", trained, "--output", tmp_path / "mine.html")
    assert said.code == 0
    assert said.out == f"Report: {tmp_path / 'mine.html'}\n"
    assert (tmp_path / "mine.html").stat().st_size > 10_000


def test_a_report_on_nothing_ends_in_two(command, tmp_path: Path) -> None:
    assert "Expected a folder with records, found none" in one_line(command("report", tmp_path / "nowhere"))
    said = command("report", tmp_path)
    assert said.code == 2
    assert "Expected at least one record.json" in one_line(said)


def test_tables_are_written_into_documents_and_checked(command, trained: Path, tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("<!-- results:begin -->\n<!-- results:end -->\n", encoding="utf-8")
    stale = command("table", trained, "--write", document, "--check")
    assert stale.code == 2
    assert "Not up to date" in one_line(stale)
    assert command("table", trained, "--write", document).out == f"{document}: renewed\n"
    assert "| DFA | 2 |" in document.read_text(encoding="utf-8")
    assert command("table", trained, "--write", document, "--check").out == f"{document}: up to date\n"
    assert "backprop" in command("table", trained).out


# ---- inspect --------------------------------------------------------------------------------------------------------


def test_inspect_shows_points_with_shapes(command, model_file: Path) -> None:
    said = command("inspect", f"{model_file}:build", "--shape", "4,1,28,28")
    assert said.code == 0
    assert re.search(r"^2 +\[4, 30\] +uniform \[10, 30\]", said.out, flags=re.MULTILINE)
    assert re.search(r"^4 +\[4, 20\] +uniform \[10, 20\]", said.out, flags=re.MULTILINE)


def test_inspect_takes_tokens_and_other_points(command, model_file: Path) -> None:
    said = command("inspect", f"{model_file}:tokens", "--shape", "2,7", "--integers", "50", "--points", "1")
    assert said.code == 0
    assert re.search(r"^1 +\[2, 7, 6\] +uniform \[50, 6\]", said.out, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("target", "words", "message"),
    [
        ("build", "", "Expected FILE:FACTORY, found 'build'."),
        ("nowhere.py:build", "", "Expected a Python file, found none at nowhere.py."),
        ("{file}:biuld", "", "has no function or class 'biuld'. Did you mean 'build'?"),
        ("{file}:number", "", "to return an nn.Module, found int."),
        ("{file}:build", "--shape 1,x", "Expected a shape such as 1,1,28,28 (whole numbers above 0), found '1,x'."),
        ("{file}:build", "--shape 1,3,32,32", "Sequential refused an input of shape (1, 3, 32, 32)"),
        ("{file}:tokens", "--shape 2,7", "for tokens add --integers VOCABULARY"),
        ("{file}:build", "--points layer9", "No module matches points="),
        ("{file}:build", "--rule pfa", "There is no rule 'pfa'. Did you mean"),
    ],
)
def test_inspect_says_what_it_expected(command, model_file: Path, target: str, words: str, message: str) -> None:
    said = command("inspect", target.replace("{file}", str(model_file)), *words.split())
    assert said.code == 2
    assert message in one_line(said)


def test_a_fault_in_the_users_file_is_not_called_a_missing_extra(command, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("import nonexistent_package_of_mine", encoding="utf-8")
    said = command("inspect", f"{tmp_path / 'm.py'}:build")
    assert said.code == 1
    assert "Unexpected ModuleNotFoundError: No module named 'nonexistent_package_of_mine'" in one_line(said)
    assert "FEEDALIGN_TRACEBACK=1" in said.err


def test_a_traceback_is_there_for_who_asks(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDALIGN_TRACEBACK", "1")
    with pytest.raises(ValueError, match="There is no rule 'pfa'"):
        main(["inspect", f"{model_file}:build", "--rule", "pfa"])


# ---- data -----------------------------------------------------------------------------------------------------------


def test_data_list_says_where_it_looks(command, tmp_path: Path) -> None:
    said = command("data", "list", "--data-root", tmp_path)
    assert said.code == 0
    assert f"Data sets under {tmp_path}" in said.out
    assert "not there; a download goes to mnist/train-images-idx3-ubyte.gz" in said.out


def test_data_check_of_what_is_built_in(command, tmp_path: Path) -> None:
    said = command("data", "check", "digits", "--data-root", tmp_path)
    assert said.code == 0
    assert said.out.startswith("digits: 1,400 training and 397 test images, complete")


def test_missing_data_end_in_two(command, tmp_path: Path) -> None:
    said = command("data", "check", "mnist", "digits", "--data-root", tmp_path)
    assert said.code == 2
    assert "digits: 1,400" in said.out
    assert "A data file is missing" in said.out
    assert one_line(said) == "Not usable: mnist. See above for what each one lacks."


def test_real_data_are_found_complete(command, data_root: Path) -> None:
    said = command("data", "check", "mnist", "--data-root", data_root)
    assert said.code == 0
    assert said.out.startswith("mnist: 60,000 training and 10,000 test images, complete")


def test_damaged_data_end_in_two(command, data_root: Path, tmp_path: Path) -> None:
    shutil.copytree(data_root / "mnist", tmp_path / "mnist")
    file = tmp_path / "mnist" / "train-labels-idx1-ubyte.gz"
    content = file.read_bytes()
    train = ["train", "vision", "--data", "mnist", "--data-root", tmp_path, "--output", tmp_path / "runs"]
    file.write_bytes(content[:-100])
    said = command(*train)
    assert said.code == 2
    assert "train-labels-idx1-ubyte.gz is truncated: expected" in one_line(said)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    said = command(*train)
    assert said.code == 2
    assert "train-labels-idx1-ubyte.gz is damaged or was changed: expected sha256" in one_line(said)
    file.write_bytes(gzip.compress(b"other"))
    assert command(*train).code == 2


# ---- bench ----------------------------------------------------------------------------------------------------------


def test_bench_prints_and_writes(command, tmp_path: Path) -> None:
    said = command("bench", "step", "--cases", "mlp-16x256", "--rounds", "2", "--warmup", "1", "--output", tmp_path)
    assert said.code == 0
    assert "A whole training step on cpu" in said.out
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert [case["rule"] for case in record["cases"]] == ["backprop", "dfa", "shallow"]
    assert command("report", tmp_path).code == 0


def test_an_unknown_bench_case_ends_in_two(command, tmp_path: Path) -> None:
    said = command("bench", "step", "--cases", "cmn", "--output", tmp_path)
    assert said.code == 2
    assert "There is no bench case 'cmn'. Did you mean 'cnn'?" in one_line(said)


# ---- demo, packaging, progress --------------------------------------------------------------------------------------


def test_demo_ends_with_three_things_to_try(command, tmp_path: Path) -> None:
    said = command("demo", "--seeds", "1", "--output", tmp_path)
    assert said.code == 0
    assert [line.split()[1] for line in said.out.splitlines() if line.startswith("│ ")][:3] == [
        "backprop",
        "DFA",
        "shallow",
    ]
    assert (tmp_path / "report.html").exists()
    following = said.out.split("Next:\n")[1].splitlines()
    assert [line.split()[:2] for line in following] == [["feedalign", word] for word in ("train", "bench", "inspect")]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "FEEDALIGN_TRACEBACK"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("missing", ["tyro", "matplotlib", "sklearn"])
def test_a_missing_extra_names_the_pip_command(missing: str) -> None:
    done = run_python(
        f"import sys; sys.modules[{missing!r}] = None; from feedalign.cli import main; sys.exit(main(['demo']))"
    )
    assert done.returncode == 2
    assert 'pip install "feedalign[vision]"' in done.stderr
    assert missing in done.stderr
    assert "Traceback" not in done.stderr


def test_the_library_needs_no_extra() -> None:
    names = ["tyro", "rich", "matplotlib", "jinja2", "sklearn", "scipy", "pooch", "accelerate"]
    done = run_python(
        f"import sys; sys.modules.update(dict.fromkeys({names})); import feedalign; "
        "print([m for m in sys.modules if m.startswith(('feedalign.cli', 'feedalign.bench', 'feedalign.experiments'))])"
    )
    assert done.stderr == ""
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("kind", [Bars, Lines])
def test_progress_shows_epoch_loss_and_accuracy(kind: type[Bars] | type[Lines]) -> None:
    console = Console(force_terminal=kind is Bars, width=80, file=open(os.devnull, "w"), record=True)  # noqa: PTH123, SIM115
    progress = kind(console, runs=2)
    progress.message("Going on.")
    progress.start("digits-demo", "dfa", 3, epochs=2, steps=10)
    line = {"epoch": 1, "train_loss": 0.5, "validation_accuracy": 0.875, "seconds": 1.0}
    progress.epoch(line)
    progress.step(2, 5, 0.321)
    progress.epoch({**line, "epoch": 2})
    progress.step(2, 10, 0.25)
    progress.finish()
    console.file.close()
    text = console.export_text()
    assert "Going on." in text
    assert "digits-demo" in text
    assert "dfa seed 3" in text
    expected = "epoch 2/2 step 10/10 loss 0.250 acc 87.5 %" if kind is Bars else "epoch 2/2, training loss 0.500"
    assert expected in text
