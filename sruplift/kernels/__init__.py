"""Convolutions and attention of our own for CPUs, compiled where they run, in float32.

PyTorch's convolutions in float32 multiply nine times for each output pixel and channel of a 3x3
kernel; those here two and a quarter times (Winograd's minimal filtering), and they apply gates,
products, sums and activations while a result is in registers. Their C source is compiled once, in a
few seconds, by the machine's own C compiler for its own processor, and kept in a cache folder. In
half precision PyTorch's are faster where the processor computes it, so there is no such variant.

Inference exchanges a network's layers for them (``sruplift.fuse.compiled``), training the calls
that its layers make (``TrainingKernels``).
"""

from sruplift.kernels.attention import attend
from sruplift.kernels.convolution import Convolution, convolution_of, empty_maps, suits
from sruplift.kernels.gradient import TrainingKernels
from sruplift.kernels.library import Kernels
from sruplift.kernels.loading import load_kernels

__all__ = [
    "Convolution",
    "Kernels",
    "TrainingKernels",
    "attend",
    "convolution_of",
    "empty_maps",
    "load_kernels",
    "suits",
]
