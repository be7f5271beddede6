"""Is one network better than another? Two reports of `sruplift eval --json`, image by image.

Means over few images differ by chance. The images are the same, so their differences say more:
their mean with its interval, a sign-flip permutation test of it, and the sign test.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from sruplift.errors import ComparisonError
from sruplift.statistics import (
    CONFIDENCE,
    RESAMPLES,
    SEED,
    Interval,
    PermutationTest,
    SignTest,
    bootstrap_interval,
    sign_flip_test,
    sign_test,
)

METRICS = ("psnr_y", "ssim_y")
# What must have been done alike. How the network was run is the method's own, if that is wanted.
PROTOCOL = ("hr", "lr", "rounding", "crop_border", "y", "psnr", "ssim")
INFERENCE = "inference"

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Side:
    """What a report is about; ``sha256`` of the weights, None for bicubic."""

    report: str
    model: str
    scale: int
    sha256: str | None
    device: str
    precision: str
    inference: str


@dataclass(frozen=True)
class MetricComparison:
    """One metric on one data set. Differences are a - b, an image each, in the images' order.

    ``interval`` is the mean difference's, None for one image.
    """

    metric: str
    mean_a: float
    mean_b: float
    differences: tuple[float, ...]
    interval: Interval | None
    permutation: PermutationTest
    signs: SignTest

    @property
    def mean_difference(self) -> float:
        """The mean over the images."""
        return fmean(self.differences)


@dataclass(frozen=True)
class DatasetComparison:
    """One data set: its images' names, and PSNR and SSIM on Y."""

    name: str
    images: tuple[str, ...]
    metrics: tuple[MetricComparison, ...]


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same images."""

    a: Side
    b: Side
    datasets: tuple[DatasetComparison, ...]


def compare(a: str, b: str, *, any_inference: bool = False) -> Comparison:
    """Compare two reports, each a file, or ``FILE#pan_x4`` for one network of a file of several.

    ``any_inference`` compares what was run otherwise too: in tiles, with a self-ensemble.

    Raises:
        ComparisonError: a report cannot be read, or the two differ in scale, protocol, data sets or
            images.
    """
    reports = read_report(a), read_report(b)
    try:
        sides = _side(a, reports[0]), _side(b, reports[1])
        _check_protocols(*sides, *reports, any_inference=any_inference)
        pairs = _pair_datasets(a, b, *reports)
        datasets = tuple(_compare_dataset(one, other) for one, other in pairs)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ComparisonError(no_report(f"{a} or {b}", error)) from error
    return Comparison(*sides, datasets)


def split_address(address: str) -> tuple[str, str]:
    """The report's file, and the network that is named after ``#`` in it, if one is."""
    path, _, name = address.rpartition("#")
    return (address, "") if not path or Path(address).is_file() else (path, name)


def no_report(path: str | Path, error: Exception) -> str:
    """A sentence for what came of reading the JSON of a file as a report."""
    if isinstance(error, KeyError):
        why = f"it lacks {error}"
    elif isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        why = str(error)
    else:
        why = "it is built otherwise"
    return f"{path} is not a report of `sruplift eval --json`: {why}"


def read_report(address: str) -> Report:
    """The report in a file, or of the network that is named after ``#``.

    Raises:
        ComparisonError: the file cannot be read, is no report, or has several and none or another
            is named.
    """
    path, name = split_address(address)
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        reports = {
            f"{each['model']}_x{each['scale']}": each for each in data.get("reports", [data])
        }
    except OSError as error:
        raise ComparisonError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ComparisonError(no_report(path, error)) from error
    if not name and len(reports) == 1:
        return dict(*reports.values())
    if name not in reports:
        wrong = f"has no {name!r}" if name else "has several networks"
        listed = ", ".join(f"{path}#{each}" for each in reports)
        raise ComparisonError(f"{path} {wrong}: name one of {listed}")
    return dict(reports[name])


def _side(address: str, report: Report) -> Side:
    weights = report["weights"]
    return Side(
        report=address,
        model=report["model"],
        scale=report["scale"],
        sha256=weights and weights["sha256"],
        device=report["device"],
        precision=report["precision"],
        inference=report["protocol"][INFERENCE],
    )


def _check_protocols(a: Side, b: Side, one: Report, other: Report, *, any_inference: bool) -> None:
    files = f"{a.report} and {b.report}"
    if a.scale != b.scale:
        raise ComparisonError(f"{files} are of different scales: x{a.scale} and x{b.scale}")
    for key in PROTOCOL if any_inference else (*PROTOCOL, INFERENCE):
        values = one["protocol"][key], other["protocol"][key]
        if values[0] != values[1]:
            hint = " (--any-inference compares them)" if key == INFERENCE else ""
            raise ComparisonError(
                f"{files} were measured by different protocols: {key} {values[0]!r} and"
                f" {values[1]!r}{hint}"
            )


def _pair_datasets(a: str, b: str, one: Report, other: Report) -> list[tuple[Report, Report]]:
    first, second = (
        sorted(report["datasets"], key=lambda each: str(each["name"])) for report in (one, other)
    )
    names = [", ".join(each["name"] for each in datasets) for datasets in (first, second)]
    if names[0] != names[1]:
        raise ComparisonError(f"{a} and {b} are of different data sets: {names[0]} and {names[1]}")
    order = [each["name"] for each in one["datasets"]]
    pairs = list(zip(first, second, strict=True))
    for left, right in pairs:
        difference = _first_difference(left["images"], right["images"])
        if difference:
            raise ComparisonError(
                f"{a} and {b} have different images in {left['name']}: {difference}"
            )
    return sorted(pairs, key=lambda pair: order.index(pair[0]["name"]))


def _first_difference(left: Sequence[Report], right: Sequence[Report]) -> str | None:
    """Where two lists of images part, in words."""
    if len(left) != len(right):
        return f"{len(left)} and {len(right)}"
    for one, other in zip(left, right, strict=True):
        if one["name"] != other["name"]:
            return f"{one['name']} and {other['name']}"
        # Reports from before there were fingerprints have sizes alone.
        digests = one.get("sha256"), other.get("sha256")
        if one["size"] != other["size"] or (all(digests) and digests[0] != digests[1]):
            return f"two of the name {one['name']}"
    return None


def _compare_dataset(left: Report, right: Report) -> DatasetComparison:
    pairs = list(zip(left["images"], right["images"], strict=True))
    if not pairs:
        raise ValueError(f"{left['name']} has no images")
    return DatasetComparison(
        name=left["name"],
        images=tuple(one["name"] for one, _ in pairs),
        metrics=tuple(_compare_metric(metric, pairs) for metric in METRICS),
    )


def _compare_metric(metric: str, pairs: Sequence[tuple[Report, Report]]) -> MetricComparison:
    differences = tuple(_difference(metric, one, other) for one, other in pairs)
    return MetricComparison(
        metric,
        fmean(_value(metric, one) for one, _ in pairs),
        fmean(_value(metric, other) for _, other in pairs),
        differences,
        bootstrap_interval(differences),
        sign_flip_test(differences),
        sign_test(differences),
    )


def _value(metric: str, image: Report) -> float:
    """Null is the infinite PSNR of an image that is identical to HR."""
    return math.inf if image[metric] is None else float(image[metric])


def _difference(metric: str, one: Report, other: Report) -> float:
    values = _value(metric, one), _value(metric, other)
    if values == (math.inf, math.inf):
        return 0.0
    if math.inf in values:
        raise ComparisonError(
            f"{one['name']} is identical to the original in one of the reports: its PSNR is"
            " infinite, and there is no difference to test"
        )
    return values[0] - values[1]


def comparison_as_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison for JSON. An infinite mean, which JSON cannot say, is ``None``."""
    return {
        "a": asdict(comparison.a),
        "b": asdict(comparison.b),
        "scale": comparison.a.scale,
        "method": {
            "difference": "a - b of each image; its mean is positive where a is better",
            "interval": f"{CONFIDENCE * 100:.0f} % BCa bootstrap of the mean difference,"
            f" {RESAMPLES:,} resamples, seed {SEED}",
            "permutation": "two-sided sign-flip test of the mean difference; exact: of all signs,"
            f" else of random ones, seed {SEED}",
            "sign_test": "two-sided, exact, zeros left out",
        },
        "datasets": [_dataset_as_dict(dataset) for dataset in comparison.datasets],
    }


def _dataset_as_dict(dataset: DatasetComparison) -> dict[str, Any]:
    rows = zip(*(metric.differences for metric in dataset.metrics), strict=True)
    names = [metric.metric for metric in dataset.metrics]
    return {
        "name": dataset.name,
        "count": len(dataset.images),
        "metrics": {metric.metric: _metric_as_dict(metric) for metric in dataset.metrics},
        "images": [
            {"name": image, **dict(zip(names, row, strict=True))}
            for image, row in zip(dataset.images, rows, strict=True)
        ],
    }


def _metric_as_dict(metric: MetricComparison) -> dict[str, Any]:
    means = {"mean_a": metric.mean_a, "mean_b": metric.mean_b}
    return {
        **{name: value if math.isfinite(value) else None for name, value in means.items()},
        "mean_difference": metric.mean_difference,
        "interval": metric.interval and [metric.interval.low, metric.interval.high],
        "permutation": asdict(metric.permutation),
        "sign_test": asdict(metric.signs),
    }
