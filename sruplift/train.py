"""Training, from scratch or from weights that exist, in one process or in many.

The released weights were made by this module with the configs in ``sruplift/configs``.
"""

from __future__ import annotations

import itertools
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from sruplift.checkpoint import (
    Checkpoint,
    load_checkpoint,
    restore_rng,
    rng_state,
    save_checkpoint,
)
from sruplift.config import TrainConfig, build_config
from sruplift.data import fingerprints
from sruplift.engine import choose_precision, find_kernels
from sruplift.errors import ConfigError, NumericalError, SrupliftWarning
from sruplift.kernels import TrainingKernels
from sruplift.loader import Patches, Validation, split_files
from sruplift.multiscale import by_scale
from sruplift.processes import Processes, is_first, watch
from sruplift.recipe import (
    build_network,
    build_optimizer,
    imported_from,
    is_hopeless,
    learning_rate,
    loss_of,
)
from sruplift.runlog import LogRow, RunLog, Window, only_run_in
from sruplift.teaching import Answers, Teacher
from sruplift.weights import save_weights

# Seconds that processes wait for each other. Apart from writing a checkpoint, they do the same
# things at the same time; what differs most is how fast their machines read images at the start.
PATIENCE = 600.0
_BEGIN_ANOTHER = "begin another run with its weights (--set init=RUN/last.safetensors)"


@dataclass(frozen=True)
class TrainResult:
    """How a run ended: ``finished``, ``time`` (max_minutes), ``signal`` or ``interrupt``.

    ``weights`` is the best file, or the folder of those of several scales. Of several processes
    all get the same.
    """

    reason: str
    iteration: int
    best_psnr: float
    best_iteration: int
    weights: Path


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    max_minutes: float | None = None,
    patience: float = PATIENCE,
    on_row: Callable[[LogRow], None] = lambda _: None,
    on_answer: Callable[[int, int], None] = lambda *_: None,
) -> TrainResult:
    """Train as ``config`` says; weights, checkpoint and log go to the folder ``out``.

    ``best.safetensors`` and ``last.safetensors`` hold the averaged weights (EMA) in float32, of
    several scales ``best_x2.safetensors`` and so on; ``checkpoint.pt`` all that ``resume`` needs,
    ``log.csv`` the history.

    In the main thread SIGTERM and a first Ctrl-C end it early: what has been done is saved.

    In each of several processes that a launcher started, it is that process's part of the run. The
    first one alone reads and writes ``out`` and calls ``on_row``. All wait for each other, for
    ``patience`` seconds at most. ``on_answer`` is told how many images, of how many, a teacher has
    answered that is asked before the first iteration.

    Raises:
        ConfigError: unknown model or scale, no training data, ``resume`` with another config.
        CompilerError: ``kernels`` is "on", and they cannot be had.
        DatasetError: a folder without usable images.
        NumericalError: the loss is not finite any more, or the network makes no pictures any more.
        UsageError: ``init`` or the teacher names released weights that there cannot be.
        WeightsError: there is no checkpoint to resume, or it, ``init`` or the teacher is damaged.
        LostProcessError: another process ended, or did not answer in time.
    """
    with _stop_on_signals() as stop, watch(patience), ExitStack() as held:
        held.callback(restore_rng, rng_state())  # The caller's generator is not to go on by ours.
        trainer = Trainer(config, Path(out), held, resume=resume, patience=patience)
        return trainer.run(stop, max_minutes, on_row, on_answer)


class Trainer:
    """One process's part of a run; alone it is all of it. ``held`` keeps ``out`` for this run."""

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        held: ExitStack,
        *,
        resume: bool = False,
        patience: float = PATIENCE,
    ) -> None:
        self.config = config
        self.out = out
        # An iteration of several scales leaves the last layers of all but one without a gradient.
        self.processes = Processes(patience, idle_parameters=bool(config.scales))
        self.device = self.processes.device
        self.main = self.processes.main
        self.iteration = self.samples = self.best_iteration = 0
        self.best_psnr = -math.inf
        self.seconds = 0.0
        checkpoint: Checkpoint | None = None
        with self.processes.together():
            # What cannot begin leaves no folder behind.
            if resume and self.main:
                checkpoint = load_checkpoint(out / "checkpoint.pt")
            self.precision = _precision(config.precision, self.device)
            self.kernels = self._find_kernels()
            self.imported_from = "" if resume else imported_from(config)
            torch.manual_seed(config.seed)
            # A run that goes on has its weights; what it began with may be gone.
            network = build_network(config.model_copy(update={"init": None}) if resume else config)
            self.teacher = (
                Teacher(config, self.device, self.precision) if config.teacher is not None else None
            )
            precompute = config.teacher is not None and config.teacher.precompute
            if precompute and self.processes.count > 1:
                raise ConfigError("teacher.precompute is for one process")
            self.asked_before = self.teacher if precompute else None
            self.asked_always = None if precompute else self.teacher
            self._load_images()
            if self.main:
                _require_folder(out)
                held.enter_context(only_run_in(out))
                self.log = RunLog(out, config.scales)
        self._require_same_files()
        checkpoint = self.processes.share(checkpoint)
        with self.processes.together():
            if checkpoint is not None:
                # First of all: the weights decide what the optimizer does with them.
                _require_same_run(config, checkpoint.config)
                self._require_images_of(checkpoint)
                network.load_state_dict(checkpoint.model)
            self._place(network)
            if checkpoint is not None:
                self._restore(checkpoint)
            elif self.main:
                self._start_afresh()
        self.parallel = self.processes.parallel(self.network)
        self.forward = torch.compile(self.parallel) if config.compile else self.parallel

    def _find_kernels(self) -> TrainingKernels | None:
        plain = self.device.type == "cpu" and self.precision == "fp32" and not self.config.compile
        found = find_kernels(self.config.kernels) if plain else None
        return TrainingKernels(found) if found is not None else None

    def _load_images(self) -> None:
        """This process's share of both kinds."""
        config, processes = self.config, self.processes
        files, validation_files = split_files(config)
        share = (self.device, processes.rank, processes.count)
        self.patches = Patches(config, files, *share, processes.neighbours)
        self.validation = Validation(config, validation_files, *share)
        self.fingerprint, self.order = fingerprints(files)
        if self.main and (small := len(files) - len(self.patches.files)):
            edge = max(config.patch_sizes) * max(config.every_scale)
            warnings.warn(
                f"{small} of {len(files)} training images are smaller than {edge}x{edge} pixels"
                " (patch_size * scale) and not used",
                SrupliftWarning,
                stacklevel=2,
            )

    def _require_same_files(self) -> None:
        """Samples are told by the number of their image: it must be the same one everywhere."""
        taught = self.teacher.fingerprint if self.teacher is not None else ""
        seen = (self.fingerprint, [file.name for file in self.patches.files]), taught
        for number, what in enumerate(("training images", "weights of their teacher")):
            if any(other[number] != seen[number] for other in self.processes.gather(seen)):
                error = ConfigError(
                    f"the processes of this run see different {what}: each machine needs the same"
                    " files under the same names"
                )
                raise self.processes.said_by(0, error)

    def _require_images_of(self, checkpoint: Checkpoint) -> None:
        if checkpoint.fingerprint not in ("", self.fingerprint):
            raise ConfigError(f"the run to resume has seen other training images: {_BEGIN_ANOTHER}")
        if checkpoint.order not in ("", self.order):
            raise ConfigError(
                "the run to resume has seen the same training images in another order: name the"
                " folders of --data, and the files, as they were"
            )
        if checkpoint.validation not in ("", self.validation.fingerprint):
            raise ConfigError(
                "the run to resume was validated on other images, with which its best PSNR cannot"
                f" be compared: {_BEGIN_ANOTHER}"
            )
        if self.teacher is not None and checkpoint.teacher != self.teacher.fingerprint:
            raise ConfigError(
                f"the run to resume had a teacher with other weights: {_BEGIN_ANOTHER}"
            )

    def _place(self, network: nn.Module) -> None:
        """Put the network, its average and the optimizer on the device."""
        for member in by_scale(network).values():
            member.prepare_training()
        self.ema = deepcopy(network).to(self.device).requires_grad_(False).eval()
        self.network = network.to(self.device)
        if self.config.channels_last:
            for module in (self.network, self.ema):
                nn.utils.convert_conv2d_weight_memory_format(module, torch.channels_last)
        self.optimizer = build_optimizer(self.config, self.network)

    def run(
        self,
        stop: Stop,
        max_minutes: float | None,
        on_row: Callable[[LogRow], None],
        on_answer: Callable[[int, int], None],
    ) -> TrainResult:
        """Iterate to the end, or until ``stop`` is set or ``max_minutes`` are over."""
        ends = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
        config, reason = self.config, "finished"
        if self.asked_before is not None and self.iteration < config.iterations:
            self._ask(self.asked_before, stop, ends, on_answer)
        window = Window()
        with closing(self.patches.batches(self.iteration, self.samples)) as batches:
            while self.iteration < config.iterations:
                # Processes must all stop at the same iteration.
                signals, late = self.processes.total(stop.is_set(), time.monotonic() > ends)
                if signals or late:
                    reason = stop.reason if signals else "time"
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

    def _ask(
        self, teacher: Teacher, stop: Stop, ends: float, on_answer: Callable[[int, int], None]
    ) -> None:
        """Have patches compared with what ``teacher`` makes of whole images."""
        config, cache, files = self.config, self.patches.cache, self.patches.files
        assert config.teacher is not None
        assert cache is not None
        if not self.iteration:
            self._save()  # What ends all of a sudden can go on, too.
        began, total = time.monotonic(), len(files)
        ensemble, order = config.teacher.self_ensemble, fingerprints(files)[1]

        def look() -> None:
            if stop.is_set() or time.monotonic() > ends:
                raise _NoTimeError

        try:
            for place, scale in enumerate(config.every_scale):
                file, sizes = self.out / f"teacher_x{scale}.bin", cache.target_sizes(scale)
                question = (scale, teacher.sha256[scale], ensemble, self.precision, order)
                with closing(Answers(file, question, sizes)) as answers:
                    for number, name in enumerate(files):
                        look()
                        answer = answers.read()
                        if answer is None:
                            try:
                                answer = teacher.answer(cache.lr(number, scale), scale, look)
                            except NumericalError as error:
                                raise NumericalError(f"the teacher, of {name}: {error}") from error
                            answers.write(answer)
                        cache.teach(number, scale, answer, config.teacher.share)
                        on_answer(place * total + number + 1, len(config.every_scale) * total)
        except _NoTimeError:
            pass  # The iterations look at once, too.
        self.seconds += time.monotonic() - began

    def _step(self, lr: Tensor, hr: Tensor, rate: float) -> Tensor:
        config = self.config
        base = config.optimizer.learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate / base
        if config.channels_last:
            lr = lr.contiguous(memory_format=torch.channels_last)
        self.optimizer.zero_grad()
        loss = self._gradients(lr, hr)
        if config.optimizer.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), config.optimizer.clip_norm)
        self.optimizer.step()
        # A young average follows the weights closely, or the start would stay in it for long.
        decay = min(config.ema_decay, (1 + self.iteration) / (10 + self.iteration))
        with torch.no_grad():
            averages: list[Tensor] = list(self.ema.parameters())
            weights: list[Tensor] = list(self.network.parameters())
            torch._foreach_lerp_(averages, weights, 1 - decay)
        return loss

    def _gradients(self, lr: Tensor, hr: Tensor) -> Tensor:
        """Those of the mean loss, which is returned: of a batch in parts, and of all processes."""
        config, parts = self.config, self.config.data.accumulate
        name = config.stage_at(self.iteration).loss or config.loss
        scale = (hr.shape[-1] // lr.shape[-1],) if config.scales else ()
        losses = []
        for number, pair in enumerate(zip(lr.chunk(parts), hr.chunk(parts), strict=True), 1):
            teacher = self.asked_always
            target = teacher.targets(*pair) if teacher is not None else pair[1]
            # Processes exchange gradients once a batch, with its last part.
            waits = nullcontext() if number == parts else self.processes.apart(self.parallel)
            with waits:
                with self._arithmetic():
                    sr = self.forward(pair[0], *scale)
                loss = loss_of(name, sr.float(), target, config.luma) / parts
                self.processes.backward(loss)
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _bookkeeping(self, window: Window, rate: float, on_row: Callable[[LogRow], None]) -> None:
        config, iteration = self.config, self.iteration
        last = iteration == config.iterations
        due = last or iteration % config.validate_every == 0
        values = self._validate() if due else {}
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
        with self._arithmetic():
            networks = by_scale(self.ema).items()
            sums = {scale: sum(self.validation.psnr(net, scale)) for scale, net in networks}
        totals = self.processes.total(*sums.values())
        values = {
            scale: total / self.validation.count for scale, total in zip(sums, totals, strict=True)
        }
        mean = fmean(values.values())
        if mean > self.best_psnr:
            self.best_psnr, self.best_iteration = mean, self.iteration
            if self.main:
                self._save_weights("best", values)
        self.seconds += time.monotonic() - began
        return values

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """What the network computes with."""
        half = self.precision == "bf16"
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(self.device.type, torch.bfloat16, enabled=half))
            if self.kernels is not None:
                stack.enter_context(self.kernels)
            yield

    def _log_row(self, window: Window, rate: float, values: dict[int, float]) -> LogRow:
        loss = self.processes.total(window.loss)[0] / self.processes.count
        stage = self.config.stage_at(self.iteration - 1)
        # What comes first may be wild, and a mean of two losses is none.
        before = self.config.stage_at(max(0, self.iteration - self.config.log_every))
        settled = self.iteration > max(self.config.log_every, self.config.optimizer.warmup)
        settled &= before.loss == stage.loss
        if not math.isfinite(loss) or (settled and is_hopeless(stage.loss or "", loss)):
            error = NumericalError(
                f"the loss is {loss:.6g} at iteration {self.iteration}, that of no picture: lower"
                " the learning rate, or clip gradients (optimizer.clip_norm), and start again"
            )
            raise self.processes.said_by(0, error)
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
        kinds = itertools.product(("best", "last"), self.config.every_scale)
        there = [file for kind in kinds if (file := self._weights_file(*kind)).exists()]
        there += [self.log.path] if self.log.holds_something else []
        if there:
            raise ConfigError(
                f"{self.out} holds {there[0].name}, which this run would replace: name another"
                " --out"
            )
        self.log.start()

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.iteration, self.samples = checkpoint.iteration, checkpoint.samples
        self.seconds = checkpoint.seconds
        if checkpoint.imported_from is not None:
            self.imported_from = checkpoint.imported_from
        if checkpoint.validation or not self.config.data.validation_images:
            self.best_psnr, self.best_iteration = checkpoint.best_psnr, checkpoint.best_iteration
        elif self.main:
            warnings.warn(
                "the run to resume does not say which images it was validated on: its best PSNR is"
                " counted afresh",
                SrupliftWarning,
                stacklevel=2,
            )
        self.ema.load_state_dict(checkpoint.ema)
        try:
            self.optimizer.load_state_dict(checkpoint.optimizer)
        except ValueError as error:
            raise ConfigError(
                "the run to resume is of a version of sruplift that grouped parameters otherwise:"
                f" {_BEGIN_ANOTHER}"
            ) from error
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
            fingerprint=self.fingerprint,
            order=self.order,
            validation=self.validation.fingerprint,
            teacher=self.teacher.fingerprint if self.teacher is not None else "",
            imported_from=self.imported_from,
        )
        save_checkpoint(self.out / "checkpoint.pt", checkpoint)

    def _finish(self) -> None:
        if self.main:
            self._save()
            self._save_weights("last", {})
        self.processes.wait()

    def _weights_file(self, name: str, scale: int) -> Path:
        return self.out / f"{name}{f'_x{scale}' if self.config.scales else ''}.safetensors"

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
            "processes": self.processes.count,
        }
        if config.teacher is not None:
            taught = {"teacher": ", ".join(config.teacher.weights)}
            metadata |= {**taught, "teacher_share": config.teacher.share}
            # How it was asked, where that is not the usual way.
            for way in ("self_ensemble", "precompute"):
                if getattr(config.teacher, way):
                    metadata[f"teacher_{way}"] = "yes"
        if self.teacher is not None:
            metadata["teacher_sha256"] = self.teacher.fingerprint
        if self.imported_from:
            metadata["imported_from"] = self.imported_from
        for scale, network in by_scale(self.ema).items():
            value = f"{values[scale]:.4f}" if values else ""
            save_weights(
                self._weights_file(name, scale),
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
    """A resumed run may change where data lies, what convolves it and what is said when.

    What is trained it may not.
    """
    # Built again: keys that are younger than the checkpoint get their defaults.
    now, then = (c.model_dump(mode="json") for c in (config, build_config(before)))
    for key in now:
        if key in ("kernels", "validate_every", "log_every", "checkpoint_every"):
            continue
        if key == "data":
            cut = ("patch_size", "batch_size", "places", "recolored", "noisy")
            same = all(now[key][k] == then[key][k] for k in cut)
        elif key == "teacher" and now[key] and then[key]:
            # Its weights are known by their content.
            same = {**now[key], "weights": ""} == {**then[key], "weights": ""}
        else:
            same = now[key] == then[key]
        if not same:
            raise ConfigError(
                f"the run to resume has another {key!r}: {then[key]!r}; to train with other"
                f" settings, {_BEGIN_ANOTHER}"
            )


class _NoTimeError(Exception):
    """The run is to end before its teacher has answered."""


class Stop(threading.Event):
    """Set by a signal, after which the run is saved and ends."""

    reason = "signal"


@contextmanager
def _stop_on_signals() -> Iterator[Stop]:
    """What SIGTERM and a first Ctrl-C set, in the main thread; elsewhere nobody can send them."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if stop.is_set():
                raise KeyboardInterrupt
            stop.reason = "interrupt"
            if is_first():
                os.write(2, b"sruplift: saving; Ctrl-C again ends it without\n")
        stop.set()

    before = {each: signal.signal(each, handle) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
