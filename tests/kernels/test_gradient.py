"""Gradients of our own convolutions against PyTorch's in float64, and when ours are taken."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from sruplift.kernels import Kernels, TrainingKernels
from sruplift.kernels.gradient import Conv2d, weight_gradient
from sruplift.models import create_model

# Relative to the largest value. PyTorch's own float32 is within 2e-6 of float64.
CLOSE = 2e-5


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def results(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, mode: TrainingKernels | None
) -> list[Tensor]:
    """The output and all gradients, ours or in float64."""
    options = {"padding": padding, "groups": x.shape[1] // weight.shape[1]}
    tensors = [t for t in (x, weight, bias) if t is not None]
    exact = torch.float64 if mode is None else torch.float32
    leaves = [t.detach().to(exact).requires_grad_() for t in tensors]
    if mode is None:
        y = F.conv2d(*leaves, **options)
    else:
        call = Conv2d(*leaves, **options)
        assert call.suits
        with mode:
            y = F.conv2d(*leaves, **options)
        assert torch.equal(y, call.compute(mode.kernels))
    weights = torch.linspace(-9, 9, y.numel(), dtype=exact).reshape(y.shape).sin()
    (y * weights).sum().backward()
    return [y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def assert_right(
    kernels: Kernels, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int
) -> None:
    ours = results(x, weight, bias, padding, TrainingKernels(kernels))
    expected = results(x, weight, bias, padding, None)
    assert len(ours) == len(expected) == (3 if bias is None else 4)
    for value, exact in zip(ours, expected, strict=True):
        assert float((value - exact).abs().max()) <= CLOSE * float(exact.abs().max())


def some(inputs: int, outputs: int, kernel: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(inputs * outputs + kernel)
    weight = torch.randn(outputs, inputs, kernel, kernel) / (inputs * kernel**2) ** 0.5
    return weight, torch.randn(outputs)


# Around one, two and more groups of lanes; as many as one product takes, and one more.
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [(8, 8), (9, 12), (20, 20), (24, 13), (16, 33), (33, 16), (40, 40), (50, 64), (64, 100)],
)
def test_every_width(kernels: Kernels, kernel: int, inputs: int, outputs: int) -> None:
    weight, bias = some(inputs, outputs, kernel)
    assert_right(kernels, last(torch.randn(2, inputs, 11, 13)), weight, bias, kernel // 2)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("channels", [8, 9, 13, 16, 20, 33, 64])
def test_every_width_of_depthwise_ones(kernels: Kernels, kernel: int, channels: int) -> None:
    weight, bias = some(1, channels, kernel)
    assert_right(kernels, last(torch.randn(2, channels, 11, 14)), weight, bias, kernel // 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (4, 4), (5, 8), (6, 131), (33, 7)])
@pytest.mark.parametrize(("kernel", "padding"), [(3, 0), (3, 2), (5, 0), (5, 2), (5, 4)])
def test_every_border_of_depthwise_ones(
    kernels: Kernels, size: tuple[int, int], kernel: int, padding: int
) -> None:
    if min(size) + 2 * padding < kernel:
        pytest.skip("nothing is left")
    weight, _ = some(1, 20, kernel)
    assert_right(kernels, last(torch.randn(3, 20, *size)), weight, None, padding)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (4, 4), (5, 8), (6, 131), (33, 7)])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_every_border(kernels: Kernels, size: tuple[int, int], padding: int) -> None:
    if min(size) + 2 * padding < 3:
        pytest.skip("nothing is left")
    weight, _ = some(20, 24, 3)
    assert_right(kernels, last(torch.randn(3, 20, *size)), weight, None, padding)


@pytest.mark.parametrize("kernel", [1, 3])
def test_every_layout(kernels: Kernels, kernel: int) -> None:
    weight, bias = some(20, 24, kernel)
    large = last(torch.randn(2, 40, 9, 14))
    wide = torch.randn(48)[::2]
    for x in (large[:, 13:33], large[:, :20, 2:7, 3:], large[:, :20].contiguous()):
        for w in (weight, last(weight), weight.transpose(0, 1).contiguous().transpose(0, 1)):
            assert_right(kernels, x, w, bias, kernel // 2)
    assert_right(kernels, large[:, :20], weight, wide, kernel // 2)


def test_every_layout_of_depthwise_ones(kernels: Kernels) -> None:
    weight, bias = some(1, 20, 5)
    large = last(torch.randn(2, 40, 9, 14))
    for x in (large[:, 13:33], large[:, :20, 2:7, 3:], large[:, :20].contiguous()):
        for w in (weight, last(weight), weight.flip(1).transpose(2, 3)):
            assert_right(kernels, x, w, bias, 2)


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_gradient_of_a_weight_lies_as_the_weight(kernels: Kernels, kernel: int) -> None:
    """Else processes that train together copy, and say so."""
    conv, x = nn.Conv2d(20, 24, kernel), torch.randn(2, 20, 8, 8)
    for layout in (torch.contiguous_format, torch.channels_last):
        nn.utils.convert_conv2d_weight_memory_format(conv, layout)
        conv.zero_grad()
        with TrainingKernels(kernels):
            conv(x).sum().backward()
        assert conv.weight.grad is not None
        assert conv.weight.grad.stride() == conv.weight.stride()


def test_only_what_is_asked_for_is_computed(kernels: Kernels) -> None:
    weight, bias = some(20, 24, 3)
    x = last(torch.randn(1, 20, 8, 8))
    for wanted in (x, weight, bias):
        leaves = [t.clone().requires_grad_(t is wanted) for t in (x, weight, bias)]
        with TrainingKernels(kernels):
            F.conv2d(*leaves, padding=1).sum().backward()
        assert [leaf.grad is not None for leaf in leaves] == [
            t is wanted for t in (x, weight, bias)
        ]


def test_gradients_of_broadcast_values(kernels: Kernels) -> None:
    """A sum's gradient is one number for all pixels, without memory for each."""
    weight, bias = some(20, 24, 3)
    leaves = [t.requires_grad_() for t in (last(torch.randn(2, 20, 9, 9)), weight, bias)]
    with TrainingKernels(kernels):
        y = F.conv2d(*leaves, padding=1)
    ours = torch.autograd.grad(y.sum(), leaves)
    expected = torch.autograd.grad(F.conv2d(*leaves, padding=1).sum(), leaves)
    for value, exact in zip(ours, expected, strict=True):
        torch.testing.assert_close(value, exact, rtol=1e-4, atol=1e-3)


def test_threads_compute_the_same_and_always_the_same(kernels: Kernels) -> None:
    weight, _ = some(40, 24, 3)
    x, y = last(torch.randn(3, 40, 30, 26)), last(torch.randn(3, 24, 30, 26))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = weight_gradient(kernels, x, y, weight, 1)
        for threads in (2, 5, 64):
            torch.set_num_threads(threads)
            first, second = (weight_gradient(kernels, x, y, weight, 1) for _ in range(2))
            assert torch.equal(first, second)
            torch.testing.assert_close(first, alone, rtol=0, atol=1e-5 * float(alone.abs().max()))
    finally:
        torch.set_num_threads(before)


def test_it_is_differentiated_once(kernels: Kernels) -> None:
    weight, _ = some(20, 24, 3)
    x = last(torch.randn(1, 20, 8, 8)).requires_grad_()
    with TrainingKernels(kernels):
        y = F.conv2d(x, weight, padding=1)
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("how", ["checkpoint", "copies in another order"])
def test_what_is_saved_may_come_back_in_another_order(kernels: Kernels, how: str) -> None:
    """Those who save memory compute it again, or keep it elsewhere."""
    weight, _ = some(20, 24, 3)
    torch.manual_seed(0)
    leaves = [torch.randn(2, 20, 9, 9).requires_grad_(), weight.requires_grad_()]
    with TrainingKernels(kernels):
        if how == "checkpoint":
            y = checkpoint(lambda x, w: F.conv2d(x, w, padding=1), *leaves, use_reentrant=False)
        else:
            with saved_tensors_hooks(lambda t: t.contiguous(), lambda t: t):
                y = F.conv2d(last(leaves[0]), leaves[1], padding=1)
    weights = torch.linspace(-9, 9, y.numel()).reshape(y.shape).sin()
    ours = torch.autograd.grad((y * weights).sum(), leaves)
    plain = F.conv2d(*leaves, padding=1)
    for value, exact in zip(
        ours, torch.autograd.grad((plain * weights).sum(), leaves), strict=True
    ):
        assert float((value - exact).abs().max()) <= CLOSE * float(exact.abs().max())


class Fancy(Tensor):
    """One that may mean something else by a convolution."""

    @staticmethod
    def __new__(cls, values: Tensor) -> Fancy:
        return values.as_subclass(cls)


@pytest.mark.parametrize(
    "change",
    [
        {"stride": 2},
        {"stride": (1, 2)},
        {"dilation": 2},
        {"groups": 2, "weight": torch.zeros(24, 10, 3, 3)},
        {"groups": 20, "weight": torch.zeros(40, 1, 3, 3)},
        {"groups": 20, "weight": torch.zeros(20, 1, 7, 7)},
        {"groups": 20, "weight": torch.zeros(20, 1, 1, 1)},
        {"groups": 20, "weight": torch.zeros(20, 2, 3, 3)},
        {"groups": 3, "input": torch.zeros(2, 3, 9, 9), "weight": torch.zeros(3, 1, 3, 3)},
        {"padding": 3},
        {"padding": (0, 1)},
        {"padding": "other"},
        {"weight": torch.zeros(24, 20, 5, 5)},
        {"weight": torch.zeros(24, 20, 1, 3)},
        {"weight": torch.zeros(3, 20, 3, 3)},
        {"input": torch.zeros(2, 3, 9, 9), "weight": torch.zeros(24, 3, 3, 3)},
        {"input": torch.zeros(20, 9, 9)},
        {"input": torch.zeros(0, 20, 9, 9)},
        {"input": torch.zeros(2, 20, 2, 9)},
        {"input": torch.zeros(2, 21, 9, 9)},
        {
            "input": torch.zeros(2, 20, 9, 9, dtype=torch.float64),
            "weight": torch.zeros(24, 20, 3, 3, dtype=torch.float64),
        },
        {"input": torch.zeros(2, 20, 9, 9, dtype=torch.float64)},
        {"bias": torch.zeros(24, dtype=torch.bfloat16)},
        {"bias": torch.zeros(3)},
        {"bias": torch.zeros(1), "weight": torch.zeros(24, 20, 1, 1)},
        {"input": torch.zeros(2, 20, 0, 9), "padding": 2},
        {"input": torch.zeros(2, 20, 9, 9).to_mkldnn()},
        {"input": torch.zeros(2, 20, 9, 9, dtype=torch.complex64).conj().imag},
        {"weight": Fancy(torch.zeros(24, 20, 3, 3))},
    ],
)
def test_other_calls_are_pytorchs(kernels: Kernels, change: dict[str, Any]) -> None:
    """What it computes, and what it refuses."""
    call = {"input": torch.zeros(2, 20, 9, 9), "weight": torch.zeros(24, 20, 3, 3), "padding": 0}
    assert Conv2d(**call).suits
    for padding in ("valid", "same", np.int64(1), (1, np.int64(1))):
        assert Conv2d(**{**call, "padding": padding}).suits
    other = {**call, **change}
    assert not Conv2d(**other).suits
    expected = outcome(other)
    with TrainingKernels(kernels):
        assert outcome(other) == expected


def outcome(call: dict[str, Any]) -> Any:
    try:
        return F.conv2d(**call).shape
    except (RuntimeError, ValueError, TypeError) as error:
        return type(error)


def test_autocast_is_pytorchs(kernels: Kernels) -> None:
    x, weight = torch.zeros(1, 20, 9, 9), torch.zeros(24, 20, 3, 3)
    with torch.autocast("cpu", torch.bfloat16), TrainingKernels(kernels):
        assert F.conv2d(x, weight).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "scale"),
    [("pan", 2), ("pan", 3), ("a2n", 4), ("maffsrn", 2), ("srram", 3), ("hpinet-s", 2)],
)
def test_gradients_of_every_network(kernels: Kernels, name: str, scale: int) -> None:
    """As far from PyTorch's as the last bits of an image take them, on most images.

    Where these flip a ReLU, as on some images those of a kernel's sums do, that is far.
    """
    net = create_model(name, scale)
    nn.utils.convert_conv2d_weight_memory_format(net, torch.channels_last)

    def gradients(lr: Tensor, hr: Tensor) -> list[Tensor]:
        net.zero_grad()
        (net(lr) - hr).square().mean().backward()
        return [p.grad for p in net.parameters() if p.grad is not None]

    ours, rounding = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        lr, hr = torch.rand(2, 3, 24, 20), torch.rand(2, 3, 24 * scale, 20 * scale)
        plain = gradients(lr, hr)
        with TrainingKernels(kernels):
            ours.append(distance(gradients(lr, hr), plain))
        # HPINet's matches change with the last bit of an image, too.
        rounding.append(distance(gradients(lr * (1 + 2e-7), hr), plain))
    assert 0 < median(ours) < 10 * max(median(rounding), 1e-5)


def distance(gradients: list[Tensor], others: list[Tensor]) -> float:
    """Of most gradients, in units of their length."""
    pairs = zip(gradients, others, strict=True)
    parts = [(one - other).norm() / other.norm() for one, other in pairs if other.norm() > 0]
    return float(torch.stack(parts).median())
