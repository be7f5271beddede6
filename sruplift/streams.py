"""Several tiles or pictures at a time on a CUDA device, so that it does not wait for the rest.

While it computes one, another is copied to it, and the result before that is copied back, blended
and rounded. Each call has a thread of its own and a stream of the device.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

# Calls that are worked on at a time, by device; elsewhere one.
IN_FLIGHT = {"cuda": 2}
# What cuDNN may round is one setting for all threads.
_FULL_FLOAT32 = threading.Lock()


def in_flight(device: torch.device) -> int:
    """How many tiles or pictures are worked on at a time."""
    return IN_FLIGHT.get(device.type, 1)


class Streams:
    """A device's streams, as many as calls in flight; only CUDA's are more than a name here.

    What one stream does, and the memory that it keeps, is apart from the others'.
    """

    def __init__(self, device: torch.device) -> None:
        """After the network is on the device."""
        self.device = device
        self._free: queue.SimpleQueue[torch.cuda.Stream] = queue.SimpleQueue()
        if device.type == "cuda":
            for _ in range(in_flight(device)):
                stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
                stream.wait_stream(torch.cuda.current_stream(device))
                self._free.put(stream)

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Work on a stream; waits until one is free."""
        if self.device.type != "cuda":
            yield
            return
        stream = self._free.get()
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            self._free.put(stream)

    def to_device(self, pixels: Tensor) -> Tensor:
        """``pixels``, in main memory, on the device."""
        if self.device.type == "cuda":
            # From page-locked memory the device copies by itself, and other work goes on.
            return pixels.pin_memory().to(self.device, non_blocking=True)
        return pixels.to(self.device)

    def to_main_memory(self, pixels: Tensor) -> Tensor:
        """``pixels``, on the device, in main memory."""
        if self.device.type != "cuda":
            return pixels.cpu()
        result = torch.empty_like(pixels, device="cpu", pin_memory=True)
        result.copy_(pixels, non_blocking=True)
        torch.cuda.current_stream(self.device).synchronize()
        return result


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Without TF32: by default cuDNN rounds the factors of "float32" convolutions to 10 bits."""
    with _FULL_FLOAT32, torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
