"""Finding, checking, loading and saving weights.

Weights come from, in this order: what the caller names (a file, or ``hf://owner/repo/file``), the
package, the Hub's cache, the Hub. Released files are pinned by sha256 in the manifest. Every file
is loaded strictly: each tensor of the network must be there with its shape, and nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from sruplift import __version__, hub
from sruplift.errors import UsageError, WeightsError, unknown_name
from sruplift.files import is_file, is_folder
from sruplift.importer import Recognised, others_source, read_tensors, recognise
from sruplift.manifest import (
    Hub,
    WeightsEntry,
    read_manifest,
    sha256_of,
    write_atomically,
)
from sruplift.models import MODELS, SCALES, create_model

HF_PREFIX = "hf://"
# Sources of files whose sha256 is the manifest's.
PINNED = ("bundled", "cache", "hub")
# Of weights that came from elsewhere and do not say.
LICENCE_UNKNOWN = "that of the source file"


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights for ``model`` at ``scale``, its sha256, and where it came from.

    ``source`` is ``file``, ``bundled``, ``cache``, ``hub``, or the ``hf://`` address as given.
    """

    path: Path
    sha256: str
    model: str
    scale: int
    source: str


@dataclass(frozen=True)
class IdentifiedWeights:
    """What a file holds: tensors under our names, in the file's dtype, and its metadata.

    ``origin`` says whose names the tensors had, ``others_source`` of whose file they are if they
    are not ours.
    """

    model: str
    scale: int
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    origin: str
    others_source: str


def find_weights(model: str, scale: int, weights: str | Path | None = None) -> WeightsFile:
    """The file to load for ``model`` at ``scale``; downloads it when it is nowhere on this machine.

    ``weights`` is a file, or ``hf://owner/repo/file[@revision]``; None means the released weights.

    Raises:
        UsageError: there is no such model or scale, or the ``hf://`` address is malformed.
        WeightsError: there is no such file, it cannot be downloaded, or its sha256 is wrong.
    """
    _check_names(model, scale)
    if weights is None:
        return _find_released(_released_entry(model, scale))
    if str(weights).startswith(HF_PREFIX):
        path = download_address(str(weights))
        return WeightsFile(path, sha256_of(path), model, scale, str(weights))
    path = Path(weights)
    if not is_file(path):
        raise WeightsError(f"{path} is not a file of weights: it {_absence(path)}")
    return WeightsFile(path, sha256_of(path), model, scale, "file")


def locate(weights: str) -> Path:
    """A file, that of released weights named like ``pan_x2``, or of an ``hf://`` address.

    Raises:
        UsageError: released weights, or an address, that there cannot be.
        WeightsError: they cannot be found or downloaded.
    """
    if weights.startswith(HF_PREFIX):
        return download_address(weights)
    path = Path(weights)
    released = re.fullmatch(r"(?P<model>[\w-]+)_x(?P<scale>\d)", weights)
    if released and not path.is_file():
        return find_weights(released["model"], int(released["scale"])).path
    return path


def identify(path: Path, model: str | None = None, scale: int | None = None) -> IdentifiedWeights:
    """Read a file and tell what it holds; ``model`` and ``scale`` are what it is expected to be.

    Raises:
        UsageError: the tensors fit several scales and nothing says which.
        WeightsError: the file is damaged, fits no network, or is not of ``model`` and ``scale``.
    """
    tensors, metadata = read_tensors(path)
    likely = next((each for each in SCALES if str(each) == metadata.get("scale")), scale)
    found = recognise(tensors, str(path), model or metadata.get("model"), likely)
    scales = _stated_scales(found, metadata, path)
    holds = f"{found.model} {' or '.join(f'x{each}' for each in scales)}"
    if (model or found.model) != found.model or (scale or scales[0]) not in scales:
        asked = f"{model or found.model} x{scale}" if scale else str(model)
        way = f"--model {found.model} --scale {scales[0]}"
        raise WeightsError(f"{path} holds weights of {holds}, not {asked}: they are for {way}")
    if scale is None and len(scales) > 1:
        raise UsageError(f"{path} fits {holds} alike: say which with --scale")
    return IdentifiedWeights(
        found.model,
        scale or scales[0],
        found.tensors,
        metadata,
        found.origin,
        others_source(metadata, path),
    )


def load_state_dict(file: WeightsFile) -> dict[str, Tensor]:
    """The file's tensors under our names, float32, checked against the file's model and scale.

    Raises:
        WeightsError: the file is damaged, or holds weights of another network or scale.
    """
    if file.source in PINNED:  # It is what was released, so nothing need be recognised.
        tensors = read_tensors(file.path)[0]
    else:
        tensors = identify(file.path, file.model, file.scale).tensors
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{file.path} is damaged: {name} has values that are not finite")
    return {name: tensor.to(torch.float32) for name, tensor in tensors.items()}


def load_model(
    name: str,
    scale: int,
    weights: str | Path | WeightsFile | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """A network ready to run: eval mode, float32, on ``device``.

    LR (B, 3, H, W) in [0, 1] -> SR (B, 3, H*scale, W*scale). ``weights`` is as in
    ``find_weights``, or what that returned.

    Raises:
        UsageError: there is no such model or scale.
        WeightsError: the weights cannot be found, downloaded, verified or loaded.
    """
    file = weights if isinstance(weights, WeightsFile) else find_weights(name, scale, weights)
    if (file.model, file.scale) != (name, scale):
        file = dataclasses.replace(file, model=name, scale=scale, source="file")
    state_dict = load_state_dict(file)
    # What is random in it is replaced: nobody's generator is to go on by that.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        model = create_model(name, scale).to(torch.float32)
    model.load_state_dict(state_dict, strict=True)
    return model.to(device).eval()


def save_weights(
    path: Path,
    state_dict: Mapping[str, Tensor],
    *,
    model: str,
    scale: int,
    metadata: Mapping[str, object],
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a self-describing safetensors file in one step (a temporary name, then a rename).

    The same tensors and metadata always give the same bytes. ``metadata`` is kept as strings;
    model, scale, parameters and the version of sruplift are added to it.

    Raises:
        WeightsError: a value does not fit ``dtype``, or the file cannot be written.
    """
    tensors = {name: tensor.detach().to("cpu", dtype) for name, tensor in state_dict.items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{name} has values that {dtype} cannot hold; {path} is not written")
    described = {
        **metadata,
        "format": "pt",
        "generator": f"sruplift {__version__}",
        "model": model,
        "scale": scale,
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
    }
    text = {key: str(value) for key, value in described.items()}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomically(path, _sort_header(safetensors.torch.save(contiguous, text)))


def import_checkpoint(
    source: Path, destination: Path, model: str | None = None, scale: int | None = None
) -> WeightsFile:
    """Convert somebody else's checkpoint to our names and format, in float32 so nothing is lost.

    Raises:
        UsageError: the tensors fit several scales and ``scale`` does not say which.
        WeightsError: the file is damaged, fits no network, or is not of ``model`` and ``scale``.
    """
    found = identify(source, model, scale)
    metadata = {
        **found.metadata,
        "imported_from": source.name,
        "imported_sha256": sha256_of(source),
        "layout": found.origin,
        "licence": found.metadata.get("licence", LICENCE_UNKNOWN),
    }
    save_weights(
        destination,
        found.tensors,
        model=found.model,
        scale=found.scale,
        metadata=metadata,
        dtype=torch.float32,
    )
    return WeightsFile(destination, sha256_of(destination), found.model, found.scale, "file")


def _check_names(model: str, scale: int) -> None:
    if model not in MODELS:
        raise UsageError(unknown_name("model", model, MODELS))
    scales = MODELS[model].scales
    if scale not in scales:
        valid = ", ".join(map(str, scales))
        raise UsageError(f"model {model!r} has no scale {scale} (valid: {valid})")


def _released_entry(model: str, scale: int) -> WeightsEntry:
    try:
        return read_manifest().find(model, scale)
    except UsageError as error:
        raise WeightsError(
            f"there are no released weights of {model} x{scale} yet: name a file with --weights,"
            " or train your own with `sruplift train`"
        ) from error


def _find_released(entry: WeightsEntry) -> WeightsFile:
    """Bundled, else from the cache, else from the Hub; always with the manifest's sha256."""
    remote = read_manifest().active_hub()
    bundled = entry.bundled_path
    if bundled.is_file():
        found = sha256_of(bundled)
        if found == entry.sha256:
            return WeightsFile(bundled, found, entry.model, entry.scale, "bundled")
        if remote is None:
            raise WeightsError(
                f"{bundled} is damaged: its sha256 is {found[:12]}… instead of"
                f" {entry.sha256[:12]}…; install sruplift again"
            )
    if remote is None:
        raise WeightsError(
            f"{entry.file} did not come with this installation: name a file with --weights, or a"
            " repository that has it in SRUPLIFT_HUB_REPO=owner/name"
        )
    return _fetch_released(entry, remote)


def _fetch_released(entry: WeightsEntry, remote: Hub) -> WeightsFile:
    """The cached or downloaded file. One that is not what was pinned is deleted and got again."""
    path = hub.cached(remote.repo, entry.file, revision=remote.revision)
    if path is not None:
        if sha256_of(path) == entry.sha256:
            return WeightsFile(path, entry.sha256, entry.model, entry.scale, "cache")
        hub.forget(path)
    found = ""
    for _ in range(2):
        path = hub.download(remote.repo, entry.file, revision=remote.revision)
        found = sha256_of(path)
        if found == entry.sha256:
            return WeightsFile(path, found, entry.model, entry.scale, "hub")
        hub.forget(path)
    raise WeightsError(
        f"{entry.file} from {remote.repo} is not the released file: its sha256 is {found[:12]}…"
        f" instead of {entry.sha256[:12]}…, twice; it was deleted"
    )


def download_address(address: str) -> Path:
    """``hf://owner/repo/path/to/file[@revision]`` -> the cached file.

    Raises:
        UsageError: it is not such an address.
        WeightsError: it cannot be downloaded.
    """
    place, _, revision = address.removeprefix(HF_PREFIX).partition("@")
    parts = place.split("/", 2)
    if len(parts) < 3 or not {"", ".", ".."}.isdisjoint(place.split("/")):
        raise UsageError(f"{address!r} is not hf://owner/repo/file[@revision]")
    return hub.download(f"{parts[0]}/{parts[1]}", parts[2], revision=revision or None)


def _stated_scales(found: Recognised, metadata: Mapping[str, str], path: Path) -> tuple[int, ...]:
    """The scales that fit the tensors, narrowed by what the file says of itself."""
    stated = metadata.get("scale")
    if stated is None:
        return found.scales
    if metadata.get("model", found.model) != found.model or stated not in map(str, found.scales):
        scales = " or ".join(f"x{scale}" for scale in found.scales)
        raise WeightsError(
            f"{path} says that it holds {metadata.get('model')} x{stated}, but its tensors are"
            f" those of {found.model} {scales}"
        )
    return (int(stated),)


def _sort_header(data: bytes) -> bytes:
    """Put the metadata in order: safetensors writes it in a random one, which changes the sha256.

    The format: 8 bytes of header length, little-endian, a JSON header padded with spaces, tensors.
    """
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    padded = text.ljust((len(text) + 7) // 8 * 8)
    return len(padded).to_bytes(8, "little") + padded + data[8 + length :]


def _absence(path: Path) -> str:
    return "is a directory" if is_folder(path) else "does not exist"
