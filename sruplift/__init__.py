"""sruplift: single-image super-resolution with pretrained lightweight networks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sruplift.models import create_model as create_model
    from sruplift.upscaler import Upscaler as Upscaler
    from sruplift.weights import load_model as load_model

__version__ = "0.1.0"

# Loaded on first use, so that `import sruplift` and `sruplift --help` do not import torch.
# The function `upscale` stays in its module: the module `upscale` would hide it here once loaded.
_LAZY = {
    "Upscaler": "sruplift.upscaler",
    "create_model": "sruplift.models",
    "load_model": "sruplift.weights",
}
__all__ = ["Upscaler", "__version__", "create_model", "load_model"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'sruplift' has no attribute {name!r}")
