"""What goes wrong behind ssh, each for real: cut lines, full disks, damage, hanging, rivals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetero_devices.devices import Job, embed, embed_in_shards
from hetero_devices.devices.remote import RemoteDevice
from hetero_devices.errors import DeviceBusy, DeviceError, MissingExtra, TransferError
from hetero_devices.verify import verify
from tests.device_tools import missing
from tests.sshd import Line, Sshd, alive, children, serve, until

pytestmark = pytest.mark.slow

SLOW = "sleep 600"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Sshd]:
    with serve(tmp_path / "machine") as machine:
        yield machine


@pytest.fixture
def work(machine: Sshd, tiny_onnx: Any, net: Any) -> Any:
    """`work(device, count=3)` embeds images and checks that the embeddings are right."""
    model = tiny_onnx()

    def embeds(device: RemoteDevice, count: int = 3) -> None:
        embeddings, _ = embed(device, model, net.images(count))
        np.testing.assert_allclose(embeddings, net.embed(net.images(count)), atol=1e-5)

    return embeds


@contextmanager
def in_background(device: RemoteDevice, job: Job) -> Iterator[list[Exception]]:
    """A job in a thread; the errors it ended with."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            device.run(job)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield errors
    thread.join(timeout=60)
    assert not thread.is_alive()


@pytest.fixture
def job(tiny_onnx: Any, net: Any, tmp_path: Path) -> Job:
    np.save(tmp_path / "images.npy", net.images(3))
    return Job(model=str(tiny_onnx()), images=str(tmp_path / "images.npy"))


def test_line_cut_while_images_travel(machine: Sshd, work: Any) -> None:
    line = Line(machine.port, after=1_500_000)  # the runner and the model pass, the images do not
    cut = pytest.raises(DeviceError, match=r"^pi: the connection (failed|was lost)")
    with closing(machine.device(through=line.port)) as device, cut as raised:
        work(device, 20_000)
    assert "\n" not in str(raised.value)
    until(lambda: not list((machine.workspace / "incoming").glob("*")))
    assert not list((machine.workspace / "jobs").rglob("images.npy")), "no half of a file has its name"
    with closing(machine.device()) as device:
        work(device)
        assert not list((machine.workspace / "jobs").glob("*"))


@pytest.mark.parametrize("how", ["line", "sshd"])
def test_connection_cut_while_the_job_runs(machine: Sshd, work: Any, job: Job, how: str) -> None:
    line = Line(machine.port)
    python = machine.python(SLOW)
    with (
        closing(machine.device(through=line.port, python=python)) as device,
        in_background(device, job) as errors,
    ):
        until(machine.runs)
        if how == "line":
            line.cut()
        else:
            for pid in machine.sessions():
                if b"sshd" in Path(f"/proc/{pid}/comm").read_bytes():
                    os.kill(pid, signal.SIGKILL)
    assert len(errors) == 1
    assert isinstance(errors[0], DeviceError)
    assert str(errors[0]).startswith("pi: the connection ")
    until(lambda: not alive(machine.runs()[0]))
    machine.python("")
    with closing(machine.device(python=python)) as device:
        work(device)


def test_connection_that_hangs(machine: Sshd, job: Job) -> None:
    impatient = ["ServerAliveInterval=1", "ServerAliveCountMax=2", "ConnectTimeout=2"]
    with (
        closing(machine.device(python=machine.python(SLOW), options=impatient)) as device,
        in_background(device, job) as errors,
    ):
        until(machine.runs)
        assert machine.process is not None
        for pid in (machine.process.pid, *machine.sessions()):
            os.kill(pid, signal.SIGSTOP)
    assert len(errors) == 1
    assert "pi: the connection " in str(errors[0])


@pytest.mark.parametrize("how", ["kill -STOP $$", SLOW, f"(trap '' TERM HUP INT; {SLOW})"])
def test_job_that_hangs_is_killed(machine: Sshd, work: Any, job: Job, how: str) -> None:
    python = machine.python(how)
    with closing(machine.device(python=python, timeout=2.0)) as device:
        with pytest.raises(DeviceError, match=r"^pi: .*hooked did not end within 2 s$"):
            device.run(job)
        (run,) = machine.runs()
        until(lambda: not alive(run))
        assert not [pid for pid in machine.sessions() if b"sleep" in command(pid)]
        machine.python("")
        work(device)


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(("size", "count", "message"), [
    ("64k", 3, "pi: no space left on the device: free some, or delete old models in .*/models"),
    ("900k", 5000, "pi: no space left on the device"),
    ("1300k", 5000, "no space left to write .*embeddings.npy"),
])  # fmt: skip
def test_disk_full(machine: Sshd, work: Any, tmp_path: Path, size: str, count: int, message: str) -> None:
    """Full when the runner comes, when the images come (960 kB), when the embeddings (320 kB) are written."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        missing("mounting a tmpfs as a small disk needs root")
    try:
        with closing(machine.device(workspace=str(disk / "work"))) as device:
            with pytest.raises(DeviceError, match=message):
                work(device, count)
            subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
            work(device, count)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_runner_and_workspace_that_vanish_are_brought_again(machine: Sshd, work: Any) -> None:
    with closing(machine.device()) as device:
        work(device)
        for runner in (machine.workspace / "runner").iterdir():
            runner.unlink()
        work(device)
        subprocess.run(["rm", "-rf", str(machine.workspace)], check=True)
        work(device)


def test_python_that_is_absent_or_of_another_machine(machine: Sshd, job: Job) -> None:
    absent = pytest.raises(DeviceError, match=r"^pi: the runner does not start: .*python9: not found$")
    with closing(machine.device(python="python9")) as device, absent:
        device.run(job)
    foreign = machine.folder / "bin/python-arm"
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00\x01\x00\x00\x00" + bytes(40)  # AArch64
    foreign.write_bytes(header)
    foreign.chmod(0o755)
    wrong = pytest.raises(DeviceError, match=r"^pi: the runner does not start: .*python-arm: .*[Ee]xec")
    with closing(machine.device(python="python-arm")) as device, wrong:
        device.run(job)


def test_packages_that_are_absent(machine: Sshd, tmp_path: Path, job: Job) -> None:
    """A Python without site-packages, then with numpy alone."""
    bare = machine.program("bare", f'exec {sys.executable} -S "$@"\n')
    with closing(machine.device(python=bare)) as device:
        with pytest.raises(DeviceError, match=r"numpy is not installed .* -m pip install numpy onnxruntime"):
            device.run(job)
        site = tmp_path / "site"
        site.mkdir()
        installed = Path(np.__file__).parents[1]
        for name in ("numpy", "numpy.libs"):
            (site / name).symlink_to(installed / name)
        machine.set(PYTHONPATH=str(site))
        with pytest.raises(MissingExtra, match=r"^pi: onnxruntime is not installed: run there: \S+ -m pip"):
            device.run(job)
        assert device.info()["runtimes"] == {"onnxruntime": None, "litert": None, "executorch": None}


# Calls of tar that unpack: the runner, the model, the job with its images.
@pytest.mark.parametrize(("call", "member"), [(1, 0), (2, 0), (3, 1)], ids=["runner", "model", "images"])
def test_damage_on_the_way_is_repaired(machine: Sshd, work: Any, call: int, member: int) -> None:
    damaging_tar(machine, f"[ $calls = {call} ]", member)
    with closing(machine.device()) as device:
        work(device)
    assert len((machine.home / "calls").read_text()) > 3, "it was sent once more"
    assert (machine.home / "damage").exists()


@pytest.mark.parametrize(("call", "member", "message"), [
    ("[ $calls -le 9 ]", 0, "pi: the runner was damaged on its way there, twice"),
    ("[ $calls != 1 ]", 1, "pi: the images images.npy did not arrive"),
])  # fmt: skip
def test_damage_that_returns_is_named(machine: Sshd, work: Any, call: str, member: int, message: str) -> None:
    damaging_tar(machine, call, member)
    with closing(machine.device()) as device, pytest.raises(TransferError, match=message):
        work(device)


def damaging_tar(machine: Sshd, when: str, member: int) -> None:
    """A tar that unpacks rightly and then changes a byte: what no encryption on the line can notice."""
    machine.program(
        "tar",
        f"""\
/bin/tar "$@" || exit
[ "$1" = -xof ] || exit 0
printf . >>"$HOME/calls"
calls=$(wc -c <"$HOME/calls")
if {when} && [ -f "$4/{member}" ]; then
  printf X | dd of="$4/{member}" bs=1 seek=200 conv=notrunc 2>>"$HOME/damage"
fi
""",
    )


def test_damage_on_the_way_back(machine: Sshd, work: Any, job: Job) -> None:
    damage = """\
if [ "$1" = -cf ] && {when}; then
  touch "$HOME/damaged"
  printf X | dd of=embeddings.npy bs=1 seek=140 conv=notrunc 2>>"$HOME/damage"
fi
exec /bin/tar "$@"
"""
    machine.program("tar", damage.format(when='[ ! -e "$HOME/damaged" ]'))
    with closing(machine.device()) as device:
        work(device)
        assert (machine.home / "damaged").exists()
        machine.program("tar", damage.format(when=":"))
        with pytest.raises(TransferError, match="pi: the embeddings were damaged on their way back"):
            device.run(job)


def test_wrong_embeddings_are_caught(machine: Sshd, tiny_bundle: Path, tmp_path: Path) -> None:
    """A device whose arithmetic is off: files and digests are in order, the golden vectors are not met."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text("""\
import numpy
save = numpy.save
def wrong(file, array, **options):
    save(file, numpy.roll(array, 1, axis=1) if array.dtype == numpy.float32 else array, **options)
numpy.save = wrong
""")
    with closing(machine.device()) as device:
        assert all(check.passed for check in verify(tiny_bundle, device))
        machine.set(PYTHONPATH=str(tmp_path / "site"))
        failed = [check for check in verify(tiny_bundle, device) if not check.passed]
    files = ("model.fp32.onnx", "model.fp32.tflite", "model.int8.tflite")
    assert [check.name for check in failed] == [f"{file} parity" for file in files]


def test_verify_names_a_device_that_fails(machine: Sshd, tiny_bundle: Path) -> None:
    with closing(machine.device(python="python9")) as device:
        failed = [check for check in verify(tiny_bundle, device, formats=["onnx"]) if not check.passed]
    assert [check.name for check in failed] == ["model.fp32.onnx runs"]
    assert "the runner does not start" in failed[0].detail


def test_two_hosts_cannot_use_one_device(machine: Sshd, work: Any, job: Job) -> None:
    with closing(machine.device(python=machine.python("sleep 5"))) as first:
        with in_background(first, job) as errors:
            until(machine.runs)
            with closing(machine.device()) as second:
                with pytest.raises(DeviceBusy, match=rf"^pi is in use by .* \(process {os.getpid()}\): try"):
                    work(second)
                assert (machine.workspace / "jobs").exists(), "the job of the first is left alone"
        assert errors == []
        with closing(machine.device()) as second:
            work(second)


HOST = """
import sys, numpy
from pathlib import Path
from hetero_devices.devices import embed_in_shards
from hetero_devices.devices.ssh import build
host, port, identity, python, options = eval(sys.argv[1])
device = build("pi", dict(host=host, port=port, identity=identity, python=python, options=options))
images = numpy.load(sys.argv[3])
embed_in_shards(device, Path(sys.argv[2]), images, Path(sys.argv[4]), shard=2)
"""


def test_host_killed_in_the_middle(machine: Sshd, tiny_onnx: Any, net: Any, tmp_path: Path) -> None:
    """Of five shards two are done when the host is killed in the third; three are left to do."""
    python = machine.python('[ "$(wc -l <"$HOME/runs")" != 3 ] || sleep 600')
    model, images, shards = tiny_onnx(), net.images(10), tmp_path / "shards"
    np.save(tmp_path / "images.npy", images)
    options = ["HostKeyAlias=pi", f"UserKnownHostsFile={machine.folder}/known"]
    connection = ("127.0.0.1", machine.port, str(machine.folder / "user"), python, options)
    argv = [
        sys.executable,
        "-c",
        HOST,
        repr(connection),
        str(model),
        str(tmp_path / "images.npy"),
        str(shards),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(argv, env=environment) as host:
        until(lambda: len(machine.runs()) == 3, seconds=60)
        host.kill()
    until(lambda: not alive(machine.runs()[2]))
    assert len(list(shards.glob("*/*"))) == 2
    with closing(machine.device(python=python)) as device:
        result = embed_in_shards(device, model, images, shards, shard=2)
        assert len(machine.runs()) == 6, "two shards, the one that was killed, and three more"
        whole = embed_in_shards(device, model, images, tmp_path / "whole", shard=2)
    assert result.embeddings is not None
    np.testing.assert_array_equal(result.embeddings, whole.embeddings)
    assert not list((machine.workspace / "jobs").glob("*")), "the job of the killed host is cleared"
    assert not children(host.pid)
