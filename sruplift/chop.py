"""An image in four overlapping quarters: how some authors measure, A2N's among them.

A network that pools over what it sees gives other numbers so than on the whole image. Source: the
option ``--chop`` of the EDSR code, which later projects took over.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

# LR pixels by which each quarter reaches over the middle.
SHAVE = 10
# A quarter of this many LR pixels or more is cut again.
LARGEST_QUARTER = 160_000


def chop(fn: Callable[[Tensor], Tensor], lr: Tensor, scale: int) -> Tensor:
    """``fn`` on each quarter, put together at the middle.

    LR (B, 3, H, W) -> SR (B, 3, H * scale, W * scale), as ``fn`` does for any size.
    """
    height, width = lr.shape[-2:]
    result = lr.new_empty((*lr.shape[:2], height * scale, width * scale))
    for rows, kept_rows in _halves(height):
        for columns, kept_columns in _halves(width):
            quarter = lr[..., rows, columns]
            again = quarter.shape[-2] * quarter.shape[-1] >= LARGEST_QUARTER
            sr = chop(fn, quarter, scale) if again else fn(quarter)
            part = sr[..., _within(kept_rows, rows, scale), _within(kept_columns, columns, scale)]
            result[..., _scaled(kept_rows, scale), _scaled(kept_columns, scale)] = part
    return result


def _halves(length: int) -> list[tuple[slice, slice]]:
    """What each half of an axis reads, and which part of it is kept."""
    middle = length // 2
    reach = min(middle + SHAVE, length)
    return [
        (slice(0, reach), slice(0, middle)),
        (slice(length - reach, length), slice(middle, length)),
    ]


def _within(kept: slice, read: slice, scale: int) -> slice:
    return slice((kept.start - read.start) * scale, (kept.stop - read.start) * scale)


def _scaled(part: slice, scale: int) -> slice:
    return slice(part.start * scale, part.stop * scale)
