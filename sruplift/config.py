"""Training configs: TOML files, typed and validated.

A config is found by name in ``sruplift/configs`` or by path; ``--set key=value`` changes single
values. Unknown keys are refused with the nearest valid one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from sruplift.errors import ConfigError, unknown_name

try:
    from pydantic import (
        BaseModel,
        ConfigDict,
        Field,
        ValidationError,
        field_validator,
        model_validator,
    )
except ImportError as error:
    raise ConfigError(
        "training needs pydantic and accelerate: pip install 'sruplift[train]'"
    ) from error


Share = Annotated[float, Field(ge=0, lt=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(_Strict):
    """Where images come from and how patches are cut."""

    train: tuple[Path, ...] = ()
    """Folders of HR images, searched recursively."""
    validation: Path | None = None
    """Folder of held-out HR images; without one, every 20th training image is held out."""
    validation_images: int = Field(0, ge=0)
    """How many of them to use, evenly spread; 0 means all."""
    cache: Literal["auto", "device", "memory", "none"] = "auto"
    """Decoded images on the training device, in main memory, or read again for each patch."""
    workers: int = Field(2, ge=0)
    """Loader processes when nothing is cached."""
    patch_size: int = Field(48, ge=4)
    """Edge of a training crop in LR pixels."""
    places: int = Field(1, ge=1)
    """At how many places a patch may be cut, of which fine detail decides (``data.choose``)."""
    recolored: float = Field(0, ge=0, le=1)
    """Share of the patches that get their channels in another order, or their negative, or both
    (``data.recolor``)."""
    noisy: float = Field(0, ge=0, le=1)
    """Share of the patches that get noise, which the result is to keep (``data.add_noise``)."""
    batch_size: int = Field(16, ge=1)
    """Patches in one step, over all processes."""
    accumulate: int = Field(1, ge=1)
    """In how many parts, one after another, a process takes its share of a batch: less memory, and
    the same training."""


class OptimizerConfig(_Strict):
    """Which optimizer, and how its learning rate moves."""

    name: Literal["adam", "adamp", "muon"] = "adam"
    learning_rate: float = Field(1e-3, gt=0)
    adam_learning_rate: float = Field(1e-3, gt=0)
    """Muon only: of the parameters that it leaves to Adam."""
    weight_decay: float = Field(0.0, ge=0)
    """Muon only: of the weights between features, as a share of the learning rate."""
    betas: tuple[Share, Share] = (0.9, 0.99)
    schedule: Literal["cosine", "step"] = "cosine"
    final_learning_rate: float = Field(1e-7, ge=0)
    """Where each cosine cycle ends."""
    warmup: int = Field(100, ge=0)
    """Iterations of linear warm-up at the start of each cycle, or of the run."""
    cycles: int = Field(1, ge=1)
    """Cosine cycles of equal length in the whole run."""
    halve_every: int | None = Field(None, ge=1)
    """Step schedule only: after how many iterations the learning rate is halved."""
    clip_norm: float = Field(0.0, ge=0)
    """Largest gradient norm; 0 does not clip."""

    @model_validator(mode="after")
    def _decay_is_muons(self) -> Self:
        if self.weight_decay and self.name != "muon":
            raise ValueError("weight_decay goes with name = 'muon'")
        return self

    @model_validator(mode="after")
    def _schedule_is_whole(self) -> Self:
        if (self.schedule == "step") != (self.halve_every is not None):
            raise ValueError("schedule = 'step' and halve_every go together")
        return self


class Stage(_Strict):
    """A part of the run with other settings: from the end of the stage before to ``until``."""

    until: float = Field(gt=0, le=1)
    """Where it ends, as a share of the iterations."""
    patch_size: int | None = Field(None, ge=4)
    batch_size: int | None = Field(None, ge=1)
    loss: Literal["l1", "l2", "charbonnier", "psnr"] | None = None


class TeacherConfig(_Strict):
    """A trained network whose results become part of what the run's own is compared with.

    Or several, with their mean.
    """

    weights: tuple[str, ...] = Field(min_length=1)
    """A file, released weights by name (``pan_x4``), or ``hf://owner/repo/file[@revision]``, or a
    list of them. ``{scale}`` stands for the scale."""
    share: float = Field(0.8, gt=0, le=1)
    """How much of each target is the teacher's result; the rest is the image itself."""
    self_ensemble: bool = False
    """Take the mean over the eight flips and rotations: better, at eight times the work."""
    precompute: bool = False
    """Ask it once about each whole image, before the first iteration, and not about every patch of
    every iteration. The answers, for each scale as large as the images decoded, are kept in the
    run's folder and in memory. Patches that are turned or recoloured are compared with the answer
    turned or recoloured, noisy ones with the answer and the noise. For one process."""

    @field_validator("weights", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class TrainConfig(_Strict):
    """Everything that determines a training run, but for the device it runs on."""

    model: str
    scale: int | None = None
    scales: tuple[int, ...] = ()
    """Instead of ``scale``: networks of several scales that share all but their last layers. Each
    iteration trains one of them."""
    init: str | None = None
    """Weights to start from: a file, released ones by name (``pan_x2``), or an ``hf://`` address.
    Of another scale: every tensor of the same name and shape is taken over. ``{scale}`` stands for
    the scale."""
    seed: int = Field(0, ge=0, lt=2**63)
    iterations: int = Field(ge=1)
    loss: Literal["l1", "l2", "charbonnier", "psnr"] = "l1"
    luma: float = Field(0, ge=0, le=1)
    """How much of the error is that of luma (BT.601), which papers measure; the rest is that of
    RGB. With 1 nothing holds the colours."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    channels_last: bool = True
    compile: bool = False
    kernels: Literal["auto", "on", "off"] = "auto"
    """Whether float32 on a CPU, not compiled, trains with convolutions of our own: "auto" does
    where there is a C compiler."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    validate_every: int = Field(1000, ge=1)
    log_every: int = Field(100, ge=1)
    checkpoint_every: int = Field(500, ge=1)
    teacher: TeacherConfig | None = None
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    stages: tuple[Stage, ...] = ()

    @model_validator(mode="after")
    def _scales_are_told(self) -> Self:
        if (self.scale is None) == (not self.scales):
            raise ValueError(
                "name either one scale or several scales"
                f" (got scale = {self.scale} and scales = {list(self.scales)})"
            )
        if len(set(self.scales)) < len(self.scales):
            raise ValueError(f"scales must differ (got {list(self.scales)})")
        return self

    @model_validator(mode="after")
    def _stages_are_in_order(self) -> Self:
        ends = [stage.until for stage in self.stages]
        if ends != sorted(set(ends)):
            raise ValueError("stages must end one after another (until must grow)")
        return self

    def with_data(self, train: Sequence[Path], validation: Path | None) -> Self:
        """The same with other folders, where they are given."""
        changes: dict[str, object] = {}
        if train:
            changes["train"] = tuple(train)
        if validation is not None:
            changes["validation"] = validation
        return self.model_copy(update={"data": self.data.model_copy(update=changes)})

    @property
    def every_scale(self) -> tuple[int, ...]:
        """The scales that are trained, often only one."""
        return self.scales if self.scale is None else (self.scale,)

    @property
    def patch_sizes(self) -> set[int]:
        """Every patch size that the config names."""
        return {self.data.patch_size, *(s.patch_size for s in self.stages if s.patch_size)}

    def stage_at(self, iteration: int) -> Stage:
        """The patch size, batch size and loss at ``iteration`` (from 0), all filled in."""
        chosen = next((s for s in self.stages if iteration < s.until * self.iterations), None)
        return Stage(
            until=chosen.until if chosen else 1.0,
            patch_size=(chosen and chosen.patch_size) or self.data.patch_size,
            batch_size=(chosen and chosen.batch_size) or self.data.batch_size,
            loss=(chosen and chosen.loss) or self.loss,
        )


def config_names() -> list[str]:
    """The configs that ship with sruplift."""
    folder = resources.files("sruplift") / "configs"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name[-5:] == ".toml")


def read_config(name_or_path: str, overrides: Iterable[str] = ()) -> TrainConfig:
    """A config by name or path, with ``key=value`` overrides (dots go into tables).

    Raises:
        ConfigError: no such config, not TOML, or an unknown or invalid key.
    """
    values = _read_toml(name_or_path)
    keys = [_apply_override(values, override) for override in overrides]
    config = build_config(values)
    for key in keys:
        _require_effect(config, key)
    return config


def build_config(values: dict[str, Any]) -> TrainConfig:
    """The validated config of nested ``values``; ConfigError names the first wrong key."""
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(error))) from error


def _read_toml(name_or_path: str) -> dict[str, Any]:
    if name_or_path in config_names():
        file = resources.files("sruplift") / "configs" / f"{name_or_path}.toml"
        text = file.read_text(encoding="utf-8")
    else:
        path = Path(name_or_path)
        if path.suffix.lower() != ".toml" and path.is_file():
            raise ConfigError(f"cannot read config {path}: its name must end in .toml")
        if path.suffix.lower() != ".toml":
            raise ConfigError(unknown_name("config", name_or_path, config_names()))
        try:
            text = path.read_text(encoding="utf-8-sig")  # Editors on Windows begin with a mark.
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read config {path}: {error}") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"config {name_or_path} is not valid TOML: {error}") from error


def _apply_override(values: dict[str, Any], override: str) -> str:
    """Put it into ``values``; returns its key. A number is a place in a list: ``stages.0.loss``."""
    key, separator, text = (part.strip() for part in override.partition("="))
    if not separator or not key:
        raise ConfigError(f"--set takes key=value, not {override!r}")
    *tables, last = key.split(".")
    table: Any = values
    for name in tables:
        if isinstance(table, list):
            if not name.isdecimal() or int(name) >= len(table):
                raise ConfigError(f"--set {override}: {name!r} is none of its {len(table)} stages")
            table = table[int(name)]
        else:
            table = table.setdefault(name, {})
        if not isinstance(table, dict | list):
            raise ConfigError(f"--set {override}: {name!r} is not a table")
    if isinstance(table, list):
        raise ConfigError(f"--set {override}: name a key of a stage, as in stages.0.{last}")
    try:
        table[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        table[last] = text
    return key


def _require_effect(config: TrainConfig, key: str) -> None:
    """A value that every stage replaces by its own would be set for nothing."""
    name = key.removeprefix("data.")
    if key not in ("loss", "data.patch_size", "data.batch_size") or not config.stages:
        return
    whole = config.stages[-1].until == 1
    if whole and all(getattr(stage, name) is not None for stage in config.stages):
        ways = " and ".join(f"stages.{number}.{name}" for number in range(len(config.stages)))
        raise ConfigError(f"--set {key} has no effect: every stage has its own; set {ways}")


def _explain(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            place = problem["loc"][:2]
            known = _keys(Stage, f"stages.{place[1]}.") if place[0] == "stages" else None
            yield unknown_name("config key", key, known or _keys(TrainConfig))
        elif key:
            yield f"config key {key!r}: {problem['msg']} (got {problem['input']!r})"
        else:
            yield problem["msg"].removeprefix("Value error, ")


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a config, nested ones with dots."""
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))  # One that is left out is a union.
        tables = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if tables and get_origin(field.annotation) is not tuple:
            yield from _keys(tables[0], f"{prefix}{name}.")
        else:
            yield prefix + name
