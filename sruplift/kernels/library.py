"""The compiled functions, and what they are called with."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sruplift.errors import CompilerError


class ConvCall(ctypes.Structure):
    """``Conv`` in convolution.c."""

    _fields_ = (
        ("images", ctypes.c_int32),
        ("x", ctypes.c_void_p),
        ("x_step", ctypes.c_ssize_t),
        ("x_row", ctypes.c_ssize_t),
        ("x_image", ctypes.c_ssize_t),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("inputs", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("y_step", ctypes.c_ssize_t),
        ("y_row", ctypes.c_ssize_t),
        ("y_image", ctypes.c_ssize_t),
        ("out_height", ctypes.c_int32),
        ("out_width", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
        ("sigmoid", ctypes.c_int32),
        ("mul", ctypes.c_void_p),
        ("mul_step", ctypes.c_ssize_t),
        ("mul_row", ctypes.c_ssize_t),
        ("mul_image", ctypes.c_ssize_t),
        ("add", ctypes.c_void_p),
        ("add_step", ctypes.c_ssize_t),
        ("add_row", ctypes.c_ssize_t),
        ("add_image", ctypes.c_ssize_t),
        ("slope", ctypes.c_float),
    )


class GradientCall(ctypes.Structure):
    """``Gradient`` in gradient.c."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("x_step", ctypes.c_ssize_t),
        ("x_row", ctypes.c_ssize_t),
        ("x_image", ctypes.c_ssize_t),
        ("y_step", ctypes.c_ssize_t),
        ("y_row", ctypes.c_ssize_t),
        ("y_image", ctypes.c_ssize_t),
        ("images", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("inputs", ctypes.c_int32),
        ("out_height", ctypes.c_int32),
        ("out_width", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        ("weight", ctypes.c_void_p),
        ("w_output", ctypes.c_ssize_t),
        ("w_input", ctypes.c_ssize_t),
        ("w_row", ctypes.c_ssize_t),
        ("w_step", ctypes.c_ssize_t),
    )


class MapCall(ctypes.Structure):
    """``MapCall`` in program.h."""

    _fields_ = (
        ("pairs", ctypes.c_int32),
        ("scale", ctypes.c_int32),
        ("data", ctypes.c_void_p),
        ("image", ctypes.c_void_p),
        ("image_row", ctypes.c_ssize_t),
        ("image_channel", ctypes.c_ssize_t),
    )


class OpCall(ctypes.Structure):
    """``OpCall`` in program.h."""

    _fields_ = (
        ("input", ctypes.c_int32),
        ("first_input", ctypes.c_int32),
        ("pairs", ctypes.c_int32),
        ("output", ctypes.c_int32),
        ("first_output", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
        ("block", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("enlarge", ctypes.c_int32),
        ("reach", ctypes.c_int32),
        ("taps", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("activation", ctypes.c_int32),
        ("mul", ctypes.c_int32),
        ("first_mul", ctypes.c_int32),
        ("add", ctypes.c_int32),
        ("first_add", ctypes.c_int32),
        ("share", ctypes.c_int32),
        ("slope", ctypes.c_float),
    )


class PatchesCall(ctypes.Structure):
    """``Patches`` in patches.h; ``layers``: of each step query, key, value, widen and narrow."""

    _fields_ = (
        ("map", ctypes.c_void_p),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("channels", ctypes.c_int32),
        ("width_of_query", ctypes.c_int32),
        ("hidden", ctypes.c_int32),
        ("side", ctypes.c_int32),
        ("down", ctypes.c_int32),
        ("across", ctypes.c_int32),
        ("tops", ctypes.c_void_p),
        ("lefts", ctypes.c_void_p),
        ("partners", ctypes.c_void_p),
        ("result", ctypes.c_void_p),
        ("layers", ctypes.c_void_p * 30),
    )


class JoinCall(ctypes.Structure):
    """``Join`` in patches.h."""

    _fields_ = (
        ("patches", ctypes.c_void_p),
        ("channels", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("side", ctypes.c_int32),
        ("down", ctypes.c_int32),
        ("across", ctypes.c_int32),
        ("tops", ctypes.c_void_p),
        ("lefts", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("columns", ctypes.c_void_p),
        ("map", ctypes.c_void_p),
    )


# By the name of the function that tells how large the library takes one to be.
STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "sruplift_conv_size": ConvCall,
    "sruplift_gradient_size": GradientCall,
    **{
        f"sruplift_{arithmetic}_{name}_size": call
        for arithmetic in ("half", "single")
        for name, call in (
            ("map", MapCall),
            ("op", OpCall),
            ("join", JoinCall),
            ("patches", PatchesCall),
        )
    },
}


@dataclass(frozen=True)
class Kernels:
    """The library in ``path``. A copy, or what is pickled, is the same one.

    Raises (when a function of it is first needed):
        CompilerError: it cannot be loaded, or is another version's.
    """

    path: Path

    @functools.cached_property
    def library(self) -> ctypes.CDLL:
        """Where the functions are."""
        try:
            library = ctypes.CDLL(str(self.path))
            fits = all(library[name]() == ctypes.sizeof(each) for name, each in STRUCTURES.items())
            for arithmetic in ("half", "single") if fits else ():
                cells = getattr(library, f"sruplift_{arithmetic}_cells")
                cells.restype = ctypes.c_int64
        except (OSError, AttributeError) as error:
            raise CompilerError(f"compiled kernels cannot be loaded: {error}") from error
        if not fits:
            raise CompilerError(f"the compiled kernels are of another version: {self.path}")
        return library

    @functools.cached_property
    def lanes(self) -> int:
        """How many channels they take at a time."""
        return int(self.library.sruplift_lanes())

    @functools.cached_property
    def multiplies_half(self) -> bool:
        """Whether the processor multiplies bf16 by itself, so that ``Program`` is fast in it."""
        return bool(self.library.sruplift_half())

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        return type(self), (self.path,)


@dataclass(frozen=True)
class Arithmetic:
    """What programs and patches compute in: bf16 (``half``) or float32; sums are in float32."""

    kernels: Kernels
    half: bool

    def function(self, name: str) -> Any:
        """The library's function of that name, for this arithmetic."""
        # By attribute: an index would make another one, which returns ``int``.
        return getattr(self.kernels.library, f"sruplift_{'half' if self.half else 'single'}_{name}")

    @functools.cached_property
    def filtered(self) -> int:
        """How many rows a filtered 3x3 kernel makes together."""
        return int(self.function("filtered")())

    def block_of(self, outputs: int) -> int:
        """How many outputs are computed together: the most that leave none over."""
        return int(self.function("block_of")(outputs))
