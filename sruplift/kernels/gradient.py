"""Convolutions with gradients: ``convolution.c`` and ``gradient.c`` called from autograd."""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, SupportsIndex

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from sruplift.kernels.convolution import (
    channels_last,
    convolve,
    empty_maps,
    pack,
    pack_depthwise,
    place,
)
from sruplift.kernels.library import GradientCall, Kernels

# Fewer channels than this, on either side, are faster in PyTorch.
FEWEST_CHANNELS = 8


class Conv2d(NamedTuple):
    """A call of ``F.conv2d``."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None = None
    stride: int | Sequence[int] = 1
    padding: str | int | Sequence[int] = 0
    dilation: int | Sequence[int] = 1
    groups: int = 1

    @property
    def suits(self) -> bool:
        """Whether it is one for ``TrainingKernels``."""
        x, weight, kernel, padding = self.input, self.weight, self.weight.shape[-1], self._padding
        tensors = (x, weight) if self.bias is None else (x, weight, self.bias)
        if self.groups == 1:
            known = weight.shape[2:] in ((1, 1), (3, 3)) and x.shape[1:2] == weight.shape[1:2]
        else:
            depthwise = (*x.shape[1:2], *weight.shape[:2]) == (self.groups, self.groups, 1)
            known = weight.shape[2:] in ((3, 3), (5, 5)) and depthwise
        return (
            known
            and padding in range(kernel)
            and _one(self.stride) == _one(self.dilation) == 1
            and x.ndim == 4
            and x.shape[0] > 0
            and min(x.shape[1], weight.shape[0]) >= FEWEST_CHANNELS
            and min(x.shape[2:]) > 0
            and min(x.shape[2:]) + 2 * padding >= kernel
            and (self.bias is None or self.bias.shape == weight.shape[:1])
            and all(_is_plain(tensor) for tensor in tensors)
            and not torch.is_autocast_enabled("cpu")
        )

    @property
    def _padding(self) -> int:
        if self.padding == "same":
            return self.weight.shape[-1] // 2
        return 0 if self.padding == "valid" else _one(self.padding)

    @property
    def _matrix(self) -> Tensor:
        """A 1x1 kernel. Its gradient lies as it does, as processes that share it want."""
        if self.weight.stride(3) == 1:
            return self.weight.flatten(1)
        return self.weight.permute(0, 2, 3, 1).flatten(1)

    def compute(self, kernels: Kernels) -> Tensor:
        """The result, if it ``suits``."""
        if self.weight.shape[-1] == 1:
            # One matrix product, where PyTorch makes one of each image, or has slower kernels.
            pixels = channels_last(self.input).permute(0, 2, 3, 1)
            return F.linear(pixels, self._matrix, self.bias).permute(0, 3, 1, 2)
        arguments = (kernels, self.input, self.weight, self.bias, self._padding)
        result: Tensor = _Convolve.apply(*arguments)  # type: ignore[no-untyped-call]
        return result


class TrainingKernels(TorchFunctionMode):
    """Within it ``F.conv2d`` is ours where that is faster, and networks need no change.

    That is so of kernels of 1x1 and 3x3, and of depthwise ones of 3x3 and 5x5, in float32 on the
    CPU, without stride and dilation, with the same padding on all sides, up to kernel - 1, from and
    to at least ``FEWEST_CHANNELS``. What is computed so can be differentiated, once, also when the
    mode has been left. The transforms of ``torch.func`` do not see into it.
    """

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.conv2d and (call := Conv2d(*args, **kwargs)).suits:
            return call.compute(self.kernels)
        return func(*args, **kwargs)


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is float32 on the CPU, with memory that holds its values."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.is_neg()
    )


def _one(value: str | int | Sequence[int]) -> int:
    """What all numbers of ``value`` are; -1 if they are not the same, or none."""
    if isinstance(value, str):
        return -1
    values = {operator.index(value)} if isinstance(value, SupportsIndex) else set(value)
    return values.pop() if len(values) == 1 else -1


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, kernels: Kernels, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int
    ) -> Tensor:
        x = channels_last(x)
        bias = None if bias is None else bias.contiguous()
        more = 2 * padding + 1 - weight.shape[-1]
        out = empty_maps((x.shape[0], weight.shape[0], x.shape[2] + more, x.shape[3] + more))
        _convolve(kernels, x, weight, out, bias, padding)
        ctx.save_for_backward(x, weight)
        ctx.kernels, ctx.padding = kernels, padding
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        kernels, padding = ctx.kernels, ctx.padding
        # Who saves memory may have put the input back in another order.
        x, gradient = channels_last(x), channels_last(gradient)
        of_x, of_weight, of_bias = None, None, None
        if ctx.needs_input_grad[1]:
            turned = weight.flip(2, 3)
            turned = turned if _is_depthwise(x, weight) else turned.transpose(0, 1)
            of_x = empty_maps(x.shape)
            _convolve(kernels, gradient, turned, of_x, None, weight.shape[-1] - 1 - padding)
        if ctx.needs_input_grad[2]:
            of_weight = weight_gradient(kernels, x, gradient, weight, padding)
        if ctx.needs_input_grad[3]:
            of_bias = gradient.sum((0, 2, 3))
        return None, of_x, of_weight, of_bias, None


def _convolve(
    kernels: Kernels, x: Tensor, weight: Tensor, out: Tensor, bias: Tensor | None, padding: int
) -> None:
    depthwise = _is_depthwise(x, weight)
    packed = (pack_depthwise if depthwise else pack)(kernels, weight)
    convolve(
        kernels, x, packed, out,
        kernel=weight.shape[-1], bias=bias, padding=padding, depthwise=depthwise,
    )  # fmt: skip


def _is_depthwise(x: Tensor, weight: Tensor) -> bool:
    """Of what ``suits``, which has more channels than one."""
    return x.shape[1] > weight.shape[1]


def weight_gradient(
    kernels: Kernels, x: Tensor, gradient: Tensor, weight: Tensor, padding: int
) -> Tensor:
    """That of ``weight`` (O, I, 3, 3), in the same order, from that of the output (B, O, H', W').

    Or of a depthwise one (I, 1, k, k). ``x`` is the input (B, I, H, W); both have channels last.

    Raises:
        MemoryError: there is not enough of it.
    """
    result = torch.empty_like(weight)
    (x_place, *x_steps), (y_place, *y_steps) = place(x), place(gradient)
    batch, inputs, height, width = x.shape
    _, outputs, out_height, out_width = gradient.shape
    call = GradientCall(
        x_place, y_place, *x_steps, *y_steps, batch, height, width, inputs,
        out_height, out_width, outputs, padding, result.data_ptr(), *result.stride(),
    )  # fmt: skip
    threads = torch.get_num_threads()
    if _is_depthwise(x, weight):
        kernels.library.sruplift_gradient_channels(ctypes.byref(call), weight.shape[-1], threads)
    elif kernels.library.sruplift_gradient(ctypes.byref(call), threads):
        raise MemoryError("not enough memory for a gradient")
    return result
