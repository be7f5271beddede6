"""One partition of a batch on a cluster, without Ray: the same images as upscale's, whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import Batch, encoded, fill, tar_of
from fsspec.implementations.memory import MemoryFileSystem
from pictures import bilinear_pan
from test_cluster import parquet_of

from sruplift import upscale
from sruplift.cluster import work
from sruplift.cluster.places import Place, find_place
from sruplift.errors import ImageError
from sruplift.files import Job
from sruplift.upscale import upscale_file


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bilinear_pan(tmp_path_factory.mktemp("weights"), 2)


@pytest.fixture
def memory() -> Iterator[str]:
    yield "memory://bucket"
    MemoryFileSystem.store.clear()


def lines(target: Place) -> dict[str, dict[str, Any]]:
    """The lines of the report, by input."""
    parts = sorted(name for name in target.files() if name.endswith(".jsonl"))
    text = b"".join(target.read(name) for name in parts)
    records = [json.loads(line) for line in text.splitlines()]
    assert len({each["input"] for each in records}) == len(records)
    return {each["input"]: each for each in records}


def images(target: Place) -> dict[str, bytes]:
    return {n: target.read(n) for n in target.files() if not n.startswith("_report/")}


@pytest.mark.parametrize(("source", "output"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_outputs_are_those_of_upscale(
    source: int, output: int, tmp_path: Path, memory: str, weights: Path
) -> None:
    roots = (str(tmp_path), memory)
    data = {"a.png": encoded(1), "s/b.jpg": encoded(2, "JPEG"), "s/bad.png": encoded()[:60]}
    place = fill(f"{roots[source]}/in", data)
    batch = Batch(place.uri_of(), f"{roots[output]}/out", weights)
    (first, *others) = batch.do(batch.plan())
    assert first.done == 1
    assert sum(each.failed for each in others) == 1
    fill(tmp_path / "plain", data)
    target = find_place(f"{roots[output]}/out")
    made = images(target)
    assert sorted(made) == ["a_pan_x2.png", "s/b_pan_x2.jpg"]
    report = lines(target)
    for name, result in (("a.png", "a_pan_x2.png"), ("s/b.jpg", "s/b_pan_x2.jpg")):
        wanted = tmp_path / f"wanted{Path(result).suffix}"
        upscale_file(tmp_path / "plain" / name, wanted, batch.upscaler)
        assert made[result] == wanted.read_bytes()
        line = report[place.uri_of(name)]
        assert line["output"] == target.uri_of(result)
        assert line["status"] == "done"
        assert line["output_sha256"] == hashlib.sha256(made[result]).hexdigest()
        assert line["input_sha256"] == hashlib.sha256(data[name]).hexdigest()
        assert line["output_bytes"] == len(made[result])
    bad = place.uri_of("s/bad.png")
    assert report[bad]["status"] == "failed"
    # A person reads the address, not the name of a copy.
    assert report[bad]["error"].startswith(f"cannot read {bad}: ")
    assert not [name for name in target.files() if name.endswith((".part", ".begun"))]


def test_a_tar_file(tmp_path: Path, memory: str, weights: Path) -> None:
    members = {"k/1.jpg": encoded(1, "JPEG"), "../out.png": encoded(), "2.png": b"bad"}
    uri = fill(memory, {"t.tar": tar_of(members)}).uri_of("t.tar")
    batch = Batch(memory, tmp_path / "out", weights)
    batch.do(batch.plan())
    target = find_place(str(tmp_path / "out"))
    assert sorted(images(target)) == ["t/k/1_pan_x2.jpg"]
    assert not (tmp_path / "out_pan_x2.png").exists()
    errors = {key: line["error"] for key, line in lines(target).items() if line["error"]}
    assert set(errors) == {f"{uri}#../out.png", f"{uri}#2.png"}
    assert "leads out of the folder" in errors[f"{uri}#../out.png"]
    again = batch.plan()
    assert again.skipped == 1
    assert [outcome.done for outcome in batch.do(again)] == [0]


def test_a_parquet_file(tmp_path: Path, memory: str, weights: Path) -> None:
    rows = [encoded(3), encoded(4, "JPEG"), None, encoded(5)]
    uri = fill(memory, {"d/p.parquet": parquet_of(rows)}).uri_of("d/p.parquet")
    batch = Batch(memory, tmp_path / "out", weights)
    plan = batch.plan()
    assert (len(plan.partitions), plan.images) == (2, 4)
    batch.do(plan)
    target = find_place(str(tmp_path / "out"))
    named = ["00000000_pan_x2.png", "00000001_pan_x2.jpg", "00000003_pan_x2.png"]
    assert sorted(images(target)) == [f"d/p/{name}" for name in named]
    errors = {key: line["error"] for key, line in lines(target).items() if line["error"]}
    assert errors == {f"{uri}#2": f"{uri}#2: there is no image in this row"}
    target.remove("d/p/00000003_pan_x2.png")
    again = batch.plan()
    # The first row group is done and is not opened.
    assert (len(again.partitions), again.skipped) == (1, 2)
    assert sum(outcome.done for outcome in batch.do(again)) == 1
    assert sorted(images(target)) == [f"d/p/{name}" for name in named]


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_two_images_of_a_container_with_one_name(
    kind: str, tmp_path: Path, memory: str, weights: Path
) -> None:
    members = {"k.jpg": encoded(1, "JPEG"), "k.png": encoded(2), "m.png": encoded(3)}
    uri = fill(tmp_path / "in", {"t.tar": tar_of(members)}).uri_of("t.tar")
    target = find_place(str(tmp_path / "out") if kind == "local" else f"{memory}/out")
    batch = Batch(tmp_path / "in", target.uri_of(), weights, suffix=".png")
    (outcome,) = batch.do(batch.plan())
    address = target.uri_of("t/k_pan_x2.png")
    twins = f"{uri}#k.jpg and {uri}#k.png would both be written to {address}"
    assert (outcome.done, outcome.errors) == (2, (twins,))
    first = images(target)
    assert sorted(first) == ["t/k_pan_x2.png", "t/m_pan_x2.png"]
    for options in ({}, {}, {"overwrite": True}):
        batch = Batch(tmp_path / "in", target.uri_of(), weights, suffix=".png", **options)
        (outcome,) = batch.do(batch.plan())
        assert outcome.errors == (twins,)
        assert images(target) == first


def test_what_exists_in_a_container_is_skipped_only_as_long_as_it_does(
    tmp_path: Path, weights: Path
) -> None:
    members = {"k.png": encoded(2), "m.png": encoded(3)}
    fill(tmp_path / "in", {"t.tar": tar_of(members)})
    target = fill(tmp_path / "out", {"t/m_pan_x2.png": b"somebody else's"})
    ends = []
    for options in ({"skip_existing": True}, {"skip_existing": True, "quality": 50}, {}):
        batch = Batch(tmp_path / "in", target.root, weights, **options)
        plan = batch.plan()
        outcomes = batch.do(plan)
        ends.append(
            (sum(o.done for o in outcomes), plan.skipped + sum(o.skipped for o in outcomes))
        )
        if options:
            assert target.read("t/m_pan_x2.png") == b"somebody else's"
            continue
    assert ends[:2] == [(1, 1), (0, 2)]
    target.remove("t/m_pan_x2.png")
    batch = Batch(tmp_path / "in", target.root, weights)
    assert sum(outcome.done for outcome in batch.do(batch.plan())) == 1
    assert batch.plan().skipped == 2


def test_folders_with_brackets(tmp_path: Path, weights: Path) -> None:
    fill(tmp_path / "in[1]", {"a.png": encoded(1), "bad.png": b"no image"})
    for count in (1, 0):
        batch = Batch(tmp_path / "in[1]", tmp_path / "out[1]", weights)
        plan = batch.plan()
        assert plan.skipped == 1 - count
        assert sum(outcome.done for outcome in batch.do(plan)) == count
        assert sum(outcome.failed for outcome in batch.do(batch.plan())) == 1


def test_a_container_that_ends_early(tmp_path: Path, weights: Path) -> None:
    whole = tar_of({"1.png": encoded(1), "2.png": encoded(2) + bytes(20000)})
    place = fill(tmp_path / "in", {"t.tar": whole[:4000]})
    batch = Batch(place.root, tmp_path / "out", weights)
    (outcome,) = batch.do(batch.plan())
    assert (outcome.done, outcome.failed) == (1, 1)
    (error,) = outcome.errors
    assert error.startswith(f"cannot read {place.uri_of('t.tar')}: ")


class Killed(BaseException):
    """As if the process ended here."""


@pytest.mark.parametrize("kind", ["local", "memory"])
@pytest.mark.parametrize("moment", ["before the output", "before its line"])
def test_a_kill_loses_nothing_and_repeats_at_most_what_was_under_way(
    kind: str, moment: str, tmp_path: Path, memory: str, weights: Path
) -> None:
    root = str(tmp_path) if kind == "local" else memory
    fill(f"{root}/in", {f"{n}.png": encoded(n) for n in range(5)})
    batch = Batch(f"{root}/in", f"{root}/out", weights)
    target = find_place(f"{root}/out")
    plan = batch.plan(workers=1)
    (partition, *_) = plan.partitions
    early = moment == "before the output"
    finish, add, count = work._Attempt.finish, work.Part.add, 0

    def killed(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise Killed
        (finish if early else add)(*arguments)

    owner, name = (work._Attempt, "finish") if early else (work.Part, "add")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(Killed):
            batch.do(plan)
    assert len(partition.images) == 2
    assert sum(line["status"] == "done" for line in lines(target).values()) == 1
    begun: list[str] = []
    files = upscale.upscale_files

    def noted(jobs: Any, *rest: Any) -> Any:
        seen = list(jobs)
        begun.extend(job.source.name for job in seen if isinstance(job, Job))
        return files(seen, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upscale, "upscale_files", noted)
        batch.do(batch.plan())
    assert len(begun) == 4
    assert len(images(target)) == len(lines(target)) == 5
    assert not [name for name in target.files() if name.endswith(".part")]
    assert batch.plan().partitions == ()


def test_the_same_partition_again_does_the_rest(tmp_path: Path, weights: Path) -> None:
    """As Ray does with what a killed actor had."""
    fill(tmp_path / "in", {f"{n}.png": encoded(n) for n in range(3)})
    batch = Batch(tmp_path / "in", tmp_path / "out", weights)
    plan = batch.plan(workers=1)
    target = find_place(str(tmp_path / "out"))
    first, *_ = plan.partitions
    part = work.Part(target, first.name)
    part.begin(first.begun, first.taken)
    # Killed between the output and its line.
    target.write("0_pan_x2.png", b"an output without its line")
    outcomes = batch.do(plan)
    assert [(each.done, each.failed) for each in outcomes] == [(1, 0)] * 3
    assert target.read("0_pan_x2.png")[:4] == b"\x89PNG"
    assert [(each.done, each.failed) for each in batch.do(plan)] == [(1, 0)] * 3
    assert len(lines(target)) == 3


def test_an_image_that_kills_is_given_up(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "in", {f"{n}.png": encoded(n) for n in range(8)})
    batch = Batch(tmp_path / "in", tmp_path / "out", weights)
    (first, *_) = batch.plan(workers=1).partitions
    assert len(first.images) == 2
    killer = str(tmp_path / "in" / "1.png")
    attempts = 0
    read = upscale._read

    def deadly(job: Job, options: Any) -> Any:
        if str(job.source) == killer:
            raise Killed
        return read(job, options)

    monkeypatch.setattr(upscale, "_read", deadly)
    facts = (batch.options, batch.parameters, batch.upscaler)
    while True:
        attempts += 1
        assert attempts < 20
        try:
            outcome = work.do_partition(first, *facts)
        except Killed:
            continue
        break
    assert (outcome.done, outcome.failed) == (1, 1)
    assert outcome.errors == (f"{killer}: given up, {work.GIVE_UP} processes were killed at it",)


def test_images_that_are_large_enough(tmp_path: Path, weights: Path) -> None:
    fill(tmp_path / "in", {"a.png": encoded()})
    batch = Batch(tmp_path / "in", tmp_path / "out", weights, width=5, only_if_smaller=True)
    (outcome,) = batch.do(batch.plan())
    assert (outcome.done, outcome.skipped) == (0, 1)
    assert batch.plan().skipped == 1


def test_a_store_that_takes_nothing(memory: str, tmp_path: Path, weights: Path) -> None:
    fill(tmp_path / "in", {"a.png": encoded()})
    batch = Batch(tmp_path / "in", memory, weights)

    def refuse(*_: Any) -> None:
        raise ImageError("cannot write memory:///bucket/a: no room")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Place, "put", refuse)
        (outcome,) = batch.do(batch.plan())
    assert outcome.errors == ("cannot write memory:///bucket/a: no room",)
    assert images(find_place(memory)) == {}
    assert [each.done for each in batch.do(batch.plan())] == [1]
