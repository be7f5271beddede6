"""`benchmarks/plan.py` against sums done by hand, and the page that shows what it prints."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "large-jobs.md").read_text(encoding="utf-8")
SHOWN = re.findall(
    r"python benchmarks/plan\.py (job .*--price.*)\n```\n\n(.*\n\n(?:\|.*\n)+)", PAGE
)


@pytest.fixture(scope="module")
def planner() -> ModuleType:
    path = ROOT / "benchmarks" / "plan.py"
    spec = importlib.util.spec_from_file_location("plan", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["plan"] = module
    spec.loader.exec_module(module)
    return module


def planned(planner: ModuleType, wanted: tuple[float, float] = (1e6, 0.1), **more: Any) -> Any:
    """3,600 images of 2 MP at x2, unless ``more`` says otherwise."""
    values = {"images": 3600, "megapixels": 2.0, "scale": 2, "seconds_per_megapixel": 5.0}
    values |= {"workers": 10, "cores": 4, "startup": 0.0, **more}
    cost = planner.Cost
    return planner.plan(planner.Job(**values), cost(0.5e6, 0), cost(*wanted), cost(0.25e6, 0.1))


def test_time_and_storage(planner: ModuleType) -> None:
    found = planned(planner, price=0.5)
    # 3,600 images of 2 MP x 5 s; 8 MP each come out.
    assert found.image_seconds == 10
    assert found.worker_hours == 10
    assert found.hours == 1
    assert found.core_hours == 40
    assert found.price == 20
    assert found.bytes_in == 3600 * 2 * 0.5e6
    assert found.bytes_out == 3600 * 8 * 1e6
    assert found.read_rate == 1e6
    assert found.write_rate == 8e6
    assert found.failures is found.lost_share is None


def test_a_format_that_takes_longer(planner: ModuleType) -> None:
    # 8 MP x 0.4 s more, on four cores.
    assert planned(planner, (1e6, 0.5)).image_seconds == pytest.approx(10.8)
    # One thread encodes: 8 MP x 2 s is more than 10 s + 8 x 1.9 / 4.
    assert planned(planner, (1e6, 2.0)).image_seconds == 16


def test_lists_folders_and_starts(planner: ModuleType) -> None:
    found = planned(planner, per_list=1000, per_folder=500, startup=9.0, report_line=100.0)
    assert (found.lists, found.folders, found.report_bytes) == (4, 8, 360_000)
    assert found.worker_hours == pytest.approx(10 + 4 * 9 / 3600)


def test_failures(planner: ModuleType) -> None:
    found = planned(planner, per_list=100, read_rate=45.0, hours_between_failures=1.0)
    # 50 images of 1 + 8 MB at 45 MB/s, and 4 images of 10 s.
    assert found.restart_seconds == 10 + 40
    assert found.lost_share == pytest.approx(50 / 3600)
    assert found.worker_hours == pytest.approx(10 / (1 - 50 / 3600))
    assert found.failures == pytest.approx(found.worker_hours)
    # The time of the failures is what is lost.
    assert found.failures * 50 / 3600 == pytest.approx(found.worker_hours - 10)
    with pytest.raises(SystemExit, match="make lists shorter"):
        planned(planner, per_list=100_000, read_rate=1.0, hours_between_failures=1.0)


def test_the_page_shows_what_the_script_prints(
    planner: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(SHOWN) == 2
    for command, printed in SHOWN:
        planner.main(shlex.split(command))
        assert capsys.readouterr().out == printed


def test_the_page_shows_the_measured_sizes(planner: ModuleType) -> None:
    data = json.loads(planner.SIZES.read_text(encoding="utf-8"))
    assert planner.sizes_table(data) in PAGE
    assert f"{data['report_line']} bytes for each image" in PAGE
    megapixel = data["megapixel"]["x4"]
    ratios = (megapixel[name]["bytes"] / megapixel["png"]["bytes"] for name in ("jpg", "webp"))
    assert "JPEG at x4 is {:.2f} times PNG, WebP {:.2f} times".format(*ratios) in PAGE
    assert (
        f"16 x {megapixel['png']['seconds']:.3f} = {16 * megapixel['png']['seconds']:.1f} s" in PAGE
    )


def test_the_measured_seconds_are_those_of_the_results(planner: ModuleType) -> None:
    results = (ROOT / "benchmarks" / "results" / "throughput.md").read_text(encoding="utf-8")
    found = re.findall(r"\| pan x(\d), 100 \| ([\d.]+) s \|", results)
    wanted = {int(scale): float(seconds) / 30.72 for scale, seconds in found}
    assert wanted == pytest.approx(planner.SECONDS)


def test_sizes_are_measured_on_pictures(
    planner: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sizes.json"
    images = ROOT / "tests" / "images"
    planner.main(["sizes", str(images), "--count", "1", "--scale", "2", "--sizes", str(file)])
    printed = capsys.readouterr().out
    costs = planner.read_costs(file)
    assert set(costs) == {"in", "x2"}
    assert 0 < costs["x2"]["jpg"].size < costs["x2"]["png"].size < 3e6
    assert f"| {costs['in']['png'].size / 1e6:.3f} |" in printed
    command = ["job", "--images", "1", "--workers", "1", "--sizes", str(file)]
    with pytest.raises(SystemExit, match="nothing was measured at x4"):
        planner.main(command)
    planner.main([*command, "--scale", "2", "--format", "png"])
    assert "webp" not in capsys.readouterr().out
