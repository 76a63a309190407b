"""The built wheel, alone with what a device needs: no torch, no extras."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEVICE_PACKAGES = ("click", "numpy", "numpy.libs", "onnxruntime", "flatbuffers", "google", "packaging")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel, numpy, click and one runtime, linked so that it works offline."""
    folder = tmp_path_factory.mktemp("device")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    (target,) = folder.glob("lib/python*/site-packages")
    for name in DEVICE_PACKAGES:
        source = _installed(name)
        if source is not None:
            (target / name).symlink_to(source)
    return folder / "bin"


def _installed(name: str) -> Path | None:
    spec = importlib.util.find_spec(name) if "." not in name else None
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    numpy = importlib.util.find_spec("numpy")
    assert numpy is not None
    assert numpy.origin is not None
    beside = Path(numpy.origin).parents[1] / name
    return beside if beside.is_dir() else None


def test_the_wheel_holds_three_packages_and_their_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.partition("/")[0] for n in names if not n.startswith("hetero-")} == {
        "hetero",
        "hetero_devices",
        "hetero_export",
    }
    assert any(n.endswith(".schema.json") for n in names)
    assert any(n.startswith("hetero/report/templates/") for n in names)
    assert "hetero_devices/devices/browser/page/index.html" in names


def test_help_without_extras(device: Path) -> None:
    done = subprocess.run([device / "hetero", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout


def test_a_verb_that_needs_more_says_so(device: Path) -> None:
    done = subprocess.run([device / "hetero", "train", "demo"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: torch is not installed: pip install 'hetero[train]'\n"


def test_the_runner_verifies_a_bundle(device: Path, tiny_bundle: Path) -> None:
    command = [str(device / "hetero-device"), "verify", str(tiny_bundle), "--format", "onnx", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(check["passed"] for check in json.loads(done.stdout))


def test_the_runner_names_an_absent_runtime(device: Path, tiny_bundle: Path) -> None:
    command = [str(device / "hetero-device"), "verify", str(tiny_bundle), "--format", "tflite"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'hetero[device-litert]'" in done.stderr


def test_doctor_reports_what_is_missing(device: Path) -> None:
    done = subprocess.run([device / "hetero", "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install 'hetero[train]'" in done.stdout
