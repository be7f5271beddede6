"""Arrays of pixels that may be larger than the memory they should take.

A small array lies in memory. A large one is mapped from a file that has no name, so that nothing
is left behind however the program ends; ``release`` gives back the memory of what was touched.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import DTypeLike, NDArray

# Larger pictures than this are decoded and encoded in strips, bytes.
IN_MEMORY = 192 * 1024**2
# Larger arrays than this are mapped from files, bytes.
RESIDENT = 64 * 1024**2
# The mapped arrays that somebody still uses, by the address where they begin.
_MAPPED: WeakValueDictionary[int, np.memmap[Any, Any]] = WeakValueDictionary()
_LOCK = threading.Lock()


def new_array(shape: tuple[int, ...], dtype: DTypeLike, folder: Path | None) -> NDArray[Any]:
    """An array of ``shape``, in memory or, above ``RESIDENT`` bytes, in an unnamed file.

    Args:
        shape: of one element at least.
        dtype: of the elements.
        folder: where the file may be; None keeps any array in memory.

    Raises:
        OSError: the folder cannot be written to, or has not enough room.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if folder is None or size <= min(RESIDENT, IN_MEMORY):
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(dir=folder, prefix=".sruplift-", suffix=".part") as file:
        _reserve(file.fileno(), size)
        array = np.memmap(file, dtype, "r+", shape=shape)
    with _LOCK:
        _MAPPED[array.ctypes.data] = array
    return array


def is_mapped(array: NDArray[Any]) -> bool:
    """Whether ``array`` is, or is a view of, one that ``new_array`` mapped from a file."""
    return _mapping(array) is not None


def release(array: NDArray[Any]) -> None:
    """Give back the memory of a mapped array's pages; they are read again when they are used."""
    mapping = _mapping(array)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def _reserve(descriptor: int, size: int) -> None:
    """Take the room now: a disk that is full when a page is written kills the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)


def _mapping(array: NDArray[Any]) -> mmap.mmap | None:
    """The file mapping that ``array`` lies in: by address, for tensors hide whose memory it is."""
    address = array.__array_interface__["data"][0]
    with _LOCK:
        for start, mapped in _MAPPED.items():
            if start <= address < start + mapped.nbytes:
                return mapped._mmap  # type: ignore[attr-defined]
    return None
