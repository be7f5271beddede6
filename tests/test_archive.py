"""Unpacking tarballs: what is fine, and everything a hostile one may try."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from sruplift import archive
from sruplift.archive import DamagedArchiveError, extract_flat
from sruplift.errors import DatasetError

Member = tuple[tarfile.TarInfo, bytes]


def file(name: str, content: bytes = b"pixels") -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def special(name: str, kind: bytes, target: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info, b""


def tar_bytes(members: Iterable[Member]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def wanted(name: str) -> bool:
    return name.endswith(".png")


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[..., Path]:
    """Gzip the bytes (unless ``compressed``), unpack them, return the folder: alone in its own."""

    def run(tar: bytes, *, compressed: bool = False) -> Path:
        tarball = tmp_path / "set.tar.gz"
        tarball.write_bytes(tar if compressed else gzip.compress(tar))
        folder = tmp_path / "cache" / "set"
        extract_flat(tarball, folder, wanted)
        return folder

    return run


def everything_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_writes_what_is_wanted_flat(unpack: Callable[..., Path], tmp_path: Path) -> None:
    folder = unpack(
        tar_bytes(
            [
                special("Set_HR", tarfile.DIRTYPE),
                file("Set_HR/b.png", b"bee"),
                file("Set_HR/deep/er/a.png", b"ay"),
                file("Set_HR/README.txt"),
            ]
        )
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "a.png": b"ay",
        "b.png": b"bee",
    }
    assert everything_below(tmp_path / "cache") == {"set", "set/a.png", "set/b.png"}
    assert folder.stat().st_mode & 0o777 == 0o755


HOSTILE = {
    "absolute": [file("/etc/a.png")],
    "parent": [file("../../a.png")],
    "parent inside": [file("Set/../../../a.png")],
    "parent of what is not wanted": [file("../notes.txt")],
    "backslashes": [file("Set\\..\\a.png")],
    "drive": [file("C:a.png")],
    "symbolic link": [special("a.png", tarfile.SYMTYPE, "/etc/passwd")],
    "link to a folder, then a file in it": [
        special("Set", tarfile.SYMTYPE, "/tmp"),
        file("Set/a.png"),
    ],
    "hard link": [special("a.png", tarfile.LNKTYPE, "/etc/passwd")],
    "device": [special("a.png", tarfile.CHRTYPE)],
    "pipe": [special("a.png", tarfile.FIFOTYPE)],
    "same name twice": [file("x/a.png", b"1"), file("y/a.png", b"2")],
    "same name but for case": [file("a.png", b"1"), file("A.png", b"2")],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_refuses_all_of_a_hostile_tar(
    unpack: Callable[..., Path], tmp_path: Path, members: list[Member]
) -> None:
    tar = tar_bytes([file("good.png"), *members])
    before = everything_below(tmp_path)
    with pytest.raises(DamagedArchiveError, match=r"cannot unpack .*set\.tar\.gz: ") as caught:
        unpack(tar)
    assert "\n" not in str(caught.value)
    assert everything_below(tmp_path) - before == {"set.tar.gz", "cache"}


def test_refuses_a_sparse_file(unpack: Callable[..., Path]) -> None:
    """A hole of a terabyte takes 512 bytes in a tar, and no compression to hide in."""
    tar = bytearray(tar_bytes([file("a.png", b"x")]))
    info = tarfile.TarInfo("a.png")
    info.type = tarfile.GNUTYPE_SPARSE
    info.size = 1
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\0" + b"00000000001\0"  # one stretch: at 0, 1 byte
    header[483:495] = b"17777777777\0"  # the real size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    tar[:512] = header
    with pytest.raises(DamagedArchiveError, match="neither a plain file nor a folder"):
        unpack(bytes(tar))


def test_refuses_a_bomb(
    unpack: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(archive, "MAX_EXTRACTED_BYTES", 1 << 20)
    assert unpack(tar_bytes([file("a.png", bytes(900_000))])).is_dir()
    (tmp_path / "cache" / "set").rename(tmp_path / "elsewhere")
    bomb = tar_bytes([file("a.png", bytes(600_000)), file("b.png", bytes(600_000))])
    with pytest.raises(DamagedArchiveError, match="unpacks to more than 1 MiB"):
        unpack(bomb)
    assert not any((tmp_path / "cache").iterdir())


def test_refuses_too_many_members(
    unpack: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    with pytest.raises(DamagedArchiveError, match="more than 3 members"):
        unpack(tar_bytes([file(f"{index}.txt") for index in range(4)]))


def test_refuses_damage_wherever_it_is(unpack: Callable[..., Path], tmp_path: Path) -> None:
    whole = gzip.compress(tar_bytes([file("a.png", os.urandom(3000)), file("b.png", b"more")]))
    for length in (0, 5, 20, 1000, len(whole) - 30, len(whole) - 4):
        with pytest.raises(DamagedArchiveError, match="cannot unpack"):
            unpack(whole[:length], compressed=True)
    with pytest.raises(DamagedArchiveError, match="Not a gzipped file"):
        unpack(b"<html>not found</html>", compressed=True)
    for place in (3, 1500, len(whole) - 6):
        flipped = bytearray(whole)
        flipped[place] ^= 0xFF
        with pytest.raises(DamagedArchiveError, match="cannot unpack"):
            unpack(bytes(flipped), compressed=True)
    assert everything_below(tmp_path) == {"set.tar.gz", "cache"}


def test_a_folder_that_is_there_already_is_left_alone(unpack: Callable[..., Path]) -> None:
    first = unpack(tar_bytes([file("a.png", b"first")]))
    second = unpack(tar_bytes([file("a.png", b"second")]))
    assert (second / "a.png").read_bytes() == b"first"
    assert [path.name for path in first.parent.iterdir()] == ["set"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    tarball = tmp_path / "set.tar.gz"
    tarball.write_bytes(gzip.compress(tar_bytes([file("a.png")])))
    (tmp_path / "cache").write_text("a file, where the cache should be")
    with pytest.raises(DatasetError, match=r"cannot write to .*cache"):
        extract_flat(tarball, tmp_path / "cache" / "set", wanted)


def test_a_full_disk_is_not_the_archives_fault(
    unpack: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(DatasetError, match="No space left on device") as caught:
        unpack(tar_bytes([file("a.png")]))
    assert not isinstance(caught.value, DamagedArchiveError)
    assert not any((tmp_path / "cache").iterdir())
