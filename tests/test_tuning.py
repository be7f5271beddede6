"""A tile that was measured is kept, and taken by the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import without_home

from sruplift import tuning
from sruplift.engine import LARGEST_TILE, Engine
from sruplift.errors import WeightsError
from sruplift.models import create_model

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path))
    return tmp_path / "sruplift" / "tuning"


def test_what_is_kept_is_found_again() -> None:
    assert tuning.tuned_tile("a") is None
    tuning.keep_tile("a", 100)
    path = tuning.keep_tile("b", 200)
    tuning.keep_tile("a", 300)
    assert (tuning.tuned_tile("a"), tuning.tuned_tile("b")) == (300, 200)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": "100"}', '{"a": -5}', '{"a": null}'])
def test_a_file_that_cannot_be_meant_is_as_none(folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    (folder / tuning.FILE_NAME).write_text(text)
    assert tuning.tuned_tile("a") is None
    tuning.keep_tile("a", 100)
    assert tuning.tuned_tile("a") == 100


def test_a_folder_that_cannot_be_made_is_a_sentence(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file")
    with pytest.raises(WeightsError, match=r"cannot write .*tiles\.json: File exists"):
        tuning.keep_tile("a", 100)
    assert tuning.tuned_tile("a") is None


def test_the_key_names_what_the_time_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    key = tuning.tuning_key(CPU, "PAN", 4, "bf16")
    assert tuning.processor_name(CPU) in key
    assert torch.__version__ in key
    assert key.endswith("PAN x4 bf16")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert tuning.tuning_key(CPU, "PAN", 4, "bf16") != key


def test_networks_of_one_family_have_tiles_of_their_own() -> None:
    keys = {
        Engine(create_model(name, 2), 2, "cpu", "fp32", self_ensemble=ensemble).tuning_key
        for name in ("a2n", "a2n-m", "maffsrn", "maffsrn-l", "hpinet-s", "hpinet-m")
        for ensemble in (False, True)
    }
    assert len(keys) == 6


def test_without_a_home_there_are_no_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    without_home(monkeypatch)
    assert tuning.tuned_tile("key") is None
    with pytest.raises(WeightsError, match="there is no home folder for a cache"):
        tuning.keep_tile("key", 9)


def test_the_engine_takes_the_tile_that_was_measured() -> None:
    def tile() -> tuple[int, int]:
        engine = Engine(create_model("pan", 2), 2, "cpu", "fp32")
        chosen = engine.choose_tile(2000, 2000, engine.default_overlap())
        tuning.keep_tile(engine.tuning_key, 200**2)
        return chosen

    before, after = tile(), tile()
    assert max(before) ** 2 > 200**2
    assert max(before) ** 2 <= LARGEST_TILE["cpu"]
    assert max(after) <= 200
