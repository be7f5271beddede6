"""Get the kernels: compile them if need be, load them, and see what they compute."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from sruplift.errors import CompilerError
from sruplift.kernels.compiler import build
from sruplift.kernels.convolution import Convolution, channels_last
from sruplift.kernels.gradient import weight_gradient
from sruplift.kernels.library import Arithmetic, Kernels
from sruplift.kernels.patches import PatchLayers, join
from sruplift.kernels.program import PlaneMap, Program

SOURCES = Path(__file__).parent
# How far the results may be from PyTorch's, for inputs and sums of about 1, when first loaded.
TOLERANCE = 1e-4


def load_kernels(folder: Path) -> Kernels:
    """The kernels for this machine, compiled if ``folder`` does not have them yet.

    Raises:
        CompilerError: there is no C compiler, it fails, or what it makes computes something else.
    """
    kernels = Kernels(build(SOURCES, folder, compare))
    _ = kernels.lanes  # what cannot be loaded is said now
    return kernels


def compare(path: Path) -> None:
    """See whether the kernels in ``path`` compute what PyTorch does, as networks ask of them.

    Raises:
        CompilerError: they do not.
    """
    kernels = Kernels(path)
    with torch.device("cpu"), torch.autocast("cpu", enabled=False), torch.no_grad():
        kinds = [kind(kernels) for kind in (_convolutions, _depthwise, _gradients)]
        for half, kind in itertools.product((True, False), (_programs, _rows, _chains, _patches)):
            kinds.append(kind(Arithmetic(kernels, half)))
        for result, expected in itertools.chain.from_iterable(kinds):
            difference = float((result - expected).abs().max())
            if not difference <= TOLERANCE:
                raise CompilerError(
                    f"what was compiled for this machine computes something else, by"
                    f" {difference:.1g}"
                )


def _convolutions(kernels: Kernels) -> Iterator[tuple[Tensor, Tensor]]:
    some = _random()
    sizes = itertools.product((1, 3), (3, 21), (3, kernels.lanes, 19, 40))
    for number, (size, inputs, outputs) in enumerate(sizes):
        weight = some(outputs, inputs, size, size) / (inputs * size**2) ** 0.5
        x, bias = some(1, inputs, 7, 37), some(outputs) if number % 3 else None
        plain = F.conv2d(x, weight, bias, padding=size // 2)
        mul, add = some(*plain.shape), some(*plain.shape)
        for sigmoid, slope, by, plus in (
            (0, 1.0, None, None),
            (0, 0.2, None, None),
            (1, 1.0, None, None),
            (1, 1.0, mul, None),
            (1, 1.0, mul, add),
            (2, 1.0, None, None),
            (2, 1.0, mul, None),
            (0, 1.0, None, add),
            (1, 0.0, mul, add),
        ):
            made = Convolution(
                kernels, weight, bias, padding=size // 2, sigmoid=sigmoid, slope=slope
            )
            expected = (plain, plain.sigmoid(), plain.relu().sigmoid())[sigmoid]
            expected = expected if by is None else expected * by
            expected = expected if plus is None else expected + plus
            yield made(x, mul=by, add=plus), F.leaky_relu(expected, slope)


def _depthwise(kernels: Kernels) -> Iterator[tuple[Tensor, Tensor]]:
    some = _random()
    for size, channels in itertools.product((3, 5), (3, kernels.lanes, 19)):
        weight, bias, x = (
            some(channels, 1, size, size) / size,
            some(channels),
            some(1, channels, 7, 9),
        )
        made = Convolution(kernels, weight, bias, padding=size // 2, depthwise=True)
        yield made(x), F.conv2d(x, weight, bias, padding=size // 2, groups=channels)


def _gradients(kernels: Kernels) -> Iterator[tuple[Tensor, Tensor]]:
    some = _random()
    height, width = 19, 37  # more tiles than are added up at a time
    for inputs, outputs, padding in itertools.product((8, 21), (9, kernels.lanes, 40), (0, 1, 2)):
        x, weight = some(2, inputs, height, width), some(outputs, inputs, 3, 3)
        size = (height + 2 * padding - 2, width + 2 * padding - 2)
        # Divided by the root of how many products each sum has.
        y = some(2, outputs, *size) / (2 * height * width) ** 0.5
        expected = conv2d_weight(x, weight.shape, y, padding=padding)  # type: ignore[no-untyped-call]
        x, y = channels_last(x), channels_last(y)
        yield weight_gradient(kernels, x, y, weight, padding), expected
    for kernel, channels in itertools.product((3, 5), (8, kernels.lanes, 19)):
        x, y = some(2, channels, height, width), some(2, channels, height, width)
        y /= (2 * height * width) ** 0.5
        weight, padding = some(channels, 1, kernel, kernel), kernel // 2
        expected = conv2d_weight(  # type: ignore[no-untyped-call]
            x, weight.shape, y, padding=padding, groups=channels
        )
        x, y = channels_last(x), channels_last(y)
        yield weight_gradient(kernels, x, y, weight, padding), expected


def _programs(arithmetic: Arithmetic) -> Iterator[tuple[Tensor, Tensor]]:
    some = _random()
    sizes = itertools.product(((1, 1), (3, 1), (3, 2), (3, 3)), (3, 20), (3, 6, 8, 20, 24))
    for (size, enlarge), inputs, outputs in sizes:
        # Whole numbers over a power of two: bf16 holds them, and sums of some of them.
        weight = (8 * some(outputs, inputs, size, size)).round() / 64
        x, bias = (16 * some(inputs, 7, 37)).round() / 16, some(outputs)
        wide = F.interpolate(x[None], scale_factor=enlarge, mode="nearest")
        plain = F.conv2d(wide, weight, bias, padding=size // 2)[0]
        mul, add = (some(*plain.shape).bfloat16().float() for _ in range(2))
        for sigmoid, slope, others in ((0, 0.2, False), (1, 1.0, True), (2, 0.0, True)):
            if others and enlarge > 1:
                continue
            program = Program(arithmetic)
            source = program.room(inputs)
            by, plus = (program.room(outputs, enlarge) if others else None for _ in range(2))
            end = program.convolve(
                source, weight, bias, enlarge=enlarge,
                sigmoid=sigmoid, mul=by, add=plus, slope=slope,
            )  # fmt: skip
            result = torch.zeros_like(plain)
            maps = {
                part: PlaneMap.of(arithmetic, m) for part, m in ((by, mul), (plus, add)) if part
            }
            program.run((7, 37), {source: PlaneMap.of(arithmetic, x), end: result, **maps})
            expected = (plain, plain.sigmoid(), plain.relu().sigmoid())[sigmoid]
            yield result, F.leaky_relu(expected * mul + add if others else expected, slope)


def _rows(arithmetic: Arithmetic) -> Iterator[tuple[Tensor, Tensor]]:
    """What the networks have follow, with every block of outputs, in rows longer than vectors."""
    some, size, rounding = _random(), (9, 149), _rounding(arithmetic)
    kinds = (
        (24, 0, 1.0, ()),
        (40, 0, 0.2, ()),
        (20, 1, 1.0, ()),
        (8, 0, 1.0, ("mul",)),
        (14, 0, 1.0, ("add",)),
        (4, 1, 0.2, ("mul",)),
    )
    for kernel, (outputs, sigmoid, slope, names) in itertools.product((1, 3), kinds):
        weight = some(outputs, 8, kernel, kernel) / (8 * kernel**2) ** 0.5
        x, program = some(8, *size), Program(arithmetic)
        source, others = program.room(8), {name: program.room(outputs) for name in names}
        mul, add = others.get("mul"), others.get("add")
        first = program.convolve(source, weight, sigmoid=sigmoid, mul=mul, add=add, slope=slope)
        end = program.convolve(first, torch.eye(outputs)[:, :, None, None])
        maps, result = {name: some(outputs, *size) for name in names}, some(outputs, *size) * 0
        given = {others[name]: PlaneMap.of(arithmetic, each) for name, each in maps.items()}
        program.run(size, {source: PlaneMap.of(arithmetic, x), end: result, **given})
        expected = F.conv2d(x, weight, padding=kernel // 2)
        expected = expected.sigmoid() if sigmoid else expected
        expected = expected * maps.get("mul", 1) + maps.get("add", 0)
        yield result / rounding, F.leaky_relu(expected, slope) / rounding
    # Outputs that become pixels.
    weight, x, program = some(4 * 6, 8, 3, 3) / 72**0.5, some(8, *size), Program(arithmetic)
    source = program.room(8)
    end = program.convolve(source, weight, shuffle=2)
    result = some(6, 2 * size[0], 2 * size[1]) * 0
    program.run(size, {source: PlaneMap.of(arithmetic, x), end: result})
    pixels = F.conv2d(x, weight, padding=1).view(2, 2, 6, *size).permute(2, 3, 0, 4, 1)
    yield result / rounding, pixels.reshape(result.shape) / rounding


def _chains(arithmetic: Arithmetic) -> Iterator[tuple[Tensor, Tensor]]:
    """Two layers and what one is mixed with, through maps that are not whole in memory."""
    some, rounding = _random(), _rounding(arithmetic)
    for enlarge in (1, 2, 3):
        size = (50, 20)  # more rows than are kept
        x = (8 * some(4, *size)).round() / 8
        weights = [(4 * some(8, count, 3, 3)).round().clamp(-8, 8) / 16 for count in (4, 8)]
        large = tuple(side * enlarge for side in size)
        share, wide = some(1, *large).sigmoid(), F.interpolate(x[None], scale_factor=float(enlarge))
        program = Program(arithmetic)
        source, how_much = program.room(4), program.plane(enlarge)
        first = program.convolve(source, weights[0], enlarge=enlarge)
        second = program.convolve(first, weights[1], add=first, share=how_much, slope=0.2)
        end = program.convolve(second, torch.eye(8)[:, :, None, None])
        result = some(8, *large) * 0
        program.run(size, {source: PlaneMap.of(arithmetic, x), how_much: share, end: result})
        before = F.conv2d(wide, weights[0], padding=1)[0]
        after = F.conv2d(before[None], weights[1], padding=1)[0]
        expected = F.leaky_relu(torch.lerp(before, after, share), 0.2)
        yield result / rounding, expected / rounding


def _patches(arithmetic: Arithmetic) -> Iterator[tuple[Tensor, Tensor]]:
    some, side, channels, query, hidden = _random(), 8, 6, 4, 10
    rounding = _rounding(arithmetic)
    shapes = ((query, channels),) * 2 + ((channels,) * 2, (hidden, channels), (channels, hidden))
    steps = [[(some(*shape) / 4, some(shape[0]) / 4) for shape in shapes] for _ in range(3)]
    x, partners = some(channels, side, side + 3).bfloat16().float(), torch.tensor([1, 0])
    layers = PatchLayers(arithmetic, side, steps)
    made = layers.run(PlaneMap.of(arithmetic, x), [0], [0, 3], lambda _: partners)
    y = torch.stack([x[..., :side], x[..., 3:]]).flatten(2).mT
    for number, (asks, keys, values, widen, narrow) in enumerate(steps):
        own = F.layer_norm(y, y.shape[-1:])
        seen = own if number else y[partners]
        weights = (F.linear(own, *asks) @ F.linear(seen, *keys).mT).softmax(-1)
        y = y + weights @ F.linear(seen, *values)
        y = y + F.linear(F.gelu(F.linear(F.layer_norm(y, y.shape[-1:]), *widen)), *narrow)
    yield made / rounding, y.mT / rounding
    joined = join(arithmetic, made, ([0], [0, 3]), (torch.ones(side), torch.ones(side + 3)))
    program = Program(arithmetic)
    source = program.room(channels)
    end = program.convolve(source, torch.eye(channels)[:, :, None, None])
    result = torch.zeros_like(x)
    program.run((side, side + 3), {source: joined, end: result})
    first, second = made.view(2, channels, side, side)
    expected = F.pad(first, (0, 3)) + F.pad(second, (3, 0))
    yield result / rounding, expected / rounding


def _rounding(arithmetic: Arithmetic) -> int:
    """By how much to divide what is rounded between layers, in bf16 to three digits."""
    return 1000 if arithmetic.half else 1


class _random:  # noqa: N801 - is called like a function
    """Normal values, always the same ones."""

    def __init__(self) -> None:
        self.generator = torch.Generator("cpu").manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float32)
