"""Reading weights that others saved: safetensors and PyTorch checkpoints of many shapes.

Two steps. ``read_tensors`` gets a plain state dict out of a file without running any code in it.
``recognise`` says which of our networks the tensors are, by comparing every name and shape with
the network's own, in our names and in the authors' (``LAYOUTS``), and returns them in our names.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sruplift.errors import WeightsError
from sruplift.models import MODELS, create_model

Shapes = Mapping[str, tuple[int, ...]]

# Whose names tensors have that are named as our networks' are, and who writes our files.
OURS = "sruplift"
# Keys under which training code keeps the state dict, the best one first (averaged weights).
CONTAINERS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "net")
# What wrappers such as DataParallel put before every name.
PREFIXES = ("module.", "model.", "_orig_mod.")


@dataclass(frozen=True)
class Layout:
    """One way of naming some models' tensors: ``modules`` maps their modules' names to ours.

    ``{i}`` stands for a block's number, the same on both sides.
    """

    models: tuple[str, ...]
    origin: str
    modules: Mapping[str, str]

    def rename(self, name: str) -> str | None:
        """Our name of the tensor ``name``, or None when this layout has no such module."""
        module, _, parameter = name.rpartition(".")
        number = re.search(r"\.(\d+)(?=\.|$)", module)
        pattern = module
        if number and module not in self.modules:
            pattern = f"{module[: number.start()]}.{{i}}{module[number.end() :]}"
        if pattern not in self.modules:
            return None
        ours = self.modules[pattern].format(i=number[1] if number else "")
        return f"{ours}.{parameter}"


# The tail that A2N took over from PAN.
PAN_TAIL = {
    "trunk_conv": "trunk_end",
    "upconv1": "upsample.0.conv",
    "att1.conv": "upsample.0.attention.gate",
    "HRconv1": "upsample.0.refine",
    "upconv2": "upsample.1.conv",
    "att2.conv": "upsample.1.attention.gate",
    "HRconv2": "upsample.1.refine",
    "conv_last": "last",
}
PAN = {
    "conv_first": "head",
    "SCPA_trunk.{i}.conv1_a": "blocks.{i}.reduce_plain",
    "SCPA_trunk.{i}.k1.0": "blocks.{i}.plain",
    "SCPA_trunk.{i}.conv1_b": "blocks.{i}.reduce_attention",
    "SCPA_trunk.{i}.PAConv.k2": "blocks.{i}.attention.gate",
    "SCPA_trunk.{i}.PAConv.k3": "blocks.{i}.attention.features",
    "SCPA_trunk.{i}.PAConv.k4": "blocks.{i}.attention.project",
    "SCPA_trunk.{i}.conv3": "blocks.{i}.fuse",
    **PAN_TAIL,
}
A2N = {
    "conv_first": "head",
    "AAB_trunk.{i}.conv_first": "blocks.{i}.first",
    "AAB_trunk.{i}.conv_last": "blocks.{i}.last",
    "AAB_trunk.{i}.ADM.0": "blocks.{i}.weights.reduce",
    "AAB_trunk.{i}.ADM.2": "blocks.{i}.weights.decide",
    "AAB_trunk.{i}.attention.k1": "blocks.{i}.attention.look",
    "AAB_trunk.{i}.attention.k2": "blocks.{i}.attention.gate",
    "AAB_trunk.{i}.attention.k3": "blocks.{i}.attention.features",
    "AAB_trunk.{i}.attention.k4": "blocks.{i}.attention.project",
    "AAB_trunk.{i}.non_attention": "blocks.{i}.non_attention",
    **PAN_TAIL,
}
MAFFSRN_BLOCK = {
    "conv01.0": "first",
    "conv00.0": "second",
    "reduce_channels": "reduce",
    "reduce_spatial_size": "shrink",
    "conv1.0": "plain",
    "conv2.0": "dilated",
    "increase_channels.0": "increase",
    "bottom11.0": "near",
    "bottom11_dw.0": "near_depthwise",
}
MAFFSRN = {
    "head.0": "head",
    **{
        f"body.{{i}}.b{number}.{theirs}": f"groups.{{i}}.blocks.{number}.{ours}"
        for number in range(4)
        for theirs, ours in MAFFSRN_BLOCK.items()
    },
    **{f"body.{{i}}.reduction{n + 1}": f"groups.{{i}}.fuse.{n}" for n in range(3)},
    "body.{i}.res_scale": "groups.{i}.result_scale",
    "body.{i}.x_scale": "groups.{i}.skip_scale",
    "tail.tail_k3": "tail3",
    "tail.tail_k5": "tail5",
    "tail.scale_k3": "scale3",
    "tail.scale_k5": "scale5",
}
HPINET_LAYER = {
    "0.norm": "attentions.{n}.norm",
    "0.fn.to_q": "attentions.{n}.query",
    "0.fn.to_k": "attentions.{n}.key",
    "0.fn.to_v": "attentions.{n}.value",
    "1.norm": "feed_forwards.{n}.norm",
    "1.fn.fc1": "feed_forwards.{n}.widen",
    "1.fn.fc2": "feed_forwards.{n}.narrow",
}
HPINET = {
    "first_conv": "head",
    "cross_match.{i}.norm": "blocks.{i}.match.norm",
    **{
        f"blocks.{{i}}.layers.{number}.{theirs}": "blocks.{i}." + ours.replace("{n}", str(number))
        for number in range(3)
        for theirs, ours in HPINET_LAYER.items()
    },
    "mid_convs.{i}": "blocks.{i}.conv",
    "upconv": "upsample.0",
    "upconv1": "upsample.0",
    "upconv2": "upsample.1",
    "last_conv": "last",
}
LAYOUTS: tuple[Layout, ...] = (
    Layout(("pan",), "the authors' code (zhaohengyuan1/PAN)", PAN),
    Layout(("a2n", "a2n-m"), "the authors' code (haoyuc/A2N)", A2N),
    Layout(("maffsrn", "maffsrn-l"), "the authors' code (AbdulMoqeet/MAFFSRN)", MAFFSRN),
    Layout(("hpinet-s", "hpinet-m", "hpinet-l"), "the authors' code (passerer/HPINet)", HPINET),
)


@dataclass(frozen=True)
class Recognised:
    """A state dict in our names. ``scales`` has several where the tensors fit several."""

    model: str
    scales: tuple[int, ...]
    tensors: dict[str, Tensor]
    origin: str


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors or PyTorch file by name, and its metadata (safetensors only).

    The kind of file is told from its first bytes, not from its name. Checkpoints are opened with
    ``weights_only=True``, unwrapped from the usual containers and freed of wrappers' prefixes.

    Raises:
        WeightsError: the file is missing, empty, damaged, of another kind or holds no state dict.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    if not start:
        raise WeightsError(f"{path} is empty")
    if start[8:9] == b"{":
        return _read_safetensors(path)
    # A zip archive (PyTorch 1.6 and later) or a bare pickle (before).
    if start.startswith((b"PK\x03\x04", b"\x80")):
        content = _read_checkpoint(path)
        if _is_of_a_run(content):
            return _averaged(content, path)
        return _strip_prefixes(_unwrap(content, path)), {}
    raise WeightsError(
        f"{path} is neither safetensors nor a PyTorch checkpoint (it starts with {start!r})"
    )


def recognise(
    tensors: Mapping[str, Tensor],
    source: str,
    likely: str | None = None,
    scale: int | None = None,
) -> Recognised:
    """The network that ``tensors`` belong to. ``source`` names them in messages.

    ``likely``: the model that they are compared with first, which saves time if it is theirs.
    ``scale``: the one to compare with first; where it fits, no others are looked for.

    Raises:
        WeightsError: no network has exactly these names and shapes; says how the closest differs.
    """
    best: tuple[float, str] = (-1.0, "")
    for model, origin, renamed in _readings(tensors, likely):
        shapes = {name: tuple(tensor.shape) for name, tensor in renamed.items()}
        every = MODELS[model].scales
        if scale in every and expected_shapes(model, scale) == shapes:
            return Recognised(model, (scale,), renamed, origin)
        scales = tuple(s for s in every if expected_shapes(model, s) == shapes)
        if scales:
            return Recognised(model, scales, renamed, origin)
        for each in every:
            expected = expected_shapes(model, each)
            same = sum(shapes.get(name) == shape for name, shape in expected.items())
            likeness = same / max(len(expected), len(shapes))
            if likeness > best[0]:
                best = (likeness, f"{model} x{each}: {difference(expected, shapes)}")
    raise WeightsError(f"{source} fits no network ({_describe(tensors)}); the closest is {best[1]}")


def others_source(metadata: Mapping[str, str], path: Path) -> str:
    """The file of others' weights that those of ``path`` stem from; "" if they are ours.

    Ours are those that sruplift wrote, but for imported ones and what was trained with such.
    """
    if "imported_from" in metadata:
        return metadata["imported_from"]
    return "" if metadata.get("generator", "").startswith(OURS) else path.name


def difference(expected: Shapes, found: Shapes) -> str:
    """How two sets of names and shapes differ: missing, unexpected and misshapen in one clause."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshapen = [
        f"{name} {_by(found[name])} instead of {_by(expected[name])}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
    return "; ".join(f"{len(names)} {kind} ({_few(names)})" for kind, names in kinds if names)


@cache
def expected_shapes(model: str, scale: int) -> Shapes:
    """Every tensor's name and shape of our network.

    Of one that is made for it: on the device "meta" some operations first import half a second's
    worth of modules.
    """
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        state_dict = create_model(model, scale).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state_dict.items()}


def _readings(
    tensors: Mapping[str, Tensor], likely: str | None
) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
    """The tensors as each model would have them: in our names, then in each known layout."""
    for model in sorted(MODELS, key=lambda name: name != likely):
        yield model, OURS, dict(tensors)
    for layout in LAYOUTS:
        # Names that the layout lacks are kept: they show up as unexpected.
        renamed = {layout.rename(name) or name: tensor for name, tensor in tensors.items()}
        for model in layout.models:
            yield model, layout.origin, renamed


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file: {_line(error)}") from error
    if not tensors:
        raise WeightsError(f"{path} holds no tensors")
    return tensors, metadata


def _read_checkpoint(path: Path) -> Any:
    """What the file holds. ``weights_only`` refuses anything but tensors and plain containers."""
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch would warn of, the error below says
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's text recommends to read it all the same, with the code that it may run.
        raise WeightsError(
            f"{path} is damaged, or holds more than tensors, which could run code: it is not read"
        ) from error
    # A damaged pickle can fail in any way that Python can: the list of errors has no end.
    except Exception as error:
        raise WeightsError(
            f"{path} is not a checkpoint of plain tensors, or not whole: {_line(error)}"
        ) from error


def _is_of_a_run(content: Any) -> bool:
    """Whether it is what `sruplift train` goes on from."""
    return isinstance(content, Mapping) and {"format", "config", "ema", "best_psnr"} <= set(content)


def _averaged(content: Mapping[str, Any], path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The averaged weights of a run's checkpoint, and the network that they are of."""
    config = content["config"]
    if not isinstance(config, Mapping) or not config.get("scale"):
        raise WeightsError(
            f"{path} is the checkpoint of a run of several scales: name one of its weights,"
            " such as best_x2.safetensors"
        )
    stated = {"model": str(config.get("model")), "scale": str(config["scale"]), "generator": OURS}
    if content.get("imported_from"):
        stated["imported_from"] = str(content["imported_from"])
    return _unwrap(content["ema"], path), stated


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict inside the containers that training code likes to put around it."""
    while isinstance(content, Mapping):
        inner = next((content[k] for k in CONTAINERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__} instead of a state dict")
    strange = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strange or not content:
        raise WeightsError(
            f"{path} holds no state dict: {_few(strange) or 'nothing'} where tensors should be"
        )
    return {str(name): tensor for name, tensor in content.items()}


def _strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            return _strip_prefixes({n.removeprefix(prefix): t for n, t in tensors.items()})
    return tensors


def _describe(tensors: Mapping[str, Tensor]) -> str:
    name, tensor = next(iter(tensors.items()))
    count = "1 tensor" if len(tensors) == 1 else f"{len(tensors)} tensors"
    return f"{count}, the first {name} {_by(tuple(tensor.shape))}"


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _few(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
