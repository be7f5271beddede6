"""The real client against a Hub on loopback: downloads, damage, and every way to fail."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from released import HUB_REPO, Release, make_release

from sruplift import hub
from sruplift.errors import DatasetError, WeightsError
from sruplift.weights import find_weights, load_model

REPO = f"model/{HUB_REPO}"


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    """PAN x2, released but not bundled; SRUPLIFT_HUB_REPO says where to get it."""
    monkeypatch.setenv("SRUPLIFT_HUB_REPO", HUB_REPO)
    return make_release(tmp_path, monkeypatch, bundled=False)


@pytest.fixture
def server(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    with HubServer({REPO: {release.entry.file: release.content}}) as running:
        running.use(monkeypatch, tmp_path / "hf")
        yield running


def cached_blobs(home: Path) -> list[bytes]:
    return [path.read_bytes() for path in home.glob("hub/*/blobs/*")]


def test_weights_are_downloaded_once_and_loaded(server: HubServer, release: Release) -> None:
    first = find_weights("pan", 2)
    assert (first.source, first.sha256) == ("hub", release.entry.sha256)
    assert first.path.read_bytes() == release.content
    second = find_weights("pan", 2)
    assert (second.source, second.path) == ("cache", first.path)
    assert len(server.requests) == 2  # one HEAD and one GET; the second time none
    output = load_model("pan", 2)(torch.rand(1, 3, 4, 5))
    assert output.shape == (1, 3, 8, 10)


def test_the_package_is_looked_in_before_the_hub(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_release(tmp_path / "other", monkeypatch, bundled=True)
    assert find_weights("pan", 2).source == "bundled"
    assert server.requests == []


def test_a_damaged_bundled_file_gives_way_to_the_hub(server: HubServer, release: Release) -> None:
    release.entry.bundled_path.write_bytes(b"damaged")
    file = find_weights("pan", 2)
    assert (file.source, file.sha256) == ("hub", release.entry.sha256)
    assert server.count("GET", release.entry.file) == 1


def test_the_wrong_bytes_are_deleted_and_got_once_more(
    server: HubServer, release: Release, tmp_path: Path
) -> None:
    server.inject(release.entry.file, corrupt=True, times=1)
    file = find_weights("pan", 2)
    assert file.path.read_bytes() == release.content
    assert cached_blobs(tmp_path / "hf") == [release.content]
    assert server.count("GET", release.entry.file) == 2


def test_the_wrong_bytes_twice_are_an_error_and_leave_nothing(
    server: HubServer, release: Release, tmp_path: Path
) -> None:
    server.inject(release.entry.file, corrupt=True)
    with pytest.raises(WeightsError, match=r"pan_x2\.safetensors .* is not the released file"):
        find_weights("pan", 2)
    assert server.count("GET", release.entry.file) == 2
    assert cached_blobs(tmp_path / "hf") == []
    assert not [p for p in (tmp_path / "hf").rglob(release.entry.file) if p.exists()]


def test_a_cached_file_that_was_damaged_is_got_again(server: HubServer, release: Release) -> None:
    path = find_weights("pan", 2).path
    path.resolve().write_bytes(b"damaged")
    again = find_weights("pan", 2)
    assert (again.source, again.path.read_bytes()) == ("hub", release.content)
    assert server.count("GET", release.entry.file) == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 404}, "has no such file"),
        ({"status": 500}, "the Hub answered 500"),
        ({"status": 503}, "the Hub answered 503"),
        ({"truncate": 1000}, "the Hub broke off"),
        ({"truncate": 0}, "the Hub broke off"),
    ],
)
def test_a_hub_that_fails_is_one_sentence(
    server: HubServer,
    release: Release,
    tmp_path: Path,
    fault: dict[str, int],
    words: str,
) -> None:
    server.inject(release.entry.file, **fault)  # type: ignore[arg-type]
    with pytest.raises(WeightsError) as caught:
        find_weights("pan", 2)
    message = str(caught.value)
    assert f"cannot download {release.entry.file} from {HUB_REPO}" in message
    assert words in message
    assert "\n" not in message
    assert cached_blobs(tmp_path / "hf") == []


@pytest.mark.parametrize("verbosity", ["", "warning"])
def test_retries_are_logged_only_on_request(
    server: HubServer, release: Release, monkeypatch: pytest.MonkeyPatch, verbosity: str
) -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", records.append)
    monkeypatch.setenv("HF_HUB_VERBOSITY", verbosity)
    server.inject(release.entry.file, status=500)
    logger = logging.getLogger("huggingface_hub")
    logger.addHandler(handler)
    try:
        with pytest.raises(WeightsError):
            find_weights("pan", 2)
    finally:
        logger.removeHandler(handler)
    assert bool(records) == bool(verbosity)


def test_a_hub_that_recovers_is_not_an_error(server: HubServer, release: Release) -> None:
    server.inject(release.entry.file, status=500, times=2)
    assert find_weights("pan", 2).sha256 == release.entry.sha256


def test_half_a_file_is_got_again(server: HubServer, release: Release) -> None:
    server.inject(release.entry.file, truncate=len(release.content) // 2, times=1)
    assert find_weights("pan", 2).path.read_bytes() == release.content
    assert server.count("GET", release.entry.file) == 2


def test_half_of_a_large_file_is_resumed_where_it_broke_off(server: HubServer) -> None:
    """The client writes in chunks of 10 MiB: only whole ones survive a connection that breaks."""
    chunk = 10 * 1024 * 1024
    content = bytes(range(256)) * (12 * 4096)
    server.repos[REPO]["large.bin"] = content
    server.inject("large.bin", truncate=chunk + 1000, times=1)
    assert hub.download(HUB_REPO, "large.bin").read_bytes() == content
    ranges = [request.range for request in server.requests if request.method == "GET"]
    assert ranges == [None, f"bytes={chunk}-"]


def test_nobody_listening_is_one_sentence(server: HubServer) -> None:
    server.refuse()
    with pytest.raises(WeightsError, match=r"pan_x2\.safetensors .*cannot be reached"):
        find_weights("pan", 2)


def test_a_cached_file_needs_no_hub(server: HubServer) -> None:
    find_weights("pan", 2)
    server.refuse()
    assert find_weights("pan", 2).source == "cache"


def test_offline_uses_the_cache_and_never_asks(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_weights("pan", 2)
    asked = len(server.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert find_weights("pan", 2).source == "cache"
    assert len(server.requests) == asked


def test_offline_without_the_file_says_so(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"pan_x2\.safetensors .*HF_HUB_OFFLINE is set"):
        find_weights("pan", 2)
    assert server.requests == []


@pytest.mark.parametrize("revision", ["v1", "commit", "default"])
def test_an_address_names_a_file_and_a_revision(
    server: HubServer, release: Release, revision: str
) -> None:
    """The same name holds other weights in ``v1``: those are what must arrive."""
    server.repos[REPO]["sub/w.safetensors"] = b"other bytes"
    server.add_revision(REPO, "v1", {"sub/w.safetensors": release.content})
    ends = {"v1": "@v1", "commit": f"@{server.commit(REPO, 'v1')}", "default": ""}
    file = find_weights("pan", 2, f"hf://{HUB_REPO}/sub/w.safetensors{ends[revision]}")
    expected = b"other bytes" if revision == "default" else release.content
    assert file.path.read_bytes() == expected
    assert file.source.startswith("hf://")


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("address", "words"),
    [
        (f"hf://{HUB_REPO}/none.bin", "no such file"),
        (f"hf://{HUB_REPO}/pan_x2.safetensors@v9", "no such revision"),
        ("hf://no/body/w.bin", "no such repository"),
        ("hf://a--b/c/w.bin", "Cannot have -- or .."),
    ],
)
def test_an_address_that_leads_nowhere_is_one_sentence(address: str, words: str) -> None:
    with pytest.raises(WeightsError, match=words) as caught:
        find_weights("pan", 2, address)
    assert "\n" not in str(caught.value)


def test_data_sets_fail_as_data_sets(server: HubServer) -> None:
    server.repos["dataset/some/set"] = {"hr.tar": b"tar"}
    assert hub.download("some/set", "hr.tar", repo_type="dataset").read_bytes() == b"tar"
    with pytest.raises(DatasetError, match=r"lr\.tar from some/set: .*no such file"):
        hub.download("some/set", "lr.tar", repo_type="dataset", error=DatasetError)
    with pytest.raises(DatasetError, match=r"hr\.tar from some/set: .*no such repository"):
        hub.download("some/set", "hr.tar", error=DatasetError)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE"])
def test_the_caches_variables_hold_in_a_running_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    folder = tmp_path / "elsewhere"
    monkeypatch.setenv(variable, str(folder))
    assert folder in find_weights("pan", 2).path.parents


@pytest.mark.parametrize(("offline", "code"), [("0", 0), ("1", 3)])
def test_the_variables_hold_in_a_fresh_process(
    server: HubServer, release: Release, tmp_path: Path, offline: str, code: int
) -> None:
    script = (
        "import sys\nfrom sruplift import hub\nfrom sruplift.errors import WeightsError\n"
        "try:\n    print(hub.download(sys.argv[1], sys.argv[2]))\n"
        "except WeightsError as error:\n    print(error)\n    sys.exit(3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, HUB_REPO, release.entry.file],
        env={**os.environ, **server.environment(tmp_path / "fresh"), "HF_HUB_OFFLINE": offline},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    if code:
        assert "HF_HUB_OFFLINE is set" in done.stdout
        assert server.requests == []
    else:
        assert Path(done.stdout.strip()).read_bytes() == release.content
