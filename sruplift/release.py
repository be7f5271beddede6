"""Making weights part of a release: the packed file, its manifest entry, and its measurements.

Two steps, so that what is measured is the very file that is released:
``pack`` writes the fp16 file and its entry, ``record`` adds what ``sruplift eval --json`` measured
with it. Benchmarks are in the manifest alone: in the file they would change its own sha256.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sruplift.comparison import no_report
from sruplift.datasets import BENCHMARKS
from sruplift.errors import WeightsError
from sruplift.importer import read_tensors
from sruplift.manifest import (
    Metrics,
    WeightsEntry,
    pretrained_folder,
    read_manifest,
    sha256_of,
    write_manifest,
)
from sruplift.weights import IdentifiedWeights, identify, save_weights

BEST_NAME = "best.safetensors"
# What `sruplift eval` calls MATLAB's bicubic, which has no weights.
BASELINE = "bicubic"


@dataclass(frozen=True)
class Provenance:
    """Where weights come from. None is taken from what training wrote into the file.

    ``training_data`` is a sentence about the images, ``command`` what was run, ``iterations`` the
    total over all runs that led to the weights.
    """

    training_data: str
    command: str
    licence: str = "Apache-2.0"
    config: str | None = None
    iterations: int | None = None
    device: str | None = None


def pack(
    source: Path, provenance: Provenance, folder: Path | None = None, *, overwrite: bool = False
) -> WeightsEntry:
    """Convert a training run's weights to fp16 in the package and enter them in the manifest.

    ``source`` is the file, or the run's folder with ``best.safetensors``. Measurements that the
    manifest has of the same tensors are kept; those of others are dropped.

    Raises:
        WeightsError: the weights are damaged, are or stem from those of others (their licence is
            not ours to give), nothing says how long or on what they were trained, or there are such
            weights already and ``overwrite`` is not given.
    """
    source = source / BEST_NAME if source.is_dir() else source
    found = identify(source)
    if found.others_source:
        raise WeightsError(
            f"{source} is not of sruplift's own training alone, but stems from"
            f" {found.others_source}: it cannot be released as ours"
        )
    facts = _facts(found, provenance, source)
    path = (folder or pretrained_folder()) / f"{found.model}_x{found.scale}.safetensors"
    if path.exists() and not overwrite:
        raise WeightsError(
            f"{path} exists, and all commands would use the new weights in its place: replace it"
            f" with --overwrite, or use {source} by --weights"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    trained = {k: _origins(v) for k, v in found.metadata.items() if k in ("init", "teacher")}
    metadata = {**found.metadata, **facts, **trained}
    before = _tensors(path)
    save_weights(path, found.tensors, model=found.model, scale=found.scale, metadata=metadata)
    entry = WeightsEntry(
        model=found.model,
        scale=found.scale,
        file=path.name,
        sha256=sha256_of(path),
        size=path.stat().st_size,
        parameters=sum(tensor.numel() for tensor in found.tensors.values()),
        **facts,
    )
    return _enter(entry, same_tensors=_equal(before, read_tensors(path)[0]))


def record(reports: Sequence[Path], command: str | None = None) -> list[WeightsEntry]:
    """Enter the benchmarks' means from reports of ``sruplift eval --json`` in the manifest.

    A report of several networks enters each; a baseline beside them is passed over.

    Raises:
        WeightsError: a report cannot be read, was made with other weights than the manifest's, not
            in fp32 on whole images, or of other images than the benchmarks'.
    """
    entries = [
        _record_one(data, path, command)
        for path in reports
        for data in _read_reports(path)
        if data.get("model") != BASELINE
    ]
    if not entries:
        names = ", ".join(map(str, reports))
        raise WeightsError(f"{names}: only {BASELINE} was measured, which has no weights")
    return entries


def _read_reports(path: Path) -> list[dict[str, Any]]:
    """The reports in the file, one or several."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        reports = data.get("reports", [data])
        return [dict(each) for each in reports]
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise _no_report(path, error) from error


def _record_one(data: dict[str, Any], path: Path, command: str | None) -> WeightsEntry:
    try:
        entry = read_manifest().find(data["model"], data["scale"])
        datasets = {each["name"]: int(each["count"]) for each in data["datasets"]}
        measured = {each["name"]: _means(each["mean"]) for each in data["datasets"]}
        precision = data["precision"]
        sha256 = str(data["weights"]["sha256"])
        inference = dict(data.get("inference", {}))
    except (ValueError, KeyError, TypeError) as error:
        raise _no_report(path, error) from error
    if sha256 != entry.sha256:
        raise WeightsError(
            f"{path} was made with other weights (sha256 {sha256[:12]}…) than those of"
            f" {entry.model} x{entry.scale} in the manifest ({entry.sha256[:12]}…)"
        )
    if any(inference.get(name) for name in ("self_ensemble", "chop", "tile")):
        raise WeightsError(
            f"{path} was measured with a self-ensemble or in parts: the manifest has what the"
            " network does once on whole images"
        )
    if precision != "fp32":
        raise WeightsError(f"{path} was measured in {precision}: the manifest has fp32's figures")
    for name, count in datasets.items():
        if name not in BENCHMARKS or count != BENCHMARKS[name].count:
            raise WeightsError(f"{path} has {count} images of {name}: that is no benchmark, whole")
    metrics = {**entry.metrics, **measured}
    named = " ".join(f"--dataset {name}" for name in metrics)
    made_by = f"sruplift eval --model {entry.model} --scale {entry.scale} {named}"
    return _enter(dataclasses.replace(entry, metrics=metrics, metrics_command=command or made_by))


def _no_report(path: Path, error: Exception) -> WeightsError:
    return WeightsError(no_report(path, error))


def _enter(entry: WeightsEntry, *, same_tensors: bool = False) -> WeightsEntry:
    """Enter it; what was measured with the same tensors stays, whatever else is in the file."""
    manifest = read_manifest()
    old = [e for e in manifest.weights if e.file == entry.file]
    if old and same_tensors and not entry.metrics:
        kept = old[0]
        entry = dataclasses.replace(
            entry, metrics=kept.metrics, metrics_command=kept.metrics_command
        )
    write_manifest(manifest.with_entry(entry))
    return entry


def _origins(named: str) -> str:
    """Weights that a run began with, or was taught by: released ones by name, not some path."""
    return ", ".join(_origin(name.strip()) for name in named.split(","))


def _origin(name: str) -> str:
    return name if Path(name).name == name and not Path(name).suffix else "an earlier run"


def _tensors(path: Path) -> dict[str, Tensor]:
    """Those of the file that is replaced; none if it is not there, or damaged."""
    try:
        return read_tensors(path)[0]
    except WeightsError:
        return {}


def _equal(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
    """Whether two sets of weights are the same."""
    return before.keys() == after.keys() and all(
        torch.equal(before[name], after[name]) for name in after
    )


def _facts(found: IdentifiedWeights, provenance: Provenance, source: Path) -> dict[str, Any]:
    """What the packed file and the manifest both say."""
    iterations = provenance.iterations or int(found.metadata.get("iterations") or 0)
    if not iterations:
        raise WeightsError(f"{source} does not say how long it was trained: use --iterations")
    fingerprint = found.metadata.get("data_fingerprint")
    images = provenance.training_data.strip()
    if not images:
        raise WeightsError("--training-data is empty: say which images the weights were trained on")
    return {
        "licence": provenance.licence,
        "config": provenance.config or f"{found.model}_x{found.scale}",
        "training_data": f"{images} (fingerprint {fingerprint})" if fingerprint else images,
        "iterations": iterations,
        "device": provenance.device or found.metadata.get("device", "unknown"),
        "command": provenance.command,
    }


def _means(mean: dict[str, float]) -> Metrics:
    return Metrics(psnr_y=round(mean["psnr_y"], 4), ssim_y=round(mean["ssim_y"], 5))
