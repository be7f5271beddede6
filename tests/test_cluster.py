"""A batch on a cluster, but for Ray: places, inputs, the report in parts, what is left to do."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from clusters import Batch, encoded, fill, tar_of
from fsspec.implementations.memory import MemoryFileSystem
from pictures import bilinear_pan

from sruplift.cluster import places
from sruplift.cluster.parts import Part, part_name, read_history, tidy
from sruplift.cluster.places import Place, find_place
from sruplift.cluster.planning import Partition
from sruplift.cluster.sources import Entry, find_entries, row_groups, rows, safe, tar_members
from sruplift.errors import ImageError, ReportError, SrupliftError, UsageError
from sruplift.files import Failure
from sruplift.report import KEYS


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PAN x2 that enlarges bilinearly."""
    return bilinear_pan(tmp_path_factory.mktemp("weights"), 2)


@pytest.fixture
def memory() -> Iterator[str]:
    """The address of an empty store."""
    yield "memory://bucket"
    MemoryFileSystem.store.clear()


# ---- Places


def test_a_place_is_a_path_or_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for address in ("in", str(tmp_path / "in"), f"file://{tmp_path}/in/"):
        place = find_place(address)
        assert place.is_local
        assert place.uri_of("a/b.png") == str(tmp_path / "in" / "a" / "b.png")
    place = find_place("memory://bucket/in")
    assert not place.is_local
    assert place.uri_of("a.png") == "memory:///bucket/in/a.png"


@pytest.mark.parametrize(
    ("address", "said"),
    [("", "is empty"), ("nowhere://x", "cannot use nowhere://x: .*nowhere")],
)
def test_addresses_of_nothing(address: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        find_place(address)


def test_a_store_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(UsageError, match="s3:// needs another package: Install s3fs"):
        find_place("s3://bucket")


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_files_of_a_place(kind: str, tmp_path: Path, memory: str) -> None:
    place = find_place(str(tmp_path / "new") if kind == "local" else memory)
    assert place.files() == {}
    place.write("a/x", b"first")
    place.write("a/x", b"1st")
    (tmp_path / "file").write_bytes(b"second")
    place.put(tmp_path / "file", "y")
    assert {name: info["size"] for name, info in place.files().items()} == {"a/x": 3, "y": 6}
    assert place.read_all(["a/x", "y"]) == [b"1st", b"second"]
    place.fetch("y", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"second"
    place.remove("y")
    place.remove("y")
    assert list(place.files()) == ["a/x"]
    with pytest.raises(ImageError, match=r"cannot read .*y"):
        place.read("y")


def test_what_cannot_be_listed_hides_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = find_place(str(tmp_path))
    place.write("a", b"1")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    (tmp_path / "locked").mkdir()
    scandir, locked = os.scandir, "locked"

    def refusing(path: Any) -> Any:
        if Path(path).name == locked:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert set(place.files()) == {"a", "nowhere", "round"}
    assert find_place(str(tmp_path / "a")).files() == {}
    locked = tmp_path.name
    with pytest.raises(SrupliftError, match="cannot list"):
        place.files()


class Unsure(MemoryFileSystem):
    """A store in which a half-written file is seen, and that may break off."""

    protocol = "unsure"
    breaks = False

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        super().pipe_file(path, value[: len(value) // 2] if self.breaks else value, **options)
        if self.breaks:
            raise OSError("broken off")


def test_a_file_is_whole_or_absent(memory: str) -> None:
    assert memory
    fs = Unsure(skip_instance_cache=True)
    place = Place(fs, "/bucket")
    place.write("a", b"old one")
    fs.breaks = True
    with pytest.raises(ImageError, match=r"cannot write .*/a: broken off"):
        place.write("a", b"new one")
    assert place.read("a") == b"old one"
    assert list(place.files()) == ["a"]
    assert "unsure" not in places.ATOMIC


def test_versions_are_what_stores_tell() -> None:
    assert places.version_of({"size": 5, "ETag": '"a"', "LastModified": "x"}) == '5 "a"'
    assert places.version_of({"size": 5, "mtime": 1.5}) == "5 1.5"
    assert places.version_of({"size": 5}) == "5"
    assert places.version_of({"name": "x"}) == ""


# ---- Inputs


def names(entries: list[Entry | Failure]) -> list[str]:
    return [each.name if isinstance(each, Entry) else str(each.error) for each in entries]


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_what_an_input_means(kind: str, tmp_path: Path, memory: str) -> None:
    root = str(tmp_path / "bucket") if kind == "local" else memory
    hidden = (".h/e.png", "s/.f.png")
    there = ("a.png", "s/b.JPG", "s/t.tar", "p.parquet", "notes.txt", "out/g.png", *hidden)
    fill(root, dict.fromkeys(there, b"x"))
    avoid = find_place(f"{root}/out")

    def found(text: str) -> list[str]:
        return names(find_entries(text, find_place(text), avoid))

    assert found(root) == ["a.png", "p.parquet", "s/b.JPG", "s/t.tar"]
    assert found(f"{root}/s") == ["b.JPG", "t.tar"]
    assert found(f"{root}/s/b.JPG") == ["b.JPG"]
    assert found(f"{root}/*.parquet") == ["p.parquet"]
    assert found(f"{root}/a.*") == ["a.png"]
    assert found(f"{root}/s/*") == ["b.JPG", "t.tar"]
    assert found(f"{root}/p*") == ["p.parquet"]
    assert found(f"{root}/*/*.JPG") == ["s/b.JPG"]
    assert "no " in found(f"{root}/absent/*.png")[0]
    (only,) = find_entries(f"{root}/a.png", find_place(f"{root}/a.png"), avoid)
    assert isinstance(only, Entry)
    assert only.version.startswith("1 ")


def test_containers_are_found_as_images_are(tmp_path: Path) -> None:
    place = fill(tmp_path / "in", {"a.TAR": b"x", "b.tar/c.png": b"x", "d/e.png": b"x"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "f.tar").touch()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    avoid = find_place(str(tmp_path / "out"))
    for text in (place.root, f"{place.root}/**"):
        found = names(find_entries(text, find_place(text), avoid))
        assert found == ["a.TAR", "b.tar/c.png", "d/e.png", "link/f.tar"]


def test_a_folder_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = fill(tmp_path / "in", {"a.tar": b"x", "secret/b.png": b"x"})
    real = os.scandir

    def scandir(path: Path) -> Any:
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = names(find_entries(place.root, place, find_place(str(tmp_path / "out"))))
    secret = tmp_path / "in" / "secret"
    assert sorted(found) == ["a.tar", f"cannot read folder {secret}: permission denied"]


def test_names_that_lead_out_of_a_folder() -> None:
    assert safe("a/b..png")
    for name in ("../a.png", "a/../../b.png", "/a.png", "a//b.png", "a/./b.png", "a\0.png"):
        assert not safe(name)


def entry_of(place: Place, name: str) -> Entry:
    return Entry(place.uri_of(name), place.path_of(name), name, "1 x")


def test_the_images_of_a_tar_file(memory: str) -> None:
    data = {"k/1.png": b"one", "k/1.json": b"{}", "./2.jpg": b"two", ".3.png": b"three"}
    place = fill(
        memory, {"s/t.tar": tar_of(data), "cut.tar": tar_of({"a.png": bytes(9999)})[:5000]}
    )
    members = list(tar_members(place.fs, entry_of(place, "s/t.tar")))
    uri = place.uri_of("s/t.tar")
    assert [(each.uri, each.name, each.data) for each in members] == [
        (f"{uri}#k/1.png", "s/t/k/1.png", b"one"),
        (f"{uri}#2.jpg", "s/t/2.jpg", b"two"),
    ]
    with pytest.raises(ImageError, match=r"cannot read memory:///bucket/cut\.tar: "):
        list(tar_members(place.fs, entry_of(place, "cut.tar")))


def parquet_of(column: list[Any], name: str = "image", **more: list[Any]) -> bytes:
    """Row groups of two."""
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow, of sruplift[ray]")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, of sruplift[ray]")
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({name: column, **more}), sink, row_group_size=2)
    return bytes(sink.getvalue().to_pybytes())


def test_the_rows_of_a_parquet_file(memory: str) -> None:
    hub = parquet_of(
        [{"bytes": each, "path": None} for each in (b"a", b"b", b"c")], label=[1, 2, 3]
    )
    place = fill(memory, {"d/x.parquet": hub, "y.parquet": parquet_of([b"q", None], "photo")})
    place.write("z.parquet", parquet_of([1, 2], "n"))
    place.write("bad.parquet", b"PAR1")
    entry = entry_of(place, "d/x.parquet")
    assert row_groups(place.fs, entry, None) == [2, 1]
    (third,) = rows(place.fs, entry, None, 1, 2)
    assert (third.uri, third.name, third.data) == (f"{entry.uri}#2", "d/x/00000002", b"c")
    assert [each.data for each in rows(place.fs, entry, None, 0, 0)] == [b"a", b"b"]
    only = entry_of(place, "y.parquet")
    assert [each.data for each in rows(place.fs, only, None, 0, 0)] == [b"q", None]
    with pytest.raises(UsageError, match=r"no column 'image': name one with .* \(n\)"):
        row_groups(place.fs, entry_of(place, "z.parquet"), None)
    with pytest.raises(UsageError, match="no column 'image'"):
        row_groups(place.fs, only, "image")
    with pytest.raises(UsageError, match="column 'n' holds no images but int64: name another"):
        row_groups(place.fs, entry_of(place, "z.parquet"), "n")
    with pytest.raises(ImageError, match=r"cannot read .*bad\.parquet"):
        row_groups(place.fs, entry_of(place, "bad.parquet"), None)


# ---- The report


def record(source: str, output: str | None, status: str = "done", **more: Any) -> dict[str, Any]:
    plain = dict.fromkeys(KEYS) | {"input": source, "output": output, "status": status}
    versions = {"input_version": "v", "input_name": source}
    return {**plain, "parameters": {}, "output_bytes": 7, **versions, **more}


def test_a_part_goes_on_after_a_kill(tmp_path: Path) -> None:
    place = find_place(str(tmp_path))
    part = Part(place, part_name(1, 3))
    part.begin(["a", "b"], {"/out/x"})
    part.add(record("a", "/out/a"))
    del part
    history = read_history(place, place.files())
    assert history.run == 1
    assert history.wrote("anything", "/out/a")
    assert history.wrote("b", "/out/b")  # May have been written a moment before the kill.
    assert not history.wrote("b", "/out/x")
    assert not history.wrote("c", "/out/c")
    again = Part(place, part_name(1, 3))
    assert again.finished == {"a"}
    again.begin(["a", "b"], ())
    assert (again.attempts, again.stalled()) == ([0, 1], 0)
    again.begin(["a", "b"], ())
    assert again.stalled() == 1
    again.add(record("b", "/out/b"))
    again.end()
    assert sorted(place.files()) == ["_report/part-00001-00003.jsonl"]
    text = place.read("_report/part-00001-00003.jsonl").decode()
    assert [json.loads(line)["input"] for line in text.splitlines()] == ["a", "b"]


def test_what_is_done_is_same_file_same_parameters_same_result(tmp_path: Path) -> None:
    place = find_place(str(tmp_path))
    part = Part(place, part_name(1, 1))
    part.add(record("a", "/out/a"))
    part.add(record("s", "/out/s", "skipped", output_bytes=None))
    part.add(record("f", "/out/f", "failed"))
    history = read_history(place, place.files())
    sizes = {"/out/a": 7, "/out/f": 7}
    assert history.covers("a", "v", "/out/a", {}, sizes)
    assert not history.covers("a", "w", "/out/a", {}, sizes)
    assert not history.covers("a", "", "/out/a", {}, sizes)
    assert not history.covers("a", "v", "/out/b", {}, sizes)
    assert not history.covers("a", "v", "/out/a", {"scale": 2}, sizes)
    assert not history.covers("a", "v", "/out/a", {}, {"/out/a": 6})
    assert not history.covers("a", "v", "/out/a", {}, {})
    assert not history.covers("f", "v", "/out/f", {}, sizes)
    assert history.covers("s", "v", "/out/s", {}, sizes)
    assert not history.covers("s", "v", "/out/s", {}, {"/out/s": 1})


def test_after_a_run_to_the_end_each_input_has_one_line(tmp_path: Path) -> None:
    place = find_place(str(tmp_path))
    first, second = Part(place, part_name(1, 1)), Part(place, part_name(2, 1))
    for each in ("a", "b"):
        first.add(record(each, f"/out/{each}"))
    for each in ("c", "d"):
        first.add(record(each, f"/out/{each}", "failed"))
    first.begin(["a"], ())
    second.add(record("b", "/out/b", output_bytes=8))
    second.add(record("c", "/out/c", "failed"))
    second.add(record("a", "/out/a", "failed"))
    other = Part(place, part_name(1, 2))
    other.add(record("d", "/out/d", "failed"))
    tidy(place, place.files(), 2)
    left = {
        name: [(line["input"], line["status"]) for line in map(json.loads, data.splitlines())]
        for name, data in ((name, place.read(name)) for name in place.files())
    }
    assert left == {
        "_report/part-00001-00001.jsonl": [("a", "done")],
        "_report/part-00001-00002.jsonl": [("d", "failed")],
        "_report/part-00002-00001.jsonl": [("b", "done"), ("c", "failed"), ("a", "failed")],
    }


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "_report").touch()
    with pytest.raises(ReportError, match=r"_report/part-00001-00001"):
        Part(find_place(str(tmp_path)), part_name(1, 1)).add(record("a", "b"))


# ---- The plan


def sources(partition: Partition) -> list[str]:
    return [each.name for each in partition.images]


def test_work_is_cut_so_that_every_worker_has_some(tmp_path: Path, weights: Path) -> None:
    fill(tmp_path / "in", {f"{n:03}.png": b"" for n in range(130)})
    batch = Batch(tmp_path / "in", tmp_path / "out", weights)
    plan = batch.plan(1)
    assert [len(each.images) for each in plan.partitions] == [33, 33, 33, 31]
    assert sources(plan.partitions[0])[:2] == ["000.png", "001.png"]
    assert [each.name for each in plan.partitions[:2]] == ["part-00001-00001", "part-00001-00002"]
    assert {len(each.images) for each in batch.plan(100).partitions} == {1}
    assert (plan.images, plan.skipped, plan.failures) == (130, 0, ())


def test_a_second_run_finds_what_lies_behind_a_link(tmp_path: Path, weights: Path) -> None:
    fill(str(tmp_path / "in"), {f"{folder}/{n}.png": encoded(n) for folder in "st" for n in (1, 2)})
    (tmp_path / "out").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "out" / "s").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "round").symlink_to(tmp_path / "out")
    batch = Batch(str(tmp_path / "in"), str(tmp_path / "out"), weights)
    assert sum(outcome.done for outcome in batch.do(batch.plan())) == 4
    assert (tmp_path / "disk" / "1_pan_x2.png").is_file()
    plan = batch.plan()
    assert (plan.skipped, plan.partitions) == (4, ())


def test_results_may_lie_above_the_images(tmp_path: Path, memory: str, weights: Path) -> None:
    for root in (str(tmp_path / "bucket"), memory):
        fill(f"{root}/photos", {"1.png": encoded(1)})
        plan = Batch(f"{root}/photos", root, weights).plan()
        assert [name for each in plan.partitions for name in sources(each)] == ["1.png"]
        assert plan.failures == ()


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_a_second_run_does_what_is_missing_or_has_changed(
    kind: str, tmp_path: Path, memory: str, weights: Path
) -> None:
    root = str(tmp_path) if kind == "local" else memory
    source = fill(f"{root}/in", {f"s/{n}.png": encoded(n) for n in range(4)})
    source.write("bad.png", b"no image")
    batch = Batch(f"{root}/in", f"{root}/out", weights)
    done = sum(outcome.done for outcome in batch.do(batch.plan()))
    assert done == 4
    target = find_place(f"{root}/out")
    target.remove("s/0_pan_x2.png")
    target.write("s/1_pan_x2.png", b"cut")
    source.write("s/2.png", encoded(9, "JPEG"))
    plan = batch.plan()
    left = [name for each in plan.partitions for name in sources(each)]
    assert left == ["bad.png", "s/0.png", "s/1.png", "s/2.png"]
    assert plan.skipped == 1
    outcomes = batch.do(plan)
    assert [sum(each) for each in zip(*((o.done, o.failed) for o in outcomes), strict=True)] == [
        3,
        1,
    ]
    assert batch.plan().skipped == 4
    assert Batch(f"{root}/in", f"{root}/out", weights, quality=50).plan().skipped == 0


def test_what_somebody_else_wrote_stays(tmp_path: Path, weights: Path) -> None:
    fill(tmp_path / "in", {"a.png": encoded(), "b.png": encoded(1)})
    target = fill(tmp_path / "out", {"a_pan_x2.png": b"somebody else's"})
    batch = Batch(tmp_path / "in", target.root, weights)
    outcomes = batch.do(batch.plan())
    assert [error for each in outcomes for error in each.errors] == [
        f"{target.uri_of('a_pan_x2.png')} exists (--overwrite replaces it)"
    ]
    assert target.read("a_pan_x2.png") == b"somebody else's"
    skipping = Batch(tmp_path / "in", target.root, weights, skip_existing=True).plan()
    assert (skipping.partitions, skipping.skipped) == ((), 2)
    replacing = Batch(tmp_path / "in", target.root, weights, overwrite=True)
    assert [outcome.done for outcome in replacing.do(replacing.plan())] == [1]
    assert target.read("a_pan_x2.png") != b"somebody else's"


def test_names_that_clash(tmp_path: Path, weights: Path) -> None:
    def refused(said: str, files: dict[str, bytes], out: str = "out", **options: Any) -> None:
        place = fill(tmp_path / said[:2].strip() / "in", files)
        with pytest.raises(UsageError, match=said):
            Batch(place.root, f"{Path(place.root).parent}/{out}", weights, **options).plan()

    refused("would both be written", {"a.png": b"", "a.jpg": b""}, suffix=".png")
    files = {"in/a.png": b"", "a.png": b""}
    refused("is an input", files, out="", template="{stem}{suffix}")
    refused("others would be written to", {"a.tar": b"", "a/b.png": b""})
    refused("need {stem}", {"t.tar": b""}, template="x{suffix}")
    refused("index", {"a.png": b""}, template="{index}{suffix}")
    refused("the output is the input", {"a.png": b""}, out="in")


def test_options_that_cannot_be_meant(tmp_path: Path, weights: Path) -> None:
    options = Batch(tmp_path / "in", tmp_path / "out", weights).options
    (tmp_path / "file").touch()
    refused: list[tuple[str, dict[str, Any]]] = [
        ("contradict", {"overwrite": True}),
        ("without a number", {"device": "cuda:1"}),
        ("of sruplift upscale", {"verify_seams": True}),
    ]
    for said, changes in refused:
        upscale = dataclasses.replace(options.upscale, **changes)
        with pytest.raises(UsageError, match=said):
            dataclasses.replace(options, upscale=upscale, skip_existing=True)
    with pytest.raises(UsageError, match="is a file"):
        dataclasses.replace(options, output=str(tmp_path / "file"))


def test_inputs_that_fail_before_the_work(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "in").mkdir()
    plan = Batch(tmp_path / "in", tmp_path / "out", weights).plan()
    assert plan.partitions == ()
    (failure,) = plan.failures
    assert "no images in folder" in str(failure.error)


def test_leftovers_of_killed_processes_go(tmp_path: Path, weights: Path) -> None:
    fill(tmp_path / "in", {"a.png": b""})
    (tmp_path / "out" / "s").mkdir(parents=True)
    for name in ("s/.sruplift-99999999-1-0000000000000000.part", ".sruplift-x.part", "mine.part"):
        (tmp_path / "out" / name).touch()
        os.utime(tmp_path / "out" / name, (0, 0))
    Batch(tmp_path / "in", tmp_path / "out", weights).plan()
    assert [each.name for each in tmp_path.rglob("*.part")] == ["mine.part"]


def test_a_store_that_does_not_answer(tmp_path: Path, weights: Path, memory: str) -> None:
    batch = Batch(memory, tmp_path / "out", weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryFileSystem, "isfile", lambda *_: 1 / 0)
        with pytest.raises(SrupliftError, match="cannot list memory:///bucket: division"):
            batch.plan()
