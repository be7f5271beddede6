"""SRRAM: Residual Attention Module for Single Image Super-Resolution (Kim et al., 2018).

The authors released no code of it. This follows the paper and, where that is silent, the block of
their later code (junhyukk/MAMNet-Tensorflow): the variance that channel attention pools is the
population's, its two layers have biases and a reduction of 16, which is the only reading that
gives every parameter count of the paper's tables 2 and 3. It works on values from 0 to 255 less
the mean colour of DIV2K.

The paper's light network was trained on three scales together; its printed 942K, 1127K and 1090K
parameters are those of one scale with the last convolutions of all three, as far as one can tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sruplift.models.layers import (
    BLOCK,
    Frame,
    InputNeeds,
    SuperResolver,
    at_pixels,
    conv,
    means_around,
    stage_factors,
)

RGB_RANGE = 255
MEAN_COLOUR = (0.4488, 0.4371, 0.4040)
REDUCTION = 16
# Variances are of squared levels, hundreds and thousands. With usual weights and steps of the layer
# that reads them, a channel's sigmoid would be 0 or 1 from the start and jump between them.
VARIANCE_UNIT = 1e-3


@dataclass(frozen=True)
class SRRAMConfig:
    """Sizes of an SRRAM. The paper's light network is the default; the large one has 64 blocks.

    ``window`` is the edge of the square, in LR pixels, over which the variance is taken around
    each pixel (``layers.means_around``); None takes it over the whole image, as training does with
    its patches.
    """

    scale: int = 4
    num_features: int = 64
    num_blocks: int = 10
    window: int | None = None


class ResidualAttention(nn.Module):
    """RAM (figure 2): a residual block whose result is weighted by channel and place at once."""

    step_sizes: ClassVar = {"squeeze.weight": VARIANCE_UNIT}

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.conv1 = conv(num_features, num_features, 3)
        self.conv2 = conv(num_features, num_features, 3)
        self.squeeze = conv(num_features, num_features // REDUCTION, 1)
        with torch.no_grad():
            self.squeeze.weight.mul_(VARIANCE_UNIT)
        self.excite = conv(num_features // REDUCTION, num_features, 1)
        self.depthwise = nn.Conv2d(num_features, num_features, 3, padding=1, groups=num_features)

    def forward(self, x: Tensor, window: int | None) -> Tensor:
        features = self.conv2(F.relu(self.conv1(x)))
        channel = self.for_channels(_variance(features, window), window, x.shape[-2:])
        return x + torch.sigmoid(channel + self.depthwise(features)) * features

    def for_channels(self, variance: Tensor, window: int | None, size: torch.Size) -> Tensor:
        """What the attention by channels adds: (B, C, 1, 1), or (B, C, *size) with a window."""
        channel = self.excite(F.relu(self.squeeze(variance)))
        return channel if window is None else at_pixels(channel, size)


class SRRAM(SuperResolver):
    """LR (B, 3, H, W) in [0, 1] -> SR (B, 3, H * scale, W * scale), RGB, not clamped."""

    mean: Tensor

    def __init__(self, config: SRRAMConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = config.scale
        self.window = config.window
        self.needs = InputNeeds(receptive_field=None, overlap=32, window=40, grid=BLOCK, memory=1.6)
        features = config.num_features
        self.head = conv(3, features, 3)
        self.blocks = nn.ModuleList(ResidualAttention(features) for _ in range(config.num_blocks))
        self.trunk_end = conv(features, features, 3)
        self.upsample = nn.ModuleList(
            conv(features, features * factor**2, 3) for factor in stage_factors(config.scale)
        )
        self.last = conv(features, 3, 3)
        mean = torch.tensor(MEAN_COLOUR).view(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)

    def enlarge(self, lr: Tensor, frame: Frame) -> Tensor:
        shallow = self.head((lr - self.mean) * RGB_RANGE)
        deep = shallow
        for block in self.blocks:
            deep = block(deep, self.window)
        deep = shallow + self.trunk_end(deep)
        for widen, factor in zip(self.upsample, stage_factors(self.scale), strict=True):
            deep = F.pixel_shuffle(widen(deep), factor)
        return self.last(deep).float() / RGB_RANGE + self.mean


def _variance(x: Tensor, window: int | None) -> Tensor:
    """Population variance of each channel, (B, C, 1, 1), or around each block (B, C, h, w)."""
    x = x.float()  # a difference of squares, which half precision loses
    if window is None:
        # ``var`` is many times slower where channels are last.
        return (x - x.mean((2, 3), keepdim=True)).square().mean((2, 3), keepdim=True)
    return (means_around(x.square(), window) - means_around(x, window).square()).clamp(0)
