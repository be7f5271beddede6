"""A trained network as the teacher of another: its results as targets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from sruplift.config import TrainConfig
from sruplift.engine import Engine
from sruplift.errors import ConfigError
from sruplift.manifest import sha256_of
from sruplift.tiling import assemble
from sruplift.weights import identify, load_model, locate


class Teacher:
    """A trained network, or one for each scale, whose results become part of the targets.

    A small network learns more from what a larger one makes of the same pixels than from the image,
    which also has what no network can know (Hinton et al., 2015, arXiv:1503.02531).
    """

    def __init__(self, config: TrainConfig, device: torch.device, precision: str) -> None:
        """``config.teacher`` is there. The teacher computes on ``device`` in ``precision``.

        Raises:
            UsageError: released weights, or an address, that there cannot be.
            WeightsError: its weights cannot be read, or are of another scale.
        """
        assert config.teacher is not None
        self._share = config.teacher.share
        self._engines: dict[int, Engine] = {}
        digests = []
        for scale in config.every_scale:
            path = locate(config.teacher.weights.replace("{scale}", str(scale)))
            found = identify(path, scale=scale)
            network = load_model(found.model, scale, path)
            self._engines[scale] = Engine(
                network,
                scale,
                str(device),
                precision,
                self_ensemble=config.teacher.self_ensemble,
                # On patches as the network that it teaches, on whole images as anywhere.
                local=config.teacher.precompute,
                compile_mode="off" if config.kernels == "off" else "auto",
            )
            digests.append(sha256_of(path))
        self.fingerprint = " ".join(digests)
        """The sha256 of its weights, one for each scale."""

    def targets(self, lr: Tensor, hr: Tensor) -> Tensor:
        """What a network's result for ``lr`` is compared with, in place of ``hr``.

        Args:
            lr: (B, 3, h, w), float in [0, 1], on the device.
            hr: (B, 3, h * scale, w * scale), likewise.

        Returns:
            What ``hr`` is.
        """
        engine = self._engines[hr.shape[-1] // lr.shape[-1]]
        sr = engine.compute(lr.contiguous(memory_format=torch.channels_last))
        return hr.lerp(sr.clamp(0, 1), self._share)

    def answer(self, lr: Tensor, scale: int) -> Tensor:
        """What it makes of a whole image, ``uint8`` (3, h, w), in tiles where it is large.

        Returns:
            ``uint8`` (3, h * scale, w * scale), in main memory.
        """
        bands = self._engines[scale].bands(lr.cpu()[None].float() / 255)
        sr = assemble(bands, lr.shape[1] * scale)[0]
        return sr.clamp(0, 1).mul(255).round().byte()


class Answers:
    """What a teacher makes of the training images, in a file: one image after another.

    The file begins with a digest of what the answers depend on; with another one it is begun
    afresh. An interrupted one ends with the last image that is whole. Close it, or use ``with``.
    """

    def __init__(self, path: Path, question: object, sizes: Sequence[tuple[int, int]]) -> None:
        """``question`` is all that the answers depend on; ``sizes`` theirs, (height, width).

        Raises:
            ConfigError: the file cannot be read or written.
        """
        self._path = path
        self._sizes = sizes
        digest = hashlib.sha256(repr((question, list(sizes))).encode()).digest()
        try:
            self._file = path.open("r+b" if path.exists() else "w+b")
            known = self._file.read(len(digest)) == digest
            left = path.stat().st_size - len(digest)
            self.count = 0
            """How many images are in the file."""
            if not known:
                self._file.seek(0)
                self._file.truncate()
                self._file.write(digest)
            while known and self.count < len(sizes) and left >= self._length(self.count):
                left -= self._length(self.count)
                self.count += 1
        except OSError as error:
            raise self._failure(error) from error
        self._next = 0

    def read(self) -> Tensor:
        """The next image that is in the file, ``uint8`` (3, H, W)."""
        height, width = self._sizes[self._next]
        try:
            pixels = np.frombuffer(self._file.read(self._length(self._next)), np.uint8)
        except OSError as error:
            raise self._failure(error) from error
        self._next += 1
        return torch.tensor(pixels).view(height, width, 3).permute(2, 0, 1)

    def write(self, image: Tensor) -> None:
        """Add an image, ``uint8`` (3, H, W), when all others have been read."""
        try:
            if self._next == self.count:  # What follows is a part of an image at most.
                self._file.truncate(self._file.tell())
            self._file.write(image.permute(1, 2, 0).contiguous().numpy().tobytes())
        except OSError as error:
            raise self._failure(error) from error
        self._next += 1
        self.count = self._next

    def _length(self, number: int) -> int:
        height, width = self._sizes[number]
        return 3 * height * width

    def _failure(self, error: OSError) -> ConfigError:
        return ConfigError(f"cannot keep the teacher's answers in {self._path}: {error.strerror}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
