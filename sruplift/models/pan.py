"""PAN: Efficient Image Super-Resolution Using Pixel Attention (Zhao et al., ECCV Workshops 2020).

Implements the network of the authors' released code, which made the paper's numbers. It departs
from the paper's text in three places: x2 and x3 have one upsampling stage (the text shows two),
the stage's LeakyReLU follows the attention product, and slopes (0.2) and bias-free trunk
convolutions are only in the code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sruplift.models.layers import PixelAttention, conv

NEGATIVE_SLOPE = 0.2


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
        plain = self.plain(_activate(self.reduce_plain(x)))
        attended = self.attention(_activate(self.reduce_attention(x)))
        return x + self.fuse(_activate(torch.cat([plain, attended], dim=1)))


class UpsamplingStage(nn.Module):
    """U-PA (figure 4): nearest neighbour, convolution, pixel attention, convolution."""

    def __init__(self, in_channels: int, out_channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv = conv(in_channels, out_channels, 3)
        self.attention = PixelAttention(out_channels)
        self.refine = conv(out_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.interpolate(x, scale_factor=self.scale, mode="nearest"))
        return _activate(self.refine(_activate(self.attention(x))))


class PAN(nn.Module):
    """LR (B, 3, H, W) in [0, 1] -> SR (B, 3, H * scale, W * scale), RGB, not clamped.

    ``receptive_field`` is the number of LR pixels on each side that can reach an output pixel:
    1 (head) + 2 a block + 1 (trunk end) + the tail's: its taps lie on the enlarged grid, where x3's
    three convolutions reach one LR pixel, x2's three and x4's five reach into a second.
    """

    def __init__(self, config: PANConfig) -> None:
        super().__init__()
        self.config = config
        self.receptive_field = 2 * config.num_blocks + (3 if config.scale == 3 else 4)
        features, narrow = config.num_features, config.num_upsampling_features
        self.head = conv(3, features, 3)
        self.blocks = nn.Sequential(*(SCPA(features) for _ in range(config.num_blocks)))
        self.trunk_end = conv(features, features, 3)
        factors = (2, 2) if config.scale == 4 else (config.scale,)
        widths = (features, *(narrow for _ in factors))
        self.upsample = nn.Sequential(
            *(
                UpsamplingStage(wide, out, factor)
                for wide, out, factor in zip(widths[:-1], widths[1:], factors, strict=True)
            )
        )
        self.last = conv(narrow, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x)
        deep = shallow + self.trunk_end(self.blocks(shallow))
        residual = self.last(self.upsample(deep))
        base = F.interpolate(
            x, scale_factor=self.config.scale, mode="bilinear", align_corners=False
        )
        return base + residual


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, NEGATIVE_SLOPE)
