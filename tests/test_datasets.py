"""Where HR images come from: local folders in several layouts, and a Hub on loopback."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import HubServer
from PIL import Image
from test_archive import file, tar_bytes

from sruplift import datasets
from sruplift.datasets import (
    BENCHMARKS,
    cache_folder,
    find_dataset,
    find_datasets,
    list_images,
    read_hr,
)
from sruplift.errors import DatasetError, UsageError
from sruplift.image import Image as Picture
from sruplift.image import write_image

TARBALL = "data/Set5_HR.tar.gz"
NAMES = ["baby.png", "bird.png", "butterfly.png", "head.png", "woman.png"]


def png(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 20), (shade, 100, 50)).save(buffer, "PNG")
    return buffer.getvalue()


def tarball(names: list[str], folder: str = "Set5_HR") -> bytes:
    members = [file(f"{folder}/{name}", png(index)) for index, name in enumerate(names)]
    # As macOS packs them: a hidden companion for every file.
    return gzip.compress(tar_bytes([*members, file(f"{folder}/._{names[0]}", b"not an image")]))


def fill(folder: Path, names: list[str] = NAMES) -> Path:
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        (folder / name).write_bytes(png(index))
    return folder


class TestLocalFolders:
    @pytest.mark.parametrize(
        "layout", ["Set5/HR", "Set5_HR", "Set5", "set5/hr", "SET5_hr", "Set5/Set5_HR"]
    )
    def test_layouts(self, tmp_path: Path, layout: str) -> None:
        folder = fill(tmp_path / layout)
        found = find_dataset("Set5", tmp_path)
        assert found.name == "Set5"
        assert found.benchmark
        assert found.images == tuple(folder / name for name in NAMES)

    def test_other_folders_beside_it_are_not_taken(self, tmp_path: Path) -> None:
        fill(tmp_path / "Set5" / "LR_bicubic")
        fill(tmp_path / "Set5x")
        hr = fill(tmp_path / "Set5_HR")
        assert {path.parent for path in find_dataset("Set5", tmp_path).images} == {hr}

    def test_folders_of_one_name_are_told_apart(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        fill(root / "Set5" / "HR")
        places = [tmp_path / "a" / "val", tmp_path / "b" / "val", tmp_path / "c" / "other"]
        places += [tmp_path / "mine" / "Set5", tmp_path / "d" / "a" / "val"]
        for place in places:
            fill(place)
        names = ["Set5", *map(str, places)]
        found = find_datasets(names, root)
        called = [each.name for each in found]
        assert called[:3] == ["Set5", f"{tmp_path.name}/a/val", "b/val"]
        assert called[3:] == ["other", "mine/Set5", "d/a/val"]
        assert [each.benchmark for each in found] == [True] + 5 * [False]
        assert [each.name for each in find_datasets([str(places[0])])] == ["val"]

    @pytest.mark.parametrize("asked", ["BSD100", "b100", "bsds100", "Bsd100"])
    @pytest.mark.parametrize("folder", ["B100", "BSD100", "BSDS100_HR"])
    def test_aliases(self, tmp_path: Path, asked: str, folder: str) -> None:
        fill(tmp_path / folder, [f"{index:03}.png" for index in range(100)])
        found = find_dataset(asked, tmp_path)
        assert (found.name, len(found.images)) == ("BSD100", 100)

    @pytest.mark.parametrize(("count", "words"), [(4, "has 4 images"), (1, "has 1 image,")])
    def test_missing_images_are_counted(self, tmp_path: Path, count: int, words: str) -> None:
        fill(tmp_path / "Set5" / "HR", NAMES[:count])
        with pytest.raises(DatasetError, match=f"HR {words}.* Set5 has 5"):
            find_dataset("set5", tmp_path)

    def test_too_many_images(self, tmp_path: Path) -> None:
        fill(tmp_path / "Set5", [*NAMES, "mine.png"])
        with pytest.raises(DatasetError, match="has 6 images, Set5 has 5"):
            find_dataset("Set5", tmp_path)

    def test_a_root_without_it(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"cannot find Set14: it is not in .*Set14_HR"):
            find_dataset("Set14", tmp_path)

    def test_a_root_with_an_empty_folder(self, tmp_path: Path) -> None:
        (tmp_path / "Set5").mkdir()
        with pytest.raises(DatasetError, match=r"there are no images in .*Set5 "):
            find_dataset("Set5", tmp_path)

    def test_a_root_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"cannot read the folder .*nowhere: No such file"):
            find_dataset("Set5", tmp_path / "nowhere")

    def test_manga109_is_the_users_own(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"Manga109 is not free to download .*--data-root"):
            find_dataset("manga109")
        fill(tmp_path / "Manga109", [f"{index}.png" for index in range(109)])
        assert len(find_dataset("manga109", tmp_path).images) == 109


class TestAnyFolder:
    def test_images_by_suffix_sorted(self, tmp_path: Path) -> None:
        folder = fill(tmp_path / "mine", ["b.PNG", "a.jpeg", "c.txt", ".hidden.png"])
        (folder / "d.png").mkdir()
        found = find_dataset(str(folder))
        assert found.name == "mine"
        assert not found.benchmark
        assert [path.name for path in found.images] == ["a.jpeg", "b.PNG"]

    def test_a_name_wins_over_a_folder_of_that_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(tmp_path / "Set5", ["one.png"])
        monkeypatch.chdir(tmp_path)
        assert len(find_dataset("./Set5").images) == 1
        with pytest.raises(DatasetError, match="Set5 has 5"):
            find_dataset("Set5", tmp_path)

    def test_the_folder_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(fill(tmp_path / "holiday"))
        assert find_dataset(".").name == "holiday"

    def test_no_images(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=f"there are no images in {tmp_path}"):
            find_dataset(str(tmp_path))

    def test_neither_a_name_nor_a_folder(self) -> None:
        with pytest.raises(UsageError, match="unknown data set 'Set51'; did you mean 'Set5'"):
            find_dataset("Set51")

    def test_a_file(self, tmp_path: Path) -> None:
        path = fill(tmp_path / "mine") / NAMES[0]
        with pytest.raises(UsageError, match=r"baby\.png is a file, not a folder"):
            find_dataset(str(path))

    def test_listing_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="cannot read the folder"):
            list_images(tmp_path / "nowhere")


class TestHub:
    @pytest.fixture
    def server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
        with HubServer({"dataset/eugenesiow/Set5": {TARBALL: tarball(NAMES)}}) as running:
            running.use(monkeypatch, tmp_path / "hf")
            yield running

    def test_downloads_once(self, server: HubServer, tmp_path: Path) -> None:
        found = find_dataset("Set5")
        assert [path.name for path in found.images] == NAMES
        assert found.benchmark
        assert all(path.is_relative_to(tmp_path / "hf") for path in found.images)
        assert found.images[3].read_bytes() == png(3)
        asked = len(server.requests)
        assert find_dataset("set5") == found
        assert len(server.requests) == asked

    def test_offline_with_a_filled_cache(
        self, server: HubServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = find_dataset("Set5")
        server.refuse()
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert find_dataset("Set5") == found
        # The tarball alone is enough too.
        shutil.rmtree(cache_folder())
        assert find_dataset("Set5") == found

    def test_offline_with_nothing(self, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(DatasetError, match=f"{TARBALL} of eugenesiow/Set5 is not in the cache"):
            find_dataset("Set5")
        assert not server.requests

    def test_refused_connection(self, server: HubServer) -> None:
        server.refuse()
        with pytest.raises(DatasetError, match=f"cannot download {TARBALL} .*cannot be reached"):
            find_dataset("Set5")

    @pytest.mark.parametrize(
        ("status", "words"), [(404, "no such file"), (500, "the Hub answered 500")]
    )
    def test_errors_of_the_hub(self, server: HubServer, status: int, words: str) -> None:
        server.inject(TARBALL, status=status)
        with pytest.raises(DatasetError, match=f"cannot download {TARBALL} .*{words}"):
            find_dataset("Set5")
        server.heal(TARBALL)
        assert len(find_dataset("Set5").images) == 5

    def test_half_a_file(self, server: HubServer) -> None:
        server.inject(TARBALL, truncate=100)
        with pytest.raises(DatasetError, match=f"cannot download {TARBALL}"):
            find_dataset("Set5")
        assert not cache_folder().exists()
        server.heal(TARBALL)
        assert len(find_dataset("Set5").images) == 5

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"<html>be right back</html>", "Not a gzipped file"),
            (tarball(NAMES)[:-30], "cannot unpack"),
            (tarball(NAMES[:4]), "has 4 images, Set5 has 5"),
            (gzip.compress(tar_bytes([file("README.md")])), "has no images, Set5 has 5"),
            (gzip.compress(tar_bytes([file("../baby.png")])), "leads out of its folder"),
        ],
        ids=["html", "cut", "four", "none", "hostile"],
    )
    def test_a_wrong_tarball_is_deleted(
        self, server: HubServer, tmp_path: Path, content: bytes, words: str
    ) -> None:
        repo = server.repos["dataset/eugenesiow/Set5"]
        right = repo[TARBALL]
        repo[TARBALL] = content
        with pytest.raises(DatasetError, match=f"{words}.*; the download was deleted"):
            find_dataset("Set5")
        left = {path for path in (tmp_path / "hf").rglob("*") if path.is_file()}
        assert content not in [path.read_bytes() for path in left]
        assert not any(cache_folder().iterdir())
        repo[TARBALL] = right
        assert len(find_dataset("Set5").images) == 5

    def test_an_incomplete_folder_is_made_again(self, server: HubServer) -> None:
        images = find_dataset("Set5").images
        images[0].unlink()
        downloads = server.count("GET", TARBALL)
        assert find_dataset("Set5").images == images
        assert images[0].read_bytes() == png(0)
        assert server.count("GET", TARBALL) == downloads

    def test_md5(self, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        content = server.repos["dataset/eugenesiow/Set5"][TARBALL]
        right = hashlib.md5(content, usedforsecurity=False).hexdigest()
        for md5 in (right[::-1], right):
            monkeypatch.setitem(BENCHMARKS, "Set5", replace(BENCHMARKS["Set5"], md5=md5))
            if md5 == right:
                assert len(find_dataset("Set5").images) == 5
            else:
                with pytest.raises(DatasetError, match=f"its md5 is {right}, not {md5}"):
                    find_dataset("Set5")

    def test_a_cache_that_cannot_be_written(
        self, server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "file"))
        with pytest.raises(DatasetError, match=r"cannot write to .*datasets"):
            find_dataset("Set5")
        monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "assets"))
        downloads = server.count("GET", TARBALL)
        assert find_dataset("Set5").images[0].is_relative_to(tmp_path / "assets")
        # Nothing was wrong with the download.
        assert server.count("GET", TARBALL) == downloads


def test_the_cache_is_the_hubs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_HOME", "HF_ASSETS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    end = Path("assets", "sruplift", "datasets")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "huggingface" / end
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "huggingface" / end
    monkeypatch.setenv("HF_HOME", "~/hf")
    assert cache_folder() == tmp_path / "hf" / end


def test_what_the_hub_has() -> None:
    """Stored pages of the Hub name these files, and Urban100's md5."""
    free = {name: spec for name, spec in BENCHMARKS.items() if spec.repo}
    assert {name: spec.count for name, spec in free.items()} == {
        "Set5": 5,
        "Set14": 14,
        "BSD100": 100,
        "Urban100": 100,
    }
    for name, spec in free.items():
        assert (spec.repo, spec.file) == (f"eugenesiow/{name}", f"data/{name}_HR.tar.gz")
    assert free["Urban100"].md5 == "65d9d84a34b72c6f7ca1e26a12df1e4c"


class TestReadHr:
    def test_layout(self, tmp_path: Path) -> None:
        pixels = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        read = read_hr(tmp_path / "a.png")
        assert read.dtype == torch.uint8
        assert read.is_contiguous()
        assert torch.equal(read, torch.from_numpy(pixels.transpose(2, 0, 1).copy()))

    @pytest.mark.parametrize("mode", ["1", "L", "LA"])
    def test_grey_is_three_equal_channels(self, tmp_path: Path, mode: str) -> None:
        Image.linear_gradient("L").convert(mode).save(tmp_path / "a.png")
        read = read_hr(tmp_path / "a.png")
        assert read.shape == (3, 256, 256)
        assert len(read.unique()) > 1
        assert torch.equal(read[0], read[1])
        assert torch.equal(read[0], read[2])

    def test_palettes_and_alpha(self, tmp_path: Path) -> None:
        image = Image.new("RGBA", (6, 5), (10, 200, 30, 128))
        image.save(tmp_path / "alpha.png")
        palette = Image.new("P", (6, 5), 1)
        palette.putpalette([0, 0, 0, 10, 200, 30])
        palette.save(tmp_path / "palette.png", transparency=bytes([255, 128]))
        for name in ("alpha.png", "palette.png"):
            assert read_hr(tmp_path / name)[:, 2, 2].tolist() == [10, 200, 30]

    @pytest.mark.parametrize(
        ("mode", "suffix"), [("I;16", "png"), ("CMYK", "tif"), ("F", "tif"), ("YCbCr", "tif")]
    )
    def test_refuses_other_pixels(self, tmp_path: Path, mode: str, suffix: str) -> None:
        path = tmp_path / f"a.{suffix}"
        Image.new(mode, (8, 8)).save(path)
        with Image.open(path) as image:
            stored = image.mode
        with pytest.raises(DatasetError, match=f"a.{suffix} is no 8-bit .* {stored}"):
            read_hr(path)

    @pytest.mark.parametrize(
        ("channels", "suffix"), [(3, "png"), (4, "png"), (2, "png"), (3, "tif")]
    )
    def test_refuses_colours_of_16_bits(self, tmp_path: Path, channels: int, suffix: str) -> None:
        """Of which Pillow reads the upper eight."""
        path = tmp_path / f"a.{suffix}"
        write_image(path, Picture(np.full((9, 8, channels), 300, np.uint16)))
        with pytest.raises(DatasetError, match=r"is no 8-bit .* it has 16 bits per channel"):
            read_hr(path)

    @pytest.mark.parametrize(
        "content",
        [b"", b"just text", png()[:40], png()[:65]],
        ids=["empty", "text", "cut", "cut in pixels"],
    )
    def test_damage_names_the_file_once(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "damaged.png"
        path.write_bytes(content)
        with pytest.raises(DatasetError, match="cannot read the image") as caught:
            read_hr(path)
        assert str(caught.value).count("damaged.png") == 1
        assert "\n" not in str(caught.value)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"gone\.png: No such file"):
            read_hr(tmp_path / "gone.png")

    @pytest.mark.parametrize("limit", [100, 300])
    def test_too_many_pixels(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
    ) -> None:
        (tmp_path / "a.png").write_bytes(png())
        monkeypatch.setattr(datasets.Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DatasetError, match=r"a\.png has too many pixels"):
            read_hr(tmp_path / "a.png")
