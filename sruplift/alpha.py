"""Transparency: colours for pixels that have none, and pictures on a background."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bleed(image: Tensor, alpha: Tensor) -> Tensor:
    """Colour the fully transparent pixels as their visible neighbours are.

    A file may hold any colour where nothing is seen, often black; a network would mix it into
    the visible edge as a dark fringe. Visible pixels are unchanged.

    Push-pull: average over ever larger blocks, weighted by alpha, and fill from the smallest
    block that saw something.

    Args:
        image: (B, C, H, W).
        alpha: (B, 1, H, W) in [0, 1].

    Returns:
        (B, C, H, W); ``image`` itself where nothing is transparent, or everything is.
    """
    hidden = alpha <= 0
    if not bool(hidden.any()) or bool(hidden.all()):
        return image
    return torch.where(hidden, _filled(image * alpha, alpha), image)


def _filled(weighted: Tensor, weight: Tensor) -> Tensor:
    """``weighted / weight``, taken from half the resolution where the weight is zero."""
    seen = weight > 0
    colour = weighted / torch.where(seen, weight, torch.ones_like(weight))
    if bool(seen.all()) or max(weight.shape[-2:]) == 1:
        return colour
    coarse = _filled(_halve(weighted), _halve(weight))
    spread = F.interpolate(coarse, scale_factor=2, mode="nearest")
    return torch.where(seen, colour, spread[..., : weight.shape[-2], : weight.shape[-1]])


def _halve(image: Tensor) -> Tensor:
    """Means of 2x2 blocks; what lies outside the image counts as nothing."""
    return F.avg_pool2d(image, 2, ceil_mode=True, count_include_pad=False)


def composite(image: Tensor, alpha: Tensor, background: Tensor | float = 1.0) -> Tensor:
    """``image`` (B, C, H, W) seen through ``alpha`` (B, 1, H, W) before a ``background``.

    ``background`` is a grey, or a colour as (C', 1, 1).
    """
    return background + (image - background) * alpha
