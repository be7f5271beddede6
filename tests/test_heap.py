"""Memory that stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sruplift
from sruplift import engine, heap

GLIBC = platform.libc_ver()[0] == "glibc"
CPU = torch.device("cpu")
# Frees 64 MB twice, and prints how much of it the process has left each time.
FREES = """
import torch
from sruplift.heap import keep_freed_memory
from sruplift.memory import resident_memory

def left() -> int:
    before = resident_memory()
    block = torch.ones(16, 1024, 1024)
    assert resident_memory() - before > 60 * 1024**2
    del block
    return (resident_memory() - before) // 1024**2

print(left(), keep_freed_memory(), left())
"""


# Prints the peaks that are seen of 64 MB: at first, where freed memory stays between blocks in use,
# and where more has been freed by a process that keeps it.
MEASURES = """
import torch
from sruplift.heap import keep_freed_memory
from sruplift.memory import PeakMemory, resident_memory

def peak() -> int:
    measured = PeakMemory(torch.device("cpu"))
    torch.ones(16, 1024, 1024)
    return measured.read() // 1024**2

print(peak())
torch.ones(7, 1024, 1024)  # Freed, it lets glibc take blocks of up to 28 MB from its heap.
blocks = [torch.ones(256, 1024) for _ in range(200)]
before = resident_memory()
last = blocks[150:]
del blocks[:150]
assert before - resident_memory() < 20 * 1024**2
print(peak())
assert keep_freed_memory()
torch.ones(64, 1024, 1024)
print(peak())
"""
needs_glibc = pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")


def printed_by(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(Path(sruplift.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@needs_glibc
def test_a_peak_is_seen_though_memory_stays() -> None:
    peaks = [int(peak) for peak in printed_by(MEASURES)]
    assert len(peaks) == 3
    assert all(60 < peak < 128 for peak in peaks)


@needs_glibc
def test_what_is_freed_stays() -> None:
    before, kept, after = printed_by(FREES)
    assert int(before) < 8
    assert kept == "True"
    assert int(after) > 60


@pytest.mark.parametrize(
    "environment",
    [{name: "1"} for name in heap.SETTINGS] + [{"GLIBC_TUNABLES": "glibc.malloc.mmap_max=9"}],
)
def test_what_the_user_has_set_stays(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heap.THIS, "kept", False)
    monkeypatch.setattr(heap, "_tell_glibc", lambda: True)
    assert not heap.keep_freed_memory(environment)
    assert heap.keep_freed_memory({"GLIBC_TUNABLES": "glibc.rtld.nns=2"})
    assert heap.is_kept()


def test_tiles_are_larger_where_memory_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "available_memory", lambda _: 2**50)
    sizes = []
    for kept in (False, True):
        monkeypatch.setattr(heap.THIS, "kept", kept)
        sizes.append(engine.largest_tile(CPU, "bf16", 2))
    assert sizes == [engine.LARGEST_TILE["cpu"], engine.LARGEST_KEPT_TILE]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    class Musl:
        def mallopt(self, *_: int) -> int:
            raise AssertionError

    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: Musl())
    assert not heap._tell_glibc()
