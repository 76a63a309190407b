"""An ARM machine in a folder: qemu-user, an arm64 Python, and the ARM wheels of both runtimes.

Nothing is installed and no other user's rights are needed: packages come through this machine's own apt
sources and pip index into folders of their own, and are only unpacked.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from hetero_devices import strict
from hetero_devices.errors import DeviceError
from hetero_devices.files import atomic_directory, atomic_file, read_json, write_json

WHEELS = {
    "numpy": "2.4.6",
    "onnxruntime": "1.31.1",
    "ai-edge-litert": "2.3.0",
    "flatbuffers": "25.12.19",
    "protobuf": "7.36.2",
}
"""Distributions of the emulated machine, pinned: a comparison with a device should not drift by itself."""

_ROOT_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1", "zlib1g")
_QEMU_PACKAGES = ("qemu-user-static", "qemu-user")  # whichever holds the program that needs no libraries
_PLATFORMS = ("manylinux_2_27_aarch64", "manylinux_2_28_aarch64", "manylinux2014_aarch64")
_DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
_RECORD = "emulation.json"

_V80 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_V82 = f"{_V80} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
_SVE = f"{_V82} jscvt fcma sha3 sha512 sve dcpodp flagm ssbs svei8mm svebf16 i8mm bf16"
_SVE2 = f"{_SVE} sve2 sveaes svebitperm svesha3 svesm4 flagm2"

CORES = {
    "cortex-a35": ("0xd04", _V80),
    "cortex-a53": ("0xd03", _V80),
    "cortex-a55": ("0xd05", _V82),
    "cortex-a57": ("0xd07", _V80),
    "cortex-a72": ("0xd08", _V80),
    "cortex-a76": ("0xd0b", _V82),
    "cortex-a710": ("0xd47", _SVE2),
    "neoverse-n1": ("0xd0c", _V82),
    "neoverse-v1": ("0xd40", _SVE),
}
"""Processor cores by qemu's name: part number and features as /proc/cpuinfo of such a machine shows them."""

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Emulation:
    """A finished set-up; paths start at its folder. versions: of what runs, by name."""

    qemu: str
    root: str
    python: str
    site: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Machine:
    """The emulated machine in `folder`, with one processor core."""

    folder: Path
    emulation: Emulation
    cpu: str

    def argv(self, program: Path) -> list[str]:
        """The words that start an arm64 program of this machine on it."""
        qemu = self.folder / self.emulation.qemu
        return [str(qemu), "-cpu", self.cpu, "-L", str(_root_of_core(self)), str(program)]

    @property
    def python(self) -> Path:
        return self.folder / self.emulation.root / self.emulation.python

    @property
    def site(self) -> Path:
        """Where the ARM wheels are unpacked."""
        return self.folder / self.emulation.site


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/hetero/emulated`, by default under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hetero" / "emulated"


def check_cpu(cpu: str) -> None:
    """DeviceError unless `cpu` is a named core; `max` is none."""
    if cpu.partition(",")[0] == "max":
        raise DeviceError(
            "cpu 'max' is refused: qemu 7.2 computes wrong int8 embeddings with it and says nothing; "
            "name a core, e.g. cortex-a76"
        )
    if cpu not in CORES:
        raise DeviceError(f"there is no core {cpu!r} to emulate: known are {', '.join(CORES)}")


def open_machine(cache: Path, cpu: str) -> Machine:
    """The machine set up in `cache`; DeviceError when it is not, or was for other versions."""
    check_cpu(cpu)
    record = cache / _RECORD
    if not record.is_file():
        raise DeviceError(f"no emulated machine at {cache}: run 'hetero devices setup emulated'")
    emulation = strict.decode(Emulation, read_json(record), str(record), DeviceError)
    if {name: emulation.versions.get(name) for name in WHEELS} != WHEELS:
        raise DeviceError(f"the emulated machine at {cache} is outdated: run 'hetero devices setup emulated'")
    return Machine(cache, emulation, cpu)


def set_up(cache: Path, *, sources: Sequence[str] = (), progress: Progress = lambda text: None) -> Machine:
    """Make the emulated machine in `cache`, or finish one that was begun; about 60 MB are downloaded.

    sources: apt source lines ("deb URL SUITE main") to take the packages from instead of this machine's
    sources, which may have no arm64 packages (Ubuntu keeps them elsewhere). progress: told of every step.
    Each part is whole or absent: interrupted, the same call goes on with the part it was at.
    Raises DeviceError, in one line, when a tool is missing or a download fails.
    """
    _need_tools()
    cache = cache.absolute()
    qemu = _qemu(cache, sources, progress)
    root, python = _root(cache, sources, progress)
    site = _site(cache, python, progress)
    versions = {**WHEELS, "qemu": _qemu_version(cache / qemu), "python": _debian_python(root)}
    emulation = Emulation(
        qemu=qemu, root=root.name, python=str(python.relative_to(root)), site=site.name, versions=versions
    )
    for cpu in CORES:  # now, so that jobs side by side find them made
        _root_of_core(Machine(cache, emulation, cpu))
    write_json(cache / _RECORD, asdict(emulation))
    return open_machine(cache, "cortex-a76")


def _need_tools() -> None:
    tools = {"apt-get": "apt", "dpkg-deb": "dpkg", "tar": "tar"}
    missing = [package for tool, package in tools.items() if shutil.which(tool) is None]
    if missing:
        raise DeviceError(
            f"setting up the emulated machine needs {', '.join(missing)}: it works on Debian and Ubuntu"
        )
    done = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False)
    if done.returncode:
        raise DeviceError(f"setting up the emulated machine needs pip: {sys.executable} -m ensurepip")


def _qemu(cache: Path, sources: Sequence[str], progress: Progress) -> str:
    """Path, from `cache`, of a qemu-aarch64 that needs no libraries, unpacked from the host's packages."""
    target = cache / "qemu"
    if not target.is_dir():
        progress("qemu-user")
        architecture = _DEBIAN.get(platform.machine())
        if architecture is None:
            raise DeviceError(f"there is no qemu for hosts with {platform.machine()} processors here")
        with _apt(architecture, sources) as apt, atomic_directory(target) as folder:
            shutil.copyfile(_static_qemu(apt), folder / "qemu-aarch64")
            (folder / "qemu-aarch64").chmod(0o755)
    return f"{target.name}/qemu-aarch64"


def _static_qemu(apt: _Apt) -> Path:
    """Download packages until one has the program."""
    for package in _QEMU_PACKAGES:
        folder = apt.folder / package
        if not apt.unpack(["download", package], folder):
            continue
        for name in ("qemu-aarch64-static", "qemu-aarch64"):
            program = folder / "usr/bin" / name
            if program.is_file() and not program.is_symlink() and _is_static(program):
                return program
    raise DeviceError(f"the apt sources have no static qemu-aarch64 in {' or '.join(_QEMU_PACKAGES)}")


def _is_static(program: Path) -> bool:
    """Whether the ELF file asks for no dynamic linker: it has no segment PT_INTERP (3)."""
    data = program.read_bytes()
    table, size, count = (
        int.from_bytes(data[start:end], "little") for start, end in ((32, 40), (54, 56), (56, 58))
    )
    segments = (data[table + i * size : table + i * size + 4] for i in range(count))
    return data[:4] == b"\x7fELF" and b"\x03\0\0\0" not in segments


def _qemu_version(qemu: Path) -> str:
    try:
        done = subprocess.run([str(qemu), "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise DeviceError(f"the downloaded qemu does not run: {error}") from None
    found = re.search(r"version (\S+)", done.stdout)
    return found[1] if found else "unknown"


def _root(cache: Path, sources: Sequence[str], progress: Progress) -> tuple[Path, Path]:
    """The arm64 root with a Python, and that Python: unpacked packages, none of whose scripts ever ran."""
    target = cache / "root"
    if not target.is_dir():
        progress("Python for arm64")
        with _apt("arm64", sources) as apt, atomic_directory(target) as folder:
            for name in ("lib", "bin", "sbin"):  # as every merged system has them
                (folder / "usr" / name).mkdir(parents=True)
                (folder / name).symlink_to(f"usr/{name}")
            install = ["install", "--download-only", "--yes", "--no-install-recommends", *_ROOT_PACKAGES]
            if not apt.unpack(install, folder):
                raise DeviceError(f"cannot get {', '.join(_ROOT_PACKAGES)} for arm64: {apt.reason}")
    pythons = [path for path in (target / "usr/bin").glob("python3.*") if path.name[8:].isdigit()]
    if not pythons:
        raise DeviceError(f"{target} has no Python: remove that folder and run the set-up again")
    return target, pythons[0]


def _debian_python(root: Path) -> str:
    """Major and minor version of the root's Python."""
    return next((root / "usr/lib").glob("python3.*/os.py")).parent.name.removeprefix("python")


def _site(cache: Path, python: Path, progress: Progress) -> Path:
    """The unpacked ARM wheels; named after their versions, so that other ones are another folder."""
    version = python.name.removeprefix("python")
    pins = [f"{name}=={pin}" for name, pin in WHEELS.items()]
    target = cache / f"site-{hashlib.sha256(' '.join([version, *pins]).encode()).hexdigest()[:12]}"
    if not target.is_dir():
        progress(f"{', '.join(pins)} for arm64")
        with tempfile.TemporaryDirectory(prefix="hetero-wheels-") as name:
            _download_wheels(Path(name), version, pins)
            with atomic_directory(target) as folder:
                for wheel in sorted(Path(name).glob("*.whl")):
                    zipfile.ZipFile(wheel).extractall(folder)
    return target


def _download_wheels(folder: Path, version: str, pins: list[str]) -> None:
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    argv += ["--dest", str(folder), "--python-version", version, "--implementation", "cp"]
    for name in _PLATFORMS:
        argv += ["--platform", name]
    done = subprocess.run([*argv, *pins], capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = errors[-1] if errors else (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise DeviceError(f"pip cannot download the ARM wheels: {reason[:300]}")


@dataclass
class _Apt:
    """apt with lists, cache and status in `folder`: it sees a machine where nothing is installed."""

    folder: Path
    options: list[str]
    reason: str = ""

    def run(self, arguments: Sequence[str], folder: Path) -> bool:
        """Whether `apt-get ARGUMENTS` succeeded; if not, `reason` is its first complaint."""
        environment = os.environ | {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
        argv = ["apt-get", "-q", *self.options, *arguments]
        done = subprocess.run(
            argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        complaints = [line for line in done.stderr.splitlines() if line.startswith("E: ")]
        self.reason = complaints[0][3:300] if complaints else f"apt-get ended with {done.returncode}"
        return done.returncode == 0

    def unpack(self, arguments: Sequence[str], target: Path) -> bool:
        """Download packages and unpack them all into `target`."""
        archives = self.folder / "cache/archives"
        for old in archives.glob("*.deb"):
            old.unlink()
        if not self.run(arguments, archives):
            return False
        for package in sorted(archives.glob("*.deb")):
            argv = ["dpkg-deb", "--fsys-tarfile", str(package)]
            _untar(argv, target)
        return True


def _untar(argv: Sequence[str], target: Path) -> None:
    """Unpack the archive that a command prints, through the links lib, bin and sbin of `target`."""
    target.mkdir(parents=True, exist_ok=True)
    tar = ["tar", "--extract", "--no-same-owner", "--keep-directory-symlink", "--directory", str(target)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as source:
        done = subprocess.run(tar, stdin=source.stdout, capture_output=True, text=True, check=False)
    if source.returncode or done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it is damaged"])[0]
        raise DeviceError(f"cannot unpack {Path(argv[-1]).name}: {reason}")


@contextmanager
def _apt(architecture: str, sources: Sequence[str]) -> Iterator[_Apt]:
    """A fresh apt for one architecture, its package lists fetched."""
    with tempfile.TemporaryDirectory(prefix="hetero-apt-") as name:
        folder = Path(name)
        for part in ("lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True)
        (folder / "status").touch()
        settings = {
            "Dir::State::Lists": folder / "lists",
            "Dir::Cache": folder / "cache",
            "Dir::State::status": folder / "status",
            "Debug::NoLocking": "1",
            "APT::Sandbox::User": "",  # the folder is ours alone
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
        }
        if sources:
            (folder / "sources.list").write_text("\n".join(sources) + "\n")
            settings |= {
                "Dir::Etc::SourceList": folder / "sources.list",
                "Dir::Etc::SourceParts": "/dev/null",
            }
        apt = _Apt(folder, [word for key, value in settings.items() for word in ("-o", f"{key}={value}")])
        if not apt.run(["update"], folder):
            raise DeviceError(f"apt cannot fetch the package lists: {apt.reason}")
        yield apt


def _root_of_core(machine: Machine) -> Path:
    """The root as a machine with that core sees it: links to the shared one, and its own /proc/cpuinfo.

    qemu before version 10 shows programs the host's /proc/cpuinfo, on which libraries for ARM crash or
    choose other kernels.
    """
    shared = machine.folder / machine.emulation.root
    target = machine.folder / "cores" / machine.cpu
    if not target.is_dir():
        with atomic_directory(target) as folder:
            for entry in shared.iterdir():
                if entry.name not in ("proc", "sys", "dev"):
                    (folder / entry.name).symlink_to(f"../../{shared.name}/{entry.name}")
            with atomic_file(folder / "proc/cpuinfo") as file:
                file.write_text(cpuinfo(machine.cpu, os.cpu_count() or 1))
    return target


def cpuinfo(cpu: str, count: int) -> str:
    """/proc/cpuinfo of a machine with `count` cores of the kind `cpu`."""
    part, features = CORES[cpu]
    fields = f"BogoMIPS\t: 50.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
    fields += f"CPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 1\n"
    return "".join(f"processor\t: {number}\n{fields}\n" for number in range(count))
