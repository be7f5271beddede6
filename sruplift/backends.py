"""Networks run by ONNX Runtime or OpenVINO instead of PyTorch, on the CPU.

A backend has the call and the attributes of a network, so that the engine cuts tiles, blends them
and backs off as ever. Its graph is made on first use, checked, and kept in the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sruplift.datasets import cache_folder
from sruplift.engine import PRECISIONS, choose_precision
from sruplift.errors import SrupliftError, UsageError, unknown_name
from sruplift.export import (
    FRAME,
    INPUT,
    Run,
    frame_array,
    largest_difference,
    make_graph,
    require,
    start_onnxruntime,
)
from sruplift.exportable import EXPORTABLE, Exportable, exportable
from sruplift.manifest import write_atomically
from sruplift.models.layers import Frame, InputNeeds, SuperResolver
from sruplift.resultcache import code_version

BACKENDS = ("torch", "onnxruntime", "openvino")
EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}
# ``InputNeeds.memory`` in terms of the network's own, at most. Measured as the engine's constants
# are, at 256x256 LR pixels, x2 and x4: SRRAM 2.5 (x2, ONNX Runtime), the others up to 1.2.
MEMORY = 2.5
_PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16"}
# What ONNX Runtime and OpenVINO say when there is no memory.
_NO_MEMORY = ("bad_alloc", "bad allocation", "allocate", "out of memory", "not enough memory")


class Backend(SuperResolver):
    """A graph in the place of its network."""

    def __init__(self, run: Run, name: str, scale: int, needs: InputNeeds) -> None:
        super().__init__()
        self.run, self.name, self.scale, self.needs = run, name, scale, needs

    def enlarge(self, lr: Tensor, frame: Frame) -> Tensor:
        """``forward`` for images that are large enough.

        Raises:
            MemoryError: there is not enough memory.
            SrupliftError: the runtime failed.
        """
        inputs = {INPUT: np.ascontiguousarray(lr.numpy())}
        if self.needs.frame:  # Then the graph has this input.
            inputs[FRAME] = frame_array(frame)
        try:
            sr = torch.from_numpy(self.run(inputs))
        except Exception as error:  # Each runtime has its own kinds.
            text = str(error).strip()
            if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
                raise MemoryError(f"{self.name} is out of memory") from error
            first = next(iter(text.splitlines()), type(error).__name__)
            raise SrupliftError(f"{self.name} failed: {first}") from error
        height, width = lr.shape[-2:]
        if sr.shape != (len(lr), 3, height * self.scale, width * self.scale):
            # OpenVINO's way to lack memory.
            raise MemoryError(f"{self.name} gave no result for {width}x{height} pixels")
        return sr


def through(
    backend: str, network: nn.Module, scale: int, device: str, precision: str
) -> tuple[nn.Module, str, str]:
    """What an engine is made of: ``network`` as ``backend`` runs it, its device and precision.

    Args:
        backend: one of ``BACKENDS``. For "torch" everything stays as it is.
        network: with the weights that it is to have.
        scale: how many times larger its output is.
        device: as in ``Engine``; other backends run on the CPU only.
        precision: as in ``Engine``; ONNX Runtime has "fp32" only.

    Raises:
        UsageError: not a backend, one that is not installed, a device or a precision that it does
            not have, or a network that cannot be exported.
        ExportError: the backend does not compute what PyTorch does.
    """
    precision = check_backend(backend, device, precision)
    if backend == "torch":
        return network, device, precision
    require(backend, "onnx", "onnxscript", extra=EXTRAS[backend])
    made = exportable(network)
    run = START[backend](_find_graph(network, made, backend), torch.get_num_threads(), precision)
    needs: InputNeeds = getattr(network, "needs", InputNeeds(receptive_field=None))
    # The window is in the graph.
    needs = replace(needs, window=None, memory=needs.memory * MEMORY)
    return Backend(run, backend, scale, needs), "cpu", precision


def check_backend(backend: str, device: str, precision: str) -> str:
    """The precision that is meant, if such a choice can be meant.

    Raises:
        UsageError: it cannot.
    """
    if backend not in BACKENDS:
        raise UsageError(unknown_name("backend", backend, BACKENDS))
    if backend == "torch":
        return precision
    if device not in ("auto", "cpu"):
        raise UsageError(f"backend {backend!r} runs on the CPU, not on {device!r}")
    if backend == "openvino":
        return choose_precision(precision, torch.device("cpu"))
    if precision not in ("auto", "fp32"):
        if precision not in PRECISIONS:
            raise UsageError(unknown_name("precision", precision, PRECISIONS))
        raise UsageError(f"backend {backend!r} computes in fp32, not in {precision}")
    return "fp32"


def _start_onnxruntime(graph: bytes, threads: int, _: str) -> Run:
    return start_onnxruntime(graph, threads)


def _start_openvino(graph: bytes, threads: int, precision: str) -> Run:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": _PRECISION_HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(graph), "CPU", settings)

    def run(inputs: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        # A request that lacks memory gives back its last result, without a word. A new one has
        # none, and several threads may run.
        result: np.ndarray[Any, Any] = compiled.create_infer_request().infer(dict(inputs))[0]
        return result

    return run


START: dict[str, Callable[[bytes, int, str], Run]] = {
    "onnxruntime": _start_onnxruntime,
    "openvino": _start_openvino,
}


def _find_graph(network: nn.Module, made: Exportable, backend: str) -> bytes:
    """The graph of ``network``: from the cache, else made, compared with PyTorch, and kept there.

    Making one takes seconds. Of a network that is not ours the code may change unseen, so its graph
    is made each time.
    """
    path = None
    if isinstance(network, EXPORTABLE):
        with contextlib.suppress(OSError):  # there is no home for a cache
            path = cache_folder("graphs") / f"{_key(network, made, backend)}.graph"
    if path is not None and (kept := _read(path)) is not None:
        return kept
    graph = make_graph(network, {}, framed=made.framed)
    run = START[backend](graph, torch.get_num_threads(), "fp32")
    largest_difference(run, network, framed=made.framed)
    if path is not None:
        _keep(path, graph)
    return graph


def _key(network: SuperResolver, made: Exportable, backend: str) -> str:
    """A name for all that makes a graph what it is, and for the runtime that checked it."""
    runtime = importlib.import_module(backend).__version__
    facts = (type(network).__name__, network.scale, network.needs, repr(made), backend, runtime)
    versions = (torch.__version__, importlib.import_module("onnxscript").__version__)
    digest = hashlib.sha256(repr((*facts, *versions, code_version())).encode())
    for name, tensor in made.state_dict().items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> bytes | None:
    """What ``_keep`` wrote; None: nothing did, or it is damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, graph = data[:32], data[32:]
    return graph if hashlib.sha256(graph).digest() == digest else None


def _keep(path: Path, graph: bytes) -> None:
    """A cache that cannot be written is no reason to stop."""
    with contextlib.suppress(OSError, SrupliftError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, hashlib.sha256(graph).digest() + graph)
