"""A report's lines: one per input, whole, and enough to know what was done."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from batches import PARAMETERS, done, finish

from sruplift import __version__
from sruplift.errors import ImageError, ReportError, UsageError
from sruplift.files import Failure, Job, Skipped
from sruplift.report import (
    KEYS,
    NO_PARAMETERS,
    Report,
    begun_path,
    parameters_of,
    read_begun,
    read_report,
)
from sruplift.upscaler import UpscaleOptions


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "a.png").write_bytes(b"input")
    return Job(tmp_path / "a.png", tmp_path / "b.png")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---- Parameters


def test_parameters_are_all_options_that_are_not_known_to_change_nothing() -> None:
    names = {field.name for field in dataclasses.fields(UpscaleOptions)}
    assert names >= NO_PARAMETERS  # A renamed option would silently become a parameter.
    parameters = parameters_of(UpscaleOptions(tile_size=64), {4: "abc", 2: "def"})
    assert set(parameters) == names - NO_PARAMETERS | {"weights_sha256"}
    assert parameters["tile_size"] == 64
    assert parameters["weights_sha256"] == {"x2": "def", "x4": "abc"}


def test_new_options_are_parameters_and_survive_json() -> None:
    @dataclasses.dataclass(frozen=True)
    class Options:
        weights: str = "x"
        background: Path = Path("white.png")
        size: tuple[int, int] = (3, 4)

    parameters = parameters_of(Options(), {})
    assert parameters == {"background": "white.png", "size": [3, 4], "weights_sha256": {}}
    assert json.loads(json.dumps(parameters)) == parameters


# ---- Writing


def test_what_a_line_says(tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("report.jsonl")
    failure = Failure(Path("none"), ImageError("no images in folder none"))
    broken = Job(Path("c.png"), Path("d.png"))
    skipped = Skipped(Path("e.png"), Path("f.png"), "the output exists")
    with Report(path, PARAMETERS) as written:
        finish(written, job, b"result")
        written.begin(broken)
        written.add(broken, Failure(broken.source, ImageError("cannot read c.png: damaged")))
        written.add(failure, failure)
        written.add(skipped, skipped)
    first, second, third, fourth = lines(path)
    assert first == {
        "input": str(tmp_path / "a.png"),
        "output": str(tmp_path / "b.png"),
        "status": "done",
        "error": None,
        "input_size": [20, 10],
        "output_size": [40, 20],
        "seconds": 1.235,
        "device": "cpu",
        "precision": "fp32",
        "parameters": PARAMETERS,
        "input_sha256": hashlib.sha256(b"input").hexdigest(),
        "output_bytes": 6,
        "output_sha256": hashlib.sha256(b"result").hexdigest(),
        "sruplift": __version__,
        "notes": ["a note"],
    }
    assert [tuple(line) for line in (first, second, third, fourth)] == [KEYS] * 4
    assert [line["status"] for line in (second, third, fourth)] == ["failed", "failed", "skipped"]
    assert (second["output"], second["error"]) == (
        str(tmp_path / "d.png"),
        "cannot read c.png: damaged",
    )
    assert (third["input"], third["output"]) == (str(tmp_path / "none"), None)
    assert (fourth["notes"], fourth["output_sha256"]) == (["the output exists"], None)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "b.png", "report.jsonl"]


def test_a_line_is_there_before_the_next_input_begins(tmp_path: Path, job: Job) -> None:
    path = tmp_path / "report.jsonl"
    with Report(path, PARAMETERS) as written:
        for count in (1, 2):
            finish(written, job, b"result", replace=count > 1)
            assert len(lines(path)) == count


def test_the_input_is_what_it_was_before_the_work(tmp_path: Path, job: Job) -> None:
    with Report(tmp_path / "report.jsonl", PARAMETERS) as written:
        written.begin(job)
        job.source.write_bytes(b"changed meanwhile")
        job.destination.write_bytes(b"result")
        written.add(job, done(job))
    (line,) = read_report(tmp_path / "report.jsonl")
    assert line["input_sha256"] == hashlib.sha256(b"input").hexdigest()


def test_a_pipe_as_input_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    job = Job(tmp_path / "pipe.png", tmp_path / "b.png")
    with Report(tmp_path / "report.jsonl", PARAMETERS) as written:
        written.begin(job)
        written.add(job, Failure(job.source, ImageError("it is not a regular file")))
    assert read_report(tmp_path / "report.jsonl")[0]["input_sha256"] is None


def test_a_result_that_vanished_has_no_sha256(tmp_path: Path, job: Job) -> None:
    with Report(tmp_path / "report.jsonl", PARAMETERS) as written:
        written.begin(job)
        written.add(job, done(job))
    (line,) = read_report(tmp_path / "report.jsonl")
    assert (line["status"], line["output_bytes"], line["output_sha256"]) == ("done", None, None)


@pytest.mark.parametrize("name", ["ü\n\"'.png", os.fsdecode(b"\xff\xfe.png"), "e\u0301\u2028.png"])
def test_odd_names_survive(tmp_path: Path, name: str) -> None:
    path = tmp_path / "report.jsonl"
    with Report(path) as written:
        written.add(*[Skipped(tmp_path / name, tmp_path / f"x{name}", "the output exists")] * 2)
    (line,) = read_report(path)
    assert line["input"] == str(tmp_path / name)
    path.read_bytes().decode("utf-8")
    assert path.read_bytes().count(b"\n") == 1


def test_a_report_on_stdout(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", stdout)
    with Report(None, PARAMETERS) as written:
        finish(written, job, b"result")
    data = stdout.buffer.getvalue()  # type: ignore[attr-defined]
    assert json.loads(data)["status"] == "done"
    assert [file.name for file in job.source.parent.iterdir() if "begun" in file.name] == []


def test_a_full_disk_is_said(tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            return len(data) // 2

    with Report(tmp_path / "report.jsonl", PARAMETERS) as written:
        written.begin(job)
        with monkeypatch.context() as patch:
            patch.setattr(written, "_file", Full())
            with pytest.raises(ReportError) as caught:
                written.add(job, done(job))
    assert str(caught.value) == (
        f"cannot write report {tmp_path / 'report.jsonl'}: no space left on device"
    )


# ---- Half lines


def test_half_a_line_is_no_line_and_goes_before_the_next(tmp_path: Path, job: Job) -> None:
    path = tmp_path / "report.jsonl"
    with Report(path, PARAMETERS) as written:
        finish(written, job, b"result")
    whole = path.read_bytes()
    for length in (1, 5, 10, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole + whole[:length])
        assert len(read_report(path)) == 1
        with Report(path, PARAMETERS) as written:
            finish(written, job, b"result", replace=True)
        assert len(lines(path)) == 2
        path.write_bytes(whole[:length])
        assert read_report(path) == []
        with Report(path, PARAMETERS) as written:
            finish(written, job, b"result", replace=True)
        assert len(lines(path)) == 1


def test_only_the_end_of_the_line_is_missing(tmp_path: Path, job: Job) -> None:
    path = tmp_path / "report.jsonl"
    with Report(path, PARAMETERS) as written:
        finish(written, job, b"result")
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(read_report(path)) == 1
    with Report(path, PARAMETERS) as written:
        finish(written, job, b"result", replace=True)
    assert len(lines(path)) == 2


def test_lines_of_other_shapes_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    with Report(path) as written:
        written.add(*[Skipped(tmp_path / "a", tmp_path / "b", "why")] * 2)
    path.write_bytes(path.read_bytes() + b'{"input": "x"}\n[1]\n7\nnonsense\n\n')
    assert len(read_report(path)) == 1


# ---- Files that are no report


@pytest.mark.parametrize("content", [b"\x89PNG\r\n", b"# notes\n", b"{}\n", b"\n", b'{"a": 1}'])
def test_another_file_is_not_touched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "precious"
    path.write_bytes(content)
    for use in (Report, read_report):
        with pytest.raises(UsageError, match="is not a report of sruplift"):
            use(path)
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["precious"]


def test_places_where_no_report_can_be(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in {
        tmp_path: "is a folder",
        tmp_path / "absent" / "report.jsonl": "there is no folder",
        tmp_path / "pipe": "is not a regular file",
    }.items():
        with pytest.raises(UsageError, match=said):
            Report(path)


# ---- What was begun


def test_what_was_begun_and_has_no_line_is_known(tmp_path: Path, job: Job) -> None:
    path = tmp_path / "report.jsonl"
    with Report(path, PARAMETERS) as written:
        written.begin(job)
        assert read_begun(path) == {str(job.destination)}
        written.add(job, Failure(job.source, ImageError("damaged")))
        assert read_begun(path) == set()
        written.begin(job)  # Tried again: the older line says nothing of it.
        assert read_begun(path) == {str(job.destination)}
    assert begun_path(path).exists()
    with Report(path, PARAMETERS) as later:
        finish(later, job, b"result", replace=True)
    assert not begun_path(path).exists()


def test_a_file_that_is_somebody_elses_is_never_ours(tmp_path: Path, job: Job) -> None:
    job.destination.write_bytes(b"precious")
    with Report(tmp_path / "report.jsonl", PARAMETERS) as written:
        written.begin(job)
        assert read_begun(tmp_path / "report.jsonl") == set()
        written.begin(dataclasses.replace(job, replace=True))
        assert read_begun(tmp_path / "report.jsonl") == {str(job.destination)}


def test_half_a_note_of_what_was_begun(tmp_path: Path, job: Job) -> None:
    path = tmp_path / "report.jsonl"
    with Report(path, PARAMETERS) as written:
        written.begin(job)
    with begun_path(path).open("ab") as file:
        file.write(b'{"output": "/x')
    assert read_begun(path) == {str(job.destination)}
    other = dataclasses.replace(job, destination=tmp_path / "c.png")
    with Report(path, PARAMETERS) as written:
        written.begin(other)
    assert read_begun(path) == {str(job.destination), str(other.destination)}
