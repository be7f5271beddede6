"""The released weights: ``weights_manifest.json`` as frozen dataclasses. No torch, so it is cheap.

The file lies at the top of a checkout and, in an installed wheel, inside the package. It says for
every model and scale which file holds the weights, its sha256, what it was trained on and what was
measured with it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sruplift.errors import UsageError, WeightsError, unknown_name

MANIFEST_NAME = "weights_manifest.json"
FORMAT = 1
HUB_REPO_VARIABLE = "SRUPLIFT_HUB_REPO"
_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Hub:
    """Where the weights are published: a repository ``owner/name`` and a pinned revision."""

    repo: str
    revision: str | None = None


@dataclass(frozen=True)
class Metrics:
    """Means over one benchmark, on Y: PSNR in dB and SSIM."""

    psnr_y: float
    ssim_y: float


@dataclass(frozen=True)
class WeightsEntry:
    """One released file of weights. ``size`` is in bytes, ``metrics`` by the benchmark's name."""

    model: str
    scale: int
    file: str
    sha256: str
    size: int
    parameters: int
    licence: str
    config: str
    training_data: str
    iterations: int
    device: str
    command: str
    metrics: Mapping[str, Metrics] = field(default_factory=dict)
    metrics_command: str = ""

    @property
    def bundled_path(self) -> Path:
        """Where the file lies if it came with the package."""
        return pretrained_folder() / self.file


@dataclass(frozen=True)
class Manifest:
    """All released weights, and the repository they can be downloaded from, if there is one."""

    hub: Hub | None = None
    weights: tuple[WeightsEntry, ...] = ()

    def model_names(self) -> tuple[str, ...]:
        """The models that have weights, in the manifest's order."""
        return tuple(dict.fromkeys(entry.model for entry in self.weights))

    def scales(self, model: str) -> tuple[int, ...]:
        """The scales that have weights of ``model``."""
        return tuple(entry.scale for entry in self.weights if entry.model == model)

    def find(self, model: str, scale: int) -> WeightsEntry:
        """The entry of ``model`` at ``scale``.

        Raises:
            UsageError: there is no such model or scale; the message lists what there is.
        """
        for entry in self.weights:
            if (entry.model, entry.scale) == (model, scale):
                return entry
        if model not in self.model_names():
            raise UsageError(unknown_name("model", model, self.model_names()))
        valid = ", ".join(map(str, self.scales(model)))
        raise UsageError(f"model {model!r} has no scale {scale} (valid: {valid})")

    def with_entry(self, entry: WeightsEntry) -> Manifest:
        """A copy in which ``entry`` replaces the one of its model and scale, or is added."""
        key = (entry.model, entry.scale)
        others = [other for other in self.weights if (other.model, other.scale) != key]
        # Models keep the order in which they were added; scales ascend within a model.
        order = [*dict.fromkeys([*self.model_names(), entry.model])]
        entries = sorted([*others, entry], key=lambda e: (order.index(e.model), e.scale))
        return dataclasses.replace(self, weights=tuple(entries))

    def active_hub(self) -> Hub | None:
        """The Hub to download from: ``SRUPLIFT_HUB_REPO`` (``owner/name[@revision]``) or ``hub``.

        The variable wins, so that a mirror can be named; the sha256 guards the content either way.
        """
        named = os.environ.get(HUB_REPO_VARIABLE, "").strip()
        if not named:
            return self.hub
        repo, _, revision = named.partition("@")
        return Hub(repo, revision or None)


def pretrained_folder() -> Path:
    """The package's folder of bundled weights."""
    return _PACKAGE / "pretrained"


def manifest_path() -> Path:
    """The manifest inside the package (a wheel), else beside the package (a checkout)."""
    inside = _PACKAGE / MANIFEST_NAME
    return inside if inside.is_file() else _PACKAGE.parent / MANIFEST_NAME


def read_manifest(path: Path | None = None) -> Manifest:
    """The manifest at ``path`` (the project's own by default), read once per process.

    Raises:
        WeightsError: the file is missing, not JSON, or not laid out as a manifest.
    """
    return _read(path or manifest_path())


def write_manifest(manifest: Manifest, path: Path | None = None) -> None:
    """Write ``manifest`` in one step (a temporary name, then a rename) and forget cached copies.

    Raises:
        WeightsError: the file cannot be written.
    """
    path = path or manifest_path()
    data = {"format": FORMAT, **dataclasses.asdict(manifest)}
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode("utf-8"))
    _read.cache_clear()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file under a temporary name in its own folder, then rename it into place.

    Raises:
        WeightsError: the file cannot be written; no temporary file is left behind.
    """
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read; these are meant to be shared.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise WeightsError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The file's sha256 in hexadecimal.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@functools.cache
def _read(path: Path) -> Manifest:
    try:
        return _parse(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path} is not a weights manifest: {error}") from error


def _parse(data: Any) -> Manifest:
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']!r} instead of {FORMAT}")
    hub = Hub(**data["hub"]) if data["hub"] else None
    return Manifest(hub, tuple(_parse_entry(entry) for entry in data["weights"]))


def _parse_entry(data: Any) -> WeightsEntry:
    metrics = {name: Metrics(**values) for name, values in data.get("metrics", {}).items()}
    entry = WeightsEntry(**{**data, "metrics": metrics})
    if Path(entry.file).name != entry.file:
        raise ValueError(f"{entry.file!r} is not a plain file name")
    return entry
