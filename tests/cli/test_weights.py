from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from released import HUB_REPO, Release, make_release
from typer.testing import CliRunner, Result
from upload_server import UploadServer

from sruplift.cli.weights import app
from sruplift.errors import SrupliftError
from sruplift.manifest import Metrics, read_manifest, sha256_of
from sruplift.models import create_model
from sruplift.weights import find_weights, identify, load_state_dict, save_weights


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: str | Path) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.exception
    return result


def refused(*arguments: str | Path, code: int = 1) -> str:
    error = run(*arguments).exception
    assert isinstance(error, SrupliftError)
    assert error.exit_code == code
    assert "\n" not in str(error)
    return str(error)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(4)
    path = tmp_path / "theirs.pth"
    torch.save({"params": create_model("pan", 4).state_dict()}, path)
    return path


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    return make_release(tmp_path, monkeypatch, bundled=True)


# import


def test_import_converts(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    result = done("import", checkpoint, "--model", "pan", "--scale", "4", "-o", output)
    assert result.stdout == ""
    assert sha256_of(output) in result.stderr
    assert identify(output).scale == 4


def test_import_writes_beside_the_file_by_default(checkpoint: Path) -> None:
    done("import", checkpoint)
    assert identify(checkpoint.with_suffix(".safetensors")).model == "pan"


def test_import_replaces_only_on_request(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    output.write_text("precious")
    assert "out.safetensors exists" in refused("import", checkpoint, "-o", output)
    assert output.read_text() == "precious"
    done("import", checkpoint, "-o", output, "--overwrite")
    assert identify(output).scale == 4


def test_import_writes_weights_only(checkpoint: Path, tmp_path: Path) -> None:
    message = refused("import", checkpoint, "-o", tmp_path / "cat.png", code=2)
    assert "cat.png: name a file that ends in .safetensors" in message


def test_import_names_what_disagrees(checkpoint: Path) -> None:
    message = refused("import", checkpoint, "--scale", "2")
    assert "theirs.pth holds weights of pan x4, not pan x2" in message


def test_import_does_not_replace_what_it_reads(checkpoint: Path) -> None:
    done("import", checkpoint)
    made = checkpoint.with_suffix(".safetensors")
    before = made.read_bytes()
    message = refused("import", made, "--overwrite", code=2)
    assert "is an input and would be overwritten" in message
    assert made.read_bytes() == before


def test_import_of_a_folder(tmp_path: Path) -> None:
    assert "is a folder, not a file of weights" in refused("import", tmp_path)
    assert ". is a folder" in refused("import", ".")


def test_import_of_a_missing_file(tmp_path: Path) -> None:
    assert "none.pth: No such file" in refused("import", tmp_path / "none.pth")


# verify


def test_verify_is_content_with_whole_files(release: Release) -> None:
    lines = done("verify").stdout.splitlines()
    assert [line.split() for line in lines] == [["ok", "bundled", str(release.entry.bundled_path)]]


def test_verify_finds_one_wrong_bit(release: Release) -> None:
    damaged = bytearray(release.content)
    damaged[-1] ^= 1
    release.entry.bundled_path.write_bytes(damaged)
    assert "pan_x2.safetensors" in refused("verify")
    assert run("verify").stdout.startswith("DAMAGED")


def test_verify_says_what_is_not_here(release: Release) -> None:
    release.entry.bundled_path.unlink()
    assert done("verify").stdout.split() == ["not", "here", "pan_x2.safetensors"]


def test_verify_checks_the_cache_too(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRUPLIFT_HUB_REPO", HUB_REPO)
    release.entry.bundled_path.unlink()
    files = {f"model/{HUB_REPO}": {release.entry.file: release.content}}
    with HubServer(files) as server:
        server.use(monkeypatch, tmp_path / "hf")
        path = find_weights("pan", 2).path
    assert done("verify").stdout.split() == ["ok", "cache", str(path)]
    path.resolve().write_bytes(b"damaged")
    assert str(path) in refused("verify")


# pack and record


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A training run's folder."""
    torch.manual_seed(1)
    folder = tmp_path / "run"
    folder.mkdir()
    metadata = {
        "iterations": 500,
        "data_fingerprint": "f00d",
        "val_psnr": "31.5",
        "device": "cpu",
    }
    save_weights(
        folder / "best.safetensors",
        create_model("pan", 3).state_dict(),
        model="pan",
        scale=3,
        metadata=metadata,
        dtype=torch.float32,
    )
    return folder


FACTS = ("--training-data", "free photos", "--command", "sruplift train --config pan_x3")


def report(path: Path, sha256: str, **means: float) -> Path:
    mean = {"psnr_y": 33.123456, "ssim_y": 0.9234567, "psnr_rgb": 1.0, "ssim_rgb": 1.0, **means}
    data = {
        "model": "pan",
        "scale": 3,
        "precision": "fp32",
        "weights": {"sha256": sha256},
        "datasets": [{"name": "Set5", "count": 5, "images": [], "mean": mean}],
    }
    path.write_text(json.dumps(data))
    return path


def test_pack_makes_weights_that_are_found(release: Release, trained: Path) -> None:
    done("pack", trained, *FACTS)
    assert [each.scale for each in read_manifest().weights] == [2, 3]
    entry = read_manifest().find("pan", 3)
    assert entry.parameters == 261_403
    assert entry.iterations == 500
    assert entry.training_data == "free photos (fingerprint f00d)"
    assert entry.config == "pan_x3"
    assert entry.size == entry.bundled_path.stat().st_size
    assert entry.bundled_path.parent == release.entry.bundled_path.parent
    file = find_weights("pan", 3)
    assert (file.source, file.sha256) == ("bundled", entry.sha256)
    source = identify(trained / "best.safetensors").tensors
    for name, tensor in load_state_dict(file).items():
        assert torch.equal(tensor, source[name].half().float())


def test_a_packed_file_describes_itself(release: Release, trained: Path) -> None:
    done("pack", trained / "best.safetensors", *FACTS, "--iterations", "900", "--licence", "MIT")
    folder = release.entry.bundled_path.parent
    metadata = identify(folder / "pan_x3.safetensors").metadata
    expected = {"licence": "MIT", "iterations": "900", "val_psnr": "31.5", "scale": "3"}
    assert {key: metadata[key] for key in expected} == expected


@pytest.mark.parametrize("kind", ["theirs", "imported", "a run's checkpoint"])
def test_pack_refuses_weights_of_others(
    release: Release, checkpoint: Path, tmp_path: Path, kind: str
) -> None:
    done("import", checkpoint)
    given = checkpoint.with_suffix(".safetensors") if kind == "imported" else checkpoint
    if kind == "a run's checkpoint":
        given = tmp_path / "checkpoint.pt"
        content = {"format": 1, "config": {"model": "pan", "scale": 4}, "best_psnr": 30.0}
        content |= {"ema": create_model("pan", 4).state_dict(), "imported_from": "theirs.pth"}
        torch.save(content, given)
    message = refused("pack", given, *FACTS, "--iterations", "1")
    assert "stems from theirs.pth" in message
    assert read_manifest().weights == (release.entry,)


@pytest.mark.usefixtures("release")
def test_pack_asks_how_long_the_training_was(tmp_path: Path) -> None:
    ours = tmp_path / "ours.safetensors"
    save_weights(ours, create_model("pan", 4).state_dict(), model="pan", scale=4, metadata={})
    assert "use --iterations" in refused("pack", ours, *FACTS)


@pytest.mark.usefixtures("release")
def test_record_enters_what_was_measured_with_these_bytes(trained: Path, tmp_path: Path) -> None:
    done("pack", trained, *FACTS)
    sha256 = read_manifest().find("pan", 3).sha256
    done("record", report(tmp_path / "eval.json", sha256))
    entry = read_manifest().find("pan", 3)
    assert entry.metrics == {"Set5": Metrics(psnr_y=33.1235, ssim_y=0.92346)}
    assert entry.metrics_command == "sruplift eval --model pan --scale 3 --dataset Set5"


def test_record_reads_a_report_of_several_networks(
    release: Release, trained: Path, tmp_path: Path
) -> None:
    done("pack", trained, *FACTS)
    x3 = json.loads(report(tmp_path / "x3.json", read_manifest().find("pan", 3).sha256).read_text())
    x2 = {**x3, "scale": 2, "weights": {"sha256": release.entry.sha256}}
    baseline = {**x3, "model": "bicubic", "weights": None}
    path = tmp_path / "eval.json"
    path.write_text(json.dumps({"reports": [baseline, x2, x3]}))
    done("record", path)
    for scale in (2, 3):
        assert read_manifest().find("pan", scale).metrics["Set5"].psnr_y == 33.1235


@pytest.mark.usefixtures("release")
@pytest.mark.parametrize("how", [{"tile": 64}, {"chop": True}, {"self_ensemble": True}])
def test_record_refuses_what_was_not_measured_plainly(
    trained: Path, tmp_path: Path, how: dict[str, object]
) -> None:
    done("pack", trained, *FACTS)
    path = report(tmp_path / "eval.json", read_manifest().find("pan", 3).sha256)
    path.write_text(json.dumps({**json.loads(path.read_text()), "inference": how}))
    assert "self-ensemble or in parts" in refused("record", path)
    assert read_manifest().find("pan", 3).metrics == {}


@pytest.mark.usefixtures("release")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "bf16"}, "measured in bf16"),
        ({"name": "HR"}, "5 images of HR: that is no benchmark"),
        ({"count": 2}, "2 images of Set5: that is no benchmark, whole"),
    ],
)
def test_record_refuses_what_is_no_benchmark_in_fp32(
    trained: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    done("pack", trained, *FACTS)
    path = report(tmp_path / "eval.json", read_manifest().find("pan", 3).sha256)
    data = json.loads(path.read_text())
    (data if "precision" in change else data["datasets"][0]).update(change)
    path.write_text(json.dumps(data))
    assert words in refused("record", path)
    assert read_manifest().find("pan", 3).metrics == {}


@pytest.mark.usefixtures("release")
def test_packing_again_keeps_measurements_of_the_same_tensors_only(
    trained: Path, tmp_path: Path
) -> None:
    done("pack", trained, *FACTS)
    first = read_manifest().find("pan", 3)
    done("record", report(tmp_path / "eval.json", first.sha256))
    done("pack", trained, *FACTS, "--overwrite")
    assert read_manifest().find("pan", 3).metrics.keys() == {"Set5"}
    done("pack", trained, *FACTS, "--iterations", "900", "--overwrite")
    changed = read_manifest().find("pan", 3)
    assert changed.sha256 != first.sha256
    assert changed.metrics.keys() == {"Set5"}
    torch.manual_seed(2)
    state_dict = create_model("pan", 3).state_dict()
    save_weights(
        trained / "best.safetensors", state_dict, model="pan", scale=3, metadata={"iterations": 9}
    )
    done("pack", trained, *FACTS, "--overwrite")
    assert read_manifest().find("pan", 3).metrics == {}


def test_what_is_packed_is_replaced_only_when_told(release: Release, trained: Path) -> None:
    done("pack", trained, *FACTS)
    path = release.entry.bundled_path.with_name("pan_x3.safetensors")
    before, manifest = path.read_bytes(), read_manifest()
    message = refused("pack", trained, *FACTS, "--iterations", "900")
    assert "pan_x3.safetensors exists, and all commands would use" in message
    assert "--overwrite" in message
    assert path.read_bytes() == before
    assert read_manifest() == manifest
    path.write_bytes(before[:100])
    done("pack", trained, *FACTS, "--overwrite")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("init", "expected"),
    [
        ("pan_x2", "pan_x2"),
        ("random", "random"),
        ("/home/me/runs/a/best.safetensors", None),
        ("pan_x2, /home/me/best.safetensors", "pan_x2, an earlier run"),
    ],
)
def test_a_packed_file_names_no_place_on_a_machine(
    release: Release, trained: Path, init: str, expected: str | None
) -> None:
    path = trained / "best.safetensors"
    found = identify(path)
    metadata = {**found.metadata, "init": init}
    save_weights(path, found.tensors, model="pan", scale=3, metadata=metadata)
    done("pack", trained, *FACTS)
    packed = release.entry.bundled_path.with_name("pan_x3.safetensors")
    assert identify(packed).metadata["init"] == (expected or "an earlier run")
    assert b"/home/me" not in packed.read_bytes()


@pytest.mark.usefixtures("release")
def test_record_refuses_a_report_without_weights(tmp_path: Path) -> None:
    path = report(tmp_path / "eval.json", "ab" * 32)
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": "bicubic"}))
    assert "only bicubic was measured" in refused("record", path)


@pytest.mark.usefixtures("release")
def test_record_refuses_measurements_of_other_weights(trained: Path, tmp_path: Path) -> None:
    done("pack", trained, *FACTS)
    before = read_manifest()
    message = refused("record", report(tmp_path / "eval.json", "ab" * 32))
    assert "eval.json was made with other weights" in message
    assert read_manifest() == before


@pytest.mark.usefixtures("release")
@pytest.mark.parametrize(
    "content", ["not json", "{}", "[]", '{"reports": 3}', '{"model": "pan", "scale": 2}']
)
def test_record_refuses_what_is_no_report(tmp_path: Path, content: str) -> None:
    path = tmp_path / "eval.json"
    path.write_text(content)
    assert "eval.json is not a report" in refused("record", path)


def test_a_report_of_unreleased_weights_is_a_usage_error(release: Release, tmp_path: Path) -> None:
    error = run("record", report(tmp_path / "eval.json", "ab" * 32)).exception
    assert isinstance(error, SrupliftError)
    assert error.exit_code == 2
    assert "no scale 3" in str(error)
    assert read_manifest().weights == (dataclasses.replace(release.entry),)


# card and push


def test_card_is_printed_or_written(release: Release, tmp_path: Path) -> None:
    text = done("card").stdout
    assert release.entry.sha256 in text
    result = done("card", "--model", "pan", "--repo", HUB_REPO, "-o", tmp_path)
    assert result.stdout == ""
    assert f"SRUPLIFT_HUB_REPO={HUB_REPO}`" in (tmp_path / "README.md").read_text()


@pytest.mark.usefixtures("release")
def test_card_replaces_only_on_request(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("precious")
    assert "README.md exists" in refused("card", "-o", tmp_path)
    assert (tmp_path / "README.md").read_text() == "precious"
    done("card", "-o", tmp_path, "--overwrite")
    assert (tmp_path / "README.md").read_text() == done("card").stdout


@pytest.mark.usefixtures("release")
def test_card_goes_into_a_folder(tmp_path: Path) -> None:
    assert "there is no folder" in refused("card", "-o", tmp_path / "none")
    assert "'mine' is not owner/name" in refused("card", "--repo", "mine", code=2)


@pytest.mark.usefixtures("release")
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_push_prints_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with UploadServer({}) as server:
        server.use(monkeypatch, tmp_path / "hf")
        first = done("push", "--repo", HUB_REPO, "--private")
        again = done("push", "--repo", HUB_REPO)
    commit = server.commit(f"model/{HUB_REPO}")
    assert first.stdout == again.stdout == f"{commit}\n"
    assert f"{HUB_REPO}@main: 3 files, " in first.stderr
    assert "are there now" in first.stderr
    assert "no new commit" in again.stderr
    assert server.private == {HUB_REPO}


def test_a_dry_run_of_push_checks_and_sends_nothing(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with UploadServer({}) as server:
        server.use(monkeypatch, tmp_path / "hf")
        monkeypatch.delenv("HF_TOKEN")
        result = done("push", "--repo", HUB_REPO, "--dry-run")
        release.entry.bundled_path.write_bytes(b"damaged")
        assert "is not what was released" in refused("push", "--repo", HUB_REPO, "--dry-run")
        assert server.requests == []
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == [release.entry.sha256, str(release.entry.size), release.entry.file]
    assert [line[2] for line in lines[1:]] == ["weights_manifest.json", "README.md"]
    assert "nothing was sent" in result.stderr
