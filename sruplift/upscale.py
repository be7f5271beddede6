"""Enlarge files: read, through the network, written, each file whole or not at all."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sruplift import __version__
from sruplift.animation import Animation, check_animates, read_picture, write_animation
from sruplift.engine import is_out_of_memory
from sruplift.errors import ExistsError, ImageError, NumericalError, SrupliftError, UsageError
from sruplift.files import EXISTS, WRITABLE, Failure, Job, Skipped, reason, shown
from sruplift.heap import give_back, is_kept
from sruplift.image import (
    Image,
    check_side,
    from_pillow,
    holds_alpha,
    output_dtype,
    write_image,
)
from sruplift.outfile import check_outputs
from sruplift.seams import SeamReport
from sruplift.sheet import comparison
from sruplift.sizes import large_enough
from sruplift.strips import Progress
from sruplift.upscaler import UpscaleOptions, Upscaler
from sruplift.xmp import with_provenance

# Pictures that are read ahead of the network, and written behind it.
AHEAD = 2
# What decoding a picture of so many bytes leaves behind is better the system's, where freed memory
# stays with the process: Pillow has four bytes for three.
WORTH_GIVING_BACK = 16 * 1024**2
T = TypeVar("T")


@dataclass(frozen=True)
class UpscaleResult:
    """One file that was done. Sizes are (height, width); ``notes`` are sentences to be shown.

    ``seconds`` is the time spent on it: reading, network and writing, each of which may overlap
    with that of other files.
    """

    source: Path
    destination: Path
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    seconds: float
    device: str
    precision: str
    notes: tuple[str, ...] = ()
    seams: SeamReport | None = None


@dataclass(frozen=True, eq=False)
class _Loaded:
    """An input in memory."""

    job: Job
    picture: Image | Animation
    seconds: float

    @property
    def frames(self) -> tuple[Image, ...]:
        return self.picture.frames if isinstance(self.picture, Animation) else (self.picture,)


@dataclass(frozen=True, eq=False)
class _Enlarged:
    """A result in memory, still to be written."""

    job: Job
    picture: Image | Animation
    result: UpscaleResult
    sheet: Image | None = None


def upscale_file(
    source: str | Path,
    destination: str | Path,
    upscaler: Upscaler,
    progress: Progress | None = None,
) -> UpscaleResult | Skipped:
    """Read ``source``, enlarge it, write ``destination`` in the format of its suffix.

    ``Skipped``: with ``only_if_smaller``, an image that is as large already.

    Raises:
        ImageError: either file cannot be read or written; the destination is whole or absent.
        NumericalError: the network returned NaN, infinity or black, in float32 too.
        UsageError: the destination's suffix cannot be written, or the image would become too many
            times larger.
    """
    job = Job(Path(source), Path(destination))
    made = _enlarge(_read(job, upscaler.options), upscaler, progress)
    return made if isinstance(made, Skipped) else _write(made, upscaler.options)


def upscale_files(
    jobs: Iterable[Job | Failure | Skipped],
    upscaler: Upscaler,
    progress: Callable[[Path, float], None] | None = None,
) -> Iterator[UpscaleResult | Failure | Skipped]:
    """Every job's result, or why there is none, in order; one that fails does not stop the others.

    While the network works on one file, the next are read and the last are written. On a GPU there
    are ``Upscaler.in_flight`` that it works on, so that one is prepared while it computes another.
    """
    many = upscaler.in_flight > 1
    network = ThreadPoolExecutor(upscaler.in_flight) if many else _ThisThread()
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        pending = iter(jobs)
        reads: deque[tuple[Job | Failure | Skipped, Future[_Loaded] | None]] = deque()
        writes: deque[Failure | Skipped | Future[UpscaleResult | Failure | Skipped]] = deque()

        def read_ahead() -> None:
            for job in pending:
                work = reader.submit(_read, job, upscaler.options) if isinstance(job, Job) else None
                reads.append((job, work))
                if len(reads) > AHEAD:
                    break

        try:
            read_ahead()
            while reads:
                job, future = reads.popleft()
                if isinstance(job, Job) and future is not None:
                    tell = None if progress is None else functools.partial(progress, job.source)
                    step = functools.partial(_enlarge_read, future, upscaler, tell)
                    made = network.submit(_attempt, job, step)
                    writes.append(writer.submit(_attempt_write, made, upscaler.options))
                    del future, step, made  # What is written need not live any longer.
                elif not isinstance(job, Job):
                    writes.append(job)
                read_ahead()
                while writes and (len(writes) >= AHEAD + upscaler.in_flight or _is_done(writes[0])):
                    yield _finished(writes.popleft())
            while writes:
                yield _finished(writes.popleft())
        finally:
            # An interruption: what waits is not begun; what is being written is completed.
            reader.shutdown(wait=False, cancel_futures=True)
            network.shutdown(wait=True, cancel_futures=True)
            writer.shutdown(wait=True, cancel_futures=True)


class _ThisThread(Executor):
    """Work is done as soon as it is given, so that an interruption ends it."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """What ``fn`` raises comes out of here."""
        future: Future[T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _enlarge_read(
    loaded: Future[_Loaded], upscaler: Upscaler, progress: Progress | None
) -> _Enlarged | Skipped:
    return _enlarge(loaded.result(), upscaler, progress)


def _attempt(job: Job, step: Callable[[], T]) -> T | Failure | Skipped:
    try:
        return step()
    except OSError as error:  # A file that goes away, a disk that fails, while it is read.
        return Failure(job.source, ImageError(f"{shown(job.source)}: {reason(error)}"))
    except SrupliftError as error:
        if job.skip and isinstance(error, ExistsError) and os.path.lexists(job.destination):
            return Skipped(job.source, job.destination, EXISTS)
        # Else pictures, and files that are open and deleted, would live as long as it does.
        error.__cause__ = error.__context__ = None
        return Failure(job.source, error.with_traceback(None))


def _attempt_write(
    future: Future[_Enlarged | Failure | Skipped], options: UpscaleOptions
) -> UpscaleResult | Failure | Skipped:
    made = future.result()
    if not isinstance(made, _Enlarged):
        return made
    return _attempt(made.job, lambda: _write(made, options))


def _is_done(each: object) -> bool:
    return each.done() if isinstance(each, Future) else True


def _finished(
    each: Failure | Skipped | Future[UpscaleResult | Failure | Skipped],
) -> UpscaleResult | Failure | Skipped:
    return each.result() if isinstance(each, Future) else each


def _read(job: Job, options: UpscaleOptions) -> _Loaded:
    started = time.perf_counter()
    check_outputs(job, options.overwrite, options.compare)
    folder = job.destination.parent
    picture = read_picture(job.source, max_pixels=options.max_pixels, folder=folder)
    if isinstance(picture, Animation):
        check_animates(job.destination)
    elif picture.array.nbytes > WORTH_GIVING_BACK and is_kept():
        give_back()
    return _Loaded(job, picture, time.perf_counter() - started)


def _enlarge(loaded: _Loaded, upscaler: Upscaler, progress: Progress | None) -> _Enlarged | Skipped:
    started = time.perf_counter()
    job, options, first = loaded.job, upscaler.options, loaded.frames[0]
    try:
        way = upscaler.route(*first.size)
    except UsageError as error:
        raise UsageError(f"{shown(job.source)}: {error}") from error
    if options.only_if_smaller and not way.scales:
        return Skipped(job.source, job.destination, large_enough(*first.size))
    kind = WRITABLE[job.destination.suffix.lower()]
    check_side(job.destination, kind, *way.size)
    flatten = first.alpha is not None and not holds_alpha(job.destination)
    notes = [*first.notes, *_losses(job.destination, first, flatten, options)]
    try:
        seams = upscaler.seams(first) if options.verify_seams else None
        if options.verify_seams and seams is None:
            notes.append("too small to be cut into tiles: there are no seams to verify")
        picture, oddities = _enlarge_frames(loaded, upscaler, flatten, progress)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ImageError(f"{shown(job.source)}: not enough memory for the result") from error
    except NumericalError as error:
        raise NumericalError(f"{shown(job.source)}: {error}") from error
    except OSError as error:
        text = error.strerror or error
        raise ImageError(f"{shown(job.source)}: no room for the result: {text}") from error
    engine = upscaler.engine_for(way.scales[-1]) if way.scales else upscaler.engine
    result = UpscaleResult(
        source=job.source,
        destination=job.destination,
        input_size=first.size,
        output_size=way.size,
        seconds=loaded.seconds + time.perf_counter() - started,
        device=str(engine.device),
        precision=engine.precision,
        notes=tuple(dict.fromkeys((*notes, *oddities))),
        seams=seams,
    )
    return _Enlarged(job, picture, result, _sheet(first, picture, options))


def _sheet(before: Image, after: Image | Animation, options: UpscaleOptions) -> Image | None:
    """The comparison that was asked for; of an animation, its first frame's."""
    if options.compare is None:
        return None
    first = after.frames[0] if isinstance(after, Animation) else after
    name = f"{options.model} {options.target().label}"
    return from_pillow(comparison(before, first, name, options.background))


def _enlarge_frames(
    loaded: _Loaded, upscaler: Upscaler, flatten: bool, progress: Progress | None
) -> tuple[Image | Animation, list[str]]:
    """The picture, or each frame of it, enlarged and marked with where it comes from."""
    job, frames = loaded.job, loaded.frames
    dtype = output_dtype(job.destination, frames[0])
    results: list[Image] = []
    oddities: list[str] = []
    for index, frame in enumerate(frames):
        tell = None if progress is None else _share_of(progress, index, len(frames))
        result, said = upscaler.enlarge(
            frame, dtype=dtype, flatten=flatten, folder=job.destination.parent, progress=tell
        )
        results.append(result)
        oddities += said
    if upscaler.options.provenance:
        facts = provenance(upscaler, upscaler.route(*frames[0].size).scales)
        results[0] = dataclasses.replace(results[0], xmp=with_provenance(results[0].xmp, facts))
    if isinstance(loaded.picture, Animation):
        return dataclasses.replace(loaded.picture, frames=tuple(results)), oddities
    return results[0], oddities


def provenance(upscaler: Upscaler, scales: Collection[int]) -> dict[str, str]:
    """What a file says of how it was made: version, size asked for, network, weights' sha256.

    ``scales`` are those that were run for it: an upscaler may hold others, for other files.
    """
    options, known = upscaler.options, upscaler.weights_sha256
    facts = {"version": __version__, "size": options.target().label}
    if not scales:
        return facts  # Only made smaller: no network has seen it.
    used = (f"x{scale}:{known[scale]}" for scale in sorted(set(scales)) if scale in known)
    facts |= {"model": options.model, "weights": " ".join(used)}
    if options.self_ensemble:
        facts["selfEnsemble"] = "8"
    return facts


def _losses(destination: Path, image: Image, flatten: bool, options: UpscaleOptions) -> list[str]:
    """Sentences about what the destination's format cannot hold."""
    notes, suffix = [], destination.suffix
    if flatten and options.alpha != "drop":
        colour = options.background
        notes.append(f"{suffix} has no transparency: the picture is laid on {colour}")
    if output_dtype(destination, image) != np.dtype(image.array.dtype):
        notes.append(f"of 16 bits per channel, {suffix} keeps 8")
    elif image.array.dtype == np.uint16 and WRITABLE[suffix.lower()] == "AVIF":
        notes.append(f"{suffix} keeps 12 bits per channel")
    if WRITABLE[suffix.lower()] == "GIF":
        notes.append("a GIF holds at most 256 colours a frame")
        if _has_soft_edges(image) and options.alpha != "drop":
            notes.append("a GIF has no soft edges: a pixel is seen or not")
    return notes


def _has_soft_edges(image: Image) -> bool:
    alpha = image.alpha
    return alpha is not None and bool(((alpha > 0) & (alpha < np.iinfo(alpha.dtype).max)).any())


def _share_of(progress: Progress, index: int, count: int) -> Progress:
    return lambda share: progress((index + share) / count)


def _write(made: _Enlarged, options: UpscaleOptions) -> UpscaleResult:
    started = time.perf_counter()
    path = made.job.destination
    overwrite = options.overwrite or made.job.replace
    lost: tuple[str, ...] = ()
    if isinstance(made.picture, Animation):
        lost = write_animation(path, made.picture, quality=options.quality, overwrite=overwrite)
    else:
        lost = write_image(path, made.picture, quality=options.quality, overwrite=overwrite)
    if made.sheet is not None and options.compare is not None:
        write_image(Path(options.compare), made.sheet, overwrite=overwrite)
    seconds = made.result.seconds + time.perf_counter() - started
    return dataclasses.replace(made.result, seconds=seconds, notes=(*made.result.notes, *lost))
