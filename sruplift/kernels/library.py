"""The compiled functions."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass


@dataclass(frozen=True)
class Kernels:
    """The library they are in. ``lanes`` is how many channels they take at a time."""

    library: ctypes.CDLL
    lanes: int
