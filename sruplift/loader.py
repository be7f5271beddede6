"""What a training run is fed with: batches from a cache or from files, and validation images."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sruplift import data
from sruplift.config import TrainConfig
from sruplift.datasets import read_hr
from sruplift.errors import ConfigError, DatasetError
from sruplift.files import identity
from sruplift.memory import available_memory
from sruplift.metrics import psnr
from sruplift.resize import bicubic, modcrop


class Patches:
    """The endless stream of training batches, from a cache or from files."""

    def __init__(
        self,
        config: TrainConfig,
        files: Sequence[Path],
        device: torch.device,
        rank: int = 0,
        processes: int = 1,
        neighbours: int = 1,
    ) -> None:
        """Loads what fits into memory.

        ``rank`` of ``processes``: which part of each batch is this process's; ``neighbours`` of
        them, this one included, share this machine's memory.
        """
        _require_divisible(config, processes)
        self.config = config
        self.device = device
        self.rank, self.processes = rank, processes
        scales = config.every_scale
        self.files = data.usable(files, max(scales), max(config.patch_sizes))
        place = _cache_place(config, self.files, device, neighbours)
        taught = config.teacher is not None and config.teacher.precompute
        if taught and place is None:
            off = config.data.cache == "none"
            why = 'data.cache is "none"' if off else "there is too little for them and its answers"
            raise ConfigError(f"teacher.precompute needs the training images in memory: {why}")
        self.cache = data.PatchCache(self.files, scales, place, taught=taught) if place else None
        self.samplers = {
            scale: data.Sampler(
                data.read_lr_sizes(self.files, scale),
                config.seed,
                config.data.places,
                config.data.recolored,
                config.data.noisy,
            )
            for scale in scales
        }

    def batches(self, iteration: int, samples: int) -> Generator[tuple[Tensor, Tensor, int]]:
        """LR and HR patches of this process on its device, and the size of the whole batch.

        Close it: workers may read files for it.
        """
        if self.cache is None:
            yield from self._from_files(iteration, samples)
            return
        for drawn, patch_size, scale, count in self._draws(iteration, samples):
            lr, hr = self.cache.batch(drawn, patch_size, scale)
            yield lr.to(self.device), hr.to(self.device), count

    def _draws(self, iteration: int, samples: int) -> Iterator[tuple[data.Samples, int, int, int]]:
        """Where this process's patches lie, their size, their scale, and the whole batch's size."""
        while True:
            stage = self.config.stage_at(iteration)
            assert stage.batch_size
            assert stage.patch_size
            scale = data.draw_scale(self.config.every_scale, self.config.seed, iteration)
            drawn = self.samplers[scale].draw(samples, stage.batch_size, stage.patch_size)
            shard = drawn.shard(self.rank, self.processes)
            yield shard, stage.patch_size, scale, stage.batch_size
            iteration += 1
            samples += stage.batch_size

    def _from_files(self, iteration: int, samples: int) -> Iterator[tuple[Tensor, Tensor, int]]:
        ahead: list[tuple[int, Tensor]] = []

        def items() -> Iterator[list[data.PatchItem]]:
            for drawn, patch_size, scale, count in self._draws(iteration, samples):
                ahead.append((count, drawn.noise))
                rows = zip(*(column.tolist() for column in drawn.columns()), strict=True)
                yield [(*row, patch_size, scale) for row in rows]

        loader = torch.utils.data.DataLoader(
            _Patches(self.files),
            batch_sampler=items(),
            num_workers=self.config.data.workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_leave_the_group,
            collate_fn=_together,
        )
        for loaded in loader:
            if isinstance(loaded, DatasetError):
                raise loaded
            lr, hr = loaded
            count, noise = ahead.pop(0)
            pair = [x.to(self.device, non_blocking=True).float().div_(255) for x in (lr, hr)]
            yield *data.add_noise(pair[0], pair[1], noise), count


class _Patches(data.PatchFiles):
    """Patches, or the error that there is one instead of them.

    PyTorch would pass an error on from a worker with the worker's traceback for its message.
    """

    def __getitems__(
        self, items: Sequence[data.PatchItem]
    ) -> list[tuple[Tensor, Tensor]] | DatasetError:
        try:
            return [self[item] for item in items]
        except DatasetError as error:
            return error


def _together(loaded: list[tuple[Tensor, Tensor]] | DatasetError) -> Any:
    """A batch of patches; an error as it is."""
    if isinstance(loaded, DatasetError):
        return loaded
    return torch.utils.data.default_collate(loaded)


def _leave_the_group(_: int) -> None:
    """In a worker: what a terminal or `timeout` sends to the run's group is the run's to answer.

    It still needs its workers then, and ends them itself.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()


class Validation:
    """Held-out images, in memory: PSNR on Y as `eval` measures it, but at training precision."""

    def __init__(
        self,
        config: TrainConfig,
        files: Sequence[Path],
        device: torch.device,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        """``rank`` of ``processes``: which part of the images is this process's."""
        self.count = min(config.data.validation_images or len(files), len(files))
        chosen = [files[i * len(files) // self.count] for i in range(self.count)]
        self.device = device
        self.fingerprint = data.fingerprint(chosen)
        self.images = [read_hr(f) for f in chosen[rank::processes]]
        least = 3 * max(config.every_scale)  # something is left when a border is shaved off
        for file, image in zip(chosen[rank::processes], self.images, strict=True):
            if min(image.shape[1:]) < least:
                raise DatasetError(
                    f"{file} is too small to validate on: {image.shape[2]}x{image.shape[1]} pixels,"
                    f" not {least}x{least}"
                )

    @torch.no_grad()
    def psnr(self, network: nn.Module, scale: int) -> list[float]:
        """PSNR in dB of each of this process's images; those of all processes are ``count``."""
        values = []
        for image in self.images:
            hr = modcrop(image, scale)
            lr = bicubic(hr, size=(hr.shape[1] // scale, hr.shape[2] // scale))
            batch = lr[None].to(self.device).float() / 255
            sr = network(batch.contiguous(memory_format=torch.channels_last)).float().cpu()
            values.append(float(psnr(sr, hr[None].float() / 255, scale)))
        return values


def split_files(config: TrainConfig) -> tuple[list[Path], list[Path]]:
    """Training and validation images. What is validated on is not trained on.

    Raises:
        ConfigError: the config names no folder.
        DatasetError: a folder is absent or has no images, or none but those to validate on.
    """
    if not config.data.train:
        raise ConfigError("no training data: name folders of images with --data")
    files = data.list_images(config.data.train)
    if config.data.validation is None:
        return data.hold_out(files)
    held = data.list_images([config.data.validation])
    places = {identity(file) for file in held}
    if not (rest := [file for file in files if identity(file) not in places]):
        raise DatasetError("all training images are among those to validate on")
    return rest, held


def _cache_place(
    config: TrainConfig, files: Sequence[Path], device: torch.device, neighbours: int
) -> torch.device | None:
    """Where decoded images live; None: nowhere, they do not fit."""
    if config.data.cache != "auto":
        return {"device": device, "memory": torch.device("cpu"), "none": None}[config.data.cache]
    sizes = (data.read_lr_sizes(files, scale) for scale in (1, *config.every_scale))
    needed = 3 * sum(height * width for images in sizes for height, width in images)
    if config.teacher is not None and config.teacher.precompute:
        originals = 3 * sum(height * width for height, width in data.read_lr_sizes(files, 1))
        needed += originals * len(config.every_scale)
    for place in (device, torch.device("cpu")):
        # Each process has a GPU to itself, but not the machine's memory.
        sharers = neighbours if place.type == "cpu" else 1
        if needed < available_memory(place) / sharers / 2:
            return place
    return None


def _require_divisible(config: TrainConfig, processes: int) -> None:
    sizes = {config.data.batch_size, *(s.batch_size for s in config.stages if s.batch_size)}
    for size in sorted(sizes):
        if size % (processes * config.data.accumulate):
            parts = f" in {config.data.accumulate} parts" if config.data.accumulate > 1 else ""
            raise ConfigError(
                f"a batch of {size} patches cannot be shared evenly by {processes} processes{parts}"
            )
