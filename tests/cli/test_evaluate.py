"""``sruplift eval``: what is on stdout, in the file, on stderr, and the exit codes."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pyiqa_stand_in
import pytest
import torch
from conftest import photo_like
from PIL import Image

from sruplift.cli.main import run as main
from sruplift.cli.outputs import check_files, write_text
from sruplift.errors import UsageError
from sruplift.models import create_model
from sruplift.weights import save_weights


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """``sruplift eval ARGUMENTS`` as the console script runs it, in this process, no cache yet."""
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path_factory.mktemp("cache")))

    def run_(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["sruplift", "eval", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        assert isinstance(code, int)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run_


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with five images that pass for Set5."""
    folder = tmp_path / "root" / "Set5" / "HR"
    folder.mkdir(parents=True)
    for index in range(5):
        pixels = photo_like(24, 26, seed=index).mul(255).round().to(torch.uint8)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    return tmp_path / "root"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "mine.safetensors"
    save_weights(path, create_model("pan", 2).state_dict(), model="pan", scale=2, metadata={})
    return path


def pan(root: Path, weights: Path) -> list[object]:
    return [
        *("--dataset", "Set5", "--model", "pan", "--scale", 2, "--device", "cpu"),
        *("--weights", weights, "--data-root", root),
    ]


def test_table(run: Run, root: Path, weights: Path) -> None:
    outcome = run(*pan(root, weights), "--dataset", root / "Set5" / "HR")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert "pan x2, mine.safetensors (sha256 " in lines[0]
    rows = {words[0]: words[1:] for words in map(str.split, lines) if words}
    assert rows["Set5"][0] == rows["HR"][0] == "5"
    assert rows["Set5"][1:4] == rows["HR"][1:4]
    psnr = float(rows["Set5"][1])
    assert rows["Set5"][4:] == ["38.00", "/", "0.9605", f"{psnr - 38:+.2f}", "dB"]
    assert rows["HR"][4:] == ["-", "-"]
    assert "paper: PAN Table 5 (Zhao et al." in outcome.out


def test_the_table_fits_on_a_terminal_of_80_columns(
    run: Run, root: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # As if there were a terminal.
    monkeypatch.setenv("COLUMNS", "80")
    outcome = run(*pan(root, weights))
    assert outcome.code == 0, outcome.err
    plain = re.sub(r"\x1b\[[0-9;]*m", "", outcome.out)
    (heading,) = (line for line in plain.splitlines() if "data set" in line)
    assert " ".join(heading.split()) == "data set images PSNR Y SSIM Y PSNR RGB paper difference"
    assert len(heading) == 80


def test_json_on_stdout_is_alone_there(run: Run, root: Path, weights: Path) -> None:
    outcome = run(*pan(root, weights), "--json", "-")
    assert outcome.code == 0, outcome.err
    data = json.loads(outcome.out)
    (set5,) = data["datasets"]
    assert [image["name"] for image in set5["images"]] == [f"{index}.png" for index in range(5)]
    assert set5["paper"]["psnr"] == 38.00
    assert "PSNR Y" in outcome.err


def test_json_file_and_table_agree(run: Run, root: Path, weights: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    target.write_text("an older report")
    outcome = run(*pan(root, weights), "--json", target)
    assert outcome.code == 0, outcome.err
    mean = json.loads(target.read_text())["datasets"][0]["mean"]
    for shown in (f"{mean['psnr_y']:.4f}", f"{mean['ssim_y']:.5f}", f"{mean['psnr_rgb']:.4f}"):
        assert shown in outcome.out
    assert {path.name for path in tmp_path.iterdir()} == {"root", weights.name, "report.json"}


def test_bicubic_baseline(run: Run, root: Path) -> None:
    outcome = run("-d", "set5", "-m", "bicubic", "-s", "3", "--data-root", root)
    assert outcome.code == 0, outcome.err
    assert "bicubic x3" in outcome.out
    assert "paper:" not in outcome.out


def test_a_section_and_a_report_for_each_network(run: Run, root: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    networks = ("-m", "pan", "-m", "bicubic", "-s", 2, "-s", 3)
    outcome = run("-d", "all", *networks, "--data-root", root, "--json", target, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    warning = f"sruplift: warning: left out: Set14, BSD100, Urban100, Manga109 (not in {root})"
    assert outcome.err.splitlines() == [warning]
    reports = json.loads(target.read_text())["reports"]
    names = [(report["model"], report["scale"]) for report in reports]
    assert names == [("pan", 2), ("pan", 3), ("bicubic", 2), ("bicubic", 3)]
    for report in reports:
        assert f"{report['model']} x{report['scale']}, " in outcome.out
        assert f"{report['datasets'][0]['mean']['psnr_y']:.4f}" in outcome.out


def test_intervals_are_shown_on_request(run: Run, root: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    baseline = ("-d", "Set5", "-m", "bicubic", "--data-root", root)
    plain, asked = run(*baseline, "--json", target), run(*baseline, "--ci")
    (set5,) = json.loads(target.read_text())["datasets"]
    low, high = set5["mean_interval"]["psnr_y"]
    assert f"[{low:.2f}, {high:.2f}]" in asked.out
    assert "[low, high]: interval of the mean, 95 % BCa" in asked.out
    assert "[" not in plain.out


def test_names_with_brackets_are_shown_whole(run: Run, root: Path) -> None:
    folder = (root / "Set5" / "HR").rename(root / "[bold]")
    outcome = run("-d", folder, "-m", "bicubic")
    assert "[bold]" in outcome.out


def test_a_second_run_finds_the_results_of_the_first(
    run: Run, root: Path, weights: Path, tmp_path: Path
) -> None:
    first = run(*pan(root, weights), "--json", tmp_path / "1.json")
    assert first.err == ""
    second = run(*pan(root, weights), "--json", tmp_path / "2.json")
    words = "sruplift: 5 of 5 results are from an earlier run (--no-cache measures them again)"
    assert second.err.splitlines() == [words]
    assert second.out == first.out
    one, two = (json.loads((tmp_path / f"{n}.json").read_text())["datasets"][0] for n in (1, 2))
    assert (one.pop("from_cache"), two.pop("from_cache")) == (0, 5)
    assert one == two
    assert run(*pan(root, weights), "--no-cache").err == ""


def test_without_a_place_for_the_cache_there_is_a_warning(
    run: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "file"))
    outcome = run("-d", "Set5", "-m", "bicubic", "--data-root", root)
    assert outcome.code == 0
    assert outcome.err.startswith("sruplift: warning: results are not kept for a later run: ")
    assert "PSNR Y" in outcome.out
    assert run("-d", "Set5", "-m", "bicubic", "--data-root", root, "--no-cache").err == ""


def test_perceptual_metrics_are_columns(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyiqa_stand_in.install(monkeypatch)
    outcome = run(
        *("-d", "Set5", "-m", "bicubic", "--data-root", root, "--json", "-"),
        *("--metric", "lpips", "--metric", "musiq"),
    )
    assert outcome.code == 0, outcome.err
    mean = json.loads(outcome.out)["datasets"][0]["mean"]["perceptual"]
    assert "lpips ↓" in outcome.err
    assert "musiq ↑" in outcome.err
    assert f"{mean['lpips']:.4f}" in outcome.err


def test_without_pyiqa_there_is_one_sentence(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    outcome = run("-d", "Set5", "-m", "bicubic", "--data-root", root, "--metric", "lpips")
    assert (outcome.code, outcome.out) == (2, "")
    sentence = "sruplift: perceptual metrics need pyiqa: pip install 'sruplift[perceptual]'"
    assert outcome.err.splitlines() == [sentence]


def test_a_page_has_crops_also_of_what_was_measured_before(
    run: Run, root: Path, weights: Path, tmp_path: Path
) -> None:
    run(*pan(root, weights))
    outcome = run(*pan(root, weights), "--html", tmp_path / "r.html")
    assert (outcome.code, outcome.err) == (0, "")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 5
    assert "pan x2" in page


def test_every_kind_of_file(run: Run, root: Path, tmp_path: Path) -> None:
    names = {"--json": "r.json", "--csv": "r.csv", "--markdown": "r.md", "--latex": "r.tex"}
    files = [word for option, name in names.items() for word in (option, tmp_path / name)]
    outcome = run("-d", "Set5", "-m", "bicubic", "--data-root", root, *files)
    assert outcome.code == 0, outcome.err
    texts = {option: (tmp_path / name).read_text() for option, name in names.items()}
    mean = json.loads(texts["--json"])["datasets"][0]["mean"]
    assert str(mean["psnr_y"]) in texts["--csv"]
    assert f"| {mean['psnr_y']:.4f} |" in texts["--markdown"]
    assert f"{mean['psnr_y']:.2f}" in texts["--latex"]
    for option, name in names.items():
        arguments = ("-d", "Set5", "-m", "bicubic", "--data-root", root, "--no-cache")
        alone = run(*arguments, option, "-")
        ours, theirs = (re.sub(r"[\d.]+(?=\n)", "", text) for text in (alone.out, texts[option]))
        # The last column of CSV, and a line of JSON, is the seconds.
        assert ours == theirs, name
        assert "PSNR Y" in alone.err


def test_a_name_that_is_not_utf8(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = photo_like(24, 26).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    try:
        Image.fromarray(pixels).save(folder / "caf\udce9.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    for option in ("--json", "--csv", "--markdown", "--latex", "--html"):
        target = tmp_path / "report"
        outcome = run("-d", folder, "-m", "bicubic", option, target)
        assert outcome.code == 0, outcome.err
        text = target.read_text(encoding="utf-8")
        if option == "--json":
            (image,) = json.loads(text)["datasets"][0]["images"]
            assert image["name"] == "caf\udce9.png"


def test_reports_go_through_links_and_into_pipes(run: Run, root: Path, tmp_path: Path) -> None:
    real, link, pipe = (tmp_path / name for name in ("real.json", "link.json", "pipe"))
    link.symlink_to(real)
    os.mkfifo(pipe)
    arguments = ("-d", "Set5", "-m", "bicubic", "--data-root", root)
    assert run(*arguments, "--json", link).code == 0
    assert link.is_symlink()
    assert json.loads(real.read_text())["model"] == "bicubic"
    with ThreadPoolExecutor() as pool:
        heard = pool.submit(pipe.read_text)
        assert run(*arguments, "--csv", pipe, "--json", os.devnull).code == 0
        assert heard.result(timeout=60).startswith("model,scale,")
    assert pipe.is_fifo()
    assert Path(os.devnull).is_char_device()


def test_tiles_are_named_below_the_table(run: Run, root: Path, weights: Path) -> None:
    outcome = run(*pan(root, weights), "--tile", "auto", "--overlap", 4)
    assert outcome.code == 0, outcome.err
    assert "tiles as the free memory allows, overlap 4" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("-d", "Set5", "--plot", "p.jpg"), 2, "cannot draw p.jpg"),
        (("-d", "Set5", "--json", "-", "--csv", "-"), 2, "only one of --json and --csv can be -"),
        (
            ("-d", "Set5", "--json", "same", "--csv", "./same"),
            2,
            "--json and --csv name one file, same: name two",
        ),
        (("-d", "Set5", "--tile", "big"), 2, "--tile is 'auto' or a number of pixels"),
        (("-d", "Set5", "-m", "all", "-w", "w.safetensors"), 2, "name one model and one scale"),
        ((), 2, "Missing option"),
        (
            ("-d", "Set51", "-m", "bicubic"),
            2,
            "sruplift: unknown data set 'Set51'; did you mean 'Set5'",
        ),
        (("-d", "Set5", "-m", "bicubic", "-s", "7"), 2, "sruplift: bicubic has no scale 7"),
        (("-d", "Set5", "-m", "pam"), 2, "sruplift: unknown model 'pam'; did you mean 'pan'"),
        (("-d", "Manga109", "-m", "bicubic"), 1, "sruplift: Manga109 is not free to download"),
        (("-d", "Set5", "-w", "gone.safetensors"), 1, "sruplift: gone.safetensors"),
    ],
)
def test_errors(run: Run, arguments: tuple[str, ...], code: int, words: str) -> None:
    outcome = run(*arguments)
    assert outcome.code == code
    assert words in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""


def test_an_unreadable_image_leaves_no_report(run: Run, root: Path, tmp_path: Path) -> None:
    (root / "Set5" / "HR" / "3.png").write_bytes(b"")
    target = tmp_path / "report.json"
    outcome = run("-d", "Set5", "-m", "bicubic", "--data-root", root, "--json", target)
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("sruplift: cannot read the image ")
    assert "3.png" in outcome.err
    assert outcome.out == ""
    assert not target.exists()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("root", "is a folder"),
        ("nowhere/r.json", "there is no folder"),
        ("closed/r.json", "the folder is read-only"),
    ],
)
def test_a_report_that_cannot_be_written_is_known_first(
    run: Run, root: Path, tmp_path: Path, place: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sruplift.suite.evaluate_suite", None)
    (tmp_path / "closed").mkdir()
    allowed = os.access
    monkeypatch.setattr(  # As for somebody who is not root.
        os, "access", lambda path, mode: Path(path).name != "closed" and allowed(path, mode)
    )
    outcome = run("-d", "Set5", "-m", "bicubic", "--data-root", root, "--json", tmp_path / place)
    assert outcome.code == 2
    assert words in outcome.err


def test_links_lead_where_results_go_or_are_told(tmp_path: Path) -> None:
    circle, astray, link = (tmp_path / name for name in ("circle", "astray", "link"))
    circle.symlink_to(circle)
    astray.symlink_to(tmp_path / "none" / "r.json")
    link.symlink_to("r.json")
    with pytest.raises(UsageError, match=r"there is no folder .*none"):
        check_files({"--json": str(astray)})
    for each in (circle, link):
        check_files({"--json": str(each)})
        write_text("result", str(each))
        assert each.read_text() == "result"
    assert link.is_symlink()
