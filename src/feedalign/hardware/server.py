"""What ``feedalign serve`` runs: one device, offered over HTTP to processes on this or other machines."""

import hmac
import ipaddress
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from feedalign.hardware.projector import DTYPES, Projector

MAX_BYTES = 2**28
"""Bytes of the largest request that is read."""
IDLE = 60.0
"""Seconds that a client may be silent in the middle of a request."""


class Server(ThreadingHTTPServer):
    """One device. Requests are taken one after another.

    Args:
        projector: The device.
        host: Where to listen; beyond this machine only with a token.
        port: 0 for any that is free.
        token: What clients have to know.
        max_bytes: Of the largest request.

    Raises:
        ValueError: It would listen beyond this machine without a token.
    """

    daemon_threads = True

    def __init__(
        self, projector: Projector, host: str = "127.0.0.1", port: int = 8765, token: str | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:  # fmt: skip
        if not token and not _loopback(host):
            raise ValueError(
                f"Listening on {host} lets other machines in, so a token is expected: set FEEDALIGN_TOKEN here and "
                "where training runs. Without one listen on 127.0.0.1."
            )
        self.projector, self.token, self.max_bytes = projector, token, max_bytes
        self.turn = threading.Lock()
        super().__init__((host, port), Handler)

    @property
    def url(self) -> str:
        """The address to give to :class:`feedalign.Remote`."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Handler(BaseHTTPRequestHandler):
    """Answers ``GET /device`` and ``POST /project``."""

    timeout = IDLE
    server: Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing: a request a step would fill the screen."""

    def do_GET(self) -> None:
        """Say what the device is."""
        if not self._allowed():
            return
        if self.path != "/device":
            self._refuse(404, "There are /device and /project.")
            return
        device = self.server.projector
        about = {
            "protocol": 1,
            "columns": device.columns,
            "inputs": device.inputs,
            "mirrors": int(getattr(device, "mirrors", 2**62)),
            "name": str(getattr(device, "name", type(device).__name__)),
        }
        self._send(200, json.dumps(about).encode(), "application/json")

    def do_POST(self) -> None:
        """Project."""
        if not self._allowed():
            return
        if self.path != "/project":
            self._refuse(404, "There are /device and /project.")
            return
        device = self.server.projector
        dtype = DTYPES[device.inputs]
        try:
            size, rows, width = (int(self.headers[name]) for name in ("Content-Length", "X-Rows", "X-Width"))
        except (TypeError, ValueError):
            self._refuse(400, "Expected the headers Content-Length, X-Rows and X-Width.")
            return
        if size > self.server.max_bytes:
            self._refuse(
                413, f"Expected at most {self.server.max_bytes} bytes, found {size}. Send fewer rows at a time."
            )
            return
        if rows < 1 or width < 1 or size != rows * width * dtype.itemsize:
            self._refuse(400, f"Expected {rows} x {width} numbers of {dtype}, found {size} bytes.")
            return
        body = self.rfile.read(size)
        if len(body) < size:
            return  # the client is gone
        try:
            with self.server.turn:
                given = torch.frombuffer(bytearray(body), dtype=dtype).reshape(rows, width)
                found = device.collect(device.start(given)).to(torch.float32).contiguous()
                saturated = float(getattr(device, "saturated", 0.0))
        except Exception as error:  # noqa: BLE001 - the client is told
            self._refuse(500, f"{type(error).__name__}: {error}")
            return
        self._send(200, found.numpy().tobytes(), "application/octet-stream", {"X-Saturated": repr(saturated)})

    def _allowed(self) -> bool:
        token = self.server.token
        given = self.headers.get("Authorization", "")
        if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            self._refuse(401, "The token is wrong.")
            return False
        return True

    def _refuse(self, status: int, reason: str) -> None:
        self.close_connection = True
        self._send(status, reason.encode(), "text/plain; charset=utf-8")

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
