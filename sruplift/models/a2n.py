"""A2N: Attention in Attention Network for Image Super-Resolution (Chen, Gu, Zhang, 2021).

Implements the network of the authors' released code (haoyuc/A2N), with its softmax temperature of
30, which the paper's text does not give, and its bilinear skip (the text also says nearest). It
works on values from 0 to 255 inside.

Each block pools over the whole image, which makes a tile another image. Training saw patches of 48
pixels; pooling over about as much around each pixel agrees with that, and tiles then agree with the
image. Measured with the authors' x2 weights (PSNR on Y; 25 images of B100, every fourth, and Set14;
tiles of 128 with overlap 32 against the image, the worst and the mean of Set14's images that are
larger, bf16; the windows move in steps of ``layers.BLOCK``):

| pooled over | B100 | Set14 | tiles against whole: worst, mean |
| --- | --- | --- | --- |
| whole image | 31.906 dB | 33.716 dB | 36.5 dB, 56.1 dB |
| 40 pixels | 31.926 dB | 33.692 dB | 66.4 dB, 71.3 dB |
| 56 pixels | 31.927 dB | 33.698 dB | 60.8 dB, 70.2 dB |
| 72 pixels | 31.925 dB | 33.712 dB | 57.5 dB, 69.1 dB |

Tiles that each pool over themselves are 0.02 to 0.05 dB better than the whole image on Set14, but
every tile is another picture. ``sruplift eval`` pools over the whole image, as training pools over
its patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sruplift.models.layers import (
    BLOCK,
    Frame,
    InputNeeds,
    SuperResolver,
    at_pixels,
    bilinear,
    conv,
    leaky,
    means,
    means_around,
    upsampling_stages,
)

RGB_RANGE = 255
TEMPERATURE = 30


@dataclass(frozen=True)
class A2NConfig:
    """Sizes of an A2N. The paper's network is the default; A2N-M has a non-attention kernel of 1.

    ``window`` is the edge of the square, in LR pixels, over which a block pools around each pixel
    (``layers.means_around``); None pools over the whole image, as training does with its patches.
    """

    scale: int = 4
    num_features: int = 40
    num_upsampling_features: int = 24
    num_blocks: int = 16
    non_attention_kernel: int = 3
    window: int | None = None


class DynamicWeights(nn.Module):
    """Attention dropout (figure 3): how much each branch counts, (B, 2, 1, 1) or (B, 2, H, W)."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(num_features, num_features // 4, bias=False)
        self.decide = nn.Linear(num_features // 4, 2, bias=False)

    def forward(self, x: Tensor, window: int | None) -> Tensor:
        mean = means(x) if window is None else means_around(x, window)
        logits = self.decide(F.relu(self.reduce(mean.movedim(1, -1))))
        shares = torch.softmax(logits.float() / TEMPERATURE, dim=-1).movedim(-1, 1)
        return shares if window is None else at_pixels(shares, x.shape[-2:])


class AttentionBranch(nn.Module):
    """A PAN convolution whose gate sees a 3x3 neighbourhood."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.look = conv(num_features, num_features, 3, bias=False)
        self.gate = conv(num_features, num_features, 1)
        self.features = conv(num_features, num_features, 3, bias=False)
        self.project = conv(num_features, num_features, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(leaky(self.look(x))))
        return self.project(self.features(x) * gate)


class AttentionInAttention(nn.Module):
    """A2B (figure 2): an attention and a plain branch, weighted by what the input looks like."""

    def __init__(self, config: A2NConfig) -> None:
        super().__init__()
        features = config.num_features
        self.first = conv(features, features, 1, bias=False)
        self.weights = DynamicWeights(features)
        self.attention = AttentionBranch(features)
        self.non_attention = conv(features, features, config.non_attention_kernel, bias=False)
        self.last = conv(features, features, 1, bias=False)

    def forward(self, x: Tensor, window: int | None) -> Tensor:
        z = leaky(self.first(x))
        attended, plain = self.weights(z, window).to(z.dtype).chunk(2, dim=1)
        mixed = attended * self.attention(z) + plain * self.non_attention(z)
        return x + self.last(leaky(mixed))


class A2N(SuperResolver):
    """LR (B, 3, H, W) in [0, 1] -> SR (B, 3, H * scale, W * scale), RGB, not clamped."""

    def __init__(self, config: A2NConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = config.scale
        self.window = config.window
        self.needs = InputNeeds(receptive_field=None, overlap=32, window=40, grid=BLOCK, memory=3)
        features, narrow = config.num_features, config.num_upsampling_features
        self.head = conv(3, features, 3)
        self.blocks = nn.ModuleList(AttentionInAttention(config) for _ in range(config.num_blocks))
        self.trunk_end = conv(features, features, 3)
        self.upsample = upsampling_stages(features, narrow, config.scale)
        self.last = conv(narrow, 3, 3)

    def enlarge(self, lr: Tensor, frame: Frame) -> Tensor:
        shallow = self.head(lr * RGB_RANGE)
        deep = shallow
        for block in self.blocks:
            deep = block(deep, self.window)
        deep = shallow + self.trunk_end(deep)
        residual = self.last(self.upsample(deep))
        return bilinear(lr, self.scale) + residual / RGB_RANGE
