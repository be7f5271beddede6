"""A small Hub on loopback, for the real client to download from.

It speaks the part of the Hub's protocol that ``huggingface_hub.hf_hub_download`` uses: HEAD and
GET of ``/[datasets/]owner/name/resolve/revision/file``, with ETag, X-Repo-Commit, X-Error-Code and
byte ranges. Faults are injected by file name::

    with HubServer({"model/owner/name": {"a.bin": b"..."}}) as hub:
        hub.use(monkeypatch, tmp_path / "hf")
        hub.inject("a.bin", status=500, times=1)
        hf_hub_download("owner/name", "a.bin")
        assert hub.count("GET", "a.bin") == 1
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from types import SimpleNamespace, TracebackType
from typing import ClassVar, Self
from urllib.parse import unquote, urlsplit

import pytest

Files = dict[str, bytes]
_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_PREFIXES = {"datasets/": "dataset", None: "model"}


@dataclass
class Fault:
    """What goes wrong with a file: an error ``status`` (HEAD and GET), or in the body of a GET.

    ``truncate`` hangs up once that many bytes of a response are sent; ``corrupt`` inverts the
    first byte; ``times`` is how many requests (GETs, for a body) it lasts, None is for good.
    """

    status: int | None = None
    truncate: int | None = None
    corrupt: bool = False
    times: int | None = None


@dataclass(frozen=True)
class Request:
    """A request that arrived; ``range`` is the Range header's value or None."""

    method: str
    revision: str
    file: str
    range: str | None = None


@dataclass
class HubServer:
    """Serves ``repos``: {"model/owner/name" or "dataset/owner/name": {file name: content}}.

    What is given is the revision ``main``; ``add_revision`` adds others. ``requests`` records what
    was asked for.
    """

    repos: dict[str, Files]
    requests: list[Request] = field(default_factory=list)
    # What answers; a subclass has more of the protocol.
    handler: ClassVar[type[BaseHTTPRequestHandler]]

    def __post_init__(self) -> None:
        self._others: dict[str, dict[str, Files]] = {}
        self._faults: dict[str, Fault] = {}
        self._lock = Lock()
        self._server = _Server(self, self.handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._open = False

    def __enter__(self) -> Self:
        self._thread.start()
        self._open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.refuse()

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is to be."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def add_revision(self, repo: str, revision: str, files: Files) -> None:
        """Serve ``files`` as another revision (a branch or a tag) of ``repo``."""
        self._others.setdefault(repo, {})[revision] = files

    def commit(self, repo: str, revision: str = "main") -> str:
        """The 40-digit commit that a revision stands for; it can be asked for by that name too."""
        digest = hashlib.sha1(f"{repo}@{revision}".encode(), usedforsecurity=False)
        for name, content in sorted(self._revisions(repo)[revision].items()):
            digest.update(name.encode() + b"\0" + content)
        return digest.hexdigest()

    def inject(
        self,
        file: str,
        *,
        status: int | None = None,
        truncate: int | None = None,
        corrupt: bool = False,
        times: int | None = None,
    ) -> None:
        """Make requests for ``file`` fail; replaces what was injected for it before."""
        self._faults[file] = Fault(status, truncate, corrupt, times)

    def heal(self, file: str) -> None:
        """Serve ``file`` as it is again."""
        self._faults.pop(file, None)

    def refuse(self) -> None:
        """Stop listening: connections are refused from now on."""
        if self._open:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._open = False

    def count(self, method: str, file: str) -> int:
        """How many requests for ``file`` arrived."""
        return sum((request.method, request.file) == (method, file) for request in self.requests)

    def environment(self, home: Path) -> dict[str, str]:
        """The variables that point a subprocess's client here, with its caches under ``home``."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def use(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        """Point this process's client here, with its caches under ``home`` and quick retries."""
        for name, value in self.environment(home).items():
            monkeypatch.setenv(name, value)
        for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        no_sleep(monkeypatch)

    def _revisions(self, repo: str) -> dict[str, Files]:
        main = {"main": self.repos[repo]} if repo in self.repos else {}
        return {**main, **self._others.get(repo, {})}

    def find(self, repo: str, revision: str) -> tuple[Files | None, str]:
        """The files of a revision (None when there is none) and its commit."""
        for name, files in self._revisions(repo).items():
            commit = self.commit(repo, name)
            if revision in (name, commit):
                return files, commit
        return None, ""

    def take_fault(self, method: str, file: str) -> Fault:
        """The fault to apply to a request, counted down."""
        with self._lock:
            fault = self._faults.get(file, Fault())
            if fault.status is None and method == "HEAD":
                return Fault()
            if fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self.heal(file)
            return fault


def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client retry as often as it wants to, without the seconds that it waits between."""
    quick = SimpleNamespace(**{**vars(time), "sleep": lambda _seconds: None})
    monkeypatch.setattr("huggingface_hub.utils._http.time", quick)
    monkeypatch.setattr("huggingface_hub.file_download.time", quick)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: HubServer, handler: type[BaseHTTPRequestHandler]) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), handler)


class Downloads(BaseHTTPRequestHandler):
    """Answers downloads."""

    server: _Server

    # One request a connection: nothing is kept alive that would outlive `refuse`.
    protocol_version = "HTTP/1.0"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: the requests are recorded."""

    def _answer(self) -> None:
        hub = self.server.hub
        match = _RESOLVE.fullmatch(unquote(urlsplit(self.path).path))
        if match is None:
            return self._error(404, "")
        prefix, name, revision, file = match.groups()
        wanted = self.headers.get("Range")
        hub.requests.append(Request(self.command, revision, file, wanted))
        repo = f"{_PREFIXES[prefix]}/{name}"
        files, commit = hub.find(repo, revision)
        fault = hub.take_fault(self.command, file)
        if fault.status is not None:
            return self._error(fault.status, "EntryNotFound" if fault.status == 404 else "")
        if files is None:
            known = repo in hub.repos
            return self._error(404, "RevisionNotFound" if known else "RepoNotFound")
        if file not in files:
            return self._error(404, "EntryNotFound", commit)
        return self._send(files[file], commit, fault, wanted)

    def _send(self, content: bytes, commit: str, fault: Fault, wanted: str | None) -> None:
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        body = content[start:]
        self.send_response(206 if wanted else 200)
        if wanted:
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", span)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault.corrupt and start == 0:
            body = bytes([body[0] ^ 0xFF]) + body[1:]
        if fault.truncate is not None and fault.truncate < len(body):
            body = body[: fault.truncate]
        self.wfile.write(body)

    def _error(self, status: int, code: str, commit: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if code:
            self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()


HubServer.handler = Downloads
