"""The rules of the repository that code can check."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from sruplift.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent


def test_a_module_imports_only_from_a_lower_level() -> None:
    assert lint_imports(str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS


def test_every_module_has_a_level() -> None:
    """A module that no layer names would escape the rule."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = config["tool"]["importlinter"]["contracts"]
    named = {name.strip() for layer in contract["layers"] for name in layer.split("|")}
    package = Path(str(resources.files("sruplift")))
    modules = {f"sruplift.{file.stem}" for file in package.glob("*.py")} - {"sruplift.__init__"}
    packages = {f"sruplift.{file.parent.name}" for file in package.glob("*/__init__.py")}
    assert modules | packages == named


def test_help_and_names_load_without_torch() -> None:
    code = (
        "import sys, sruplift, sruplift.cli.main\n"
        "sruplift.cli.main.make_app()\n"
        "from sruplift.manifest import read_manifest\n"
        "read_manifest()\n"
        "heavy = {'torch', 'numpy', 'PIL', 'pydantic', 'accelerate', 'huggingface_hub'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_help_loads_nothing_that_does_the_work() -> None:
    code = (
        "import sys, sruplift.cli.main\n"
        "sruplift.cli.main.make_app()\n"
        "print(*sorted(m for m in sys.modules if m.startswith('sruplift.') and m.count('.') == 1))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "sruplift.cli",
        "sruplift.errors",
        "sruplift.files",
        "sruplift.heap",
    ]


def commands_loaded(*arguments: str) -> set[str]:
    code = (
        "import sys; from sruplift.cli.main import COMMANDS, make_app\n"
        f"make_app({arguments})\n"
        "print(*(name for name in COMMANDS if f'sruplift.cli.{COMMANDS[name]}' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_command_loads_no_other() -> None:
    assert commands_loaded("upscale", "photo.png") == {"upscale"}
    assert commands_loaded("eval", "compare", "a.json") == {"eval", "compare"}
    # Help and mistakes tell of all of them.
    assert commands_loaded() == commands_loaded("upscal", "train") == set(COMMANDS)


def test_loading_any_network_loads_no_more_than_torch() -> None:
    """PyTorch has parts that take seconds to import, such as its shape functions."""
    code = (
        "import sys\n"
        "from sruplift.manifest import read_manifest\n"
        "from sruplift.weights import load_model\n"
        "for entry in read_manifest().weights: load_model(entry.model, entry.scale)\n"
        "heavy = {'sympy', 'pydantic', 'accelerate', 'torch._dynamo', 'torch._inductor'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_lazy_names_exist() -> None:
    import sruplift

    for name in sruplift.__all__:
        assert getattr(sruplift, name) is not None
