from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sruplift.errors import UsageError, WeightsError
from sruplift.manifest import (
    Hub,
    Manifest,
    Metrics,
    WeightsEntry,
    manifest_path,
    read_manifest,
    sha256_of,
    write_atomically,
    write_manifest,
)

ENTRY = WeightsEntry(
    model="pan",
    scale=4,
    file="pan_x4.safetensors",
    sha256="ab" * 32,
    size=10,
    parameters=272_419,
    licence="Apache-2.0",
    config="pan_x4",
    training_data="free photos",
    iterations=1000,
    device="cpu",
    command="sruplift train --config pan_x4",
    metrics={"Set5": Metrics(31.5, 0.88)},
    metrics_command="sruplift eval --dataset Set5",
)


def entry(model: str, scale: int, **changes: object) -> WeightsEntry:
    fields = {"model": model, "scale": scale, "file": f"{model}_x{scale}.safetensors", **changes}
    return dataclasses.replace(ENTRY, **fields)  # type: ignore[arg-type]


MANIFEST = Manifest(weights=(entry("pan", 2), entry("pan", 4), entry("a2n", 2)))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    manifest = dataclasses.replace(MANIFEST, hub=Hub("owner/name", "0" * 40))
    write_manifest(manifest, path)
    assert read_manifest(path) == manifest


def test_a_rewritten_manifest_is_not_read_from_memory(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write_manifest(Manifest(), path)
    assert read_manifest(path).weights == ()
    write_manifest(MANIFEST, path)
    assert read_manifest(path) == MANIFEST


def test_find_and_names() -> None:
    assert MANIFEST.find("pan", 4) == entry("pan", 4)
    assert MANIFEST.model_names() == ("pan", "a2n")
    assert MANIFEST.scales("pan") == (2, 4)


@pytest.mark.parametrize(
    ("model", "scale", "words"),
    [
        ("pam", 2, ["'pam'", "did you mean 'pan'", "pan, a2n"]),
        ("pan", 3, ["'pan'", "no scale 3", "2, 4"]),
    ],
)
def test_unknown_names_list_the_valid_ones(model: str, scale: int, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        MANIFEST.find(model, scale)
    assert all(word in str(caught.value) for word in words)
    assert caught.value.exit_code == 2


def test_an_entry_replaces_its_own_kind_and_keeps_the_order() -> None:
    better = entry("pan", 2, iterations=5)
    assert MANIFEST.with_entry(better).weights == (better, entry("pan", 4), entry("a2n", 2))
    added = MANIFEST.with_entry(entry("pan", 3))
    assert [(e.model, e.scale) for e in added.weights] == [
        ("pan", 2),
        ("pan", 3),
        ("pan", 4),
        ("a2n", 2),
    ]


def test_the_hub_is_the_manifests_unless_the_variable_names_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published = Manifest(hub=Hub("owner/name", "abc"))
    assert Manifest().active_hub() is None
    assert published.active_hub() == Hub("owner/name", "abc")
    monkeypatch.setenv("SRUPLIFT_HUB_REPO", "me/mine")
    assert Manifest().active_hub() == Hub("me/mine", None)
    assert published.active_hub() == Hub("me/mine", None)
    monkeypatch.setenv("SRUPLIFT_HUB_REPO", "me/mine@v2")
    assert Manifest().active_hub() == Hub("me/mine", "v2")


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "[]",
        '{"format": 2, "hub": null, "weights": []}',
        '{"format": 1, "weights": []}',
        '{"format": 1, "hub": {"repos": "a/b"}, "weights": []}',
        '{"format": 1, "hub": null, "weights": [{"model": "pan"}]}',
        json.dumps(
            {
                "format": 1,
                "hub": None,
                "weights": [{**dataclasses.asdict(ENTRY), "file": "../../etc/passwd"}],
            }
        ),
    ],
)
def test_a_malformed_manifest_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(content)
    with pytest.raises(WeightsError, match=r"m\.json is not a weights manifest"):
        read_manifest(path)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"cannot read .*m\.json"):
        read_manifest(tmp_path / "m.json")


def test_the_packages_manifest_comes_before_the_checkouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "sruplift"
    package.mkdir()
    monkeypatch.setattr("sruplift.manifest._PACKAGE", package)
    assert manifest_path() == tmp_path / "weights_manifest.json"
    inside = package / "weights_manifest.json"
    inside.touch()
    assert manifest_path() == inside


def test_the_projects_own_manifest_tells_the_truth_about_its_files() -> None:
    manifest = read_manifest()
    listed = {each.file for each in manifest.weights}
    folder = manifest_path().parent / "sruplift" / "pretrained"
    assert {path.name for path in folder.glob("*.safetensors")} <= listed
    for each in manifest.weights:
        assert sha256_of(each.bundled_path) == each.sha256
        assert each.bundled_path.stat().st_size == each.size


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WeightsError, match=r"cannot write .*file: No space left"):
        write_atomically(path, b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_can_be_read_by_others(tmp_path: Path) -> None:
    plain, written = tmp_path / "plain", tmp_path / "written"
    plain.touch()
    write_atomically(written, b"new")
    assert written.stat().st_mode == plain.stat().st_mode


def test_writing_into_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"cannot write .*nowhere.*: No such file"):
        write_atomically(tmp_path / "nowhere" / "file", b"")


def test_the_manifest_and_the_inventory_need_no_torch() -> None:
    code = "import sys, sruplift.manifest, sruplift.inventory; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
