"""What an Android device is to adb, without a phone: a real arm64 adbd with mksh and toybox in namespaces.

Debian's adbd, its shell and its tools run under qemu-user in a user, mount, network and process namespace of
their own; nothing is installed on this machine. No bionic, no SELinux, no USB and no authorisation.
"""

from __future__ import annotations

import atexit
import functools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from hetero_devices.devices.adb import build
from hetero_devices.devices.remote import RemoteDevice
from hetero_devices.native import build_runner
from tests.device_tools import missing, need_tool
from tests.sshd import until

SERIAL = "127.0.0.1:5600"  # outside 5555 to 5585, where adb looks for emulators by itself
_SUITE = "trixie"  # the first with an adbd, and a qemu that shows programs an ARM processor
_PACKAGES = "adbd,mksh,toybox,libstdc++6,libgcc-s1"
_WHEELS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")

_ELF_AARCH64 = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_ELF_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"

_BOOT = f"""\
set -e
root=$1 qemu=$2 data=$3 port=$4
mount -t tmpfs none /mnt
mkdir /mnt/formats
mount -t binfmt_misc none /mnt/formats
printf %s ':hetero:M::{_ELF_AARCH64}:{_ELF_MASK}:'"$qemu"':F' >/mnt/formats/register
mount --bind "$root" "$root"
mount -t proc none "$root/proc"
mount -t sysfs none "$root/sys"
mount --rbind /dev "$root/dev"
mount --bind "$data" "$root/data/local/tmp"
ip link set lo up
exec env -i PATH=/system/bin:/usr/bin HOME=/data/local/tmp ADBD_PORT="$port" \\
  "$(command -v chroot)" "$root" /usr/sbin/adbd
"""


@dataclass(frozen=True)
class Android:
    """A running device. adb: words that start its client. data: its /data/local/tmp. pid: its init."""

    adb: tuple[str, ...]
    data: Path
    pid: int

    def call(self, *words: str) -> str:
        done = subprocess.run([*self.adb, *words], capture_output=True, text=True, check=False, timeout=60)
        return done.stdout + done.stderr

    def connect(self) -> None:
        until(lambda: "connected" in self.call("connect", SERIAL).split(), seconds=60)

    def device(self, name: str = "phone", **changes: Any) -> RemoteDevice:
        program, libraries = runner()
        connection: dict[str, Any] = {
            "adb": list(self.adb),
            "serial": SERIAL,
            "program": str(program),
            "libraries": [str(library) for library in libraries],
        }
        return build(name, connection | changes)

    def inside(self, *argv: str) -> None:
        """Run a command of this machine where the device's mounts are."""
        enter = ["nsenter", "-t", str(self.pid), "-U", "--preserve-credentials", "-m"]
        subprocess.run([*enter, *argv], check=True)

    def processes(self) -> str:
        """What runs on the device; nobody there collects the dead, as a phone's init does."""
        listed = self.call("-s", SERIAL, "shell", "ps -A -o S,ARGS").splitlines()
        return "\n".join(line for line in listed if not line.startswith("Z"))


@contextmanager
def boot(folder: Path) -> Iterator[Android]:
    """A device for the length of the context; `folder` is for its data. Skips where it cannot be."""
    for program, package in (
        ("adb", "adb"),
        ("mmdebstrap", "mmdebstrap"),
        ("unshare", "util-linux"),
        ("ip", "iproute2"),
    ):
        need_tool(program, package)
    for name in ("data", "home"):
        (folder / name).mkdir(parents=True)
    arguments = [str(root()), str(qemu()), str(folder / "data"), SERIAL.rpartition(":")[2]]
    namespaces = ["--user", "--map-root-user", "--mount", "--net", "--pid", "--fork", "--kill-child"]
    argv = ["unshare", *namespaces, "sh", "-c", _BOOT, "boot", *arguments]
    with (folder / "log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            yield from _booted(process, folder)
        finally:
            process.send_signal(signal.SIGKILL)  # unshare ignores others; its child goes with it


def _booted(process: subprocess.Popen[bytes], folder: Path) -> Iterator[Android]:
    log = folder / "log"
    until(lambda: b"adbd started" in log.read_bytes() or process.poll() is not None, seconds=60)
    if process.poll() is not None:
        missing(f"adbd does not start in namespaces here: {log.read_text().strip().splitlines()[-1:]}")
    (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    enter = ("nsenter", "-t", first, "-U", "--preserve-credentials", "-n")
    environment = ("env", "-u", "LC_ALL", f"HOME={folder / 'home'}")
    android = Android((*enter, *environment, "adb"), folder / "data", int(first))
    android.connect()
    try:
        yield android
    finally:
        android.call("kill-server")


@functools.cache
def root() -> Path:
    """The device's files: 45 MB, made once."""
    return cached("android-root", _make_root)


@functools.cache
def qemu() -> Path:
    """A qemu-aarch64 that needs nothing of its machine."""
    return cached("qemu", _make_qemu) / "qemu-aarch64"


@functools.cache
def runner() -> tuple[Path, list[Path]]:
    """The C runner built for arm64 and the runtimes' libraries out of their arm64 wheels."""
    need_tool("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    libraries = sorted(cached("android-libraries", _make_libraries).iterdir())
    folder = Path(tempfile.mkdtemp(prefix="hetero-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return build_runner("aarch64", folder / "runner"), libraries


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """A folder that stays between test runs, made once, whole or not at all."""
    base = Path(os.environ.get("HETERO_TESTS_CACHE") or Path.home() / ".cache/hetero-tests")
    if not (base / name).is_dir():
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=base) as temporary:
            try:
                make(Path(temporary) / "made")
            except subprocess.CalledProcessError as error:
                missing(f"cannot fetch {name}: {error.stderr.decode(errors='replace').strip()[-300:]}")
            os.replace(Path(temporary) / "made", base / name)
    return base / name


def _make_root(folder: Path) -> None:
    _packages(folder, "arm64", _PACKAGES)
    for name in ("bin", "lib", "sbin"):
        (folder / name).symlink_to(f"usr/{name}")
    for name in ("proc", "sys", "data/local/tmp", "system"):
        (folder / name).mkdir(parents=True)
    (folder / "system/bin").symlink_to("../usr/bin")
    (folder / "usr/bin/sh").symlink_to("mksh")
    (folder / "etc/passwd").write_text("root:x:0:0::/data/local/tmp:/bin/sh\n")
    listing = [str(qemu()), "-L", str(folder), str(folder / "usr/bin/toybox")]
    for tool in subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split():
        if not (folder / "usr/bin" / tool).exists():
            (folder / "usr/bin" / tool).symlink_to("toybox")


def _make_qemu(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as whole:
        _packages(Path(whole) / "root", "", "qemu-user")
        folder.mkdir()
        shutil.move(Path(whole) / "root/usr/bin/qemu-aarch64", folder)


def _packages(folder: Path, architecture: str, packages: str) -> None:
    """Debian packages unpacked, none of their scripts run."""
    mode = ["--mode=root" if os.geteuid() == 0 else "--mode=unshare", "--variant=extract"]
    foreign = [f"--architectures={architecture}"] if architecture else []
    argv = ["mmdebstrap", *mode, *foreign, f"--include={packages}", _SUITE, str(folder)]
    subprocess.run(argv, check=True, capture_output=True)


def _make_libraries(folder: Path) -> None:
    folder.mkdir()
    wanted = {"onnxruntime": "libonnxruntime.so.", "ai-edge-litert": "libLiteRt.so"}
    with tempfile.TemporaryDirectory() as wheels:
        platforms = [f"--platform={platform}" for platform in _WHEELS]
        versions = [f"{name}=={metadata.version(name)}" for name in wanted]
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--python-version=3.11", *platforms]
        argv = [sys.executable, "-m", "pip", "download", *options, "-d", wheels, *versions]
        subprocess.run(argv, check=True, capture_output=True)
        for wheel in Path(wheels).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if Path(name).name.startswith(tuple(wanted.values())):
                        (folder / Path(name).name).write_bytes(archive.read(name))


def stub_adb(folder: Path, says: str, code: int = 1) -> list[str]:
    """A program in adb's place that only says one thing: for states that need a phone and a cable."""
    path = folder / "adb stub"
    path.write_text(f"#!/bin/sh\necho {shlex.quote(says)} >&2\nexit {code}\n")
    path.chmod(0o755)
    return [str(path)]
