"""How a pool is cut, and what an actor does without Ray around it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from clusters import Batch, encoded, fill
from pictures import bilinear_pan

from sruplift.cluster.job import Pool, Totals, Worker, _outcome
from sruplift.cluster.work import Outcome
from sruplift.errors import ReportError, UsageError


@pytest.mark.parametrize(
    ("asked", "there", "shape"),
    [
        ((None, None), (16, 0), (4, 4)),
        ((None, None), (2, 0), (1, 2)),
        ((None, None), (1, 0), (1, 1)),
        ((None, 1), (2, 0), (2, 1)),
        ((2, None), (2, 0), (2, 1)),
        ((3, None), (2, 0), (3, 1)),
        ((None, None), (16, 2), (2, 4)),
        ((None, None), (4, 4), (4, 1)),
        ((1, 8), (2, 1), (1, 8)),
    ],
)
def test_as_many_workers_as_there_are_gpus_or_cores_for(
    asked: tuple[int | None, int | None], there: tuple[int, int], shape: tuple[int, int]
) -> None:
    assert Pool(*asked).shape(*there) == shape


@pytest.mark.parametrize("values", [{"workers": 0}, {"cores_per_worker": -1}, {"address": ""}])
def test_pools_that_cannot_be_meant(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"at least 1|is empty"):
        Pool(**values)


def test_totals_are_of_all_partitions_and_errors_of_the_last() -> None:
    totals = Totals(skipped=5)
    totals.add(Outcome(3, 1, 0, ("a",)))
    totals.add(Outcome(2, 0, 1, ()))
    assert (totals.done, totals.failed, totals.skipped, totals.errors) == (5, 1, 6, ())


def test_an_actor_does_its_partitions_with_one_network(tmp_path: Path) -> None:
    fill(tmp_path / "in", {f"{n}.png": encoded(n) for n in range(2)})
    batch = Batch(tmp_path / "in", tmp_path / "out", bilinear_pan(tmp_path, 2))
    worker = Worker(pickle.dumps((batch.options, batch.parameters, 1, None)))
    networks = set()
    for each in batch.plan().partitions:
        outcome = _outcome(worker({"partition": pickle.dumps(each)}))
        assert (outcome.done, outcome.failed) == (1, 0)
        networks.add(id(worker._upscaler))
    assert len(networks) == 1


def test_an_error_of_an_actor_is_one_of_the_job(tmp_path: Path) -> None:
    fill(tmp_path / "in", {"0.png": encoded()})
    batch = Batch(tmp_path / "in", tmp_path / "out", bilinear_pan(tmp_path, 2))
    (partition,) = batch.plan().partitions
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "_report").touch()
    worker = Worker(pickle.dumps((batch.options, batch.parameters, 1, None)))
    row = worker({"partition": pickle.dumps(partition)})
    with pytest.raises(ReportError, match="_report"):
        _outcome(row)
