"""Networks as ONNX files, for runtimes other than PyTorch. Needs ``sruplift[onnx]``.

A file has one input and one output, with any batch, height and width. What it computes is compared
with PyTorch at three sizes before it is given its name.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sruplift import __version__
from sruplift.errors import ExportError, UsageError
from sruplift.exportable import Exportable, check_exportable, exportable
from sruplift.manifest import read_manifest, sha256_of, write_atomically
from sruplift.models import MODELS
from sruplift.models.layers import Frame, InputNeeds
from sruplift.weights import LICENCE_UNKNOWN, WeightsFile, find_weights, identify, load_model

# What torch.onnx makes without converting, and what most runtimes in use read.
OPSET = 18
LAST_OPSET = 23
INPUT, FRAME, OUTPUT = "lr", "frame", "sr"
# A graph is compared with PyTorch on images of these (batch, height, width): none of the size that
# it was made with; smaller and larger than the squares that A2N and SRRAM pool over.
CHECKED = ((1, 33, 47), (2, 64, 40), (1, 61, 97))
# By how much a result may differ, where 1 is white: a fortieth of a level of 8 bits. Single
# precision differs by a tenth of it.
TOLERANCE = 1e-4
_TRACED = (2, 40, 52)
_LARGEST = 2**20

# A graph that runs: its inputs by name -> (B, 3, h * scale, w * scale).
Run = Callable[[Mapping[str, np.ndarray[Any, Any]]], np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Exported:
    """A file that was written. ``difference`` is the largest from PyTorch that was seen."""

    path: Path
    model: str
    scale: int
    opset: int
    size: int
    sha256: str
    licence: str
    difference: float


def export_onnx(
    path: Path,
    model: str,
    scale: int,
    weights: str | Path | None = None,
    *,
    opset: int = OPSET,
    overwrite: bool = False,
) -> Exported:
    """Write ``model`` at ``scale`` as an ONNX file.

    Input ``lr`` (batch, 3, height, width), output ``sr`` (batch, 3, height * scale, width * scale),
    float32 RGB, the input in [0, 1], the output not clamped. Networks that pool do so around each
    pixel, as in ``sruplift upscale``.

    Args:
        path: of the file; it appears there when it is complete and checked.
        model: the network's name.
        scale: how many times larger its output is.
        weights: as in ``find_weights``.
        opset: the version of ONNX's operators.
        overwrite: replace a file that exists.

    Raises:
        UsageError: a wrong name or opset, a network that has no such form, or a missing package.
        WeightsError: the weights cannot be found or loaded, or the file cannot be written.
        ExportError: the file's place is taken, or the graph computes something else.
    """
    _check_place(path, overwrite)
    if not OPSET <= opset <= LAST_OPSET:
        raise UsageError(f"opset must be from {OPSET} to {LAST_OPSET}, not {opset}")
    if model in MODELS:  # Before anybody looks for weights in vain.
        check_exportable(MODELS[model].build(MODELS[model].scales[0]))
    file = find_weights(model, scale, weights)
    require("onnx", "onnxruntime", "onnxscript", extra="onnx")
    network = load_model(model, scale, file)
    facts = describe(network, file)
    graph = make_graph(network, facts, opset=opset)
    difference = largest_difference(start_onnxruntime(graph), network)
    _check_place(path, overwrite)  # It may have appeared meanwhile.
    write_atomically(path, graph)
    licence = facts["licence"]
    return Exported(path, model, scale, opset, len(graph), sha256_of(path), licence, difference)


def describe(network: nn.Module, file: WeightsFile) -> dict[str, str]:
    """What a file says of itself: metadata of the ONNX format, names and values."""
    scale = file.scale
    needs: InputNeeds = network.needs  # type: ignore[assignment]
    facts = {
        "model": file.model,
        "scale": str(scale),
        "licence": _licence(file),
        "weights_sha256": file.sha256,
        "generator": f"sruplift {__version__}",
        "input": f"{INPUT}: float32 (batch, 3, height, width), RGB in [0, 1]",
        "output": f"{OUTPUT}: float32 (batch, 3, {scale} * height, {scale} * width), RGB, to be"
        " clamped to [0, 1]",
        "smallest_side": str(needs.min_size),
    }
    if needs.window is not None:
        facts["pooling_window"] = str(needs.window)
    return facts


def make_graph(
    network: nn.Module, facts: Mapping[str, str], *, framed: bool = False, opset: int = OPSET
) -> bytes:
    """``network`` as the bytes of an ONNX file with ``facts`` as metadata.

    ``framed``: with a second input, ``frame`` (4,), int64: a ``Frame``'s top, left, height, width.

    Raises:
        UsageError: a network that has no such form, or a missing package.
        ExportError: PyTorch cannot export it.
    """
    require("onnx", "onnxscript", extra="onnx")
    made = exportable(network)
    batch, height, width = _TRACED
    arguments: tuple[Tensor, ...] = (torch.rand(batch, 3, height, width),)
    if framed:
        arguments += (torch.tensor([0, 0, height, width]),)
    try:
        proto = _export(made, arguments, getattr(network, "needs", None), opset)
    except torch.onnx.OnnxExporterError as error:
        first = str(error.__cause__ or error).strip().splitlines()[0]
        name = type(network).__name__
        raise ExportError(f"PyTorch cannot export {name} to ONNX: {first}") from error
    _tidy(proto)
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=value)
    _check_graph(proto, opset)
    return bytes(proto.SerializeToString())


def _export(
    made: Exportable, arguments: tuple[Tensor, ...], needs: InputNeeds | None, opset: int
) -> Any:
    """PyTorch's graph, an ``onnx.ModelProto``."""
    # Sides of one pixel work too, but PyTorch would make a graph for them alone.
    least = max(needs.min_size if needs else 1, 2)
    sides = {"min": least, "max": _LARGEST}
    free = {
        0: torch.export.Dim("batch", min=1, max=_LARGEST),
        2: torch.export.Dim("height", **sides),
        3: torch.export.Dim("width", **sides),
    }
    with _quietly(), torch.no_grad():
        program = torch.onnx.export(
            made,
            arguments,
            dynamo=True,
            dynamic_shapes=(free, {})[: len(arguments)],
            input_names=[INPUT, FRAME][: len(arguments)],
            output_names=[OUTPUT],
            opset_version=opset,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what PyTorch says to its own developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _tidy(proto: Any) -> None:
    """Take out how the graph was made (stack traces, paths), and say what is in it."""
    graph = proto.graph
    for each in (proto, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del each.metadata_props[:]
        each.doc_string = ""
    del graph.value_info[:]
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    graph.name = "sruplift"
    proto.producer_name, proto.producer_version = "sruplift", __version__


def _check_graph(proto: Any, opset: int) -> None:
    import onnx

    found = next(each.version for each in proto.opset_import if each.domain == "")
    if found != opset:
        raise ExportError(f"this PyTorch makes opset {found} instead of {opset}: ask for that one")
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        first = str(error).strip().splitlines()[0]
        raise ExportError(f"PyTorch made a graph that is no valid ONNX: {first}") from error


def start_onnxruntime(graph: bytes, threads: int = 1) -> Run:
    """The graph in ONNX Runtime, on the CPU, in float32.

    Raises:
        UsageError: ONNX Runtime is not installed.
    """
    require("onnxruntime", extra="onnx")
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4  # Of errors, which it raises, it would print too.
    start = functools.partial(
        onnxruntime.InferenceSession, graph, settings, providers=["CPUExecutionProvider"]
    )
    session = start()

    def run(inputs: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        nonlocal session
        try:
            result: np.ndarray[Any, Any] = session.run([OUTPUT], dict(inputs))[0]
        except Exception:
            session = start()  # Its arena would keep what the failed image took.
            raise
        return result

    return run


@torch.no_grad()
def largest_difference(run: Run, network: nn.Module, *, framed: bool = False) -> float:
    """The largest difference between a graph and its network, at three sizes.

    Raises:
        ExportError: it is too large, or a result has another size.
    """
    network = _in_use(network)
    largest = 0.0
    for batch, height, width in CHECKED:
        lr = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(height))
        inputs = {INPUT: lr.numpy()}
        arguments: tuple[Any, ...] = (lr,)
        if framed:
            frame = Frame(6, 12, height + 35, width + 50)
            inputs[FRAME] = frame_array(frame)
            arguments = (lr, frame)
        expected, found = network(*arguments), torch.from_numpy(run(inputs))
        if found.shape != expected.shape:
            raise ExportError(
                f"the exported network makes {tuple(found.shape)} of {tuple(lr.shape)},"
                f" PyTorch {tuple(expected.shape)}"
            )
        difference = float((found - expected).abs().max())
        if not difference <= TOLERANCE:
            raise ExportError(
                f"the exported network differs from PyTorch's by {difference:.1e} at"
                f" {width}x{height} pixels, which is more than {TOLERANCE:.0e}: it is not used"
            )
        largest = max(largest, difference)
    return largest


def frame_array(frame: Frame) -> np.ndarray[Any, Any]:
    """The input ``frame`` of a graph."""
    return np.array([frame.top, frame.left, frame.height, frame.width], dtype=np.int64)


def require(*packages: str, extra: str) -> None:
    """Check that optional packages are there.

    Raises:
        UsageError: one is not; the message says how to install it.
    """
    for name in packages:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(
                f"this needs {name}: pip install 'sruplift[{extra}]' ({error})"
            ) from error


def _in_use(network: nn.Module) -> nn.Module:
    """A copy of ``network`` that pools as its ``needs`` say, on the CPU, in float32."""
    used = copy.deepcopy(network).cpu().float().eval()
    needs: InputNeeds | None = getattr(used, "needs", None)
    if needs is not None and needs.window is not None:
        used.window = needs.window  # type: ignore[assignment]
    return used


def _licence(file: WeightsFile) -> str:
    for entry in read_manifest().weights:
        if entry.sha256 == file.sha256:
            return entry.licence
    metadata = identify(file.path, file.model, file.scale).metadata
    return metadata.get("licence", LICENCE_UNKNOWN)


def _check_place(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise ExportError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise ExportError(f"cannot write {path}: there is no folder {path.parent}")
    if os.path.lexists(path) and not overwrite:
        raise ExportError(f"{path} exists: name another with -o, or replace it with --overwrite")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ExportError(f"cannot write {path}: the folder is read-only")
