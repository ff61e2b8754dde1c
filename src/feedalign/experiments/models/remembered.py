"""What is made of a graph is made once, and again for another graph."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")


class Remembered(Generic[Made]):
    """A function of a tensor that is not called again while it is given the same tensor, unchanged.

    The same tensor, and not an equal one: nothing is compared, and a model that is given another graph never sees the
    last one. What it knows stays behind when a model is copied or pickled.

    Args:
        make: The function; its further arguments are compared.
    """

    def __init__(self, make: Callable[..., Made]) -> None:
        self.make = make
        self._of: Tensor | None = None
        self._when: tuple[Any, ...] = ()
        self._made: Made | None = None

    def __call__(self, tensor: Tensor, *more: Any) -> Made:
        """Return what the function makes of ``tensor``."""
        # The version counts changes in place; tensors of inference mode have none.
        when = (0 if tensor.is_inference() else tensor._version, *more)
        if self._made is None or self._of is not tensor or self._when != when:
            with torch.inference_mode(mode=False), torch.no_grad():
                self._made = self.make(tensor, *more)
            self._of, self._when = tensor, when
        return self._made

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_of": None, "_when": (), "_made": None}
