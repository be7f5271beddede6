"""Publishing the weights: the files, the manifest and the card in one commit on the Hub.

What is sent is what was checked: each file is read once, compared with the manifest's sha256, and
uploaded from memory. Nobody sees a part of it, for a commit is made whole or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sruplift import __version__, hub
from sruplift.cards import CARD_NAME, render_card
from sruplift.errors import WeightsError
from sruplift.inventory import local_files
from sruplift.manifest import (
    MANIFEST_NAME,
    Manifest,
    WeightsEntry,
    manifest_path,
    read_manifest,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo


@dataclass(frozen=True)
class Upload:
    """A file as it is to be in the repository."""

    name: str
    content: bytes

    @property
    def sha256(self) -> str:
        """Of the content, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Pushed:
    """The commit that has the files, 40 hexadecimal digits; not ``new`` if it had them before."""

    commit: str
    new: bool


def collect(repo: str) -> tuple[Upload, ...]:
    """What a repository ``owner/name`` of the weights holds: every file of them, manifest, card.

    Raises:
        UsageError: ``repo`` is not ``owner/name``.
        WeightsError: there are no weights, or a file is missing or not what was released.
    """
    hub.check_repo(repo)
    manifest = read_manifest()
    card = render_card(manifest, repo=repo)
    weights = [Upload(entry.file, _released_bytes(manifest, entry)) for entry in manifest.weights]
    described = Upload(MANIFEST_NAME, _read(manifest_path()))
    return (*weights, described, Upload(CARD_NAME, card.encode("utf-8")))


def push(
    repo: str, uploads: Sequence[Upload], *, private: bool = False, revision: str = "main"
) -> Pushed:
    """Commit ``uploads`` to the branch ``revision`` of ``repo`` on the Hub, made if it is missing.

    The token is the one of ``HF_TOKEN`` or ``hf auth login``. Other files of the repository stay.
    ``private`` is for a new repository; one that is there and public is refused.

    Raises:
        UsageError: ``repo`` is not ``owner/name``.
        WeightsError: one sentence on why nothing was committed.
    """
    from huggingface_hub import HfApi, get_token

    hub.check_repo(repo)
    if hub.offline():
        raise WeightsError(f"cannot push to {repo}: HF_HUB_OFFLINE is set")
    try:
        token = get_token()
        if token is None:
            raise WeightsError(
                f"cannot push to {repo}: there is no token; set HF_TOKEN or run `hf auth login`"
            )
        api = HfApi(hub.endpoint(), token, "sruplift", __version__)
        with hub.quiet_retries():
            return _commit(api, repo, uploads, private, revision)
    except WeightsError:
        raise
    # As in `hub.download`: no narrower list of what the client lets through would be complete.
    except Exception as cause:
        raise WeightsError(f"cannot push to {repo}@{revision}: {_reason(cause)}") from cause


def _commit(
    api: HfApi, repo: str, uploads: Sequence[Upload], private: bool, revision: str
) -> Pushed:
    from huggingface_hub import CommitOperationAdd

    head = _head(api, repo, private, revision)
    if private and not head.private:
        raise WeightsError(f"{repo} is public already: nothing was pushed; leave out --private")
    made = api.create_commit(
        repo,
        [CommitOperationAdd(upload.name, upload.content) for upload in uploads],
        commit_message=f"Weights of sruplift {__version__}",
        revision=revision,
        # Refused when somebody else commits in between.
        parent_commit=head.sha,
    )
    # The client makes no commit when every file is there already.
    return Pushed(made.oid, new=made.oid != head.sha)


def _head(api: HfApi, repo: str, private: bool, revision: str) -> ModelInfo:
    """What the repository is at ``revision``; it is made if it is missing.

    It is asked for first, for a token may be good for this repository and not for making others.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.model_info(repo, revision=revision)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=private or None, exist_ok=True)
    return api.model_info(repo, revision=revision)


def _released_bytes(manifest: Manifest, entry: WeightsEntry) -> bytes:
    """The bundled file's content, else the cached one's, with the manifest's sha256."""
    files = local_files(manifest, entry)
    for file in files:
        upload = Upload(entry.file, _read(file.path))
        if upload.sha256 == entry.sha256:
            return upload.content
    if files:
        raise WeightsError(f"{files[0].path} is not what was released: nothing was pushed")
    raise WeightsError(f"{entry.file} is not on this machine: nothing was pushed")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error


def _reason(cause: BaseException) -> str:
    """Why a push failed, in one clause."""
    from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

    # What went wrong with a single file's upload is underneath.
    if isinstance(cause, RuntimeError) and cause.__cause__ is not None:
        return _reason(cause.__cause__)
    if isinstance(cause, HfHubHTTPError):
        status = cause.response.status_code
        # Before the classes: to the client a 401 is a missing repository.
        if status == 401:
            return "the Hub does not accept the token (see `hf auth login`)"
        if status == 403:
            return "the token may not write there"
        if status in (409, 412):
            return "somebody else is changing the repository; push again"
        if isinstance(cause, RevisionNotFoundError):
            return "the repository has no such branch"
        if status == 400 and cause.server_message:
            return f"the Hub refused: {' '.join(cause.server_message.split())}"
    if isinstance(cause, ValueError):
        return _line(cause)
    return hub.reason(cause)


def _line(error: BaseException) -> str:
    """The error's whole text on one line: of several lines the first alone says little."""
    return " ".join(str(error).split()).rstrip(".")
