"""README says what is true: its commands run as written, its figures are the manifest's."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from test_data import write_images

import sruplift
from sruplift.manifest import read_manifest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PHOTO = ROOT / "tests" / "images" / "bridge.png"
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
LINES = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("sruplift ")]
# These need a benchmark from the Hub or a checkpoint that is not ours to ship; the loopback Hub
# and the shared data test them elsewhere.
ELSEWHERE = (
    "eval --dataset Set",
    "eval --dataset all",
    "weights import PANx4",
    "--weights authors_x4",
)
# What a test can spare of a day's training: a few short iterations.
SHORTER = (
    "iterations=2",
    "data.patch_size=8",
    "data.batch_size=2",
    "stages=[]",
    "checkpoint_every=1",
)


@pytest.fixture
def user_folder(tmp_path: Path) -> Path:
    """A folder with the files that README's commands speak of."""
    with Image.open(PHOTO) as bridge:
        photo = bridge.resize((40, 30))
    for name in ("photo.jpg", "scan.tif", "holiday/a.png", "holiday/b.webp", "photos/c.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        photo.save(path)
    write_images(tmp_path / "my_images", [(40, 40), (48, 40), (40, 48)])
    return tmp_path


def test_commands_run_as_written(user_folder: Path) -> None:
    here = [line for line in COMMANDS if not any(words in line for words in ELSEWHERE)]
    assert len(here) >= 6
    for line in here:
        arguments = shlex.split(line)[1:]
        if arguments[0] == "train":
            arguments += [word for setting in SHORTER for word in ("--set", setting)]
        done = subprocess.run(
            [sys.executable, "-m", "sruplift", *arguments],
            cwd=user_folder,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
    for name, size in (("photo_pan_x4.jpg", (160, 120)), ("large.png", (80, 60))):
        with Image.open(user_folder / name) as large:
            assert large.size == size
    assert len(list((user_folder / "large").iterdir())) == 3
    assert (user_folder / "report.json").is_file()


def test_first_command_enlarges_the_photo(tmp_path: Path) -> None:
    (line,) = [line for line in LINES if "pip install -c constraints.txt . &&" in line]
    arguments = shlex.split(line.split("&&")[-1])[1:]
    output = arguments.index("-o") + 1
    arguments[output] = str(tmp_path / arguments[output])
    command = [sys.executable, "-m", "sruplift", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    with Image.open(arguments[output]) as large:
        assert large.size == (1024, 1024)


def test_python_example() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    with Image.open(PHOTO) as bridge:
        names = {"picture": bridge.crop((0, 0, 20, 10))}
    exec(example, names)
    assert names["large"].size == (80, 40)


def test_figures_are_the_manifests() -> None:
    rows = re.findall(r"^\| `(\w[\w-]*)` x(\d) \|(.*)\|$", README, flags=re.MULTILINE)
    manifest = read_manifest()
    assert {(model, int(scale)) for model, scale, _ in rows} == {
        (entry.model, entry.scale) for entry in manifest.weights
    }
    for model, scale, cells in rows:
        metrics = manifest.find(model, int(scale)).metrics
        names = ("Set5", "Set14", "BSD100")
        wanted = [f"{metrics[name].psnr_y:.2f} / {metrics[name].ssim_y:.4f}" for name in names]
        assert [cell.strip() for cell in cells.split("|")][: len(names)] == wanted


def _environment() -> dict[str, str]:
    """The program is found wherever it was imported from; the user's folder is elsewhere."""
    package = Path(sruplift.__file__).parent.parent
    return {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
