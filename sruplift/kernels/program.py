"""Many convolutions at a time, in bf16 or float32: ``program.h`` called from PyTorch."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import itertools
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sruplift.kernels.library import Arithmetic, MapCall, OpCall
from sruplift.kernels.spare import SPARE

# Maps, and convolutions, that program.h has room for in a program.
MOST = 24
# From so few outputs on, what filtering a 3x3 kernel takes is repaid.
FEWEST_FILTERED = 8
# Of Winograd's F(4, 3), as in points.h: the points are 0, +-A, +-1 / A and infinity.
A = 0.5**0.5


class UnsuitedError(ValueError):
    """What the kernels have no way for."""


class PlaneMap:
    """A map (C, H, W) as program.h has it.

    Rows are made of planes: in bf16 one of two channels, whose values of a pixel lie side by side,
    in float32 one of each channel.
    """

    def __init__(self, arithmetic: Arithmetic, channels: int, height: int, width: int) -> None:
        self.arithmetic = arithmetic
        self.channels, self.height, self.width = channels, height, width
        pairs = pairs_of(channels)
        count = arithmetic.function("cells")(pairs, height, width)
        self.data = SPARE.take(count)
        weakref.finalize(self, SPARE.give, self.data).atexit = False
        arithmetic.function("clear")(self.address, pairs, height, width)

    @classmethod
    def of(cls, arithmetic: Arithmetic, maps: Tensor) -> PlaneMap:
        """``maps`` (C, H, W), in bf16 rounded to it."""
        maps = maps.to("cpu", torch.float32).resolve_neg()
        made = cls(arithmetic, *maps.shape)
        steps = (ctypes.c_ssize_t(step) for step in maps.stride())
        arithmetic.function("pack")(
            ctypes.c_void_p(maps.data_ptr()), *steps, *maps.shape, made.address
        )
        return made

    @property
    def address(self) -> ctypes.c_void_p:
        """Where it begins."""
        return ctypes.c_void_p(self.data.data_ptr())


@dataclasses.dataclass(frozen=True)
class Part:
    """Channels of one of a program's maps: ``pairs`` of them, two by two, from ``first`` on."""

    map: int
    first: int
    pairs: int

    def part(self, number: int, count: int) -> Part:
        """One of ``count`` parts of its channels.

        Raises:
            ValueError: there is no such part, or it would end amid a pair.
        """
        pairs = self.pairs // count
        if not 0 <= number < count or pairs * count != self.pairs:
            raise UnsuitedError(f"part {number} of {count} of {self.pairs} pairs of channels")
        return Part(self.map, self.first + number * pairs, pairs)


class Program:
    """Convolutions that are computed row by row, maps between them in a CPU's cache.

    Maps are added by ``room`` and ``convolve``. Those that ``run`` is given, and the result's, are
    in memory; of the others each thread has the rows that it needs.
    """

    def __init__(self, arithmetic: Arithmetic) -> None:
        self.arithmetic = arithmetic
        self._maps: list[tuple[int, int]] = []  # pairs and scale
        self._read: set[int] = set()
        self._written: list[Part] = []
        self._operations: list[dict[str, Any]] = []
        self._held: list[tuple[Tensor, Tensor, Tensor]] = []

    def room(self, channels: int, scale: int = 1) -> Part:
        """A new map, ``scale`` times larger than what the program is run for.

        Raises:
            ValueError: there are too many.
        """
        return self._new(pairs_of(channels), scale)

    def plane(self, scale: int = 1) -> Part:
        """A new map of one channel in float32, which ``run`` is given as a tensor (1, H, W)."""
        return self._new(0, scale)

    def _new(self, pairs: int, scale: int) -> Part:
        if len(self._maps) == MOST:
            raise UnsuitedError(f"a program has at most {MOST} maps")
        self._maps.append((pairs, scale))
        return Part(len(self._maps) - 1, 0, pairs)

    def convolve(
        self,
        x: Part,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        enlarge: int = 1,
        shuffle: int = 1,
        sigmoid: int = 0,
        mul: Part | None = None,
        add: Part | None = None,
        share: Part | None = None,
        slope: float = 1.0,
        exact: bool = False,
        out: Part | None = None,
    ) -> Part:
        """A convolution of ``x`` with zeros around it, and what follows; what it makes.

        Args:
            x: what it reads.
            weight: (O, I, k, k), k 1 or 3.
            bias: (O,) or None.
            enlarge: how many times the map is enlarged before, by nearest neighbour: 1, 2, 3.
            shuffle: how many pixels along each side outputs become, in the order (row, column,
                channel): 1, 2, 3. Only without ``enlarge``.
            sigmoid: whether a sigmoid follows, 2 for the sigmoid of a ReLU; then comes the product
                with ``mul``, then the sum with ``add``, both maps as large as the result.
            share: a plane; then of each pixel's sum so much is the result's and the rest ``add``'s.
            slope: of a leaky ReLU after all that; 1 is none, 0 is ReLU.
            exact: whether a 3x3 kernel is multiplied as it is, not by Winograd's filtering, which
                multiplies less and rounds more.
            out: where to; else a new map.

        Raises:
            ValueError: what does not fit together.
        """
        larger, (_, inputs, kernel, wide) = enlarge * shuffle, weight.shape
        outputs, others = weight.shape[0] // shuffle**2, [p for p in (out, mul, add) if p]
        scale = self._maps[x.map][1] * larger if self._holds(x) else 0
        if (
            not all(map(self._holds, (x, *others)))
            or kernel not in (1, 3)
            or wide != kernel
            or sigmoid not in (0, 1, 2)
            or (larger > 1 and (mul or add))
            or larger not in (1, 2, 3)
            or outputs < 1
            or weight.shape[0] != outputs * shuffle**2
            or (bias is not None and bias.shape != weight.shape[:1])
            or x.pairs != pairs_of(inputs)
            or (share is not None and (add is None or self._maps[share.map] != (0, scale)))
            or any(self._maps[part.map][1] != scale for part in others)
            or any(part.pairs != pairs_of(outputs) for part in others)
        ):
            raise UnsuitedError("a convolution of maps that do not fit it")
        if len(self._operations) == MOST:
            raise UnsuitedError(f"a program has at most {MOST} convolutions")
        out = out or self.room(outputs, scale)
        read = self._read | {part.map for part in (x, mul, add) if part is not None}
        # Rows are made when they are asked for, with all that is written into them by then.
        if out.map in read or any(_overlap(out, part) for part in self._written):
            raise UnsuitedError("a convolution into what is read or written already")
        self._read = read
        self._written.append(out)
        self.__dict__.pop("_calls", None)
        block = self.arithmetic.block_of(outputs)
        filters = kernel == 3 and larger == 1 and outputs >= FEWEST_FILTERED and not exact
        rows = self.arithmetic.filtered if filters else 1
        parts: Iterable[Cells]
        if shuffle > 1:
            parts = map(_taps, weight.reshape(-1, outputs, *weight.shape[1:]))
        else:
            parts = _FILTERS[rows](weight) if filters else _places(weight, enlarge)
        biases = torch.zeros(outputs * larger**2, dtype=torch.float32, device="cpu")
        if bias is not None:
            biases = bias.detach().repeat(enlarge**2)
        self._held.append(pack(self.arithmetic, parts, biases.view(-1, outputs)))
        self._operations.append(
            {
                "input": x.map,
                "first_input": x.first,
                "pairs": x.pairs,
                "output": out.map,
                "first_output": out.first,
                "outputs": outputs,
                "block": block,
                "rows": rows,
                "enlarge": larger,
                "reach": kernel // 2 * shuffle,
                "activation": sigmoid,
                "mul": -1 if mul is None else mul.map,
                "first_mul": 0 if mul is None else mul.first,
                "add": -1 if add is None else add.map,
                "first_add": 0 if add is None else add.first,
                "share": -1 if share is None else share.map,
                "slope": slope,
            }
        )
        return out

    def run(self, size: tuple[int, int], maps: Mapping[Part, PlaneMap | Tensor]) -> None:
        """Compute the last convolution's result.

        Args:
            size: (height, width) of maps of scale 1.
            maps: at least those that no convolution makes, and the result's, which is written to;
                by any part of them. A tensor (C, H, W) of float32 on the CPU, whose pixels lie side
                by side, may stand for the result's, if one convolution makes it and none reads it:
                then the result is added to it. For planes there are such tensors only. What
                another convolution makes and none reads is not written; rows of a map that are made
                and read in the program may be written by two threads, with the same values.

        Raises:
            ValueError: maps are missing, or of other sizes.
            MemoryError: there is not enough of it.
        """
        height, width = size
        if not self._operations:
            raise ValueError("a program without a convolution")
        end = self._written[-1].map
        given_maps = {part.map for part in maps}
        # Of a map that is not given, every part is made.
        pairs_made = [0] * len(self._maps)
        for part in self._written:
            pairs_made[part.map] += part.pairs
        made_or_given = all(
            number in given_maps or pairs_made[number] == pairs > 0
            for number, (pairs, _) in enumerate(self._maps)
        )
        if not made_or_given or end not in given_maps:
            raise ValueError("a program without one of its maps, or of its parts")
        made = [MapCall(pairs, scale, None, None, 0, 0) for pairs, scale in self._maps]
        for part, given in maps.items():
            pairs, scale = self._maps[part.map]
            large = (height * scale, width * scale)
            if isinstance(given, PlaneMap):
                fits = (pairs_of(given.channels), given.height, given.width) == (pairs, *large)
                fits = fits and given.arithmetic == self.arithmetic
                made[part.map].data = given.data.data_ptr()
            else:
                # Into an image one convolution writes, the last one; planes are read.
                alone = sum(other.map == end for other in self._written) == 1
                is_result = part.map == end and alone and end not in self._read
                channels = self._operations[-1]["outputs"] if is_result else 1
                fits = (is_result or pairs == 0) and given.shape == (channels, *large)
                fits = fits and _is_plain(given)
                made[part.map].image = given.data_ptr()
                made[part.map].image_row = given.stride(1)
                made[part.map].image_channel = given.stride(0)
            if not fits:
                raise ValueError("maps of other sizes than the program's")
        held = [each.data.data_ptr() for each in maps.values() if isinstance(each, PlaneMap)]
        if len(set(held)) < len(held):
            raise ValueError("the same map given twice")
        if self.arithmetic.function("run")(
            self._calls, len(self._calls), (MapCall * len(made))(*made), len(made), height, width,
            torch.get_num_threads(),
        ):  # fmt: skip
            raise MemoryError("not enough memory for a network's rows")

    def _holds(self, part: Part) -> bool:
        """Whether there is such a part."""
        pairs = self._maps[part.map][0] if 0 <= part.map < len(self._maps) else 0
        return 0 <= part.first < part.first + part.pairs <= pairs

    @functools.cached_property
    def _calls(self) -> ctypes.Array[OpCall]:
        """The convolutions, with the addresses of what they hold."""
        calls = []
        for operation, held in zip(self._operations, self._held, strict=True):
            taps, weight, bias = (tensor.data_ptr() for tensor in held)
            calls.append(OpCall(**operation, taps=taps, weight=weight, bias=bias))
        return (OpCall * len(calls))(*calls)

    def __getstate__(self) -> dict[str, Any]:
        """Without addresses: a copy holds tensors of its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_calls"}


def _overlap(one: Part, other: Part) -> bool:
    apart = one.first >= other.first + other.pairs or other.first >= one.first + one.pairs
    return one.map == other.map and not apart


def _is_plain(maps: Tensor) -> bool:
    """Whether program.h can write each of its values by itself."""
    channels, height, width = maps.shape
    channel, row, step = maps.stride()
    beside = row >= width and channel >= (height - 1) * row + width
    within = channel >= width and row >= (channels - 1) * channel + width
    alone = (height == 1 and channel >= width) or (channels == 1 and row >= width)
    plain = maps.device.type == "cpu" and maps.dtype == torch.float32 and step == 1
    return plain and (beside or within or alone)


def pairs_of(channels: int) -> int:
    """How many pairs of channels those are. An odd one has a companion that counts for nothing."""
    return (channels + 1) // 2


# What a tap's (row, column) is multiplied with, (O, I).
Cells = dict[tuple[int, int], Tensor]


def _taps(weight: Tensor) -> Cells:
    """Of a kernel (O, I, k, k)."""
    reach = weight.shape[-1] // 2
    places = itertools.product(range(weight.shape[-1]), repeat=2)
    return {(i - reach, j - reach): weight[:, :, i, j] for i, j in places}


def _places(weight: Tensor, enlarge: int) -> Iterator[Cells]:
    """For each place in an enlarged pixel: taps that fall on the same small pixel are one."""
    for row, column in itertools.product(range(enlarge), repeat=2):
        cells: Cells = {}
        for (i, j), tap in _taps(weight).items():
            place = (row + i) // enlarge, (column + j) // enlarge
            cells[place] = cells.get(place, 0) + tap
        yield cells


def _filtered_by_two(weight: Tensor) -> Iterator[Cells]:
    """For each of the four rows that two rows of a result are made of: Winograd's F(2, 3).

    Source: A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016;
    here along columns only, since rows lie as they are needed.
    """
    first, middle, last = weight.float().unbind(2)
    ends = first + last
    yield from map(_row, (first, (ends + middle) / 2, (ends - middle) / 2, last))


def _filtered_by_four(weight: Tensor) -> Iterator[Cells]:
    """For each of the 36 sums that 4x4 pixels of a result are made of: F(4x4, 3x3)."""
    points = ((A, -2 / 3), (-A, -2 / 3), (1 / A, 1 / 6), (-1 / A, 1 / 6))
    rows = [(factor, factor * point, factor * point**2) for point, factor in points]
    g = torch.tensor([(1, 0, 0), *rows, (0, 0, 1)], dtype=torch.float64, device="cpu")
    transformed = torch.einsum("ik,ockl,jl->ijoc", g, weight.detach().cpu().double(), g)
    for each in transformed.flatten(0, 1):
        yield {(0, 0): each}


def _row(weight: Tensor) -> Cells:
    """The taps of one row of a kernel, (O, I, 3)."""
    return {(0, j - 1): weight[:, :, j] for j in range(3)}


_FILTERS = {2: _filtered_by_two, 4: _filtered_by_four}


def pack(
    arithmetic: Arithmetic, parts: Iterable[Cells], bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The taps, the weight and the bias as program.h takes them, outputs in whole blocks.

    ``bias`` is (1 or as many as there are parts, O).
    """
    block = arithmetic.block_of(bias.shape[1])
    per, dtype = (2, torch.bfloat16) if arithmetic.half else (1, torch.float32)
    taps: list[int] = []
    weights: list[Tensor] = []
    # All of a kind at once: a program has thousands of parts.
    for count, alike in itertools.groupby(parts, key=len):
        group = list(alike)
        for cells in group:
            taps += [count, *(step for place in cells for step in place)]
        each = torch.stack([tap for cells in group for tap in cells.values()])
        each = each.detach().to("cpu", torch.float32)
        each = F.pad(each, (0, each.shape[2] % 2, 0, -each.shape[1] % block))
        # (parts, taps, blocks, block, planes, per) -> (parts, blocks, taps, planes, block, per)
        each = each.reshape(len(group), count, -1, block, each.shape[2] // per, per)
        weights.append(each.permute(0, 2, 1, 4, 3, 5).to(dtype).flatten())
    biases = F.pad(bias.to("cpu", torch.float32), (0, -bias.shape[1] % block)).flatten()
    return torch.tensor(taps, dtype=torch.int32, device="cpu"), torch.cat(weights), biases
