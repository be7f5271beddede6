"""Our own convolutions against PyTorch in float64: sizes, borders, strides, all that may follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sruplift.kernels import Convolution, Kernels, suits
from sruplift.kernels.convolution import pack
from sruplift.kernels.loading import compare

# Of sums of about 1. PyTorch's own float32 is within 3e-6 of float64.
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def random_conv(inputs: int, outputs: int, size: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(inputs + outputs)
    weight = torch.randn(outputs, inputs, size, size) / (inputs * size**2) ** 0.5
    return weight, torch.randn(outputs)


def expected_of(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    exact = None if bias is None else bias.double()
    return F.conv2d(x.double(), weight.double(), exact, padding=padding)


# Around one, two and more groups of lanes; as many as one product takes, and one more.
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [(1, 1), (3, 5), (7, 8), (8, 3), (20, 20), (24, 12), (16, 33), (40, 40), (64, 100)],
)
def test_every_width(kernels: Kernels, size: int, inputs: int, outputs: int) -> None:
    weight, bias = random_conv(inputs, outputs, size)
    x = last(torch.randn(2, inputs, 11, 13))
    result = Convolution(kernels, weight, bias, padding=size // 2)(x)
    assert result.dtype == torch.float32
    expected = expected_of(x, weight, bias, size // 2)
    torch.testing.assert_close(result.double(), expected, **CLOSE)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (4, 4), (5, 8), (6, 300), (33, 7)])
@pytest.mark.parametrize("padding", [0, 1])
def test_every_border(kernels: Kernels, size: tuple[int, int], padding: int) -> None:
    if min(size) + 2 * padding < 3:
        pytest.skip("nothing is left")
    weight, bias = random_conv(20, 24, 3)
    x = last(torch.randn(1, 20, *size))
    result = Convolution(kernels, weight, bias, padding=padding)(x)
    expected = expected_of(x, weight, bias, padding)
    torch.testing.assert_close(result.double(), expected, **CLOSE)


@pytest.mark.parametrize("outputs", [3, 20])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("sigmoid", [0, 1, 2])
@pytest.mark.parametrize("multiplied", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("slope", [1.0, 0.2, 0.0])
def test_what_follows(
    kernels: Kernels,
    outputs: int,
    size: int,
    *,
    biased: bool,
    sigmoid: int,
    multiplied: bool,
    added: bool,
    slope: float,
) -> None:
    weight, some = random_conv(20, outputs, size)
    bias = some if biased else None
    x = last(torch.randn(1, 20, 6, 9))
    mul, add = (
        last(torch.randn(1, outputs, 6, 9)) if wanted else None for wanted in (multiplied, added)
    )
    made = Convolution(kernels, weight, bias, padding=size // 2, sigmoid=sigmoid, slope=slope)
    expected = expected_of(x, weight, bias, size // 2)
    if sigmoid == 2:
        expected = expected.relu()
    if sigmoid:
        expected = expected.sigmoid()
    if mul is not None:
        expected = expected * mul
    if add is not None:
        expected = expected + add
    expected = F.leaky_relu(expected, slope)
    torch.testing.assert_close(made(x, mul=mul, add=add).double(), expected, **CLOSE)


@pytest.mark.parametrize("size", [1, 3])
def test_slices_of_channels_are_read_and_written_in_place(kernels: Kernels, size: int) -> None:
    weight, bias = random_conv(20, 20, size)
    x, out = last(torch.randn(1, 40, 9, 14)), last(torch.full((1, 60, 9, 14), 7.0))
    made = Convolution(kernels, weight, bias, padding=size // 2)
    result = made(x[:, 20:], out=out[:, 20:40])
    assert result.data_ptr() == out[:, 20:40].data_ptr()
    expected = expected_of(x[:, 20:], weight, bias, size // 2)
    torch.testing.assert_close(out[:, 20:40].double(), expected, **CLOSE)
    assert (out[:, :20] == 7).all()
    assert (out[:, 40:] == 7).all()


def test_rows_of_a_larger_map_and_other_layouts(kernels: Kernels) -> None:
    weight, bias = random_conv(20, 24, 3)
    large = last(torch.randn(1, 20, 30, 40))
    made = Convolution(kernels, weight, bias, padding=1)
    for x in (large[:, :, 5:17, 3:30], large[:, :, 5:17].contiguous(), large.half()[:, :, 5:17]):
        torch.testing.assert_close(
            made(x).double(), expected_of(x.float(), weight, bias, 1), **CLOSE
        )


def test_threads_give_the_same_bits(kernels: Kernels) -> None:
    weight, bias = random_conv(40, 40, 3)
    x = last(torch.randn(1, 40, 50, 60))
    made, before = Convolution(kernels, weight, bias, padding=1), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(made(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, -1e30])
def test_what_is_no_number_stays_none_and_gates_saturate(kernels: Kernels, value: float) -> None:
    weight = torch.eye(8)[:, :, None, None].contiguous()
    gate = Convolution(kernels, weight, torch.zeros(8), sigmoid=True)(
        torch.full((1, 8, 1, 1), value)
    )
    expected = {True: 1.0, False: 0.0}[value > 0] if value == value and abs(value) < 1e31 else None
    if expected is None:
        # Infinity times the weights' zeros is no number either.
        assert gate.isnan().all()
    else:
        torch.testing.assert_close(gate, torch.full_like(gate, expected), rtol=0, atol=1e-7)


def test_kernels_are_packed_by_groups_of_lanes(kernels: Kernels) -> None:
    lanes = kernels.lanes
    weight = torch.arange(lanes + 2.0).reshape(-1, 1, 1, 1)
    assert pack(kernels, weight).tolist() == [[*range(lanes), *range(2, lanes + 2)]]
    assert pack(kernels, weight[:3]).tolist() == [[0, 1, 2, *[0] * (lanes - 3)]]
    large = torch.randn(5, 4, 3, 3)
    packed = pack(kernels, large)
    assert packed.shape == (36, 4, -(-5 // lanes) * lanes)
    # The first point is 0, the last one infinity.
    assert torch.equal(packed[0, :, :4], large[:4, :, 0, 0].T)
    assert torch.equal(packed[35, :, :4], large[:4, :, 2, 2].T)
    strided = large.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(pack(kernels, strided), packed)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("channels", [1, 5, 8, 20, 32, 33])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (7, 4), (11, 13)])
@pytest.mark.parametrize("padded", [False, True])
def test_depthwise(
    kernels: Kernels, kernel: int, channels: int, size: tuple[int, int], *, padded: bool
) -> None:
    padding = kernel // 2 if padded else 0
    if min(size) + 2 * padding < kernel:
        pytest.skip("nothing is left")
    torch.manual_seed(channels)
    weight, bias = torch.randn(channels, 1, kernel, kernel) / kernel, torch.randn(channels)
    x = last(torch.randn(2, channels, *size))
    made = Convolution(kernels, weight, bias, padding=padding, depthwise=True)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=padding, groups=channels)
    torch.testing.assert_close(made(x).double(), exact, **CLOSE)
    gated = Convolution(kernels, weight, bias, padding=padding, sigmoid=1, depthwise=True)
    mul, add = (last(torch.randn(exact.shape)) for _ in range(2))
    # Into some channels of a larger map.
    out = last(torch.full((2, channels + 7, *exact.shape[2:]), 3.0))
    gated(x, mul=mul, add=add, out=out[:, 4 : channels + 4])
    torch.testing.assert_close(
        out[:, 4 : channels + 4].double(), exact.sigmoid() * mul + add, **CLOSE
    )
    assert (out[:, :4] == 3).all()
    assert (out[:, channels + 4 :] == 3).all()
    with pytest.raises(ValueError, match="other sizes"):
        made(last(torch.randn(2, channels + 1, 9, 9)))


def test_which_convolutions_suit() -> None:
    assert suits(nn.Conv2d(8, 3, 3, padding=1))
    assert suits(nn.Conv2d(20, 20, 3))
    assert suits(nn.Conv2d(20, 20, 3, groups=20))
    assert suits(nn.Conv2d(4, 4, 5, padding=2, groups=4))
    others = [
        nn.Conv2d(3, 40, 3, padding=1),
        nn.Conv2d(20, 20, 1),
        nn.Conv2d(20, 20, 5, padding=2),
        nn.Conv2d(20, 20, 3, stride=2),
        nn.Conv2d(20, 20, 3, dilation=2),
        nn.Conv2d(20, 20, 3, groups=10),
        nn.Conv2d(20, 40, 3, groups=20),
        nn.Conv2d(20, 20, 5, padding=1, groups=20),
        nn.Conv2d(20, 20, 7, padding=3, groups=20),
        nn.Conv2d(20, 20, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(20, 20, 3, padding=2),
        nn.ConvTranspose2d(20, 20, 3),
    ]
    assert not any(suits(other) for other in others)


@pytest.mark.parametrize("bits", [0x7FC00001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFC00000])
def test_no_bits_of_what_is_no_number_make_one(kernels: Kernels, bits: int) -> None:
    value = torch.tensor([bits - 2**32 if bits >= 2**31 else bits], dtype=torch.int32)
    x = value.view(torch.float32).expand(1, 8, 1, 1)
    weight = torch.eye(8)[:, :, None, None].contiguous()
    assert Convolution(kernels, weight, sigmoid=True)(x).isnan().all()


@pytest.mark.parametrize("slope", [0.0, 0.2, 2.0])
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan"), -3.0, 3.0])
def test_a_leaky_relu_is_pytorchs_for_every_number(
    kernels: Kernels, slope: float, value: float
) -> None:
    weight, bias = torch.ones(8, 1, 1, 1), torch.zeros(8)
    x = torch.full((1, 1, 1, 1), value)
    result = Convolution(kernels, weight, bias, slope=slope)(x)
    expected = F.leaky_relu(x.expand(1, 8, 1, 1), slope)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(
    ("shape", "given", "said"),
    [
        ((8, 8, 5, 5), {}, "no such convolution"),
        ((8, 8, 1, 3), {}, "no such convolution"),
        ((8, 1, 1, 1), {"depthwise": True}, "no such convolution"),
        ((8, 1, 7, 7), {"depthwise": True}, "no such convolution"),
        ((8, 2, 3, 3), {"depthwise": True}, "no such convolution"),
        ((8, 8, 1, 1), {"padding": 1}, "zeros around"),
        ((8, 8, 3, 3), {"bias": torch.zeros(3)}, "a bias of another size"),
    ],
)
def test_what_it_cannot_do_is_refused(
    kernels: Kernels, shape: tuple[int, ...], given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Convolution(kernels, torch.zeros(shape), **given)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_it_is_neither_converted_nor_traced(kernels: Kernels) -> None:
    made, x = Convolution(kernels, torch.zeros(8, 8, 3, 3), padding=1), torch.zeros(1, 8, 5, 5)
    with pytest.raises(ValueError, match="cannot be traced"):
        torch.jit.trace(made, x)
    with pytest.raises(ValueError, match="compute in float32"):
        made.half()(x)


@torch.inference_mode(False)
def test_without_gradients_it_says_so(kernels: Kernels) -> None:
    made, x = Convolution(kernels, torch.zeros(8, 8, 3, 3), padding=1), torch.zeros(1, 8, 5, 5)
    wants = torch.zeros(1, 8, 5, 5, requires_grad=True)
    for call in ({"x": wants}, {"x": x, "mul": wants}, {"x": x, "add": wants}):
        with pytest.raises(ValueError, match="have no gradients"):
            made(**call)
        with torch.no_grad():
            assert made(**call).shape == x.shape


def test_what_is_read_is_what_there_is(kernels: Kernels) -> None:
    """Negated by name only, or elsewhere than in memory."""
    weight, bias = random_conv(8, 8, 3)
    made, x = Convolution(kernels, weight, bias, padding=1), last(torch.randn(1, 8, 5, 6))
    negated = torch._neg_view(x)
    assert negated.is_neg()
    assert torch.equal(made(negated), made(-x))
    with pytest.raises(NotImplementedError, match="meta"):
        made(x.to("meta"))


def test_maps_of_other_sizes_are_refused(kernels: Kernels) -> None:
    weight, bias = random_conv(24, 20, 3)
    made, x = Convolution(kernels, weight, bias, padding=1), last(torch.randn(1, 24, 9, 9))
    right, small = last(torch.zeros(1, 20, 9, 9)), torch.zeros(1, 1, 1, 1)
    calls = [
        {"x": x[:, :20]},
        {"x": x, "mul": small},
        {"x": x, "add": small},
        {"x": x, "out": small},
        {"x": x, "out": right.double()},
        {"x": x, "out": right.contiguous()},
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"other sizes|float32 with channels last"):
            made(**call)


@pytest.mark.parametrize("ambient", ["float64", "meta", "bf16"])
def test_what_pytorch_was_told_by_others_does_not_matter(kernels: Kernels, ambient: str) -> None:
    weight, bias = random_conv(20, 24, 3)
    made, x = Convolution(kernels, weight, bias, padding=1), last(torch.randn(1, 20, 9, 9))
    expected, before = made(x), torch.get_default_dtype()
    try:
        if ambient == "float64":
            torch.set_default_dtype(torch.float64)
        with (
            torch.device("meta" if ambient == "meta" else "cpu"),
            torch.autocast("cpu", torch.bfloat16, enabled=ambient == "bf16"),
        ):
            assert torch.equal(made(x), expected)
            compare(kernels.path)
    finally:
        torch.set_default_dtype(before)
