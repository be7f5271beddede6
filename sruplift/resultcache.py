"""Results of single images, kept so that an evaluation that was interrupted goes on.

A result is found again only if everything that makes it is the same: the bytes of weights and
image, the options, the versions of PyTorch, Pillow and of sruplift's own code. It lies beside the
unpacked data sets, in the Hub cache's place for assets, which ``HF_ASSETS_CACHE`` and ``HF_HOME``
move. What is damaged in there counts as absent.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import PIL
import torch

from sruplift import __version__
from sruplift.datasets import cache_folder
from sruplift.errors import SrupliftError
from sruplift.manifest import write_atomically

# Suffixes of what makes results: modules, and the C of our kernels.
SOURCE = (".py", ".c", ".h")


class ResultCache:
    """Results by their keys, a small file each. ``problem`` says why one could not be written.

    A cache that cannot be written is no reason to stop measuring.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.problem: str | None = None
        self.folder = folder
        if folder is None:
            try:
                self.folder = cache_folder("eval")
            except OSError as error:
                self.problem = str(error.strerror)

    def read(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """The result that was written under ``key``, or None."""
        if self.folder is None:
            return None
        key = _complete(key)
        try:
            data = json.loads(_path(self.folder, key).read_text(encoding="utf-8"))
            if data["key"] == key and data["sha256"] == _digest(data["result"]):
                return dict(data["result"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def write(self, key: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Keep ``result``, in one step."""
        if self.folder is None:
            return
        key = _complete(key)
        path = _path(self.folder, key)
        data = {"key": key, "result": result, "sha256": _digest(result)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(data).encode("utf-8"))
        except (OSError, SrupliftError) as error:
            self.problem = str(error)


def _path(folder: Path, key: Mapping[str, Any]) -> Path:
    name = _digest(key)
    return folder / name[:2] / f"{name}.json"


def _complete(key: Mapping[str, Any]) -> dict[str, Any]:
    """``key`` with the versions, as JSON gives it back (no tuples)."""
    versions = {"torch": torch.__version__, "pillow": PIL.__version__, "code": code_version()}
    complete: dict[str, Any] = json.loads(json.dumps({**key, **versions}))
    return complete


@functools.cache
def code_version() -> str:
    """sruplift's version and a sha256 of its source: edited code must not give old numbers."""
    package = Path(str(resources.files("sruplift")))
    digest = hashlib.sha256()
    for file in sorted(each for each in package.rglob("*") if each.suffix in SOURCE):
        name = file.relative_to(package).as_posix()
        digest.update(name.encode() + b"\0" + file.read_bytes())
    return f"{__version__}+{digest.hexdigest()}"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()
