"""Tiles that were measured to be fast: ``sruplift bench --tiles`` keeps, the engine takes them.

One small JSON file in the cache folder. Without it, or with one that cannot be read, the engine
chooses by itself.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sruplift.datasets import cache_folder
from sruplift.errors import WeightsError
from sruplift.manifest import write_atomically

FILE_NAME = "tiles.json"


def processor_name(device: torch.device) -> str:
    """What computes on ``device``, as its maker calls it."""
    if device.type in ("cuda", "xpu"):
        return str(torch.get_device_module(device).get_device_name(device))
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def tuning_key(device: torch.device, network: str, scale: int, precision: str) -> str:
    """What a choice depends on, in words."""
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    machine = f"{processor_name(device)}{threads}, PyTorch {torch.__version__}"
    return f"{machine}: {network} x{scale} {precision}"


def tuned_tile(key: str) -> int | None:
    """How many LR pixels the tile has that was measured to be the fastest, if it was."""
    pixels = _read().get(key)
    return pixels if isinstance(pixels, int) and pixels > 0 else None


def keep_tile(key: str, pixels: int) -> Path:
    """Remember a tile of so many LR pixels; gives the file.

    Raises:
        WeightsError: it cannot be written.
    """
    path = Path(FILE_NAME)
    try:
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"cannot write {path}: {error.strerror or error}") from error
    text = json.dumps({**_read(), key: pixels}, indent=2, sort_keys=True, ensure_ascii=False)
    write_atomically(path, (text + os.linesep).encode("utf-8"))
    return path


def _path() -> Path:
    return cache_folder("tuning") / FILE_NAME


def _read() -> Mapping[str, Any]:
    try:
        found = json.loads(_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
