"""Compile the C runner with a compiler of this machine.

For phones the same files are compiled with the Android NDK: see docs/devices-emulated.md.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from hetero_devices.errors import DeviceError
from hetero_devices.files import atomic_file

Target = Literal["x86_64", "aarch64", "host"]

SOURCE = Path(__file__).with_name("runner.c")
FLAGS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror")
LIBRARIES = ("-ldl", "-lm")

_COMPILERS = {"x86_64": ("x86_64-linux-gnu-gcc", "gcc-x86-64-linux-gnu"),
              "aarch64": ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")}  # fmt: skip


def build_runner(target: Target, output: Path, *, flags: Sequence[str] = FLAGS) -> Path:
    """Compile the runner for Linux on `target` (`host`: this machine) into the file `output`, and return it.

    flags: what the compiler gets besides, e.g. sanitizers for a test.
    Raises DeviceError when the compiler is missing (it names the package) or refuses.
    """
    if target not in get_args(Target):
        raise DeviceError(f"the C runner is built for {', '.join(get_args(Target))}, not for {target!r}")
    compiler = _compiler(platform.machine() if target == "host" else target)
    with atomic_file(output) as temporary:
        argv = [compiler, *flags, str(SOURCE), "-o", str(temporary), *LIBRARIES]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            first = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
            raise DeviceError(f"{compiler} cannot compile {SOURCE.name}: {first}")
    output.chmod(output.stat().st_mode | 0o111)
    return output


def _compiler(machine: str) -> str:
    """The compiler for a machine: the plain one for this machine, else a cross compiler."""
    name, package = _COMPILERS.get(machine, ("", ""))
    names = ["gcc", "cc"] if machine == platform.machine() else [name]
    for candidate in names:
        if found := shutil.which(candidate):
            return found
    raise DeviceError(
        f"there is no C compiler for {machine}: apt install {'gcc' if 'gcc' in names else package}"
    )
