"""How like two pictures are: PSNR and SSIM."""

from math import inf, log10

import numpy as np
from torch import Tensor


def psnr(mean_squared_error: float) -> float:
    """Return the peak signal-to-noise ratio in dB of pictures in [0, 1]: minus ten times the logarithm of the error."""
    return -10 * log10(mean_squared_error) if mean_squared_error > 0 else inf


def ssim(picture: Tensor, truth: Tensor) -> float:
    """Return the structural similarity of two pictures ``[H, W, 3]`` in [0, 1], the mean over colours; 1 if equal.

    With the Gaussian window (standard deviation 1.5) and the constants of Wang et al. 2004.

    Raises:
        ValueError: The pictures are smaller than the window, 11 pixels.
    """
    if min(picture.shape[:2]) < WINDOW:
        raise ValueError(
            f"Expected pictures of at least {WINDOW} pixels a side for SSIM, found {list(picture.shape[:2])}."
        )
    # Imported here, so that every other command runs without it.
    from skimage.metrics import structural_similarity

    value = structural_similarity(  # type: ignore[no-untyped-call, unused-ignore]
        picture.numpy().astype(np.float64),
        truth.numpy().astype(np.float64),
        channel_axis=-1,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(value)


WINDOW = 11
