"""Many convolutions in bf16 at a time: ``half.c`` called from PyTorch."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sruplift.kernels.library import HalfMap, HalfOp, Kernels

# Outputs that are computed together: those for which half.c has a loop, best first.
BLOCKS = (12, 10, 8, 4, 2)
# Maps, and convolutions, that half.c has room for in a program.
MOST = 24


class UnsuitedError(ValueError):
    """What the kernels have no way for."""


class PairMap:
    """A map (C, H, W) in bf16 as half.c has it: two channels' values of a pixel side by side."""

    def __init__(self, kernels: Kernels, channels: int, height: int, width: int) -> None:
        self.channels, self.height, self.width = channels, height, width
        pairs = pairs_of(channels)
        count = kernels.library.sruplift_half_pairs(pairs, height, width)
        self.data = torch.empty(count, dtype=torch.int32, device="cpu")
        kernels.library.sruplift_half_clear(self.address, pairs, height, width)

    @classmethod
    def of(cls, kernels: Kernels, maps: Tensor) -> PairMap:
        """``maps`` (C, H, W), rounded to bf16."""
        maps = maps.to("cpu", torch.float32)
        made = cls(kernels, *maps.shape)
        steps = (ctypes.c_ssize_t(step) for step in maps.stride())
        kernels.library.sruplift_half_pack(
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

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels
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
        block = block_of(outputs)
        # Fewer outputs would not repay what the filtering takes.
        by_twos = kernel == 3 and larger == 1 and block >= 8 and not exact
        parts: Iterable[Cells]
        if shuffle > 1:
            parts = map(_taps, weight.reshape(-1, outputs, *weight.shape[1:]))
        else:
            parts = _filtered(weight) if by_twos else _places(weight, enlarge)
        biases = torch.zeros(outputs * larger**2, dtype=torch.float32, device="cpu")
        if bias is not None:
            biases = bias.detach().repeat(enlarge**2)
        self._held.append(pack(parts, biases.view(-1, outputs), block))
        self._operations.append(
            {
                "input": x.map,
                "first_input": x.first,
                "pairs": x.pairs,
                "output": out.map,
                "first_output": out.first,
                "outputs": outputs,
                "block": block,
                "rows": 2 if by_twos else 1,
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

    def run(self, size: tuple[int, int], maps: Mapping[Part, PairMap | Tensor]) -> None:
        """Compute the last convolution's result.

        Args:
            size: (height, width) of maps of scale 1.
            maps: at least those that no convolution makes, and the result's, which is written to;
                by any part of them. A tensor (C, H, W) of float32 on the CPU, whose pixels lie side
                by side, may stand for the result's, if one convolution makes it and none reads it:
                then the result is added to it. For planes there are such tensors only.

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
        made = [HalfMap(pairs, scale, None, None, 0, 0) for pairs, scale in self._maps]
        for part, given in maps.items():
            pairs, scale = self._maps[part.map]
            large = (height * scale, width * scale)
            if isinstance(given, PairMap):
                fits = (pairs_of(given.channels), given.height, given.width) == (pairs, *large)
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
        held = [each.data.data_ptr() for each in maps.values() if isinstance(each, PairMap)]
        if len(set(held)) < len(held):
            raise ValueError("the same map given twice")
        if self.kernels.library.sruplift_half_run(
            self._calls, len(self._calls), (HalfMap * len(made))(*made), len(made), height, width,
            torch.get_num_threads(),
        ):  # fmt: skip
            raise MemoryError("not enough memory for a network's rows")

    def _holds(self, part: Part) -> bool:
        """Whether there is such a part."""
        pairs = self._maps[part.map][0] if 0 <= part.map < len(self._maps) else 0
        return 0 <= part.first < part.first + part.pairs <= pairs

    @functools.cached_property
    def _calls(self) -> ctypes.Array[HalfOp]:
        """The convolutions, with the addresses of what they hold."""
        calls = []
        for operation, held in zip(self._operations, self._held, strict=True):
            taps, weight, bias = (tensor.data_ptr() for tensor in held)
            calls.append(HalfOp(**operation, taps=taps, weight=weight, bias=bias))
        return (HalfOp * len(calls))(*calls)

    def __getstate__(self) -> dict[str, Any]:
        """Without addresses: a copy holds tensors of its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_calls"}


def _overlap(one: Part, other: Part) -> bool:
    apart = one.first >= other.first + other.pairs or other.first >= one.first + one.pairs
    return one.map == other.map and not apart


def _is_plain(maps: Tensor) -> bool:
    """Whether half.c can write each of its values by itself."""
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


def block_of(outputs: int) -> int:
    """How many outputs to compute together: the most that leaves none over."""
    return next(block for block in BLOCKS if 2 * pairs_of(outputs) % block == 0)


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


def _filtered(weight: Tensor) -> Iterator[Cells]:
    """For each of the four rows that two rows of a result are made of: Winograd's F(2, 3).

    Source: A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016;
    here along columns only, since rows lie as they are needed.
    """
    first, middle, last = weight.float().unbind(2)
    ends = first + last
    for row in (first, (ends + middle) / 2, (ends - middle) / 2, last):
        yield {(0, j - 1): row[:, :, j] for j in range(3)}


def pack(parts: Iterable[Cells], bias: Tensor, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """The taps, the weight in bf16 and the bias as half.c takes them, outputs in whole blocks.

    ``bias`` is (1 or as many as there are parts, O).
    """
    taps: list[int] = []
    weights: list[Tensor] = []
    for cells in parts:
        taps += [len(cells), *(step for place in cells for step in place)]
        each = torch.stack(list(cells.values())).detach().to("cpu", torch.float32)
        each = F.pad(each, (0, each.shape[2] % 2, 0, -each.shape[1] % block))
        # (taps, blocks, block, pairs, 2) -> (blocks, taps, pairs, block, 2)
        each = each.reshape(len(cells), -1, block, each.shape[2] // 2, 2)
        weights.append(each.permute(1, 0, 3, 2, 4).bfloat16().flatten())
    biases = F.pad(bias.to("cpu", torch.float32), (0, -bias.shape[1] % block)).flatten()
    return torch.tensor(taps, dtype=torch.int32, device="cpu"), torch.cat(weights), biases
