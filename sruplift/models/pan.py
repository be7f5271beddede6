"""PAN: Efficient Image Super-Resolution Using Pixel Attention (Zhao et al., ECCV Workshops 2020).

Implements the network of the authors' released code, which made the paper's numbers. It departs
from the paper's text in three places: x2 and x3 have one upsampling stage (the text shows two),
the stage's LeakyReLU follows the attention product, and slopes (0.2) and bias-free trunk
convolutions are only in the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sruplift.models.layers import (
    FEATURE_UNIT,
    Frame,
    InputNeeds,
    SuperResolver,
    bilinear,
    conv,
    leaky,
    start_with_large_features,
    upsampling_stages,
)

# These parameters, and training's steps of them, are so many times as large as without the unit.
SIZES = {
    "head.weight": FEATURE_UNIT,
    "head.bias": FEATURE_UNIT,
    "last.weight": 1 / FEATURE_UNIT,
    "last.bias": 1 / FEATURE_UNIT,
}
# Of the head's weights, whose standard deviation is 0.11 at random, and 64 times that here.
LARGE = 1.0


@dataclass(frozen=True)
class PANConfig:
    """Sizes of a PAN. The paper's network is the default."""

    scale: int = 4
    num_features: int = 40
    num_upsampling_features: int = 24
    num_blocks: int = 16


class PAConv(nn.Module):
    """PA convolution: ``conv3x3(conv3x3(x) * sigmoid(conv1x1(x)))``."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.gate = conv(num_features, num_features, 1)
        self.features = conv(num_features, num_features, 3, bias=False)
        self.project = conv(num_features, num_features, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.features(x) * torch.sigmoid(self.gate(x)))


class SCPA(nn.Module):
    """Self-calibrated block with pixel attention (figure 3): two half-width branches and a skip."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        half = num_features // 2
        self.reduce_plain = conv(num_features, half, 1, bias=False)
        self.plain = conv(half, half, 3, bias=False)
        self.reduce_attention = conv(num_features, half, 1, bias=False)
        self.attention = PAConv(half)
        self.fuse = conv(num_features, num_features, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        plain = self.plain(leaky(self.reduce_plain(x)))
        attended = self.attention(leaky(self.reduce_attention(x)))
        return x + self.fuse(leaky(torch.cat([plain, attended], dim=1)))


class PAN(SuperResolver):
    """LR (B, 3, H, W) in [0, 1] -> SR (B, 3, H * scale, W * scale), RGB, not clamped.

    Its receptive field is 1 (head) + 2 a block + 1 (trunk end) + the tail's: its taps lie on the
    enlarged grid, where x3's three convolutions reach one LR pixel, x2's three and x4's five reach
    into a second.
    """

    def __init__(self, config: PANConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = config.scale
        self.needs = InputNeeds(2 * config.num_blocks + (3 if config.scale == 3 else 4))
        features, narrow = config.num_features, config.num_upsampling_features
        self.head = conv(3, features, 3)
        self.blocks = nn.Sequential(*(SCPA(features) for _ in range(config.num_blocks)))
        self.trunk_end = conv(features, features, 3)
        self.upsample = upsampling_stages(features, narrow, config.scale)
        self.last = conv(narrow, 3, 3)
        start_with_large_features(self, SIZES)

    @property
    def step_sizes(self) -> Mapping[str, float]:
        """Of weights that began with large features; the authors' did not."""
        return SIZES if float(self.head.weight.detach().std()) > LARGE else {}

    def enlarge(self, lr: Tensor, frame: Frame) -> Tensor:
        shallow = self.head(lr)
        deep = shallow + self.trunk_end(self.blocks(shallow))
        return bilinear(lr, self.scale) + self.last(self.upsample(deep))
