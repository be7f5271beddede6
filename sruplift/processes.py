"""The processes of a training run: one alone, or several that a launcher started on any machines.

A launcher (``accelerate launch``, ``torchrun``) starts the same command several times and tells
each by environment variables who it is. Accelerate reads them, connects the processes and averages
their gradients; here is what else they must agree on, and what becomes of one that is lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from sruplift.errors import ConfigError, LostProcessError, SrupliftError

T = TypeVar("T")
# What launchers call a process's number, in the order in which Accelerate asks.
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


class Processes:
    """This process and the others of its run."""

    def __init__(self, patience: float, *, idle_parameters: bool = False) -> None:
        """Connects to the others, if a launcher says that there are any.

        Args:
            patience: seconds that the others may keep this one waiting.
            idle_parameters: an iteration may leave some parameters without a gradient.

        Raises:
            ConfigError: they cannot be connected.
        """
        started = _from_environment(("WORLD_SIZE",), 1)
        gradients = DistributedDataParallelKwargs(find_unused_parameters=idle_parameters)
        connection = InitProcessGroupKwargs(timeout=timedelta(seconds=patience))
        try:
            self.accelerator = Accelerator(
                # Its own mixed precision is set once a process; ours differs from run to run.
                mixed_precision="no",
                # Without a GPU it has to be told, or each process would train by itself.
                cpu=started > 1 and not _has_gpu(),
                kwargs_handlers=[gradients, connection],
            )
        except ValueError as error:
            if "already been initialized" not in str(error):
                raise ConfigError(f"the processes cannot be connected: {error}") from error
            raise ConfigError(
                "this process has an Accelerator of other settings already, and there can be but"
                f" one: train in another process ({error})"
            ) from error
        self.device: torch.device = self.accelerator.device
        self.count: int = self.accelerator.num_processes
        self.rank: int = self.accelerator.process_index
        if self.count < started:
            raise ConfigError(
                f"the launcher started {started} processes, which Accelerate does not connect on"
                f" {self.device.type}: start one"
            )

    @property
    def main(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    @property
    def neighbours(self) -> int:
        """How many processes share this machine's memory, this one included."""
        return min(_from_environment(("LOCAL_WORLD_SIZE",), self.count), self.count)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What a process cannot do, none does: all raise the error, the first of them says it."""
        error: SrupliftError | None = None
        try:
            yield
        except SrupliftError as found:
            error = found
        errors = self.gather(error)
        rank, first = next(((n, e) for n, e in enumerate(errors) if e is not None), (0, None))
        if first is not None:
            raise self.said_by(rank, error if error is not None and rank == self.rank else first)

    def said_by(self, rank: int, error: SrupliftError) -> SrupliftError:
        """``error``, which every process raises, marked so that only ``rank`` prints it."""
        error.said_elsewhere = rank != self.rank
        return error

    def gather(self, value: T) -> list[T]:
        """Every process's ``value``, in their order."""
        return list(gather_object([value]))

    def share(self, value: T) -> T:
        """The first process's ``value``, in all."""
        if self.count == 1:
            return value
        values = [value]
        broadcast_object_list(values)
        return values[0]

    def total(self, *values: float) -> list[float]:
        """The sums of the processes' numbers."""
        if self.count == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64, device=self.device)
        sums: Tensor = self.accelerator.reduce(numbers)
        return sums.tolist()

    def parallel(self, network: nn.Module) -> nn.Module:
        """``network``, with gradients that ``backward`` averages over the processes."""
        return self.accelerator.prepare(network)

    def backward(self, loss: Tensor) -> None:
        """Gradients of ``loss``, averaged over the processes."""
        self.accelerator.backward(loss)

    def apart(self, network: nn.Module) -> AbstractContextManager[None]:
        """While it lasts, the ``parallel`` network's gradients add up here and are not averaged."""
        return self.accelerator.no_sync(network)

    def wait(self) -> None:
        """Until all are here."""
        self.accelerator.wait_for_everyone()


@contextmanager
def watch(patience: float) -> Iterator[None]:
    """Around a run: a process that is lost, or slower than ``patience``, is told in a sentence.

    Raises:
        LostProcessError: an exchange with another process failed, whichever it was.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        late = "timed out" in str(error).lower()
        what = f"did not answer for {patience:g} seconds (--patience)" if late else "was lost"
        raise LostProcessError(
            f"another process of this run {what}: start all of them again with --resume"
        ) from error


def is_first() -> bool:
    """Whether this process is the one that speaks; known before any connection is made."""
    return _from_environment(RANKS, 0) == 0


def _from_environment(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name)), default)


def _has_gpu() -> bool:
    """One through which processes can connect."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return device is not None and device.type != "mps"


def _is_lost(error: RuntimeError) -> bool:
    # Gloo, which connects CPUs, raises no error of its own: its messages begin with its file names.
    return isinstance(error, torch.distributed.DistError) or "/gloo/" in str(error)
