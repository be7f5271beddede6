"""The Hugging Face Hub, through its own client; what goes wrong becomes one sentence.

``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, ``HF_HOME`` and ``HF_HUB_CACHE`` are honoured at the time of
the call: the client alone reads them once, when it is first imported.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sruplift.errors import SrupliftError, UsageError, WeightsError

# The Hub forbids -- and .. in names.
_REPO = re.compile(r"(?!.*(--|\.\.))[\w.-]+/[\w.-]+", re.ASCII)
_TRUE = {"1", "ON", "YES", "TRUE"}


def check_repo(repo: str) -> None:
    """Refuse what is not ``owner/name``.

    Raises:
        UsageError: it is not.
    """
    if not _REPO.fullmatch(repo):
        raise UsageError(f"{repo!r} is not owner/name of a repository")


def download(
    repo: str,
    filename: str,
    *,
    repo_type: str = "model",
    revision: str | None = None,
    error: Callable[[str], SrupliftError] = WeightsError,
) -> Path:
    """The path in the Hub's cache of a file of ``owner/name``, downloaded when it is not there.

    Raises:
        SrupliftError: made by ``error`` from one sentence that names the file, the repository and
            the reason.
    """
    from huggingface_hub import hf_hub_download

    if offline():
        path = cached(repo, filename, repo_type=repo_type, revision=revision)
        if path is None:
            raise error(f"{filename} of {repo} is not in the cache, and HF_HUB_OFFLINE is set")
        return path
    try:
        with quiet_retries():
            return Path(
                hf_hub_download(
                    repo,
                    filename,
                    repo_type=repo_type,
                    revision=revision,
                    cache_dir=_cache_folder(),
                    endpoint=endpoint(),
                    library_name="sruplift",
                )
            )
    # The client lets its HTTP library's errors through, and which library that is has changed
    # between its versions: no narrower list would be complete.
    except Exception as cause:
        where = f"{repo}@{revision}" if revision else repo
        raise error(f"cannot download {filename} from {where}: {reason(cause)}") from cause


def cached(
    repo: str, filename: str, *, repo_type: str = "model", revision: str | None = None
) -> Path | None:
    """The path of a file that is in the Hub's cache already, else None. Needs no network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(
            repo, filename, cache_dir=_cache_folder(), revision=revision, repo_type=repo_type
        )
    except HFValidationError:  # not a repository's name: `download` says so
        return None
    return Path(found) if isinstance(found, str) else None


def forget(path: Path) -> None:
    """Delete a cached file: the snapshot's link and the blob that it leads to.

    Raises:
        WeightsError: it cannot be deleted.
    """
    try:
        while path.is_symlink():
            target = path.parent / path.readlink()
            path.unlink()
            path = target
        path.unlink(missing_ok=True)
    except OSError as cause:
        raise WeightsError(f"cannot delete the damaged {path}: {cause.strerror}") from cause


def offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE


@contextmanager
def quiet_retries() -> Iterator[None]:
    """Keep the client from logging two lines for every attempt: the last failure is told once.

    ``HF_HUB_VERBOSITY`` or ``HF_DEBUG`` bring the lines back.
    """
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    if not (os.environ.get("HF_HUB_VERBOSITY") or os.environ.get("HF_DEBUG")):
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def endpoint() -> str | None:
    """The Hub's address by ``HF_ENDPOINT`` as it is now; None leaves it to the client."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _cache_folder() -> Path | None:
    """The cache by the variables as they are now; None leaves it to the client."""
    if folder := os.environ.get("HF_HUB_CACHE"):
        return Path(os.path.expandvars(folder)).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(os.path.expandvars(home)).expanduser() / "hub"
    return None


def reason(cause: BaseException) -> str:
    """Why a request failed, in one clause. The client often wraps the real reason."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(cause, LocalEntryNotFoundError) and cause.__cause__ is not None:
        return reason(cause.__cause__)
    if isinstance(cause, GatedRepoError):
        return "the repository asks for permission (see `hf auth login`)"
    if isinstance(cause, RepositoryNotFoundError):
        return "there is no such repository, or it is private"
    if isinstance(cause, RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(cause, EntryNotFoundError):
        return "the repository has no such file"
    if isinstance(cause, HfHubHTTPError):
        return f"the Hub answered {cause.response.status_code}"
    if type(cause).__name__ in {"ConnectError", "ConnectTimeout", "ReadTimeout", "WriteTimeout"}:
        return f"the Hub cannot be reached ({_first_line(cause)})"
    if type(cause).__name__ in {"RemoteProtocolError", "ReadError", "WriteError"}:
        return f"the Hub broke off ({_first_line(cause)})"
    return _first_line(cause)


def _first_line(cause: BaseException) -> str:
    lines = str(cause).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(cause).__name__
