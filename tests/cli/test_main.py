"""The program from outside: what it prints where, and its exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sruplift import __version__


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sruplift", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"sruplift {__version__}\n")


@pytest.mark.parametrize("command", ["upscale", "eval", "train", "models", "weights", "export"])
def test_every_command_explains_itself(command: str) -> None:
    assert command in run("--help").stdout
    done = run(command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


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
