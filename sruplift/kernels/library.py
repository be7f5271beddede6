"""The compiled functions."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Kernels:
    """The library in ``path``. A copy, or what is pickled, is the same one.

    Raises (when a function of it is first needed):
        OSError: it cannot be loaded.
        AttributeError: it is another library.
    """

    path: Path

    @functools.cached_property
    def library(self) -> ctypes.CDLL:
        """Where the functions are."""
        return ctypes.CDLL(str(self.path))

    @functools.cached_property
    def lanes(self) -> int:
        """How many channels they take at a time."""
        return int(self.library.sruplift_lanes())

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        return type(self), (self.path,)
