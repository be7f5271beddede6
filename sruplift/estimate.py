"""What an upscale would do: sizes, tiles, and about how long and with how much memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from sruplift import store
from sruplift.animation import check_animates
from sruplift.decoding import picture_size
from sruplift.engine import Engine, bytes_per_pixel
from sruplift.errors import SrupliftError
from sruplift.files import WRITABLE, Failure, Job, Skipped, is_folder
from sruplift.image import check_side
from sruplift.memory import resident_memory
from sruplift.outfile import check_outputs
from sruplift.sizes import large_enough
from sruplift.tiling import Rows
from sruplift.upscaler import Upscaler

# Edge of the tile that is timed, LR pixels, and how many times.
PROBE = 128
REPEATS = 2


@dataclass(frozen=True)
class Estimate:
    """For one file. Sizes are (height, width); ``tiles`` of all runs and frames together.

    ``seconds`` is the network's time, extrapolated from one tile that was timed; ``memory`` the
    process's in bytes, where it is most.
    """

    job: Job
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    scales: tuple[int, ...]
    tiles: int
    seconds: float
    memory: int


class Estimator:
    """Estimates for ``upscaler``; times each network once.

    ``output``: the folder for results, at and below which folders are made when the work begins.
    """

    def __init__(self, upscaler: Upscaler, output: Path | None = None) -> None:
        self.upscaler = upscaler
        self.output = output
        self._speed: dict[int, float] = {}

    def __call__(self, job: Job) -> Estimate | Skipped:
        """Read the header of ``job``'s input.

        Raises:
            SrupliftError: it cannot be read, or what is asked for cannot be made of it.
        """
        options = self.upscaler.options
        made_later = self.output is not None and job.destination != self.output
        if is_folder(job.destination.parent) or not made_later:
            check_outputs(job, options.overwrite, options.compare)
        height, width, frames = picture_size(job.source, options.max_pixels)
        if frames > 1:
            check_animates(job.destination)
        way = self.upscaler.route(height, width)
        if options.only_if_smaller and not way.scales:
            return Skipped(job.source, job.destination, large_enough(height, width))
        check_side(job.destination, WRITABLE[job.destination.suffix.lower()], *way.size)
        tiles, seconds, working = 0, 0.0, 0.0
        rows, columns = height, width
        for scale in way.scales:
            engine = self.upscaler.engine_for(scale)
            count, shape = self._tiles(engine, rows, columns)
            tiles += count
            seconds += count * shape[0] * shape[1] * self._seconds_per_pixel(scale)
            strip = 12 * shape[0] * columns * scale**2
            working = max(working, bytes_per_pixel(engine) * shape[0] * shape[1] + strip)
            rows, columns = rows * scale, columns * scale
        pixels = height * width + way.size[0] * way.size[1] * frames
        held = min(3 * pixels, 2 * store.IN_MEMORY)
        return Estimate(
            job,
            (height, width),
            way.size,
            way.scales,
            tiles * frames,
            seconds * frames,
            resident_memory() + int(working) + held,
        )

    def _tiles(self, engine: Engine, height: int, width: int) -> tuple[int, tuple[int, int]]:
        """How many tiles an image has, and their shape."""
        tile_size, overlap = self.upscaler.tiles()
        plan = engine.plan(Rows(height, width, lambda *_: torch.empty(0)), tile_size, overlap)
        return len(plan), plan.tile_shape

    def _seconds_per_pixel(self, scale: int) -> float:
        """Of a network, for an LR pixel."""
        if scale not in self._speed:
            engine = self.upscaler.engine_for(scale)
            tile = torch.rand(1, 3, PROBE, PROBE)
            times = []
            for _ in range(1 + REPEATS):
                started = time.perf_counter()
                engine.run(tile)
                times.append(time.perf_counter() - started)
            self._speed[scale] = min(times[1:]) / PROBE**2
        return self._speed[scale]


def estimates(
    items: Iterable[Job | Failure | Skipped], upscaler: Upscaler | None, output: Path | None = None
) -> Iterator[Estimate | Failure | Skipped]:
    """An estimate for every job; failures and what is skipped are passed on.

    ``output`` is as in ``Estimator``.
    """
    estimate = None if upscaler is None else Estimator(upscaler, output)
    for item in items:
        if estimate is None or not isinstance(item, Job):
            assert not isinstance(item, Job)
            yield item
            continue
        try:
            yield estimate(item)
        except SrupliftError as error:
            yield Failure(item.source, error)
