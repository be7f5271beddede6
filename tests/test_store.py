"""Arrays in memory and in files without a name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from sruplift import store
from sruplift.store import is_mapped, new_array, release


@pytest.fixture
def tiny_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "IN_MEMORY", 1000)


def test_small_arrays_are_in_memory(tmp_path: Path) -> None:
    array = new_array((10, 20, 3), np.uint8, tmp_path)
    assert (array.shape, array.dtype) == ((10, 20, 3), np.uint8)
    assert not is_mapped(array)


@pytest.mark.usefixtures("tiny_memory")
def test_large_arrays_are_in_a_file_that_has_no_name(tmp_path: Path) -> None:
    array = new_array((10, 20, 3), np.uint16, tmp_path)
    assert is_mapped(array)
    assert is_mapped(array[2:, :, 1])
    assert is_mapped(np.asarray(array))
    assert list(tmp_path.iterdir()) == []
    assert not is_mapped(new_array((10, 20, 3), np.uint16, None))


@pytest.mark.usefixtures("tiny_memory")
def test_what_is_released_is_still_there(tmp_path: Path) -> None:
    array = new_array((100, 100), np.uint16, tmp_path)
    values = np.arange(10_000, dtype=np.uint16).reshape(100, 100)
    array[:] = values
    release(array[3:])
    assert np.array_equal(array, values)
    release(values)  # Nothing to do.


@pytest.mark.usefixtures("tiny_memory")
def test_a_disk_without_room_is_an_error_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        new_array((100, 100), np.uint16, tmp_path)
    assert list(tmp_path.iterdir()) == []
