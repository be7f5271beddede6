"""The vocabulary of files: names in sentences, suffixes, what is one file."""

from __future__ import annotations

from pathlib import Path

import pytest

from sruplift.errors import UsageError
from sruplift.files import check_suffix, identity, is_folder, shown


def test_names_that_break_a_line_are_quoted() -> None:
    assert shown(Path("a b.png")) == "a b.png"
    assert shown(Path("a\nb.png")) == repr("a\nb.png")
    assert shown(Path("a\udcff.png")) == repr("a\udcff.png")


def test_suffixes_that_can_be_written() -> None:
    check_suffix(".JPG")
    with pytest.raises(UsageError, match=r"x\.bmp: cannot write '\.bmp' images \(valid: \.png"):
        check_suffix(".bmp", Path("x.bmp"))
    with pytest.raises(UsageError, match="cannot write suffixless images"):
        check_suffix("")


def test_a_link_is_the_file_that_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    assert identity(tmp_path / "link.png") == identity(tmp_path / "a.png")
    assert identity(tmp_path / "b.png") != identity(tmp_path / "a.png")


def test_what_the_system_will_not_look_at_is_no_folder(tmp_path: Path) -> None:
    assert is_folder(tmp_path)
    assert not is_folder(tmp_path / ("x" * 300))
