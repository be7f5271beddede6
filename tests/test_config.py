from __future__ import annotations

from pathlib import Path

import pytest

from sruplift.config import config_names, read_config
from sruplift.errors import ConfigError
from sruplift.models import MODELS


@pytest.mark.parametrize("name", config_names())
def test_every_config_is_valid_and_named_after_its_weights(name: str) -> None:
    config = read_config(name)
    network, kind = name.split("_")[:2]
    assert set(config.every_scale) <= set(MODELS[config.model].scales)
    if kind == "paper":
        assert config.model.startswith(network)
    else:
        released = f"x{config.scale}" if config.scale else "multi"
        assert (network, kind) == (config.model, released)


PAPERS = [name for name in config_names() if name.endswith("_paper")]


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_papers_recipes_take_another_scale(name: str, scale: int) -> None:
    config = read_config(name, [f"scale={scale}", "scales=[]"])
    assert config.every_scale == (scale,)


def test_stages_follow_one_another() -> None:
    config = read_config("pan_x2", ["iterations=100", "loss=l2"])
    assert [(s.until, s.patch_size) for s in config.stages] == [(0.75, 32), (1.0, None)]
    first, second = config.stage_at(74), config.stage_at(75)
    assert (first.patch_size, second.patch_size) == (32, 40)
    assert (first.batch_size, first.loss) == (8, "l2")


def test_overrides_reach_into_tables() -> None:
    overrides = ["optimizer.name=adam", "data.places=4", "init=null_x2", "teacher.weights=a2n_x2"]
    config = read_config("pan_x2", overrides)
    assert config.optimizer.name == "adam"
    assert config.data.places == 4
    assert config.init == "null_x2"
    assert config.teacher is not None
    assert (config.teacher.weights, config.teacher.share) == (("a2n_x2",), 0.8)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optimizer.learning_rat=1", "did you mean 'optimizer.learning_rate'"),
        ("iteration=1", "did you mean 'iterations'"),
        ("iterations=none", "config key 'iterations'"),
        ("data.patch_size=0", "config key 'data.patch_size'"),
        ("optimizer.learning_rate=inf", "config key 'optimizer.learning_rate'"),
        ("optimizer.weight_decay=nan", "config key 'optimizer.weight_decay'"),
        ("loss=l3", "config key 'loss'"),
        ("iterations", "--set takes key=value"),
        ("optimizer.schedule=step", "schedule = 'step' and halve_every go together"),
        ("optimizer.halve_every=5", "schedule = 'step' and halve_every go together"),
        ("optimizer.name=adamw", "config key 'optimizer.name'"),
        ("model.name=1", "'model' is not a table"),
        ("stages.2.patch_size=24", "'2' is none of its 2 stages"),
        ("stages.patch_size=24", "name a key of a stage, as in stages.0.patch_size"),
        ("stages.last.loss=l1", "'last' is none of its 2 stages"),
        ("teacher.share=0.5", "config key 'teacher.weights': Field required"),
        ("teacher.weigths=pan_x2", "did you mean 'teacher.weights'"),
        ("teacher=pan_x2", "config key 'teacher'"),
        ("teacher.weights=[]", "config key 'teacher.weights'"),
        ("teacher.weights=2", "config key 'teacher.weights'"),
        (
            "stages.1.patch=24",
            "unknown config key 'stages.1.patch'; did you mean 'stages.1.patch_s",
        ),
    ],
)
def test_wrong_overrides_are_refused_in_a_sentence(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config("pan_x2", [override])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_decay_is_muons() -> None:
    assert read_config("pan_x2", ["optimizer.weight_decay=0.1"]).optimizer.weight_decay == 0.1
    with pytest.raises(ConfigError, match="weight_decay goes with name = 'muon'"):
        read_config("pan_x2", ["optimizer.weight_decay=0.1", "optimizer.name=adam"])


def test_overrides_reach_into_stages() -> None:
    config = read_config("pan_x2", ["stages.1.patch_size=24"])
    assert [stage.patch_size for stage in config.stages][1] == 24


@pytest.mark.parametrize("until", [1.0, 0.9])
@pytest.mark.parametrize("key", ["data.patch_size=24", "data.batch_size=4", "loss=l2"])
def test_an_override_that_no_iteration_would_see_is_refused(
    tmp_path: Path, key: str, until: float
) -> None:
    name, value = key.removeprefix("data.").split("=")
    stage = f'"{value}"' if name == "loss" else "8"
    file = tmp_path / "mine.toml"
    file.write_text(
        'model = "pan"\nscale = 2\niterations = 10\n'
        f"[[stages]]\nuntil = 0.5\n{name} = {stage}\n"
        f"[[stages]]\nuntil = {until}\n{name} = {stage}\n"
    )
    if until < 1:
        assert read_config(str(file), [key]).stages
        return
    ways = f"set stages.0.{name} and stages.1.{name}"
    with pytest.raises(ConfigError, match=f"has no effect: every stage has its own; {ways}"):
        read_config(str(file), [key])


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('model = "pan"\nscale = 3\niterations = 5\n')
    assert read_config(str(file)).scale == 3
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read_config(str(file)).iterations == 5
    file.rename(tmp_path / "mine.txt")
    with pytest.raises(ConfigError, match=r"mine\.txt: its name must end in \.toml"):
        read_config(str(tmp_path / "mine.txt"))
    file.write_text("model = pan")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_config(str(file))
    with pytest.raises(ConfigError, match="cannot read"):
        read_config(str(tmp_path / "absent.toml"))
    with pytest.raises(ConfigError, match="did you mean 'pan_x2'"):
        read_config("pan_2")


def test_stages_must_grow() -> None:
    with pytest.raises(ConfigError, match="one after another"):
        read_config("pan_x2", ["stages=[{until=0.5}, {until=0.5}]"])
