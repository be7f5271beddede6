"""Blocks that two or more networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv(in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = True) -> nn.Conv2d:
    """A stride-1 convolution that keeps the image's size (zero padding ``kernel_size // 2``)."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)


class PixelAttention(nn.Module):
    """``x * sigmoid(conv1x1(x))``: a weight for each pixel of each channel (PAN, section 3.2)."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.gate = conv(num_features, num_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.gate(x))
