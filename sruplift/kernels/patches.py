"""Attention and layers of patches, in bf16 or float32: ``patches.h`` called from PyTorch."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sruplift.kernels.library import Arithmetic, JoinCall, PatchesCall
from sruplift.kernels.program import PlaneMap, UnsuitedError, pack

STEPS = 3

# A layer's weight (O, I) and bias (O,).
Layer = tuple[Tensor, Tensor | None]


class PatchLayers:
    """What HPINet does with its patches, three times: attention, and two layers for each pixel.

    Args:
        arithmetic: what it is computed in.
        side: of a patch, pixels; an even number.
        steps: query, key, value, widen and narrow of each. All but the first step's key and value
            read the pixels' features less their mean, over their standard deviation; those read the
            partner's as they are. Queries have the softmax's scale in them. GELU follows widen.

    Raises:
        UnsuitedError: another side, other steps, or layers that do not fit each other.
    """

    def __init__(self, arithmetic: Arithmetic, side: int, steps: Sequence[Sequence[Layer]]) -> None:
        if side % 2 or side < 2:
            raise UnsuitedError(f"patches of {side}x{side} pixels are no pairs of pixels")
        if len(steps) != STEPS or any(len(step) != 5 for step in steps):
            raise UnsuitedError(f"not {STEPS} steps of five layers")
        self.arithmetic, self.side = arithmetic, side
        (query, _), _, _, (widen, _), (narrow, _) = steps[0]
        self.channels, self.query, self.hidden = narrow.shape[0], query.shape[0], widen.shape[0]
        wide = (self.channels, self.channels)
        shapes = [(self.query, self.channels)] * 2 + [wide, widen.shape, widen.shape[::-1]]
        if [[tuple(weight.shape) for weight, _ in step] for step in steps] != [
            [tuple(shape) for shape in shapes]
        ] * STEPS or any(
            bias is not None and bias.shape != weight.shape[:1]
            for weight, bias in itertools.chain.from_iterable(steps)
        ):
            raise UnsuitedError("layers that do not fit each other")
        self._held = [_packed(arithmetic, *layer) for layer in itertools.chain.from_iterable(steps)]

    def run(
        self,
        x: PlaneMap,
        tops: Sequence[int],
        lefts: Sequence[int],
        match: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """The patches (patches, C, side * side) of ``x``, row by row, in float32.

        Args:
            x: C channels.
            tops: where rows of patches begin.
            lefts: where columns of patches begin.
            match: gives of the patches' means (patches, C) the number of each one's partner.

        Raises:
            ValueError: a patch is not in the map, or there is no such partner.
            MemoryError: there is not enough of it.
        """
        function, threads = self.arithmetic.function, torch.get_num_threads()
        places = _whole(tops), _whole(lefts)
        if (x.channels, x.arithmetic) != (self.channels, self.arithmetic) or not (
            _within(places[0], x.height - self.side) and _within(places[1], x.width - self.side)
        ):
            raise ValueError("patches that are not in the map")
        count = len(tops) * len(lefts)
        held = [tensor.data_ptr() for pair in self._held for tensor in pair]
        call = PatchesCall(
            x.data.data_ptr(), x.height, x.width, self.channels, self.query, self.hidden,
            self.side, len(tops), len(lefts), *(each.data_ptr() for each in places), None, None,
            (ctypes.c_void_p * len(held))(*held),
        )  # fmt: skip
        means = torch.empty(count, self.channels, dtype=torch.float32, device="cpu")
        function("patch_means")(ctypes.byref(call), ctypes.c_void_p(means.data_ptr()), threads)
        partners = match(means)
        if (
            partners.is_floating_point()
            or partners.shape != (count,)
            or not _within(partners, count - 1)
        ):
            raise ValueError("partners that are no patches")
        partners = partners.to("cpu", torch.int32).contiguous()
        result = torch.empty(count, self.channels, self.side**2, dtype=torch.float32, device="cpu")
        call.partners, call.result = partners.data_ptr(), result.data_ptr()
        if function("patches")(ctypes.byref(call), threads):
            raise MemoryError("not enough memory for patches")
        return result


def join(
    arithmetic: Arithmetic,
    patches: Tensor,
    places: tuple[Sequence[int], Sequence[int]],
    weights: tuple[Tensor, Tensor],
) -> PlaneMap:
    """The map that ``patches`` (patches, C, side * side) are of, where they overlap their sum.

    Args:
        arithmetic: what the map is in.
        patches: from ``PatchLayers``.
        places: where rows and columns of patches begin.
        weights: (H,) and (W,), with whose product a pixel is multiplied.

    Raises:
        ValueError: patches of other sizes, or that are not in the map.
        MemoryError: there is not enough of it.
    """
    rows, columns = (weight.float().contiguous() for weight in weights)
    channels, side = patches.shape[1], round(patches.shape[2] ** 0.5)
    tops, lefts = _whole(places[0]), _whole(places[1])
    if (
        patches.dtype != torch.float32
        or patches.device.type != "cpu"
        or not patches.is_contiguous()
        or patches.shape != (len(tops) * len(lefts), channels, side**2)
        or not (_within(tops, len(rows) - side) and _within(lefts, len(columns) - side))
    ):
        raise ValueError("patches that are not in the map")
    made = PlaneMap(arithmetic, channels, len(rows), len(columns))
    call = JoinCall(
        patches.data_ptr(), channels, made.height, made.width, side, len(tops), len(lefts),
        tops.data_ptr(), lefts.data_ptr(), rows.data_ptr(), columns.data_ptr(),
        made.data.data_ptr(),
    )  # fmt: skip
    if arithmetic.function("join")(ctypes.byref(call), torch.get_num_threads()):
        raise MemoryError("not enough memory for patches")
    return made


def _packed(arithmetic: Arithmetic, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    outputs = weight.shape[0]
    biases = torch.zeros(outputs, dtype=torch.float32, device="cpu") if bias is None else bias
    _, weights, biases = pack(arithmetic, [{(0, 0): weight}], biases[None].detach())
    return weights, biases


def _whole(numbers: Sequence[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32, device="cpu")


def _within(numbers: Tensor, last: int) -> bool:
    return bool((numbers >= 0).all()) and bool((numbers <= last).all())
