"""Tiles cover every pixel once, blend to one, and give what the whole image gives."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import photo_like
from torch import Tensor

from sruplift.errors import NumericalError
from sruplift.models import create_model
from sruplift.tiling import (
    RAMP,
    Band,
    assemble,
    axis_window,
    even_tile,
    plan_axis,
    plan_tiles,
    run_tiled,
)

SMALL_AXES = [
    (length, tile, overlap)
    for length in range(1, 24)
    for tile in range(1, 13)
    for overlap in range(tile)
]


def enlarge(scale: int, reach: int) -> object:
    """A local "network": what is ``reach`` pixels away decides, zero padding as in a CNN."""
    size = 2 * reach + 1
    kernel = torch.rand((1, 1, size, size), generator=torch.Generator().manual_seed(0))

    def fn(image: Tensor) -> Tensor:
        mixed = F.conv2d(image, kernel / kernel.sum(), padding=reach)
        return F.interpolate(mixed, scale_factor=scale, mode="nearest")

    return fn


def test_axis_tiles_have_one_size_and_share_enough() -> None:
    for length, tile, overlap in SMALL_AXES:
        spans = plan_axis(length, tile, overlap)
        assert {span.stop - span.start for span in spans} == {min(length, tile)}
        assert spans[0].start == 0
        assert spans[-1].stop == length
        for before, after in itertools.pairwise(spans):
            assert before.start < after.start
            assert before.stop - after.start >= overlap


def test_axis_tiles_are_as_few_as_can_be() -> None:
    for length, tile, overlap in SMALL_AXES:
        count = len(plan_axis(length, tile, overlap))
        reached = tile + (count - 2) * (tile - overlap)  # With one tile less.
        assert count == 1 or reached < length


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_weights_are_positive_and_sum_to_one(scale: int) -> None:
    for length, tile, overlap in SMALL_AXES:
        total = torch.zeros(length * scale)
        for span in plan_axis(length, tile, overlap):
            window = axis_window(span, scale)
            assert (window > 0).all()
            assert span.start <= span.kept.start <= span.kept.stop <= span.stop
            total[span.kept.start * scale : span.kept.stop * scale] += window
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)


def test_image_borders_are_not_faded() -> None:
    spans = plan_axis(100, 40, 16)
    assert axis_window(spans[0])[0] == 1
    assert axis_window(spans[-1])[-1] == 1


def test_halo_is_half_of_what_the_ramp_leaves() -> None:
    first, second = plan_axis(100, 60, 2 * 6 + RAMP)[:2]
    assert second.fade_in == first.fade_out == (second.start + 6, first.stop - 6)


def test_even_tile_needs_no_more_tiles_and_wastes_nothing() -> None:
    for length, tile, overlap in SMALL_AXES:
        even = even_tile(length, tile, overlap)
        assert even <= tile
        assert len(plan_axis(length, even, overlap)) == len(plan_axis(length, tile, overlap))
        if overlap < even - 1 and even < length:
            fewer = len(plan_axis(length, even - 1, overlap))
            assert fewer > len(plan_axis(length, even, overlap))


@pytest.mark.parametrize("grid", [2, 6, 8])
def test_tiles_on_a_grid_go_on_whatever_they_share(grid: int) -> None:
    for length, tile, overlap in [
        *(
            (length, tile, tile - own)
            for length in range(20, 70)
            for tile in (17, 24)
            for own in (1, 8)
        ),
        (43, 24, 12),
        (50, 40, 32),
    ]:
        spans = plan_axis(length, tile, overlap, grid=grid)
        assert spans[-1].stop == length
        assert all(span.start % grid == 0 for span in spans)
        assert max(span.stop - span.start for span in spans) < tile + 2 * grid
        for before, after in itertools.pairwise(spans):
            assert before.start < after.start
            assert before.stop - after.start >= overlap


@pytest.mark.parametrize("overlap", [-1, 8, 9])
def test_an_overlap_that_does_not_fit_is_refused(overlap: int) -> None:
    with pytest.raises(ValueError, match="does not fit a tile of 8"):
        plan_tiles(20, 20, 8, overlap)


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        plan_tiles(0, 5, 8, 2)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_blending_equal_values_changes_nothing(order: torch.memory_format) -> None:
    for height, width, tile, overlap in [
        (1, 1, 4, 2),
        (9, 17, 5, 3),
        (31, 4, 8, 7),
        (16, 16, 5, 0),
    ]:
        image = torch.rand(1, 2, height, width)
        given = image.contiguous(memory_format=order)  # Of which the results are views.
        bands = run_tiled(lambda x, _: x, given, plan_tiles(height, width, tile, overlap), 1)
        torch.testing.assert_close(assemble(bands, height), image, rtol=0, atol=1e-6)
        assert torch.equal(given, image)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_enough_overlap_equals_the_whole_image(scale: int) -> None:
    fn = enlarge(scale, reach=2)
    for height, width, tile in [(23, 31, 13), (40, 9, 12), (13, 50, (13, 12)), (64, 64, 17)]:
        image = torch.rand(1, 1, height, width)
        plan = plan_tiles(height, width, tile, overlap=8)
        assert len(plan) > 1
        tiled = assemble(run_tiled(lambda x, _: fn(x), image, plan, scale), height * scale)
        torch.testing.assert_close(tiled, fn(image), rtol=0, atol=1e-6)


def test_too_little_overlap_differs() -> None:
    fn = enlarge(1, reach=4)
    image = torch.rand(1, 1, 40, 40)
    tiled = assemble(run_tiled(lambda x, _: fn(x), image, plan_tiles(40, 40, 16, 4), 1), 40)
    assert (tiled - fn(image)).abs().max() > 1e-3


@pytest.mark.parametrize("scale", [2, 3])
def test_pan_in_tiles_equals_the_whole_image(scale: int) -> None:
    torch.manual_seed(0)
    net = create_model("pan", scale).eval().double()  # float32 convolutions round by shape.
    for parameter in net.blocks.parameters():
        parameter.data *= 2.5  # Fresh weights hardly look further than their own pixel.
    image = photo_like(40, 118)[None].double()
    reach = net.needs.receptive_field
    assert reach is not None
    with torch.inference_mode():
        whole = net(image)
        for overlap, ramp, equal in [
            (2 * reach + RAMP, RAMP, True),
            (2 * reach, 0, True),
            (reach, RAMP, False),
        ]:
            plan = plan_tiles(40, 118, (40, overlap + 20), overlap, ramp)
            assert len(plan) > 1
            tiled = assemble(run_tiled(lambda x, _: net(x), image, plan, scale), 40 * scale)
            difference = float((tiled - whole).abs().max() / whole.abs().max())
            assert difference < 1e-9 if equal else difference > 1e-6


def test_bands_come_in_order_and_hold_no_row_twice() -> None:
    image = torch.rand(1, 1, 50, 20)
    done = 0
    for band in run_tiled(lambda x, _: x, image, plan_tiles(50, 20, 12, 4), 1):
        assert band.top == done
        assert band.pixels.shape[-2] > 0
        done += band.pixels.shape[-2]
    assert done == 50


def test_a_run_goes_on_from_any_row_with_another_plan() -> None:
    fn = enlarge(2, reach=1)
    image = torch.rand(1, 1, 30, 20)
    for first_row in range(60):
        rest = [
            *run_tiled(lambda x, _: fn(x), image, plan_tiles(30, 20, 9, 4), 2, first_row=first_row)
        ]
        assert rest[0].top == first_row
        pixels = torch.cat([band.pixels for band in rest], dim=-2)
        torch.testing.assert_close(pixels, fn(image)[..., first_row:, :], rtol=0, atol=1e-6)


def test_rows_that_are_done_are_not_computed_again() -> None:
    calls = []

    def fn(tile: Tensor, _: object) -> Tensor:
        calls.append(tile)
        return tile

    plan = plan_tiles(100, 10, 20, 4)
    list(run_tiled(fn, torch.rand(1, 1, 100, 10), plan, 1, first_row=90))
    assert len(calls) == 1


def test_the_tile_that_failed_is_named() -> None:
    def fn(tile: Tensor, _: object) -> Tensor:
        if float(tile.max()) > 1:
            raise NumericalError("the network returned NaN")
        return tile

    image = torch.zeros(1, 1, 20, 30)
    image[..., 19, 29] = 2
    with pytest.raises(NumericalError, match=r"NaN .tile of rows 10 to 19, columns 20 to 29"):
        list(run_tiled(fn, image, plan_tiles(20, 30, 10, 0), 1))


def test_bands_that_do_not_fit_are_refused() -> None:
    rows = torch.zeros(1, 1, 4, 5)
    with pytest.raises(ValueError, match="expected row 4"):
        assemble([Band(0, rows), Band(5, rows)], 9)
    with pytest.raises(ValueError, match="only 4 of 9"):
        assemble([Band(0, rows)], 9)


@pytest.mark.parametrize("grid", [2, 6])
def test_tiles_start_on_the_grid(grid: int) -> None:
    for length in range(41, 140):
        spans = plan_axis(length, 40, 14, RAMP, grid)
        assert {span.start % grid for span in spans} == {0}
        assert len({span.stop - span.start for span in spans}) == 1
        assert (spans[0].start, spans[-1].stop) == (0, length)
        assert all(a.stop - b.start >= 14 for a, b in itertools.pairwise(spans))


def test_a_tile_is_told_where_it_lies() -> None:
    image = torch.arange(30 * 20.0).view(1, 1, 30, 20)

    def fn(tile: Tensor, at: tuple[int, int]) -> Tensor:
        assert tile[0, 0, 0, 0] == at[0] * 20 + at[1]
        return tile

    plan = plan_tiles(30, 20, 9, 4, ramp=0)
    assert torch.equal(assemble(run_tiled(fn, image, plan, 1), 30), image)
