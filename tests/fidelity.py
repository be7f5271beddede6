"""The table of what `sruplift upscale` keeps: filled by tests, shown at the end of their run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

FORMATS = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "WebP": ".webp",
    "TIFF": ".tif",
    "AVIF": ".avif",
    "GIF": ".gif",
}
# (feature, format) -> what its test found, or that it failed.
CELLS: dict[tuple[str, str], str] = {}
KEPT, FAILED, SKIPPED = "kept", "FAILED", "skipped"
Check = Callable[[Path, str], str | None]


def feature(name: str) -> Callable[[Check], Callable[[Path, str], None]]:
    """Make a test of a check of one format: what it returns is the table's cell, None is "kept".

    The check is given a folder and the format's suffix.
    """

    def decorate(check: Check) -> Callable[[Path, str], None]:
        @pytest.mark.parametrize("kind", FORMATS)
        @functools.wraps(check)
        def test(tmp_path: Path, kind: str) -> None:
            CELLS[name, kind] = FAILED
            try:
                CELLS[name, kind] = check(tmp_path, FORMATS[kind]) or KEPT
            except pytest.skip.Exception:
                CELLS[name, kind] = SKIPPED
                raise

        del test.__wrapped__  # pytest would ask for the check's own parameters.
        return test

    return decorate


def table() -> list[str]:
    """The lines of the table; of what is lost, what the user is told stands below."""
    features = list(dict.fromkeys(name for name, _ in CELLS))
    notes: dict[str, int] = {}
    rows = [["", *FORMATS]]
    for name in features:
        row = [name]
        for kind in FORMATS:
            cell = CELLS.get((name, kind), "")
            if cell.startswith("- "):
                cell = f"- [{notes.setdefault(cell[2:], len(notes) + 1)}]"
            row.append(cell)
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    lines += [f"[{number}] {note}" for note, number in notes.items()]
    return lines if features else []
