"""Several networks and scales, measured one after the other: which, and what is left out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sruplift.datasets import canonical_name, find_benchmarks
from sruplift.errors import DatasetError, UsageError, WeightsError, unknown_name
from sruplift.evaluate import Keep, Progress, measure, prepare
from sruplift.manifest import read_manifest
from sruplift.models import MODELS
from sruplift.resultcache import ResultCache
from sruplift.results import BICUBIC, EvalOptions, Report

ALL = "all"


@dataclass(frozen=True)
class Suite:
    """One ``EvalOptions`` for each model and scale; ``notes`` say what "all" had to leave out."""

    runs: tuple[EvalOptions, ...]
    notes: tuple[str, ...] = ()


def plan_suite(
    datasets: Sequence[str],
    models: Sequence[str],
    scales: Sequence[int],
    *,
    weights: str | None = None,
    data_root: Path | None = None,
    **options: Any,
) -> Suite:
    """What to measure: every model at every scale, each on all the data sets.

    Args:
        datasets: as in ``EvalOptions``; "all" means the benchmarks that can be had.
        models: as in ``EvalOptions``; "all" means those with released weights.
        scales: each of 2, 3, 4.
        weights: as in ``EvalOptions``, for one model and one scale.
        data_root: as in ``EvalOptions``.
        options: the other fields of ``EvalOptions``.

    Raises:
        UsageError: unknown names, or ``weights`` for several networks.
        DatasetError: "all", and there is none.
        WeightsError: weights of a model that was named have not been released, or "all" has none.
    """
    found, data_notes = _choose_datasets(datasets, data_root)
    pairs, model_notes = _choose_networks(models, scales, weights)
    runs = tuple(
        EvalOptions(found, model, scale, weights, data_root, **options) for model, scale in pairs
    )
    return Suite(runs, (*data_notes, *model_notes))


def evaluate_suite(
    suite: Suite,
    progress: Progress | None = None,
    cache: ResultCache | None = None,
    keep: Keep | None = None,
) -> tuple[Report, ...]:
    """A report for each run. All weights and data are looked for before the first is measured.

    ``progress``, ``cache`` and ``keep`` are as in ``evaluate``.

    Raises:
        SrupliftError: as ``evaluate``.
    """
    plans = [prepare(run) for run in suite.runs]
    several = len(plans) > 1
    reports = []
    for plan in plans:
        label = f"{plan.options.model} x{plan.options.scale} " if several else ""
        reports.append(measure(plan, _labelled(progress, label), cache, keep))
    return tuple(reports)


def _labelled(progress: Progress | None, label: str) -> Progress | None:
    if progress is None:
        return None
    return lambda name, done, total: progress(label + name, done, total)


def _choose_datasets(
    names: Sequence[str], data_root: Path | None
) -> tuple[tuple[str, ...], list[str]]:
    """The names, "all" spelt out and each once, and what "all" lacks."""
    if ALL not in names:
        return _unique(names), []
    here, absent = find_benchmarks(data_root)
    listed = ", ".join(absent)
    if not here:
        raise DatasetError(f"there is no benchmark in {data_root} (looked for {listed})")
    spelt = [each for name in names for each in (here if name == ALL else (name,))]
    if not absent:
        return _unique(spelt), []
    why = f"not in {data_root}" if data_root else "not free to download, give it by --data-root"
    return _unique(spelt), [f"left out: {listed} ({why})"]


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(canonical_name(name) for name in names))


def _choose_networks(
    models: Sequence[str], scales: Sequence[int], weights: str | None
) -> tuple[list[tuple[str, int]], list[str]]:
    """(model, scale) of each network, in the order asked for, and what "all" lacks."""
    manifest = read_manifest()
    listed = (manifest.model_names() if name == ALL else (name,) for name in models)
    spelt = dict.fromkeys(itertools.chain.from_iterable(listed))
    pairs = [(model, scale) for model in spelt for scale in dict.fromkeys(scales)]
    if weights is not None and (ALL in models or len(pairs) != 1):
        raise UsageError("--weights are of one network: name one model and one scale")
    for model, scale in pairs:
        _check_names(model, scale)
    if weights is not None:
        return pairs, []
    released = {(entry.model, entry.scale) for entry in manifest.weights}
    missing = [pair for pair in pairs if pair not in released and pair[0] != BICUBIC]
    named = [pair for pair in missing if pair[0] in models]
    # About one alone, `find_weights` has a sentence that says what to do.
    if len(named) > 1 or missing == pairs != named:
        raise WeightsError(
            f"there are no released weights yet of {_listed(named or missing)}: leave them out, or"
            " measure one at a time with --weights"
        )
    absent = [pair for pair in missing if pair not in named]
    notes = [f"left out: {_listed(absent)} (no released weights yet)"] if absent else []
    return [pair for pair in pairs if pair not in absent], notes


def _check_names(model: str, scale: int) -> None:
    if model == BICUBIC:
        return
    if model not in MODELS:
        raise UsageError(unknown_name("model", model, MODELS))
    if scale not in MODELS[model].scales:
        valid = ", ".join(map(str, MODELS[model].scales))
        raise UsageError(f"model {model!r} has no scale {scale} (valid: {valid})")


def _listed(pairs: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{model} x{scale}" for model, scale in pairs)
