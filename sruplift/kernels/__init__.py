"""Convolutions, and patches of HPINet, of our own for CPUs, compiled where they run.

PyTorch's convolutions in float32 multiply nine times for each output pixel and channel of a 3x3
kernel; those here two and a quarter times (Winograd's minimal filtering), and they apply gates,
products, sums and activations while a result is in registers. Their C source is compiled once, in a
few seconds, by the machine's own C compiler for its own processor, and kept in a cache folder.

A ``Program`` of many convolutions keeps what lies between them in the cache, and pixels, not
channels, in a register's lanes: with few channels nothing is left over. It computes in float32, or
in bf16, as fast as a matrix product where the processor multiplies that.

Inference exchanges a network's layers for them (``sruplift.fuse.programs`` and ``compiled``),
training the calls that its layers make (``TrainingKernels``), in float32.
"""

from sruplift.kernels.compiler import private_folder
from sruplift.kernels.convolution import Convolution, convolution_of, empty_maps, suits
from sruplift.kernels.gradient import TrainingKernels
from sruplift.kernels.library import Arithmetic, Kernels
from sruplift.kernels.loading import load_kernels
from sruplift.kernels.patches import PatchLayers, join
from sruplift.kernels.program import Part, PlaneMap, Program, UnsuitedError
from sruplift.kernels.spare import SPARE

__all__ = [
    "SPARE",
    "Arithmetic",
    "Convolution",
    "Kernels",
    "Part",
    "PatchLayers",
    "PlaneMap",
    "Program",
    "TrainingKernels",
    "UnsuitedError",
    "convolution_of",
    "empty_maps",
    "join",
    "load_kernels",
    "private_folder",
    "suits",
]
