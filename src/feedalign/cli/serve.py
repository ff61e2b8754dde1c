"""``feedalign serve``."""

import os
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from math import inf
from pathlib import Path
from typing import Any, Literal

from feedalign.cli.console import say, standard_output
from feedalign.cli.failures import UsageError
from feedalign.hardware.projector import Projector
from feedalign.hardware.remote import TOKEN


@dataclass(frozen=True)
class Serve:
    """Offer a device to training processes on this or other machines: fa.Hardware(fa.Remote(url)).

    Requests are taken one after another. Beyond this machine (--host) a token is needed, in the environment variable
    FEEDALIGN_TOKEN here and where training runs. Rows and projections go over the wire as plain numbers.

    Example: feedalign serve --columns 4096

    Example: FEEDALIGN_TOKEN=secret feedalign serve --device my_rig.py:rig --host 0.0.0.0

    Attributes:
        device: bench for the simulated device, or a Python file and the name of a projector, or of a function that
            makes one, in it: my_rig.py:rig.
        host: Where to listen.
        port: 0 for any that is free.
        columns: Of the simulated device.
        recovery: Of the simulated device.
        tau: Of the simulated device: projections in which its medium decorrelates; 0 for one at rest.
        latency: Of the simulated device, in seconds.
        seed: Of the simulated device.
    """

    device: str = "bench"
    host: str = "127.0.0.1"
    port: int = 8765
    columns: int = 4096
    recovery: Literal["anchor", "phase", "offaxis"] = "anchor"
    tau: float = 0.0
    latency: float = 0.0
    seed: int = 0

    def run(self) -> None:
        """Serve until interrupted."""
        from feedalign.hardware.server import Server  # the standard library's server, which nothing else needs

        device = self._device()
        try:
            server = Server(device, self.host, self.port, os.environ.get(TOKEN))
        except (ValueError, OSError) as error:
            raise UsageError(str(error)) from error
        with server:
            say(standard_output(), f"{type(device).__name__}, {device.columns} columns, at {server.url}")
            server.serve_forever()

    def _device(self) -> Projector:
        if self.device == "bench":
            from feedalign.optics.bench import Bench

            return Bench(
                self.columns, recovery=self.recovery, tau=self.tau or inf, latency=self.latency, seed=self.seed
            )  # fmt: skip
        file, _, name = self.device.partition(":")
        path = Path(file)
        if not name or not path.is_file():
            raise UsageError(f"Expected bench, or a file and a name such as my_rig.py:rig; found {self.device!r}.")
        spec = spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        found: Any = getattr(module, name, None)
        made = found() if callable(found) and not isinstance(found, Projector) else found
        if not isinstance(made, Projector):
            raise UsageError(f"Expected {name} in {file} to be a projector, or to make one; found {found!r}.")
        return made
