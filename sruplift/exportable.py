"""The networks rewritten for export: the same result, to rounding, of operations that ONNX has.

A graph is made once and takes images of every size, so what a network computes from the size in
Python is computed by tensors here. ``sruplift.fuse`` rewrites networks for PyTorch's kernels, with
copies and strips that cost other runtimes more than they save (``docs/backends.md``). Of that, the
convolution that runs before the enlarging instead of after it is taken over.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sruplift.errors import UsageError
from sruplift.fuse.rewrites import make_conv, members, of_nearest
from sruplift.models.a2n import A2N, TEMPERATURE, AttentionInAttention, DynamicWeights
from sruplift.models.layers import (
    BLOCK,
    InputNeeds,
    UpsamplingStage,
    at_pixels,
    block_sizes,
    leaky,
)
from sruplift.models.maffsrn import (
    MAFFSRN,
    NEGATIVE_SLOPE,
    PERIOD,
    POOL_STRIDE,
    POOL_WINDOW,
    FeatureFusionGroup,
    MultiAttentionBlock,
    WeightNormConv,
)
from sruplift.models.pan import PAN
from sruplift.models.srram import SRRAM, ResidualAttention

EXPORTABLE = (PAN, A2N, MAFFSRN, SRRAM)


class Exportable(nn.Module):
    """LR (B, 3, H, W) -> SR (B, 3, H * scale, W * scale), as ``net``, for images it can take.

    ``frame`` (4,), int64, is the four numbers of a ``Frame``; without it, ``lr`` is the image.
    """

    def __init__(self, net: nn.Module, places: Callable[[Tensor, Tensor], Any] | None) -> None:
        """``places`` makes of ``lr`` and the frame what ``net`` takes for one."""
        super().__init__()
        self.net, self.places = net, places

    @property
    def framed(self) -> bool:
        """Whether it makes use of a frame."""
        return self.places is not None

    def forward(self, lr: Tensor, frame: Tensor | None = None) -> Tensor:
        if self.places is None:
            return self.net(lr)
        if frame is None:
            sides = [torch.full((1,), size, dtype=torch.int64) for size in (0, 0, *lr.shape[-2:])]
            frame = torch.cat(sides)
        # Past ``forward``, which would mirror images that are too small.
        return self.net.enlarge(lr, self.places(lr, frame))  # type: ignore[operator]


@torch.no_grad()
def exportable(model: nn.Module) -> Exportable:
    """``model`` for export, pooling as its ``needs`` say; ``model`` stays as it is.

    What is not one of our networks is exported as it is.

    Raises:
        UsageError: it is an HPINet, or another that wants to know where a tile lies.
    """
    check_exportable(model)
    net = copy.deepcopy(model).cpu().float().eval()
    needs: InputNeeds | None = getattr(net, "needs", None)
    if needs is not None and needs.window is not None:
        net.window = needs.window  # type: ignore[assignment]
    if isinstance(net, PAN | A2N):
        stages = members(net.upsample, UpsamplingStage)
        net.upsample = nn.Sequential(*(ExportableStage(stage) for stage in stages))
    if isinstance(net, A2N):
        for block in members(net.blocks, AttentionInAttention):
            block.weights = ExportableWeights(block.weights)  # type: ignore[assignment]
    elif isinstance(net, SRRAM):
        blocks = members(net.blocks, ResidualAttention)
        net.blocks = nn.ModuleList(ExportableAttention(block) for block in blocks)
    elif isinstance(net, MAFFSRN):
        for group in members(net.groups, FeatureFusionGroup):
            mabs = members(group.blocks, MultiAttentionBlock)
            group.blocks = nn.ModuleList(ExportableBlock(block) for block in mabs)
        _fold_weight_norm(net)
    made = Exportable(net, stretched_places if isinstance(net, MAFFSRN) else None)
    return made.eval().requires_grad_(False)


def check_exportable(model: nn.Module) -> None:
    """Say now what ``exportable`` would say.

    Raises:
        UsageError: as there.
    """
    needs: InputNeeds = getattr(model, "needs", InputNeeds(receptive_field=None))
    if needs.frame and not isinstance(model, MAFFSRN):
        raise UsageError(
            f"{type(model).__name__} cannot be exported: it divides an image by sums that Python"
            " does for each size and place (PAN, A2N, MAFFSRN and SRRAM can be exported)"
        )


class ExportableStage(nn.Module):
    """``UpsamplingStage``, its first convolution on the small map."""

    def __init__(self, stage: UpsamplingStage) -> None:
        super().__init__()
        self.scale = stage.scale
        spread = of_nearest(stage.conv, stage.scale)
        assert spread.bias is not None
        # Its channels are (row, column, C); ``pixel_shuffle`` wants (C, row, column).
        order = torch.arange(spread.out_channels).view(stage.scale**2, -1).T.flatten()
        self.conv = make_conv(spread.weight[order], spread.bias[order], padding=1)
        self.attention, self.refine = stage.attention, stage.refine

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2] * self.scale, x.shape[-1] * self.scale
        x = F.pixel_shuffle(self.conv(x), self.scale)[..., 1 : height + 1, 1 : width + 1]
        return leaky(self.refine(leaky(self.attention(x))))


class ExportableWeights(nn.Module):
    """``DynamicWeights``; its first layer is linear, so it goes before the mean."""

    def __init__(self, weights: DynamicWeights) -> None:
        super().__init__()
        self.reduce = make_conv(weights.reduce.weight[:, :, None, None], None)
        self.decide = make_conv(weights.decide.weight[:, :, None, None] / TEMPERATURE, None)

    def forward(self, x: Tensor, window: int) -> Tensor:
        means = means_around(self.reduce(x), window)
        return at_pixels(torch.softmax(self.decide(F.relu(means)), dim=1), x.shape[-2:])


class ExportableAttention(nn.Module):
    """``ResidualAttention``."""

    def __init__(self, block: ResidualAttention) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, window: int) -> Tensor:
        block = self.block
        features = block.conv2(F.relu(block.conv1(x)))
        squares, means = means_around(torch.cat([features.square(), features], 1), window).chunk(
            2, 1
        )
        variance = (squares - means.square()).clamp(0)
        channel = at_pixels(block.excite(F.relu(block.squeeze(variance))), x.shape[-2:])
        return x + torch.sigmoid(channel + block.depthwise(features)) * features


class ExportableBlock(MultiAttentionBlock):
    """``MultiAttentionBlock``, told by ``stretched_places`` where its pooled maps go."""

    def __init__(self, block: MultiAttentionBlock) -> None:
        nn.Module.__init__(self)
        for name, module in block.named_children():
            setattr(self, name, module)

    def _from_afar(self, x: Tensor, frame: Any) -> Tensor:
        rows, columns = frame
        reduced = self.reduce(x)
        pooled = F.max_pool2d(self.shrink(reduced), POOL_WINDOW, POOL_STRIDE)
        wide = _activate(self.dilated(pooled)) + _activate(self.plain(pooled))
        wide = wide.index_select(-2, rows).index_select(-1, columns)
        return torch.sigmoid(F.relu(self.increase(wide + reduced)))


def means_around(x: Tensor, window: int) -> Tensor:
    """``layers.means_around``, without a map whose size depends on whether the window fits."""
    height, width = x.shape[-2:]
    # As far as the last block can lack; what is then too much is less than a block.
    x = F.pad(x.float(), (0, BLOCK - 1, 0, BLOCK - 1))
    sums = F.avg_pool2d(x, BLOCK) * BLOCK**2
    area = block_sizes(height)[:, None] * block_sizes(width)
    return _sums_around(sums, window) / _sums_around(area[None, None], window)


def _sums_around(blocks: Tensor, window: int) -> Tensor:
    for dim in (-1, -2):
        length = blocks.shape[dim]
        edge = torch.sym_min(length, window // BLOCK)  # type: ignore[no-untyped-call]
        sums = blocks.cumsum(dim)
        sums = torch.cat([torch.zeros_like(sums.narrow(dim, 0, 1)), sums], dim)
        first = (torch.arange(length) - edge // 2).clamp(0, length - edge)
        blocks = sums.index_select(dim, first + edge) - sums.index_select(dim, first)
    return blocks


def stretched_places(lr: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
    """For each row and each column of ``lr`` the one of MAFFSRN's pooled maps that it takes.

    As ``models.maffsrn`` stretches them for the image of ``frame``.
    """
    top, left, height, width = frame.unbind()
    return _places(lr.shape[-2], top, height), _places(lr.shape[-1], left, width)


def _places(size: int, start: Tensor, length: Tensor) -> Tensor:
    in_image = _pooled(length)
    ratio = (in_image.double() / length.double()).float()
    index = ((torch.arange(size) + start).float() * ratio).floor().long()
    index = torch.minimum(index, in_image - 1) - start // PERIOD
    return index.clamp(0, _pooled(size) - 1)


def _pooled(length: Any) -> Any:
    """The pooled map's side for an image's."""
    return ((length + 1) // 2 - POOL_WINDOW) // POOL_STRIDE + 1


def _fold_weight_norm(net: nn.Module) -> None:
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, WeightNormConv):
                reach = child.weight.shape[-1] // 2
                setattr(module, name, make_conv(child.weight, child.bias, padding=reach))


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, NEGATIVE_SLOPE)
