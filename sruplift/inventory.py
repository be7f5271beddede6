"""Which released weights are on this machine, and whether they are what was released. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sruplift import hub
from sruplift.manifest import Manifest, WeightsEntry, sha256_of


@dataclass(frozen=True)
class LocalFile:
    """A file of released weights on this machine; ``source`` is ``bundled`` or ``cache``."""

    entry: WeightsEntry
    path: Path
    source: str

    def is_intact(self) -> bool:
        """Whether the file's sha256 is the one in the manifest."""
        return sha256_of(self.path) == self.entry.sha256


def local_files(manifest: Manifest, entry: WeightsEntry) -> list[LocalFile]:
    """The bundled and the cached copy of ``entry``, those that exist, in order of preference."""
    files = []
    if entry.bundled_path.is_file():
        files.append(LocalFile(entry, entry.bundled_path, "bundled"))
    remote = manifest.active_hub()
    if remote is not None:
        path = hub.cached(remote.repo, entry.file, revision=remote.revision)
        if path is not None:
            files.append(LocalFile(entry, path, "cache"))
    return files
