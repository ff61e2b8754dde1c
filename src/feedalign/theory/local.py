"""The two relatives of a convolution: one that is local and shares nothing, and one that is not even local."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

Size = tuple[int, int]


class LocallyConnected(nn.Module):
    """A convolution with weights of their own at every position.

    Args:
        shape: Of one input: channels, height and width.
        channels: Of the output.
        kernel: Its height and width.
        stride: Likewise.
        padding: Likewise, with zeros.

    Shapes:
        ``[N, C, H, W]`` to ``[N, channels, H', W']``, as ``nn.Conv2d`` of the same arguments.
    """

    def __init__(
        self, shape: tuple[int, int, int], channels: int, kernel: Size, stride: Size = (1, 1), padding: Size = (0, 0)
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.above = (channels, *positions(shape[1:], kernel, stride, padding))
        fan_in = shape[0] * math.prod(kernel)
        weight = torch.empty(math.prod(self.above[1:]), fan_in, channels)
        self.weight = nn.Parameter(weight.uniform_(-1, 1).div_(math.sqrt(fan_in)))

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of images."""
        patches = unfold(images, self.kernel, padding=self.padding, stride=self.stride)  # [N, fan in, positions]
        products = torch.bmm(patches.permute(2, 0, 1), self.weight)  # [positions, N, channels]
        return products.permute(1, 2, 0).reshape(len(images), *self.above)


class Dense(nn.Module):
    """A linear layer between features that have positions, which it does not care about.

    Args:
        below: Shape of one input.
        above: Shape of one output.

    Shapes:
        ``[N, *below]`` to ``[N, *above]``.
    """

    def __init__(self, below: tuple[int, ...], above: tuple[int, ...]) -> None:
        super().__init__()
        self.above = above
        features = math.prod(below)
        self.weight = nn.Parameter(torch.empty(math.prod(above), features).uniform_(-1, 1).div_(math.sqrt(features)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the features of inputs."""
        return (inputs.flatten(1) @ self.weight.T).reshape(len(inputs), *self.above)


def positions(below: Size, kernel: Size, stride: Size, padding: Size) -> Size:
    """Return the height and width of what a convolution makes of an image of height and width ``below``.

    Raises:
        ValueError: The kernel is larger than the padded image.
    """
    height, width = (
        (size + 2 * pad - length) // step + 1
        for size, length, step, pad in zip(below, kernel, stride, padding, strict=True)
    )
    if height < 1 or width < 1:
        raise ValueError(f"Expected a kernel that fits into an image of {below}, padding {padding}, found {kernel}.")
    return height, width
