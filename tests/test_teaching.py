"""Trained networks as teachers: their results as targets, asked for always or once."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import photo_like
from safetensors import safe_open
from test_data import write_images
from test_recipe import recipe
from test_train import config, log

from sruplift.cli.train import _Bar, _Lines
from sruplift.data import PatchCache, Sampler, add_noise, read_lr_sizes
from sruplift.datasets import read_hr
from sruplift.engine import Engine
from sruplift.errors import ConfigError, NumericalError, SrupliftError
from sruplift.teaching import Answers, Teacher
from sruplift.train import TrainResult, train
from sruplift.weights import load_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("share", [0.25, 1.0])
@pytest.mark.parametrize("mode", ["off", "auto", "on"])
@pytest.mark.usefixtures("kernels")
def test_targets_are_the_teachers_results_and_the_images_by_their_shares(
    tmp_path: Path, share: float, mode: str
) -> None:
    teacher = {"weights": "pan_x3", "share": share}
    config = recipe(tmp_path, "muon", scale=3, teacher=teacher, kernels=mode)
    hr = torch.stack([photo_like(48, 48), 1 - photo_like(48, 48)])
    lr = F.avg_pool2d(hr, 3).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        sr = load_model("pan", 3)(lr).clamp(0, 1)
    assert float((sr - hr).abs().mean()) > 0.001
    made = Teacher(config, CPU, "fp32")
    assert (made._engines[3][0].kernels is None) == (mode == "off")
    target = made.targets(lr, hr)
    torch.testing.assert_close(target, share * sr + (1 - share) * hr, rtol=0, atol=1e-5)


def test_each_scale_has_its_teacher(tmp_path: Path) -> None:
    scales = {"scales": [2, 4], "scale": None, "model": "maffsrn"}
    config = recipe(tmp_path, "muon", **scales, teacher={"weights": "pan_x{scale}", "share": 1})
    teacher = Teacher(config, CPU, "fp32")
    lr = photo_like(20, 24)[None]
    for scale in (2, 4):
        with torch.no_grad():
            sr = load_model("pan", scale)(lr).clamp(0, 1)
        target = teacher.targets(lr, torch.zeros_like(sr))
        torch.testing.assert_close(target, sr, rtol=0, atol=1e-5)
    assert len(set(teacher.fingerprint.split())) == 2


def test_several_teach_the_mean_of_what_each_makes(tmp_path: Path) -> None:
    names = ["pan_x{scale}", "srram_x{scale}"]
    both, *each = (
        Teacher(
            recipe(tmp_path, "muon", kernels="off", teacher={"weights": weights, "share": 1}),
            CPU,
            "fp32",
        )
        for weights in (names, *names)
    )
    lr = photo_like(20, 24)
    one, other = (made.targets(lr[None], torch.zeros(1, 3, 40, 48)) for made in each)
    assert float((one - other).abs().max()) > 0.01
    mean = both.targets(lr[None], torch.zeros(1, 3, 40, 48))
    torch.testing.assert_close(mean, (one + other) / 2, rtol=0, atol=1e-6)
    tiles: list[int] = []
    byte = (lr * 255).byte()
    answer = both.answer(byte, 2, lambda: tiles.append(0))
    apart = answer - (each[0].answer(byte, 2).float() + each[1].answer(byte, 2).float()) / 2
    assert apart.abs().max() <= 1
    assert len(tiles) == 2
    assert both.sha256[2].split() == [made.sha256[2] for made in each]


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ("pan_x2", "holds weights of pan x2, not pan x3"),
        ("no.safetensors", "cannot read no.safetensors: No such file"),
        ("pan_x7", "no scale 7"),
        (["pan_x3", "a2n_x2"], "holds weights of a2n x2, not a2n x3"),
    ],
)
def test_a_teacher_that_cannot_teach_is_a_sentence(
    tmp_path: Path, weights: str | list[str], sentence: str
) -> None:
    config = recipe(tmp_path, "muon", scale=3, teacher={"weights": weights})
    with pytest.raises(SrupliftError, match=sentence):
        Teacher(config, CPU, "fp32")


PRECOMPUTE = {"weights": "pan_x2", "precompute": True, "share": 0.75}


@pytest.mark.parametrize("ensemble", [False, True])
def test_an_answer_is_what_upscaling_makes_of_the_image(tmp_path: Path, ensemble: bool) -> None:
    teacher = {**PRECOMPUTE, "self_ensemble": ensemble}
    made = Teacher(recipe(tmp_path, "muon", teacher=teacher, kernels="off"), CPU, "fp32")
    lr = (photo_like(21, 34) * 255).round().byte()
    answer = made.answer(lr, 2)
    network = load_model("pan", 2)
    with torch.no_grad():
        plain = network(lr[None].float() / 255)[0]
        turned = network(lr[None].mT.float() / 255)[0].mT
    difference = (answer - plain.clamp(0, 1) * 255).abs()
    assert answer.dtype == torch.uint8
    if ensemble:  # Nearer to both than they are to each other.
        apart = (plain - turned).abs().mean() * 255
        assert 0.5 < difference.mean() < apart
    else:
        assert difference.max() <= 0.51


@pytest.fixture
def pictures() -> list[torch.Tensor]:
    return [(photo_like(h, w) * 255).byte() for h, w in ((8, 5), (4, 6), (7, 7))]


SIZES = [(8, 5), (4, 6), (7, 7)]


def write_some(path: Path, pictures: list[torch.Tensor], question: object = "?") -> int:
    """Read what there is, write the rest, and say how many there were."""
    known = 0
    with closing(Answers(path, question, SIZES)) as answers:
        for picture in pictures:
            answer = answers.read()
            if answer is None:
                answers.write(picture)
            else:
                assert torch.equal(answer, picture)
                known += 1
    return known


def test_answers_are_kept(tmp_path: Path, pictures: list[torch.Tensor]) -> None:
    path = tmp_path / "answers.bin"
    assert write_some(path, pictures[:1]) == 0
    assert write_some(path, pictures) == 1
    assert write_some(path, pictures) == 3


LAST = 7 * 7 * 3 + 4


@pytest.mark.parametrize("cut", [1, 4, 5, LAST - 1, LAST, LAST + 1])
def test_answers_end_with_the_last_that_is_whole(
    tmp_path: Path, pictures: list[torch.Tensor], cut: int
) -> None:
    path = tmp_path / "answers.bin"
    write_some(path, pictures)
    size = path.stat().st_size
    os.truncate(path, size - cut)
    assert write_some(path, pictures) == (2 if cut <= LAST else 1)
    assert path.stat().st_size == size
    assert write_some(path, pictures) == 3


def test_what_follows_a_damaged_answer_is_asked_again(
    tmp_path: Path, pictures: list[torch.Tensor]
) -> None:
    path = tmp_path / "answers.bin"
    write_some(path, pictures)
    content = path.read_bytes()
    path.write_bytes(content[: -LAST - 10] + bytes(LAST + 10))
    assert write_some(path, pictures) == 1
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"short"])
def test_a_file_that_hardly_began_is_begun_afresh(
    tmp_path: Path, pictures: list[torch.Tensor], content: bytes
) -> None:
    path = tmp_path / "answers.bin"
    path.write_bytes(content)
    assert write_some(path, pictures) == 0
    assert write_some(path, pictures) == 3


def test_other_answers_are_not_lost(tmp_path: Path, pictures: list[torch.Tensor]) -> None:
    path = tmp_path / "answers.bin"
    write_some(path, pictures)
    content = path.read_bytes()
    with pytest.raises(ConfigError, match="has answers of another teacher, or for other images"):
        write_some(path, pictures, "another question")
    assert path.read_bytes() == content


def test_answers_that_cannot_be_kept_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="cannot keep the teacher's answers in"):
        Answers(tmp_path / "folder", "?", SIZES)


@pytest.mark.parametrize("limit", [0, 20, 32, 33, 100, 151, 152, 160, 382])
def test_a_full_disk_is_a_sentence(
    tmp_path: Path, pictures: list[torch.Tensor], limit: int
) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(ConfigError, match="cannot keep the teacher's answers in"):
            write_some(tmp_path / "answers.bin", pictures)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    write_some(tmp_path / "answers.bin", pictures)
    assert write_some(tmp_path / "answers.bin", pictures) == 3


@pytest.mark.parametrize("scale", [2, 3])
def test_patches_are_compared_with_answers_by_their_share(tmp_path: Path, scale: int) -> None:
    """The answers here are the images' negatives: of equal shares of both nothing is left."""
    files = write_images(tmp_path, [(50, 61), (40, 44)])
    plain, taught = (PatchCache(files, [scale], CPU, taught=taught) for taught in (False, True))
    for number, (height, width) in enumerate(taught.target_sizes(scale)):
        answer = 255 - read_hr(files[number])[:, :height, :width]
        taught.teach(number, scale, answer, 0.25)
    sampler = Sampler(read_lr_sizes(files, scale), 5, 4, recolored=0.5, noisy=0.5)
    samples = sampler.draw(0, 24, 7)
    assert samples.color.any()
    lr, target = taught.batch(samples, 7, scale)
    expected_lr, hr = plain.batch(samples, 7, scale)
    assert torch.equal(lr, expected_lr)
    clean = samples.noise == 0
    expected = 0.75 * hr + 0.25 * (1 - hr)
    torch.testing.assert_close(target[clean], expected[clean], rtol=0, atol=0.51 / 255)
    # Noise comes after it, so that it is to stay as it is.
    quiet = Sampler(read_lr_sizes(files, scale), 5, 4, recolored=0.5).draw(0, 24, 7)
    assert torch.equal(add_noise(*taught.batch(quiet, 7, scale), samples.noise)[1], target)


class Told:
    def __init__(self) -> None:
        self.answers: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.answers.append((done, total))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "train", [(48, 48), (40, 57), (48, 41)])
    write_images(folder / "val", [(32, 40)])
    return folder


def taught(images: Path, out: Path, told: Told, **options: Any) -> TrainResult:
    settings = config(images, iterations=2, teacher=PRECOMPUTE, loss="l1", init="pan_x2")
    return train(settings, out, on_answer=told, **options)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The images that any teacher has been asked about."""
    sizes: list[torch.Size] = []
    answer = Teacher.answer

    def counted(self: Teacher, lr: torch.Tensor, scale: int, progress: Any) -> torch.Tensor:
        sizes.append(lr.shape)
        return answer(self, lr, scale, progress)

    monkeypatch.setattr(Teacher, "answer", counted)
    return sizes


def test_a_teacher_is_asked_once_about_each_image(
    images: Path, tmp_path: Path, asked: list[torch.Size]
) -> None:
    told = Told()
    assert taught(images, tmp_path / "run", told).reason == "finished"
    assert told.answers == [(1, 3), (2, 3), (3, 3)]
    assert sorted(asked) == [(3, 20, 28), (3, 24, 20), (3, 24, 24)]
    # Of the images alone there is more to learn than of what is mostly its own.
    train(config(images, iterations=2, loss="l1", init="pan_x2"), tmp_path / "none")
    losses = [float(log(tmp_path / name)[0]["loss"]) for name in ("run", "none")]
    assert losses[0] < 0.6 * losses[1]


def test_answers_outlive_an_interruption(
    images: Path, tmp_path: Path, asked: list[torch.Size]
) -> None:
    class Interrupted(Told):
        def __call__(self, done: int, total: int) -> None:
            super().__call__(done, total)
            raise KeyboardInterrupt

    taught(images, tmp_path / "whole", Told())
    asked.clear()
    assert taught(images, tmp_path / "run", Told(), max_minutes=0).reason == "time"
    assert not asked
    with pytest.raises(KeyboardInterrupt):
        taught(images, tmp_path / "run", Interrupted(), resume=True)
    assert len(asked) == 1
    told = Told()
    assert taught(images, tmp_path / "run", told, resume=True).reason == "finished"
    assert len(asked) == 3
    assert told.answers[-1] == (3, 3)
    whole, run = (tmp_path / name for name in ("whole", "run"))
    assert (whole / "teacher_x2.bin").read_bytes() == (run / "teacher_x2.bin").read_bytes()
    assert log(whole)[-1]["loss"] == log(run)[-1]["loss"]


def test_a_run_that_was_killed_while_it_asked_goes_on(images: Path, tmp_path: Path) -> None:
    class Killed(Told):
        def __call__(self, *_: int) -> None:
            raise SystemExit  # Nothing is saved after it, as after a kill.

    with pytest.raises(SystemExit):
        taught(images, tmp_path / "run", Killed())
    assert taught(images, tmp_path / "run", Told(), resume=True).reason == "finished"


def test_time_is_looked_at_after_each_tile(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the first image's first tile takes all of it."""
    clock = [0.0]

    def bands(*_: Any, progress: Any) -> None:
        clock[0] += 100
        progress(0.5)
        raise AssertionError("it went on")

    monkeypatch.setattr(Engine, "bands", bands)
    monkeypatch.setattr("sruplift.train.time.monotonic", lambda: clock[0])
    result = taught(images, tmp_path / "run", Told(), max_minutes=1)
    assert (result.reason, result.iteration) == ("time", 0)


def test_a_finished_run_asks_nothing_more(
    images: Path, tmp_path: Path, asked: list[torch.Size]
) -> None:
    taught(images, tmp_path / "run", Told())
    (tmp_path / "run" / "teacher_x2.bin").unlink()
    asked.clear()
    assert taught(images, tmp_path / "run", Told(), resume=True).reason == "finished"
    assert not asked


def test_a_copy_of_the_answers_serves_another_run(
    images: Path, tmp_path: Path, asked: list[torch.Size]
) -> None:
    taught(images, tmp_path / "run", Told())
    asked.clear()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "teacher_x2.bin").symlink_to(tmp_path / "run" / "teacher_x2.bin")
    scales = {"scale": None, "scales": [2], "init": "pan_x{scale}"}
    train(config(images, iterations=1, teacher=PRECOMPUTE, **scales), tmp_path / "other")
    assert not asked
    with safe_open(tmp_path / "other" / "last_x2.safetensors", "pt") as file:
        assert file.metadata()["teacher_precompute"] == "yes"
        assert "teacher_self_ensemble" not in file.metadata()


def test_an_image_of_which_the_teacher_makes_nothing_is_named(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*_: Any) -> None:
        raise NumericalError("the network returned NaN or infinity")

    monkeypatch.setattr(Teacher, "answer", answer)
    with pytest.raises(NumericalError, match=r"the teacher, of .*0\.png: the network returned NaN"):
        taught(images, tmp_path / "run", Told())


def test_another_way_of_asking_is_another_run(images: Path, tmp_path: Path) -> None:
    taught(images, tmp_path / "run", Told(), max_minutes=0)
    for change in ({"precompute": False}, {"self_ensemble": True}):
        other = config(images, iterations=2, teacher={**PRECOMPUTE, **change}, loss="l1")
        other = other.model_copy(update={"init": "pan_x2"})
        with pytest.raises(ConfigError, match="another 'teacher'"):
            train(other, tmp_path / "run", resume=True)


def test_answers_need_images_in_memory(images: Path, tmp_path: Path) -> None:
    settings = config(images, teacher=PRECOMPUTE, data__cache="none")
    with pytest.raises(ConfigError, match=r"in memory: data\.cache is .none."):
        train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tenths_of_the_answers_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _Lines(5)
    for done in range(1, 31):
        lines.answer(done, 30)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 10
    assert told[0] == "the teacher has answered for 3 of 30 images"


def test_a_bar_counts_answers_then_iterations() -> None:
    from rich.progress import Progress

    from sruplift.runlog import LogRow

    with Progress(disable=True) as progress:
        bar = _Bar(5, progress)
        bar.answer(1, 3)
        task = progress.tasks[0]
        assert (task.completed, task.total, task.description) == (1, 3, "asking the teacher")
        bar.answer(3, 3)
        bar.row(LogRow(2, 0.5, 1e-3, 8, 2, 1.0, 2.0, None))
        assert (task.completed, task.total) == (2, 5)
        bar.answer(3, 3)
        assert (task.completed, task.total, task.description) == (0, 5, "starting")
