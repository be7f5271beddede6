"""Which files go in and out, before any is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from sruplift.errors import UsageError
from sruplift.files import Failure, Job, output_name, plan_jobs, shown


def touch(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return [folder / name for name in names]


def plan(
    inputs: list[Path], output: Path | None = None, suffix: str | None = None, folder: bool = False
) -> list[tuple[str, Path]]:
    """(source's name, destination) of each job; failures are not expected."""
    jobs = plan_jobs(inputs, output, model="pan", scale=4, suffix=suffix, into_folder=folder)
    assert all(isinstance(job, Job) for job in jobs)
    return [(job.source.name, job.destination) for job in jobs if isinstance(job, Job)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.png", "a_pan_x4.png"),
        ("a.JPG", "a_pan_x4.JPG"),
        ("b.c.jpeg", "b.c_pan_x4.jpeg"),
        ("a.bmp", "a_pan_x4.png"),
        ("a.gif", "a_pan_x4.gif"),
        ("a", "a_pan_x4.png"),
    ],
)
def test_default_names(name: str, expected: str) -> None:
    assert output_name(Path(name), "pan", 4) == expected


def test_default_output_is_beside_the_input(tmp_path: Path) -> None:
    inputs = touch(tmp_path, "a.png")
    assert plan(inputs) == [("a.png", tmp_path / "a_pan_x4.png")]
    assert plan(inputs, suffix=".webp") == [("a.png", tmp_path / "a_pan_x4.webp")]


def test_output_may_be_a_file_or_a_folder(tmp_path: Path) -> None:
    inputs = touch(tmp_path, "a.png", "b.png")
    assert plan(inputs[:1], tmp_path / "x.jpg") == [("a.png", tmp_path / "x.jpg")]
    assert plan(inputs[:1], tmp_path) == [("a.png", tmp_path / "a_pan_x4.png")]
    new = tmp_path / "new"
    assert plan(inputs[:1], new, folder=True) == [("a.png", new / "a_pan_x4.png")]
    assert [destination.parent for _, destination in plan(inputs, new)] == [new, new]


def test_a_folder_means_its_images(tmp_path: Path) -> None:
    touch(tmp_path / "in", "b.png", "a.JPG", "c.txt", ".hidden.png", "d.gif")
    touch(tmp_path / "in" / "sub.png", "e.png")
    assert [name for name, _ in plan([tmp_path / "in"])] == ["a.JPG", "b.png", "d.gif"]


def test_results_of_an_earlier_run_are_not_enlarged_again(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a_pan_x4.png", "lone_pan_x4.png")
    assert [name for name, _ in plan([tmp_path])] == ["a.png", "lone_pan_x4.png"]


def test_a_file_that_is_named_twice_is_done_once(tmp_path: Path) -> None:
    inputs = touch(tmp_path, "a.png")
    assert len(plan([*inputs, *inputs, tmp_path])) == 1


def test_a_folder_without_images_fails_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    inputs = [tmp_path / "empty", *touch(tmp_path, "a.png")]
    failure, job = plan_jobs(inputs, None, model="pan", scale=4)
    assert isinstance(failure, Failure)
    assert str(failure.error) == f"no images in folder {tmp_path / 'empty'}"
    assert isinstance(job, Job)


def test_two_inputs_with_one_output_are_refused(tmp_path: Path) -> None:
    inputs = touch(tmp_path, "a.png", "a.jpg")
    assert len(plan(inputs)) == 2
    with pytest.raises(UsageError, match=r"a\.png and .*a\.jpg would both be written to .*a_pan"):
        plan(inputs, suffix=".png")
    with pytest.raises(UsageError, match="would both be written"):
        plan([*touch(tmp_path / "1", "x.png"), *touch(tmp_path / "2", "x.png")], tmp_path / "out")


def test_an_output_that_is_an_input_is_refused(tmp_path: Path) -> None:
    inputs = touch(tmp_path, "a.png", "a_pan_x4.png")
    with pytest.raises(UsageError, match="is an input and would be overwritten"):
        plan(inputs)
    with pytest.raises(UsageError, match="is an input and would be overwritten"):
        plan(inputs[:1], inputs[0])
    (tmp_path / "link.png").symlink_to(inputs[0])
    with pytest.raises(UsageError, match="is an input and would be overwritten"):
        plan(inputs[:1], tmp_path / "link.png")


def test_suffixes_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    inputs = touch(tmp_path, "a.png")
    with pytest.raises(UsageError, match=r"x\.bmp: cannot write '\.bmp' images \(valid: \.png"):
        plan(inputs, tmp_path / "x.bmp")
    with pytest.raises(UsageError, match="cannot write suffixless images"):
        plan(inputs, tmp_path / "x")
    with pytest.raises(UsageError, match=r"cannot write '\.heic'"):
        plan(inputs, suffix=".heic")
    with pytest.raises(UsageError, match="contradicts the name"):
        plan(inputs, tmp_path / "x.png", suffix=".jpg")
    assert plan(inputs, tmp_path / "x.jpeg", suffix=".jpg")


def test_several_inputs_do_not_go_into_a_file(tmp_path: Path) -> None:
    inputs = touch(tmp_path, "a.png", "b.png", "c.png")
    with pytest.raises(UsageError, match="several images need a folder"):
        plan(inputs[:2], inputs[2])


def test_a_circle_of_links_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "x.png").symlink_to(tmp_path / "y.png")
    (tmp_path / "y.png").symlink_to(tmp_path / "x.png")
    touch(tmp_path, "a.png")
    assert [name for name, _ in plan([tmp_path])] == ["a.png"]
    assert [name for name, _ in plan([tmp_path / "x.png"])] == ["x.png"]


def test_a_name_that_is_too_long_is_left_to_the_reader() -> None:
    path = Path("a" * 300 + ".png")
    assert plan([path], Path("b" * 300 + ".png")) == [(path.name, Path("b" * 300 + ".png"))]


def test_names_that_break_a_line_are_quoted() -> None:
    assert shown(Path("a b.png")) == "a b.png"
    assert shown(Path("a\nb.png")) == repr("a\nb.png")
