"""Where the error is taken: what the model returns, fields of it, or the outputs of modules."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import nn

from feedalign.errors import PointsError, nearest
from feedalign.points import find_module
from feedalign.tree import flatten, is_floating

Outputs = str | Sequence[str] | None
Path = tuple[str | int, ...]


class Tap(NamedTuple):
    """One module, or the model itself, at whose output errors are taken."""

    module: str | None
    """Its name; ``None`` for what the model returns."""
    paths: tuple[Path, ...] = ()
    """The fields that carry the error, such as ``("logits",)``; empty for all."""

    def __str__(self) -> str:
        if not self.paths:
            return "the return value" if self.module is None else self.module
        return ", ".join((self.module or "") + _written(path) for path in self.paths)

    def places(self, output: Any, leaves: Sequence[Any]) -> list[int]:
        """Return the numbers of the ``leaves`` of ``output`` that carry the error.

        Raises:
            PointsError: A field is not there.
        """
        floating = [place for place, leaf in enumerate(leaves) if is_floating(leaf)]
        if not self.paths:
            return floating
        chosen = {id(leaf) for path in self.paths for leaf in flatten(self._field(output, path))[0]}
        return [place for place in floating if id(leaves[place]) in chosen]

    def _field(self, output: Any, path: Path) -> Any:
        found = output
        for step in path:
            try:
                found = found[step] if isinstance(step, int) or hasattr(found, "keys") else getattr(found, step)
            except (AttributeError, KeyError, IndexError, TypeError):
                owner = "The model" if self.module is None else f"Module {self.module!r}"
                raise PointsError(
                    f"{owner} expected to return something with the field {_written(path)!r}, as output= says; found "
                    f"{type(found).__name__} without {_written((step,))!r}.{_fields(found, step)}"
                ) from None
        return found


def parse(model: nn.Module, output: Outputs) -> list[Tap]:
    """Return the taps that ``output=`` means, fields of one module together.

    Args:
        model: The model.
        output: ``None`` for what the model returns; a module by name or glob, ``"head"``; a tensor of what a module
            returns, ``"decoder[0]"``; a field of what the model returns, ``".logits"`` or ``"[0]"``; or several.

    Raises:
        PointsError: A module is not there, or is named twice.
    """
    names: Iterable[str] = [] if output is None else [output] if isinstance(output, str) else output
    found: dict[str | None, list[Path]] = {}
    for name in names:
        module, path = _split(model, name)
        paths = found.setdefault(module, [])
        if path in paths or (paths and () in (*paths, path)):
            raise PointsError(f"output={output!r} names the same tensors twice. Name each once.")
        paths.append(path)
    if output is not None and not found:
        raise PointsError(
            "output=() names nothing that could carry the error. Leave it out for what the model returns."
        )
    taps = [Tap(module, tuple(path for path in paths if path)) for module, paths in found.items()]
    order = {name: i for i, (name, _) in enumerate(model.named_modules())}
    return sorted(taps, key=lambda tap: len(order) if tap.module is None else order[tap.module]) or [Tap(None)]


def _split(model: nn.Module, name: str) -> tuple[str | None, Path]:
    if not isinstance(name, str) or not name:
        raise PointsError(f"output= expected names of modules or fields such as '.logits', found {name!r}.")
    if name[0] in ".[":
        steps = re.findall(r"\.([^.\[\]]+)|\[(\d+)\]|\[['\"]([^'\"]+)['\"]\]", name)
        if "".join(_written((int(n) if n else field or key,)) for field, n, key in steps) != name.replace('"', "'"):
            raise PointsError(f"output={name!r} is no field: write '.logits', '[0]' or '.heads[1]'.")
        return None, tuple(int(n) if n else field or key for field, n, key in steps)
    indexed = re.fullmatch(r"(.+?)\[(\d+)\]", name)
    if indexed:
        return find_module(model, indexed[1]), (int(indexed[2]),)
    return find_module(model, name), ()


def _written(path: Path) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def _fields(found: Any, step: str | int) -> str:
    if hasattr(found, "keys"):
        known = [str(key) for key in found]
    else:
        known = [name for name in getattr(found, "__dict__", {}) if not name.startswith("_")]
    if not known:
        return ""
    return f"{nearest(str(step), known)} Its fields are: {', '.join(known)}."
