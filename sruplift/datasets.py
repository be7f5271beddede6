"""Benchmark data sets: where their HR images are, on this machine or on the Hub.

The Hub's copies are the tarballs of the ``eugenesiow`` repositories. Only their HR images are
used: the LR images beside them are made with Pillow's bicubic, which is not the papers'.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import math
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sruplift import hub
from sruplift.archive import DamagedArchiveError, extract_flat, reason
from sruplift.decoding import collected_warnings
from sruplift.errors import DatasetError, UsageError, unknown_name
from sruplift.files import is_file, is_folder
from sruplift.metadata import HEADER_BYTES, stored_bits

IMAGE_SUFFIXES = frozenset({".png", ".bmp", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".avif"})
_GREY_OR_COLOUR = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})


@dataclass(frozen=True)
class DatasetSpec:
    """A benchmark: its name, the names that folders of it go by, and how many images it has.

    ``repo`` and ``file`` say where the Hub has its HR images, ``md5`` what the file must be.
    """

    name: str
    aliases: tuple[str, ...]
    count: int
    repo: str | None = None
    file: str = ""
    md5: str | None = None


class AbsentDatasetError(DatasetError):
    """A benchmark that is not where it was looked for, or that nobody may download."""


@dataclass(frozen=True)
class Dataset:
    """HR images to measure on, sorted by name. ``name`` is the benchmark's, or the folder's.

    ``benchmark`` says that these are the images of the benchmark ``name``, all of them.
    """

    name: str
    images: tuple[Path, ...]
    benchmark: bool


def _hub_spec(name: str, count: int, *aliases: str, md5: str | None = None) -> DatasetSpec:
    return DatasetSpec(
        name, aliases, count, f"eugenesiow/{name}", f"data/{name}_HR.tar.gz", md5=md5
    )


BENCHMARKS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        _hub_spec("Set5", 5),
        _hub_spec("Set14", 14),
        _hub_spec("BSD100", 100, "B100", "BSDS100"),
        _hub_spec("Urban100", 100, md5="65d9d84a34b72c6f7ca1e26a12df1e4c"),
        DatasetSpec("Manga109", (), 109),
    )
}


def find_datasets(names: Iterable[str], data_root: Path | None = None) -> tuple[Dataset, ...]:
    """``find_dataset`` of each; folders of one name get as much of their paths as tells them apart.

    Raises:
        SrupliftError: as ``find_dataset``.
    """
    found = [find_dataset(name, data_root) for name in names]
    places = [each.images[0].parent.resolve() for each in found]

    def called(number: int, length: int) -> str:
        """With so many parts of its path, if it is a folder."""
        benchmark = found[number].benchmark
        return found[number].name if benchmark else "/".join(places[number].parts[-length:])

    for number, dataset in enumerate(found):
        others = [other for other, place in enumerate(places) if place != places[number]]
        for length in range(1, 1 if dataset.benchmark else len(places[number].parts)):
            name = called(number, length)
            if name not in {called(other, length) for other in others}:
                found[number] = dataclasses.replace(dataset, name=name)
                break
    return tuple(found)


def find_dataset(name: str, data_root: Path | None = None) -> Dataset:
    """The HR images of a benchmark, or of any folder.

    Args:
        name: a name or alias of ``BENCHMARKS`` in any case, else the path of a folder of images.
            A name wins over a folder that is called the same: write ``./Set5`` for the folder.
        data_root: the folder that has the benchmarks' folders: ``Set5/HR``, ``Set5_HR``, or the
            images in ``Set5`` itself, in any case. Without it they come from the cache, else
            from the Hub.

    Raises:
        UsageError: ``name`` is neither a benchmark nor a folder.
        DatasetError: it cannot be found, downloaded or unpacked, or images are missing.
    """
    spec = _find_spec(name)
    if spec is None:
        return _folder_dataset(name)
    if data_root is not None:
        folder = _find_in_root(spec, data_root)
    elif spec.repo is None:
        raise AbsentDatasetError(
            f"{spec.name} is not free to download (its authors give it out on request): name the"
            f" folder that has your {spec.name} folder with --data-root"
        )
    else:
        folder = _from_hub(spec)
    images = list_images(folder)
    if len(images) != spec.count:
        raise DatasetError(_wrong_count(spec, len(images), str(folder)))
    return Dataset(spec.name, images, benchmark=True)


def find_benchmarks(data_root: Path | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the benchmarks that can be had, and of those that cannot.

    ``data_root`` is as in :func:`find_dataset`. Nothing is downloaded.

    Raises:
        DatasetError: ``data_root`` cannot be read.
    """
    here = tuple(spec.name for spec in BENCHMARKS.values() if _can_be_had(spec, data_root))
    return here, tuple(name for name in BENCHMARKS if name not in here)


def canonical_name(name: str) -> str:
    """The benchmark's own name for one of its aliases; any other name as it is."""
    spec = _find_spec(name)
    return spec.name if spec else name


def _can_be_had(spec: DatasetSpec, data_root: Path | None) -> bool:
    if data_root is None:
        return spec.repo is not None
    try:
        _find_in_root(spec, data_root)
    except AbsentDatasetError:
        return False
    return True


def list_images(folder: Path) -> tuple[Path, ...]:
    """The image files directly in ``folder``, by suffix, sorted by name; hidden files are not.

    Raises:
        DatasetError: there is no such folder, or it cannot be read.
    """
    try:
        files = [path for path in folder.iterdir() if path.is_file()]
    except OSError as error:
        raise DatasetError(f"cannot read the folder {folder}: {error.strerror}") from error
    found = (path for path in files if is_image_name(path.name))
    return tuple(sorted(found, key=lambda path: path.name))


def read_hr(path: Path) -> Tensor:
    """An image file as (3, H, W) ``uint8`` RGB. Grey gives three equal channels, alpha is left out.

    Raises:
        DatasetError: it cannot be decoded, or has more than 8 bits or no RGB (CMYK) in it.
    """
    try:
        pixels = _decode(path)
    except DatasetError:
        raise
    except Image.DecompressionBombError as error:
        raise DatasetError(f"{path} has too many pixels to be measured whole") from error
    # Decoders raise whatever their parsing of a damaged file runs into: no list is complete.
    except Exception as error:
        raise DatasetError(f"cannot read the image {path}: {reason(error, path)}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def open_hr(path: Path) -> Image.Image:
    """What ``read_hr`` decodes, its header read and checked.

    Raises:
        DatasetError: more than 8 bits, or no RGB in it.
        Exception: what Pillow raises of a file that it cannot open.
    """
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    with collected_warnings([]):  # Filters belong to the process, and threads decode.
        image = Image.open(path)
    try:
        _check_pixels(path, image, header)
    except Exception:
        image.close()
        raise
    return image


def _check_pixels(path: Path, image: Image.Image, header: bytes) -> None:
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise Image.DecompressionBombError("too many pixels")
    if image.mode not in _GREY_OR_COLOUR:
        raise DatasetError(f"{path} is no 8-bit grey or RGB image: its pixels are {image.mode}")
    if (bits := stored_bits(header, image)) > 8:  # Of colours Pillow reads 8.
        raise DatasetError(f"{path} is no 8-bit grey or RGB image: it has {bits} bits per channel")


def _decode(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(H, W, 3) ``uint8``."""
    with open_hr(path) as image:
        # A palette's transparency survives only a conversion to RGBA; to RGB it warns.
        opaque = image.convert("RGBA") if image.mode in {"P", "PA"} else image
        return np.array(opaque.convert("RGB"))


def cache_folder(name: str = "datasets") -> Path:
    """Where unpacked data sets, or what else is called ``name``, are kept.

    It is the Hub cache's place for assets of other libraries.

    Raises:
        OSError: there is no home folder for it, and no variable that names another place.
    """
    try:
        if folder := os.environ.get("HF_ASSETS_CACHE"):
            return Path(folder).expanduser() / "sruplift" / name
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        home = os.environ.get("HF_HOME") or str(Path(cache) / "huggingface")
        return Path(os.path.expandvars(home)).expanduser() / "assets" / "sruplift" / name
    except RuntimeError as error:
        raise OSError(
            errno.ENOENT, "there is no home folder for a cache; HF_HOME may name a place"
        ) from error


def _find_spec(name: str) -> DatasetSpec | None:
    wanted = name.lower()
    for spec in BENCHMARKS.values():
        if wanted in _folder_names(spec):
            return spec
    return None


def _folder_names(spec: DatasetSpec) -> tuple[str, ...]:
    return tuple(name.lower() for name in (spec.name, *spec.aliases))


def _folder_dataset(name: str) -> Dataset:
    folder = Path(name)
    if not is_folder(folder):
        problem = "is a file, not a folder" if is_file(folder) else "is no folder either"
        raise UsageError(f"{unknown_name('data set', name, BENCHMARKS)}, and {name} {problem}")
    images = list_images(folder)
    if not images:
        raise DatasetError(f"there are no images in {folder}")
    return Dataset(folder.resolve().name, images, benchmark=False)


def _find_in_root(spec: DatasetSpec, root: Path) -> Path:
    """The folder below ``root`` with the images of ``spec``, whichever layout it has."""
    names = _folder_names(spec)
    with_hr = {f"{name}_hr" for name in names}
    candidates: list[Path] = []
    for folder in _subfolders(root):
        if folder.name.lower() in with_hr:
            candidates.append(folder)
        elif folder.name.lower() in names:
            inside = [sub for sub in _subfolders(folder) if sub.name.lower() in {"hr", *with_hr}]
            candidates += [*inside, folder]
    for folder in candidates:
        if list_images(folder):
            return folder
    problem = f"there are no images in {candidates[0]}" if candidates else f"it is not in {root}"
    raise AbsentDatasetError(
        f"cannot find {spec.name}: {problem} (looked for {spec.name}/HR, {spec.name}_HR and"
        f" {spec.name})"
    )


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise DatasetError(f"cannot read the folder {folder}: {error.strerror}") from error


def _from_hub(spec: DatasetSpec) -> Path:
    """The folder in the cache with the images of ``spec``, downloaded and unpacked if need be."""
    try:
        folder = cache_folder() / f"{spec.name}_HR"
    except OSError as error:
        raise DatasetError(f"{spec.name} cannot be downloaded: {error.strerror}") from error
    if folder.is_dir():
        if len(list_images(folder)) == spec.count:
            return folder
        shutil.rmtree(folder, ignore_errors=True)  # somebody tidied up in there: unpack again
    assert spec.repo is not None
    tarball = hub.download(spec.repo, spec.file, repo_type="dataset", error=DatasetError)
    try:
        _check_md5(spec, tarball)
        extract_flat(tarball, folder, is_image_name)
        images = list_images(folder)
        if len(images) != spec.count:
            shutil.rmtree(folder, ignore_errors=True)
            raise DamagedArchiveError(_wrong_count(spec, len(images), str(tarball)))
    except DamagedArchiveError as error:
        # What the next run finds must not be the same damaged download.
        hub.forget(tarball)
        raise DatasetError(f"{error}; the download was deleted") from error
    return folder


def _check_md5(spec: DatasetSpec, tarball: Path) -> None:
    if spec.md5 is None:
        return
    with tarball.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != spec.md5:
        raise DamagedArchiveError(
            f"{spec.file} of {spec.repo} is not the known file: its md5 is {found}, not {spec.md5}"
        )


def _wrong_count(spec: DatasetSpec, found: int, where: str) -> str:
    images = "1 image" if found == 1 else f"{found or 'no'} images"
    return f"{where} has {images}, {spec.name} has {spec.count}"


def is_image_name(name: str) -> bool:
    """By suffix. macOS leaves hidden ``._name.png`` files in tarballs, which are not images."""
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
