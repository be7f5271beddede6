"""``sruplift upscale``: odd names, files that change under its feet, disks that fill up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from corpus import GREY, RGB, drawing, png
from pictures import bilinear_pan, photo
from PIL import Image as Pillow

from sruplift import store
from sruplift.cli import enlarging as cli
from sruplift.cli.main import run as main
from sruplift.reading import read_image


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PAN x2 that enlarges bilinearly."""
    return bilinear_pan(tmp_path_factory.mktemp("weights"), 2)


@pytest.fixture
def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    weights: Path,
) -> Run:
    """``sruplift upscale ARGUMENTS`` in ``tmp_path``, with weights that are here."""
    monkeypatch.chdir(tmp_path)

    def run_(*arguments: object) -> Outcome:
        given = ["-s", "2", "-w", str(weights), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", ["sruplift", "upscale", *given])
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        assert isinstance(code, int)
        return Outcome(code, *capfd.readouterr())

    return run_


def save(name: str | Path, height: int = 8, width: int = 10) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(photo(height, width)).save(path)
    return path


def names(folder: str | Path) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


# ---- Names


ODD = ["a[1].png", "b[page=1,n=2].png", "-c.png", "d\ne.png", "f:g,h=1.png", "%d é.png"]


def test_names_that_libvips_would_take_for_options(run: Run) -> None:
    """Sixteen bits of colour are read and written by it."""
    drawn = drawing(RGB, 16, 6, 5)
    for name in ODD:
        Path(name).write_bytes(png(drawn))
    for suffix in ("png", "tif"):
        outcome = run("-o", suffix, "--format", suffix, "--", *ODD)
        assert outcome.code == 0
        assert names(suffix) == sorted(f"{Path(name).stem}_pan_x2.{suffix}" for name in ODD)
        for name in names(suffix):
            image = read_image(Path(suffix, name))
            assert (image.array.dtype, image.size) == (np.uint16, (12, 10))


def test_odd_names_of_pictures_that_are_streamed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "IN_MEMORY", 0)
    for name in ODD:
        save(name)
    assert run("-o", "out", "--", *ODD).code == 0
    assert len(names("out")) == len(ODD)
    for name in names("out"):
        assert read_image(Path("out", name)).size == (16, 20)


# ---- Files that are not what they were, or what they seem


def in_place_of(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a circle":
        path.symlink_to(path.name)
    elif kind == "a dangling link":
        path.symlink_to("nowhere.png")
    elif kind == "zeros without end":
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nothing", "there is no such file"),
        ("a folder", "it is a folder"),
        ("a pipe", "it is not a regular file"),
        ("a circle", "too many levels of symbolic links"),
        ("a dangling link", "there is no such file"),
        ("zeros without end", "it is not a regular file"),
    ],
)
def test_an_input_that_changes_after_the_plan(
    run: Run, monkeypatch: pytest.MonkeyPatch, kind: str, said: str
) -> None:
    for name in "abc":
        save(f"in/{name}.png")
    real = cli.prepare

    def prepare(*arguments: Any) -> Any:
        in_place_of(Path("in/b.png"), kind)
        return real(*arguments)

    monkeypatch.setattr(cli, "prepare", prepare)
    outcome = run("in", "-o", "out", "--report", "r.jsonl")
    assert outcome.code == 1
    sentences = outcome.err.splitlines()
    assert len(sentences) == 4
    assert sentences[1] == f"sruplift: cannot read in/b.png: {said}"
    assert sentences[-1].startswith("2 done, 1 failed in ")
    assert names("out") == ["a_pan_x2.png", "c_pan_x2.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_nobody_may_read(run: Run) -> None:
    save("a.png").chmod(0)
    save("b.png")
    outcome = run("a.png", "b.png", "-o", "out")
    assert outcome.code == 1
    assert "sruplift: cannot read a.png: permission denied\n" in outcome.err
    assert names("out") == ["b_pan_x2.png"]


def test_an_output_that_is_a_dangling_link(run: Run) -> None:
    """Where it points to is none of our business."""
    save("a.png")
    Path("b.png").symlink_to("nowhere.png")
    outcome = run("a.png", "-o", "b.png")
    assert outcome == (1, "", "sruplift: b.png exists (--overwrite replaces it)\n")
    assert Path("b.png").is_symlink()
    assert run("a.png", "-o", "b.png", "--overwrite").code == 0
    assert not Path("b.png").is_symlink()
    assert names(".") == ["a.png", "b.png"]


def test_an_output_folder_that_vanishes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save("a.png")
    real = cli.prepare

    def prepare(*arguments: Any) -> Any:
        items = real(*arguments)
        shutil.rmtree("out")
        return items

    monkeypatch.setattr(cli, "prepare", prepare)
    outcome = run("a.png", "-o", "out/")
    assert outcome.code == 1
    assert outcome.err == ("sruplift: cannot write out/a_pan_x2.png: there is no folder out\n")


def test_a_pipe_without_end_is_not_drunk_up(tmp_path: Path, weights: Path) -> None:
    """It would fill the disk before anybody saw that it is no image."""
    command = [sys.executable, "-m", "sruplift", "upscale", "-", "-o", "b.png", "-s", "2"]
    with Path("/dev/zero").open("rb") as zeros:
        done = subprocess.run(
            # Where this fails it must not fill the disk of whoever tests.
            ["sh", "-c", 'ulimit -f 100000 && exec "$@"', "sh", *command, "-w", str(weights)],
            stdin=zeros,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("sruplift: cannot read stdin: it is not an image that can be ")
    assert len(done.stderr.splitlines()) == 1
    assert names(tmp_path) == []


# ---- Disks that fill up


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of so many kilobytes."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mounted(size: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(folder)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small file system cannot be mounted here")
        return folder

    yield mounted
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_disk_that_is_full(
    run: Run,
    disk: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    depth: int,
    streamed: bool,
) -> None:
    """Of any size: whatever it is that does not fit any more, it is said, and nothing stays."""
    if streamed:
        monkeypatch.setattr(store, "IN_MEMORY", 0)
    Path("a.png").write_bytes(png(drawing(RGB, depth, 60, 60)))
    Path("small.png").write_bytes(png(drawing(GREY, 8, 4, 4)))
    # In turn: the pixels that are read do not fit, those of the result, the file beside them.
    for size in (4, 24, 48) if streamed else (4, 24):
        folder = disk(size)
        outcome = run("a.png", "-o", folder, "--format", suffix)
        assert outcome.code == 1
        assert len(outcome.err.splitlines()) == 1
        assert "no space left on device" in outcome.err.lower()
        assert names(folder) == []
        subprocess.run(["umount", str(folder)], check=True)
    folder = disk(1000)
    assert run("a.png", "small.png", "-o", folder, "--format", suffix).code == 0
    assert len(names(folder)) == 2
