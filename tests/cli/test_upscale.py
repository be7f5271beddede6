"""``sruplift upscale``: pictures on disk, sentences on stderr, exit codes."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from pictures import bilinear_pan, photo
from PIL import Image as Pillow

from sruplift import outfile
from sruplift import upscale as service
from sruplift.cli.main import run as main
from sruplift.reading import read_image


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PAN x4 that enlarges bilinearly."""
    return bilinear_pan(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], weights: Path) -> Run:
    """``sruplift upscale ARGUMENTS`` as the console script runs it, with weights that are here."""

    def run_(*arguments: object) -> Outcome:
        given = map(str, arguments)
        monkeypatch.setattr(sys, "argv", ["sruplift", "upscale", *given, "-w", str(weights)])
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        assert isinstance(code, int)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run_


def save(path: Path, array: np.ndarray | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(photo(8, 10) if array is None else array).save(path, **options)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- Good input


@pytest.mark.parametrize(
    ("names", "more", "sentence"),
    [
        (
            ["a.png"],
            (),
            "--quality is for JPEG, WEBP, AVIF: it changes nothing in PNG\n",
        ),
        (["a.png", "b.tif"], (), "it changes nothing in PNG, TIFF\n"),
        (["a.jpg"], ("--format", "png"), "it changes nothing in PNG\n"),
        (["a.png", "b.jpg"], (), ""),
        (["a.png"], ("--format", "webp"), ""),
    ],
)
def test_a_quality_that_no_result_has_is_warned_of(
    tmp_path: Path, run: Run, names: list[str], more: tuple[str, ...], sentence: str
) -> None:
    for name in names:
        save(tmp_path / "in" / name)
    outcome = run(tmp_path / "in", "-o", tmp_path / "out", "--quality", 80, *more)
    assert outcome.code == 0
    assert ("warning" in outcome.err) == bool(sentence)
    assert sentence in outcome.err


def test_a_photo_is_enlarged_beside_itself(tmp_path: Path, run: Run) -> None:
    source = save(tmp_path / "photo.jpg", quality=95)
    outcome = run(source)
    assert outcome.code == 0
    assert outcome.out == ""
    expected = rf"{source} 10x8 -> {tmp_path}/photo_pan_x4.jpg 40x32, cpu, (bf16|fp32), \d+\.\d s\n"
    assert re.fullmatch(expected, outcome.err)
    assert read_image(tmp_path / "photo_pan_x4.jpg").size == (32, 40)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "avif"])
def test_formats_by_suffix_and_by_option(tmp_path: Path, run: Run, suffix: str) -> None:
    source = save(tmp_path / "a.bmp")
    assert run(source, "-o", tmp_path / f"b.{suffix}").code == 0
    assert run(source, "--format", suffix).code == 0
    for name in (f"b.{suffix}", f"a_pan_x4.{suffix}"):
        with Pillow.open(tmp_path / name) as written:
            assert written.size == (40, 32)
            assert written.format == {"jpg": "JPEG"}.get(suffix, suffix.upper())


def test_a_folder_into_a_new_folder(tmp_path: Path, run: Run) -> None:
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "b.jpg")
    (tmp_path / "in" / "notes.txt").touch()
    assert run(tmp_path / "in", "-o", tmp_path / "new" / "out").code == 0
    assert names(tmp_path / "new" / "out") == ["a_pan_x4.png", "b_pan_x4.jpg"]


def test_one_file_into_a_folder_that_ends_in_a_slash(tmp_path: Path, run: Run) -> None:
    assert run(save(tmp_path / "a.png"), "-o", f"{tmp_path}/out/").code == 0
    assert names(tmp_path / "out") == ["a_pan_x4.png"]


def test_seams_are_told_on_request(tmp_path: Path, run: Run) -> None:
    source = save(tmp_path / "photo.png", photo(40, 120))
    result = run(source, "--verify-seams", "--tile", "64", "--overlap", "16")
    assert result.code == 0
    assert "tiles of 64 with overlap 16 " in result.err
    tiny = save(tmp_path / "tiny.png", photo(4, 6))
    result = run(tiny, "--verify-seams")
    assert (result.code, "too small to be cut into tiles" in result.err) == (0, True)
    assert (tmp_path / "tiny_pan_x4.png").is_file()


def test_tiles_change_nothing(tmp_path: Path, run: Run) -> None:
    source = save(tmp_path / "a.png", photo(40, 50))
    for name, options in {
        "whole.png": [],
        "tiled.png": ["--tile", "16", "--overlap", "4"],
        "auto.png": ["--tile", "24"],
    }.items():
        assert run(source, "-o", tmp_path / name, "--precision", "fp32", *options).code == 0
    whole, tiled, auto = (
        read_image(tmp_path / name).pixels.astype(int)
        for name in ("whole.png", "tiled.png", "auto.png")
    )
    assert np.abs(whole - tiled).max() <= 1
    assert np.abs(whole - auto).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (3, 20_000)])
def test_extreme_shapes(tmp_path: Path, run: Run, size: tuple[int, int]) -> None:
    source = save(tmp_path / "a.png", np.full((*size, 3), 90, np.uint8))
    outcome = run(source)
    assert outcome.code == 0
    result = read_image(tmp_path / "a_pan_x4.png").pixels
    assert result.shape == (size[0] * 4, size[1] * 4, 3)
    assert np.abs(result.astype(int) - 90).max() <= 1


def test_what_was_lost_is_said(tmp_path: Path, run: Run) -> None:
    picture = np.dstack([photo(8, 8), photo(8, 8, 1)])
    source = save(tmp_path / "a[b].png", picture)
    outcome = run(source, "--format", "jpg")
    assert outcome.code == 0
    first, second = outcome.err.splitlines()
    assert first == (
        f"sruplift: warning: {source}: .jpg has no transparency: the picture is laid on white"
    )
    assert second.startswith(f"{source} 8x8 -> ")


def test_a_terminal_sees_a_progress_bar(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    folder = tmp_path / "a folder with a long name"
    folder.mkdir()
    outcome = run(save(folder / f"[b]{'漢字' * 15}.png"))  # Two columns a letter.
    assert outcome.code == 0
    assert "100%" in outcome.err
    assert "[b]漢字漢字漢字漢字漢字… " in outcome.err
    assert outcome.out == ""


def test_without_a_terminal_nothing_is_drawn_and_rich_is_not_loaded(tmp_path: Path) -> None:
    source = save(tmp_path / "[b]a.png", photo(8, 9))
    code = (
        "import sys; from sruplift.cli.main import make_app; app = make_app(sys.argv[1:]); "
        "app(sys.argv[1:], standalone_mode=False); sys.exit('rich' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "upscale", str(source)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert re.fullmatch(re.escape(f"{source} 9x8 -> ") + r".* 36x32, cpu, \w+, .* s\n", done.stderr)


# ---- Bad input


def bad_files(folder: Path) -> dict[Path, str]:
    """Every kind of file that cannot be read, and what is said of it."""
    whole = save(folder / "whole.png", photo(40, 40)).read_bytes()
    (folder / "whole.png").unlink()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("Dear diary")
    (folder / "zero.webp").touch()
    (folder / "nothing").mkdir()
    frames = [Pillow.fromarray(photo(8, 8)).rotate(turn) for turn in (0, 90)]
    frames[0].save(folder / "pages.tif", save_all=True, append_images=frames[1:])
    return {
        folder / "missing.png": "there is no such file",
        folder / "cut.png": "the file is damaged",
        folder / "text.jpg": "not an image that can be read",
        folder / "zero.webp": "the file is empty",
        folder / "nothing": "no images in folder",
        folder / "pages.tif": "it has 2 pages",
    }


def test_bad_files_get_a_sentence_each_and_the_others_are_done(tmp_path: Path, run: Run) -> None:
    bad = bad_files(tmp_path / "in")
    good = [save(tmp_path / "in" / "first.png"), save(tmp_path / "in" / "last.png")]
    outcome = run(good[0], *bad, good[1], "-o", tmp_path / "out")
    assert outcome.code == 1
    lines = outcome.err.splitlines()
    assert len(lines) == len(bad) + 3
    assert lines[-1].startswith(f"2 done, {len(bad)} failed in ")
    for line, (path, said) in zip(lines[1:-2], bad.items(), strict=True):
        assert line.startswith("sruplift: ")
        assert str(path) in line
        assert said in line
    assert names(tmp_path / "out") == ["first_pan_x4.png", "last_pan_x4.png"]


def test_only_bad_files(tmp_path: Path, run: Run) -> None:
    (tmp_path / "empty").mkdir()
    outcome = run(tmp_path / "empty")
    assert outcome.code == 1
    assert outcome.err == f"sruplift: no images in folder {tmp_path / 'empty'}\n"


def test_an_image_over_the_limit(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 10)
    source = save(tmp_path / "a.png")
    outcome = run(source, "--max-pixels", 79)
    assert outcome.code == 1
    assert outcome.err == (
        f"sruplift: cannot read {source}: 10x8 are 80 pixels, more than the limit of 79 "
        "(--max-pixels allows more)\n"
    )
    assert run(source, "--max-pixels", 80).code == 0


def test_an_output_that_exists(tmp_path: Path, run: Run) -> None:
    source = save(tmp_path / "a.png")
    target = tmp_path / "a_pan_x4.png"
    target.write_text("precious")
    outcome = run(source)
    assert outcome.code == 1
    assert outcome.err == f"sruplift: {target} exists (--overwrite replaces it)\n"
    assert target.read_text() == "precious"
    assert run(source, "--overwrite").code == 0
    assert read_image(target).size == (32, 40)
    assert names(tmp_path) == ["a.png", "a_pan_x4.png"]


def test_a_full_disk(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = save(tmp_path / "a.png")
    monkeypatch.setattr(outfile.os, "fsync", full)
    outcome = run(source)
    assert outcome.code == 1
    assert outcome.err == (
        f"sruplift: cannot write {tmp_path / 'a_pan_x4.png'}: no space left on device\n"
    )
    assert names(tmp_path) == ["a.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path, run: Run) -> None:
    source = save(tmp_path / "a.png")
    (tmp_path / "out").mkdir(mode=0o555)
    outcome = run(source, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert outcome.err.endswith("the folder is read-only\n")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody may write to")
@pytest.mark.parametrize("target", ["/proc/a.png", "/proc/new/"])
def test_a_folder_nobody_may_write_to(tmp_path: Path, run: Run, target: str) -> None:
    outcome = run(save(tmp_path / "a.png"), "-o", target)
    assert outcome.code == 1
    assert re.fullmatch(r"sruplift: cannot (write|make folder) /proc/.*\n", outcome.err)


def test_a_picture_that_the_network_cannot_do(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sruplift.fuse.pan.FusedPAN.enlarge", lambda _, x, __: x.repeat(1, 1, 4, 4) / 0
    )
    source = save(tmp_path / "a.png")
    outcome = run(source, "--compile", "off")
    assert outcome.code == 1
    assert outcome.err.startswith(f"sruplift: {source}: the network returned NaN or infinity (tile")
    assert names(tmp_path) == ["a.png"]


# ---- Wrong usage


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "pam"], "'pam'"),
        (["--scale", "65"], "at most 64"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--precision", "int8"], "unknown precision 'int8'"),
        (["--tile", "big"], "--tile is 'auto' or a number of pixels, not 'big'"),
        (["--overlap", "1.5"], "--overlap is 'auto' or a number of pixels, not '1.5'"),
        (["--tile", "16", "--overlap", "16"], "a tile of 16 is too small"),
        (["--format", "bmp"], "cannot write '.bmp' images"),
        (["-o", "x.bmp"], "cannot write '.bmp' images"),
        (["--quality", "0"], "--quality"),
    ],
)
def test_wrong_usage_is_code_2(tmp_path: Path, run: Run, options: list[str], said: str) -> None:
    outcome = run(save(tmp_path / "a.png"), *options)
    assert outcome.code == 2
    assert said in outcome.err
    assert "Traceback" not in outcome.err
    assert names(tmp_path) == ["a.png"]


def test_two_inputs_with_one_output_are_refused_before_work(tmp_path: Path, run: Run) -> None:
    inputs = [save(tmp_path / "a.png"), save(tmp_path / "a.webp"), save(tmp_path / "b.png")]
    outcome = run(*inputs, "--format", "png")
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert "would both be written to" in outcome.err
    assert names(tmp_path) == ["a.png", "a.webp", "b.png"]


def test_interrupted(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    sources = [save(tmp_path / "a.png"), save(tmp_path / "b.png")]
    real = service._enlarge
    monkeypatch.setattr(
        service,
        "_enlarge",
        lambda read, *rest: (real if read.job.source == sources[0] else interrupted)(read, *rest),
    )
    outcome = run(*sources)
    assert outcome.code == 130
    assert "Traceback" not in outcome.err
    # The first may be written and not yet told.
    assert re.fullmatch(r"(0 done, 2|1 done, 1) left in .* s", outcome.err.splitlines()[-1])
    assert names(tmp_path) == ["a.png", "a_pan_x4.png", "b.png"]


def test_the_plan_is_made_without_torch() -> None:
    code = (
        "import sys, sruplift.batch as b, sruplift.cli.enlarging; "
        "b.plan_batch(b.BatchOptions(b.Naming('pan', 4), ('a.png',))); "
        "sys.exit(bool({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
