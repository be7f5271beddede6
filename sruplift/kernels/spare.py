"""Memory of maps that are done with, for the next ones.

Maps of tiles are as large as each other. Yet where memory stays with the process (``heap``), glibc
before 2.38 finds room for an aligned block only in a larger one, so that each tile's maps took new
memory (benchmarks/results/speed.md has what that came to).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# Blocks that wait at most: networks have a few maps at a time.
MOST = 8
# A block that is larger than this many times what is asked for is left to others.
LOOSE = 1.5


class Spare:
    """Blocks of memory that were given back, for as long as somebody keeps them."""

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._keepers = 0
        # The garbage collector may give one back while another is taken.
        self._lock = threading.RLock()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep what is given back in the meantime; with the last one who does, it goes."""
        with self._lock:
            self._keepers += 1
        try:
            yield
        finally:
            with self._lock:
                self._keepers -= 1
                if not self._keepers:
                    self._blocks.clear()

    def take(self, count: int) -> Tensor:
        """At least ``count`` cells (int32) of memory, whatever is in them."""
        with self._lock:
            fitting = [b for b in self._blocks if count <= len(b) <= LOOSE * count]
            if fitting:
                block = min(fitting, key=len)
                self._blocks = [b for b in self._blocks if b is not block]
                return block
            try:
                return _new(count)
            except RuntimeError:
                self._blocks.clear()  # What waits is in the way.
                return _new(count)

    def give(self, block: Tensor) -> None:
        """What ``take`` returned, which nobody uses any more."""
        with self._lock:
            if self._keepers:
                self._blocks = [*self._blocks[1 - MOST :], block]


def _new(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.int32, device="cpu")


SPARE = Spare()
