from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from released import make_release
from torch import Tensor, nn

from sruplift import importer
from sruplift.errors import SrupliftError, UsageError, WeightsError
from sruplift.importer import LAYOUTS
from sruplift.manifest import sha256_of
from sruplift.models import create_model
from sruplift.weights import (
    WeightsFile,
    find_weights,
    identify,
    import_checkpoint,
    load_model,
    load_state_dict,
    save_weights,
)

StateDict = dict[str, Tensor]


def state(scale: int, model: str = "pan") -> StateDict:
    torch.manual_seed(scale)
    return create_model(model, scale).state_dict()


def save(path: Path, scale: int, **metadata: object) -> Path:
    save_weights(path, state(scale), model="pan", scale=scale, metadata=metadata)
    return path


def file_of(path: Path, scale: int) -> WeightsFile:
    return WeightsFile(path, sha256_of(path), "pan", scale, "file")


def one_sentence(action: Callable[[], object]) -> SrupliftError:
    with pytest.raises(SrupliftError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return caught.value


# Saving


def test_weights_survive_saving_rounded_to_half_precision(tmp_path: Path) -> None:
    path = save(tmp_path / "w.safetensors", 3)
    loaded = load_state_dict(file_of(path, 3))
    for name, tensor in state(3).items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], tensor.half().float())


def test_a_saved_file_describes_itself(tmp_path: Path) -> None:
    path = save(tmp_path / "w.safetensors", 2, licence="Apache-2.0", iterations=12, model="hat")
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["model"] == "pan"  # what is saved is what it says, whatever was passed on
    assert metadata["scale"] == "2"
    assert metadata["parameters"] == "261403"
    assert metadata["licence"] == "Apache-2.0"
    assert metadata["iterations"] == "12"


def test_the_same_weights_always_give_the_same_bytes(tmp_path: Path) -> None:
    """safetensors alone orders metadata at random: with 12 keys two writings hardly ever agree."""
    many = {f"key{number}": number for number in range(12)}
    files = [save(tmp_path / f"{number}.safetensors", 2, **many) for number in range(4)]
    assert len({sha256_of(path) for path in files}) == 1


def test_a_value_that_half_precision_cannot_hold_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    large = {**state(2), "head.bias": torch.full((40,), 1e5)}
    with pytest.raises(WeightsError, match=r"head\.bias .*w\.safetensors is not written"):
        save_weights(path, large, model="pan", scale=2, metadata={})
    assert not path.exists()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = save(tmp_path / "w.safetensors", 2)
    before = sha256_of(path)
    monkeypatch.setattr("os.fsync", full)
    assert "No space left" in str(one_sentence(lambda: save(path, 3)))
    assert sha256_of(path) == before
    assert list(tmp_path.iterdir()) == [path]


# Finding


def test_a_named_file_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_release(tmp_path, monkeypatch, bundled=True)
    path = save(tmp_path / "mine.safetensors", 2, note="mine")
    assert find_weights("pan", 2, path) == file_of(path, 2)
    assert find_weights("pan", 2, str(path)).path == path


def test_bundled_weights_need_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = make_release(tmp_path, monkeypatch, bundled=True)
    file = find_weights("pan", 2)
    assert (file.path, file.sha256, file.source) == (
        release.entry.bundled_path,
        release.entry.sha256,
        "bundled",
    )
    assert not load_model("pan", 2).training


def test_damaged_bundled_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bit, which no reader of the file would notice."""
    release = make_release(tmp_path, monkeypatch, bundled=True)
    damaged = bytearray(release.content)
    damaged[-1] ^= 1
    release.entry.bundled_path.write_bytes(damaged)
    message = str(one_sentence(lambda: load_model("pan", 2)))
    assert "pan_x2.safetensors is damaged" in message


def test_weights_that_are_nowhere_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_release(tmp_path, monkeypatch, bundled=False)
    message = str(one_sentence(lambda: find_weights("pan", 2)))
    assert all(word in message for word in ("pan_x2.safetensors", "--weights", "SRUPLIFT_HUB_REPO"))


def test_a_scale_without_released_weights_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_release(tmp_path, monkeypatch, bundled=True)
    error = one_sentence(lambda: find_weights("pan", 3))
    assert "no released weights of pan x3" in str(error)
    assert error.exit_code == 1


@pytest.mark.parametrize(
    ("model", "scale", "weights", "words"),
    [
        ("pam", 2, None, "did you mean 'pan'"),
        ("pan", 5, None, "valid: 2, 3, 4"),
        ("pan", 5, "any.safetensors", "valid: 2, 3, 4"),
        ("pan", 2, "hf://owner/repo", "'hf://owner/repo' is not hf://owner/repo/file"),
        ("pan", 2, "hf://owner//file", "is not hf://owner/repo/file"),
        ("pan", 2, "hf://owner/repo//file", "is not hf://owner/repo/file"),
        ("pan", 2, "hf://owner/repo/../file", "is not hf://owner/repo/file"),
    ],
)
def test_what_cannot_be_asked_for_is_a_usage_error(
    model: str, scale: int, weights: str | None, words: str
) -> None:
    error = one_sentence(lambda: find_weights(model, scale, weights))
    assert words in str(error)
    assert error.exit_code == 2


def test_a_named_file_must_be_one(tmp_path: Path) -> None:
    missing = one_sentence(lambda: find_weights("pan", 2, tmp_path / "none.pth"))
    assert "none.pth" in str(missing)
    assert "does not exist" in str(missing)
    assert "is a directory" in str(one_sentence(lambda: find_weights("pan", 2, tmp_path)))


# Loading


def test_a_loaded_model_is_ready_to_run(tmp_path: Path) -> None:
    model = load_model("pan", 4, save(tmp_path / "w.safetensors", 4))
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.get_parameter("last.bias"), state(4)["last.bias"].half().float())


def test_weights_are_compared_with_what_they_should_be_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def note(model: str, scale: int) -> nn.Module:
        made.append(model)
        return create_model(model, scale)

    path = tmp_path / "weights.safetensors"
    net = create_model("hpinet-s", 3)
    save_weights(path, net.state_dict(), model="hpinet-s", scale=3, metadata={})
    monkeypatch.setattr(importer, "create_model", note)
    importer.expected_shapes.cache_clear()
    state = torch.get_rng_state()
    assert identify(path).model == "hpinet-s"
    assert set(made) == {"hpinet-s"}
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_is_float32_and_nobodys_random_numbers_are_spent(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    path = save(tmp_path / "w.safetensors", 2)
    before, usual = torch.get_rng_state(), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = load_model("pan", 2, path)
    finally:
        torch.set_default_dtype(usual)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("held", "asked"), [(4, 2), (2, 4), (2, 3), (3, 2)])
def test_weights_of_another_scale_name_both(tmp_path: Path, held: int, asked: int) -> None:
    path = save(tmp_path / "w.safetensors", held)
    message = str(one_sentence(lambda: load_model("pan", asked, path)))
    assert f"w.safetensors holds weights of pan x{held}, not pan x{asked}" in message


def test_a_found_file_is_checked_against_what_is_asked(tmp_path: Path) -> None:
    file = file_of(save(tmp_path / "w.safetensors", 2), 2)
    message = str(one_sentence(lambda: load_model("pan", 3, file)))
    assert "holds weights of pan x2, not pan x3" in message


def test_loading_is_strict_and_says_everything_at_once(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    tensors = state(4)
    tensors["extra.weight"] = tensors.pop("head.bias")
    tensors["last.bias"] = torch.zeros(4)
    safetensors.torch.save_file(tensors, path)
    message = str(one_sentence(lambda: load_model("pan", 4, path)))
    assert "the closest is pan x4" in message
    assert "1 missing (head.bias)" in message
    assert "1 unexpected (extra.weight)" in message
    assert "1 misshapen (last.bias 4 instead of 3)" in message


def test_values_that_are_not_finite_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({**state(2), "head.bias": torch.full((40,), float("nan"))}, path)
    assert "w.pth is damaged: head.bias" in str(one_sentence(lambda: load_model("pan", 2, path)))


def test_metadata_that_contradicts_the_tensors_is_told(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(state(4), path, {"model": "pan", "scale": "2"})
    message = str(one_sentence(lambda: load_model("pan", 2, path)))
    assert "says that it holds pan x2, but its tensors are those of pan x4" in message


class Boom:
    """A pickle of it runs code when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def cut_checkpoint(path: Path, **options: bool) -> None:
    torch.save(state(2), path, **options)
    cut(path)


def with_code(path: Path) -> None:
    torch.save({"head.bias": torch.zeros(1), "x": Boom(path.parent / "code-was-run")}, path)


BAD: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.touch(),
    "text": lambda path: path.write_text("a text file\n"),
    "short": lambda path: path.write_bytes(b"\x80"),
    "code": with_code,
    "cut-safetensors": lambda path: cut(save(path, 2)),
    "header-safetensors": lambda path: path.write_bytes((2**40).to_bytes(8, "little") + b"{"),
    "no-tensors": lambda path: safetensors.torch.save_file({}, path),
    "cut-checkpoint": cut_checkpoint,
    "old-cut-checkpoint": lambda p: cut_checkpoint(p, _use_new_zipfile_serialization=False),
    "list": lambda path: torch.save([torch.zeros(1)], path),
    "optimizer": lambda path: torch.save({"step": 3, "lr": 0.1}, path),
    "another-network": lambda p: torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, p),
}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty", "is empty"),
        ("text", "neither safetensors nor a PyTorch checkpoint"),
        ("short", "not a checkpoint of plain tensors, or not whole"),
        ("code", "holds more than tensors, which could run code"),
        ("cut-safetensors", "not a whole safetensors file"),
        ("header-safetensors", "not a whole safetensors file"),
        ("no-tensors", "holds no tensors"),
        ("cut-checkpoint", "not a checkpoint of plain tensors, or not whole"),
        ("old-cut-checkpoint", "not a checkpoint of plain tensors, or not whole"),
        ("list", "holds a list instead of a state dict"),
        ("optimizer", "holds no state dict: step, lr where tensors should be"),
        (
            "another-network",
            "fits no network (1 tensor, the first conv1.weight 64x3x7x7)",
        ),
    ],
)
def test_bad_files_are_one_sentence_to_load_and_to_import(
    tmp_path: Path, kind: str, words: str
) -> None:
    path = tmp_path / f"{kind}.pth"
    BAD[kind](path)
    output = tmp_path / "out.safetensors"
    for action in (
        lambda: load_model("pan", 2, path),
        lambda: import_checkpoint(path, output, "pan", 2),
    ):
        error = one_sentence(action)
        assert words in str(error)
        assert path.name in str(error)
    assert not output.exists()
    assert not (tmp_path / "code-was-run").exists()


# Importing

WRAPPINGS: dict[str, Callable[[StateDict], Any]] = {
    "bare": lambda s: s,
    "params": lambda s: {"params": s},
    "averaged before plain": lambda s: {"params": {"wrong": torch.zeros(1)}, "params_ema": s},
    "state_dict": lambda s: {"epoch": 3, "state_dict": s},
    "model": lambda s: {"model": s, "optimizer": {"lr": 0.1}},
    "parallel": lambda s: {f"module.{name}": tensor for name, tensor in s.items()},
    "compiled": lambda s: {f"_orig_mod.{name}": tensor for name, tensor in s.items()},
    "nested": lambda s: {"state_dict": {"model": {f"module.{n}": t for n, t in s.items()}}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_checkpoints_are_unwrapped(tmp_path: Path, wrapping: str) -> None:
    source = tmp_path / "source.pt"
    torch.save(WRAPPINGS[wrapping](state(4)), source)
    made = import_checkpoint(source, tmp_path / "out.safetensors")
    assert (made.model, made.scale, made.sha256) == ("pan", 4, sha256_of(made.path))
    loaded = load_state_dict(made)
    for name, tensor in state(4).items():
        assert torch.equal(loaded[name], tensor)  # float32: nothing is lost


@pytest.mark.parametrize("old", [True, False])
def test_both_of_pytorchs_formats_are_read(tmp_path: Path, old: bool) -> None:
    source = tmp_path / "source.pth"
    torch.save(state(4), source, _use_new_zipfile_serialization=not old)
    assert identify(source).scale == 4


def test_an_imported_file_says_where_it_is_from(tmp_path: Path) -> None:
    source = tmp_path / "theirs.pth"
    torch.save(state(4), source)
    metadata = identify(import_checkpoint(source, tmp_path / "out.safetensors").path).metadata
    assert metadata["imported_from"] == "theirs.pth"
    assert metadata["imported_sha256"] == sha256_of(source)
    assert metadata["licence"] == "that of the source file"


def test_our_own_file_keeps_its_licence_when_imported(tmp_path: Path) -> None:
    source = save(tmp_path / "w.safetensors", 3, licence="MIT")
    made = import_checkpoint(source, tmp_path / "out.safetensors")
    assert made.scale == 3  # told by the metadata: the tensors alone fit x2 as well
    assert identify(made.path).metadata["licence"] == "MIT"


def test_scales_that_look_alike_are_asked_for(tmp_path: Path) -> None:
    source = tmp_path / "x3.pth"
    torch.save(state(3), source)
    output = tmp_path / "out.safetensors"
    with pytest.raises(UsageError, match="fits pan x2 or x3 alike: say which with --scale"):
        import_checkpoint(source, output)
    assert import_checkpoint(source, output, scale=3).scale == 3


@pytest.mark.parametrize(
    ("model", "scale", "words"),
    [
        ("pan", 2, "holds weights of pan x4, not pan x2"),
        (None, 3, "holds weights of pan x4, not pan x3"),
        ("a2n", None, "holds weights of pan x4, not a2n"),
        ("a2n", 4, "holds weights of pan x4, not a2n x4"),
    ],
)
def test_what_is_stated_must_agree_with_the_tensors(
    tmp_path: Path, model: str | None, scale: int | None, words: str
) -> None:
    source = tmp_path / "x4.pth"
    torch.save(state(4), source)
    output = tmp_path / "out.safetensors"
    assert words in str(one_sentence(lambda: import_checkpoint(source, output, model, scale)))
    assert not output.exists()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv_first.weight", "head.weight"),
        ("SCPA_trunk.0.conv1_a.weight", "blocks.0.reduce_plain.weight"),
        ("SCPA_trunk.3.k1.0.weight", "blocks.3.plain.weight"),
        ("SCPA_trunk.15.PAConv.k2.bias", "blocks.15.attention.gate.bias"),
        ("att2.conv.weight", "upsample.1.attention.gate.weight"),
        ("HRconv1.bias", "upsample.0.refine.bias"),
        ("SCPA_trunk.0.conv9.weight", None),
        ("SCPA_trunk.conv1_a.weight", None),
    ],
)
def test_the_authors_names_of_pan(theirs: str, ours: str | None) -> None:
    (layout,) = (each for each in LAYOUTS if "pan" in each.models)
    assert layout.rename(theirs) == ours
