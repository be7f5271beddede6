"""Sizes that are asked for, and the native scales that lead there."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sruplift.errors import UsageError
from sruplift.sizes import Route, Target, route


@pytest.mark.parametrize(
    ("target", "size"),
    [
        (Target(), (400, 600)),
        (Target(scale=2), (200, 300)),
        (Target(scale=3.5), (350, 525)),
        (Target(width=500), (333, 500)),
        (Target(height=333), (333, 500)),
        (Target(width=500, height=500), (500, 500)),
        (Target(max_side=450), (300, 450)),
        (Target(megapixels=0.06), (200, 300)),
        (Target(width=1), (1, 1)),
    ],
)
def test_sizes(target: Target, size: tuple[int, int]) -> None:
    assert target.size(100, 150) == size


@pytest.mark.parametrize(
    ("target", "label"),
    [
        (Target(), "x4"),
        (Target(scale=3.5), "x3.5"),
        (Target(width=500), "500w"),
        (Target(height=500), "500h"),
        (Target(width=500, height=400), "500x400"),
        (Target(max_side=500), "500max"),
        (Target(megapixels=12), "12mp"),
    ],
)
def test_labels(target: Target, label: str) -> None:
    assert target.label == label


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"scale": 2, "width": 5}, "--scale and --width or --height ask for different sizes"),
        ({"max_side": 2, "megapixels": 5}, "--max-side and --megapixels"),
        ({"scale": 1}, "scale must be above 1 and at most 64, not 1"),
        ({"scale": math.nan}, "scale must be above 1"),
        ({"scale": 65}, "at most 64, not 65"),
        ({"width": 0}, "width must be above 0 and below 10,000,000, not 0"),
        ({"max_side": -3}, "max-side must be above 0"),
        ({"megapixels": math.inf}, "megapixels must be above 0"),
    ],
)
def test_what_cannot_be_meant(options: dict[str, float], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Target(**options)


@pytest.mark.parametrize(
    ("scale", "native", "scales", "resized"),
    [
        (2, (2, 3, 4), (2,), False),
        (2.5, (2, 3, 4), (3,), True),
        (3.5, (2, 3, 4), (4,), True),
        (5, (2, 3, 4), (2, 3), True),
        (8, (2, 3, 4), (2, 4), False),
        (9, (2, 3, 4), (3, 3), False),
        (16, (2, 3, 4), (4, 4), False),
        (3, (2,), (2, 2), True),
        (64, (2,), (2,) * 6, False),
        (6, (4,), (4, 4), True),
    ],
)
def test_routes(
    scale: float, native: tuple[int, ...], scales: tuple[int, ...], resized: bool
) -> None:
    found = route(100, 150, Target(scale=scale), native)
    assert (found.scales, found.resized) == (scales, resized)


def test_a_rounded_size_needs_no_larger_scale() -> None:
    assert route(101, 150, Target(width=600), (2, 3, 4)) == Route((4,), (404, 600), False)
    assert route(333, 500, Target(width=1001), (2, 3, 4)).scales == (3,)


def test_what_is_large_enough_runs_no_network() -> None:
    assert route(100, 150, Target(width=75), (2,)) == Route((), (50, 75), True)
    assert route(100, 150, Target(width=150), (2,)) == Route((), (100, 150), False)


def test_too_many_times() -> None:
    with pytest.raises(UsageError, match="10x10 to 10000x10000 is 1000 times, more than 64"):
        route(10, 10, Target(width=10_000), (2, 3, 4))


@given(
    st.floats(1.01, 64),
    st.lists(st.integers(2, 4), min_size=1, unique=True),
    st.integers(1, 5000),
    st.integers(1, 5000),
)
def test_a_route_reaches_what_is_asked_for_and_no_run_is_for_nothing(
    scale: float, native: list[int], height: int, width: int
) -> None:
    found = route(height, width, Target(scale=scale), native)
    product = math.prod(found.scales)
    needed = max(found.size[0] / height, found.size[1] / width) / 1.0005
    assert product >= needed
    if len(found.scales) > 1:
        assert product // found.scales[0] < needed
