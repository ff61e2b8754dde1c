"""What autograd saves for the way back, exchanged: for layers that form their products inside."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from feedalign.double_backward import MESSAGE
from feedalign.errors import SignalError
from feedalign.watch import in_backward

if TYPE_CHECKING:
    from feedalign.transport.carrier import Carrier


class Exchange:
    """Where autograd saves a weight for the way back, it finds the rule's matrix; one forward pass of one layer."""

    def __init__(self, carrier: "Carrier") -> None:
        self.found = False
        self._carrier = carrier
        self._observation = carrier.attachment._observation
        module = carrier.module
        cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind := _device(module)) else None
        self._values = {key: module.get_parameter(key) for key in carrier.weights}
        # Autocast saves a copy of the weight in another type, which is known by its numbers.
        self._copies = {} if cast is None else {key: value.detach().to(cast) for key, value in self._values.items()}
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def _pack(self, tensor: Tensor) -> "Tensor | _Place":
        for key, value in self._values.items():
            offset = int(tensor.storage_offset() - value.storage_offset())
            if _same_storage(tensor, value) and 0 <= offset < value.numel():
                self.found = True
                return _Place(key, tensor.shape, tensor.stride(), offset, tensor.dtype)
            copy = self._copies.get(key)
            if copy is not None and tensor.dtype == copy.dtype and _holds(tensor, copy):
                self.found = True
                return _Place(key, tensor.shape, tensor.stride(), int(tensor.storage_offset()), tensor.dtype)
        return tensor.detach()

    def _unpack(self, packed: "Tensor | _Place") -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        if torch.is_grad_enabled() and in_backward():
            raise SignalError(MESSAGE)
        value, weight = self._values[packed.key], self._carrier.weights[packed.key]
        true = self._observation is not None and self._observation.open
        matrix = value.detach() if true else weight.matrix(value, weight.learned)
        if self._carrier.attachment._mute:
            matrix = torch.zeros_like(matrix)
        return matrix.to(packed.dtype).contiguous().as_strided(packed.shape, packed.stride, packed.offset)


class _Place(NamedTuple):
    """Which part of a weight autograd saved, and how it was laid out."""

    key: str
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype


def _same_storage(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _holds(tensor: Tensor, copy: Tensor) -> bool:
    """Return whether the storage behind ``tensor`` holds exactly the numbers of ``copy``."""
    if tensor.untyped_storage().nbytes() != copy.numel() * copy.element_size():
        return False
    return torch.equal(tensor.as_strided(copy.shape, copy.stride(), 0), copy)


def _device(module: nn.Module) -> str:
    return next(module.parameters()).device.type
