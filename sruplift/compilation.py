"""When ``torch.compile`` takes a network over, and what happens if it cannot.

On CPUs "auto" never compiles a network: the rewritten ones (``sruplift.fuse``) are faster without,
and have kernels of their own (``sruplift.kernels``), some in float32 only.
On a GPU it begins with the network as it is, and compiles once that has run for as long as a
compilation takes: so a short job never waits for it, and a long one loses little to the wait.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sruplift.datasets import cache_folder
from sruplift.errors import SrupliftError, SrupliftWarning, UsageError, unknown_name

MODES = ("auto", "on", "off")
# Seconds of the network's work after which "auto" compiles on a GPU.
REPAID_AFTER = 60.0
# How far the compiled network's pixels, in [0, 1], may be from the network's own: what half
# precision rounds differently. Two hundredths would be five levels.
TOLERANCE = 0.02

Call = Callable[..., Tensor]


class Compilation:
    """The function that runs a network: its own, or what PyTorch has compiled.

    Args:
        model: the network, on its device.
        mode: "on" compiles with the first call, "auto" as above, "off" never.
        device: where it runs.
        framed: whether it is told where a tile lies.

    Raises:
        UsageError: an unknown mode, or "on" for a network that is told where a tile lies.
    """

    def __init__(self, model: nn.Module, mode: str, device: torch.device, *, framed: bool) -> None:
        if mode not in MODES:
            raise UsageError(unknown_name("compile mode", mode, MODES))
        self.model, self.mode = model, mode
        self.compiled: Call | None = None
        self._lock = threading.Lock()
        if framed and mode == "on":
            raise UsageError(
                "this network is not compiled: what it computes depends on where a tile lies, so"
                " that every tile would be compiled anew"
            )
        waits = device.type != "cpu" and not framed
        self.left = {"on": 0.0, "auto": REPAID_AFTER if waits else None, "off": None}[mode]

    def ran(self, seconds: float) -> None:
        """The network has worked for so long."""
        with self._lock:
            if self.left is not None:
                self.left = max(self.left - seconds, 0.0)

    def __call__(self, *inputs: object) -> Tensor:
        """The network's result.

        Raises:
            SrupliftError: it cannot be compiled, or the result would be another; with "auto" this
                is a warning, and the network runs as it is.
        """
        try:
            if (call := self.compiled) is not None:
                # Another shape or precision is compiled anew, which may fail as the first did.
                return _call(call, self.model, inputs)
            sr = self.model(*inputs)
            with self._lock:
                # One of several threads compiles; the others go on as it is.
                if self.left != 0:
                    return sr
                self.left = None
            self.compiled = _compiled(self.model, inputs, sr)
            return sr
        except SrupliftError as error:
            if self.mode == "on":
                raise
            self.compiled = None
            warnings.warn(f"{error}; it runs as it is", SrupliftWarning, stacklevel=2)
            return self.model(*inputs)


def _compiled(model: nn.Module, inputs: tuple[object, ...], expected: Tensor) -> Call:
    """``model`` compiled, and checked against what it gave for ``inputs``."""
    # Compiled code is kept beside our other caches, so that the next start takes seconds.
    with contextlib.suppress(OSError):  # PyTorch has a place of its own.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder("compiled")))
    name = type(model).__name__
    call: Call = torch.compile(model)
    sr = _call(call, model, inputs)
    difference = float((sr.float() - expected.float()).abs().max())
    if not difference <= TOLERANCE:
        raise SrupliftError(
            f"{name} gives other pixels when compiled, by {255 * difference:.1f} levels"
        )
    return call


def _call(call: Call, model: nn.Module, inputs: tuple[object, ...]) -> Tensor:
    """``call``, made of ``model``; what goes wrong is a sentence, except a lack of memory."""
    try:
        return call(*inputs)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        name = type(model).__name__
        raise SrupliftError(f"{name} cannot be compiled here: {first}") from error
