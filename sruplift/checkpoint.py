"""Resumable training state. Not weights: those are what `weights.py` saves and loads."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sruplift.errors import WeightsError
from sruplift.manifest import write_atomically

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the next iteration depends on."""

    iteration: int
    """Iterations done."""
    samples: int
    """Patches drawn so far."""
    seconds: float
    """Time spent training, over all runs."""
    config: dict[str, Any]
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Any]
    rng: dict[str, Any]
    """State of torch's generators: ``cpu`` and, on a GPU, ``cuda``."""
    best_psnr: float
    best_iteration: int
    fingerprint: str = ""
    """Of the training images; empty in checkpoints that are older than this field."""
    order: str = ""
    """Of the training images in their order, which samples are told by; likewise."""
    validation: str = ""
    """Of the images that it is validated on; likewise."""
    teacher: str = ""
    """Of the teacher's weights, if the run has one."""
    imported_from: str | None = None
    """Which of others' weights the run began with or is taught by; "" if none, None in checkpoints
    that are older than this field."""


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in one step: a crash leaves the one before."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **vars(checkpoint)}, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint that ``save_checkpoint`` wrote.

    Raises:
        WeightsError: there is none, or it is damaged or of another version.
    """
    if not path.is_file():
        raise WeightsError(f"there is no checkpoint to resume from: {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            if (part := archive.testzip()) is not None:  # PyTorch does not look at its sums
                raise WeightsError(f"checkpoint {path} is damaged: {part}")
        values = torch.load(path, map_location=device, weights_only=True)
        version = values.pop("format")
        if version != FORMAT:
            raise WeightsError(f"checkpoint {path} has format {version}, not {FORMAT}")
        return Checkpoint(**values)
    except WeightsError:
        raise
    # A damaged pickle can fail in any way that Python can, and PyTorch's words about it mislead.
    except Exception as error:
        problem = getattr(error, "strerror", None) or type(error).__name__
        raise WeightsError(f"checkpoint {path} is damaged: {problem}") from error


def rng_state() -> dict[str, Any]:
    """The state of torch's global generators."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_rng(state: dict[str, Any]) -> None:
    """Put back what ``rng_state`` returned."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        # The run may have been on a machine with more GPUs.
        states = state["cuda"][: torch.cuda.device_count()]
        torch.cuda.set_rng_state_all([s.cpu() for s in states])
