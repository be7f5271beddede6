"""RGB to luma."""

from __future__ import annotations

import torch
from torch import Tensor

# ITU-R BT.601, studio range: Y = OFFSET + WEIGHTS . RGB, with RGB in [0, 1] and Y in 8-bit levels.
# These are the constants of MATLAB's rgb2ycbcr, which super-resolution papers measure with.
OFFSET = 16.0
WEIGHTS = (65.481, 128.553, 24.966)


def rgb_to_y(rgb: Tensor) -> Tensor:
    """BT.601 luma, neither rounded nor clamped.

    Args:
        rgb: (..., 3, H, W), floating point, R G B in this order, in [0, 1].

    Returns:
        (..., 1, H, W) of the input's dtype, in [16/255, 235/255] for input in [0, 1]: black is
        not zero. Times 255 it is Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255 of 8-bit RGB.

    Raises:
        ValueError: not three channels, or integers (their range is not [0, 1]).
    """
    if rgb.ndim < 3 or rgb.shape[-3] != 3:
        raise ValueError(f"rgb_to_y needs (..., 3, H, W), not {tuple(rgb.shape)}")
    if not torch.is_floating_point(rgb):
        raise ValueError(f"rgb_to_y needs floating point in [0, 1], not {rgb.dtype}")
    red, green, blue = rgb.unbind(-3)
    weighted = WEIGHTS[0] * red + WEIGHTS[1] * green + WEIGHTS[2] * blue
    return ((weighted + OFFSET) / 255.0).unsqueeze(-3)
