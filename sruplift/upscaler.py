"""Enlarge pictures in memory: Pillow images, arrays, tensors.

Pixels are floating point from the network to the end and rounded once, to what they are kept as.
The picture goes through in strips, so that besides it and its result little memory is needed.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageColor
from torch import Tensor, nn

from sruplift.alpha import bleed, composite
from sruplift.decoding import MAX_PIXELS
from sruplift.engine import PRECISIONS, Engine
from sruplift.errors import ImageError, UsageError, unknown_name
from sruplift.image import Image, from_pillow, to_pillow
from sruplift.manifest import read_manifest
from sruplift.resize import RowResizer, bicubic_rows, rows_needed
from sruplift.seams import CROP, SeamReport, verify_seams
from sruplift.sizes import DEFAULT_SCALE, SCALES, Route, Target, route
from sruplift.store import new_array, release
from sruplift.tiling import Band, Rows
from sruplift.weights import find_weights, identify, load_model

Picture = TypeVar("Picture", Pillow.Image, np.ndarray, Tensor)
Progress = Callable[[float], None]
ALPHA_MODES = ("bleed", "net", "drop")
# Results further than this from [0, 1] are clipped to it, and worth a word.
WILD = 1.0
# LR pixels that a tile must not share: with one each an image would be thousands of tiles.
LEAST_OF_ITS_OWN = 8
# Floating-point pixels this far out of range are a rounding, not another range.
TOLERANCE = 1e-3
# Transparent pixels are coloured in blocks of so many rows, with as many rows around them.
BLEED_BLOCK = 256
# Values are clipped, rounded and stored so many at a time.
PIECE = 2 * 1024**2


@dataclass(frozen=True)
class UpscaleOptions:
    """What `sruplift upscale` can be told. Tiles are in LR pixels.

    ``scale``, ``width``, ``height``, ``max_side``, ``megapixels`` and ``only_if_smaller`` are as in
    ``sizes.Target``. ``alpha``: transparency is resized ("bleed"), goes through the network
    ("net"), or is dropped; ``background`` is the colour that shows through where the target has
    no transparency. ``provenance``: whether a file says how it was made. ``compare``: a file for
    a sheet that shows bicubic beside the result.

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
    self_ensemble: bool = False
    alpha: str = "bleed"
    background: str = "white"
    overwrite: bool = False
    max_pixels: int = MAX_PIXELS
    quality: int | None = None
    provenance: bool = True
    verify_seams: bool = False
    compare: str | Path | None = None

    def __post_init__(self) -> None:
        self.target()
        self.background_rgb()
        if self.precision not in PRECISIONS:
            raise UsageError(unknown_name("precision", self.precision, PRECISIONS))
        if self.alpha not in ALPHA_MODES:
            raise UsageError(unknown_name("alpha mode", self.alpha, ALPHA_MODES))
        if self.overlap != "auto" and self.overlap < 0:
            raise UsageError(f"overlap must be at least 0, not {self.overlap}")
        if self.tile_size != "auto":
            shared = 0 if self.overlap == "auto" else self.overlap
            if self.tile_size - shared < LEAST_OF_ITS_OWN:
                raise UsageError(
                    f"a tile of {self.tile_size} is too small for an overlap of {shared}: it needs"
                    f" {LEAST_OF_ITS_OWN} pixels of its own"
                )
        if self.max_pixels < 1:
            raise UsageError(f"max-pixels must be at least 1, not {self.max_pixels}")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UsageError(f"quality must be from 1 to 100, not {self.quality}")

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

    - Pillow: L, RGB, LA, RGBA and I;16 keep their mode; palettes become RGB or RGBA, CMYK RGB.
    - NumPy: (H, W) or (H, W, C), ``uint8``, ``uint16``, or floating point in [0, 1].
    - PyTorch: (C, H, W) or (B, C, H, W), ``uint8``, ``uint16`` or floating point in [0, 1].

    C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA). Pictures are taken as sRGB or another
    display space; they are not converted. It may be called from several threads.

    Args:
        model: its name, or a network (B, 3, h, w) -> (B, 3, h * scale, w * scale).
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
        name = model if isinstance(model, str) else type(model).__name__.lower()
        try:
            self.options = UpscaleOptions(model=name, scale=scale, **options)
        except TypeError as error:
            valid = [field.name for field in dataclasses.fields(UpscaleOptions)]
            unknown = next((key for key in options if key not in valid), None)
            if unknown is None:
                raise
            raise UsageError(unknown_name("option", unknown, valid)) from error
        self._engines: dict[int, Engine] = {}
        self._loading = threading.Lock()
        # sha256 of the weights in use, by native scale; empty for a network that was given.
        self.weights_sha256: dict[int, str] = {}
        own = self.options.target().own_scale
        if isinstance(model, nn.Module):
            if own is None:
                raise UsageError("a network that is given needs its own whole scale")
            self.native: tuple[int, ...] = (own,)
            self._engines[own] = self._engine_of(model, own)
        elif own in SCALES:
            self.native = (own,)
            self.engine_for(own)  # What is missing is said now.
        else:
            self.native = _native_scales(name, self.options.weights)

    @property
    def engine(self) -> Engine:
        """The one of the largest scale."""
        return self.engine_for(max(self.native))

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
        """
        if isinstance(picture, Pillow.Image):
            image, notes = self.enlarge(from_pillow(picture))
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
        result, notes = self._enlarge(_as_tensor(image.array), target, flatten, folder, progress)
        return dataclasses.replace(image, array=result.numpy()), notes

    def seams(self, image: Image) -> SeamReport | None:
        """How much tiles show in the middle of ``image``; None: it is too small to be cut."""
        height, width = image.size
        top, left = max(0, (height - CROP) // 2), max(0, (width - CROP) // 2)
        middle = _as_tensor(image.pixels)[top : top + CROP, left : left + CROP]
        rgb = _unit_range(_planes(middle)).expand(-1, 3, -1, -1)
        return verify_seams(self.engine, rgb, *self.tiles())

    def _engine_of(self, model: nn.Module, scale: int) -> Engine:
        options = self.options
        return Engine(
            model, scale, options.device, options.precision, self_ensemble=options.self_ensemble
        )

    def _array(self, array: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
        """(H, W) or (H, W, C) -> the same, enlarged, and notes."""
        if array.ndim not in (2, 3) or array.dtype.kind not in "uf":
            raise ImageError(f"cannot enlarge an array of shape {array.shape} and {array.dtype}")
        result, notes = self._enlarge(_as_tensor(array[..., None] if array.ndim == 2 else array))
        enlarged = result.numpy()
        return (enlarged[..., 0] if array.ndim == 2 else enlarged), notes

    def _tensor(self, picture: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """(C, H, W) or (B, C, H, W) -> the same, enlarged, and notes."""
        if picture.ndim not in (3, 4) or picture.numel() == 0:
            raise ImageError(f"a tensor of shape {tuple(picture.shape)} is no picture")
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
        flatten: bool = False,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> tuple[Tensor, tuple[str, ...]]:
        """(H, W, C) in main memory -> (H', W', C') in main memory or mapped, and notes."""
        if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4 or pixels.numel() == 0:
            shape = tuple(pixels.shape)
            raise ImageError(f"pixels of shape {shape} are not pictures of 1 to 4 channels")
        _check_range(pixels)
        way = self.route(*pixels.shape[:2])
        colours = 1 if pixels.shape[2] < 3 else 3
        work = _Work(way, pixels.shape[0] * pixels.shape[1], progress)
        alpha = None
        if pixels.shape[2] > colours and self.options.alpha != "drop":
            alpha = self._alpha(pixels[..., colours:], way, folder)
        background = self.options.background_rgb() if flatten and alpha else None
        channels = colours
        if background is not None and len(set(background)) > 1:
            channels = 3  # A grey picture on a colour.
        elif alpha is not None and background is None:
            channels += 1
        result = _new_tensor((*way.size, channels), dtype or pixels.dtype, folder)
        finish = _Finish(result, colours, alpha, background)
        source = _colour_rows(pixels[..., :colours], alpha)
        for band in self._bands(source, way, folder, work):
            finish(band)
        return result, finish.notes()

    def _alpha(self, plane: Tensor, way: Route, folder: Path | None) -> _Alpha:
        """Transparency (H, W, 1) and how it becomes that of the result."""
        low, high = (float(value) for value in _extremes(plane))
        if low == high:
            value = float(_unit_range(plane[:1, :1])[0, 0, 0])
            return _Alpha(plane, lambda start, stop: _constant(value, stop - start, way), value)
        if self.options.alpha == "bleed":
            return _Alpha(plane, functools.partial(_resized_rows, plane, way.size))
        result = _new_tensor((*way.size, 1), plane.dtype, folder)
        finish = _Finish(result, 1, None, None)
        for band in self._bands(_colour_rows(plane, None), way, folder, _Work(way, 1, None)):
            finish(band)
        return _Alpha(plane, lambda start, stop: _unit_range(_planes(result[start:stop])))

    def _bands(self, source: Rows, way: Route, folder: Path | None, work: _Work) -> Iterator[Band]:
        """``source`` through the networks of ``way``, in bands of the final size."""
        for index, scale in enumerate(way.scales[:-1]):
            bands = self.engine_for(scale).bands(source, *self.tiles(), work.of(index))
            source = _stored(bands, source.height * scale, source.width * scale, folder)
        last: Iterator[Band] = _plain_bands(source)
        if way.scales:
            engine = self.engine_for(way.scales[-1])
            last = engine.bands(source, *self.tiles(), work.of(len(way.scales) - 1))
        if way.resized:
            height = source.height * (way.scales[-1] if way.scales else 1)
            last = _resized_bands(last, height, way.size)
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


def _native_scales(model: str, weights: str | Path | None) -> tuple[int, ...]:
    """The scales that a network has weights of."""
    if weights is not None:
        return (identify(find_weights(model, DEFAULT_SCALE, weights).path, model).scale,)
    scales = tuple(sorted(e.scale for e in read_manifest().weights if e.model == model))
    if not scales:
        find_weights(model, DEFAULT_SCALE)  # Says what is wrong.
    return scales


@dataclass(frozen=True)
class _Alpha:
    """Transparency: ``plane`` (H, W, 1) of the picture, ``rows`` of the result in [0, 1].

    ``constant``: its one value, if it has only one.
    """

    plane: Tensor
    rows: Callable[[int, int], Tensor]
    constant: float | None = None


class _Work:
    """Shares of one progress for the runs of a route, by the pixels that each makes."""

    def __init__(self, way: Route, pixels: int, progress: Progress | None) -> None:
        self.progress = progress
        made, self.ends = pixels, [0]
        for scale in way.scales:
            made *= scale**2
            self.ends.append(self.ends[-1] + made)

    def of(self, index: int) -> Progress | None:
        progress = self.progress
        if progress is None:
            return None
        start, end, total = self.ends[index], self.ends[index + 1], self.ends[-1]
        return lambda share: progress((start + share * (end - start)) / total)


class _Finish:
    """Bands of float RGB to pixels of the result: clipped, with alpha, rounded once."""

    def __init__(
        self,
        result: Tensor,
        colours: int,
        alpha: _Alpha | None,
        background: tuple[float, float, float] | None,
    ) -> None:
        self.result, self.colours, self.alpha = result, colours, alpha
        self.background = background
        self.worst = 0.0

    def __call__(self, band: Band) -> None:
        rows = max(1, PIECE // (3 * band.pixels.shape[-1]))
        for first in range(0, band.pixels.shape[-2], rows):
            piece = band.pixels[..., first : first + rows, :]
            self._store(band.top + first, piece)
        _release(self.result)

    def _store(self, top: int, pixels: Tensor) -> None:
        low, high = pixels.aminmax()
        self.worst = max(self.worst, float(high) - 1, -float(low))
        pixels = pixels.clamp(0, 1)
        if self.colours == 1:
            pixels = pixels.mean(1, keepdim=True)
        bottom = top + pixels.shape[-2]
        if self.alpha is not None:
            alpha = self.alpha.rows(top, bottom)
            if self.background is None:
                pixels = torch.cat([pixels, alpha], 1)
            else:
                colour = torch.tensor(self.background)[: self.result.shape[2], None, None]
                pixels = composite(pixels, alpha, colour)
        quantised = _quantised(pixels, self.result.dtype)
        self.result[top:bottom] = quantised[0].movedim(0, 2)

    def notes(self) -> tuple[str, ...]:
        """A sentence if the network's values were wild."""
        if self.worst <= WILD:
            return ()
        return (
            f"the network's values left the range 0 to 1 by up to {self.worst:.3g} and were "
            "clipped: the picture may be wrong",
        )


def _colour_rows(pixels: Tensor, alpha: _Alpha | None) -> Rows:
    """Rows of (H, W, 1 or 3) as RGB for a network, hidden colours replaced by visible ones."""
    height, width = pixels.shape[:2]

    def plain(start: int, stop: int) -> Tensor:
        rows = _unit_range(_planes(pixels[start:stop])).expand(-1, 3, -1, -1)
        _release(pixels)
        return rows

    def bled(start: int, stop: int) -> Tensor:
        assert alpha is not None
        # In whole blocks, so that the same pixels are seen from wherever a strip begins.
        first = max(0, (start // BLEED_BLOCK - 1) * BLEED_BLOCK)
        last = min(height, (-(-stop // BLEED_BLOCK) + 1) * BLEED_BLOCK)
        visible = _unit_range(_planes(alpha.plane[first:last]))
        return bleed(plain(first, last), visible)[..., start - first : stop - first, :]

    see_through = alpha is not None and alpha.constant is None
    return Rows(height, width, bled if see_through else plain)


def _stored(bands: Iterator[Band], height: int, width: int, folder: Path | None) -> Rows:
    """The result of one run, kept in float32 for the next."""
    kept = new_array((height, width, 3), np.float32, folder)
    for band in bands:
        rows = band.pixels.clamp(0, 1)[0].movedim(0, 2).numpy()
        kept[band.top : band.top + len(rows)] = rows
        release(kept)

    def read(start: int, stop: int) -> Tensor:
        rows = torch.from_numpy(np.array(kept[start:stop])).movedim(2, 0)[None]
        release(kept)
        return rows

    return Rows(height, width, read)


def _plain_bands(source: Rows) -> Iterator[Band]:
    """The picture as it is."""
    for top in range(0, source.height, BLEED_BLOCK):
        yield Band(top, source.read(top, min(top + BLEED_BLOCK, source.height)))


def _resized_bands(bands: Iterator[Band], height: int, size: tuple[int, int]) -> Iterator[Band]:
    """Bands of an image of ``height`` rows, resized to ``size``."""
    resizer, top = RowResizer(height, size), 0
    for band in bands:
        rows = resizer.push(band.pixels)
        if rows.shape[-2]:
            yield Band(top, rows)
            top += rows.shape[-2]


def _resized_rows(plane: Tensor, size: tuple[int, int], start: int, stop: int) -> Tensor:
    """Rows of (H, W, 1) resized to ``size``, (1, 1, rows, width) in [0, 1]."""
    height = plane.shape[0]
    first, last = rows_needed(height, size[0], start, stop)
    rows = _unit_range(_planes(plane[first:last]))
    return bicubic_rows(rows, first, height, size, start, stop).clamp_(0, 1)


def _constant(value: float, rows: int, way: Route) -> Tensor:
    return torch.full((1, 1, rows, way.size[1]), value)


def _as_tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """The array's memory as a tensor; a copy where PyTorch cannot take it."""
    native = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    if not native.flags.writeable or any(stride < 0 for stride in native.strides):
        native = native.copy()
    return torch.from_numpy(native)


def _new_tensor(shape: tuple[int, ...], dtype: torch.dtype, folder: Path | None) -> Tensor:
    """An empty (H, W, C) tensor, mapped from a file where ``new_array`` would."""
    if dtype in _INTEGERS:
        return torch.from_numpy(new_array(shape, str(dtype).removeprefix("torch."), folder))
    return torch.empty(shape, dtype=dtype)


def _release(pixels: Tensor) -> None:
    """``store.release`` for a tensor that may be mapped."""
    if pixels.dtype in _INTEGERS:
        release(pixels.numpy())


def _planes(pixels: Tensor) -> Tensor:
    """(H, W, C) -> (1, C, H, W), a view."""
    return pixels.movedim(2, 0)[None]


def _extremes(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest value; PyTorch has no such function for uint16."""
    if pixels.dtype == torch.uint16:
        array = pixels.numpy()
        return torch.tensor(int(array.min())), torch.tensor(int(array.max()))
    low, high = pixels.aminmax()
    return low, high


def _check_range(pixels: Tensor) -> None:
    """Refuse another dtype, NaN, or floating-point values out of [0, 1]."""
    if pixels.dtype in _INTEGERS:
        return
    if not pixels.is_floating_point():
        raise ImageError(f"pixels of type {pixels.dtype} are not supported")
    low, high = (float(value) for value in pixels.aminmax())
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise ImageError(f"floating-point pixels must be in [0, 1], not in [{low:.3g}, {high:.3g}]")


def _unit_range(planes: Tensor) -> Tensor:
    """Pixels of any supported dtype as float32 in [0, 1]."""
    if planes.dtype in _INTEGERS:
        return planes.float().div_(torch.iinfo(planes.dtype).max)
    return planes.float().clamp(0, 1)


def _quantised(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """The one rounding, where ``dtype`` is of integers."""
    if dtype == torch.uint16:
        return pixels.mul(65535).round_().to(torch.int32).to(torch.uint16)
    return pixels.mul(255).round_().to(torch.uint8) if dtype == torch.uint8 else pixels.to(dtype)


_INTEGERS: Sequence[torch.dtype] = (torch.uint8, torch.uint16)
