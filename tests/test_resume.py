"""What a report says is done is left out; what changed is done again; nobody's file is lost."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from batches import PARAMETERS, finish

from sruplift.errors import ImageError
from sruplift.files import Failure, Job, Skipped
from sruplift.report import Report, read_report
from sruplift.resume import read_history, without_done, without_existing

Item = Job | Failure | Skipped


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "a.png").write_bytes(b"input")
    return Job(tmp_path / "a.png", tmp_path / "b.png")


@pytest.fixture
def path(tmp_path: Path, job: Job) -> Path:
    """A report that has ``job`` as done."""
    with Report(tmp_path / "report.jsonl", PARAMETERS) as report:
        finish(report, job, b"result")
    return tmp_path / "report.jsonl"


def resumed(path: Path, job: Job, parameters: dict[str, object] = PARAMETERS) -> Item:
    (item,) = without_done([job], read_history(path), parameters)
    return item


def test_what_is_done_is_left_out(path: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    (record,) = read_report(path)
    assert resumed(path, job) == Skipped(
        job.source, job.destination, "done by an earlier run", record
    )
    monkeypatch.chdir(path.parent)
    assert isinstance(resumed(path, Job(Path("a.png"), Path("b.png"))), Skipped)


def test_an_input_of_the_same_content_is_the_same(path: Path, job: Job) -> None:
    moved = dataclasses.replace(job, source=job.source.rename(path.parent / "moved.png"))
    assert isinstance(resumed(path, moved), Skipped)


def test_what_changed_is_done_again_and_replaces_the_old(path: Path, job: Job) -> None:
    again = dataclasses.replace(job, replace=True)
    assert resumed(path, job, {**PARAMETERS, "scale": 4}) == again
    assert resumed(path, job, {**PARAMETERS, "new": None}) == again
    job.destination.write_bytes(b"resulT")
    assert resumed(path, job) == again
    job.destination.write_bytes(b"longer result")
    assert resumed(path, job) == again
    job.destination.unlink()
    assert resumed(path, job) == again
    job.destination.write_bytes(b"result")
    assert isinstance(resumed(path, job), Skipped)
    job.source.write_bytes(b"other")
    assert resumed(path, job) == again
    job.source.unlink()
    assert resumed(path, job) == again


def test_another_output_is_not_ours(path: Path, job: Job) -> None:
    other = dataclasses.replace(job, destination=path.parent / "c.png")
    other.destination.write_bytes(b"result")
    assert resumed(path, other) == other


def test_the_last_line_counts(path: Path, job: Job) -> None:
    with Report(path, {**PARAMETERS, "scale": 4}) as report:
        finish(report, job, b"larger", replace=True)
    assert isinstance(resumed(path, job), Job)
    assert isinstance(resumed(path, job, {**PARAMETERS, "scale": 4}), Skipped)


def test_a_failure_is_tried_again(tmp_path: Path, path: Path, job: Job) -> None:
    bad = Job(tmp_path / "bad.png", tmp_path / "bad_x2.png")
    with Report(path, PARAMETERS) as report:
        report.begin(bad)
        report.add(bad, Failure(bad.source, ImageError("damaged")))
    assert resumed(path, bad) == bad
    # A failed attempt leaves an older result as it was.
    with Report(path, PARAMETERS) as report:
        report.begin(job)
        report.add(job, Failure(job.source, ImageError("exists")))
    assert isinstance(resumed(path, job), Skipped)


def test_a_skipped_line_is_as_good_in_another_report(tmp_path: Path, path: Path, job: Job) -> None:
    item = resumed(path, job)
    assert isinstance(item, Skipped)
    other = tmp_path / "other.jsonl"
    with Report(other, PARAMETERS) as report:
        report.add(item, item)
    (line,) = read_report(other)
    (first,) = read_report(path)
    assert line == {**first, "status": "skipped", "notes": ["done by an earlier run"]}
    assert isinstance(resumed(other, job), Skipped)


def test_a_result_without_a_line_is_ours_if_it_was_begun(tmp_path: Path, job: Job) -> None:
    path = tmp_path / "report.jsonl"
    with Report(path, PARAMETERS) as report:
        report.begin(job)  # Killed here, or
    assert resumed(path, job) == dataclasses.replace(job, replace=True)
    job.destination.write_bytes(b"result")  # here.
    assert resumed(path, job) == dataclasses.replace(job, replace=True)


def test_no_report_is_an_empty_one(tmp_path: Path, job: Job) -> None:
    assert resumed(tmp_path / "absent.jsonl", job) == job
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_existing_outputs_are_skipped(tmp_path: Path, job: Job) -> None:
    failure = Failure(tmp_path, ImageError("no images"))
    items: list[Item] = [job, failure]
    assert without_existing(items) == [dataclasses.replace(job, skip=True), failure]
    job.destination.symlink_to(tmp_path / "nowhere")
    skipped = Skipped(job.source, job.destination, "the output exists")
    assert without_existing(items) == [skipped, failure]
    ours = dataclasses.replace(job, replace=True)
    assert without_existing([ours]) == [ours]
