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
        maps = maps.float()
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
        """One of ``count`` parts of its channels."""
        pairs = self.pairs // count
        return Part(self.map, self.first + number * pairs, pairs)


class Program:
    """Convolutions that are computed row by row, maps between them in a CPU's cache.

    Maps are added by ``room`` and ``convolve``. Those that ``run`` is given, and the result's, are
    in memory; of the others each thread has the rows that it needs.
    """

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels
        self._maps: list[tuple[int, int]] = []  # pairs and scale
        self._operations: list[dict[str, Any]] = []
        self._held: list[tuple[Tensor, Tensor, Tensor]] = []

    def room(self, channels: int, scale: int = 1) -> Part:
        """A new map, ``scale`` times larger than what the program is run for."""
        self._maps.append((pairs_of(channels), scale))
        return Part(len(self._maps) - 1, 0, pairs_of(channels))

    def plane(self, scale: int = 1) -> Part:
        """A new map of one channel in float32, which ``run`` is given as a tensor (1, H, W)."""
        self._maps.append((0, scale))
        return Part(len(self._maps) - 1, 0, 0)

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
            out: where to; else a new map.

        Raises:
            ValueError: what does not fit together.
        """
        larger, (_, inputs, kernel, _) = enlarge * shuffle, weight.shape
        outputs, scale = weight.shape[0] // shuffle**2, self._maps[x.map][1] * larger
        out = out or self.room(outputs, scale)
        others = [part for part in (out, mul, add) if part is not None]
        if (
            kernel not in (1, 3)
            or (larger > 1 and (mul or add))
            or larger not in (1, 2, 3)
            or weight.shape[0] != outputs * shuffle**2
            or x.pairs != pairs_of(inputs)
            or (share is not None and (add is None or self._maps[share.map] != (0, scale)))
            or any(self._maps[part.map][1] != scale for part in others)
            or any(part.pairs != pairs_of(outputs) for part in others)
        ):
            raise ValueError("a convolution of maps that do not fit it")
        self.__dict__.pop("_calls", None)
        block = block_of(outputs)
        # Fewer outputs would not repay what the filtering takes.
        by_twos = kernel == 3 and larger == 1 and block >= 8
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
            maps: at least those that no convolution makes, and the result's, which is written to. A
                tensor (C, H, W) of float32, whose pixels lie side by side, may stand for that one:
                then the result is added to it.

        Raises:
            ValueError: maps are missing, or of other sizes.
            MemoryError: there is not enough of it.
        """
        height, width = size
        made = [HalfMap(pairs, scale, None, None, 0, 0) for pairs, scale in self._maps]
        end = self._operations[-1]
        for part, given in maps.items():
            pairs, scale = self._maps[part.map]
            large = (height * scale, width * scale)
            if isinstance(given, PairMap):
                fits = (pairs_of(given.channels), given.height, given.width) == (pairs, *large)
                made[part.map].data = given.data.data_ptr()
            else:
                channels = end["outputs"] if part.map == end["output"] else 1
                fits = part.map == end["output"] or pairs == 0
                fits = fits and given.shape == (channels, *large) and given.stride(2) == 1
                fits = fits and given.dtype == torch.float32
                made[part.map].image = given.data_ptr()
                made[part.map].image_row = given.stride(1)
                made[part.map].image_channel = given.stride(0)
            if not fits:
                raise ValueError("maps of other sizes than the program's")
        written = {operation["output"] for operation in self._operations}
        if not written | {part.map for part in maps} >= set(range(len(made))):
            raise ValueError("a program without one of its maps")
        if self.kernels.library.sruplift_half_run(
            self._calls, len(self._calls), (HalfMap * len(made))(*made), len(made), height, width,
            torch.get_num_threads(),
        ):  # fmt: skip
            raise MemoryError("not enough memory for a network's rows")

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


def pairs_of(channels: int) -> int:
    """How many pairs of channels those are; an odd one has a companion of zeros."""
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
