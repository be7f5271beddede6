"""What a TIFF's tags mean, and what libtiff says."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from corpus import tiff
from pictures import photo
from PIL import Image as Pillow

from sruplift.tiff import complaints, is_negative, lacks_pixels, named_channels, read_tags, tags_of


def tags(**options: object) -> dict[int, object]:
    data = tiff(np.zeros((6, 5, 4), np.uint16), 2, **options)  # type: ignore[arg-type]
    return dict(read_tags(io.BytesIO(data)))


def test_tags_are_read_without_a_decoder() -> None:
    found = tags(extra=(2,))
    assert (found[256], found[257], found[277], found[338]) == (5, 6, 4, (2,))
    assert read_tags(io.BytesIO(b"II*\0")) == {}
    assert read_tags(io.BytesIO(b"no TIFF at all")) == {}
    assert tags_of(Pillow.new("L", (1, 1))) == {}


@pytest.mark.parametrize(
    ("extra", "samples", "named"),
    [((), 3, None), ((2,), 4, None), ((1,), 4, None), ((0,), 4, 3), ((2, 0), 5, 4), ((0, 0), 3, 1)],
)
def test_channels_with_a_meaning(extra: tuple[int, ...], samples: int, named: int | None) -> None:
    assert named_channels({338: extra, 277: samples}) == named


def test_tags_may_hold_anything() -> None:
    for value in (None, "text", b"bytes", (), (0,), (0, 0, 0), -1, 0.5, ("a", None)):
        broken = dict.fromkeys((256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 322, 338), value)
        assert isinstance(lacks_pixels(broken), bool)
        assert isinstance(lacks_pixels({**broken, 324: value}), bool)
        assert named_channels(broken) is None or isinstance(named_channels(broken), int)
        assert isinstance(is_negative(broken), bool)


def test_strips_and_their_bytes_are_counted() -> None:
    assert not lacks_pixels(tags(rows_per_strip=2))
    assert lacks_pixels(tags(rows_per_strip=2, left_out=1))
    assert lacks_pixels(tags(rows_per_strip=4, left_out=1, compressed=True))
    whole = tags()
    assert lacks_pixels({**whole, 279: (6 * 5 * 4 * 2 - 1,)})
    assert not lacks_pixels({**whole, 279: (0,)})  # Not told, as by some old programs.
    assert not lacks_pixels({**whole, 324: (8, 9), 322: 16, 323: 3})
    assert lacks_pixels({**whole, 324: (8,), 322: 16, 323: 3})


def fax(damaged: bool) -> io.BytesIO:
    buffer = io.BytesIO()
    Pillow.fromarray(photo(40, 40)).convert("1").save(buffer, "TIFF", compression="group4")
    data = bytearray(buffer.getvalue())
    with Pillow.open(buffer) as picture:
        start = picture.tag_v2[273][0]
    if damaged:
        data[start + 10 : start + 20] = bytes(10)
    return io.BytesIO(data)


def test_complaints_are_heard_by_the_thread_that_asks() -> None:
    heard: dict[str, list[str]] = {}

    def decode(name: str, damaged: bool) -> None:
        with complaints() as said, Pillow.open(fax(damaged)) as picture:
            picture.load()
        heard[name] = said

    threads = [
        threading.Thread(target=decode, args=(f"{number}", number % 2 == 1)) for number in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: bool(said) for name, said in heard.items()} == {
        f"{number}": number % 2 == 1 for number in range(6)
    }
    assert all(said[0].startswith("Bad code word at line") for said in heard.values() if said)


def test_nobody_listens_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with complaints():
        pass
    with Pillow.open(fax(damaged=True)) as picture:
        picture.load()
    assert capfd.readouterr() == ("", "")
