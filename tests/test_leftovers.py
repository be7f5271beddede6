"""What killed processes leave is removed, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sruplift import leftovers
from sruplift.leftovers import remove_leftovers, temporary_path


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-S", "-c", ""])
    done.wait()
    return done.pid


def aged(path: Path, seconds: float) -> Path:
    path.touch()
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def named(folder: Path, pid: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    with monkeypatch.context() as patch:
        patch.setattr(leftovers.os, "getpid", lambda: pid)
        return temporary_path(folder / "a.png")


def test_the_files_of_a_process_that_is_gone(
    tmp_path: Path, gone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = aged(named(tmp_path, gone, monkeypatch), 0)
    mine = aged(temporary_path(tmp_path / "a.png"), 1e6)
    others = aged(named(tmp_path, os.getppid(), monkeypatch), 1e6)
    assert remove_leftovers([tmp_path, tmp_path, tmp_path / "absent"]) == [left]
    assert sorted(tmp_path.iterdir()) == sorted([mine, others])


def test_the_files_of_a_copy_of_this_machine_are_anothers(
    tmp_path: Path, gone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "boot").write_text("0b7c\n")
    monkeypatch.setattr(leftovers, "_BOOT", tmp_path / "boot")
    theirs = aged(named(tmp_path, gone, monkeypatch), 60)
    (tmp_path / "boot").write_text("91ea\n")
    assert remove_leftovers([tmp_path]) == []
    (tmp_path / "boot").write_text("0b7c\n")
    assert remove_leftovers([tmp_path]) == [theirs]


def test_files_whose_process_nobody_knows_are_removed_after_a_day(
    tmp_path: Path, gone: int
) -> None:
    elsewhere = f".sruplift-00000000-{gone}-{'0' * 16}.part"
    old, new = (f".sruplift-{digit * 16}.part" for digit in "ab")
    aged(tmp_path / elsewhere, 60)
    aged(tmp_path / new, 23 * 3600)
    aged(tmp_path / old, 25 * 3600)
    assert remove_leftovers([tmp_path]) == [tmp_path / old]
    aged(tmp_path / elsewhere, 25 * 3600)
    assert remove_leftovers([tmp_path]) == [tmp_path / elsewhere]
    aged(tmp_path / ".sruplift-a_b.part", 25 * 3600)
    assert len(remove_leftovers([tmp_path])) == 1


def test_files_of_other_names_are_nobodys_leftovers(tmp_path: Path) -> None:
    for name in ("a.part", ".sruplift.part", f".sruplift-{'a' * 16}.png", ".a.png.tmp.part"):
        aged(tmp_path / name, 1e6)
    assert remove_leftovers([tmp_path]) == []


def test_what_cannot_be_deleted_stays(tmp_path: Path) -> None:
    (tmp_path / f".sruplift-{'a' * 16}.part").mkdir()
    os.utime(tmp_path / f".sruplift-{'a' * 16}.part", (0, 0))
    assert remove_leftovers([tmp_path]) == []
