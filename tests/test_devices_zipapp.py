"""The runner as one file: the same bytes wherever it is built, and it runs alone."""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hetero_devices
from hetero_devices.devices.zipapp import runner_bytes, write_runner

PRINT = """
import hashlib, sys
from hetero_devices.devices.zipapp import runner_bytes
print(hashlib.sha256(runner_bytes()).hexdigest())
"""


@pytest.fixture
def runner(tmp_path: Path) -> Path:
    write_runner(tmp_path / "runner.pyz")
    return tmp_path / "runner.pyz"


def run(*argv: object, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in argv]
    return subprocess.run(words, env=environment, cwd="/", capture_output=True, text=True, check=False)


def test_same_bytes_from_a_copy_without_caches(runner: Path, tmp_path: Path) -> None:
    package = Path(hetero_devices.__file__).parent
    shutil.copytree(package, tmp_path / "copy/hetero_devices", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "copy/hetero_devices/profiles").mkdir(exist_ok=True)
    (tmp_path / "copy/hetero_devices/profiles/x.toml").write_text("as in a wheel")
    done = run(sys.executable, "-c", PRINT, PYTHONPATH=str(tmp_path / "copy"))
    digest = hashlib.sha256(runner.read_bytes()).hexdigest()
    assert done.stdout.strip() == digest, done.stderr
    assert run(sys.executable, "-c", PRINT, PYTHONPATH=str(runner)).stdout.strip() == digest, "from itself"


def test_it_holds_sources_alone(runner: Path) -> None:
    names = zipfile.ZipFile(runner).namelist()
    assert "__main__.py" in names
    assert all(name.endswith(".py") for name in names)
    assert len(runner_bytes()) < 1_000_000


def test_it_runs_by_itself(runner: Path) -> None:
    done = run(sys.executable, runner, "info")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runtimes"]["onnxruntime"]
    assert runner.stat().st_mode & 0o111 == 0o111


@pytest.mark.slow
def test_it_verifies_a_bundle(runner: Path, tiny_bundle: Path) -> None:
    done = run(sys.executable, runner, "verify", tiny_bundle)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_it_lacks_is_one_line(runner: Path) -> None:
    done = run(sys.executable, "-S", runner, "info")
    assert done.returncode == 1
    assert done.stderr.startswith("error: numpy is not installed on this device: run there: ")
    assert len(done.stderr.splitlines()) == 1


def test_an_older_python_is_told_so(runner: Path) -> None:
    """Its first lines are words that old versions understand; the version itself is pretended."""
    main = zipfile.ZipFile(runner).read("__main__.py").decode()
    ast.parse(main, feature_version=(3, 4))
    pretend = (
        "import sys, runpy; sys.version_info = (3, 9, 2); runpy.run_path(sys.argv[1], run_name='__main__')"
    )
    done = run(sys.executable, "-c", pretend, runner)
    assert done.returncode == 1
    told = f"error: the runner needs Python 3.11 or newer, {sys.executable} is Python 3.9\n"
    assert done.stderr == told
