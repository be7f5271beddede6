"""Programs of convolutions against PyTorch in float64, of what also bf16 holds."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sruplift.kernels import Arithmetic, Part, PlaneMap, Program

# Of sums of about 1 in float32.
CLOSE = {"rtol": 0, "atol": 3e-5}


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def held(*shape: int, seed: int = 0) -> Tensor:
    """Whole numbers over a power of two: bf16 holds them, and what two of them add up to."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return (16 * values).round() / 16


def rounded(arithmetic: Arithmetic) -> dict[str, float]:
    """How close a result with maps between two convolutions is."""
    return {"rtol": 0, "atol": 0.03} if arithmetic.half else CLOSE


def coarse(outputs: int, inputs: int, size: int) -> Tensor:
    """Whole numbers over a power of two, so that bf16 holds the sums of some of them, too."""
    weight = torch.randn(outputs, inputs, size, size, generator=torch.Generator().manual_seed(1))
    return (8 * weight).round() / 64


def expected_of(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, enlarge: int = 1
) -> Tensor:
    wide = F.interpolate(x[None].double(), scale_factor=enlarge, mode="nearest")
    exact = None if bias is None else bias.double()
    padding = weight.shape[-1] // 2
    return F.conv2d(wide, weight.double(), exact, padding=padding)[0]


def run(
    arithmetic: Arithmetic,
    program: Program,
    result: Part,
    shape: tuple[int, ...],
    x: dict[Part, Tensor],
) -> Tensor:
    """The result, in float32, of a program of maps of ``x``."""
    made = torch.zeros(shape)
    size = next(iter(x.values())).shape[1:]
    maps = {part: PlaneMap.of(arithmetic, maps) for part, maps in x.items()}
    program.run((size[0], size[1]), {**maps, result: made})
    return made


# Around what is computed together, with odd numbers, whose last pair is half empty.
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(1, 1), (3, 5), (7, 8), (8, 3), (20, 20), (24, 12), (16, 33), (64, 64)]
)
def test_every_width(arithmetic: Arithmetic, size: int, inputs: int, outputs: int) -> None:
    weight, bias, x = coarse(outputs, inputs, size), torch.randn(outputs), held(inputs, 11, 13)
    program = Program(arithmetic)
    source = program.room(inputs)
    end = program.convolve(source, weight, bias)
    result = run(arithmetic, program, end, (outputs, 11, 13), {source: x})
    torch.testing.assert_close(result.double(), expected_of(x, weight, bias), **CLOSE)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (5, 16), (6, 300), (33, 17), (100, 2)])
@pytest.mark.parametrize("enlarge", [1, 2, 3])
@pytest.mark.parametrize("between", [False, True])
def test_every_border(
    arithmetic: Arithmetic, size: tuple[int, int], enlarge: int, *, between: bool
) -> None:
    """Of an image, and of a map that another convolution reads, which copies it."""
    weight, bias, x = coarse(20, 6, 3), held(20), held(6, *size)
    program = Program(arithmetic)
    source = program.room(6)
    end = program.convolve(source, weight, bias, enlarge=enlarge)
    if between:
        end = program.convolve(end, torch.eye(20)[:, :, None, None])
    shape = (20, size[0] * enlarge, size[1] * enlarge)
    result = run(arithmetic, program, end, shape, {source: x})
    expected = expected_of(x, weight, bias, enlarge=enlarge)
    if between and arithmetic.half:
        expected = expected.float().bfloat16().double()
    torch.testing.assert_close(
        result.double(), expected, **(rounded(arithmetic) if between else CLOSE)
    )


@pytest.mark.parametrize("outputs", [3, 20])
@pytest.mark.parametrize("sigmoid", [0, 1, 2])
@pytest.mark.parametrize("multiplied", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("slope", [1.0, 0.2, 0.0])
def test_what_follows(
    arithmetic: Arithmetic,
    outputs: int,
    sigmoid: int,
    slope: float,
    *,
    multiplied: bool,
    added: bool,
) -> None:
    weight, bias, x = coarse(outputs, 20, 3), held(outputs), held(20, 6, 37)
    mul, add = held(outputs, 6, 37, seed=2), held(outputs, 6, 37, seed=3)
    program = Program(arithmetic)
    source = program.room(20)
    by = program.room(outputs) if multiplied else None
    plus = program.room(outputs) if added else None
    end = program.convolve(source, weight, bias, sigmoid=sigmoid, mul=by, add=plus, slope=slope)
    others = {part: maps for part, maps in ((by, mul), (plus, add)) if part is not None}
    result = run(arithmetic, program, end, (outputs, 6, 37), {source: x, **others})
    expected = expected_of(x, weight, bias)
    expected = (expected, expected.sigmoid(), expected.relu().sigmoid())[sigmoid]
    expected = expected * mul if multiplied else expected
    expected = F.leaky_relu(expected + add if added else expected, slope)
    torch.testing.assert_close(result.double(), expected, **CLOSE)


@pytest.mark.parametrize("size", [1, 3])
def test_a_plane_says_how_much_of_each_pixel_is_the_result(
    arithmetic: Arithmetic, size: int
) -> None:
    weight, x, add = coarse(6, 4, size), held(4, 9, 37), held(6, 9, 37, seed=2)
    share = torch.rand(1, 9, 37)
    program = Program(arithmetic)
    source, other, how_much = program.room(4), program.room(6), program.plane()
    end = program.convolve(source, weight, add=other, share=how_much, slope=0.2)
    result = torch.zeros(6, 9, 37)
    maps = {source: PlaneMap.of(arithmetic, x), other: PlaneMap.of(arithmetic, add)}
    program.run((9, 37), {**maps, how_much: share, end: result})
    mixed = torch.lerp(add.double(), expected_of(x, weight), share.double())
    torch.testing.assert_close(result.double(), F.leaky_relu(mixed, 0.2), **CLOSE)


def _split(whole: Part) -> tuple[Part, Part]:
    return whole.part(0, 2), whole.part(1, 2)


def block(arithmetic: Arithmetic) -> tuple[Program, Part, list[Part]]:
    """One like PAN's, with an enlargement behind it, and all its maps."""
    program = Program(arithmetic)
    x, both = program.room(8), program.room(8)
    plain, attended = _split(program.convolve(x, coarse(8, 8, 1), slope=0.2))
    program.convolve(plain, coarse(4, 4, 3), slope=0.2, out=both.part(0, 2))
    gate = program.convolve(attended, coarse(4, 4, 1), sigmoid=1)
    gated = program.convolve(attended, coarse(4, 4, 3), mul=gate)
    program.convolve(gated, coarse(4, 4, 3), slope=0.2, out=both.part(1, 2))
    fused = program.convolve(both, coarse(8, 8, 1), add=x)
    large = program.convolve(fused, coarse(6, 8, 3), enlarge=2)
    refined = program.convolve(large, coarse(6, 6, 3), slope=0.2)
    end = program.convolve(refined, coarse(3, 6, 3))
    return program, end, [x, both, gate, gated, fused, large, refined]


def block_expected(x: Tensor) -> Tensor:
    def conv(x: Tensor, outputs: int, size: int) -> Tensor:
        return expected_of(x, coarse(outputs, x.shape[0], size))

    plain, attended = F.leaky_relu(conv(x, 8, 1), 0.2).split(4)
    gated = conv(attended, 4, 3) * conv(attended, 4, 1).sigmoid()
    both = torch.cat([conv(plain, 4, 3), conv(gated, 4, 3)])
    fused = conv(F.leaky_relu(both, 0.2), 8, 1) + x
    large = expected_of(fused, coarse(6, 8, 3), enlarge=2)
    return conv(F.leaky_relu(conv(large, 6, 3), 0.2), 3, 3)


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (5, 7), (46, 33), (181, 20)])
def test_a_chain_is_what_its_links_are(arithmetic: Arithmetic, size: tuple[int, int]) -> None:
    program, end, (x, *_) = block(arithmetic)
    image = held(8, *size)
    result = run(arithmetic, program, end, (3, 2 * size[0], 2 * size[1]), {x: image})
    torch.testing.assert_close(result.double(), block_expected(image), **rounded(arithmetic))


def test_threads_give_the_same_bits(arithmetic: Arithmetic) -> None:
    program, end, (x, *_) = block(arithmetic)
    image, before = held(8, 150, 31), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(run(arithmetic, program, end, (3, 300, 62), {x: image}))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_a_map_in_memory_is_written_and_read_like_one_that_is_not(arithmetic: Arithmetic) -> None:
    """What the maps between hold where they are whole: half of ``both`` at a time."""
    program, end, (x, both, *_) = block(arithmetic)
    image = held(8, 20, 31)
    expected = run(arithmetic, program, end, (3, 40, 62), {x: image})
    whole, before = PlaneMap(arithmetic, 8, 20, 31), torch.get_num_threads()
    result = torch.zeros(3, 40, 62)
    try:
        torch.set_num_threads(1)
        program.run((20, 31), {x: PlaneMap.of(arithmetic, image), both: whole, end: result})
    finally:
        torch.set_num_threads(before)
    assert torch.equal(result, expected)
    again = Program(arithmetic)
    source = again.room(8)
    copied = again.convolve(source, torch.eye(8)[:, :, None, None])
    held_there = torch.zeros(8, 20, 31)
    again.run((20, 31), {source: whole, copied: held_there})
    plain, _ = F.leaky_relu(expected_of(image, coarse(8, 8, 1)), 0.2).split(4)
    there = F.leaky_relu(expected_of(plain, coarse(4, 4, 3)), 0.2)
    torch.testing.assert_close(held_there[:4].double(), there, **rounded(arithmetic))


def test_a_result_is_added_to_an_image_in_any_place(arithmetic: Arithmetic) -> None:
    weight, x = coarse(3, 4, 3), held(4, 9, 21)
    program = Program(arithmetic)
    source = program.room(4)
    end = program.convolve(source, weight, enlarge=2)
    large = torch.full((5, 40, 60), 0.25)
    part = large[1:4, 7:25, 3:45]
    program.run((9, 21), {source: PlaneMap.of(arithmetic, x), end: part})
    torch.testing.assert_close(part.double(), expected_of(x, weight, enlarge=2) + 0.25, **CLOSE)
    part.fill_(0.25)
    assert (large == 0.25).all()


@pytest.mark.parametrize("width", [3, 40])
def test_what_is_no_number_is_none(arithmetic: Arithmetic, width: int) -> None:
    bits = torch.full((2, 4, width), 0x7FFFFFFF, dtype=torch.int32)
    map_ = PlaneMap.of(arithmetic, bits.view(torch.float32))
    program = Program(arithmetic)
    source = program.room(2)
    end = program.convolve(source, torch.eye(2)[:, :, None, None])
    result = torch.zeros(2, 4, width)
    program.run((4, width), {source: map_, end: result})
    assert result.isnan().all()


@pytest.mark.parametrize("shuffle", [2, 3])
@pytest.mark.parametrize("between", [False, True])
def test_outputs_become_pixels(arithmetic: Arithmetic, shuffle: int, *, between: bool) -> None:
    """In the order (row, column, channel)."""
    weight, bias = coarse(shuffle**2 * 6, 4, 3), torch.randn(shuffle**2 * 6)
    x = held(4, 9, 21)
    program = Program(arithmetic)
    source = program.room(4)
    end = program.convolve(source, weight, bias, shuffle=shuffle, slope=0.2)
    if between:
        end = program.convolve(end, torch.eye(6)[:, :, None, None])
    result = run(arithmetic, program, end, (6, 9 * shuffle, 21 * shuffle), {source: x})
    plain = expected_of(x, weight, bias).view(shuffle, shuffle, 6, 9, 21)
    expected = plain.permute(2, 3, 0, 4, 1).reshape(6, 9 * shuffle, 21 * shuffle)
    expected = F.leaky_relu(expected, 0.2)
    torch.testing.assert_close(
        result.double(), expected, **(rounded(arithmetic) if between else CLOSE)
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, -1e30])
def test_what_is_no_number_stays_in_its_place_and_gates_saturate(
    arithmetic: Arithmetic, value: float
) -> None:
    program = Program(arithmetic)
    source = program.room(1)
    end = program.convolve(source, torch.ones(1, 1, 3, 3), sigmoid=1)
    x = held(1, 8, 40)
    plain = run(arithmetic, program, end, (1, 8, 40), {source: x})
    x[0, 3, 17] = value
    result = run(arithmetic, program, end, (1, 8, 40), {source: x})
    near = torch.zeros(1, 8, 40, dtype=torch.bool)
    near[0, 2:5, 16:19] = True
    assert torch.equal(result[~near], plain[~near])
    expected = torch.tensor(value).sigmoid().expand(9)
    torch.testing.assert_close(result[near], expected, rtol=0, atol=1e-6, equal_nan=True)


def test_other_layouts_and_kinds_are_packed_alike(arithmetic: Arithmetic) -> None:
    x = held(5, 7, 19)
    expected = PlaneMap.of(arithmetic, x)
    last = x[None].contiguous(memory_format=torch.channels_last)[0]
    for same in (last, x.double(), x.bfloat16(), x.mT.contiguous().mT):
        assert torch.equal(PlaneMap.of(arithmetic, same).data[:-200], expected.data[:-200])


def test_a_copy_computes_the_same_without_the_first_one(arithmetic: Arithmetic) -> None:
    program, end, (x, *_) = block(arithmetic)
    image = held(8, 12, 14)
    expected = run(arithmetic, program, end, (3, 24, 28), {x: image})
    copies = [copy.deepcopy(program), pickle.loads(pickle.dumps(program))]
    for tensors in program._held:
        for tensor in tensors:
            tensor.zero_()
    for copied in copies:
        assert torch.equal(run(arithmetic, copied, end, (3, 24, 28), {x: image}), expected)


def test_what_does_not_fit_is_refused(arithmetic: Arithmetic) -> None:
    program = Program(arithmetic)
    x, large = program.room(8), program.room(8, 2)
    wrong = "maps that do not fit"
    with pytest.raises(ValueError, match=wrong):
        program.convolve(x, coarse(8, 6, 3))
    with pytest.raises(ValueError, match=wrong):
        program.convolve(x, coarse(8, 8, 3), mul=large)
    with pytest.raises(ValueError, match=wrong):
        program.convolve(x, coarse(8, 8, 2))
    with pytest.raises(ValueError, match=wrong):
        program.convolve(x, coarse(8, 8, 3), enlarge=4)
    with pytest.raises(ValueError, match=wrong):
        program.convolve(x, coarse(8, 8, 3), enlarge=2, mul=large)
    with pytest.raises(ValueError, match=wrong):
        program.convolve(x, coarse(8, 8, 3), out=x.part(0, 2))
    with pytest.raises(ValueError, match=wrong):
        program.convolve(x, coarse(8, 8, 3), share=program.plane())
    with pytest.raises(ValueError, match=wrong):
        program.convolve(x, coarse(8, 8, 3), add=x, share=program.plane(2))
    with pytest.raises(ValueError, match=wrong):
        program.convolve(x, coarse(8, 8, 3)[..., :1])
    with pytest.raises(ValueError, match=wrong):
        program.convolve(x, coarse(8, 8, 3), sigmoid=3)
    with pytest.raises(ValueError, match=wrong):
        program.convolve(x, coarse(8, 8, 3), torch.zeros(7))
    with pytest.raises(ValueError, match=wrong):
        program.convolve(Part(x.map, 2, 4), coarse(8, 8, 3))
    with pytest.raises(ValueError, match=wrong):
        program.convolve(x, coarse(8, 8, 3), out=Part(9, 0, 4))
    with pytest.raises(ValueError, match="part 2 of 2"):
        x.part(2, 2)
    with pytest.raises(ValueError, match="part 0 of 3"):
        x.part(0, 3)
    with pytest.raises(ValueError, match="without a convolution"):
        program.run((5, 6), {x: PlaneMap(arithmetic, 8, 5, 6)})


def test_what_is_read_is_not_written_afterwards(arithmetic: Arithmetic) -> None:
    """Threads would see rows that are not made yet, or made twice."""
    program = Program(arithmetic)
    x, dense = program.room(4), program.room(8)
    already = "read or written already"
    with pytest.raises(ValueError, match=already):
        program.convolve(x, coarse(4, 4, 3), out=x)
    program.convolve(x, coarse(4, 4, 3), out=dense.part(0, 2))
    with pytest.raises(ValueError, match=already):
        program.convolve(x, coarse(8, 4, 3), out=dense)
    middle = program.convolve(dense.part(0, 2), coarse(4, 4, 3))
    with pytest.raises(ValueError, match=already):
        program.convolve(middle, coarse(4, 4, 3), out=dense.part(1, 2))
    # What was refused is as if it had not been asked for.
    result, given = torch.zeros(4, 5, 6), PlaneMap.of(arithmetic, held(4, 5, 6))
    with pytest.raises(ValueError, match="one of its maps, or of its parts"):
        program.run((5, 6), {x: given, middle: result})  # half of ``dense`` is nobody's
    program.run((5, 6), {x: given, dense: PlaneMap(arithmetic, 8, 5, 6), middle: result})
    assert result.std() > 0


def test_a_program_is_not_endless(arithmetic: Arithmetic) -> None:
    program = Program(arithmetic)
    x = program.room(2)
    for _ in range(23):
        x = program.convolve(x, coarse(2, 2, 1))
    with pytest.raises(ValueError, match="at most 24 maps"):
        program.convolve(x, coarse(2, 2, 1))
    program = Program(arithmetic)
    x, wide = program.room(2), program.room(50)
    for number in range(24):
        program.convolve(x, coarse(2, 2, 1), out=wide.part(number, 25))
    with pytest.raises(ValueError, match="at most 24 convolutions"):
        program.convolve(x, coarse(2, 2, 1), out=wide.part(24, 25))


def test_maps_that_do_not_fit_are_refused(arithmetic: Arithmetic) -> None:
    program = Program(arithmetic)
    x = program.room(8)
    end = program.convolve(x, coarse(8, 8, 3))
    given = PlaneMap.of(arithmetic, held(8, 5, 6))
    missing, sizes = "without one of its maps", "other sizes"
    with pytest.raises(ValueError, match=missing):
        program.run((5, 6), {end: torch.zeros(8, 5, 6)})
    with pytest.raises(ValueError, match=missing):
        program.run((5, 6), {x: given})
    results = [torch.zeros(8, 6, 5), torch.zeros(8, 5, 6).double(), torch.zeros(8, 6, 5).mT]
    results += [torch.zeros(72).as_strided((8, 5, 6), (6, 6, 1))]
    results += [torch.zeros(8, 1, 6).expand(8, 5, 6), torch.zeros(8, 5, 6, device="meta")]
    for result in results:
        with pytest.raises(ValueError, match=sizes):
            program.run((5, 6), {x: given, end: result})
    with pytest.raises(ValueError, match=sizes):
        program.run((5, 6), {x: torch.zeros(8, 5, 6), end: PlaneMap(arithmetic, 8, 5, 6)})
    with pytest.raises(ValueError, match=sizes):
        program.run((5, 5), {x: given, end: torch.zeros(8, 5, 5)})
    with pytest.raises(ValueError, match="given twice"):
        program.run((5, 6), {x: given, end: given})
    # Two convolutions into an image, and one that another reads.
    program = Program(arithmetic)
    x, both = program.room(8), program.room(8)
    for number in range(2):
        program.convolve(x, coarse(4, 8, 3), out=both.part(number, 2))
    with pytest.raises(ValueError, match=sizes):
        program.run((5, 6), {x: given, both: torch.zeros(4, 5, 6)})
