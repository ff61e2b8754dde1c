"""A device on another machine: what may go wrong between two processes is an error by name, in time."""

import http.client
import os
import pickle
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign.hardware import Function
from feedalign.hardware.server import Server
from feedalign.optics.bench import Bench
from hardware.conftest import Served, batch, gradients, network


@pytest.fixture
def local() -> object:
    servers: list[Server] = []

    def offer(device: object, **options: object) -> Server:
        server = Server(device, port=0, **options)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield offer
    for server in servers:
        server.shutdown()
        server.server_close()


def test_it_is_the_same_device_from_afar(local: object) -> None:
    remote = fa.Remote(local(Bench(64, camera=None)).url)
    assert (remote.columns, remote.inputs, remote.mirrors, remote.shareable) == (64, "binary", 65_536, True)
    near, far = network(), network()
    fa.attach(near, fa.DFA(feedback=fa.Hardware(Bench(64, camera=None))))
    fa.attach(far, fa.DFA(feedback=fa.Hardware(remote)))
    for a, b in zip(gradients(near), gradients(far), strict=True):
        assert torch.equal(a, b)
    again = pickle.loads(pickle.dumps(far))
    for a, b in zip(gradients(again), gradients(far), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("inputs", ["real", "ternary", "binary"])
def test_every_kind_of_row_goes_over_the_wire(local: object, inputs: str) -> None:
    seen: list[Tensor] = []

    def project(rows: Tensor) -> Tensor:
        seen.append(rows.clone())
        return rows.float() @ torch.ones(3, 5)

    remote = fa.Remote(local(Function(project, 5, inputs)).url)
    rows = torch.tensor([[1, 0, 1], [0, 1, 1]]).to(
        {"real": torch.float32, "ternary": torch.int8}.get(inputs, torch.uint8)
    )
    assert torch.equal(remote.collect(remote.start(rows)), torch.full((2, 5), 2.0))
    assert torch.equal(seen[0], rows)


def test_beyond_this_machine_a_token_is_needed(local: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"Listening on 0\.0\.0\.0 lets other machines in, so a token is expected"):
        Server(Bench(4), host="0.0.0.0", port=0)
    url = local(Bench(4), token="right").url
    for token in (None, "wrong"):
        with pytest.raises(fa.SignalError, match=r"refuses the token\. Set the environment variable FEEDALIGN_TOKEN"):
            fa.Remote(url, token=token)
    assert fa.Remote(url, token="right").columns == 4
    monkeypatch.setenv("FEEDALIGN_TOKEN", "right")
    remote = fa.Remote(url)
    assert b"right" not in pickle.dumps(remote)
    assert pickle.loads(pickle.dumps(remote)).columns == 4


def request(server: Server, path: str, body: bytes, **headers: str) -> tuple[int, str]:
    host, port = server.server_address[:2]
    connection = http.client.HTTPConnection(str(host), int(port), timeout=10)
    connection.request(
        "POST", path, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def test_requests_of_a_wrong_form_are_refused(local: object) -> None:
    server = local(Bench(4), max_bytes=100)
    assert request(server, "/nowhere", b"") == (404, "There are /device and /project.")
    assert request(server, "/project", b"1")[0] == 400
    assert request(server, "/project", b"123", X_Rows="2", X_Width="2") == (
        400, "Expected 2 x 2 numbers of torch.uint8, found 3 bytes.",
    )  # fmt: skip
    assert request(server, "/project", b"1" * 200, X_Rows="20", X_Width="10")[0] == 413
    assert request(server, "/project", b"\x02" * 4, X_Rows="2", X_Width="2")[0] == 500  # not binary, says the device
    assert request(server, "/project", b"", X_Rows="-1", X_Width="0")[0] == 400


def test_what_the_device_says_is_passed_on(local: object) -> None:
    bench = Bench(64, seed=3)
    model = network()
    fa.attach(model, fa.DFA(feedback=fa.Hardware(fa.Remote(local(bench).url), tries=2)))
    gradients(model)
    bench.fail("raise", times=2)
    with pytest.raises(fa.SignalError, match=r"failed in 2 tries.*says: OSError: the simulated device lost its camera"):
        gradients(model)


def test_nobody_there() -> None:
    with pytest.raises(
        fa.SignalError, match=r"The device at http://127\.0\.0\.1:1 does not answer \(ConnectionRefused"
    ):
        fa.Remote("http://127.0.0.1:1")
    with pytest.raises(fa.SignalError, match=r"Expected the address of a device such as http://127\.0\.0\.1:8765"):
        fa.Remote("127.0.0.1:8765")


def test_something_else_there(tmp_path: Path) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(fa.SignalError, match="is not a device of this version of feedalign"):
            fa.Remote(f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()


def train(model: nn.Module, steps: range, checkpoint: Path) -> None:
    """Train with a checkpoint per step, as a user would."""
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
    for step in steps:
        x, y = batch(step)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
        torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, checkpoint)


def test_a_device_that_is_killed_in_mid_step(served: Served, tmp_path: Path) -> None:
    """kill -9: an error by name within the timeout, a checkpoint that is whole, and a run that goes on."""

    def attached(url: str, **options: object) -> tuple[nn.Sequential, fa.Hardware]:
        model, feedback = network(), fa.Hardware(fa.Remote(url), watch=0, **options)
        fa.attach(model, fa.DFA(feedback=feedback))
        return model, feedback

    whole, _ = attached(served()[0])
    train(whole, range(6), tmp_path / "whole.pt")

    url, process = served("--latency", "0.3")
    model, feedback = attached(url, timeout=10.0)
    checkpoint = tmp_path / "run.pt"
    train(model, range(3), checkpoint)
    known = feedback.fingerprint
    threading.Timer(0.1, lambda: os.kill(process.pid, signal.SIGKILL)).start()
    began = time.monotonic()
    with pytest.raises(fa.SignalError, match=rf"failed in 5 tries.*{re.escape(url)} does not answer"):
        train(model, range(3, 6), checkpoint)
    assert time.monotonic() - began < 10
    assert torch.load(checkpoint)["step"] == 2

    fresh, _ = attached(served()[0], expect=known)
    train(fresh, range(3, 6), checkpoint)
    for a, b in zip(fresh.parameters(), whole.parameters(), strict=True):
        # The device has a clock, so that its noise after the restart is another one.
        assert torch.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.99

    wrong, _ = attached(served("--seed", "5")[0], expect=known)
    with pytest.raises(fa.SignalError, match=r"Expected the device .* that training began with"):
        train(wrong, range(3, 6), checkpoint)


def test_a_device_that_hangs_far_away(local: object) -> None:
    bench = Bench(64)
    model = network()
    fa.attach(model, fa.DFA(feedback=fa.Hardware(fa.Remote(local(bench).url), timeout=0.5)))
    gradients(model)
    bench.fail("hang")
    with pytest.raises(fa.SignalError, match=r"did not answer within 0\.5 s"):
        gradients(model)


def test_a_file_of_ones_own_is_served(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "rig.py"
    file.write_text(
        "from feedalign.hardware import Function\nrig = Function(lambda rows: rows.float()[:, :1].repeat(1, 3), 3)\n"
    )
    url, _ = served("--device", f"{file}:rig")
    assert fa.Remote(url).columns == 3


@pytest.mark.parametrize("device", ["rig.py", "nowhere.py:rig", "bench:x"])
def test_a_device_that_is_none(device: str) -> None:
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "feedalign", "serve", "--device", device], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "Expected bench, or a file and a name such as my_rig.py:rig" in done.stdout + done.stderr
