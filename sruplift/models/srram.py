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

import functools
from collections.abc import Iterator, Mapping
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
    conv,
    means,
    means_around,
    stage_factors,
)

RGB_RANGE = 255
MEAN_COLOUR = (0.4488, 0.4371, 0.4040)
REDUCTION = 16
Part = tuple[slice, ...]
# A network that starts at random keeps the image itself in its first channels, divided by this (a
# power of two, which float16 holds exactly). Else training has to learn the image first, whose
# levels are large beside what there is to add to it, and whose variance shuts channels for good.
# With 256 the attention's logits hardly vary, with 2 the channels begin to be shut.
IMAGE_UNIT = 16
# Of the rest of the last convolution at the start.
FIRST_DETAIL = 0.1


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

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.conv1 = conv(num_features, num_features, 3)
        self.conv2 = conv(num_features, num_features, 3)
        self.squeeze = conv(num_features, num_features // REDUCTION, 1)
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
        self._start_with_the_image()

    @torch.no_grad()
    def _start_with_the_image(self) -> None:
        """The rest at random, for features that are about as large as the image is in them."""
        self.head.weight.div_(IMAGE_UNIT)
        self.last.weight.mul_(IMAGE_UNIT * FIRST_DETAIL)
        for parameter, part, value in self._image_path():
            parameter[part] = value

    def _image_path(self) -> Iterator[tuple[Tensor, Part, Tensor]]:
        """What carries the image: the part of a parameter, and its value.

        The head copies it, the trunk's end leaves it alone, and so it is enlarged bilinearly.
        """
        image, everything = slice(0, 3), slice(None)
        centre = torch.zeros(3, 3, 3, 3)
        centre[range(3), range(3), 1, 1] = 1
        of = dict(self.named_parameters())
        yield of["head.weight"], (image, everything), centre / IMAGE_UNIT
        yield of["head.bias"], (image,), torch.zeros(())
        yield of["trunk_end.weight"], (image, everything), torch.zeros(())
        yield of["trunk_end.bias"], (image,), torch.zeros(())
        for stage, factor in enumerate(stage_factors(self.scale)):
            phases = slice(0, 3 * factor**2)
            weight = torch.zeros(3, factor**2, self.config.num_features, 3, 3)
            weight[range(3), :, range(3)] = _bilinear_phases(factor)
            yield of[f"upsample.{stage}.weight"], (phases, everything), weight.flatten(0, 1)
            yield of[f"upsample.{stage}.bias"], (phases,), torch.zeros(())
        yield of["last.weight"], (everything, image), centre * IMAGE_UNIT

    @property
    def holds_the_image(self) -> bool:
        """Whether the first channels carry the image, as at the start (float16 rounds thirds)."""
        return all(
            torch.allclose(parameter[part], value.to(parameter), rtol=1e-3, atol=0)
            for parameter, part, value in self._image_path()
        )

    @property
    def step_sizes(self) -> Mapping[str, float]:
        """How large the steps of these are, beside the others', where features are so small."""
        if not self.holds_the_image:
            return {}
        from_image, to_image = 1 / IMAGE_UNIT, float(IMAGE_UNIT)
        return {"head.weight": from_image, "last.weight": to_image, "last.bias": to_image}

    @torch.no_grad()
    def prepare_training(self) -> None:
        """Let what carries the image get no gradient, if it is there."""
        if not self.holds_the_image:
            return
        for parameter, part, value in self._image_path():
            parameter[part] = value.to(parameter)
            free = torch.ones_like(parameter)
            free[part] = 0
            parameter.register_hook(functools.partial(_masked, free))  # type: ignore[no-untyped-call]

    def enlarge(self, lr: Tensor, frame: Frame) -> Tensor:
        shallow = self.head((lr - self.mean) * RGB_RANGE)
        deep = shallow
        for block in self.blocks:
            deep = block(deep, self.window)
        deep = shallow + self.trunk_end(deep)
        for widen, factor in zip(self.upsample, stage_factors(self.scale), strict=True):
            deep = F.pixel_shuffle(widen(deep), factor)
        return self.last(deep).float() / RGB_RANGE + self.mean


def _masked(free: Tensor, gradient: Tensor) -> Tensor:
    return gradient * free.to(gradient)


def _bilinear_phases(factor: int) -> Tensor:
    """Kernels (factor * factor, 3, 3) that give the pixels of each place within an enlarged one."""
    offsets = (torch.arange(factor) + 0.5) / factor - 0.5
    taps = (1 - (offsets[:, None] - torch.tensor([-1.0, 0.0, 1.0])).abs()).clamp(min=0)
    return torch.einsum("ay,bx->abyx", taps, taps).flatten(0, 1)


def _variance(x: Tensor, window: int | None) -> Tensor:
    """Population variance of each channel, (B, C, 1, 1), or around each block (B, C, h, w)."""
    x = x.float()  # a difference of squares, which half precision loses
    if window is None:
        # ``var`` is many times slower where channels are last.
        return means((x - means(x)).square())
    return (means_around(x.square(), window) - means_around(x, window).square()).clamp(0)
