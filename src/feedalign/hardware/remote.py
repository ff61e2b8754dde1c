"""A device on another machine, over HTTP: a few numbers in headers, rows and projections as raw bytes, no pickle."""

import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from feedalign.errors import SignalError
from feedalign.hardware.projector import DTYPES, Inputs, Task

if TYPE_CHECKING:
    from http.client import HTTPConnection

TOKEN = "FEEDALIGN_TOKEN"
"""The environment variable that holds the token which a server beyond this machine asks for."""
LIMIT = 2**28
"""Bytes of the largest answer that is read."""


class Remote:
    """A device that ``feedalign serve`` offers on this or another machine.

    Several processes may use it, one after another: all ranks then have one and the same matrix. It may be pickled; the
    token is not, and is read from the environment again.

    Args:
        url: Such as ``http://127.0.0.1:8765``.
        token: By default that in the environment variable ``FEEDALIGN_TOKEN``, if there is one.
        timeout: Seconds that a request may take.

    Raises:
        SignalError: Nothing answers there, or it is no device of feedalign's, or it refuses the token.
    """

    shareable = True

    def __init__(self, url: str, token: str | None = None, timeout: float = 30.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SignalError(f"Expected the address of a device such as http://127.0.0.1:8765, found {url!r}.")
        self.url, self.timeout, self._parts = url, timeout, parts
        self._token = token if token is not None else os.environ.get(TOKEN)
        about = self._about()
        self.columns, self.inputs, self.mirrors = int(about["columns"]), _inputs(about["inputs"]), int(about["mirrors"])
        self.name = f"{about['name']} at {url}"
        self.saturated = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        return Remote, (self.url, None, self.timeout)

    def start(self, rows: Tensor) -> Task:
        """Send rows ``[n, C]`` in the device's own type, in a thread."""
        rows = rows.contiguous()
        return Task(lambda: self._project(rows))

    def collect(self, ticket: Task) -> Tensor:
        """Return the projections ``float32 [n, columns]``; waits for them."""
        return ticket.result()

    def _about(self) -> dict[str, Any]:
        body, _ = self._request("GET", "/device", b"", {})
        try:
            about: dict[str, Any] = json.loads(body)
            if about["protocol"] != 1:
                raise ValueError(f"protocol {about['protocol']}")
        except (ValueError, KeyError, TypeError) as error:
            raise SignalError(
                f"What answers at {self.url} is not a device of this version of feedalign: {error!r}."
            ) from error
        return about

    def _project(self, rows: Tensor) -> Tensor:
        headers = {"X-Rows": str(rows.shape[0]), "X-Width": str(rows.shape[1])}
        body, found = self._request("POST", "/project", rows.numpy().tobytes(), headers)
        self.saturated = float(found.get("X-Saturated", "0"))
        wanted = 4 * rows.shape[0] * self.columns
        if len(body) != wanted:
            raise SignalError(
                f"The device at {self.url} expected to return {wanted} bytes, {rows.shape[0]} rows of {self.columns} "
                f"numbers, and returned {len(body)}."
            )
        return torch.frombuffer(bytearray(body), dtype=torch.float32).reshape(rows.shape[0], self.columns)

    def _connection(self) -> "HTTPConnection":
        import http.client

        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        assert self._parts.hostname is not None
        return kind(self._parts.hostname, self._parts.port, timeout=self.timeout)

    def _request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
        import http.client

        if self._token:
            headers = {**headers, "Authorization": f"Bearer {self._token}"}
        connection = self._connection()
        try:
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            found = answer.read(LIMIT + 1)
        except (OSError, http.client.HTTPException) as error:
            raise SignalError(
                f"The device at {self.url} does not answer ({type(error).__name__}: {error}). Is `feedalign serve` "
                "running there? Start it again, and go on from the last checkpoint."
            ) from error
        finally:
            connection.close()
        if len(found) > LIMIT:
            raise SignalError(f"The device at {self.url} returned more than {LIMIT} bytes. Send fewer rows at a time.")
        if answer.status == 401:
            raise SignalError(
                f"The device at {self.url} refuses the token. Set the environment variable {TOKEN} to that of the "
                "server."
            )
        if answer.status != 200:
            raise SignalError(f"The device at {self.url} says: {found.decode(errors='replace')[:500]}")
        return found, dict(answer.headers.items())


def _inputs(name: str) -> Inputs:
    if name not in DTYPES:
        raise SignalError(f"Expected a device with inputs {', '.join(DTYPES)}, found {name!r}.")
    return name
