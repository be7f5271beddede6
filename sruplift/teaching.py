"""A trained network as the teacher of another: its results as targets."""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sruplift.config import TrainConfig
from sruplift.engine import Engine
from sruplift.errors import ConfigError
from sruplift.manifest import sha256_of
from sruplift.tiling import assemble
from sruplift.weights import identify, load_model, locate

SUM_LENGTH = 4


class Teacher:
    """A trained network, or one for each scale, whose results become part of the targets.

    A small network learns more from what a larger one makes of the same pixels than from the image,
    which also has what no network can know (Hinton et al., 2015, arXiv:1503.02531). Of several
    networks it is the mean of what they make, which is better than what each of them does.
    """

    def __init__(self, config: TrainConfig, device: torch.device, precision: str) -> None:
        """``config.teacher`` is there. The teacher computes on ``device`` in ``precision``.

        Raises:
            UsageError: released weights, or an address, that there cannot be.
            WeightsError: its weights cannot be read, or are of another scale.
        """
        assert config.teacher is not None
        self._share = config.teacher.share
        self._engines: dict[int, list[Engine]] = {}
        self.sha256: dict[int, str] = {}
        """Of its weights, by scale."""
        for scale in config.every_scale:
            names = (name.replace("{scale}", str(scale)) for name in config.teacher.weights)
            paths = [locate(name) for name in names]
            self._engines[scale] = [
                Engine(
                    load_model(identify(path, scale=scale).model, scale, path),
                    scale,
                    str(device),
                    precision,
                    self_ensemble=config.teacher.self_ensemble,
                    # On patches as the network that it teaches, on whole images as anywhere.
                    local=config.teacher.precompute,
                    compile_mode="off" if config.kernels == "off" else "auto",
                )
                for path in paths
            ]
            self.sha256[scale] = " ".join(sha256_of(path) for path in paths)
        self.fingerprint = " ".join(self.sha256.values())
        """All of them."""

    def targets(self, lr: Tensor, hr: Tensor) -> Tensor:
        """What a network's result for ``lr`` is compared with, in place of ``hr``.

        Args:
            lr: (B, 3, h, w), float in [0, 1], on the device.
            hr: (B, 3, h * scale, w * scale), likewise.

        Returns:
            What ``hr`` is.
        """
        lr = lr.contiguous(memory_format=torch.channels_last)
        engines = self._engines[hr.shape[-1] // lr.shape[-1]]
        return hr.lerp(_mean(engine.compute(lr) for engine in engines), self._share)

    def answer(
        self, lr: Tensor, scale: int, after_tile: Callable[[], None] = lambda: None
    ) -> Tensor:
        """What it makes of a whole image, ``uint8`` (3, h, w), in tiles where it is large.

        ``after_tile`` is called after each of them.

        Returns:
            ``uint8`` (3, h * scale, w * scale), in main memory.

        Raises:
            NumericalError: that is no picture.
        """
        image, height = lr.cpu()[None].float() / 255, lr.shape[1] * scale
        bands = (e.bands(image, progress=lambda _: after_tile()) for e in self._engines[scale])
        return _mean(assemble(of_one, height)[0] for of_one in bands).mul(255).round().byte()


class Answers:
    """What a teacher makes of the training images, in a file: one image after another.

    The file begins with a digest of what the answers depend on, and each image ends with a sum of
    its pixels: what is damaged, or was being written, is not there. Close it.
    """

    def __init__(self, path: Path, question: object, sizes: Sequence[tuple[int, int]]) -> None:
        """``question`` is all that the answers depend on; ``sizes`` theirs, (height, width).

        Raises:
            ConfigError: the file cannot be read or written, or has other answers.
        """
        self._path = path
        self._sizes = sizes
        self._next = 0
        digest = hashlib.sha256(repr((question, list(sizes))).encode()).digest()
        with self._told():
            # Without a buffer: what cannot be written is told now, not when it is closed.
            self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        try:
            with self._told():
                begins = self._file.read(len(digest))
                if begins != digest and len(begins) == len(digest):
                    raise ConfigError(
                        f"{path} has answers of another teacher, or for other images: move it away"
                    )
                if begins != digest:
                    self._file.seek(0)
                    self._write(digest)
        except BaseException:
            self.close()
            raise

    def read(self) -> Tensor | None:
        """The next image, ``uint8`` (3, H, W), if it is there; then no other one is.

        Raises:
            ConfigError: the file cannot be read.
        """
        height, width = self._sizes[self._next]
        length = 3 * height * width
        with self._told():
            begin = self._file.tell()
            content = self._file.read(length + SUM_LENGTH)
            pixels = content[:length]
            if len(content) < length + SUM_LENGTH or content[length:] != _sum_of(pixels):
                self._file.seek(begin)
                self._file.truncate()
                return None
        self._next += 1
        whole = torch.frombuffer(bytearray(pixels), dtype=torch.uint8)
        return whole.view(height, width, 3).permute(2, 0, 1)

    def write(self, image: Tensor) -> None:
        """Add the image, ``uint8`` (3, H, W), that was not there to read.

        Raises:
            ConfigError: the file cannot be written.
        """
        pixels = image.permute(1, 2, 0).contiguous().numpy().tobytes()
        with self._told():
            self._write(pixels + _sum_of(pixels))
        self._next += 1

    def _write(self, content: bytes) -> None:
        left = memoryview(content)
        while left:
            left = left[self._file.write(left) :]

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(
                f"cannot keep the teacher's answers in {self._path}: {error.strerror or error}"
            ) from error

    def close(self) -> None:
        """What has been written is there already."""
        self._file.close()


def _mean(results: Iterable[Tensor]) -> Tensor:
    """Of what networks make of the same pixels, each in [0, 1]."""
    return torch.stack([sr.clamp(0, 1) for sr in results]).mean(0)


def _sum_of(pixels: bytes) -> bytes:
    return zlib.crc32(pixels).to_bytes(SUM_LENGTH, "little")
