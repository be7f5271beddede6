"""Errors that are meant to be read by people: each message is one clear sentence.

The library raises them; the command line prints the sentence and exits with ``exit_code``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SrupliftError(Exception):
    """Anything that sruplift can explain. ``exit_code`` is what the command line exits with."""

    exit_code = 1
    said_elsewhere = False
    """Another process of the same run says it already."""


class UsageError(SrupliftError):
    """What was asked for cannot be done, whatever the input is: wrong names, values, options."""

    exit_code = 2


class ConfigError(UsageError):
    """A training config that does not say what can be trained."""


class ImageError(SrupliftError):
    """An image that cannot be read, processed or written."""


class ExistsError(ImageError):
    """A file that exists and may not be replaced."""


class ReportError(SrupliftError):
    """A report of a batch that cannot be written."""


class DatasetError(SrupliftError):
    """A data set that cannot be found, downloaded or used."""


class ComparisonError(SrupliftError):
    """Reports of measurements that cannot be read, or were not measured alike."""


class WeightsError(SrupliftError):
    """Weights that cannot be found, downloaded, verified or loaded."""


class ExportError(SrupliftError):
    """A network that cannot be exported, or a runtime that does not compute what PyTorch does."""


class CompilerError(SrupliftError):
    """Code that cannot be compiled on this machine, or computes something else when it is."""


class CompiledFolderError(CompilerError):
    """A folder in which compiled code cannot be kept, or may not be run."""


class NumericalError(SrupliftError):
    """NaN or infinity where numbers are needed."""


class LostProcessError(SrupliftError):
    """A process of a training run is gone, or does not answer."""


class SrupliftWarning(UserWarning):
    """What goes on all the same, but should be known: one clear sentence, too."""


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> str:
    """The sentence for a name that is not one of ``valid``, with the nearest valid one."""
    names = list(valid)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {name!r}{hint} (valid: {', '.join(names)})"
