"""The evaluation protocol: reference numbers where the shared data is, its rules everywhere."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from pathlib import Path

import numpy as np
import pyiqa_stand_in
import pytest
import torch
from conftest import photo_like
from PIL import Image
from torch import Tensor

from sruplift import evaluate as module
from sruplift.datasets import find_dataset
from sruplift.documents import as_markdown
from sruplift.errors import DatasetError, NumericalError, UsageError, WeightsError
from sruplift.evaluate import bicubic_upscale, evaluate, evaluate_dataset, evaluate_image
from sruplift.metrics import psnr, ssim
from sruplift.models import create_model
from sruplift.published import DATASETS, PAPERS, find_published
from sruplift.reporting import as_csv, report_as_dict
from sruplift.resize import bicubic, modcrop
from sruplift.results import DatasetResult, EvalOptions, ImageResult
from sruplift.scores import Scores, degrade, lr_psnr, mean_scores, score, to_float, to_levels
from sruplift.weights import import_checkpoint, save_weights

PSNR_TOLERANCE = 0.0005
SSIM_TOLERANCE = 0.00005

# PSNR and SSIM on Y of bicubic alone: what the protocol gives, computed independently.
BICUBIC = {
    ("Set5", 2): (33.6734, 0.93029),
    ("Set5", 3): (30.4033, 0.86891),
    ("Set5", 4): (28.4290, 0.81114),
    ("Set14", 2): (30.3246, 0.86985),
    ("Set14", 3): (27.6311, 0.77588),
    ("Set14", 4): (26.0884, 0.70480),
}
# The authors' PAN x4: PSNR and SSIM on Y, the same on rounded Y, PSNR on RGB. The paper reports
# 32.13 / 0.8948 and 28.61 / 0.7822.
AUTHORS_PAN_X4 = {
    "Set5": (32.1311, 0.89481, 32.1097, 0.89371, 30.2183),
    "Set14": (28.6107, 0.78215, 28.6010, 0.78140, 26.8036),
}


def save_png(path: Path, image: Tensor) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = image.mul(255).round().to(torch.uint8)
    Image.fromarray(levels.permute(1, 2, 0).numpy()).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, 50x61 and 47x40: no multiples of 2, 3 or 4."""
    save_png(tmp_path / "mine" / "a.png", photo_like(50, 61, seed=1))
    save_png(tmp_path / "mine" / "b.png", photo_like(47, 40, seed=2))
    return tmp_path / "mine"


@pytest.fixture
def pan_weights(tmp_path: Path) -> Path:
    """PAN x2 with random weights, small enough to stay near its bilinear skip connection."""
    torch.manual_seed(0)
    path = tmp_path / "random.safetensors"
    state = create_model("pan", 2).state_dict()
    save_weights(path, state, model="pan", scale=2, metadata={}, dtype=torch.float32)
    return path


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_alone(shared: Path, scale: int) -> None:
    options = EvalOptions(
        ("Set5", "Set14"), "bicubic", scale, data_root=shared / "benchmarks", device="cpu"
    )
    report = evaluate(options)
    assert report.weights is None
    for result in report.datasets:
        expected_psnr, expected_ssim = BICUBIC[result.name, scale]
        assert result.mean.psnr_y == pytest.approx(expected_psnr, abs=PSNR_TOLERANCE)
        assert result.mean.ssim_y == pytest.approx(expected_ssim, abs=SSIM_TOLERANCE)
        assert result.paper is None


def test_the_authors_pan(shared: Path, tmp_path: Path) -> None:
    checkpoint = shared / "oracles" / "checkpoints" / "PANx4_DF2K.pth"
    weights = import_checkpoint(checkpoint, tmp_path / "pan_x4.safetensors", "pan", 4)
    options = EvalOptions(
        ("Set5", "set14"),
        "pan",
        4,
        weights=str(weights.path),
        data_root=shared / "benchmarks",
        device="cpu",
    )
    report = evaluate(options)
    assert [(result.name, len(result.images)) for result in report.datasets] == [
        ("Set5", 5),
        ("Set14", 14),
    ]
    for result in report.datasets:
        expected = AUTHORS_PAN_X4[result.name]
        mean = result.mean
        ours = (mean.psnr_y, mean.psnr_y_rounded, mean.psnr_rgb)
        assert ours == pytest.approx(expected[::2], abs=PSNR_TOLERANCE)
        assert (mean.ssim_y, mean.ssim_y_rounded) == pytest.approx(
            expected[1::2], abs=SSIM_TOLERANCE
        )
        assert result.paper is not None
        assert result.paper.source == "PAN Table 5"
        assert result.as_in_paper == pytest.approx(
            (result.paper.psnr, result.paper.ssim), abs=0.005
        )


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_protocol_step_by_step(folder: Path, scale: int) -> None:
    """Against the same steps in other words: arrays, and an explicit 8-bit round trip."""
    seen: list[Tensor] = []

    def upscale(lr: Tensor) -> Tensor:
        seen.append(lr)
        return bicubic(lr, scale) + 0.11

    result = evaluate_image(folder / "a.png", upscale, scale)
    pixels = np.array(Image.open(folder / "a.png"))
    height, width = 50 // scale * scale, 61 // scale * scale
    hr = torch.from_numpy(pixels[:height, :width].transpose(2, 0, 1).copy())
    lr = bicubic(hr, 1 / scale)[None] / 255
    assert torch.equal(seen[0], lr)
    assert result.name == "a.png"
    assert result.size == (height, width)
    levels = ((bicubic(lr, scale) + 0.11) * 255).round().clamp(0, 255)
    pair = (levels / 255, hr[None] / 255, scale)
    assert result.scores.psnr_y == psnr(*pair).item()
    assert result.scores.ssim_rgb == ssim(*pair, y_channel=False).item()
    assert result.scores.seconds > 0


def test_images_are_in_order_and_progress_is_told(folder: Path) -> None:
    told: list[tuple[str, int, int]] = []
    results = evaluate_dataset(
        find_dataset(str(folder)),
        lambda lr: bicubic_upscale(lr, 2),
        2,
        lambda *news: told.append(news),
    )
    assert [result.name for result in results] == ["a.png", "b.png"]
    assert told == [("mine", 0, 2), ("mine", 1, 2), ("mine", 2, 2)]


def test_a_network_is_run(folder: Path, pan_weights: Path) -> None:
    """The network's own forward pass gives the numbers."""
    options = EvalOptions((str(folder),), "pan", 2, weights=str(pan_weights), device="cpu")
    report = evaluate(options)
    torch.manual_seed(0)
    network = create_model("pan", 2).eval()
    with torch.no_grad():
        alone = evaluate_dataset(find_dataset(str(folder)), network, 2)
    (result,) = report.datasets
    for ours, expected in zip(result.images, alone, strict=True):
        assert ours.scores.psnr_y == pytest.approx(expected.scores.psnr_y, abs=1e-3)
        assert ours.scores.ssim_rgb == pytest.approx(expected.scores.ssim_rgb, abs=1e-4)
    assert (report.device, report.precision) == ("cpu", "fp32")
    assert report.weights is not None
    assert report.weights.path == pan_weights


class TestTiles:
    def test_tiles_with_enough_context_give_the_whole_images_numbers(
        self, tmp_path: Path, pan_weights: Path
    ) -> None:
        """PAN looks 36 pixels far: an overlap of 72 is all the context there is."""
        save_png(tmp_path / "one" / "a.png", photo_like(200, 180))
        common = {"model": "pan", "scale": 2, "weights": str(pan_weights), "device": "cpu"}
        options = EvalOptions((str(tmp_path / "one"),), **common)  # type: ignore[arg-type]
        whole = evaluate(options)
        tiled = evaluate(dataclasses.replace(options, tile_size=88))
        assert (whole.overlap, whole.datasets[0].images[0].tile) == (None, None)
        assert (tiled.overlap, tiled.datasets[0].images[0].tile) == (44, (88, 88))
        exact = evaluate(dataclasses.replace(options, tile_size=88, overlap=72))
        expected = whole.datasets[0].mean.psnr_y
        assert exact.overlap == 72
        assert exact.datasets[0].mean.psnr_y == pytest.approx(expected, abs=1e-4)
        auto = evaluate(dataclasses.replace(options, tile_size="auto"))
        assert auto.datasets[0].images[0].tile == (100, 90)
        assert auto.datasets[0].mean.psnr_y == pytest.approx(expected, abs=1e-4)

    def test_tiles_without_context_give_other_numbers(
        self, tmp_path: Path, pan_weights: Path
    ) -> None:
        """Else the test above would pass if tiles were ignored."""
        save_png(tmp_path / "one" / "a.png", photo_like(120, 120))
        options = EvalOptions(
            (str(tmp_path / "one"),), "pan", 2, str(pan_weights), device="cpu", tile_size=24
        )
        tiled = evaluate(dataclasses.replace(options, overlap=0)).datasets[0].mean
        whole = evaluate(dataclasses.replace(options, tile_size=None)).datasets[0].mean
        assert tiled.psnr_y != pytest.approx(whole.psnr_y, abs=1e-4)

    def test_the_choice_is_in_the_report(self, folder: Path, pan_weights: Path) -> None:
        options = EvalOptions((str(folder),), "pan", 2, str(pan_weights), device="cpu")
        plain = report_as_dict(evaluate(options))
        assert plain["inference"] == {
            "self_ensemble": False,
            "chop": False,
            "tile": None,
            "overlap": None,
        }
        assert "tile" not in plain["datasets"][0]["images"][0]
        data = report_as_dict(evaluate(dataclasses.replace(options, tile_size=20, overlap=8)))
        assert data["inference"]["tile"] == 20
        assert data["inference"]["overlap"] == 8
        assert data["protocol"]["inference"].startswith("tiles of 20 LR pixels, overlap 8, batch 1")
        assert data["datasets"][0]["images"][0]["tile"] == [20, 20]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"overlap": 8}, "an overlap is one of tiles"),
            ({"tile_size": 32, "chop": True}, "not both"),
            ({"tile_size": 32, "overlap": 30}, "it needs 8 pixels of its own"),
            ({"tile_size": 32, "overlap": -1}, "overlap must be at least 0"),
            ({"tile_size": 32, "model": "bicubic"}, "bicubic is the same in tiles"),
        ],
    )
    def test_what_cannot_be_meant(self, arguments: dict[str, object], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            EvalOptions(("Set5",), **arguments)  # type: ignore[arg-type]


class TestScores:
    def test_y_rounded_and_rgb_are_what_they_say(self) -> None:
        hr = photo_like(42, 39)[None].mul(255).round() / 255
        sr = (hr + 0.02).clamp(0, 1)
        lr = to_float(degrade(to_levels(hr[0]), 3))[None]
        scores = score(sr, hr, lr, 3)
        assert scores.psnr_y_rounded == psnr(sr, hr, 3, round_y=True).item()
        assert scores.ssim_y_rounded == ssim(sr, hr, 3, round_y=True).item()
        assert scores.psnr_rgb == psnr(sr, hr, 3, y_channel=False).item()
        assert len({*vars(scores).values()}) == 8

    def test_lr_psnr_is_that_of_the_result_made_small_again(self) -> None:
        hr = to_levels(photo_like(40, 48))
        lr = degrade(hr, 4)
        assert lr_psnr(to_float(hr)[None], to_float(lr)[None], 4) == math.inf
        brighter = to_levels(photo_like(40, 48) * 0.9)
        difference = degrade(brighter, 4).double() - lr.double()
        expected = 10 * math.log10(255**2 / difference.square().mean())
        found = lr_psnr(to_float(brighter)[None], to_float(lr)[None], 4)
        assert found == pytest.approx(expected)

    def test_lr_psnr_of_bicubic_is_that_of_the_round_trip(self, folder: Path) -> None:
        result = evaluate_image(folder / "a.png", lambda lr: bicubic_upscale(lr, 2), 2)
        assert 30 < result.scores.lr_psnr < 60
        wrong = evaluate_image(folder / "a.png", lambda lr: 1 - bicubic_upscale(lr, 2), 2)
        assert wrong.scores.lr_psnr < 15

    def test_mean(self) -> None:
        one, three = (Scores(*[float(value)] * 8) for value in (1, 3))
        assert mean_scores([one, three]) == Scores(*[2.0] * 8)
        with pytest.raises(ValueError, match="nothing to take the mean of"):
            mean_scores([])

    def test_an_identical_image_makes_the_mean_infinite(self) -> None:
        identical = Scores(math.inf, 1, math.inf, 1, math.inf, 1, math.inf, 0.1)
        mean = mean_scores([identical, Scores(30, 0.9, 30, 0.9, 28, 0.8, 45, 0.1)])
        assert mean.psnr_y == math.inf
        assert mean.ssim_y == pytest.approx(0.95)


@pytest.mark.parametrize(("scale", "size"), [(2, (10, 12)), (3, (9, 12)), (4, (8, 12))])
def test_modcrop_cuts_bottom_and_right(scale: int, size: tuple[int, int]) -> None:
    image = torch.arange(11 * 13).reshape(1, 11, 13)
    cropped = modcrop(image, scale)
    assert cropped.shape == (1, *size)
    assert torch.equal(cropped, image[:, : size[0], : size[1]])


class TestErrors:
    def test_an_unreadable_image_is_named_and_ends_it(self, folder: Path) -> None:
        (folder / "c.png").write_text("not an image")
        with pytest.raises(DatasetError, match=r"cannot read the image .*c\.png"):
            evaluate(EvalOptions((str(folder),), "bicubic", 2))

    @pytest.mark.parametrize(("scale", "needed"), [(2, 15), (3, 17), (4, 19)])
    def test_a_small_image_is_named(self, tmp_path: Path, scale: int, needed: int) -> None:
        fits = -(-needed // scale) * scale
        upscale = lambda lr: bicubic_upscale(lr, scale)  # noqa: E731
        path = save_png(tmp_path / "small.png", photo_like(fits, fits))
        assert evaluate_image(path, upscale, scale).size == (fits, fits)
        save_png(path, photo_like(fits - 1, fits))
        message = rf"small\.png is too small to be measured at x{scale}: .* at least {needed}"
        with pytest.raises(DatasetError, match=message):
            evaluate_image(path, upscale, scale)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_result_that_is_not_finite(self, folder: Path, value: float) -> None:
        def broken(lr: Tensor) -> Tensor:
            sr = bicubic(lr, 2)
            sr[0, 0, 5, 5] = value
            return sr

        with pytest.raises(NumericalError, match=r"a\.png cannot be measured: .* NaN or infin"):
            evaluate_dataset(find_dataset(str(folder)), broken, 2)

    @pytest.mark.parametrize(
        ("error", "raised", "words"),
        [
            (NumericalError("it is black"), NumericalError, "it is black"),
            (torch.OutOfMemoryError("CUDA out of memory"), DatasetError, "is out of memory"),
            (MemoryError(), DatasetError, "is out of memory"),
            (RuntimeError("a bug"), RuntimeError, "^a bug$"),
        ],
    )
    def test_what_goes_wrong_in_the_network_names_the_image(
        self, folder: Path, error: Exception, raised: type[Exception], words: str
    ) -> None:
        def failing(_: Tensor) -> Tensor:
            raise error

        with pytest.raises(raised, match=words) as caught:
            evaluate_dataset(find_dataset(str(folder)), failing, 2)
        assert ("a.png cannot be measured" in str(caught.value)) == (words != "^a bug$")

    def test_weights_are_looked_for_before_the_data(self, tmp_path: Path) -> None:
        options = EvalOptions(("Set5",), "pan", 4, str(tmp_path / "gone"), data_root=tmp_path)
        with pytest.raises(WeightsError, match="gone"):
            evaluate(options)

    def test_all_data_is_looked_for_before_anything_is_computed(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "evaluate_dataset", None)
        with pytest.raises(UsageError, match="unknown data set 'nowhere'"):
            evaluate(EvalOptions((str(folder), "nowhere"), "bicubic", 2))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"datasets": ()}, "at least one data set"),
            ({"model": "bicubic", "weights": "w.safetensors"}, "bicubic has no weights"),
            ({"model": "bicubic", "scale": 5}, r"no scale 5 \(valid: 2, 3, 4\)"),
        ],
    )
    def test_options(self, arguments: dict[str, object], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            EvalOptions(**{"datasets": ("Set5",), **arguments})  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("model", "scale", "message"),
        [("pam", 4, "did you mean 'pan'"), ("pan", 8, r"no scale 8 \(valid: 2, 3, 4\)")],
    )
    def test_unknown_models(self, folder: Path, model: str, scale: int, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            evaluate(EvalOptions((str(folder),), model, scale))


class TestPerceptual:
    def test_what_pyiqa_gets_is_the_whole_result_in_8_bits(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pyiqa = pyiqa_stand_in.install(monkeypatch)
        options = EvalOptions((str(folder),), "bicubic", 2, metrics=("lpips", "musiq"))
        (result,) = evaluate(options).datasets
        sr, hr = pyiqa.made["lpips"].seen[0]
        assert sr.shape == hr.shape == (1, 3, 50, 60)
        assert torch.equal(sr * 255, (sr * 255).round())
        expected = (sr - hr).abs().mean().item()
        assert result.images[0].perceptual["lpips"] == pytest.approx(expected)
        assert result.images[0].value("lpips") == result.images[0].perceptual["lpips"]
        values = [image.perceptual["musiq"] for image in result.images]
        assert result.mean_of("musiq") == pytest.approx(sum(values) / 2)

    def test_is_in_the_report(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pyiqa_stand_in.install(monkeypatch)
        report = evaluate(EvalOptions((str(folder),), "bicubic", 2, metrics=("lpips",)))
        data = report_as_dict(report)
        (mine,) = data["datasets"]
        values = [image["perceptual"]["lpips"] for image in mine["images"]]
        assert mine["mean"]["perceptual"]["lpips"] == pytest.approx(sum(values) / 2)
        low, high = mine["mean_interval"]["lpips"]
        assert low <= mine["mean"]["perceptual"]["lpips"] <= high
        assert data["versions"]["pyiqa"] == "0.0.stand-in"
        assert "8 bits" in data["protocol"]["perceptual"]
        assert "lpips ↓" in as_markdown([report])
        rows = list(csv.DictReader(io.StringIO(as_csv([report]))))
        assert float(rows[0]["lpips"]) == values[0]
        plain = report_as_dict(evaluate(EvalOptions((str(folder),), "bicubic", 2)))
        assert "perceptual" not in plain["datasets"][0]["mean"]
        assert "pyiqa" not in plain["versions"]

    def test_a_metric_that_fails_names_the_image(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pyiqa_stand_in.install(monkeypatch)
        monkeypatch.setattr(pyiqa_stand_in.Metric, "__call__", lambda *_: math.nan)
        with pytest.raises(NumericalError, match=r"a\.png cannot be measured: the metric niqe"):
            evaluate(EvalOptions((str(folder),), "bicubic", 2, metrics=("niqe",)))


class TestReport:
    def test_is_json_and_complete(self, folder: Path, pan_weights: Path) -> None:
        options = EvalOptions((str(folder),), "pan", 2, weights=str(pan_weights), device="cpu")
        data = json.loads(json.dumps(report_as_dict(evaluate(options)), allow_nan=False))
        assert (data["model"], data["scale"]) == ("pan", 2)
        assert data["protocol"]["crop_border"] == 2
        assert {"sruplift", "python", "torch", "numpy", "pillow"} <= set(data["versions"])
        assert data["weights"]["file"] == "random.safetensors"
        assert data["weights"]["source"] == "file"
        assert len(data["weights"]["sha256"]) == 64
        (mine,) = data["datasets"]
        assert (mine["name"], mine["count"], mine["paper"]) == ("mine", 2, None)
        keys = {"psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "lr_psnr", "seconds"}
        assert [image["name"] for image in mine["images"]] == ["a.png", "b.png"]
        assert mine["images"][0]["size"] == [50, 60]
        for key in keys:
            values = [image[key] for image in mine["images"]]
            assert mine["mean"][key] == pytest.approx(sum(values) / 2)

    def test_infinite_psnr_is_null(self, tmp_path: Path) -> None:
        save_png(tmp_path / "flat" / "a.png", torch.full((3, 32, 32), 0.4))
        report = evaluate(EvalOptions((str(tmp_path / "flat"),), "bicubic", 2))
        assert report.datasets[0].mean.psnr_y == math.inf
        data = json.loads(json.dumps(report_as_dict(report), allow_nan=False))
        mean = data["datasets"][0]["mean"]
        assert mean["psnr_y"] is None
        assert mean["ssim_y"] == pytest.approx(1)
        assert "identical" in data["protocol"]["psnr"]
        assert data["weights"] is None

    def test_the_papers_numbers_are_for_the_benchmark_alone(
        self, tmp_path: Path, pan_weights: Path
    ) -> None:
        for index in range(5):
            save_png(tmp_path / "Set5" / f"{index}.png", photo_like(20, 22, seed=index))
        names = ("Set5", str(tmp_path / "Set5"))
        report = evaluate(
            EvalOptions(names, "pan", 2, str(pan_weights), data_root=tmp_path, device="cpu")
        )
        benchmark, folder = report_as_dict(report)["datasets"]
        assert (benchmark["name"], folder["name"]) == ("Set5", "Set5")
        assert benchmark["mean"]["psnr_y"] == folder["mean"]["psnr_y"]
        assert folder["paper"] is None
        assert benchmark["paper"]["psnr"] == 38.00
        assert benchmark["paper"]["source"] == "PAN Table 5"

    def test_a_paper_that_rounds_y_is_compared_with_rounded_y(self) -> None:
        images = (ImageResult("a.png", (40, 40), Scores(30, 0.9, 29.9, 0.89, 28, 0.8, 45, 0.1)),)
        rounding = find_published("hpinet-m", 4, "Set5")
        assert rounding is not None
        assert DatasetResult("Set5", images, rounding).as_in_paper == (29.9, 0.89)
        plain = find_published("pan", 4, "Set5")
        assert DatasetResult("Set5", images, plain).as_in_paper == (30, 0.9)
        assert DatasetResult("Set5", images).as_in_paper == (30, 0.9)


class TestPublished:
    @pytest.mark.parametrize(
        ("model", "scale", "dataset", "numbers"),
        [
            ("pan", 2, "Set5", (38.00, 0.9605)),
            ("pan", 3, "Manga109", (33.61, 0.9448)),
            ("pan", 4, "BSD100", (27.59, 0.7363)),
            ("pan", 4, "Urban100", (26.11, 0.7854)),
            ("a2n", 2, "Set14", (33.75, 0.9194)),
            ("hpinet-s", 4, "Set5", (32.47, None)),
        ],
    )
    def test_numbers(
        self, model: str, scale: int, dataset: str, numbers: tuple[float, float | None]
    ) -> None:
        found = find_published(model, scale, dataset)
        assert found is not None
        assert (found.psnr, found.ssim) == numbers
        assert found.paper == PAPERS[found.source.split()[0]]

    @pytest.mark.parametrize(
        ("model", "scale", "dataset"),
        [
            ("bicubic", 4, "Set5"),
            ("pan", 8, "Set5"),
            ("pan", 4, "mine"),
            ("pan", 4, "model"),
            ("maffsrn", 4, "Manga109"),
        ],
    )
    def test_what_nobody_published(self, model: str, scale: int, dataset: str) -> None:
        assert find_published(model, scale, dataset) is None

    def test_every_row_is_plausible_and_has_its_paper(self) -> None:
        rows = [
            found
            for model in ("pan", "a2n", "a2n-m", "maffsrn", "maffsrn-l", "srram", "srram-l")
            + ("hpinet-s", "hpinet-m", "hpinet-l")
            for scale in (2, 3, 4)
            for dataset in DATASETS
            if (found := find_published(model, scale, dataset))
        ]
        assert len(rows) > 90
        for row in rows:
            assert row.paper
            assert row.psnr is not None
            assert 20 < row.psnr < 40
            assert row.ssim is None or 0.7 < row.ssim < 1
            assert row.round_y == row.source.startswith("HPINet")

    def test_is_the_shared_table(self, shared: Path) -> None:
        ours = Path(module.__file__).with_name("published.csv").read_bytes()
        assert ours == (shared / "published.csv").read_bytes()
