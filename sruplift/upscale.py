"""Enlarge pictures: Pillow images, arrays, tensors, files.

Pixels are floating point from the network to the end and rounded once, to what they are kept as.
"""

from __future__ import annotations

import dataclasses
import functools
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor, nn

from sruplift.alpha import bleed, composite
from sruplift.engine import PRECISIONS, Engine, is_out_of_memory
from sruplift.errors import ImageError, NumericalError, SrupliftError, UsageError, unknown_name
from sruplift.files import Failure, Job, shown
from sruplift.image import (
    MAX_PIXELS,
    Image,
    check_destination,
    from_pillow,
    holds_alpha,
    output_dtype,
    read_image,
    to_pillow,
    write_image,
)
from sruplift.resize import bicubic
from sruplift.seams import SeamReport, verify_seams
from sruplift.tiling import Band, assemble
from sruplift.weights import load_model

Picture = TypeVar("Picture", Pillow.Image, np.ndarray, Tensor)
Progress = Callable[[float], None]
# Results further than this from [0, 1] are clipped to it, and worth a word.
WILD = 1.0
# LR pixels that a tile must not share: with one each an image would be thousands of tiles.
LEAST_OF_ITS_OWN = 8
# Floating-point pixels this far out of range are a rounding, not another range.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class UpscaleOptions:
    """What `sruplift upscale` can be told. Sizes are LR pixels.

    Raises:
        UsageError: a value that cannot be meant.
    """

    model: str = "pan"
    scale: int = 4
    weights: str | Path | None = None
    tile_size: int | Literal["auto"] = "auto"
    overlap: int | Literal["auto"] = "auto"
    device: str = "auto"
    precision: str = "auto"
    overwrite: bool = False
    max_pixels: int = MAX_PIXELS
    quality: int | None = None
    verify_seams: bool = False
    self_ensemble: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(unknown_name("precision", self.precision, PRECISIONS))
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


@dataclass(frozen=True)
class UpscaleResult:
    """One file that was done. Sizes are (height, width); ``notes`` are sentences to be shown."""

    source: Path
    destination: Path
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    seconds: float
    device: str
    precision: str
    notes: tuple[str, ...] = ()
    seams: SeamReport | None = None


class Upscaler:
    """Enlarges what it is called with: ``Upscaler("pan", scale=4)(picture)``.

    A Pillow image gives a Pillow image, a NumPy array an array, a tensor a tensor on its device,
    with the dtype that was given and ``scale`` times the size:

    - Pillow: L, RGB, LA, RGBA and I;16 keep their mode; palettes become RGB or RGBA, CMYK RGB.
    - NumPy: (H, W) or (H, W, C), ``uint8``, ``uint16``, or floating point in [0, 1].
    - PyTorch: (C, H, W) or (B, C, H, W), ``uint8`` or floating point in [0, 1].

    C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA). Pictures are taken as sRGB or another
    display space; they are not converted.

    Args:
        model: its name, or a network (B, 3, h, w) -> (B, 3, h * scale, w * scale).
        scale: how many times larger.
        options: the fields of ``UpscaleOptions``.

    Raises:
        UsageError: an unknown name or a value that cannot be meant.
        WeightsError: the weights cannot be found, downloaded, verified or loaded.
    """

    def __init__(self, model: str | nn.Module = "pan", *, scale: int = 4, **options: Any) -> None:
        name = model if isinstance(model, str) else type(model).__name__.lower()
        try:
            self.options = UpscaleOptions(model=name, scale=scale, **options)
        except TypeError as error:
            valid = [field.name for field in dataclasses.fields(UpscaleOptions)]
            unknown = next((key for key in options if key not in valid), None)
            if unknown is None:
                raise
            raise UsageError(unknown_name("option", unknown, valid)) from error
        if isinstance(model, str):
            model = load_model(name, scale, self.options.weights)
        self.engine = Engine(
            model,
            scale,
            self.options.device,
            self.options.precision,
            self_ensemble=self.options.self_ensemble,
        )

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
            batch = picture if picture.ndim == 4 else picture[None]
            planes, notes = self._planes(batch)
            result = (planes if picture.ndim == 4 else planes[0]).to(picture.device)
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
        progress: Progress | None = None,
    ) -> tuple[Image, tuple[str, ...]]:
        """``image`` enlarged, and sentences about what went oddly.

        Args:
            image: of either depth.
            dtype: of the result, uint8 or uint16; by default the image's own.
            flatten: lay a transparent image on white.
            progress: is told the share that is done, from 0 to 1.
        """
        array = image.pixels
        if image.alpha is not None:
            array = np.concatenate([array, image.alpha[..., None]], axis=2)
        result, notes = self._array(array, dtype, flatten, progress)
        alpha = None if image.alpha is None or flatten else result[..., -1]
        colours = image.pixels.shape[2]
        return dataclasses.replace(image, pixels=result[..., :colours], alpha=alpha), notes

    def _array(
        self,
        array: np.ndarray[Any, Any],
        dtype: np.dtype[Any] | None = None,
        flatten: bool = False,
        progress: Progress | None = None,
    ) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
        """(H, W) or (H, W, C) -> the same, enlarged, and notes."""
        if array.ndim not in (2, 3) or array.dtype.kind not in "uf":
            raise ImageError(f"cannot enlarge an array of shape {array.shape} and {array.dtype}")
        native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        if not native.flags.writeable:  # PyTorch warns of these, though nobody writes.
            native = native.copy()
        planes = torch.from_numpy(native[None, ..., None] if array.ndim == 2 else native[None])
        target = None if dtype is None else getattr(torch, dtype.name)
        result, notes = self._planes(planes.movedim(3, 1), target, flatten, progress)
        enlarged = result[0].movedim(0, 2).contiguous().numpy()
        return (enlarged[..., 0] if array.ndim == 2 else enlarged), notes

    def _planes(
        self,
        planes: Tensor,
        dtype: torch.dtype | None = None,
        flatten: bool = False,
        progress: Progress | None = None,
    ) -> tuple[Tensor, tuple[str, ...]]:
        """(B, C, H, W), C from 1 to 4, in main memory or not -> (B, C', H', W') in main memory."""
        if planes.ndim != 4 or not 1 <= planes.shape[1] <= 4 or planes.numel() == 0:
            raise ImageError(
                f"pixels of shape {tuple(planes.shape)} are not pictures of 1 to 4 channels"
            )
        values = _unit_range(planes.detach().cpu())
        colours = 1 if planes.shape[1] < 3 else 3
        quantise = _QUANTISE.get(dtype or planes.dtype) or (lambda x: x.to(dtype or planes.dtype))
        watch = _Excursion()
        images = [
            self._picture(value[None], colours, quantise, flatten, watch, progress)
            for value in values
        ]
        return torch.cat(images) if len(images) > 1 else images[0], watch.notes()

    def _picture(
        self,
        values: Tensor,
        colours: int,
        quantise: Callable[[Tensor], Tensor],
        flatten: bool,
        watch: _Excursion,
        progress: Progress | None,
    ) -> Tensor:
        """One picture (1, C, H, W) in [0, 1] -> (1, C', H', W'), quantised as it is finished."""
        colour, alpha = values[:, :colours], None
        height = values.shape[-2] * self.engine.scale
        if values.shape[1] > colours:
            alpha = values[:, colours:]
            colour = bleed(colour, alpha)
            alpha = bicubic(alpha, self.engine.scale).clamp_(0, 1)

        def finish(band: Band) -> Band:
            pixels = watch.see(band.pixels).clamp(0, 1)
            if colours == 1:
                pixels = pixels.mean(1, keepdim=True)
            if alpha is not None:
                rows = alpha[..., band.top : band.top + pixels.shape[-2], :]
                pixels = composite(pixels, rows) if flatten else torch.cat([pixels, rows], 1)
            return Band(band.top, quantise(pixels))

        rgb = colour.expand(-1, 3, -1, -1)
        bands = self.engine.bands(rgb, *self._tiles(), progress)
        return assemble(map(finish, bands), height)

    def seams(self, image: Image) -> SeamReport | None:
        """How much tiles show in the middle of ``image``; None: it is too small to be cut."""
        planes = torch.tensor(image.pixels).movedim(2, 0)[None]
        return verify_seams(self.engine, _unit_range(planes).expand(-1, 3, -1, -1), *self._tiles())

    def _tiles(self) -> tuple[int | None, int | None]:
        """The tile and the overlap that were asked for, None for "auto"."""
        options = self.options
        return (
            None if options.tile_size == "auto" else options.tile_size,
            None if options.overlap == "auto" else options.overlap,
        )


def upscale(picture: Picture, model: str = "pan", *, scale: int = 4, **options: Any) -> Picture:
    """``Upscaler(model, scale=scale, **options)(picture)``, for one picture."""
    return Upscaler(model, scale=scale, **options)(picture)


def upscale_file(
    source: Path,
    destination: Path,
    upscaler: Upscaler,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> UpscaleResult:
    """Read ``source``, enlarge it, write ``destination`` in the format of its suffix.

    ``overwrite`` replaces an existing file even if ``upscaler.options`` do not.

    Raises:
        ImageError: either file cannot be read or written; the destination is whole or absent.
        NumericalError: the network returned NaN, infinity or black, in float32 too.
        UsageError: the destination's suffix cannot be written.
    """
    started = time.perf_counter()
    options, engine = upscaler.options, upscaler.engine
    overwrite = overwrite or options.overwrite
    check_destination(destination, overwrite)
    image = read_image(source, max_pixels=options.max_pixels)
    notes = list(image.notes)
    dtype = output_dtype(destination, image)
    flatten = image.alpha is not None and not holds_alpha(destination)
    if flatten:
        notes.append(f"{destination.suffix} has no transparency: the picture is laid on white")
    if dtype != image.pixels.dtype:
        notes.append(f"of 16 bits per channel, {destination.suffix} or its kind of pixels keeps 8")
    try:
        seams = upscaler.seams(image) if options.verify_seams else None
        if options.verify_seams and seams is None:
            notes.append("too small to be cut into tiles: there are no seams to verify")
        result, oddities = upscaler.enlarge(image, dtype=dtype, flatten=flatten, progress=progress)
        write_image(destination, result, quality=options.quality, overwrite=overwrite)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ImageError(f"{shown(source)}: not enough memory for the result") from error
    except NumericalError as error:
        raise NumericalError(f"{shown(source)}: {error}") from error
    return UpscaleResult(
        source=source,
        destination=destination,
        input_size=image.size,
        output_size=result.size,
        seconds=time.perf_counter() - started,
        device=str(engine.device),
        precision=engine.precision,
        notes=(*notes, *oddities),
        seams=seams,
    )


def upscale_files(
    jobs: Iterable[Job | Failure],
    upscaler: Upscaler,
    progress: Callable[[Path, float], None] | None = None,
) -> Iterator[UpscaleResult | Failure]:
    """Every job's result, or why it failed, in order; one that fails does not stop the others."""
    for job in jobs:
        if isinstance(job, Failure):
            yield job
            continue
        tell = None if progress is None else functools.partial(progress, job.source)
        try:
            yield upscale_file(job.source, job.destination, upscaler, tell, job.replace)
        except SrupliftError as error:
            yield Failure(job.source, error)


class _Excursion:
    """How far results left the range of pictures."""

    def __init__(self) -> None:
        self.worst = 0.0

    def see(self, pixels: Tensor) -> Tensor:
        low, high = pixels.aminmax()
        self.worst = max(self.worst, float(high) - 1, -float(low))
        return pixels

    def notes(self) -> tuple[str, ...]:
        if self.worst <= WILD:
            return ()
        return (
            f"the network's values left the range 0 to 1 by up to {self.worst:.3g} and were "
            "clipped: the picture may be wrong",
        )


def _unit_range(planes: Tensor) -> Tensor:
    """Pixels of any supported dtype as float32 in [0, 1].

    Raises:
        ImageError: another dtype, NaN, or values out of range.
    """
    if planes.dtype in (torch.uint8, torch.uint16):
        return planes.float().div_(torch.iinfo(planes.dtype).max)
    if not planes.is_floating_point():
        raise ImageError(f"pixels of type {planes.dtype} are not supported")
    low, high = (float(value) for value in planes.aminmax())
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise ImageError(f"floating-point pixels must be in [0, 1], not in [{low:.3g}, {high:.3g}]")
    return planes.float().clamp(0, 1)


# The one rounding, to each of the types that are kept as integers.
_QUANTISE: dict[torch.dtype, Callable[[Tensor], Tensor]] = {
    torch.uint8: lambda x: x.mul(255).round_().to(torch.uint8),
    torch.uint16: lambda x: x.mul(65535).round_().to(torch.int32).to(torch.uint16),
}
