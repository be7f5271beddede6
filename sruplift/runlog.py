"""The history of a training run: a CSV file always, TensorBoard when it is installed."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from sruplift.errors import ConfigError
from sruplift.manifest import write_atomically


@dataclass(frozen=True)
class LogRow:
    """A line of ``log.csv``: means over the iterations since the line before, or since a resume."""

    iteration: int
    loss: float
    learning_rate: float
    patch_size: int
    batch_size: int
    iterations_per_second: float
    seconds: float
    """Time spent training, over all runs."""
    val_psnr: float | None
    """dB, on the iterations that validate; of several scales their mean."""
    val_psnr_of: dict[int, float] = field(default_factory=dict)
    """The PSNR of each scale, where there are several: columns ``val_psnr_x2`` and so on."""


COLUMNS = [each.name for each in fields(LogRow) if each.name != "val_psnr_of"]


class RunLog:
    """Writes rows to ``folder``; one process does."""

    def __init__(self, folder: Path, scales: Iterable[int] = ()) -> None:
        """``scales``: several that are trained together."""
        self.path = folder / "log.csv"
        self.scales = tuple(scales)
        self._board = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"))

    def start(self) -> None:
        """Begin an empty log."""
        names = (*COLUMNS, *(f"val_psnr_x{scale}" for scale in self.scales))
        self._replace([names])

    @property
    def holds_something(self) -> bool:
        """Whether there are lines of another run, or of something else."""
        try:
            return len(self.path.read_bytes().splitlines()) > 1
        except OSError:
            return False

    def cut(self, iteration: int) -> None:
        """Drop the lines after ``iteration``: a resumed run writes them again."""
        if not self.path.is_file():
            self.start()
            return
        try:
            with self.path.open(newline="") as file:
                header, *rows = csv.reader(file)
            kept = [row for row in rows if int(row[0]) <= iteration]
        except (OSError, ValueError, IndexError) as error:
            raise ConfigError(f"{self.path} is not the log of a run: {error}") from error
        self._replace([header, *kept])

    def _replace(self, rows: Iterable[Iterable[str]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        write_atomically(self.path, text.getvalue().encode("utf-8"))

    def write(self, row: LogRow) -> None:
        """Add a line.

        Raises:
            ConfigError: it cannot be written.
        """
        values = [getattr(row, name) for name in COLUMNS]
        values += [row.val_psnr_of.get(scale) for scale in self.scales]
        try:
            with self.path.open("a", newline="") as file:
                csv.writer(file).writerow(map(_text, values))
        except OSError as error:
            raise ConfigError(f"cannot write {self.path}: {error.strerror or error}") from error
        if self._board is not None:
            for name in ("loss", "learning_rate", "iterations_per_second", "val_psnr"):
                value = getattr(row, name)
                if value is not None:
                    self._board.add_scalar(name, value, row.iteration)
            self._board.flush()


@contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Keep ``folder`` for this run as long as it lasts, however it ends.

    Raises:
        ConfigError: another run is at work there.
    """
    lock = FileLock(folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError(
            f"another run is at work in {folder}: name another --out, or wait for its end"
        ) from error
    except (OSError, NotImplementedError):
        # There are file systems that cannot lock; whether it can be written to is said elsewhere.
        yield
        return
    try:
        yield
    finally:
        lock.release()


class Window:
    """Mean loss and speed since the last line of the log."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._began = self._last = time.monotonic()

    def add(self, loss: Tensor) -> float:
        """Take in one iteration; returns the seconds since the one before."""
        self._losses.append(loss)
        now = time.monotonic()
        passed, self._last = now - self._last, now
        return passed

    def reset(self) -> None:
        """Start the next line."""
        self._losses = []
        self._began = self._last = time.monotonic()

    @property
    def loss(self) -> float:
        """Mean loss; reading it waits for the device, so not every iteration."""
        return float(torch.stack(self._losses).mean()) if self._losses else math.nan

    @property
    def speed(self) -> float:
        """Iterations per second."""
        return len(self._losses) / max(self._last - self._began, 1e-9)


def _text(value: float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
