"""The device side imports with numpy and the standard library alone."""

from __future__ import annotations

import os
import subprocess
import sys

WALK = """
import importlib, pkgutil, sys
ALLOWED = sys.stdlib_module_names | {"numpy", "hetero_devices"}
class OnlyNumpy:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED:
            raise ModuleNotFoundError(f"forbidden here: {name}", name=name)
sys.meta_path.insert(0, OnlyNumpy)
import hetero_devices
for module in pkgutil.walk_packages(hetero_devices.__path__, "hetero_devices."):
    importlib.import_module(module.name)
    print(module.name)
"""


def test_every_module_imports_with_only_numpy() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    argv = [sys.executable, "-c", WALK]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = {"runner", "verify", "bundle.reader", "runtimes.onnx", "runtimes.litert", "devices.host"}
    assert {f"hetero_devices.{name}" for name in expected} <= set(done.stdout.split())
