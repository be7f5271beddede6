"""Which pixels of a photo made a part of its enlargement: local attribution maps of networks.

A crop of the photo around the window goes through each network, as the paper has it: the diffusion
index depends on how many pixels there are to share the credit, so that only indices of crops of one
size, and of windows of one size, can be compared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sruplift.attribution import Attribution, BlurPath, Window, attribute, reach
from sruplift.citations import LOCAL_ATTRIBUTION_MAPS
from sruplift.engine import choose_device, is_out_of_memory
from sruplift.errors import SrupliftError, UsageError, unknown_name
from sruplift.image import Image
from sruplift.models import MODELS
from sruplift.strips import as_tensor, planes, unit_range
from sruplift.weights import WeightsFile, find_weights, load_model

# Edge of the crop in pixels of the photo: the paper's 256x256 pixels of HR at x4.
CONTEXT = 64
# A pixel of the photo at x4; the paper's windows have 16.
SMALLEST_WINDOW = 4
# The reach is told for so much of what is attributed. This, unlike the index, is our own measure.
REACH_SHARE = 0.99

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ExplainOptions:
    """What `sruplift explain` can be told.

    Attributes:
        window: the part of the result to be explained.
        models: names; one may be there twice, with other weights.
        scale: how many times larger, for all of them.
        weights: none, for the released ones, or for each of ``models`` a file or an address, as in
            ``find_weights``.
        context: edge of the crop around the window, in pixels of the photo.
        path: the path of integration.
        device: as in ``choose_device``. All is computed in float32.

    Raises:
        UsageError: a value that cannot be meant.
    """

    window: Window
    models: tuple[str, ...] = ("pan",)
    scale: int = 4
    weights: tuple[str | Path, ...] = ()
    context: int = CONTEXT
    path: BlurPath = field(default_factory=BlurPath)
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.window.size < SMALLEST_WINDOW:
            raise UsageError(
                f"a window has a size of at least {SMALLEST_WINDOW} pixels of the result, not"
                f" {self.window.size}"
            )
        if not self.models:
            raise UsageError("name at least one model")
        for model in self.models:
            if model not in MODELS:
                raise UsageError(unknown_name("model", model, MODELS))
        if self.weights and len(self.weights) != len(self.models):
            raise UsageError(
                f"weights are needed for each model, in the same order, or for none: there are"
                f" {len(self.models)} models and {len(self.weights)} weights"
            )


@dataclass(frozen=True)
class Crop:
    """A part of the photo: its first row and column and its size, in pixels of the photo."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, eq=False)
class NetworkExplanation:
    """One network's map. ``reach``: around the window, pixels of the photo (``REACH_SHARE``)."""

    model: str
    weights: WeightsFile
    attribution: Attribution
    reach: int


@dataclass(frozen=True, eq=False)
class Explanation:
    """The maps of all networks for one window.

    Attributes:
        options: what was asked for.
        size: (height, width) of the photo.
        crop: where the maps lie in the photo.
        window: the window within the result of the crop.
        lr: (3, h, w) float32 in [0, 1], the crop.
        device: what it ran on.
        networks: in the order of the options' models.
    """

    options: ExplainOptions
    size: tuple[int, int]
    crop: Crop
    window: Window
    lr: Tensor
    device: str
    networks: tuple[NetworkExplanation, ...]


def explain(image: Image, options: ExplainOptions, progress: Progress | None = None) -> Explanation:
    """The local attribution maps that are asked for. Transparency is left out of account.

    Args:
        image: the photo, of either depth.
        options: the window, the networks and how.
        progress: is told (model, steps done, steps in all).

    Raises:
        UsageError: unknown names, or a window that is not in the result or not in the crop.
        WeightsError: weights cannot be found, downloaded, verified or loaded.
        NumericalError: the crop is flat, or the network's gradients are not finite.
        SrupliftError: the device is out of memory.
    """
    crop = place_crop(image.size, options)
    device = choose_device(options.device)
    files = _find_all(options)
    window = Window(
        options.window.top - crop.top * options.scale,
        options.window.left - crop.left * options.scale,
        options.window.size,
    )
    lr = _cut(image, crop)
    networks = []
    for model, file in zip(options.models, files, strict=True):
        network = load_model(model, options.scale, file, device)
        tell = None if progress is None else _named(progress, model)
        found = _attribute(network, lr.to(device), window, options.path, tell)
        distance = reach(found.map, window.footprint(options.scale), REACH_SHARE)
        networks.append(NetworkExplanation(model, file, found, distance))
    return Explanation(options, image.size, crop, window, lr, str(device), tuple(networks))


def place_crop(size: tuple[int, int], options: ExplainOptions) -> Crop:
    """The part of a photo of ``size`` (height, width) that is looked at, the window in its middle.

    At the photo's borders it is moved inward; it is as large as the photo where that is smaller.

    Raises:
        UsageError: the window is not in the result, or not in a crop of ``context`` pixels.
    """
    window, scale, context = options.window, options.scale, options.context
    height, width = (length * scale for length in size)
    shown = f"the window {window.left},{window.top},{window.size}"
    inside = window.top >= 0 and window.left >= 0
    if not (inside and window.top + window.size <= height and window.left + window.size <= width):
        raise UsageError(
            f"{shown} is not inside the result, which has {width}x{height} pixels at x{scale}"
        )
    top, left, bottom, right = window.footprint(scale)
    needed = max(bottom - top, right - left)
    if needed > context:
        raise UsageError(
            f"{shown} covers {needed} pixels of the input, more than the context of {context}"
        )
    rows = _place(top, bottom, size[0], context)
    columns = _place(left, right, size[1], context)
    return Crop(rows.start, columns.start, len(rows), len(columns))


def _place(start: int, stop: int, length: int, context: int) -> range:
    """``context`` of ``length`` pixels with those from ``start`` to ``stop`` in their middle."""
    edge = min(context, length)
    first = min(max((start + stop - edge) // 2, 0), length - edge)
    return range(first, first + edge)


def _find_all(options: ExplainOptions) -> list[WeightsFile]:
    """The weights of all networks, before the first one runs."""
    named = options.weights or (None,) * len(options.models)
    pairs = zip(options.models, named, strict=True)
    return [find_weights(model, options.scale, weights) for model, weights in pairs]


def _cut(image: Image, crop: Crop) -> Tensor:
    """(3, h, w) float32 in [0, 1]."""
    rows = slice(crop.top, crop.top + crop.height)
    part = image.pixels[rows, crop.left : crop.left + crop.width]
    return unit_range(planes(as_tensor(part)))[0].expand(3, -1, -1).contiguous()


def _attribute(
    network: nn.Module,
    lr: Tensor,
    window: Window,
    path: BlurPath,
    progress: Callable[[int, int], None] | None,
) -> Attribution:
    arithmetic: Any = contextlib.nullcontext()
    if lr.device.type == "cuda":
        # By default cuDNN rounds the factors of "float32" convolutions to 10 bits (TF32).
        arithmetic = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    try:
        with arithmetic, torch.autocast(lr.device.type, enabled=False):
            return attribute(network, lr, window, path, progress)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    height, width = lr.shape[-2:]
    raise SrupliftError(
        f"{lr.device} is out of memory for gradients of {width}x{height} pixels: take a smaller"
        " context"
    )


def _named(progress: Progress, model: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(model, done, total)


def explanation_as_dict(explanation: Explanation) -> dict[str, Any]:
    """The explanation for JSON, without the maps."""
    options, crop, window = explanation.options, explanation.crop, explanation.options.window
    height, width = explanation.size
    paper = LOCAL_ATTRIBUTION_MAPS
    return {
        "method": f"local attribution map ({paper.title}, {paper.url})",
        "input_size": {"width": width, "height": height},
        "scale": options.scale,
        "window": {"x": window.left, "y": window.top, "size": window.size},
        "crop": {"x": crop.left, "y": crop.top, "width": crop.width, "height": crop.height},
        "path": {
            "sigma": options.path.sigma,
            "steps": options.path.steps,
            "kernel": 2 * options.path.radius + 1,
        },
        "device": explanation.device,
        "reach_share": REACH_SHARE,
        "networks": [_network_as_dict(network) for network in explanation.networks],
    }


def _network_as_dict(network: NetworkExplanation) -> dict[str, Any]:
    file, found = network.weights, network.attribution
    return {
        "model": network.model,
        "weights": {"file": file.path.name, "sha256": file.sha256, "source": file.source},
        "diffusion_index": found.diffusion_index,
        "gini": found.gini,
        "reach": network.reach,
        "detector": {"blurred": found.baseline, "sharp": found.target},
        "attributed_sum": float(found.values.sum()),
    }
