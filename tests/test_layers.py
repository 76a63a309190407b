"""The arrows of dependence: hetero_devices <- hetero <- hetero_export, and heavy imports only when needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "hetero_devices": {"hetero_devices"},
    "hetero": {"hetero_devices", "hetero"},
    "hetero_export": {"hetero_devices", "hetero", "hetero_export"},
}
FOLDERS = {"hetero_devices": ROOT / "devices", "hetero": ROOT, "hetero_export": ROOT / "export"}


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    names |= {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_is_below_them(package: str) -> None:
    for path in (FOLDERS[package] / package).rglob("*.py"):
        ours = imported(path) & set(ALLOWED)
        above = ours - ALLOWED[package]
        if path.is_relative_to(ROOT / "hetero" / "cli"):  # verbs reach up, inside their functions only
            above = imported(path, top_level_only=True) & {"hetero_export"}
        assert not above, f"{path.relative_to(ROOT)} imports {above}"


@pytest.mark.parametrize("statement", ["import hetero", "import hetero.cli", "import hetero_devices.runner"])
def test_light_imports_stay_light(statement: str) -> None:
    heavy = ("torch", "pydantic", "onnx", "onnxruntime", "PIL", "matplotlib", "rich")
    code = f"{statement}\nimport sys\nprint([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_generic_top_level_package_is_imported() -> None:
    for path in ROOT.rglob("*.py"):
        if ".venv" not in path.parts:
            own = {"tests"} if path.is_relative_to(ROOT / "tests") else set()  # tests share helpers
            assert not imported(path) & ({"export", "devices", "tests", "benchmarks"} - own), path
