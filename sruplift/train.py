"""Training, from scratch or from weights that exist.

The released weights were made by this module with the configs in ``sruplift/configs``.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from sruplift.checkpoint import (
    Checkpoint,
    load_checkpoint,
    restore_rng,
    rng_state,
    save_checkpoint,
)
from sruplift.config import TrainConfig, build_config
from sruplift.data import fingerprint
from sruplift.engine import choose_precision
from sruplift.errors import ConfigError, NumericalError
from sruplift.loader import Patches, Validation, split_files
from sruplift.multiscale import by_scale
from sruplift.recipe import build_network, build_optimizer, learning_rate, loss_of
from sruplift.runlog import LogRow, RunLog, Window
from sruplift.weights import save_weights


@dataclass(frozen=True)
class TrainResult:
    """How a run ended: ``finished``, ``time`` (max_minutes) or ``signal``.

    ``weights`` is the best file, or the folder of those of several scales.
    """

    reason: str
    iteration: int
    best_psnr: float
    best_iteration: int
    weights: Path


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    max_minutes: float | None = None,
    on_row: Callable[[LogRow], None] = lambda _: None,
) -> TrainResult:
    """Train as ``config`` says; weights, checkpoint and log go to the folder ``out``.

    ``best.safetensors`` and ``last.safetensors`` hold the averaged weights (EMA) in float32, of
    several scales ``best_x2.safetensors`` and so on; ``checkpoint.pt`` all that ``resume`` needs,
    ``log.csv`` the history.

    Raises:
        ConfigError: unknown model or scale, no training data, ``resume`` with another config.
        DatasetError: a folder without usable images.
        NumericalError: the loss is not finite any more.
    """
    with _stop_on_sigterm() as stop:
        trainer = Trainer(config, out, resume=resume)
        return trainer.run(stop, max_minutes, on_row)


class Trainer:
    """One process's part of a run. ``accelerate launch`` starts several; alone it is all of it."""

    def __init__(self, config: TrainConfig, out: Path, *, resume: bool = False) -> None:
        self.config = config
        self.out = out
        # Accelerate carries devices and processes; its own mixed precision is set once a process.
        # An iteration of several scales leaves the last layers of all but one without a gradient.
        idle = DistributedDataParallelKwargs(find_unused_parameters=bool(config.scales))
        self.accelerator = Accelerator(mixed_precision="no", kwargs_handlers=[idle])
        self.device = self.accelerator.device
        self.precision = _precision(config.precision, self.device)
        self.main = self.accelerator.is_main_process
        # What cannot begin leaves no folder behind.
        checkpoint = load_checkpoint(out / "checkpoint.pt", self.device) if resume else None
        torch.manual_seed(config.seed)
        network = build_network(config)
        files, validation_files = split_files(config)
        if self.main:
            _require_folder(out)
            self.log = RunLog(out, config.scales)
        processes = self.accelerator.num_processes
        rank = self.accelerator.process_index
        self.patches = Patches(config, files, self.device, rank, processes)
        self.validation = Validation(config, validation_files, self.device)
        self.fingerprint = fingerprint(files)

        self.iteration = self.samples = self.best_iteration = 0
        self.best_psnr = -math.inf
        self.seconds = 0.0
        self.ema = deepcopy(network).to(self.device).requires_grad_(False).eval()
        self.network = network.to(self.device)
        if config.channels_last:
            for module in (self.network, self.ema):
                nn.utils.convert_conv2d_weight_memory_format(module, torch.channels_last)
        self.optimizer = build_optimizer(config, self.network)
        if checkpoint is not None:
            self._restore(checkpoint)
        elif self.main:
            self._start_afresh()
        forward: nn.Module = self.accelerator.prepare(self.network)
        self.forward = torch.compile(forward) if config.compile else forward

    def run(
        self,
        stop: threading.Event,
        max_minutes: float | None,
        on_row: Callable[[LogRow], None],
    ) -> TrainResult:
        """Iterate to the end, or until ``stop`` is set or ``max_minutes`` are over."""
        began = time.monotonic()
        config, reason = self.config, "finished"
        window = Window()
        batches = self.patches.batches(self.iteration, self.samples)
        while self.iteration < config.iterations:
            if self._agree(stop.is_set()):
                reason = "signal"
                break
            if max_minutes and self._agree(time.monotonic() - began > max_minutes * 60):
                reason = "time"
                break
            lr, hr, count = next(batches)
            rate = learning_rate(config, self.iteration)
            loss = self._step(lr, hr, rate)
            self.iteration += 1
            self.samples += count
            self.seconds += window.add(loss)
            self._bookkeeping(window, rate, on_row)
        self._finish()
        best = "best.safetensors" if self.best_iteration else "last.safetensors"
        weights = self.out if config.scales else self.out / best
        return TrainResult(reason, self.iteration, self.best_psnr, self.best_iteration, weights)

    def _step(self, lr: Tensor, hr: Tensor, rate: float) -> Tensor:
        config = self.config
        base = config.optimizer.learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate / base
        if config.channels_last:
            lr = lr.contiguous(memory_format=torch.channels_last)
        scale = (hr.shape[-1] // lr.shape[-1],) if config.scales else ()
        with self._autocast():
            sr = self.forward(lr, *scale)
        loss = loss_of(config.stage_at(self.iteration).loss or config.loss, sr.float(), hr)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        if config.optimizer.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), config.optimizer.clip_norm)
        self.optimizer.step()
        # A young average follows the weights closely, or the start would stay in it for long.
        decay = min(config.ema_decay, (1 + self.iteration) / (10 + self.iteration))
        with torch.no_grad():
            averages: list[Tensor] = list(self.ema.parameters())
            weights: list[Tensor] = list(self.network.parameters())
            torch._foreach_lerp_(averages, weights, 1 - decay)
        return loss.detach()

    def _bookkeeping(self, window: Window, rate: float, on_row: Callable[[LogRow], None]) -> None:
        config, iteration = self.config, self.iteration
        last = iteration == config.iterations
        due = last or iteration % config.validate_every == 0
        values = self._validate() if due and self.main else {}
        logged = last or iteration % config.log_every == 0
        if logged or due:
            row = self._log_row(window, rate, values)
            if self.main:
                self.log.write(row)
                on_row(row)
            window.reset()
        if self.main and iteration % config.checkpoint_every == 0:
            self._save()

    def _validate(self) -> dict[int, float]:
        """PSNR of the averaged weights by scale; the best so far, by their mean, are kept."""
        began = time.monotonic()
        with self._autocast():
            networks = by_scale(self.ema).items()
            values = {scale: self.validation.psnr(network, scale) for scale, network in networks}
        mean = fmean(values.values())
        if mean > self.best_psnr:
            self.best_psnr, self.best_iteration = mean, self.iteration
            self._save_weights("best", values)
        self.seconds += time.monotonic() - began
        return values

    def _autocast(self) -> torch.autocast:
        enabled = self.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _agree(self, flag: bool) -> bool:
        """Whether any process says so: they must all stop at the same iteration."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.device)) > 0)

    def _log_row(self, window: Window, rate: float, values: dict[int, float]) -> LogRow:
        loss = window.loss
        if self.accelerator.num_processes > 1:
            mean = self.accelerator.reduce(torch.tensor(loss, device=self.device), "mean")
            loss = float(mean)
        if not math.isfinite(loss):
            raise NumericalError(
                f"the loss is {loss} at iteration {self.iteration}: lower the learning"
                " rate, or clip gradients (optimizer.clip_norm), and start again"
            )
        stage = self.config.stage_at(self.iteration - 1)
        return LogRow(
            iteration=self.iteration,
            loss=loss,
            learning_rate=rate,
            patch_size=stage.patch_size or 0,
            batch_size=stage.batch_size or 0,
            iterations_per_second=window.speed,
            seconds=round(self.seconds, 1),
            val_psnr=fmean(values.values()) if values else None,
            val_psnr_of=values if self.config.scales else {},
        )

    def _start_afresh(self) -> None:
        if (self.out / "checkpoint.pt").exists():
            raise ConfigError(
                f"{self.out} holds a run already: go on with --resume, or name another --out"
            )
        self.log.start()

    def _restore(self, checkpoint: Checkpoint) -> None:
        _require_same_run(self.config, checkpoint.config)
        self.iteration, self.samples = checkpoint.iteration, checkpoint.samples
        self.seconds = checkpoint.seconds
        self.best_psnr, self.best_iteration = checkpoint.best_psnr, checkpoint.best_iteration
        self.network.load_state_dict(checkpoint.model)
        self.ema.load_state_dict(checkpoint.ema)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        restore_rng(checkpoint.rng)
        if self.main:
            self.log.cut(self.iteration)

    def _save(self) -> None:
        checkpoint = Checkpoint(
            iteration=self.iteration,
            samples=self.samples,
            seconds=self.seconds,
            config=self.config.model_dump(mode="json"),
            model=self.network.state_dict(),
            ema=self.ema.state_dict(),
            optimizer=self.optimizer.state_dict(),
            rng=rng_state(),
            best_psnr=self.best_psnr,
            best_iteration=self.best_iteration,
        )
        save_checkpoint(self.out / "checkpoint.pt", checkpoint)

    def _finish(self) -> None:
        if self.main:
            self._save()
            self._save_weights("last", {})
        self.accelerator.wait_for_everyone()

    def _save_weights(self, name: str, values: dict[int, float]) -> None:
        """The averaged weights in float32, a file for each scale; ``values``: their PSNR."""
        config = self.config
        metadata = {
            "iterations": self.iteration,
            "samples": self.samples,
            "data_fingerprint": self.fingerprint,
            "init": config.init or "random",
            "seed": config.seed,
            "device": str(self.device),
            "precision": self.precision,
        }
        for scale, network in by_scale(self.ema).items():
            file = f"{name}_x{scale}.safetensors" if config.scales else f"{name}.safetensors"
            value = f"{values[scale]:.4f}" if values else ""
            save_weights(
                self.out / file,
                network.state_dict(),
                model=config.model,
                scale=scale,
                metadata={**metadata, "val_psnr": value},
                dtype=torch.float32,
            )


def _precision(wanted: str, device: torch.device) -> str:
    if wanted == "auto" and device.type == "cuda":
        # Small gradients vanish in fp16, which `upscale` prefers.
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return choose_precision(wanted, device)


def _require_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror or error}") from error


def _require_same_run(config: TrainConfig, before: dict[str, Any]) -> None:
    """A resumed run may change where data lies, not what is trained."""
    # Built again: keys that are younger than the checkpoint get their defaults.
    now, then = (c.model_dump(mode="json") for c in (config, build_config(before)))
    for key in now:
        if key == "data":
            same = all(now[key][k] == then[key][k] for k in ("patch_size", "batch_size"))
        else:
            same = now[key] == then[key]
        if not same:
            raise ConfigError(f"the run to resume has another {key!r}: {then[key]!r}")


@contextmanager
def _stop_on_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, in the main thread; elsewhere nobody can send it."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
