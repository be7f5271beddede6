"""Run a network on pixels: device, precision, memory format, tile size, out-of-memory back-off."""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from sruplift.compilation import Compilation
from sruplift.datasets import cache_folder
from sruplift.dihedral import SelfEnsemble
from sruplift.errors import (
    CompiledFolderError,
    CompilerError,
    NumericalError,
    SrupliftError,
    UsageError,
    unknown_name,
)
from sruplift.fuse import fused
from sruplift.fuse.compiled import with_kernels
from sruplift.fuse.programs import has_programs, in_programs
from sruplift.heap import give_back, is_kept
from sruplift.kernels import SPARE, Arithmetic, Kernels, load_kernels, private_folder
from sruplift.memory import available_memory
from sruplift.models.layers import Frame, InputNeeds
from sruplift.streams import Streams, full_float32, in_flight
from sruplift.tiling import (
    DEFAULT_OVERLAP,
    RAMP,
    Band,
    Rows,
    TileFunction,
    TilePlan,
    check_tile,
    even_tile,
    plan_tiles,
    run_tiled,
)
from sruplift.tuning import tuned_tile, tuning_key

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("auto", *DTYPES)
DEVICES = ("cpu", "cuda", "cuda:N", "xpu", "mps")
# A tile no larger than this many LR pixels. On CPUs larger tiles are slower, since their feature
# maps are given back to the system and cleared again for every layer, unless freed memory stays
# with the process (``heap`` has the figures). GPUs only tire of overlaps.
LARGEST_KEPT_TILE = 768**2
LARGEST_TILE = {"cpu": 512**2, "cuda": 2048**2, "xpu": 2048**2, "mps": 512**2}
SMALLEST_TILE = 32
# Below half a level of 8 bits everything is black.
BLACK = 0.5 / 255
# Share of the free memory that the tiles in flight may fill.
MEMORY_SHARE = 0.5
# A row of tiles is put together in float32; of its result, so many bytes. Below as many rows as
# tiles share it is not cut: there would be more overlap than picture.
STRIP_BYTES = 160 * 1024**2
# Bytes at the worst moment for each LR and each output pixel in fp32, and half precision's share
# of them. Measured with PAN, CPU: x2, x3, x4 take 1,640, 3,070, 5,460 bytes for an LR pixel in fp32
# and 1,140, 1,590, 2,780 in bf16. ``InputNeeds.memory`` is the ratio of other networks' measurement
# to the formula (x2 and x4, fp32 and bf16, 320x320 LR pixels), the largest of the four.
BYTES_PER_LR_PIXEL = 800
BYTES_PER_OUTPUT_PIXEL = 320
HALF_PRECISION_SHARE = 0.6
# LR pixels of the tile that is tried after a lack of memory, by device, network, scale and
# precision, for as long as the process lives.
_WORKED: dict[tuple[str, str, int, str], int] = {}


class Engine:
    """A network on its device: float32 pixels in main memory in, float32 pixels out.

    Args:
        model: (B, 3, h, w) -> (B, 3, h * scale, w * scale); moved to the device, in place, and its
            ``window`` is set (``local``). Its ``needs`` (``InputNeeds``), if it has them, say what
            a tile must respect.
        scale: how many times larger its output is.
        device: "auto" (CUDA, else XPU, MPS, CPU) or a PyTorch device name.
        precision: "auto" (fp16 on CUDA and XPU, bf16 on a CPU that computes it, else fp32), "fp32",
            "bf16" or "fp16". Half precision covers convolutions; the network's skip connection
            and its output stay float32.
        self_ensemble: whether to take the mean over the eight flips and rotations of a tile.
        local: whether a network that pools over the image does so around each pixel instead, as its
            ``needs`` say, so that tiles agree.
        fuse: whether to run a network of ours as ``fused`` rewrites it, a copy, on CPUs (where it
            was measured).
        compile_mode: "on", "off" or "auto". A rewritten network on a CPU then runs with kernels of
            our own (``kernels``), all in float32 and some in bf16 where the processor gains by
            them, which "auto" does where there is a C compiler; for others as in ``Compilation``.

    Raises:
        UsageError: an unknown or unavailable device or precision, or a network that is not
            compiled.
        CompilerError: with "on", if ``kernels`` cannot be had.
    """

    def __init__(
        self,
        model: nn.Module,
        scale: int,
        device: str = "auto",
        precision: str = "auto",
        *,
        self_ensemble: bool = False,
        local: bool = True,
        fuse: bool = True,
        compile_mode: str = "off",
    ) -> None:
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.scale = scale
        # Networks of one family differ in how many parameters they have.
        self._name = f"{type(model).__name__} of {sum(p.numel() for p in model.parameters())}"
        self.needs: InputNeeds = getattr(model, "needs", InputNeeds(receptive_field=None))
        if local and self.needs.window is not None:
            model.window = self.needs.window  # type: ignore[assignment]
        self.kernels: Kernels | None = None
        if fuse and self.device.type == "cpu":
            plain, model = model, fused(model).to(self.device)
            self.needs = getattr(model, "needs", self.needs)
            if model is not plain:
                model, self.kernels = _with_kernels(model, self.precision, compile_mode)
            if self.kernels is not None:
                compile_mode = "off"
        # Twice as fast on CPUs (PAN x4, 512x512, two cores: 10.6 s against 3.8 s in fp32).
        if self_ensemble:
            model = SelfEnsemble(model)
        model = model.eval().to(self.device)
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = Compilation(self.model, compile_mode, self.device, framed=self.needs.frame)
        self._key = (str(self.device), self._name, scale, self.precision)
        self.in_flight = in_flight(self.device)
        self._streams = Streams(self.device)

    def run(self, lr: Tensor, frame: Frame | None = None) -> Tensor:
        """One tile through the network.

        Args:
            lr: (B, 3, h, w) float32 in [0, 1], in main memory.
            frame: where it lies in its image; None: it is the image.

        Returns:
            (B, 3, h * scale, w * scale) float32 in main memory, not clamped.

        It may be called from several threads; a CUDA device works on ``in_flight`` calls at a time.

        Raises:
            NumericalError: the result is not a picture, in float32 neither.
        """
        with self._streams.one():
            started = time.perf_counter()
            x = self._streams.to_device(lr).contiguous(memory_format=torch.channels_last)
            sr = self.compute(x, frame)
            # On the device, where that is quicker than the result's way to main memory.
            if self.precision != "fp32" and _failure(x, sr):
                sr = self.compute(x, frame, "fp32")
            if failure := _failure(x, sr):
                raise NumericalError(failure)
            self._network.ran(time.perf_counter() - started)
            return self._streams.to_main_memory(sr)

    def bands(
        self,
        image: Tensor | Rows,
        tile_size: int | None = None,
        overlap: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Iterator[Band]:
        """The enlarged image, in bands of finished rows.

        When the device runs out of memory the tile is halved and the work goes on from the first
        row that is not finished.

        Args:
            image: (1, 3, H, W) float32 in [0, 1], in main memory, or its rows.
            tile_size: edge of a tile, LR pixels; ``None`` chooses.
            overlap: LR pixels that neighbours share; ``None`` is what the network needs.
            progress: is told the share that is done, from 0 to 1, after every tile.

        Raises:
            NumericalError: from ``run``, with the tile's place.
            SrupliftError: not even the smallest tile fits the device's memory.
        """
        source = Rows.of(image) if isinstance(image, Tensor) else image
        height, width = source.height, source.width
        if overlap is None:
            overlap = self.default_overlap(tile_size)
        plan = self.plan(source, tile_size, overlap)
        done = 0
        while done < height * self.scale:
            rows = sum(row.kept.stop * self.scale > done for row in plan.rows)
            started = done / (height * self.scale)

            def run(tile: Tensor, at: tuple[int, int]) -> Tensor:
                return self.run(tile, Frame(*at, height, width))

            fn = _counted(run, rows * len(plan.columns), started, progress)
            try:
                bands = run_tiled(
                    fn, source, plan, self.scale, first_row=done, in_flight=self.in_flight
                )
                with SPARE.kept():
                    for band in bands:
                        yield band
                        done = band.top + band.pixels.shape[-2]
                        del band
                        if self.device.type == "cpu" and len(plan.rows) > 1 and is_kept():
                            give_back()  # What the next row finds no use for adds up.
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                tried = plan.tile_shape
            else:
                return
            # Outside the handler: the exception kept the failed tile's tensors alive.
            plan = self._plan(source, self._smaller(tried, overlap), overlap)

    def plan(
        self, source: Rows, tile_size: int | None = None, overlap: int | None = None
    ) -> TilePlan:
        """The tiles of an image, with ``tile_size`` and ``overlap`` as in ``bands``."""
        if overlap is None:
            overlap = self.default_overlap(tile_size)
        if tile_size is not None:
            return self._plan(source, (tile_size, tile_size), overlap)
        return self._plan(source, self.choose_tile(source.height, source.width, overlap), overlap)

    def _plan(self, source: Rows, shape: tuple[int, int], overlap: int) -> TilePlan:
        ramp, grid = self._ramp(overlap), self.needs.grid
        return plan_tiles(source.height, source.width, shape, overlap, ramp, grid)

    def default_overlap(self, tile_size: int | None = None) -> int:
        """What makes tiles equal the whole image, if the network says how far it looks.

        At most half of ``tile_size``: small tiles would consist of overlap.
        """
        needs = self.needs
        if needs.receptive_field is not None:
            overlap = 2 * needs.receptive_field
        else:
            overlap = needs.overlap or DEFAULT_OVERLAP
        return overlap if tile_size is None else min(overlap, tile_size // 2)

    def _ramp(self, overlap: int) -> int:
        """No blending where tiles agree: it would use pixels that lack context."""
        if self.needs.receptive_field is None:
            return RAMP
        spare = overlap - 2 * self.needs.receptive_field
        return RAMP if spare < 0 else min(RAMP, spare)

    def choose_tile(self, height: int, width: int, overlap: int) -> tuple[int, int]:
        """The (height, width) of tiles for an image: all of it where it fits, else even parts."""
        pixels = _WORKED.get(self._key) or largest_tile(
            self.device, self.precision, self.scale, self.needs.memory, self.tuned_tile
        )
        longest = self.needs.largest_tile or max(height, width)
        if max(height, width) > longest:
            check_tile(longest, overlap)
        highest = max(STRIP_BYTES // (12 * width * self.scale**2), overlap) + overlap
        if height * width <= pixels and max(height, width) <= longest and height <= highest:
            return height, width
        edge = max(int(pixels**0.5), SMALLEST_TILE, 2 * overlap)
        # A strip that is narrower than a tile may be cut into longer ones.
        rows = min(max(edge, pixels // width), longest, max(highest, SMALLEST_TILE))
        columns = min(max(edge, pixels // min(rows, height)), longest)
        return even_tile(height, rows, overlap), even_tile(width, columns, overlap)

    def _smaller(self, shape: tuple[int, int], overlap: int) -> tuple[int, int]:
        """``shape`` with its longer side halved; later images begin with no more pixels."""
        if self.device.type in ("cuda", "xpu"):
            torch.get_device_module(self.device).empty_cache()
        height, width = shape
        # Large enough for the plan not to make it larger again.
        least = overlap + max(overlap // 2 + 1, 2 * self.needs.grid - 1)
        half = max(max(shape) // 2, SMALLEST_TILE, least)
        if half >= max(shape):
            raise SrupliftError(
                f"{self.device} is out of memory, even for a tile of {width}x{height} pixels"
            )
        smaller = (half, width) if height >= width else (height, half)
        _WORKED[self._key] = smaller[0] * smaller[1]
        return smaller

    @functools.cached_property
    def tuning_key(self) -> str:
        """What a measured tile is kept under."""
        return tuning_key(self.device, self._name, self.scale, self.precision)

    @functools.cached_property
    def tuned_tile(self) -> int | None:
        """LR pixels of the tile that ``sruplift bench --tiles`` found to be the fastest here."""
        return tuned_tile(self.tuning_key)

    @property
    def compiled(self) -> bool:
        """Whether the network, or its convolutions, have been compiled."""
        return self._network.compiled is not None or self.kernels is not None

    def compute(
        self, x: Tensor, frame: Frame | None = None, precision: str | None = None
    ) -> Tensor:
        """The network on its device, without what surrounds it: for measurements.

        An autocast that the caller has on does not reach it.

        Args:
            x: (B, 3, h, w) float32 on the device, channels last.
            frame: as in ``run``.
            precision: "fp32", "bf16" or "fp16"; None is the engine's.

        Returns:
            (B, 3, h * scale, w * scale) float32 on the device, not clamped.

        Raises:
            UsageError: the network gives something else.
        """
        precision = precision or self.precision
        kind, lower = self.device.type, precision != "fp32"
        exact = full_float32() if kind == "cuda" and not lower else contextlib.nullcontext()
        arithmetic = torch.autocast(kind, DTYPES[precision] if lower else None, enabled=lower)
        with torch.inference_mode(), arithmetic, exact:
            sr = self._network(*((x, frame) if self.needs.frame else (x,)))
        shape = (*x.shape[:2], *(side * self.scale for side in x.shape[2:]))
        if not isinstance(sr, Tensor) or sr.shape != shape:
            given = tuple(sr.shape) if isinstance(sr, Tensor) else type(sr).__name__
            raise UsageError(
                f"the network makes {given} of {tuple(x.shape)}: for scale {self.scale} it has to"
                f" be {shape}"
            )
        return sr.float()


def _with_kernels(model: nn.Module, precision: str, mode: str) -> tuple[nn.Module, Kernels | None]:
    """A rewritten network with kernels of our own, and those, if it gains by them here."""
    half = precision != "fp32"
    if half and (mode == "off" or not has_programs(model) or not cpu_gains_by_programs()):
        return model, None
    kernels = find_kernels(mode)
    if kernels is None or (half and not kernels.multiplies_half):
        return model, None
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # as ``fused`` does
        made = in_programs(model, Arithmetic(kernels, half)) if has_programs(model) else model
        if made is model and not half:
            made = with_kernels(model, kernels)
    return made, None if half and made is model else kernels


def find_kernels(mode: str) -> Kernels | None:
    """``load_kernels`` in our cache; "auto" finds none without a compiler, "off" in no case.

    Where there is no cache, or none that code may be run from, a folder for temporary files serves.

    Raises:
        CompilerError: with "on", if they cannot be had.
    """
    if mode not in ("auto", "on"):
        return None
    found = _load_kernels()
    if isinstance(found, Kernels):
        return found
    if mode == "on":
        raise found
    return None


@functools.cache
def _load_kernels() -> Kernels | CompilerError:
    """The kernels, or why there are none: a compiler that fails is asked once."""
    try:
        return load_kernels(_compiled_folder())
    except CompiledFolderError as error:
        try:
            return load_kernels(private_folder())
        except CompiledFolderError:
            return error
        except CompilerError as other:
            return other
    except CompilerError as error:
        return error


def _compiled_folder() -> Path:
    try:
        return cache_folder("compiled")
    except OSError as error:  # there is no home for a cache
        text = f"compiled code cannot be kept: {error.strerror or error}"
        raise CompiledFolderError(text) from error


def choose_device(name: str) -> torch.device:
    """The device that ``name`` means: "auto" is CUDA where there is one, else XPU, MPS, the CPU.

    Raises:
        UsageError: not a device, or one that this machine or this PyTorch does not have.
    """
    if name == "auto":
        return torch.device(next(filter(_is_present, ("cuda", "xpu", "mps")), "cpu"))
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in LARGEST_TILE:
        raise UsageError(unknown_name("device", name, ("auto", *DEVICES)))
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name!r} is not available: PyTorch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices"
        )
    if device.type in ("mps", "xpu") and not _is_present(device.type):
        raise UsageError(f"device {name!r} is not available on this machine")
    return torch.device("cpu") if device.type == "cpu" else device


def _is_present(device_type: str) -> bool:
    backend = torch.backends.mps if device_type == "mps" else torch.get_device_module(device_type)
    return bool(backend.is_available())


def choose_precision(name: str, device: torch.device) -> str:
    """ "fp32", "bf16" or "fp16" for ``name`` on ``device``.

    Raises:
        UsageError: an unknown precision, or one that the device cannot compute.
    """
    if name not in PRECISIONS:
        raise UsageError(unknown_name("precision", name, PRECISIONS))
    if name == "fp16" and device.type == "cpu":
        raise UsageError("precision 'fp16' needs a GPU; on a CPU use 'bf16' or 'fp32'")
    if name != "auto":
        return name
    if device.type in ("cuda", "xpu"):
        # Three bits more than bf16, which pictures need; what overflows runs again in fp32.
        return "fp16"
    return "bf16" if device.type == "cpu" and cpu_computes_bf16() else "fp32"


def cpu_computes_bf16() -> bool:
    """Whether this CPU computes in bf16 and PyTorch lets it; oneDNN alone also emulates, slowly."""
    if not torch._C._has_mkldnn or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return not _cpu_capabilities().isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))


def cpu_gains_by_programs() -> bool:
    """Whether this CPU multiplies bf16 in vectors, and has no unit for matrices.

    That has many times a vector's rate, and PyTorch's convolutions use it.
    """
    found = _cpu_capabilities()
    return "avx512_bf16" in found and "amx_bf16" not in found


def _cpu_capabilities() -> set[str]:
    """The names of what this CPU can do, among others."""
    if hasattr(torch.cpu, "get_capabilities"):
        return {name for name, there in torch.cpu.get_capabilities().items() if there}
    try:
        return set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return set()


def largest_tile(
    device: torch.device,
    precision: str,
    scale: int,
    memory: float = 1.0,
    fastest: int | None = None,
) -> int:
    """How many LR pixels a tile may have on ``device``, by speed and by the memory left now.

    ``memory`` is as in ``InputNeeds``, ``fastest`` what was measured, if it was.
    """
    cost = _bytes_per_pixel(precision, scale, memory)
    pixels = int(available_memory(device) * MEMORY_SHARE / in_flight(device) / cost)
    most = LARGEST_KEPT_TILE if device.type == "cpu" and is_kept() else LARGEST_TILE[device.type]
    return max(min(pixels, fastest or most), SMALLEST_TILE**2)


def bytes_per_pixel(engine: Engine) -> float:
    """About how many bytes an engine's network takes for each LR pixel of a tile."""
    return _bytes_per_pixel(engine.precision, engine.scale, engine.needs.memory)


def _bytes_per_pixel(precision: str, scale: int, memory: float) -> float:
    cost = memory * (BYTES_PER_LR_PIXEL + BYTES_PER_OUTPUT_PIXEL * scale**2)
    return cost if precision == "fp32" else cost * HALF_PRECISION_SHARE


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is a device's or the main memory's refusal to give more memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        words in text for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def _failure(lr: Tensor, sr: Tensor) -> str | None:
    """Why ``sr`` cannot be a picture of ``lr``, if so."""
    low, high = (float(value) for value in sr.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        return "the network returned NaN or infinity"
    if high < BLACK and float(lr.mean()) > 10 * BLACK:
        return "the network returned black"
    return None


def _counted(
    fn: TileFunction, total: int, started: float, progress: Callable[[float], None] | None
) -> TileFunction:
    """``fn`` that reports its progress: the share ``started`` is done before the first call."""
    if progress is None:
        return fn
    calls = 0
    one_by_one = threading.Lock()

    def run(tile: Tensor, at: tuple[int, int]) -> Tensor:
        nonlocal calls
        result = fn(tile, at)
        with one_by_one:
            calls += 1
            progress(started + (1 - started) * min(calls / total, 1.0))
        return result

    return run
