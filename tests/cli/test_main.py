"""The program from outside: what it prints where, and its exit codes."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from sruplift import __version__
from sruplift.cli import main
from sruplift.errors import SrupliftWarning


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sruplift", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"sruplift {__version__}\n")


@pytest.mark.parametrize(
    "command",
    ["upscale", "batch", "eval", "compare", "explain", "bench", "train", "models", "weights"],
)
def test_every_command_explains_itself(command: str) -> None:
    assert command in run("--help").stdout
    done = run(command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


@pytest.mark.parametrize("arguments", [(), ("upscale",), ("weights", "pack"), ("export", "onnx")])
def test_help_is_plain_text_but_on_terminals(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"
    plain = run(*arguments, "--help").stdout
    assert "-h, --help " in plain
    assert drawn not in plain
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert drawn in run(*arguments, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("upscale", "absent.png"), 1, "absent.png"),
        (("upscale", "absent.png", "--model", "pam"), 2, "did you mean 'pan'"),
        (("upscale", "absent.png", "--scale", "65"), 2, "at most 64"),
        (("eval", "--dataset", "absent-folder"), 2, "absent-folder"),
        (("train", "--config", "pan_x9"), 2, "did you mean"),
        (("train", "--config", "pan_x2", "--data", "absent-folder"), 1, "absent-folder"),
        (("weights", "import", "absent.pth"), 1, "absent.pth"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_errors_are_one_sentence_and_a_code(
    arguments: tuple[str, ...], code: int, words: str, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "out") if arguments[0] == "train" else ()
    done = run(*arguments, *out)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert done.returncode == code


def test_our_warnings_are_sentences_and_others_are_pythons(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with warnings.catch_warnings(record=True) as seen:  # Puts back what shows them at its end.
        warnings.simplefilter("always")
        main.say_warnings()
        warnings.warn("two images are left out", SrupliftWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "sruplift: warning: two images are left out\n"
    assert [str(each.message) for each in seen] == ["something else"]


def test_threads_wait_briefly_unless_the_user_says_otherwise() -> None:
    for given, spins in [
        ({}, main.SPINS),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ]:
        environment: dict[str, str] = dict(given)
        main.wait_briefly(environment)
        assert environment.get("GOMP_SPINCOUNT") == spins
