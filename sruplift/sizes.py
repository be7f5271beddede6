"""How large the result shall be, and by which of a network's scales it gets there."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sruplift.errors import UsageError

# The largest factor: three runs of a network with x4.
LARGEST_SCALE = 64
DEFAULT_SCALE = 4
# What networks are trained for.
SCALES = (2, 3, 4)
# A ratio that exceeds a native scale by less is a rounded number of pixels, not a larger scale.
SLACK = 1.0005


@dataclass(frozen=True)
class Target:
    """The size that is asked for; at most one way of asking, ``width`` with ``height`` as one.

    Attributes:
        scale: how many times larger, any number; 4 if nothing is asked for.
        width: of the result, pixels. Alone, the height follows.
        height: of the result, pixels. Alone, the width follows.
        max_side: the longer side of the result, pixels.
        megapixels: width times height of the result, in millions.
        only_if_smaller: leave an image alone that is as large already.

    Raises:
        UsageError: two ways at once, or a number that cannot be meant.
    """

    scale: float | None = None
    width: int | None = None
    height: int | None = None
    max_side: int | None = None
    megapixels: float | None = None
    only_if_smaller: bool = False

    def __post_init__(self) -> None:
        ways = {
            "--scale": self.scale,
            "--width or --height": self.width or self.height,
            "--max-side": self.max_side,
            "--megapixels": self.megapixels,
        }
        asked = [name for name, value in ways.items() if value is not None]
        if len(asked) > 1:
            raise UsageError(f"{asked[0]} and {asked[1]} ask for different sizes: choose one")
        if self.scale is not None and not 1 < self.scale <= LARGEST_SCALE:
            raise UsageError(
                f"scale must be above 1 and at most {LARGEST_SCALE}, not {self.scale:g}"
            )
        for name in ("width", "height", "max_side", "megapixels"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 10**7:
                option = name.replace("_", "-")
                raise UsageError(f"{option} must be above 0 and below 10,000,000, not {value:g}")

    @property
    def own_scale(self) -> int | None:
        """The whole number of times that is asked for, as a network's own scale is; or None."""
        other = self.width or self.height or self.max_side or self.megapixels
        scale = self.scale or DEFAULT_SCALE
        return int(scale) if not other and scale == int(scale) else None

    @property
    def label(self) -> str:
        """For the name of an output: ``x4``, ``3000w``, ``2000h``, ``3000x2000``, ``12mp``."""
        if self.width and self.height:
            return f"{self.width}x{self.height}"
        named = ((self.width, "w"), (self.height, "h"), (self.max_side, "max"))
        for value, letter in named:
            if value:
                return f"{value}{letter}"
        return f"{self.megapixels:g}mp" if self.megapixels else f"x{self.scale or DEFAULT_SCALE:g}"

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the result for an image of ``height`` x ``width``."""
        if self.width and self.height:
            return self.height, self.width
        if self.width:
            factor = self.width / width
            return _rounded(height * factor), self.width
        if self.height:
            factor = self.height / height
            return self.height, _rounded(width * factor)
        if self.max_side:
            factor = self.max_side / max(height, width)
        elif self.megapixels:
            factor = math.sqrt(self.megapixels * 1e6 / (height * width))
        else:
            factor = self.scale or DEFAULT_SCALE
        return _rounded(height * factor), _rounded(width * factor)


def plain(value: Any) -> Any:
    """A number as Python's own, whoever's it is: NumPy's wrap round. Anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


@dataclass(frozen=True)
class Route:
    """The native scales to run, one after the other, and the (height, width) to end with.

    Without a scale the image is only made smaller. ``resized``: the last run's result is not of
    the size that is asked for.
    """

    scales: tuple[int, ...]
    size: tuple[int, int]
    resized: bool


def route(height: int, width: int, target: Target, native: Collection[int]) -> Route:
    """How a network with the scales ``native`` makes an image of ``height`` x ``width`` larger.

    The product of the scales is the smallest that is not below what is asked for, of the fewest
    runs, the smaller scales first (they cost less there); what is too large is resized.

    Raises:
        UsageError: more than ``LARGEST_SCALE`` times.
    """
    size = target.size(height, width)
    ratio = max(size[0] / height, size[1] / width)
    if ratio <= 1:
        return Route((), size, resized=size != (height, width))
    if ratio > LARGEST_SCALE * SLACK:
        raise UsageError(
            f"{width}x{height} to {size[1]}x{size[0]} is {ratio:.0f} times, more than "
            f"{LARGEST_SCALE}"
        )
    scales = min(_chains(sorted(native), ratio / SLACK), key=lambda c: (math.prod(c), len(c), c))
    product = math.prod(scales)
    return Route(scales, size, resized=size != (height * product, width * product))


def _chains(native: list[int], ratio: float) -> list[tuple[int, ...]]:
    """Ascending scales whose product is at least ``ratio``."""
    longest = math.ceil(math.log(LARGEST_SCALE, native[-1])) + 1
    return [
        chain
        for count in range(1, longest + 1)
        for chain in itertools.combinations_with_replacement(native, count)
        if math.prod(chain) >= ratio
    ]


def _rounded(length: float) -> int:
    return max(1, math.floor(length + 0.5))


def large_enough(height: int, width: int) -> str:
    """Why an image is left alone that is to be enlarged only if it is smaller."""
    return f"{width}x{height} is large enough already"
