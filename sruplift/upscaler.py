"""Enlarge pictures in memory: Pillow images, arrays, tensors.

Pixels are floating point from the network to the end and rounded once, to what they are kept as.
The picture goes through in strips, so that besides it and its result little memory is needed.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import numbers
import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageColor, ImageOps
from torch import Tensor, nn

from sruplift.backends import check_backend, through
from sruplift.compilation import MODES
from sruplift.decoding import MAX_PIXELS
from sruplift.engine import PRECISIONS, Engine, choose_device
from sruplift.errors import ImageError, SrupliftWarning, UsageError, unknown_name
from sruplift.image import Image, from_pillow, to_pillow
from sruplift.manifest import read_manifest
from sruplift.metadata import ORIENTATION, from_srgb
from sruplift.models.layers import SuperResolver
from sruplift.reading import EXIF_IS_DAMAGED
from sruplift.seams import CROP, SeamReport, verify_seams
from sruplift.sizes import DEFAULT_SCALE, SCALES, Route, Target, plain, route
from sruplift.streams import in_flight
from sruplift.strips import (
    Alpha,
    Finish,
    Progress,
    Work,
    as_tensor,
    check_range,
    colour_rows,
    constant_rows,
    extremes,
    new_tensor,
    plain_bands,
    planes,
    resized_bands,
    resized_rows,
    stored,
    unit_range,
)
from sruplift.tiling import Band, Rows, check_tile
from sruplift.weights import find_weights, identify, load_model

Picture = TypeVar("Picture", Pillow.Image, np.ndarray, Tensor)
ALPHA_MODES = ("bleed", "net", "drop")


@dataclass(frozen=True)
class UpscaleOptions:
    """What `sruplift upscale` can be told. Tiles are in LR pixels.

    ``scale``, ``width``, ``height``, ``max_side``, ``megapixels`` and ``only_if_smaller`` are as in
    ``sizes.Target``. ``alpha``: transparency is resized ("bleed"), goes through the network
    ("net"), or is dropped; ``background`` is the colour that shows through where the target has
    no transparency. ``provenance``: whether a file says how it was made. ``compare``: a file for
    a sheet that shows bicubic beside the result. ``compile_mode`` is as in ``Compilation``.
    ``backend``: what runs the network, one of ``backends.BACKENDS``.

    Raises:
        UsageError: a value that cannot be meant.
    """

    model: str = "pan"
    scale: float | None = None
    width: int | None = None
    height: int | None = None
    max_side: int | None = None
    megapixels: float | None = None
    only_if_smaller: bool = False
    weights: str | Path | None = None
    tile_size: int | Literal["auto"] = "auto"
    overlap: int | Literal["auto"] = "auto"
    device: str = "auto"
    precision: str = "auto"
    compile_mode: str = "auto"
    self_ensemble: bool = False
    alpha: str = "bleed"
    background: str = "white"
    overwrite: bool = False
    max_pixels: int = MAX_PIXELS
    quality: int | None = None
    provenance: bool = True
    verify_seams: bool = False
    compare: str | Path | None = None
    backend: str = "torch"

    def __post_init__(self) -> None:
        self._require_types()
        for field in _fields():
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
        self.target()
        self.background_rgb()
        if self.precision not in PRECISIONS:
            raise UsageError(unknown_name("precision", self.precision, PRECISIONS))
        if self.compile_mode not in MODES:
            raise UsageError(unknown_name("compile mode", self.compile_mode, MODES))
        check_backend(self.backend, self.device, self.precision)
        if self.alpha not in ALPHA_MODES:
            raise UsageError(unknown_name("alpha mode", self.alpha, ALPHA_MODES))
        check_tile(self.tile_size, self.overlap)
        if self.max_pixels < 1:
            raise UsageError(f"max-pixels must be at least 1, not {self.max_pixels}")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UsageError(f"quality must be from 1 to 100, not {self.quality}")

    def _require_types(self) -> None:
        """Nobody but a type checker would tell a library's caller of a wrong one."""
        for name, hint in get_type_hints(UpscaleOptions).items():
            value = getattr(self, name)
            kinds = get_args(hint) or (hint,)
            if not any(_is_a(value, kind) for kind in kinds):
                wanted = " or ".join(_KINDS.get(kind, repr(kind)) for kind in kinds)
                raise UsageError(f"{name} must be {wanted}, not {value!r}")

    def target(self) -> Target:
        """The size that is asked for."""
        names = [field.name for field in dataclasses.fields(Target)]
        return Target(**{name: getattr(self, name) for name in names})

    def background_rgb(self) -> tuple[float, float, float]:
        """``background`` as RGB in [0, 1].

        Raises:
            UsageError: it is no colour.
        """
        try:
            red, green, blue = ImageColor.getrgb(self.background)[:3]
        except ValueError:
            raise UsageError(
                f"background {self.background!r} is no colour: take a name or #rrggbb"
            ) from None
        return red / 255, green / 255, blue / 255


class Upscaler:
    """Enlarges what it is called with: ``Upscaler("pan", scale=4)(picture)``.

    A Pillow image gives a Pillow image, a NumPy array an array, a tensor a tensor on its device,
    with the dtype that was given and ``scale`` times the size:

    - Pillow: L, RGB, LA, RGBA and I;16 keep their mode; palettes become RGB or RGBA, CMYK RGB. They
      are turned as their EXIF orientation says; the result has none.
    - NumPy: (H, W) or (H, W, C), ``uint8``, ``uint16``, or floating point in [0, 1].
    - PyTorch: (C, H, W) or (B, C, H, W), ``uint8``, ``uint16`` or floating point in [0, 1].

    C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA). Pictures are taken as sRGB or another
    display space; they are not converted. It may be called from several threads. What is copied or
    pickled is its options, and a network that was given: weights are found again.

    Args:
        model: its name, or a network (B, 3, h, w) -> (B, 3, h * scale, w * scale), which is copied
            and stays as it is.
        scale: how many times larger, any number; 4 if no other size is asked for. What is not a
            scale of the network's own is made with the next larger and resized.
        options: the fields of ``UpscaleOptions``.

    Raises:
        UsageError: an unknown name or a value that cannot be meant.
        WeightsError: the weights cannot be found, downloaded, verified or loaded.
    """

    def __init__(
        self, model: str | nn.Module = "pan", *, scale: float | None = None, **options: Any
    ) -> None:
        if not isinstance(model, str | nn.Module):
            raise UsageError(f"a model's name or a network is needed, not {model!r}")
        name = model if isinstance(model, str) else type(model).__name__.lower()
        if isinstance(device := options.get("device"), torch.device):
            options["device"] = str(device)
        try:
            self.options = UpscaleOptions(model=name, scale=scale, **options)
        except TypeError as error:
            valid = [field.name for field in _fields()]
            unknown = next((key for key in options if key not in valid), None)
            if unknown is None:
                raise
            raise UsageError(unknown_name("option", unknown, valid)) from error
        self._given = _copied(model) if isinstance(model, nn.Module) else None
        self._engines: dict[int, Engine] = {}
        self._loading = threading.Lock()
        # sha256 of the weights in use, by native scale; empty for a network that was given.
        self.weights_sha256: dict[int, str] = {}
        own = self.options.target().own_scale
        if self._given is not None:
            if self.options.weights is not None:
                raise UsageError("a network that is given has its weights: name no others")
            if own is None:
                raise UsageError("a network that is given needs its own whole scale")
            if isinstance(self._given, SuperResolver) and self._given.scale != own:
                raise UsageError(f"the network that is given has scale {self._given.scale}")
            self.native: tuple[int, ...] = (own,)
            self._engines[own] = self._engine_of(self._given, own)
            return
        self.native = native_scales(self.options)
        if own in SCALES:
            self.engine_for(own)  # What is missing is said now.

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {each.name: getattr(self.options, each.name) for each in _fields()}
        return _made_again, (self._given, fields)

    @property
    def engine(self) -> Engine:
        """The one of the largest scale."""
        return self.engine_for(max(self.native))

    @property
    def in_flight(self) -> int:
        """How many pictures are best enlarged at a time, each in a thread."""
        options = self.options
        return in_flight(choose_device(options.device)) if options.backend == "torch" else 1

    def engine_for(self, scale: int) -> Engine:
        """The engine of a native scale; loads its weights when it is first asked for.

        Raises:
            UsageError: the network has no such scale.
            WeightsError: its weights cannot be found, downloaded, verified or loaded.
        """
        with self._loading:
            if scale not in self._engines:
                file = find_weights(self.options.model, scale, self.options.weights)
                model = load_model(self.options.model, scale, file)
                self._engines[scale] = self._engine_of(model, scale)
                self.weights_sha256[scale] = file.sha256
            return self._engines[scale]

    def route(self, height: int, width: int) -> Route:
        """The native scales to run for an image of (height, width), and the size to end with.

        Raises:
            UsageError: it would become too many times larger.
        """
        return route(height, width, self.options.target(), self.native)

    def __call__(self, picture: Picture) -> Picture:
        """The enlarged picture, of the same kind.

        Raises:
            ImageError: pixels of another shape, type or range than above.
            NumericalError: the network returned NaN, infinity or black, in float32 too.
            UsageError: it would become too many times larger.
        """
        if isinstance(picture, Pillow.Image):
            image, notes = self.enlarge(from_pillow(_upright(picture)))
            result: Any = to_pillow(image)
        elif isinstance(picture, np.ndarray):
            result, notes = self._array(picture)
        elif isinstance(picture, Tensor):
            result, notes = self._tensor(picture)
        else:
            kind = type(picture).__name__
            raise ImageError(f"a Pillow image, an array or a tensor is needed, not {kind}")
        for note in notes:
            warnings.warn(note, stacklevel=2)
        return result

    def enlarge(
        self,
        image: Image,
        *,
        dtype: np.dtype[Any] | None = None,
        flatten: bool = False,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> tuple[Image, tuple[str, ...]]:
        """``image`` enlarged, and sentences about what went oddly.

        Args:
            image: of either depth.
            dtype: of the result, uint8 or uint16; by default the image's own.
            flatten: lay a transparent image on the background.
            folder: where the result may be mapped if it is large, as in ``store.new_array``.
            progress: is told the share that is done, from 0 to 1.
        """
        target = None if dtype is None else getattr(torch, dtype.name)
        colour = self.options.background_rgb()
        background = from_srgb(colour, image.icc_profile) if flatten else None
        pixels = as_tensor(image.array)
        result, notes = self._enlarge(pixels, target, background, folder, progress)
        return dataclasses.replace(image, array=result.numpy()), notes

    def seams(self, image: Image) -> SeamReport | None:
        """How much tiles show in the middle of ``image``, with the first network that it meets.

        None: it meets none, or is too small to be cut.
        """
        height, width = image.size
        top, left = max(0, (height - CROP) // 2), max(0, (width - CROP) // 2)
        middle = as_tensor(image.pixels)[top : top + CROP, left : left + CROP]
        rgb = unit_range(planes(middle)).expand(-1, 3, -1, -1)
        scales = self.route(height, width).scales
        return verify_seams(self.engine_for(scales[0]), rgb, *self.tiles()) if scales else None

    def _engine_of(self, model: nn.Module, scale: int) -> Engine:
        options = self.options
        model, device, precision = through(
            options.backend, model, scale, options.device, options.precision
        )
        return Engine(
            model,
            scale,
            device,
            precision,
            self_ensemble=options.self_ensemble,
            compile_mode=options.compile_mode if options.backend == "torch" else "off",
        )

    def _array(self, array: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
        """(H, W) or (H, W, C) -> the same, enlarged, and notes."""
        if array.ndim not in (2, 3) or array.dtype.kind not in "uf" or array.itemsize > 8:
            raise ImageError(f"cannot enlarge an array of shape {array.shape} and {array.dtype}")
        result, notes = self._enlarge(as_tensor(array[..., None] if array.ndim == 2 else array))
        enlarged = result.numpy()
        return (enlarged[..., 0] if array.ndim == 2 else enlarged), notes

    def _tensor(self, picture: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """(C, H, W) or (B, C, H, W) -> the same, enlarged, and notes."""
        if picture.ndim not in (3, 4) or picture.numel() == 0:
            raise ImageError(f"a tensor of shape {tuple(picture.shape)} is no picture")
        if picture.layout != torch.strided or picture.is_meta:
            kind = "meta" if picture.is_meta else str(picture.layout).removeprefix("torch.")
            raise ImageError(f"a tensor must be dense and hold values, not {kind.strip('_')}")
        batch = picture.detach().cpu()
        results = [
            self._enlarge(each.movedim(0, 2)) for each in (batch if picture.ndim == 4 else [batch])
        ]
        planes = torch.stack([result.movedim(2, 0) for result, _ in results])
        notes = tuple(dict.fromkeys(note for _, notes in results for note in notes))
        return (planes if picture.ndim == 4 else planes[0]).to(picture.device), notes

    def _enlarge(
        self,
        pixels: Tensor,
        dtype: torch.dtype | None = None,
        background: tuple[float, float, float] | None = None,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> tuple[Tensor, tuple[str, ...]]:
        """(H, W, C) in main memory -> (H', W', C') in main memory or mapped, and notes."""
        if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4 or pixels.numel() == 0:
            shape = tuple(pixels.shape)
            raise ImageError(f"pixels of shape {shape} are not pictures of 1 to 4 channels")
        check_range(pixels)
        way = self.route(*pixels.shape[:2])
        if self.options.only_if_smaller and not way.scales:
            height, width, _ = pixels.shape
            way = Route((), (height, width), resized=False)
        colours = 1 if pixels.shape[2] < 3 else 3
        work = Work(way, pixels.shape[0] * pixels.shape[1], progress)
        alpha = None
        if pixels.shape[2] > colours and self.options.alpha != "drop":
            alpha = self._alpha(pixels[..., colours:], way, folder)
        background = background if alpha else None
        channels = colours
        if background is not None and len(set(background)) > 1:
            channels = 3  # A grey picture on a colour.
        elif alpha is not None and background is None:
            channels += 1
        result = new_tensor((*way.size, channels), dtype or pixels.dtype, folder)
        finish = Finish(result, colours, alpha, background)
        source = colour_rows(pixels[..., :colours], alpha)
        finish.take(self._bands(source, way, folder, work))
        return result, finish.notes()

    def _alpha(self, plane: Tensor, way: Route, folder: Path | None) -> Alpha:
        """Transparency (H, W, 1) and how it becomes that of the result."""
        low, high = (float(value) for value in extremes(plane))
        if low == high:
            value = float(unit_range(plane[:1, :1])[0, 0, 0])
            return Alpha(plane, lambda start, stop: constant_rows(value, stop - start, way), value)
        if self.options.alpha == "bleed":
            return Alpha(plane, functools.partial(resized_rows, plane, way.size))
        result = new_tensor((*way.size, 1), plane.dtype, folder)
        finish = Finish(result, 1, None, None)
        finish.take(self._bands(colour_rows(plane, None), way, folder, Work(way, 1, None)))
        return Alpha(plane, lambda start, stop: unit_range(planes(result[start:stop])))

    def _bands(self, source: Rows, way: Route, folder: Path | None, work: Work) -> Iterator[Band]:
        """``source`` through the networks of ``way``, in bands of the final size."""
        for index, scale in enumerate(way.scales[:-1]):
            bands = self.engine_for(scale).bands(source, *self.tiles(), work.of(index))
            source = stored(bands, source.height * scale, source.width * scale, folder)
        last: Iterator[Band] = plain_bands(source)
        if way.scales:
            engine = self.engine_for(way.scales[-1])
            last = engine.bands(source, *self.tiles(), work.of(len(way.scales) - 1))
        if way.resized:
            height = source.height * (way.scales[-1] if way.scales else 1)
            last = resized_bands(last, height, way.size)
        return last

    def tiles(self) -> tuple[int | None, int | None]:
        """The tile and the overlap that were asked for, None for "auto"."""
        options = self.options
        return (
            None if options.tile_size == "auto" else options.tile_size,
            None if options.overlap == "auto" else options.overlap,
        )


def upscale(
    picture: Picture, model: str = "pan", *, scale: float | None = None, **options: Any
) -> Picture:
    """``Upscaler(model, scale=scale, **options)(picture)``, for one picture."""
    return Upscaler(model, scale=scale, **options)(picture)


def native_scales(options: UpscaleOptions) -> tuple[int, ...]:
    """The scales that may be run: the one asked for, or all that the network has weights of.

    Raises:
        UsageError: there is no such network.
        WeightsError: the weights that are named cannot be found or told.
    """
    own, model, weights = options.target().own_scale, options.model, options.weights
    if own in SCALES:
        return (own,)
    if weights is not None:
        return (identify(find_weights(model, DEFAULT_SCALE, weights).path, model).scale,)
    scales = tuple(sorted(e.scale for e in read_manifest().weights if e.model == model))
    if not scales:
        find_weights(model, DEFAULT_SCALE)  # Says what is wrong.
    return scales


_KINDS = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    NoneType: "None",
    Literal["auto"]: "'auto'",
}


def _is_a(value: object, kind: Any) -> bool:
    """Whether ``value`` is one of ``_KINDS``; NumPy's numbers are numbers, too."""
    if isinstance(value, bool | np.bool_):
        return kind is bool
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    wanted: dict[Any, Any] = {int: numbers.Integral, float: numbers.Real, Path: os.PathLike}
    return isinstance(value, wanted.get(kind, kind))


def _fields() -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(UpscaleOptions)


def _upright(picture: Pillow.Image) -> Pillow.Image:
    try:
        turned = picture.getexif().get(ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(picture) if turned else picture
    except Exception:  # Damaged EXIF breaks Pillow in many ways, and is no reason to stop.
        warnings.warn(EXIF_IS_DAMAGED, stacklevel=3)
        return picture


def _copied(network: nn.Module) -> nn.Module:
    """What its owner may go on training, in float32; itself, if it cannot be copied."""
    try:
        return copy.deepcopy(network).float()
    except Exception:
        warnings.warn(
            "the network cannot be copied: it is used itself, and is in eval mode from now on",
            SrupliftWarning,
            stacklevel=3,
        )
        return network


def _made_again(given: nn.Module | None, fields: dict[str, Any]) -> Upscaler:
    """What was pickled."""
    name = fields.pop("model")
    return Upscaler(name if given is None else given, **fields)
