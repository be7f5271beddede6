"""Where results go, before any image is opened."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest

from sruplift import outputs
from sruplift.errors import ImageError, SrupliftWarning, UsageError
from sruplift.files import TEMPLATE, Failure, Found, Job
from sruplift.inputs import gather
from sruplift.outputs import Naming, make_folders, mixes_up, plan_jobs


def touch(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


def plan(
    inputs: Sequence[Path],
    output: Path | None = None,
    suffix: str | None = None,
    folder: bool = False,
    recursive: bool = False,
    template: str = TEMPLATE,
) -> list[tuple[str, Path]]:
    """(source's name, destination) of each job; failures are not expected."""
    found = gather([*map(str, inputs)], recursive=recursive, avoid=output)
    naming = Naming("pan", 4, suffix, template)
    jobs = plan_jobs(found, output, naming, into_folder=folder)
    assert all(isinstance(job, Job) for job in jobs), jobs
    return [(job.source.name, job.destination) for job in jobs if isinstance(job, Job)]


# ---- Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.png", "a_pan_x4.png"),
        ("a.JPG", "a_pan_x4.JPG"),
        ("b.c.jpeg", "b.c_pan_x4.jpeg"),
        ("a.bmp", "a_pan_x4.png"),
        ("a.gif", "a_pan_x4.gif"),
        ("a", "a_pan_x4.png"),
        ("-a.png", "-a_pan_x4.png"),
        ("a\nb.png", "a\nb_pan_x4.png"),
        ("{stem}.png", "{stem}_pan_x4.png"),
    ],
)
def test_default_names(name: str, expected: str) -> None:
    assert Naming("pan", 4).name(Path(name)) == expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{stem}{suffix}", "b.webp"),
        ("{parent}-{index:05}{suffix}", "trip-00012.webp"),
        ("{{{stem}}} {model} {scale} {size}.tif", "{b} pan 4 x4.tif"),
        (".{stem:>3}.PNG", ".  b.PNG"),
    ],
)
def test_templates(template: str, expected: str) -> None:
    naming = Naming("pan", 4, template=template)
    assert naming.name(Path("trip/b.webp"), 12) == expected


@pytest.mark.parametrize(
    ("scale", "label", "expected"),
    [
        (4.0, None, "b_pan_x4.webp"),
        (2.5, None, "b_pan_x2.5.webp"),
        (None, "3000w", "b_pan_3000w.webp"),
    ],
)
def test_sizes_that_are_no_whole_scale(
    scale: float | None, label: str | None, expected: str
) -> None:
    assert Naming("pan", scale, label=label).name(Path("trip/b.webp")) == expected


def test_a_scale_that_each_image_has_for_itself_is_in_no_name() -> None:
    with pytest.raises(UsageError, match=r"there is no \{scale\}"):
        Naming("pan", None, template="{stem}_{scale}{suffix}", label="3000w")


def test_the_parent_of_a_bare_name_is_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Naming("pan", 4, template="{parent}.png").name(Path("a")) == f"{tmp_path.name}.png"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{name}.png", "unknown field 'name'"),
        ("{stm}{suffix}", "did you mean 'stem'"),
        ("{}.png", "unknown field ''"),
        ("{stem.upper}.png", "unknown field 'stem.upper'"),
        ("{stem!r}.png", "a field has a name and at most a format"),
        ("{stem:{scale}}.png", "a field has a name and at most a format"),
        ("{stem", "expected '}'"),
        ("stem}", "Single '}'"),
        ("{stem:05d}{suffix}", "Unknown format code 'd'"),
        ("{parent}/{stem}{suffix}", "'trip/b.png' for trip/b.png is not the name of a file"),
        ("", "'' for trip/b.png is not the name of a file"),
        ("..", "'..' for trip/b.png is not the name of a file"),
        ("{stem}", "b: cannot write suffixless images"),
        ("{stem}.bmp", "cannot write '.bmp' images"),
    ],
)
def test_templates_that_give_no_name(template: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Naming("pan", 4, template=template).name(Path("trip/b.png"))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_template_and_a_format_that_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="--format webp contradicts the name"):
        Naming("pan", 4, ".webp", "{stem}.png").name(Path("b.png"))


# ---- Places


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


def test_a_pattern_that_matches_one_file_goes_into_a_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    assert plan([tmp_path / "*.png"], tmp_path / "x.jpg") == [("a.png", tmp_path / "x.jpg")]


def test_the_tree_is_mirrored(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/s/b.png", "in/s/t/c.png", "in/u/b.png")
    out = tmp_path / "out"
    expected = {"a_pan_x4.png", "s/b_pan_x4.png", "s/t/c_pan_x4.png", "u/b_pan_x4.png"}
    for inputs in ([tmp_path / "in"], [tmp_path / "in" / "**" / "*.png"]):
        found = plan(inputs, out, recursive=True)
        assert {str(path.relative_to(out)) for _, path in found} == expected
    beside = {str(path.relative_to(tmp_path / "in")) for _, path in plan(inputs, recursive=True)}
    assert beside == expected


def test_inputs_are_numbered_without_the_failures(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/b.png")
    (tmp_path / "none").mkdir()
    found = gather([str(tmp_path / "none"), str(tmp_path / "in")])
    naming = Naming("pan", 4, template="{index:03}{suffix}")
    failure, *jobs = plan_jobs(found, tmp_path / "out", naming)
    assert isinstance(failure, Failure)
    names = [job.destination.name for job in jobs if isinstance(job, Job)]
    assert names == ["001.png", "002.png"]


def test_several_inputs_do_not_go_into_a_file(tmp_path: Path) -> None:
    inputs = touch(tmp_path, "a.png", "b.png", "c.png")
    with pytest.raises(UsageError, match="several images need a folder"):
        plan(inputs[:2], inputs[2])


def test_a_template_does_not_go_with_a_file(tmp_path: Path) -> None:
    inputs = touch(tmp_path, "a.png")
    with pytest.raises(UsageError, match="needs a folder for --output"):
        plan(inputs, tmp_path / "x.png", template="{stem}{suffix}")


def test_a_folder_is_not_made_by_the_name_of_an_image(tmp_path: Path) -> None:
    inputs = touch(tmp_path, "a.png", "b.png")
    with pytest.raises(UsageError, match=r"x\.jpg is the name of one image, and there are several"):
        plan(inputs, tmp_path / "x.jpg")
    assert len(plan(inputs, tmp_path / "x.jpg", folder=True)) == 2
    (tmp_path / "x.jpg").mkdir()
    assert len(plan(inputs, tmp_path / "x.jpg")) == 2
    assert len(plan(inputs, tmp_path / "x.2026")) == 2


def test_suffixes_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    inputs = touch(tmp_path, "a.png")
    with pytest.raises(UsageError, match=r"x\.bmp: cannot write '\.bmp' images \(valid: \.png"):
        plan(inputs, tmp_path / "x.bmp")
    with pytest.raises(UsageError, match=r"x has no suffix .*: for a folder write .*x/$"):
        plan(inputs, tmp_path / "x")
    with pytest.raises(UsageError, match=r"cannot write '\.heic'"):
        plan(inputs, suffix=".heic")
    with pytest.raises(UsageError, match="contradicts the name"):
        plan(inputs, tmp_path / "x.png", suffix=".jpg")
    assert plan(inputs, tmp_path / "x.jpeg", suffix=".jpg")


def test_a_name_that_the_system_refuses_is_a_failure(tmp_path: Path) -> None:
    inputs = touch(tmp_path, f"{'a' * 249}.png", "b.png")
    failure, job = plan_jobs([*map(Found, inputs)], None, Naming("pan", 4))
    assert isinstance(failure, Failure)
    assert str(failure.error).endswith("_pan_x4.png: file name too long")
    assert isinstance(job, Job)


# ---- Clashes


def test_results_of_an_earlier_run_are_not_enlarged_again(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a_pan_x4.png", "lone_pan_x4.png")
    assert [name for name, _ in plan([tmp_path])] == ["a.png", "lone_pan_x4.png"]
    assert [name for name, _ in plan([tmp_path / "a*.png"])] == ["a.png"]
    with pytest.raises(UsageError, match="is an input and would be overwritten"):
        plan([tmp_path, tmp_path / "a_pan_x4.png"])


def test_nor_are_those_of_another_network_or_size(tmp_path: Path) -> None:
    photos = ["a.png", "a_panorama_x4.png", "lone_pan_x2.png", "b_x4.png"]
    results = ["a_pan_x2.png", "a_hpinet-s_x4.jpg", "a_maffsrn_3000w.png", "a_pan_x2_pan_x4.png"]
    results += ["a_pan_12.5mp.tif", "a_a2n_640x480.png", "a_pan_maffsrn_x4_lam.png"]
    results += ["a_pan_x3_srram_x2.png"]  # What that one was made of is gone.
    said = len(results) - 1  # Of a_pan_x2.png the same run would make a_pan_x2_pan_x4.png.
    touch(tmp_path, *photos, *results)
    with pytest.warns(SrupliftWarning, match=rf"^{said} of the images are left out .* of a "):
        assert [name for name, _ in plan([tmp_path])] == sorted(photos)
    with pytest.warns(SrupliftWarning, match="are left out"):
        assert [name for name, _ in plan([tmp_path], tmp_path)] == sorted(photos)
    assert len(plan([tmp_path], tmp_path / "elsewhere", folder=True)) == len(photos + results)
    assert len(plan([tmp_path / "a.png", tmp_path / "a_pan_x2.png"])) == 2


def test_results_of_an_own_template_are_known_by_it(tmp_path: Path) -> None:
    photos = ["a.jpg", "a.png", "srram b.png"]
    touch(tmp_path, *photos, "srram a.png", "a_srram_x2.png")
    with pytest.warns(SrupliftWarning, match="^2 of the images are left out"):
        names = [name for name, _ in plan([tmp_path], template="{model} {stem}{suffix}")]
    assert names == photos


def test_a_number_alone_makes_no_result(tmp_path: Path) -> None:
    photos = ["a.png", "a_2.png", "a_640x480.png"]
    touch(tmp_path, *photos)
    for field in ("scale", "size"):
        template = f"{{stem}}_{{{field}}}{{suffix}}"
        assert [name for name, _ in plan([tmp_path], template=template)] == photos


def test_an_image_is_never_its_own_result(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    with pytest.raises(UsageError, match=r"a\.png is an input and would be overwritten"):
        plan([tmp_path], template="{stem}{suffix}")
    with pytest.raises(UsageError, match=r"a\.png is an input and would be overwritten"):
        plan([tmp_path], tmp_path, template="{stem}{suffix}")
    touch(tmp_path / "n", "0.png", "1.png")
    with pytest.raises(UsageError, match=r"1\.png is an input and would be overwritten"):
        plan([tmp_path / "n"], template="{index}{suffix}")


def test_two_inputs_with_one_output_are_refused(tmp_path: Path) -> None:
    inputs = touch(tmp_path, "a.png", "a.jpg")
    assert len(plan(inputs)) == 2
    with pytest.raises(UsageError, match=r"a\.png and .*a\.jpg would both be written to .*a_pan"):
        plan(inputs, suffix=".png")
    with pytest.raises(UsageError, match="would both be written"):
        plan([*touch(tmp_path, "1/x.png", "2/x.png")], tmp_path / "out")


def test_an_output_that_is_an_input_is_refused(tmp_path: Path) -> None:
    inputs = touch(tmp_path, "a.png", "a_pan_x4.png")
    with pytest.raises(UsageError, match="is an input and would be overwritten"):
        plan(inputs)
    with pytest.raises(UsageError, match="is an input and would be overwritten"):
        plan(inputs[:1], inputs[0])
    (tmp_path / "link.png").symlink_to(inputs[0])
    with pytest.raises(UsageError, match="is an input and would be overwritten"):
        plan(inputs[:1], tmp_path / "link.png")


ACCENTS = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]


@pytest.mark.parametrize("names", [["1/a.png", "2/A.PNG"], [f"1/{ACCENTS[0]}", f"2/{ACCENTS[1]}"]])
def test_names_that_only_some_systems_tell_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    inputs = touch(tmp_path, *names)
    asked: list[Path] = []

    def mixes(folder: Path, one: str, other: str) -> bool:
        asked.append(folder)
        assert one != other
        return bool(answer)

    monkeypatch.setattr(outputs, "mixes_up", mixes)
    answer = False
    assert len({path.name for _, path in plan(inputs, tmp_path / "new" / "out")}) == 2
    assert asked == [tmp_path]  # The folder that exists.
    answer = True
    with pytest.raises(UsageError, match="would both be written"):
        plan(inputs, tmp_path / "new" / "out")


def test_folders_that_only_some_systems_tell_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "in/s/a.png", "in/S/a.png")
    if len(list((tmp_path / "in").iterdir())) == 1:
        pytest.skip("this file system takes s and S for one")
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(outputs, "mixes_up", lambda _, *names: asked.append(names))
    assert len(plan([tmp_path / "in"], tmp_path / "out", recursive=True)) == 2
    assert asked == [("S", "s")]


def test_the_file_system_is_asked_what_it_takes_for_one(tmp_path: Path) -> None:
    (tmp_path / "A").touch()
    assert mixes_up(tmp_path, "A", "a") == (tmp_path / "a").exists()
    assert mixes_up(tmp_path, "a", "a")
    assert not mixes_up(tmp_path, "a", "b")
    assert mixes_up(tmp_path / "absent", "a", "b")
    assert [path.name for path in tmp_path.iterdir()] == ["A"]


# ---- Folders


def test_folders_are_made_where_they_are_needed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = [
        Job(Path("a.png"), out / "s" / "a.png"),
        Failure(Path("b"), ImageError("no")),
        Job(Path("c.png"), out / "c.png"),
    ]
    assert make_folders(jobs, out) == jobs
    assert (out / "s").is_dir()
    assert make_folders([Job(Path("c.png"), tmp_path / "x" / "c.png")], tmp_path / "x" / "c.png")
    assert not (tmp_path / "x").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    touch(tmp_path, "out/s", "file")
    jobs = [Job(Path(name), tmp_path / "out" / name / "x.png") for name in ("s", "t")]
    failure, job = make_folders(jobs, tmp_path / "out")
    assert isinstance(failure, Failure)
    assert str(failure.error).startswith(f"cannot make folder {tmp_path}/out/s: ")
    assert job == jobs[1]
    with pytest.raises(ImageError, match=r"cannot make folder .*file/out"):
        make_folders([Job(Path("a"), tmp_path / "file/out/a.png")], tmp_path / "file/out")
