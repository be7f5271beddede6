"""Perceptual metrics (LPIPS, DISTS, NIQE, ...) by pyiqa, an extra: ``sruplift[perceptual]``.

pyiqa expects RGB, floating point in [0, 1], (N, 3, H, W): SR and the reference for a metric with
reference (``metric_mode`` "FR"), SR alone for one without ("NR"). Its networks' weights are
downloaded by pyiqa on first use. Source: https://github.com/chaofengc/IQA-PyTorch.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sruplift.errors import NumericalError, SrupliftError, UsageError


@dataclass(frozen=True)
class PerceptualMetric:
    """A metric's name in pyiqa, and whether less of it is better."""

    name: str
    lower_is_better: bool


class Perceptual:
    """Metrics that are ready to measure on ``device``.

    Raises:
        UsageError: pyiqa is not installed, cannot be imported or has no such metric.
        SrupliftError: pyiqa cannot make a metric ready, most often for want of its weights.
    """

    def __init__(self, names: Sequence[str], device: str = "cpu") -> None:
        pyiqa = _import_pyiqa()
        self.version = str(getattr(pyiqa, "__version__", "unknown"))
        self.device = torch.device(device)
        self._metrics = {name: self._create(pyiqa, name) for name in dict.fromkeys(names)}
        self.metrics = tuple(
            PerceptualMetric(name, bool(metric.lower_better))
            for name, metric in self._metrics.items()
        )

    def _create(self, pyiqa: Any, name: str) -> Any:
        _check_name(name, pyiqa.list_models())
        try:
            with _quiet_stdout():
                return pyiqa.create_metric(name, device=self.device)
        # Whatever its download or its third parties' code runs into.
        except Exception as error:
            raise SrupliftError(
                f"pyiqa cannot make the metric {name} ready: {_said(error)}"
            ) from error

    def measure(self, sr: Tensor, hr: Tensor) -> dict[str, float]:
        """Every metric's value; ``sr`` and ``hr`` (1, 3, H, W), float in [0, 1], whole images.

        Raises:
            NumericalError: a metric failed, or its value is not finite.
        """
        sr, hr = sr.to(self.device), hr.to(self.device)
        return {name: _value(name, metric, sr, hr) for name, metric in self._metrics.items()}


def _value(name: str, metric: Any, sr: Tensor, hr: Tensor) -> float:
    pair = (sr, hr) if metric.metric_mode == "FR" else (sr,)
    try:
        with torch.inference_mode(), _quiet_stdout():
            value = float(metric(*pair))
    # A metric of sets of images (FID), an image too small for its network: each its own error.
    except Exception as error:
        raise NumericalError(f"the metric {name} failed: {_said(error)}") from error
    if not torch.tensor(value).isfinite():
        raise NumericalError(f"the metric {name} gave {value}")
    return value


def _import_pyiqa() -> Any:
    try:
        return importlib.import_module("pyiqa")
    except ImportError as error:
        raise UsageError(
            "perceptual metrics need pyiqa: pip install 'sruplift[perceptual]'"
            + ("" if error.name == "pyiqa" else f" ({error})")
        ) from error
    # torchvision of another build than torch, a library that the system lacks.
    except Exception as error:
        raise UsageError(f"pyiqa is installed but cannot be imported: {_said(error)}") from error


def _check_name(name: str, valid: Sequence[str]) -> None:
    """There are more than a hundred: too many to list."""
    if name in valid:
        return
    close = difflib.get_close_matches(name, valid, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise UsageError(f"pyiqa has no metric {name!r}{hint} (pyiqa.list_models() lists them)")


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """pyiqa prints what it loads, on stdout, which carries data only."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _said(error: Exception) -> str:
    """What an error of somebody else's code says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
