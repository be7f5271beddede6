"""Many convolutions in bf16 at a time: ``half.c`` called from PyTorch."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any

import torch
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

    def halves(self) -> tuple[Part, Part]:
        """Its first and its last channels."""
        half = self.pairs // 2
        return Part(self.map, self.first, half), Part(self.map, self.first + half, half)


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
        depthwise: bool = False,
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
            weight: (O, I, k, k), k 1, 3 or 5; if depthwise (O, 1, k, k).
            bias: (O,) or None.
            enlarge: how many times the map is enlarged before, by nearest neighbour: 1, 2, 3.
            depthwise: whether output channel n is made of input channel n alone.
            sigmoid: whether a sigmoid follows, 2 for the sigmoid of a ReLU; then comes the product
                with ``mul``, then the sum with ``add``, both maps as large as the result.
            share: a plane; then of each pixel's sum so much is the result's and the rest ``add``'s.
            slope: of a leaky ReLU after all that; 1 is none, 0 is ReLU.
            out: where to; else a new map.

        Raises:
            ValueError: what does not fit together.
        """
        outputs, kernel = weight.shape[0], weight.shape[-1]
        scale = self._maps[x.map][1] * enlarge
        out = out or self.room(outputs, scale)
        inputs = outputs if depthwise else weight.shape[1]
        others = [part for part in (out, mul, add) if part is not None]
        if (
            kernel not in (1, 3, 5)
            or (enlarge > 1 and (depthwise or mul or add))
            or enlarge not in (1, 2, 3)
            or x.pairs != pairs_of(inputs)
            or (share is not None and (add is None or self._maps[share.map] != (0, scale)))
            or any(self._maps[part.map][1] != scale for part in others)
            or any(part.pairs != pairs_of(outputs) for part in others)
        ):
            raise ValueError("a convolution of maps that do not fit it")
        self.__dict__.pop("_calls", None)
        block = 2 if depthwise else block_of(outputs)
        self._held.append(pack(weight, bias, block, enlarge, depthwise=depthwise))
        self._operations.append(
            {
                "input": x.map,
                "first_input": x.first,
                "pairs": 1 if depthwise else x.pairs,
                "next_input": int(depthwise),
                "output": out.map,
                "first_output": out.first,
                "outputs": outputs,
                "block": block,
                "enlarge": enlarge,
                "reach": kernel // 2,
                "sigmoid": sigmoid,
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


def pack(
    weight: Tensor, bias: Tensor | None, block: int, enlarge: int = 1, *, depthwise: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The taps, the weight in bf16 and the bias of ``weight`` (O, I, k, k) as half.c takes them.

    Of an enlarged map a kernel's taps that fall on the same small pixel are added up, for each
    place in what that pixel becomes.
    """
    weight = weight.detach().to("cpu", torch.float32)
    outputs, inputs, kernel, _ = weight.shape
    blocks, pairs = 2 * pairs_of(outputs) // block, pairs_of(inputs)
    padded = weight.new_zeros(blocks * block, 2 * pairs, kernel, kernel)
    padded[:outputs, :inputs] = weight
    if depthwise:  # of a pair of channels, the second output sees the second one
        padded[1::2] = padded[1::2].roll(1, dims=1)
    taps: list[int] = []
    parts: list[Tensor] = []
    for row in range(enlarge):
        for column in range(enlarge):
            cells: dict[tuple[int, int], Tensor] = {}
            for i, j in itertools.product(range(kernel), repeat=2):
                tall, wide = row + i - kernel // 2, column + j - kernel // 2
                place = tall // enlarge, wide // enlarge
                cells[place] = cells.get(place, 0) + padded[:, :, i, j]
            taps += [len(cells), *(step for place in cells for step in place)]
            # (taps, blocks, block, pairs, 2) -> (blocks, taps, pairs, block, 2)
            each = torch.stack(list(cells.values())).reshape(-1, blocks, block, pairs, 2)
            parts.append(each.permute(1, 0, 3, 2, 4).bfloat16().flatten())
    biases = weight.new_zeros(blocks * block)
    if bias is not None:
        biases[:outputs] = bias.detach()
    return torch.tensor(taps, dtype=torch.int32, device="cpu"), torch.cat(parts), biases
