"""The real client pushes to a Hub on loopback, and gets back what it pushed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from released import HUB_REPO, Release, make_release
from upload_server import READ_TOKEN, STEPS, UploadServer

from sruplift import __version__, publish
from sruplift.errors import UsageError, WeightsError
from sruplift.manifest import MANIFEST_NAME, manifest_path
from sruplift.publish import collect, push
from sruplift.weights import find_weights, load_state_dict

# The client's own, in how it sends large files without Xet.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
REPO = f"model/{HUB_REPO}"
WEIGHTS = "pan_x2.safetensors"


@pytest.fixture(autouse=True)
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    return make_release(tmp_path, monkeypatch, bundled=True)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadServer]:
    with UploadServer({}) as running:
        running.use(monkeypatch, tmp_path / "hf")
        yield running


def push_all(**options: str | bool) -> publish.Pushed:
    return push(HUB_REPO, collect(HUB_REPO), **options)  # type: ignore[arg-type]


def failure(**options: str | bool) -> str:
    with pytest.raises(WeightsError) as caught:
        push_all(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("server")
def test_what_is_pushed_can_be_downloaded_and_is_the_same(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_state_dict(find_weights("pan", 2))
    pushed = push_all()
    assert pushed.new
    release.entry.bundled_path.unlink()
    monkeypatch.setenv("SRUPLIFT_HUB_REPO", f"{HUB_REPO}@{pushed.commit}")
    file = find_weights("pan", 2)
    assert (file.source, file.path.read_bytes()) == ("hub", release.content)
    after = load_state_dict(file)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_one_commit_has_the_weights_the_manifest_and_the_card(
    server: UploadServer, release: Release
) -> None:
    pushed = push_all()
    files, commit = server.find(REPO, "main")
    assert files is not None
    assert set(files) == {WEIGHTS, MANIFEST_NAME, "README.md", ".gitattributes"}
    assert files[MANIFEST_NAME] == manifest_path().read_bytes()
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "apache-2.0"
    assert f"hf://{HUB_REPO}/{WEIGHTS}" in card.text
    assert (pushed.commit, server.made("commit")) == (commit, 1)
    assert server.messages == [f"Weights of sruplift {__version__}"]
    # The weights went the way of large files, the other two inside the commit.
    assert list(server.large.values()) == [release.content]


def test_the_same_files_again_make_no_commit(server: UploadServer) -> None:
    first = push_all()
    second = push_all()
    assert (second.commit, second.new) == (first.commit, False)
    assert (server.made("commit"), server.made("upload")) == (1, 1)


def test_other_weights_make_a_second_commit_and_the_first_stays(
    server: UploadServer, release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = push_all()
    other = make_release(tmp_path / "other", monkeypatch, bundled=True, scale=3)
    second = push_all()
    assert second.new
    assert second.commit != first.commit
    old, _ = server.find(REPO, first.commit)
    new, _ = server.find(REPO, second.commit)
    assert old is not None
    assert new is not None
    assert other.entry.file not in old
    assert new[other.entry.file] == other.content
    # What a manifest of before may pin is not taken away.
    assert new[WEIGHTS] == release.content


@pytest.mark.parametrize("private", [True, False])
def test_a_new_repository_is_private_on_request(server: UploadServer, private: bool) -> None:
    push_all(private=private)
    assert server.private == ({HUB_REPO} if private else set())


def test_private_files_are_not_pushed_where_all_can_see_them(server: UploadServer) -> None:
    first = push_all()
    assert "is public already" in failure(private=True)
    assert server.find(REPO, "main")[1] == first.commit


def test_a_branch_is_pushed_to_alone(server: UploadServer) -> None:
    server.repos[REPO] = {"a.txt": b"a"}
    server.add_revision(REPO, "next", {"a.txt": b"b"})
    push_all(revision="next")
    assert set(server.repos[REPO]) == {"a.txt"}
    files, _ = server.find(REPO, "next")
    assert files is not None
    assert {WEIGHTS, "a.txt"} < set(files)


def test_a_branch_that_is_not_there(server: UploadServer) -> None:
    assert "no such branch" in failure(revision="v9")
    assert server.made("commit") == 0


def test_no_token(server: UploadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert "there is no token; set HF_TOKEN or run `hf auth login`" in failure()
    assert server.requests == []


@pytest.mark.usefixtures("server")
def test_the_token_of_a_login_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "hf").mkdir(exist_ok=True)
    (tmp_path / "hf" / "token").write_text("hf_writes\n")
    assert push_all().new


def test_offline(server: UploadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in failure()
    assert server.requests == []


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    ("token", "words"),
    [("hf_wrong", "does not accept the token"), (READ_TOKEN, "the token may not write there")],
)
def test_a_token_that_is_not_good_enough(
    server: UploadServer, monkeypatch: pytest.MonkeyPatch, token: str, words: str, there: bool
) -> None:
    if there:
        server.repos[REPO] = {"a.txt": b"a"}
    monkeypatch.setenv("HF_TOKEN", token)
    assert words in failure()
    assert server.repos == ({REPO: {"a.txt": b"a"}} if there else {})
    assert server.large == {}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_leaves_the_repository_as_it_was(server: UploadServer, step: str) -> None:
    before = {} if step == "create" else {REPO: {"a.txt": b"a"}}
    server.repos = {name: dict(files) for name, files in before.items()}
    server.inject(step, status=500)
    assert f"cannot push to {HUB_REPO}@main: " in failure()
    assert server.made(step)
    assert server.repos == before
    server.heal(step)
    assert push_all().new


@pytest.mark.parametrize(
    ("step", "status", "words"),
    [
        ("commit", 404, "the Hub answered 404"),
        ("commit", 412, "somebody else is changing the repository; push again"),
        ("upload", 403, "the token may not write there"),
        ("upload", 500, "the Hub answered 500"),
        ("batch", 400, "the Hub refused: injected"),
        ("create", 429, "the Hub answered 429"),
    ],
)
def test_the_sentence_tells_the_reason(
    server: UploadServer, step: str, status: int, words: str
) -> None:
    server.inject(step, status=status)
    assert failure() == f"cannot push to {HUB_REPO}@main: {words}"


@pytest.mark.usefixtures("server")
def test_a_repository_that_vanishes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *_args, **_options: None)
    assert "there is no such repository" in failure()


def test_a_token_for_this_repository_alone_is_enough(server: UploadServer) -> None:
    server.repos[REPO] = {}
    server.inject("create", status=403)
    assert push_all().new
    assert server.made("create") == 0


def test_somebody_elses_commit_in_between_is_not_overwritten(
    server: UploadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_all()
    uploads = [publish.Upload("b.txt", b"ours")]
    preupload = "huggingface_hub.HfApi.preupload_lfs_files"
    monkeypatch.setattr(preupload, _while_another_commits(server))
    with pytest.raises(WeightsError, match="somebody else is changing"):
        push(HUB_REPO, uploads)
    assert server.repos[REPO]["b.txt"] == b"theirs"


def _while_another_commits(server: UploadServer) -> object:
    from huggingface_hub import HfApi

    real = HfApi.preupload_lfs_files

    def preupload(self: HfApi, *args: object, **options: object) -> None:
        server.repos[REPO]["b.txt"] = b"theirs"
        real(self, *args, **options)  # type: ignore[arg-type]

    return preupload


def test_the_hubs_complaint_about_a_card_is_passed_on(server: UploadServer) -> None:
    with pytest.raises(WeightsError, match=r'README\.md\. - "license" must be one of them'):
        push(HUB_REPO, [publish.Upload("README.md", b"---\ntags: []\n---\n")])
    assert server.made("commit") == 0


def test_nobody_listening(server: UploadServer) -> None:
    server.refuse()
    assert "the Hub cannot be reached" in failure()


def test_a_hub_that_hangs_up(server: UploadServer) -> None:
    server.inject("commit", truncate=0)
    assert "the Hub broke off" in failure()
    assert WEIGHTS not in server.repos[REPO]


@pytest.mark.parametrize("name", ["weights", "a/b/c", "a--b/c", "", "https://hub/a/b"])
def test_a_repository_has_an_owner_and_a_name(name: str) -> None:
    with pytest.raises(UsageError, match="is not owner/name") as caught:
        collect(name)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="is not owner/name"):
        push(name, [])


def test_a_file_that_is_not_what_was_released_is_not_pushed(release: Release) -> None:
    damaged = bytearray(release.content)
    damaged[-1] ^= 1
    release.entry.bundled_path.write_bytes(damaged)
    with pytest.raises(WeightsError, match=r"pan_x2\.safetensors is not what was released"):
        collect(HUB_REPO)


def test_a_file_that_is_nowhere_is_not_left_out(release: Release) -> None:
    release.entry.bundled_path.unlink()
    with pytest.raises(WeightsError, match=r"pan_x2\.safetensors is not on this machine"):
        collect(HUB_REPO)


def test_a_mirror_can_be_mirrored(
    server: UploadServer, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_all()
    release.entry.bundled_path.unlink()
    monkeypatch.setenv("SRUPLIFT_HUB_REPO", HUB_REPO)
    find_weights("pan", 2)
    push("someone/mirror", collect("someone/mirror"))
    assert server.repos["model/someone/mirror"][WEIGHTS] == release.content


def test_an_upload_knows_its_sha256() -> None:
    assert publish.Upload("a", b"abc").sha256 == hashlib.sha256(b"abc").hexdigest()
