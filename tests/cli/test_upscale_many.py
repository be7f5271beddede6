"""``sruplift upscale`` of many files, through pipes, killed and resumed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from pictures import bilinear_pan, photo
from PIL import Image as Pillow

import sruplift
from sruplift import upscale
from sruplift.cli import enlarging as cli
from sruplift.cli.main import run as main
from sruplift.reading import read_image


class Outcome(NamedTuple):
    code: int
    out: bytes
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
    capfdbinary: pytest.CaptureFixture[bytes],
    weights: Path,
) -> Run:
    """``sruplift upscale ARGUMENTS`` in ``tmp_path``; with weights at hand unless ``plain``."""
    monkeypatch.chdir(tmp_path)

    def run_(*arguments: object, stdin: bytes | None = None, plain: bool = False) -> Outcome:
        options = [] if plain else ["-s", "2", "-w", str(weights)]
        monkeypatch.setattr(sys, "argv", ["sruplift", "upscale", *options, *map(str, arguments)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        assert isinstance(code, int)
        captured = capfdbinary.readouterr()
        return Outcome(code, captured.out, captured.err.decode())

    return run_


def save(path: str | Path, seed: int = 0) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 10, 3), np.uint8)
    Pillow.fromarray(pixels).save(path)
    return path


def tree(folder: str | Path) -> list[str]:
    """All files below a folder."""
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in files)


def lines(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def statuses(path: str | Path) -> list[str]:
    return [line["status"] for line in lines(path)]


# ---- Inputs and outputs


def test_a_tree_is_mirrored_and_its_results_are_no_inputs(run: Run, tmp_path: Path) -> None:
    for name in ("in/a.png", "in/s/b.jpg", "in/s/t/c.png", "in/.h/d.png"):
        save(name)
    Path("in/s/loop").symlink_to(tmp_path / "in")
    results = ["a_pan_x2.png", "s/b_pan_x2.jpg", "s/t/c_pan_x2.png"]
    outcome = run("in", "-r", "-o", "in/out")
    assert (outcome.code, outcome.out) == (0, b"")
    assert outcome.err.splitlines()[-1].startswith("3 done in ")
    assert tree("in/out") == results
    assert run("in/**", "-o", "in/out", "--overwrite").code == 0
    assert tree("in/out") == results
    assert run("in", "-o", "flat").code == 0
    assert tree("flat") == ["a_pan_x2.png"]


def test_names_by_template(run: Run) -> None:
    save("trip/a.png")
    save("trip/b.bmp")
    outcome = run("trip/*", "-o", "out", "--output-template", "{parent}_{index:03}{suffix}")
    assert outcome.code == 0
    assert tree("out") == ["trip_001.png", "trip_002.png"]
    for template, said in {"{name}": "unknown field 'name'", "{parent}/x": "not the name"}.items():
        outcome = run("trip", "-o", "new", "--output-template", template)
        assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
        assert said in outcome.err
    assert not Path("new").exists()


def test_a_list_on_stdin(run: Run) -> None:
    save("a.png")
    save("b\nc.png")
    outcome = run("--from-file", "-", "-o", "out", stdin=b"a.png\0b\nc.png\0")
    assert outcome.code == 0
    assert tree("out") == ["a_pan_x2.png", "b\nc_pan_x2.png"]


def test_odd_names(run: Run) -> None:
    composed, apart = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
    odd = ["-a.png", "n\nl.png", "a[1].png", "$(x) `y`.png", composed]
    for name in odd:
        save(name)
    if not Path(apart).exists():  # Else the file system takes the two forms for one.
        odd.append(str(save(apart)))
    assert run("-o", "out", "--", *odd).code == 0
    assert tree("out") == sorted(f"{Path(name).stem}_pan_x2.png" for name in odd)


def test_nothing_to_do_is_wrong_usage(run: Run) -> None:
    outcome = run()
    assert (outcome.code, outcome.err) == (
        2,
        "sruplift: there is no input: name images or folders, or a list with --from-file\n",
    )
    assert run("").code == 2


def test_a_file_that_disappears_and_a_name_that_is_too_long(run: Run) -> None:
    save("a.png")
    long = save(f"{'x' * 248}.png")
    outcome = run("a.png", long, "absent.png", "none*")
    assert outcome.code == 1
    assert outcome.err.count("\n") == 5
    for said in ("file name too long", "there is no such file", "none matches it as a pattern"):
        assert said in outcome.err
    assert outcome.err.splitlines()[-1].startswith("1 done, 3 failed in ")


# ---- Skipping and resuming


def test_what_exists_is_skipped(run: Run) -> None:
    for name in ("in/a.png", "in/b.png"):
        save(name)
    Path("out").mkdir()
    Path("out/a_pan_x2.png").write_text("precious")
    outcome = run("in", "-o", "out", "--skip-existing", "--report", "r.jsonl")
    assert outcome.code == 0
    assert outcome.err.splitlines()[-1].startswith("1 done, 1 skipped in ")
    assert Path("out/a_pan_x2.png").read_text() == "precious"
    assert statuses("r.jsonl") == ["skipped", "done"]
    outcome = run("in", "-o", "out", "--skip-existing")
    assert (outcome.code, outcome.err[:20]) == (0, "0 done, 2 skipped in")
    outcome = run("in/a.png", "-o", "out/a_pan_x2.png", "--skip-existing")
    assert (outcome.code, outcome.err) == (
        0,
        "in/a.png -> out/a_pan_x2.png: skipped, the output exists\n",
    )
    assert run("in", "--skip-existing", "--overwrite").code == 2


def test_what_another_run_writes_meanwhile_is_skipped_too(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("in/a.png", "in/b.png", "in/c.png"):
        save(name)
    theirs = iter(("out/a_pan_x2.png", "out/c_pan_x2.png"))
    read = upscale.read_picture

    def another_run(*args: Any, **options: Any) -> Any:
        for name in theirs:  # One that this run reads already, one that it has not come to yet.
            Path(name).write_text("precious")
        return read(*args, **options)

    monkeypatch.setattr(upscale, "read_picture", another_run)
    outcome = run("in", "-o", "out", "--skip-existing", "--report", "r.jsonl")
    assert outcome.code == 0
    assert outcome.err.splitlines()[-1].startswith("1 done, 2 skipped in ")
    assert statuses("r.jsonl") == ["skipped", "done", "skipped"]
    assert [Path(f"out/{n}_pan_x2.png").read_bytes() == b"precious" for n in "abc"] == [1, 0, 1]
    save("in/d.png")
    theirs = iter(("out/d_pan_x2.png",))
    assert run("in/d.png", "-o", "out").code == 1  # Who did not ask to skip is told.


def test_a_report_tells_what_was_done(run: Run, tmp_path: Path, weights: Path) -> None:
    source = save("in/a.png")
    Path("in/bad.png").write_text("Dear diary")
    outcome = run("in", "-o", "out", "--report", "r.jsonl", "--tile", "64", "--precision", "fp32")
    assert outcome.code == 1
    first, second = lines("r.jsonl")
    result = tmp_path / "out" / "a_pan_x2.png"
    assert first["output"] == str(result)
    assert (first["status"], first["error"]) == ("done", None)
    assert (first["input_size"], first["output_size"]) == ([10, 8], [20, 16])
    assert first["input_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert first["output_sha256"] == hashlib.sha256(result.read_bytes()).hexdigest()
    assert first["output_bytes"] == result.stat().st_size
    assert (first["device"], first["precision"]) == ("cpu", "fp32")
    parameters = first["parameters"]
    assert (parameters["model"], parameters["scale"], parameters["tile_size"]) == ("pan", 2, 64)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert parameters["weights_sha256"] == {"x2": digest}
    assert (second["status"], second["output_sha256"]) == ("failed", None)
    assert "not an image that can be read" in second["error"]
    assert tree(".").count("r.jsonl.begun") == 0


def test_resuming_does_what_is_left_or_changed(run: Run) -> None:
    for index, name in enumerate("abcd"):
        save(f"in/{name}.png", index)
    Path("in/e.png").write_text("not yet a picture")
    given = ("in", "-o", "out", "--resume", "r.jsonl")
    assert run(*given).code == 1
    assert statuses("r.jsonl") == ["done"] * 4 + ["failed"]
    stamps = {path.name: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    save("in/b.png", 7)
    Path("out/c_pan_x2.png").unlink()
    Path("out/d_pan_x2.png").write_text("damaged")
    save("in/e.png", 8)
    outcome = run(*given)
    assert outcome.code == 0
    assert outcome.err.splitlines()[-1].startswith("4 done, 1 skipped in ")
    assert statuses("r.jsonl")[5:] == ["skipped", *["done"] * 4]
    assert Path("out/a_pan_x2.png").stat().st_mtime_ns == stamps["a_pan_x2.png"]
    assert all(read_image(path).size == (16, 20) for path in Path("out").iterdir())
    outcome = run(*given)
    assert (outcome.code, outcome.err[:20]) == (0, "0 done, 5 skipped in")
    outcome = run(*given, "--self-ensemble", "--report", "other.jsonl")
    assert outcome.err.splitlines()[-1].startswith("5 done in ")
    assert (len(lines("r.jsonl")), statuses("other.jsonl")) == (15, ["done"] * 5)


def test_resuming_does_not_replace_what_the_report_did_not_write(run: Run) -> None:
    save("a.png")
    Path("a_pan_x2.png").write_text("precious")
    outcome = run("a.png", "--resume", "r.jsonl")
    assert outcome.code == 1
    assert "a_pan_x2.png exists" in outcome.err
    assert run("a.png", "--resume", "r.jsonl").code == 1
    assert Path("a_pan_x2.png").read_text() == "precious"


def test_a_report_on_stdout(run: Run) -> None:
    save("in/a.png")
    outcome = run("in", "-o", "out", "--report", "-")
    assert [json.loads(line)["status"] for line in outcome.out.splitlines()] == ["done"]


def test_a_report_that_cannot_be_written_stops_before_work(run: Run) -> None:
    source = save("a.png")
    for path, said in {source: "is not a report", ".": "is a folder", "x/r": "no folder"}.items():
        for option in ("--report", "--resume"):
            outcome = run(source, option, path)
            assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
            assert said in outcome.err
    assert tree(".") == ["a.png"]


# ---- Pipes


def test_stdin_to_stdout(run: Run) -> None:
    for suffix, kind in {".jpg": "JPEG", ".png": "PNG", ".bmp": "PNG", ".gif": "GIF"}.items():
        for output in ((), ("-o", "-")):
            outcome = run("-", *output, stdin=save(f"a{suffix}").read_bytes())
            assert outcome.code == 0
            assert "stdin 10x8 -> stdout 20x16, cpu, " in outcome.err
            with Pillow.open(io.BytesIO(outcome.out)) as picture:
                assert (picture.format, picture.size) == (kind, (20, 16))
    outcome = run("-", "-o", "-", "--format", "tiff", stdin=Path("a.jpg").read_bytes())
    assert outcome.out[:2] == b"II"


def test_what_is_large_enough_goes_into_no_pipe(run: Run) -> None:
    save("a.png")
    for source, data in (("a.png", b""), ("-", Path("a.png").read_bytes())):
        large_enough = ("--max-side", "9", "--only-if-smaller")
        outcome = run(source, "-o", "-", *large_enough, stdin=data, plain=True)
        assert (outcome.code, outcome.out) == (0, b"")
        assert "skipped, 10x8 is large enough already" in outcome.err


def test_the_folder_of_what_comes_through_a_pipe_has_a_name(run: Run) -> None:
    data = save("a.png").read_bytes()
    assert (
        run("-", "-o", "out/", "--output-template", "{parent}_{stem}{suffix}", stdin=data).code == 0
    )
    assert tree("out") == ["stdin_stdin.png"]


def test_one_end_is_a_pipe(run: Run) -> None:
    data = save("a.png").read_bytes()
    assert run("-", "-o", "b.jpg", stdin=data).code == 0
    assert run("-", "-o", "new/", stdin=data).code == 0
    outcome = run("-", "-o", "b.jpg", stdin=data)
    assert (outcome.code, outcome.err) == (1, "sruplift: b.jpg exists (--overwrite replaces it)\n")
    outcome = run("a.png", "-o", "-", "--format", "jpg")
    assert outcome.out[:2] == b"\xff\xd8"
    assert outcome.err.startswith("a.png 10x8 -> stdout 20x16")
    assert tree(".") == ["a.png", "b.jpg", "new/stdin_pan_x2.png"]


def test_a_sheet_beside_a_pipe_takes_nobodys_place(run: Run) -> None:
    source = save("a.png")
    data = source.read_bytes()
    for arguments in (
        ("a.png", "-o", "-", "--compare", "./a.png"),
        ("-", "-o", "b.png", "--compare", "b.png"),
    ):
        outcome = run(*arguments, "--overwrite", stdin=data)
        assert (outcome.code, outcome.out) == (2, b"")
        assert "and would be overwritten" in outcome.err
    assert (tree("."), source.read_bytes()) == (["a.png"], data)
    assert run("-", "-o", "b.png", "--compare", "sheet.png", stdin=data).code == 0
    assert tree(".") == ["a.png", "b.png", "sheet.png"]


def test_lists_and_reports_are_not_replaced(run: Run) -> None:
    save("a.png")
    Path("list.png").write_text("a.png\n")
    for option, said in (
        ("-o", "list.png would be both the list of inputs and an output"),
        ("--compare", "list.png is a list or a report and would be overwritten"),
    ):
        outcome = run("--from-file", "list.png", option, "list.png", "--overwrite")
        assert outcome.code == 2
        assert said in outcome.err
    assert run("a.png", "--report", "r.png", "--compare", "r.png", "--overwrite").code == 2
    assert Path("list.png").read_text() == "a.png\n"
    assert tree(".") == ["a.png", "list.png"]


def test_a_sheet_is_replaced_with_its_result(run: Run) -> None:
    save("a.png")
    given = ("a.png", "-o", "b.png", "--compare", "s.png", "--resume", "r.jsonl")
    assert run(*given).code == 0
    before = Path("s.png").read_bytes()
    save("a.png", seed=9)
    outcome = run(*given)
    assert (outcome.code, "s.png" in outcome.err) == (0, False)
    assert Path("s.png").read_bytes() != before
    Path("s.png").unlink()
    outcome = run(*given)
    assert outcome.code == 0
    assert "sruplift: warning: s.png is not made: its image is skipped" in outcome.err


def test_what_another_report_has_is_resumed_too(run: Run) -> None:
    for name in "abc":
        save(f"in/{name}.png")
    assert run("in/a.png", "-o", "out/", "--report", "old.jsonl").code == 0
    given = ("-o", "out/", "--resume", "old.jsonl", "--report", "new.jsonl")
    assert run("in/a.png", "in/b.png", *given).code == 0  # Ended early, as it were.
    outcome = run("in", *given)
    assert (outcome.code, outcome.err.splitlines()[-1][:20]) == (0, "1 done, 2 skipped in")
    assert statuses("new.jsonl") == ["skipped", "done", "skipped", "skipped", "done"]
    assert statuses("old.jsonl") == ["done"]


def test_a_name_for_stdout_is_refused(run: Run) -> None:
    save("a.png")
    outcome = run("a.png", "-o", "-", "--output-template", "x_{stem}.jpg")
    assert (outcome.code, outcome.out) == (2, b"")
    assert "--output-template is for files, not for stdout" in outcome.err


@pytest.mark.parametrize(
    ("stream", "arguments"), [("stdin", "- -o b.png"), ("stdout", "a.png -o -")]
)
def test_a_closed_pipe_is_a_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch, stream: str, arguments: str
) -> None:
    save("a.png")
    monkeypatch.setattr(sys, stream, None)
    outcome = run(*arguments.split())
    assert outcome.code == 2
    assert f"is {stream}, and that is closed" in outcome.err
    assert tree(".") == ["a.png"]


def test_names_are_shown_whatever_the_encoding(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save("日:smile:.png")
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "latin-1", write_through=True))
    outcome = run("日:smile:.png", "--dry-run")
    assert outcome.code == 0
    assert shown.getvalue().startswith(rb"\u65e5:smile:.png 10x8 -> ")
    outcome = run("日:smile:.png")
    assert outcome.err.startswith("日:smile:.png 10x8 -> 日:smile:_pan_x2.png")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cannot read stdin: the file is empty"),
        (b"Dear diary", "cannot read stdin: it is not an image that can be read"),
        (b"\x89PNG\r\n\x1a\n", "cannot read stdin: "),
    ],
)
def test_what_is_no_image_gives_no_output(run: Run, data: bytes, said: str) -> None:
    outcome = run("-", "-o", "-", "--format", "png", stdin=data)
    assert (outcome.code, outcome.out) == (1, b"")
    assert outcome.err.startswith(f"sruplift: {said}")
    assert len(outcome.err.splitlines()) == 1


def test_a_terminal_gets_no_image(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save("a.png")
    with monkeypatch.context() as patch:
        patch.setattr(sys.stdout, "isatty", lambda: True)
        outcome = run(source, "-o", "-")
    assert (outcome.code, outcome.out) == (2, b"")
    assert "that is a terminal" in outcome.err
    terminal = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", terminal)
    outcome = run("-", "-o", "b.png")
    assert outcome.code == 2
    assert "nothing can be read from it" in outcome.err


# ---- Ended from outside


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    number: signal.Signals,
    code: int,
) -> None:
    for name in "abc":
        save(f"in/{name}.png")
    # A shell starts what runs in the background with SIGINT ignored.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, inherited))
    real = cli.run_batch

    def interrupted(*arguments: Any) -> Any:
        for outcome in real(*arguments):
            yield outcome
            signal.raise_signal(number)

    monkeypatch.setattr(cli, "run_batch", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    outcome = run("in", "-o", "out", "--report", "r.jsonl")
    assert outcome.code == code
    assert signal.getsignal(signal.SIGTERM) == before
    assert "Traceback" not in outcome.err
    assert outcome.err.splitlines()[-1].startswith("1 done, 2 left in ")
    assert statuses("r.jsonl") == ["done"]
    assert tree("out")[0] == "a_pan_x2.png"
    assert not [name for name in tree("out") if name.endswith(".part")]
    monkeypatch.setattr(cli, "run_batch", real)
    assert run("in", "-o", "out", "--resume", "r.jsonl").code == 0
    assert len(tree("out")) == 3


def test_killed_at_any_moment_and_resumed_it_ends_as_if_nothing_had_happened(
    tmp_path: Path, weights: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(50):
        Pillow.fromarray(photo(16, 16 + index)).save(folder / f"{index:02}.png")

    def start(output: str, *options: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "sruplift", "upscale", folder, "-s", "2", "-w", weights]
        return subprocess.Popen(
            [*map(str, command), "-o", str(tmp_path / output), *map(str, options)],
            env={**os.environ, "PYTHONPATH": str(Path(sruplift.__file__).parent.parent)},
            stderr=subprocess.PIPE,
            text=True,
        )

    report = tmp_path / "r.jsonl"
    chance = random.Random(0)
    for killed in range(1, 5):
        # Begun outputs are noted in this file; each kill comes a little later in the work.
        process = start("out", "--resume", report)
        wanted = chance.randrange(killed * 9 - 6, killed * 9)
        while process.poll() is None and _count(tmp_path / "out") < wanted:
            time.sleep(0.001)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    # A kill in the middle of a write leaves such a file.
    left = tmp_path / "out" / _name_of(process.pid)
    left.touch()
    process = start("out", "--resume", report)
    assert "failed" not in process.communicate()[1]
    assert process.returncode == 0
    whole = start("whole")
    whole.communicate()
    assert whole.returncode == 0

    expected = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert len(expected) == 50
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == expected
    last = {line["output"]: line["output_sha256"] for line in lines(report)}
    assert last == {
        str(tmp_path / "out" / name): hashlib.sha256(data).hexdigest()
        for name, data in expected.items()
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "r.jsonl", "whole"]


def _count(folder: Path) -> int:
    return sum(path.suffix == ".png" for path in folder.iterdir()) if folder.exists() else 0


def _name_of(pid: int) -> str:
    """The temporary name that a process of this machine would use."""
    from sruplift import leftovers

    return f".sruplift-{leftovers._host()}-{pid}-{'0' * 16}.part"
