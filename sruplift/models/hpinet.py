"""HPINet: From Coarse to Fine: Hierarchical Pixel Integration for Lightweight Image
Super-Resolution (Liu et al., AAAI 2023).

Implements the network of the authors' released code (passerer/HPINet). It departs from the paper's
text: patches overlap by two pixels, a block is one cross-attention and two self-attentions, the
similarity of a patch with itself is lowered by 100 instead of set to zero, and HPINet-L has 10
blocks. Images of a batch never match patches of each other, which the authors' evaluation does not
take care of.

A tile matches patches within itself. Measured with the authors' x4 weights on crops of 240x240
pixels of five images of Set14 and four of B100, tiles of 128, overlap 32, against the crop, bf16:
41 (baboon) to 70 dB, seven of the nine above 50; tiles of 192: 44 to 72 dB, seven above 50. Without
knowing the tile's place, so with other patches, it was 37 dB for baboon instead of 41.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sruplift.models.layers import Frame, InputNeeds, SuperResolver, bilinear, conv, stage_factors

NEGATIVE_SLOPE = 0.1
PATCH_OVERLAP = 2
SELF_PENALTY = 100
# Of so many pairs of pixels the attention's weights stay in a core's cache.
CACHED_WEIGHTS = 1_000_000


@dataclass(frozen=True)
class HPINetConfig:
    """Sizes of an HPINet: a block for each of ``patch_sizes``. HPINet-M is the default."""

    scale: int = 4
    num_features: int = 56
    num_query_features: int = 32
    num_hidden_features: int = 100
    patch_sizes: tuple[int, ...] = (12, 16, 20, 24, 12, 16, 20, 24)


@dataclass(frozen=True)
class PatchGrid:
    """Patches of ``size`` pixels that cover an axis, neighbours sharing two.

    The last one is moved inward, so it may share more. The axis is ``length`` pixels from ``start``
    on of an image's, which has ``total``: patches lie where the image has them, and where it has
    none that is whole in here, at the ends, another one covers the rest.
    """

    length: int
    size: int
    start: int
    total: int

    @property
    def starts(self) -> list[int]:
        """Where the patches begin."""
        last = self.length - self.size
        inside = [s - self.start for s in self._in_image if 0 <= s - self.start <= last]
        return sorted({0, *inside, last})

    @property
    def _in_image(self) -> list[int]:
        step = self.size - PATCH_OVERLAP
        last = self.total - self.size
        return [min(start, last) for start in range(0, last + step, step)]

    def indices(self, device: torch.device) -> Tensor:
        """(patches * size,): the position of every pixel of every patch, one after another."""
        starts = torch.tensor(self.starts, device=device)
        return (starts[:, None] + torch.arange(self.size, device=device)).flatten()

    def weights(self, device: torch.device) -> Tensor:
        """(length,): what the sum of the patches is multiplied by to make it their mean.

        Where three patches meet this is 1/4, as in the authors' code.
        """
        step = self.size - PATCH_OVERLAP
        weights = torch.ones(self.total, dtype=torch.float32, device="cpu")
        for number, start in enumerate(self._in_image[1:], start=1):
            weights[start : number * step + PATCH_OVERLAP] /= 2
        here = slice(self.start, self.start + self.length)
        same = _coverage(self._in_image, self.size, self.total)[here]
        count = _coverage(self.starts, self.size, self.length)
        return torch.where(same == count, weights[here], 1 / count).to(device)


class LayerNorm(nn.LayerNorm):
    """In float32, since PyTorch's kernel for short rows in bf16 takes twice as long on CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float() if x.dtype == torch.bfloat16 else x)


class Attention(nn.Module):
    """Single-head attention of a patch's pixels, on another patch's or on their own."""

    def __init__(self, num_features: int, num_query_features: int) -> None:
        super().__init__()
        self.norm = LayerNorm(num_features)
        self.query = nn.Linear(num_features, num_query_features, bias=False)
        self.key = nn.Linear(num_features, num_query_features, bias=False)
        self.value = nn.Linear(num_features, num_features, bias=False)

    def forward(self, tokens: Tensor, others: Tensor | None = None) -> Tensor:
        """Tokens (B, patches, pixels, features). ``others`` are taken as they are."""
        own = self.norm(tokens)
        source = own if others is None else others
        query, key, value = self.query(own), self.key(source), self.value(source)
        return tokens + scaled_dot_product(query, key, value, query.shape[-1] ** -0.5)


class FeedForward(nn.Module):
    """Two layers for each pixel."""

    def __init__(self, num_features: int, num_hidden_features: int) -> None:
        super().__init__()
        self.norm = LayerNorm(num_features)
        self.widen = nn.Linear(num_features, num_hidden_features)
        self.narrow = nn.Linear(num_hidden_features, num_features)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.narrow(F.gelu(self.widen(self.norm(tokens))))


class Matching(nn.Module):
    """Global pixel access (section 3.2): for each patch the one that is most like it.

    Gives the partners' tokens. In training the choice is sampled (Gumbel softmax, straight
    through), so that it has a gradient.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.norm = LayerNorm(num_features)

    def forward(self, tokens: Tensor) -> Tensor:
        half = tokens.dtype in (torch.bfloat16, torch.float16)
        likeness = self.likeness(tokens.mean(2, dtype=torch.float32 if half else None))
        if self.training:
            choice = F.gumbel_softmax(likeness, tau=1, hard=True).to(tokens.dtype)
            return (choice @ tokens.flatten(2)).view_as(tokens)
        partner = likeness.argmax(-1)
        return tokens.gather(1, partner[:, :, None, None].expand_as(tokens))

    def likeness(self, means: Tensor) -> Tensor:
        """Of each patch with each, (B, patches, patches), by their means (B, patches, features)."""
        means, kind = self.norm(means).float(), means.device.type
        supported = torch.amp.is_autocast_available(kind)
        exact = torch.autocast(kind, enabled=False) if supported else contextlib.nullcontext()
        with exact:  # in bf16 patches would be all alike
            likeness = means @ means.mT * means.shape[-1] ** -0.5
        return likeness - SELF_PENALTY * torch.eye(means.shape[1], device=means.device)


class PixelIntegration(nn.Module):
    """HPIB (figure 3): divide into patches, match, attend across, then within, put together."""

    def __init__(self, config: HPINetConfig, patch_size: int) -> None:
        super().__init__()
        features, queries = config.num_features, config.num_query_features
        self.patch_size = patch_size
        self.match = Matching(features)
        self.attentions = nn.ModuleList(Attention(features, queries) for _ in range(3))
        self.feed_forwards = nn.ModuleList(
            FeedForward(features, config.num_hidden_features) for _ in range(3)
        )
        self.conv = conv(features, features, 3)

    def forward(self, x: Tensor, frame: Frame) -> Tensor:
        size = self.patch_size
        rows = PatchGrid(x.shape[-2], size, frame.top, frame.height)
        columns = PatchGrid(x.shape[-1], size, frame.left, frame.width)
        tokens = divide(x, rows, columns)
        others: Tensor | None = self.match(tokens)
        for attend, feed_forward in zip(self.attentions, self.feed_forwards, strict=True):
            tokens = feed_forward(attend(tokens, others))
            others = None
        return x + self.conv(put_together(tokens, rows, columns))


class HPINet(SuperResolver):
    """LR (B, 3, H, W) in [0, 1] -> SR (B, 3, H * scale, W * scale), RGB, not clamped.

    Time and memory of the matching grow with the square of the image's size.
    """

    def __init__(self, config: HPINetConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = config.scale
        self.needs = InputNeeds(
            receptive_field=None,
            min_size=max(config.patch_sizes),
            overlap=32,
            largest_tile=384,
            memory=9,
            frame=True,
        )
        features = config.num_features
        self.head = conv(3, features, 3)
        self.blocks = nn.ModuleList(
            PixelIntegration(config, patch_size) for patch_size in config.patch_sizes
        )
        self.upsample = nn.ModuleList(
            conv(features, features * factor**2, 3) for factor in stage_factors(config.scale)
        )
        self.last = conv(features, 3, 3)

    def enlarge(self, lr: Tensor, frame: Frame) -> Tensor:
        x = self.head(lr)
        for block in self.blocks:
            x = block(x, frame)
        for widen, factor in zip(self.upsample, stage_factors(self.scale), strict=True):
            x = F.leaky_relu(F.pixel_shuffle(widen(x), factor), NEGATIVE_SLOPE)
        return bilinear(lr, self.scale) + self.last(x)


def scaled_dot_product(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """``softmax(query key^T * scale) value`` for each of (B, patches, pixels, features).

    On CPUs a few patches at once, so that their weights stay in the cache: PyTorch's attention
    takes 2.5 times as long in bf16, 1.1 times in fp32 (patches of 12 to 24 pixels, one core).
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, scale=scale)
    patches = max(CACHED_WEIGHTS // (query.shape[-2] * key.shape[-2]), 1)
    factors = (torch.split(x.flatten(0, 1), patches) for x in (query * scale, key, value))
    parts = [(q @ k.mT).softmax(-1) @ v for q, k, v in zip(*factors, strict=True)]
    return torch.cat(parts).view_as(value)


def divide(x: Tensor, rows: PatchGrid, columns: PatchGrid) -> Tensor:
    """(B, C, H, W) -> tokens (B, patches, size**2, C), patches and pixels row by row."""
    # A pixel's channels side by side, as tokens have them.
    x = x.permute(0, 2, 3, 1).contiguous()
    x = x.index_select(1, rows.indices(x.device)).index_select(2, columns.indices(x.device))
    down, across, side = len(rows.starts), len(columns.starts), rows.size
    x = x.reshape(x.shape[0], down, side, across, side, x.shape[-1]).transpose(2, 3)
    return x.reshape(x.shape[0], down * across, side**2, x.shape[-1])


def put_together(tokens: Tensor, rows: PatchGrid, columns: PatchGrid) -> Tensor:
    """The map (B, C, H, W) whose patches are ``tokens``, means where they overlap."""
    down, across, side = len(rows.starts), len(columns.starts), rows.size
    x = tokens.reshape(tokens.shape[0], down, across, side, side, tokens.shape[-1]).transpose(2, 3)
    x = x.reshape(x.shape[0], down * side, across * side, x.shape[-1])
    x = _sum_patches(_sum_patches(x, 1, rows), 2, columns)
    weights = rows.weights(x.device)[:, None] * columns.weights(x.device)
    return (x * weights[..., None].to(x.dtype)).permute(0, 3, 1, 2)


def _coverage(starts: list[int], size: int, length: int) -> Tensor:
    """(length,): how many patches each pixel lies in."""
    count = torch.zeros(length, dtype=torch.float32, device="cpu")
    for start in starts:
        count[start : start + size] += 1
    return count


def _sum_patches(x: Tensor, dim: int, grid: PatchGrid) -> Tensor:
    shape = list(x.shape)
    shape[dim] = grid.length
    return x.new_zeros(shape).index_add(dim, grid.indices(x.device), x)
