"""Get the kernels: compile them if need be, load them, and see what they compute."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sruplift.errors import CompilerError
from sruplift.kernels.attention import attend
from sruplift.kernels.compiler import build
from sruplift.kernels.convolution import Convolution
from sruplift.kernels.library import Kernels

SOURCES = Path(__file__).parent
# How far the results may be from PyTorch's, for inputs and sums of about 1, when first loaded.
TOLERANCE = 1e-4


def load_kernels(folder: Path) -> Kernels:
    """The kernels for this machine, compiled if ``folder`` does not have them yet.

    Raises:
        CompilerError: there is no C compiler, it fails, or what it makes computes something else.
    """
    path = build(SOURCES, folder)
    try:
        library = ctypes.CDLL(str(path))
        kernels = Kernels(library, int(library.sruplift_lanes()))
    except (OSError, AttributeError) as error:
        raise CompilerError(f"the compiled {path} cannot be loaded: {error}") from error
    _check(kernels)
    return kernels


def _check(kernels: Kernels) -> None:
    """Compare all kinds, with all that may follow a convolution, with PyTorch's.

    Raises:
        CompilerError: they differ.
    """
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x, mul, add, bias = some(1, 21, 7, 9), some(1, 19, 7, 9), some(1, 19, 7, 9), some(19)
    pairs = []
    for size in (1, 3):
        weight = some(19, 21, size, size) / (21 * size**2) ** 0.5
        expected = F.conv2d(x, weight, bias, padding=size // 2).sigmoid() * mul + add
        made = Convolution(kernels, weight, bias, padding=size // 2, sigmoid=True, slope=0.2)
        pairs.append((made(x, mul=mul, add=add), F.leaky_relu(expected, 0.2)))
    query, key, value = some(2, 9, 5), some(2, 19, 5), some(2, 19, 19)
    expected = (query @ key.mT).softmax(-1) @ value
    pairs.append((attend(kernels, query, key, value), expected))
    difference = max(float((result - right).abs().max()) for result, right in pairs)
    if not difference <= TOLERANCE:
        raise CompilerError(
            f"what was compiled for this machine computes something else, by {difference:.1g}"
        )
