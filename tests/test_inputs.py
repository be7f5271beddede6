"""Which images are meant by names, patterns, folders and lists."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sruplift import inputs as inputs_module
from sruplift.errors import UsageError
from sruplift.files import Failure, Found
from sruplift.inputs import gather, read_list


def touch(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paths(*inputs: str | Path, recursive: bool = False, avoid: Path | None = None) -> list[str]:
    """What is found, as text; failures are not expected."""
    found = gather([*map(str, inputs)], recursive=recursive, avoid=avoid)
    assert all(isinstance(each, Found) for each in found), found
    return [str(each.path) for each in found if isinstance(each, Found)]


# ---- Names and folders


def test_a_folder_means_its_images(here: Path) -> None:
    touch(here, "in/b.png", "in/a.JPG", "in/c.txt", "in/.hidden.png", "in/d.gif", "in/s.png/e.png")
    assert paths("in") == ["in/a.JPG", "in/b.png", "in/d.gif"]
    assert gather(["in"])[0] == Found(Path("in/a.JPG"), Path("in"), named=False)


def test_a_named_file_is_taken_whatever_it_is(here: Path) -> None:
    touch(here, "notes.txt", ".hidden.png")
    assert paths("notes.txt", ".hidden.png", "absent") == ["notes.txt", ".hidden.png", "absent"]
    assert gather(["notes.txt"]) == [Found(Path("notes.txt"))]


def test_a_file_that_is_found_twice_is_done_once(here: Path) -> None:
    touch(here, "in/a.png", "in/b.png")
    assert paths("in", "in/a.png", "./in/../in/b.png", here / "in") == ["in/a.png", "in/b.png"]
    first, second = gather(["in", "in/a.png"])
    assert isinstance(first, Found)
    assert isinstance(second, Found)
    assert (first.named, second.named) == (True, False)


def test_a_folder_without_images_fails_and_the_others_go_on(here: Path) -> None:
    touch(here, "empty/notes.txt", "a.png")
    failure, found = gather(["empty", "a.png"])
    assert isinstance(failure, Failure)
    assert str(failure.error) == "no images in folder empty"
    assert found == Found(Path("a.png"))


def test_an_empty_name_is_not_the_current_folder(here: Path) -> None:
    touch(here, "a.png")
    with pytest.raises(UsageError, match="an input is empty"):
        gather([""])


def test_a_circle_of_links_is_no_obstacle(here: Path) -> None:
    Path("x.png").symlink_to("y.png")
    Path("y.png").symlink_to("x.png")
    touch(here, "a.png")
    assert paths(".") == ["a.png"]
    assert paths("x.png") == ["x.png"]


def test_only_regular_files_are_images(here: Path) -> None:
    touch(here, "a.png")
    os.mkfifo("pipe.png")
    assert paths(".") == ["a.png"]


# ---- Subfolders


def test_recursive_means_all_subfolders_but_hidden_ones(here: Path) -> None:
    touch(here, "in/z.png", "in/b/x.png", "in/b/c/y.jpg", "in/.cache/no.png", "in/b/.no.png")
    assert paths("in", recursive=True) == ["in/b/c/y.jpg", "in/b/x.png", "in/z.png"]
    assert {each.root for each in gather(["in"], recursive=True) if isinstance(each, Found)} == {
        Path("in")
    }


def test_links_to_folders_are_followed_once(here: Path) -> None:
    touch(here, "in/b/x.png", "elsewhere/y.png")
    Path("in/b/up").symlink_to(here / "in")
    Path("in/a").symlink_to(here / "in" / "b")
    Path("in/out").symlink_to(here / "elsewhere")
    Path("elsewhere/back").symlink_to(here / "in")
    assert paths("in", recursive=True) == ["in/b/x.png", "in/out/y.png"]
    assert paths("in/**") == ["in/b/x.png", "in/out/y.png"]


def test_the_folder_for_results_is_not_searched(here: Path) -> None:
    touch(here, "in/a.png", "in/out/a_pan_x4.png", "in/out/deep/b_pan_x2.png")
    out = here / "in" / "out"
    assert paths("in", recursive=True, avoid=out) == ["in/a.png"]
    for pattern in ("in/**/*.png", "in/*", "in/**", "i*/*/*.png", "in/*.png"):
        found = [each for each in gather([pattern], avoid=out) if isinstance(each, Found)]
        assert [str(each.path) for each in found] in (["in/a.png"], []), pattern
    # Unless it is named.
    assert paths("in/out", avoid=out) == ["in/out/a_pan_x4.png"]
    assert paths("in/out/*.png", avoid=out) == ["in/out/a_pan_x4.png"]


def test_a_folder_that_cannot_be_listed_is_a_failure(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(here, "in/a.png", "in/locked/b.png", "in/z.png")
    real = os.scandir

    def scandir(folder: Path) -> object:
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(inputs_module.os, "scandir", scandir)
    found = gather(["in"], recursive=True)
    assert [type(each) for each in found] == [Found, Failure, Found]
    assert isinstance(found[1], Failure)
    assert str(found[1].error) == "cannot read folder in/locked: permission denied"


# ---- Patterns


def test_patterns_that_the_shell_did_not_expand(here: Path) -> None:
    touch(here, "a1.png", "a2.jpg", "b.png", "a3.txt", ".a4.png", "sub/a5.png")
    assert paths("a*.png", "[b]*") == ["a1.png", "b.png"]
    assert paths("a?.*") == ["a1.png", "a2.jpg"]
    assert paths("a*.txt") == ["a3.txt"]
    assert paths("s*") == ["sub/a5.png"]
    assert paths("s*/*.png") == ["sub/a5.png"]


def test_two_stars_are_any_number_of_folders(here: Path) -> None:
    touch(here, "in/a.png", "in/b/c.png", "in/b/d/e.jpg", "in/.h/f.png", "in/b/notes.txt", "g.png")
    assert paths("in/**/*.png") == ["in/a.png", "in/b/c.png"]
    assert paths("in/**") == ["in/a.png", "in/b/c.png", "in/b/d/e.jpg"]
    assert paths("in/**/d/*") == ["in/b/d/e.jpg"]
    assert paths("i?/**/b/**/*.jpg") == ["in/b/d/e.jpg"]
    assert paths("**/*.png") == ["g.png", "in/a.png", "in/b/c.png"]
    assert paths(here / "in" / "**" / "e.*") == [str(here / "in/b/d/e.jpg")]
    (found,) = gather(["in/**/e.jpg"])
    assert found == Found(Path("in/b/d/e.jpg"), Path("in"), named=False)


@pytest.mark.parametrize("address", ["http://example.org/cat.png", "s3://b/x.png?v=1"])
def test_an_address_is_no_file(here: Path, address: str) -> None:
    for given, listed in (([address], []), ([], [address])):
        (failure,) = gather(given, listed)
        assert isinstance(failure, Failure)
        assert str(failure.error) == f"{address} is an address: download it first"
    photo = here / Path(address)
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"")
    assert gather([address]) == [Found(Path(address))]


def test_a_name_that_exists_is_no_pattern(here: Path) -> None:
    touch(here, "a[1].png", "a1.png", "*.png")
    assert paths("a[1].png") == ["a[1].png"]
    assert paths("*.png") == ["*.png"]
    assert paths("?[[]1].png") == ["a[1].png"]


def test_a_pattern_that_nothing_matches(here: Path) -> None:
    touch(here, "a.png")
    for pattern, said in {
        "*.jpg": "there is no file *.jpg, and none matches it as a pattern",
        "none/**/*.jpg": "cannot read folder none: no such file or directory",
    }.items():
        (failure,) = gather([pattern])
        assert isinstance(failure, Failure)
        assert str(failure.error) == said
    assert gather([], ["*.jpg"]) == [Found(Path("*.jpg"))]


# ---- Lists


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"a.png\nb c.png\n", ["a.png", "b c.png"]),
        (b"a.png\r\n\r\nb.png", ["a.png", "b.png"]),
        (b"\xef\xbb\xbfa.png\n", ["a.png"]),
        (b"a\nb.png\0c.png\0", ["a\nb.png", "c.png"]),
        ("ü\n".encode(), ["ü"]),
        (b"\xff.png\n", [os.fsdecode(b"\xff.png")]),
        (b"", []),
        (b"\n\n", []),
        ("f/a.png\r\n\r\nü.png\r\n".encode("utf-16"), ["f/a.png", "ü.png"]),
        (b"\xfe\xff" + "a.png\nb.png".encode("utf-16-be"), ["a.png", "b.png"]),
        (b"a\0b\0c\0", ["a", "b", "c"]),
    ],
)
def test_lists(data: bytes, names: list[str]) -> None:
    assert read_list(data) == names


@pytest.mark.parametrize(
    "data",
    [
        "f/a.png\n".encode("utf-16-le"),
        "äöü/ﬀ.png\n".encode("utf-16-be"),
        "a.png\n".encode("utf-16") + b"x",
    ],
)
def test_lists_that_are_not_text(data: bytes) -> None:
    with pytest.raises(UsageError, match=r"UTF-16.*: save it as UTF-8$"):
        read_list(data)
