"""A small Hub on loopback that the real client uploads to, and downloads from again.

It speaks what ``HfApi.create_repo``, ``model_info`` and ``create_commit`` use without Xet: the
creation of a repository, its revisions, the check of a card's header, the choice between inline
and large files, Git LFS's batch, upload and verify, and the commit itself. ``inject`` takes the
names of ``STEPS`` for faults::

    with UploadServer({}) as hub:
        hub.use(monkeypatch, tmp_path / "hf")
        hub.inject("commit", status=500)
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from hub_server import Downloads, Files, HubServer, Request

TOKEN = "hf_writes"
READ_TOKEN = "hf_reads"
STEPS = ("create", "info", "header", "preupload", "batch", "upload", "verify", "commit")
Answer = tuple[int, dict[str, Any], str]


@dataclass
class UploadServer(HubServer):
    """``HubServer`` with the other direction. Two tokens are known: one may write, one may not.

    ``large`` are the contents by sha256 that arrived through Git LFS, ``private`` the repositories
    that are, ``messages`` the commits' messages, the newest last.
    """

    large: Files = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)
    history: dict[str, Files] = field(default_factory=dict)

    def use(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        """Also sets the token that may write, and turns Xet off: it is another protocol."""
        super().use(monkeypatch, home)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for name in ("HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)

    def find(self, repo: str, revision: str) -> tuple[Files | None, str]:
        """Older commits stay, as in a real repository."""
        if revision in self.history:
            return self.history[revision], revision
        return super().find(repo, revision)

    def made(self, step: str) -> int:
        """How many requests there were of a step."""
        return sum(request.file == step for request in self.requests)


class Uploads(Downloads):
    """Answers uploads; the rest goes to ``Downloads``."""

    def do_GET(self) -> None:  # noqa: N802
        if not self._route():
            super().do_GET()

    def do_POST(self) -> None:  # noqa: N802
        if not self._route():
            self._error(404, "")

    do_PUT = do_POST  # noqa: N815

    def _route(self) -> bool:
        """Answer if it is a step of an upload; False if not."""
        path = urlsplit(self.path).path
        for method, pattern, step, act in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match is None or method != self.command:
                continue
            body = self._body()
            hub = self._hub
            hub.requests.append(Request(method, "", step))
            fault = hub.take_fault(method, step)
            if fault.truncate is not None:
                self.close_connection = True
            elif fault.status is not None:
                self._answer_json(fault.status, {"error": "injected"}, "")
            else:
                allowed = step == "upload" or self._refusal(step)
                answer = allowed if isinstance(allowed, tuple) else act(self, match, body)
                self._answer_json(*answer)
            return True
        return False

    @property
    def _hub(self) -> UploadServer:
        assert isinstance(self.server.hub, UploadServer)
        return self.server.hub

    def _refusal(self, step: str) -> Answer | None:
        """Why the token is not good enough, if it is not."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in (TOKEN, READ_TOKEN):
            return 401, {"error": "Invalid credentials in Authorization header"}, ""
        if token == READ_TOKEN and step not in ("info", "header"):
            return 403, {"error": "Forbidden"}, ""
        return None

    def _body(self) -> bytes:
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer_json(self, status: int, data: dict[str, Any], code: str) -> None:
        content = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(content)

    def create(self, _match: re.Match[str], body: bytes) -> Answer:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self._hub.url}/{name}"}
        if f"model/{name}" in self._hub.repos:
            return 409, {"error": "You already created this model repo", **url}, ""
        self._hub.repos[f"model/{name}"] = {".gitattributes": b"*.safetensors filter=lfs\n"}
        if asked.get("visibility") == "private":
            self._hub.private.add(name)
        return 200, url, ""

    def info(self, match: re.Match[str], _body: bytes) -> Answer:
        name, revision = match.groups()
        found = self._find(name, revision or "main")
        if isinstance(found, tuple):
            return found
        commit = self._hub.find(f"model/{name}", unquote(revision or "main"))[1]
        files = [{"rfilename": file} for file in found]
        private = name in self._hub.private
        return 200, {"id": name, "sha": commit, "private": private, "siblings": files}, ""

    def header(self, _match: re.Match[str], body: bytes) -> Answer:
        """The Hub reads the YAML between two lines of dashes; here a licence must be in it."""
        content = json.loads(body)["content"]
        found = re.match(r"---\n(.*?)\n---\n", content, flags=re.DOTALL)
        data = yaml.safe_load(found[1]) if found else {}
        if isinstance(data.get("license"), str):
            return 200, {"errors": [], "warnings": []}, ""
        return 400, {"errors": [{"message": '"license" must be one of them'}], "warnings": []}, ""

    def preupload(self, match: re.Match[str], body: bytes) -> Answer:
        there = self._find(*match.groups())
        if isinstance(there, tuple):
            return there
        files = []
        for asked in json.loads(body)["files"]:
            path = asked["path"]
            mode = "lfs" if path.endswith(".safetensors") else "regular"
            known = {"oid": _oid(there[path], mode)} if path in there else {}
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
        return 200, {"files": files}, ""

    def batch(self, match: re.Match[str], body: bytes) -> Answer:
        asked = json.loads(body)
        assert "basic" in asked["transfers"]
        objects = []
        for each in asked["objects"]:
            upload = {"href": f"{self._hub.url}/lfs/{each['oid']}"}
            verify = {"href": f"{self._hub.url}/{match[1]}.git/info/lfs/objects/verify"}
            known = each["oid"] in self._hub.large
            actions = {} if known else {"actions": {"upload": upload, "verify": verify}}
            objects.append({"oid": each["oid"], "size": each["size"], **actions})
        return 200, {"transfer": "basic", "objects": objects}, ""

    def upload(self, match: re.Match[str], body: bytes) -> Answer:
        if hashlib.sha256(body).hexdigest() != match[1]:
            return 400, {"error": "the content is another"}, ""
        self._hub.large[match[1]] = body
        return 200, {}, ""

    def verify(self, _match: re.Match[str], body: bytes) -> Answer:
        asked = json.loads(body)
        whole = len(self._hub.large.get(asked["oid"], b"")) == asked["size"]
        return (200 if whole else 404), {}, ""

    def commit(self, match: re.Match[str], body: bytes) -> Answer:
        """Everything is looked at before anything is changed."""
        name, revision = match.groups()
        there = self._find(name, revision)
        if isinstance(there, tuple):
            return there
        lines = [json.loads(line) for line in body.splitlines()]
        head = lines[0]["value"]
        _, before = self._hub.find(f"model/{name}", unquote(revision))
        if head.get("parentCommit", before) != before:
            return 412, {"error": "A commit has happened since"}, ""
        added: Files = {}
        for value in (line["value"] for line in lines[1:]):
            if "content" in value:
                added[value["path"]] = base64.b64decode(value["content"])
            elif value["oid"] in self._hub.large:
                added[value["path"]] = self._hub.large[value["oid"]]
            else:
                return 400, {"error": f"{value['path']} was not uploaded"}, ""
        self._hub.history[before] = dict(there)
        there.update(added)
        self._hub.messages.append(head["summary"])
        _, made = self._hub.find(f"model/{name}", unquote(revision))
        return 200, {"commitUrl": f"{self._hub.url}/{name}/commit/{made}", "commitOid": made}, ""

    def _find(self, name: str, revision: str) -> Files | Answer:
        files, _ = self._hub.find(f"model/{name}", unquote(revision))
        if files is not None:
            return files
        known = f"model/{name}" in self._hub.repos
        return 404, {"error": "none"}, "RevisionNotFound" if known else "RepoNotFound"


UploadServer.handler = Uploads
_MODEL = r"/api/models/([^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, str, Callable[[Uploads, re.Match[str], bytes], Answer]]] = [
    ("POST", r"/api/repos/create", "create", Uploads.create),
    ("GET", _MODEL + r"(?:/revision/([^/]+))?", "info", Uploads.info),
    ("POST", r"/api/validate-yaml", "header", Uploads.header),
    ("POST", _MODEL + r"/preupload/([^/]+)", "preupload", Uploads.preupload),
    ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch", Uploads.batch),
    ("PUT", r"/lfs/([0-9a-f]{64})", "upload", Uploads.upload),
    ("POST", r"/[^/]+/[^/]+\.git/info/lfs/objects/verify", "verify", Uploads.verify),
    ("POST", _MODEL + r"/commit/([^/]+)", "commit", Uploads.commit),
]
# A step has exactly one route.
assert tuple(route[2] for route in _ROUTES) == STEPS


def _oid(content: bytes, mode: str) -> str:
    if mode == "lfs":
        return hashlib.sha256(content).hexdigest()
    named = b"blob %d\0" % len(content) + content
    return hashlib.sha1(named, usedforsecurity=False).hexdigest()
