"""Convolutions with what follows them: ``convolution.c`` called from PyTorch."""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sruplift.kernels.library import ConvCall, Kernels


class Convolution(nn.Module):
    """A convolution with a kernel of 1x1 or 3x3, and what follows it. Inference only.

    Or one of each channel by itself (depthwise), with a kernel of 3x3 or 5x5.

    Args:
        kernels: from ``load_kernels``.
        weight: (O, I, k, k), k 1 or 3; if depthwise (O, 1, k, k), k 3 or 5.
        bias: (O,) or None.
        padding: zeros around the map; none with 1x1.
        sigmoid: whether a sigmoid follows, 2 for the sigmoid of a ReLU; then comes the product with
            ``mul`` of the call, then the sum with its ``add``.
        slope: of a leaky ReLU after all that; 1 is none, 0 is ReLU.
        depthwise: whether output channel n is made of input channel n alone.

    Raises:
        ValueError: another kernel, or zeros around the map of a 1x1 one.
    """

    packed: Tensor
    bias: Tensor | None

    def __init__(
        self,
        kernels: Kernels,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        padding: int = 0,
        sigmoid: int = 0,
        slope: float = 1.0,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        sizes = ((3, 3), (5, 5)) if depthwise else ((1, 1), (3, 3))
        if weight.shape[2:] not in sizes or (depthwise and weight.shape[1] != 1):
            raise ValueError(f"there is no such convolution with a kernel {tuple(weight.shape)}")
        if weight.shape[-1] == 1 and padding:
            raise ValueError("zeros around the map of a 1x1 kernel")
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError("a bias of another size than the outputs")
        self.kernels, self.depthwise = kernels, depthwise
        self.outputs, self.inputs, self.kernel = weight.shape[:3]
        self.inputs = self.outputs if depthwise else self.inputs
        self.padding, self.sigmoid, self.slope = padding, sigmoid, slope
        packed = (pack_depthwise if depthwise else pack)(kernels, weight.detach())
        self.register_buffer("packed", packed, persistent=False)
        # Copies: the struct holds addresses, so both must lie as the kernels take them.
        self.register_buffer(
            "bias", None if bias is None else bias.detach().float().clone(), persistent=False
        )

    def forward(
        self,
        x: Tensor,
        *,
        mul: Tensor | None = None,
        add: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """The result for ``x`` (B, I, H, W); other than float32 on the CPU is converted.

        ``mul`` and ``add`` have the result's shape (B, O, H', W'). ``out``, if given, takes it,
        and overlaps none of them; its channels are last, as a slice of channels' are.

        Raises:
            ValueError: maps of other sizes, or that want gradients; or it is traced.
            MemoryError: there is not enough of it.
        """
        if self.packed.dtype != torch.float32 or _is_traced():
            raise ValueError("our convolutions compute in float32 and cannot be traced")
        if torch.is_grad_enabled() and any(
            maps is not None and maps.requires_grad for maps in (x, mul, add)
        ):
            raise ValueError("our convolutions have no gradients: use the network as it was loaded")
        x = channels_last(x)
        others = [None if maps is None else channels_last(maps) for maps in (mul, add)]
        batch, _, height, width = x.shape
        more = 2 * self.padding + 1 - self.kernel
        size = (height + more, width + more)
        if out is None:
            out = empty_maps((batch, self.outputs, *size))
        shape = (batch, self.outputs, *size)
        if x.shape[1] != self.inputs or any(
            maps is not None and maps.shape != shape for maps in (*others, out)
        ):
            raise ValueError("maps of other sizes than the convolution's")
        if out.stride(1) != 1 or out.dtype != torch.float32:
            raise ValueError("the result needs float32 with channels last")
        convolve(
            self.kernels, x, self.packed, out,
            kernel=self.kernel, bias=self.bias, padding=self.padding,
            sigmoid=self.sigmoid, mul=others[0], add=others[1], slope=self.slope,
            depthwise=self.depthwise,
        )  # fmt: skip
        return out


def _is_traced() -> bool:
    """Whether PyTorch notes what is called, which of our functions it cannot."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


def convolve(
    kernels: Kernels,
    x: Tensor,
    packed: Tensor,
    out: Tensor,
    *,
    kernel: int,
    bias: Tensor | None = None,
    padding: int = 0,
    sigmoid: int = 0,
    mul: Tensor | None = None,
    add: Tensor | None = None,
    slope: float = 1.0,
    depthwise: bool = False,
) -> None:
    """A ``Convolution`` into ``out``; sizes and layouts of all maps are taken to be right.

    Raises:
        MemoryError: there is not enough of it.
    """
    batch, inputs, height, width = x.shape
    _, outputs, out_height, out_width = out.shape
    call = ConvCall(
        batch, *place(x), height, width, inputs, padding,
        packed.data_ptr(), None if bias is None else bias.data_ptr(),
        *place(out), out_height, out_width, outputs, sigmoid, *place(mul), *place(add), slope,
    )  # fmt: skip
    threads = torch.get_num_threads()
    if depthwise:
        kernels.library.sruplift_convolve_channels(ctypes.byref(call), kernel, threads)
    elif kernels.library.sruplift_convolve(ctypes.byref(call), kernel, threads):
        raise MemoryError("not enough memory for a convolution")


def suits(conv: nn.Module) -> bool:
    """Whether ``conv`` is a convolution that is faster as a ``Convolution``.

    A depthwise one is, and a 3x3 one from at least eight channels; of 1x1 PyTorch's are as fast
    where nothing follows.
    """
    if (
        type(conv) is not nn.Conv2d
        or conv.stride != (1, 1)
        or conv.dilation != (1, 1)
        or conv.padding_mode != "zeros"
        or conv.kernel_size not in ((3, 3), (5, 5))
        or conv.padding not in ((0, 0), (conv.kernel_size[0] // 2,) * 2)
    ):
        return False
    return _is_depthwise(conv) or (
        conv.kernel_size == (3, 3) and conv.groups == 1 and conv.in_channels >= 8
    )


def _is_depthwise(conv: nn.Conv2d) -> bool:
    return 1 < conv.groups == conv.in_channels == conv.out_channels


def convolution_of(
    kernels: Kernels, conv: nn.Conv2d, *, sigmoid: int = 0, slope: float = 1
) -> Convolution:
    """``conv``, of stride 1, as a ``Convolution``."""
    padding = int(conv.padding[0])
    return Convolution(
        kernels,
        conv.weight,
        conv.bias,
        padding=padding,
        sigmoid=sigmoid,
        slope=slope,
        depthwise=_is_depthwise(conv),
    )


def pack_depthwise(kernels: Kernels, weight: Tensor) -> Tensor:
    """(C, 1, k, k) as convolution.c takes it: (k * k, groups * lanes), float32; cf. ``pack``."""
    lanes, channels = kernels.lanes, weight.shape[0]
    taps = F.pad(weight.to("cpu", torch.float32).flatten(1).T, (0, max(lanes - channels, 0)))
    starts = (min(start, taps.shape[1] - lanes) for start in range(0, channels, lanes))
    return torch.cat([taps[:, start : start + lanes] for start in starts], dim=1).contiguous()


def pack(kernels: Kernels, weight: Tensor) -> Tensor:
    """(O, I, k, k), in any order, as convolution.c takes it: ([36,] I, groups * lanes), float32.

    Of 3x3 kernels the transform G w G' (``gradient.c``).
    """
    weight = weight.to("cpu", torch.float32)
    outputs, inputs, kernel, _ = weight.shape
    wide = -(-outputs // kernels.lanes) * kernels.lanes
    points = (36,) if kernel == 3 else ()
    packed = torch.empty((*points, inputs, wide), dtype=torch.float32, device="cpu")
    steps = (ctypes.c_ssize_t * 4)(*weight.stride())
    kernels.library.sruplift_pack(
        ctypes.c_void_p(weight.data_ptr()), steps, outputs, inputs, kernel,
        ctypes.c_void_p(packed.data_ptr()),
    )  # fmt: skip
    return packed


def place(maps: Tensor | None) -> tuple[int | None, int, int, int]:
    """Where maps (B, C, H, W) begin, and how far their pixels, rows and images are apart."""
    if maps is None:
        return None, 0, 0, 0
    return maps.data_ptr(), maps.stride(3), maps.stride(2), maps.stride(0)


def channels_last(x: Tensor) -> Tensor:
    """Float32, on the CPU, with channels that lie side by side; what has them so stays as it is."""
    x = x.to("cpu", torch.float32).resolve_neg()
    return x if x.stride(1) == 1 else x.contiguous(memory_format=torch.channels_last)


def empty_maps(shape: tuple[int, ...]) -> Tensor:
    """Maps (B, C, H, W) that a ``Convolution`` can write: float32, on the CPU, channels last."""
    return torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=torch.channels_last)
