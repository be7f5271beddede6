"""Sizes, transparency, strips and threads of the service in memory."""

from __future__ import annotations

import copy
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pictures import bilinear_pan, photo
from PIL import Image as Pillow
from torch import Tensor, nn

from sruplift import engine, store, strips, tiling
from sruplift.errors import ImageError, SrupliftWarning, UsageError, WeightsError
from sruplift.image import Image
from sruplift.models import create_model
from sruplift.resize import bicubic
from sruplift.upscaler import Upscaler


class Twice(nn.Module):
    """Twice as large, without looking around."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest")


def twice(**options: object) -> Upscaler:
    return Upscaler(Twice(), scale=2, device="cpu", precision="fp32", **options)


def released(**options: object) -> Upscaler:
    return Upscaler("pan", device="cpu", precision="fp32", **options)


def with_alpha(height: int, width: int) -> np.ndarray:
    """A photo with a soft-edged hole, black where nothing is seen."""
    y, x = np.mgrid[0:height, 0:width]
    distance = np.hypot(y - height / 2, x - width / 2)
    alpha = np.clip((distance - min(height, width) / 5) * 40, 0, 255).astype(np.uint8)
    pixels = photo(height, width) * (alpha > 0)[..., None]
    return np.concatenate([pixels, alpha[..., None]], axis=2).astype(np.uint8)


# ---- Sizes


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"scale": 2.5}, (30, 40)),
        ({"scale": 6}, (72, 96)),
        ({"width": 50}, (38, 50)),
        ({"width": 20, "height": 40}, (40, 20)),
        ({"max_side": 8}, (6, 8)),
        ({"megapixels": 0.0048}, (60, 80)),
    ],
)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_size(options: dict[str, float], size: tuple[int, int], channels: int) -> None:
    array = photo(12, 16, 3)
    array = np.concatenate([array, array[..., :1]], axis=2)[..., :channels]
    result = released(**options)(np.ascontiguousarray(array))
    assert (result.shape, result.dtype) == ((*size, channels), np.uint8)


def test_what_is_no_scale_of_its_own_is_the_next_larger_one_resized() -> None:
    picture = photo(20, 30).astype(np.float32) / 255 * 0.4 + 0.3  # Nothing is clipped.
    three = torch.from_numpy(released(scale=3)(picture)).movedim(2, 0)
    expected = bicubic(three, size=(50, 75)).clamp(0, 1).movedim(0, 2).numpy()
    np.testing.assert_allclose(released(scale=2.5)(picture), expected, rtol=0, atol=1e-6)


def test_seams_are_those_of_the_network_that_is_used() -> None:
    picture = Image(photo(100, 100))
    found = [
        str(released(tile_size=64, overlap=8, **target).seams(picture))
        for target in ({"scale": 2}, {"width": 200}, {"scale": 4})
    ]
    assert found[0] == found[1] != found[2]
    assert released(width=50).seams(picture) is None


def test_a_chain_is_one_scale_after_the_other() -> None:
    picture = photo(10, 12).astype(np.float32) / 255
    expected = released(scale=3)(released(scale=2)(picture))
    np.testing.assert_allclose(released(scale=6)(picture), expected, rtol=0, atol=1e-6)


def test_made_smaller_without_a_network() -> None:
    picture = photo(40, 60)
    float_picture = torch.from_numpy(picture).movedim(2, 0).float() / 255
    expected = bicubic(float_picture, size=(20, 30)).clamp(0, 1).mul(255).round()
    result = released(width=30)(picture)
    assert np.array_equal(result, expected.movedim(0, 2).to(torch.uint8).numpy())


def test_rounded_once() -> None:
    """Two roundings, before and after the resize, would leave other values."""
    picture = photo(16, 16)
    exact = released(scale=3.5)(picture.astype(np.float32) / 255)
    assert np.array_equal(released(scale=3.5)(picture), np.round(exact * 255).astype(np.uint8))


def test_weights_of_ones_own_are_of_one_scale(tmp_path: Path) -> None:
    weights = bilinear_pan(tmp_path, 2)
    service = released(width=64, weights=weights)
    assert service.native == (2,)
    assert service(photo(8, 8)).shape == (64, 64, 3)
    with pytest.raises(WeightsError, match="x2"):
        released(scale=3, weights=weights)


def test_a_network_that_is_given_has_one_scale() -> None:
    with pytest.raises(UsageError, match="its own whole scale"):
        Upscaler(Twice(), width=30)


def test_an_unknown_model_is_said_at_once() -> None:
    with pytest.raises(UsageError, match="'pam'"):
        Upscaler("pam", width=300)


# ---- Transparency


def test_alpha_can_be_dropped() -> None:
    picture = with_alpha(20, 20)
    assert np.array_equal(twice(alpha="drop")(picture), twice()(picture[..., :3]))


def test_alpha_can_go_through_the_network() -> None:
    picture = with_alpha(20, 20)
    expected = picture[..., 3].repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(twice(alpha="net")(picture)[..., 3], expected)
    assert not np.array_equal(twice(alpha="bleed")(picture)[..., 3], expected)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_constant_alpha_stays_and_colours_are_left_alone(value: int) -> None:
    picture = photo(9, 11, 3)
    flat = np.concatenate([picture, np.full((9, 11, 1), value, np.uint8)], axis=2)
    result = twice()(flat)
    assert np.unique(result[..., 3]).tolist() == [value]
    assert np.array_equal(result[..., :3], twice()(picture))


def test_a_background_shows_where_nothing_else_does() -> None:
    picture = Image(with_alpha(40, 40))
    for background, corner in (("white", [255] * 3), ("#102030", [16, 32, 48])):
        result, _ = twice(background=background).enlarge(picture, flatten=True)
        assert result.array.shape == (80, 80, 3)
        assert result.array[40, 40].tolist() == corner


def test_a_grey_picture_on_a_colour_is_no_longer_grey() -> None:
    picture = Image(np.ascontiguousarray(with_alpha(20, 20)[..., 2:]))
    result, _ = twice(background="red").enlarge(picture, flatten=True)
    assert result.array.shape == (40, 40, 3)
    assert result.array[20, 20].tolist() == [255, 0, 0]
    plain, _ = twice(background="grey").enlarge(picture, flatten=True)
    assert plain.array.shape == (40, 40, 1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"alpha": "blead"}, "unknown alpha mode 'blead'; did you mean 'bleed'"),
        ({"background": "greenish"}, "background 'greenish' is no colour"),
        ({"scale": "2"}, "scale must be a number or None, not '2'"),
        ({"scale": True}, "scale must be a number or None, not True"),
        ({"width": 99.5}, r"width must be a whole number or None, not 99\.5"),
        ({"tile_size": "64"}, "tile_size must be a whole number or 'auto', not '64'"),
        ({"precision": None}, "precision must be a string, not None"),
        ({"background": (1, 2, 3)}, "background must be a string, not"),
        ({"weights": 3}, "weights must be a string or a path or None, not 3"),
        ({"self_ensemble": "no"}, "self_ensemble must be true or false, not 'no'"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Upscaler("pan", **{"scale": 2, **options})


def test_a_number_may_be_numpys_and_a_device_pytorchs() -> None:
    upscaler = Upscaler("pan", scale=np.int64(2), device=torch.device("cpu"))
    assert upscaler(np.zeros((8, 8), np.uint8)).shape == (16, 16)
    with pytest.raises(UsageError, match="a model's name or a network is needed, not 3"):
        Upscaler(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["pan", "srram"])
def test_a_network_that_is_given_stays_as_it_is(name: str) -> None:
    """Its owner may be training it."""
    network = create_model(name, 2).train()
    lr = torch.rand(1, 3, 24, 80, generator=torch.Generator().manual_seed(0))
    before = network(lr)
    Upscaler(network, scale=2)(np.zeros((8, 8), np.uint8))
    assert network.training
    assert torch.equal(network(lr), before)


def test_a_network_that_cannot_be_copied_is_used_itself() -> None:
    network = Twice()
    network.handle = threading.Lock()  # type: ignore[assignment]
    with pytest.warns(SrupliftWarning, match="cannot be copied: it is used itself"):
        upscaler = Upscaler(network, scale=2)
    result = upscaler(np.full((8, 8), 7, np.uint8))
    assert result.tolist() == [[7] * 16] * 16


def test_a_network_in_half_precision_is_used_in_float32() -> None:
    network = create_model("pan", 2).half()
    assert Upscaler(network, scale=2, device="cpu")(photo(8, 9)).shape == (16, 18, 3)
    assert next(network.parameters()).dtype == torch.float16


@pytest.mark.parametrize("tile", ["auto", 16])
def test_a_network_of_another_scale_is_told(tile: int | str) -> None:
    picture = np.zeros((30, 20, 3), np.uint8)
    with pytest.raises(UsageError, match="the network that is given has scale 3"):
        Upscaler(create_model("pan", 3), scale=2)
    for other in (nn.Upsample(scale_factor=3), nn.Upsample(scale_factor=1), nn.Flatten()):
        with pytest.raises(UsageError, match="for scale 2 it has to be"):
            Upscaler(other, scale=2, device="cpu", tile_size=tile, overlap=4)(picture)


def test_numbers_of_numpy_do_not_wrap_round() -> None:
    picture = photo(48, 80)
    assert released(scale=np.uint8(4))(picture).shape == (192, 320, 3)
    with pytest.raises(UsageError, match="too small for an overlap of 100"):
        released(scale=2, tile_size=np.int64(4), overlap=np.int64(100))
    assert type(released(scale=np.float32(2.5)).options.scale) is float


@pytest.mark.parametrize("name", ["pan", "hpinet-s"])
def test_what_the_caller_has_set_changes_nothing(name: str) -> None:
    picture = photo(30, 32)
    expected = Upscaler(name, scale=2, device="cpu", precision="fp32")(picture)
    torch.manual_seed(0)
    number = torch.rand(1)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        upscaler = Upscaler(name, scale=2, device="cpu", precision="fp32")
        with torch.autocast("cpu", torch.bfloat16):
            inside = upscaler(picture)
        transparent = upscaler(np.dstack([picture, np.full((30, 32), 255, np.uint8)]))
        in_parts = upscaler((picture / 255).astype(np.float32))
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert np.array_equal(inside, expected)
    assert np.array_equal(transparent[..., :3], expected)
    assert np.abs(in_parts * 255 - expected).max() < 0.51
    assert torch.equal(torch.rand(1), number)


def test_a_network_that_works_in_place() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(x.sub_(0.25), scale_factor=2) + 0.25

    picture = photo(12, 10)
    plain, ensemble = (
        Upscaler(Net(), scale=2, device="cpu", self_ensemble=each)(picture)
        for each in (False, True)
    )
    assert np.abs(plain.astype(int) - ensemble).max() <= 1


@pytest.mark.parametrize("exif", [b"Exif\0\0no TIFF header here", b"Exif\0\0II*\0\x08"])
def test_damaged_exif_of_a_picture_in_memory(tmp_path: Path, exif: bytes) -> None:
    Pillow.fromarray(photo(8, 9)).save(tmp_path / "a.png", exif=exif)
    with (
        Pillow.open(tmp_path / "a.png") as picture,
        pytest.warns(UserWarning, match="the EXIF data is damaged"),
    ):
        assert released(scale=2)(picture).size == (18, 16)


def test_what_is_large_enough_is_left_alone() -> None:
    picture = photo(20, 30)
    for target in ({"max_side": 10}, {"width": 10, "height": 15}):
        result = released(**target, only_if_smaller=True)(picture)
        assert np.array_equal(result, picture)
        assert result is not picture


def test_what_is_large_enough_still_gets_the_kind_that_is_asked_for() -> None:
    deep = Image(
        np.dstack([photo(8, 6).astype(np.uint16) * 257, np.full((8, 6), 65_535, np.uint16)])
    )
    upscaler = released(max_side=4, only_if_smaller=True)
    result, _ = upscaler.enlarge(deep, dtype=np.dtype(np.uint8), flatten=True)
    assert np.array_equal(result.array, photo(8, 6))


def test_a_network_that_is_given_has_its_weights() -> None:
    with pytest.raises(UsageError, match="has its weights: name no others"):
        Upscaler(Twice(), scale=2, weights="none.safetensors")


def test_a_picture_without_pixels() -> None:
    with pytest.raises(ImageError, match="cannot enlarge an array of shape"):
        released(scale=2)(np.zeros((4, 4), np.longdouble))
    with pytest.raises(ImageError, match="at least one pixel, not 0x5"):
        released(scale=2)(Pillow.new("RGB", (0, 5)))


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.zeros(3, 4, 4).to_sparse(), "dense and hold values, not sparse_coo"),
        (torch.zeros(1, 3, 4, 4).to_mkldnn(), "dense and hold values, not mkldnn"),
        (torch.zeros(3, 4, 4, device="meta"), "dense and hold values, not meta"),
        (torch.zeros(3, 4, 4).to(torch.float8_e4m3fn), "float8_e4m3fn are not supported"),
        (torch.zeros(3, 4, 4, dtype=torch.bool), "bool are not supported"),
    ],
)
def test_tensors_that_are_no_pictures(tensor: torch.Tensor, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        released(scale=2)(tensor)


# ---- Strips


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays of a few kilobytes go to files, strips are a few rows high."""
    monkeypatch.setattr(store, "IN_MEMORY", 4000)
    monkeypatch.setattr(engine, "STRIP_BYTES", 20_000)
    monkeypatch.setattr(strips, "PIECE", 3000)
    monkeypatch.setattr(strips, "BLEED_BLOCK", 32)


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, np.uint16), (2, np.uint8), (3, np.uint8), (4, np.uint16)]
)
@pytest.mark.parametrize("options", [{"scale": 2}, {"scale": 4.5}, {"width": 100}])
def test_strips_make_the_picture_that_the_whole_makes(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    channels: int,
    dtype: type,
    options: dict[str, int],
) -> None:
    array = with_alpha(150, 40)[..., [0, 1, 2, 3] if channels > 2 else [0, 3]]
    factor = dtype(np.iinfo(dtype).max // 255)
    picture = Image(np.ascontiguousarray(array[..., :channels]).astype(dtype) * factor)
    service = released(**options)
    whole, _ = service.enlarge(picture)
    request.getfixturevalue("little_memory")
    assert service.engine_for(2).choose_tile(150, 40, 72)[0] < 150
    strips, _ = service.enlarge(picture, folder=tmp_path)
    assert store.is_mapped(strips.array)
    error = np.abs(strips.array.astype(int) - whole.array)
    # Colours that nobody sees may differ.
    seen = np.ones(whole.size, bool) if whole.alpha is None else whole.alpha > 0
    assert seen.mean() > 0.8
    assert error[seen].max() <= 1
    assert list(tmp_path.iterdir()) == []


def test_a_row_of_tiles_is_no_taller_than_its_memory() -> None:
    wide = twice().engine
    height, width = wide.choose_tile(50_000, 50_000, 32)
    assert (height - 32) * 50_000 * 4 * 12 <= engine.STRIP_BYTES
    assert height * width <= 512**2
    assert wide.choose_tile(400, 500, 32) == (400, 500)


@pytest.mark.parametrize("overlap", [0, 6])
def test_only_the_strip_that_is_made_is_held(monkeypatch: pytest.MonkeyPatch, overlap: int) -> None:
    """At 12 megapixels one has 180 MB."""
    made: list[weakref.ref[Tensor]] = []
    held: list[int] = []
    make = tiling._strip_like

    def watched(*shape: Any) -> Tensor:
        strip = make(*shape)
        made.append(weakref.ref(strip))
        return strip

    class Watching(Twice):
        def forward(self, x: Tensor) -> Tensor:
            held.append(sum(strip() is not None for strip in made))
            return super().forward(x)

    monkeypatch.setattr(tiling, "_strip_like", watched)
    upscaler = Upscaler(
        Watching(), scale=2, device="cpu", alpha="net", tile_size=16, overlap=overlap
    )
    upscaler(with_alpha(70, 40))
    assert len(made) > 8
    assert max(held) == 1


@pytest.mark.parametrize(
    "use",
    [
        lambda bands: strips.stored(bands, 40, 30, None),
        lambda bands: [len(band.pixels) for band in strips.resized_bands(bands, 40, (60, 45))],
        lambda bands: strips.Finish(torch.empty(40, 30, 3), 3, None, None).take(bands),
    ],
    ids=["stored", "resized", "finished"],
)
def test_a_band_is_let_go_before_the_next(use: Callable[[Iterator[tiling.Band]], object]) -> None:
    freed = []

    def bands() -> Iterator[tiling.Band]:
        for top in range(0, 40, 10):
            pixels = torch.rand(1, 3, 10, 30)
            gone = weakref.ref(pixels)
            yield tiling.Band(top, pixels)
            del pixels
            freed.append(gone() is None)

    use(bands())
    assert freed == [True] * 4


# ---- Threads


def test_threads_share_an_upscaler() -> None:
    service = released(scale=2, tile_size=48, overlap=24)
    pictures = [photo(50 + 7 * index, 60) for index in range(6)]
    expected = [service(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(service, pictures))
    assert all(np.array_equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("send", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
@pytest.mark.parametrize("given", [False, True])
def test_it_can_be_copied_and_sent_to_other_processes(
    send: Callable[[Upscaler], Upscaler], *, given: bool
) -> None:
    service = twice(alpha="net") if given else released(scale=3, tile_size=48, overlap=24)
    other = send(service)
    assert other.options == service.options
    picture = photo(50, 60)
    assert np.array_equal(other(picture), service(picture))
