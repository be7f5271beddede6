"""A batch: options that contradict each other, the plan, the order of the work, the account."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from batches import PARAMETERS, done

from sruplift import batch, upscale
from sruplift.batch import BatchOptions, Tally, left_to_do, plan_batch, prepare, run_batch
from sruplift.errors import ImageError, UsageError
from sruplift.files import Failure, Job, Skipped
from sruplift.outputs import Naming
from sruplift.report import Report, read_begun, read_report

NAMING = Naming("pan", 4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "there is no input"),
        ({"inputs": ("a",), "output": ""}, "--output is empty"),
        ({"inputs": ("a",), "from_file": ""}, "--from-file is empty"),
        ({"inputs": ("a",), "resume": "-"}, "--resume needs a file"),
        ({"inputs": ("a",), "overwrite": True, "skip_existing": True}, "contradict"),
        ({"inputs": ("-", "a")}, "one image through a pipe"),
        ({"inputs": ("-", "-")}, "one image through a pipe"),
        ({"inputs": ("a", "b"), "output": "-"}, "one image through a pipe"),
        ({"inputs": ("-",), "from_file": "-"}, "one image through a pipe"),
        ({"inputs": ("-",), "report": "r"}, "one image through a pipe"),
        ({"inputs": ("a",), "output": "-", "resume": "r"}, "one image through a pipe"),
        ({"inputs": ("-",), "skip_existing": True}, "one image through a pipe"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        BatchOptions(NAMING, **options)


def planned(tmp_path: Path, **options: Any) -> list[str]:
    """The sources' names."""
    jobs = plan_batch(BatchOptions(NAMING, **options))
    return [str(job.source.relative_to(tmp_path)) for job in jobs]


def test_a_list_of_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b c.png", "d*.png", "in/e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    text = f"{tmp_path}/b c.png\n{tmp_path}/d*.png\n{tmp_path}/in\n{tmp_path}/a.png\n"
    (tmp_path / "list").write_text(text)
    expected = ["a.png", "b c.png", "d*.png", "in/e.png"]
    one = (str(tmp_path / "a.png"),)
    assert planned(tmp_path, inputs=one, from_file=str(tmp_path / "list")) == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert planned(tmp_path, inputs=one, from_file="-") == expected


def test_lists_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name, said in {"absent": "no such file", "empty": "is empty", ".": "is a dir"}.items():
        with pytest.raises(UsageError, match=said):
            planned(tmp_path, from_file=str(tmp_path / name))


def test_a_report_is_not_an_output(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="both the report and an output"):
        plan_batch(
            BatchOptions(
                NAMING,
                inputs=(str(tmp_path / "a.png"),),
                output=str(tmp_path / "x.png"),
                report=str(tmp_path / "x.png"),
            )
        )


def test_overwriting_is_each_jobs_right(tmp_path: Path) -> None:
    options = BatchOptions(NAMING, inputs=(str(tmp_path / "a.png"),), overwrite=True)
    (job,) = plan_batch(options)
    assert isinstance(job, Job)
    assert job.replace


def test_skipping_spares_what_somebody_else_wrote_and_resuming_what_we_did(tmp_path: Path) -> None:
    jobs = [Job(tmp_path / f"{n}.png", tmp_path / f"{n}_pan_x4.png") for n in "abcd"]
    for job in jobs:
        job.source.write_bytes(b"input")
    path = tmp_path / "report.jsonl"
    with Report(path, PARAMETERS) as report:
        for job in jobs[:2]:
            report.begin(job)
            job.destination.write_bytes(b"result")
            report.add(job, done(job))
    jobs[1].source.write_bytes(b"changed")
    jobs[2].destination.write_bytes(b"somebody else's")
    options = BatchOptions(NAMING, inputs=("x",), resume=str(path), skip_existing=True)
    first, second, third, fourth = left_to_do(jobs, options, PARAMETERS)
    assert isinstance(first, Skipped)
    assert first.record is not None
    assert (type(second), type(third), type(fourth)) == (Job, Skipped, Job)
    assert isinstance(second, Job)
    assert second.replace
    assert isinstance(third, Skipped)
    assert third.record is None


def test_leftovers_are_removed_where_results_go(tmp_path: Path) -> None:
    for folder in ("out/s", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / ".sruplift-99999999-1-0000000000000000.part").touch()
    old = tmp_path / "out" / "s" / ".sruplift-0000000000000000.part"
    old.touch()
    for file in tmp_path.rglob("*.part"):
        batch.os.utime(file, (0, 0))
    options = BatchOptions(NAMING, inputs=("x",), output=str(tmp_path / "out"))
    prepare([Job(Path("a.png"), tmp_path / "out" / "s" / "a.png")], options)
    assert [file.parent.name for file in tmp_path.rglob("*.part")] == ["elsewhere"]


def test_the_work_in_order_with_what_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.jsonl"
    jobs = [Job(tmp_path / f"{n}.png", tmp_path / f"{n}_x4.png") for n in "abc"]
    failure = Failure(tmp_path, ImageError("no images"))
    skipped = Skipped(tmp_path / "s.png", tmp_path / "t.png", "the output exists")

    def work(given: Iterable[Job], *_: object) -> Iterator[object]:
        for job in given:
            assert str(job.destination) in read_begun(path)
            bad = job is jobs[1]
            yield Failure(job.source, ImageError("damaged")) if bad else done(job)
            # Whoever reads the report has the line when the next begins.
            assert read_report(path)[-1]["input"] in (str(job.source), str(skipped.source))

    monkeypatch.setattr(upscale, "upscale_files", work)
    items = [failure, jobs[0], skipped, jobs[1], jobs[2]]
    tally = Tally(len(items))
    with Report(path, PARAMETERS) as report:
        outcomes = []
        for outcome in run_batch(items, object(), report):  # type: ignore[arg-type]
            tally.count(outcome)
            outcomes.append(outcome)
            assert len(read_report(path)) == len(outcomes)
    assert [outcome.source for outcome in outcomes] == [item.source for item in items]
    statuses = [record["status"] for record in read_report(path)]
    assert statuses == ["failed", "done", "skipped", "failed", "done"]
    assert re.fullmatch(r"2 done, 2 failed, 1 skipped in \d+\.\d s", str(tally))


def test_a_batch_without_work_needs_no_network() -> None:
    skipped = Skipped(Path("a"), Path("b"), "the output exists")
    assert list(run_batch([skipped], None)) == [skipped]
    tally = Tally(3)
    tally.count(skipped)
    assert str(tally).startswith("0 done, 1 skipped, 2 left in ")
