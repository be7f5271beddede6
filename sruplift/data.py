"""Training pairs: random LR/HR patches of a folder of images.

Which patches step ``n`` sees is a function of the seed and of the samples drawn before, not of a
generator's state: a resumed run, a run on two processes and a run with a loader see the same ones.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sruplift.datasets import is_image_name, open_hr, read_hr
from sruplift.dihedral import dihedral
from sruplift.errors import DatasetError
from sruplift.resize import bicubic, modcrop

HOLD_OUT = 20
# LR pixels around a patch so that the degradation of a crop equals that of the whole image.
MARGIN = 4
# The orders of three channels, the usual one first.
ORDERS = torch.tensor(list(itertools.permutations(range(3))), device="cpu")
COLORS = 2 * len(ORDERS)
# How strong the noise of noisy patches is, of white 1: from well seen to nothing else seen.
WEAKEST_NOISE, STRONGEST_NOISE = 0.1, 1.0
# How much of it is grey, which is tamed much sooner.
GREY_NOISE = 0.25
# So that flat places (of a mean square below it, 60 dB) are as likely as each other.
LEAST_DETAIL = 1e-6


@dataclass(frozen=True)
class Samples:
    """Where a batch's patches lie: each at one of its places.

    ``image`` (B,); ``top`` and ``left`` (B, places) in LR pixels; ``choice`` (B,), from 0 to 1, for
    ``choose``; ``transform`` (B,), for ``dihedral``; ``color`` (B,), for ``recolor``; ``noise``
    (B,), for ``add_noise``.
    """

    image: Tensor
    top: Tensor
    left: Tensor
    choice: Tensor
    transform: Tensor
    color: Tensor
    noise: Tensor

    def shard(self, rank: int, processes: int) -> Samples:
        """The part of one process of many."""
        return Samples(*(part.tensor_split(processes)[rank] for part in self.columns()))

    def columns(self) -> tuple[Tensor, ...]:
        """All of them, in order."""
        parts = (self.image, self.top, self.left, self.choice)
        return (*parts, self.transform, self.color, self.noise)


class Sampler:
    """Draws patches: every image once an epoch, in an order and at places set by the seed."""

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        seed: int,
        places: int = 1,
        recolored: float = 0.0,
        noisy: float = 0.0,
    ) -> None:
        """``sizes``: LR (height, width) of each image; ``places`` to choose from, of a patch.

        ``recolored``: of how many patches the colours change, as a share; ``noisy``: how many get
        noise.
        """
        self.sizes = torch.tensor(sizes)
        self.seed = seed
        self.places = places
        self.recolored = recolored
        self.noisy = noisy

    def draw(self, first: int, count: int, patch_size: int) -> Samples:
        """The samples number ``first`` to ``first + count - 1`` of the run."""
        images = torch.tensor([self._image(first + i) for i in range(count)])
        generator = torch.Generator().manual_seed(_mix(self.seed, 1, first))
        random = torch.rand(2, count, self.places, generator=generator, dtype=torch.float64)
        room = self.sizes[images].T - patch_size + 1
        top, left = (random * room[..., None]).long()
        transform = torch.randint(8, (count,), generator=generator)
        choice = torch.rand(count, generator=generator)
        changes = torch.rand(count, generator=generator) < self.recolored
        color = torch.randint(1, COLORS, (count,), generator=generator) * changes
        gets_noise = torch.rand(count, generator=generator) < self.noisy
        noise = torch.randint(1, 2**31, (count,), generator=generator) * gets_noise
        return Samples(images, top, left, choice, transform, color, noise)

    def _image(self, sample: int) -> int:
        epoch, position = divmod(sample, len(self.sizes))
        if getattr(self, "_epoch", None) != epoch:
            generator = torch.Generator().manual_seed(_mix(self.seed, 2, epoch))
            self._order = torch.randperm(len(self.sizes), generator=generator).tolist()
            self._epoch = epoch
        return int(self._order[position])


def draw_scale(scales: Sequence[int], seed: int, iteration: int) -> int:
    """The scale that ``iteration`` trains."""
    return scales[_mix(seed, 3, iteration) % len(scales)]


class PatchCache:
    """Decoded images and their LR versions of each scale, on one device; cuts batches there."""

    def __init__(
        self,
        files: Sequence[Path],
        scales: Sequence[int],
        device: torch.device,
        *,
        taught: bool = False,
    ) -> None:
        """``taught``: ``teach`` is going to be called for every image."""
        self.device = device
        self._hr = Pixels(read_lr_sizes(files, 1), device)
        self._lr = {scale: Pixels(read_lr_sizes(files, scale), device) for scale in scales}
        # What results are compared with.
        self._targets = dict.fromkeys(scales, self._hr)
        if taught:
            self._targets = {scale: Pixels(self.target_sizes(scale), device) for scale in scales}
        with ThreadPoolExecutor(max_workers=4) as pool:
            for number, image in enumerate(_in_order(pool, files)):
                hr = image.to(device)
                self._hr.put(number, hr)
                for scale, pixels in self._lr.items():
                    pixels.put(number, bicubic(modcrop(hr, scale), Fraction(1, scale)))

    def lr(self, number: int, scale: int) -> Tensor:
        """An image made smaller, ``uint8`` (3, h, w)."""
        return self._lr[scale].get(number)

    def target_sizes(self, scale: int) -> list[tuple[int, int]]:
        """Of each image (height, width) of what ``teach`` takes."""
        return [(height * scale, width * scale) for height, width in self._lr[scale].sizes]

    def teach(self, number: int, scale: int, answer: Tensor, share: float) -> None:
        """Let a share of what patches of an image are compared with be a teacher's ``answer``.

        That is ``uint8`` (3, h * scale, w * scale). What a network answers to a patch that is
        turned or has other colours is taken to be the answer's patch, turned and recoloured.
        """
        height, width = answer.shape[1:]
        hr = self._hr.get(number)[:, :height, :width].float()
        mixed = hr.lerp(answer.to(self.device).float(), share)
        self._targets[scale].put(number, mixed.round_().byte())

    def batch(self, samples: Samples, patch_size: int, scale: int) -> tuple[Tensor, Tensor]:
        """LR (B, 3, P, P) and HR (B, 3, P*scale, P*scale), float in [0, 1], on the device."""
        columns = (part.to(self.device) for part in samples.columns()[:-1])
        image, top, left, choice, transform, color = columns
        count, places = top.shape
        chosen = torch.zeros_like(image)
        if places > 1:
            each, upright = image.repeat_interleave(places), chosen.repeat_interleave(places)
            corner = (top.flatten() * scale, left.flatten() * scale)
            hr = self._hr.cut(each, *corner, upright, patch_size * scale)
            chosen = choose(hr.view(count, places, *hr.shape[1:]), scale, choice)
        top, left = (part.gather(1, chosen[:, None])[:, 0] for part in (top, left))
        lr = self._lr[scale].cut(image, top, left, transform, patch_size)
        corner = (top * scale, left * scale)
        hr = self._targets[scale].cut(image, *corner, transform, patch_size * scale)
        if samples.color.any():  # Asked of main memory: nothing waits for the device.
            lr, hr = recolor(lr, color), recolor(hr, color)
        return add_noise(lr, hr, samples.noise)


class Pixels:
    """Images of any size, one after another in a flat (pixels, 3) ``uint8`` tensor.

    A batch of patches is one gather, flips and rotations included.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], device: torch.device) -> None:
        self.sizes = list(sizes)
        areas = torch.tensor([height * width for height, width in sizes])
        self._begin = (areas.cumsum(0) - areas).to(device)
        self._width = torch.tensor([width for _, width in sizes], device=device)
        self._flat = torch.empty(int(areas.sum()), 3, dtype=torch.uint8, device=device)

    def put(self, number: int, image: Tensor) -> None:
        """Fill in image ``number``, (3, H, W)."""
        begin = int(self._begin[number])
        pixels = image.permute(1, 2, 0).reshape(-1, 3)
        self._flat[begin : begin + len(pixels)] = pixels

    def get(self, number: int) -> Tensor:
        """Image ``number``, (3, H, W)."""
        begin, (height, width) = int(self._begin[number]), self.sizes[number]
        pixels = self._flat[begin : begin + height * width]
        return pixels.view(height, width, 3).permute(2, 0, 1)

    def cut(self, image: Tensor, top: Tensor, left: Tensor, transform: Tensor, size: int) -> Tensor:
        """Patches (B, 3, size, size), float in [0, 1], transformed as ``dihedral`` does."""
        steps = torch.arange(size, device=self._flat.device)
        y, x = steps[None, :, None], steps[None, None, :]
        transform = transform[:, None, None]
        y = torch.where((transform & 1).bool(), size - 1 - y, y)
        x = torch.where((transform & 2).bool(), size - 1 - x, x)
        turned = (transform & 4).bool()
        rows, columns = torch.where(turned, x, y), torch.where(turned, y, x)
        width = self._width[image]
        first = (self._begin[image] + top * width + left)[:, None, None]
        patches = self._flat[first + rows * width[:, None, None] + columns]
        return patches.permute(0, 3, 1, 2).float().div_(255)


def choose(hr: Tensor, scale: int, choice: Tensor) -> Tensor:
    """Which of several places a patch is taken from: the likelier, the more there is to restore.

    That is the mean square of what the mean over ``scale`` x ``scale`` pixels, interpolated, loses.
    With a loss that counts patches alike by their PSNR, an image's patches then count as they do
    in the PSNR of the image: smooth ones hardly.

    Args:
        hr: the patches, (B, places, 3, H, W) in [0, 1].
        scale: by which they are made smaller.
        choice: (B,), uniform in [0, 1).

    Returns:
        The places' numbers, (B,).
    """
    grey = hr.mean(2).flatten(0, 1)[:, None]
    small = F.avg_pool2d(grey, scale)
    lost = grey - F.interpolate(small, scale_factor=scale, mode="bilinear", align_corners=False)
    share = lost.square().mean((1, 2, 3)).view(hr.shape[:2]) + LEAST_DETAIL
    share = share.cumsum(1)
    return (share < choice[:, None] * share[:, -1:]).sum(1).clamp(max=hr.shape[1] - 1)


def recolor(patches: Tensor, color: Tensor) -> Tensor:
    """The same pictures in other colours, of which a network should think no differently.

    Args:
        patches: (B, 3, H, W), float in [0, 1] or ``uint8``.
        color: (B,), from 0 to 11. Half of it tells the order of the channels, 0 the usual one; odd
            ones make a negative, too.

    Returns:
        What ``patches`` is.
    """
    order = ORDERS.to(patches.device)[color // 2]
    swapped = patches.gather(1, order[:, :, None, None].expand_as(patches))
    white = 1 if patches.is_floating_point() else 255
    return torch.where((color % 2 > 0)[:, None, None, None], white - swapped, swapped)


def add_noise(lr: Tensor, hr: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Patches with noise, which the result is to have as bicubic interpolation enlarges it.

    A network that has never seen any may answer strong noise, or a dithered picture, with values a
    million times too large: each block makes a little larger what no picture has.

    Args:
        lr: (B, 3, h, w), float in [0, 1].
        hr: (B, 3, h * scale, w * scale), likewise.
        noise: (B,), on the CPU: a seed for each patch, 0 for none. The seed also decides how strong
            the noise is, from 0.1 to 1 (standard deviation), and whether it is grey.

    Returns:
        What ``lr`` and ``hr`` are.
    """
    chosen = noise.nonzero()[:, 0]
    if not len(chosen):
        return lr, hr
    parts = []
    for seed in noise[chosen].tolist():
        generator = torch.Generator().manual_seed(seed)
        power, grey = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        strength = WEAKEST_NOISE * (STRONGEST_NOISE / WEAKEST_NOISE) ** power
        channels = 1 if grey < GREY_NOISE else 3
        each = torch.randn(channels, *lr.shape[-2:], generator=generator) * strength
        parts.append(each.expand(3, -1, -1))
    chosen = chosen.to(lr.device)
    noisy = (lr[chosen] + torch.stack(parts).to(lr.device)).clamp(0, 1)
    size = hr.shape[-2:]
    larger = F.interpolate(noisy - lr[chosen], size=size, mode="bicubic", align_corners=False)
    return (
        lr.index_copy(0, chosen, noisy),
        hr.index_copy(0, chosen, (hr[chosen] + larger).clamp(0, 1)),
    )


# Image, tops, lefts, choice, transform, color, noise, patch size, scale.
PatchItem = tuple[int, Sequence[int], Sequence[int], float, int, int, int, int, int]


class PatchFiles(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """The same patches, each cut from its file when asked for: for data larger than memory.

    An item is (image, tops, lefts, choice, transform, color, noise, patch_size, scale), as numbers.
    ``add_noise`` is for whole batches, later.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: PatchItem) -> tuple[Tensor, Tensor]:
        image, tops, lefts, choice, transform, color, _, patch_size, s = item
        hr = modcrop(read_hr(self.files[image]), s)
        chosen = 0
        if len(tops) > 1:
            edge = patch_size * s
            corners = zip(tops, lefts, strict=True)
            there = [hr[:, y * s : y * s + edge, x * s : x * s + edge] for y, x in corners]
            chosen = int(choose(torch.stack(there)[None].float() / 255, s, torch.tensor([choice])))
        top, left = tops[chosen], lefts[chosen]
        height, width = hr.shape[1] // s, hr.shape[2] // s
        y0, x0 = max(top - MARGIN, 0), max(left - MARGIN, 0)
        y1, x1 = min(top + patch_size + MARGIN, height), min(left + patch_size + MARGIN, width)
        around = bicubic(hr[:, y0 * s : y1 * s, x0 * s : x1 * s], Fraction(1, s))
        lr = around[:, top - y0 :, left - x0 :][:, :patch_size, :patch_size]
        hr = hr[:, top * s : (top + patch_size) * s, left * s : (left + patch_size) * s]
        lr, hr = (
            recolor(dihedral(each, transform)[None], torch.tensor([color]))[0].contiguous()
            for each in (lr, hr)
        )
        return lr, hr


def list_images(folders: Iterable[Path]) -> list[Path]:
    """Every image below ``folders``, sorted; DatasetError when one holds none."""
    files: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise DatasetError(f"no such folder of images: {folder}")
        found = [path for path in sorted(folder.rglob("*")) if is_image_name(path.name)]
        if not found:
            raise DatasetError(f"no images in {folder}")
        files += found
    return files


def hold_out(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Training and validation files: every 20th is held out, at least one.

    Raises:
        DatasetError: fewer than two images.
    """
    if len(files) < 2:
        raise DatasetError("training needs at least two images, one of them held out to validate")
    held = list(files[:: max(2, min(HOLD_OUT, len(files) - 1))])
    return [file for file in files if file not in set(held)], held


def usable(files: Sequence[Path], scale: int, patch_size: int) -> list[Path]:
    """The images that are large enough for a patch; DatasetError when none is."""
    sizes = read_lr_sizes(files, scale)
    large = [f for f, size in zip(files, sizes, strict=True) if min(size) >= patch_size]
    if not large:
        edge = patch_size * scale
        raise DatasetError(
            f"no training image is at least {edge}x{edge} pixels (patch_size * scale)"
        )
    return large


def fingerprint(files: Sequence[Path]) -> str:
    """A sha256 of the images' contents, whatever their names and order."""
    return fingerprints(files)[0]


def fingerprints(files: Sequence[Path]) -> tuple[str, str]:
    """A sha256 of the images' contents, whatever their names and order, and one of their order."""
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    first, second = (
        hashlib.sha256("\n".join(each).encode()).hexdigest() for each in (sorted(digests), digests)
    )
    return first, second


def read_lr_sizes(files: Sequence[Path], scale: int) -> list[tuple[int, int]]:
    """LR (height, width) of each image, from the files' headers."""
    sizes = []
    for file in files:
        try:
            with open_hr(file) as image:  # What cannot be used is said now.
                sizes.append((image.height // scale, image.width // scale))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DatasetError(f"cannot read training image {file}: {error}") from error
    return sizes


def _in_order(pool: ThreadPoolExecutor, files: Sequence[Path]) -> Iterator[Tensor]:
    """Decoded images in order, a few ahead: never all of them at once."""
    ahead = 16
    pending = [pool.submit(read_hr, file) for file in files[:ahead]]
    for file in files[ahead:]:
        yield pending.pop(0).result()
        pending.append(pool.submit(read_hr, file))
    for future in pending:
        yield future.result()


def _mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
