"""Jobs on an Android device: a real arm64 adbd, its shell and the C runner; two states by a stub of adb."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetero_devices.devices import HostDevice, Job, Stopping, Task, embed, embed_in_shards
from hetero_devices.devices.adb import build
from hetero_devices.errors import DeviceBusy, DeviceError, MissingExtra
from hetero_devices.native import build_runner
from hetero_devices.verify import verify
from tests.android import SERIAL, Android, boot, root, stub_adb
from tests.device_tools import need_tool
from tests.sshd import until

QUICK = Stopping(warm_up=1, min_samples=5, min_seconds=0.0, max_seconds=5.0)
LONG = Stopping(warm_up=0, min_samples=1, min_seconds=300.0, max_seconds=300.0)
RUNNING = "hetero-runner run jobs/"
STRANGE = """-x a'b"c;touch pwned\n$(touch pwned)`touch pwned`\\ & ü.onnx"""


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Android]:
    with boot(tmp_path_factory.mktemp("phone")) as android:
        yield android


@pytest.fixture
def phone(booted: Android) -> Android:
    booted.connect()
    return booted


@pytest.fixture
def images(tmp_path: Path, net: Any) -> str:
    np.save(tmp_path / "images.npy", net.images(7))
    return str(tmp_path / "images.npy")


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.fp32.onnx", "model.fp32.tflite", "model.int8.tflite"])
def test_embeds_and_measures(phone: Android, tiny_bundle: Path, net: Any, images: str, file: str) -> None:
    tasks: tuple[Task, ...] = ("embed", "latency", "memory")
    job = Job(model=str(tiny_bundle / file), images=images, tasks=tasks, stopping=QUICK)
    result = phone.device().run(job)
    here, _ = embed(HostDevice(), tiny_bundle / file, net.images(7))
    assert result.embeddings is not None
    np.testing.assert_allclose(result.embeddings, here, atol=5e-7)
    profile = result.profile
    assert profile.cpu.machine == "aarch64"
    assert profile.latency is not None
    assert profile.latency.samples == 5
    assert profile.peak_memory_mb is not None
    assert not list((phone.data / "hetero/jobs").glob("*")), "nothing of the job stays there"
    assert not list((phone.data / "hetero/incoming").glob("*"))


@pytest.mark.slow
def test_a_bundle_is_verified(phone: Android, tiny_bundle: Path) -> None:
    checks = verify(tiny_bundle, phone.device())
    assert all(check.passed for check in checks), checks


@pytest.mark.slow
def test_strange_names(phone: Android, tiny_onnx: Any, net: Any) -> None:
    model = tiny_onnx()
    strange = model.rename(model.with_name(STRANGE))
    device = phone.device(workspace=f"/data/local/tmp/work {STRANGE}")
    embeddings, _ = embed(device, strange, net.images(3))
    np.testing.assert_allclose(embeddings, net.embed(net.images(3)), atol=1e-5)
    words = [*STRANGE.split(" "), "", "*"]
    assert device.transport.run(["printf", "%s|", *words], timeout=60).stdout == "|".join([*words, ""])
    assert not list(phone.data.rglob("pwned"))


@pytest.mark.slow
def test_commands_end_as_they_do(phone: Android) -> None:
    transport = phone.device().transport
    done = transport.run(["sh", "-c", "echo out; echo last words >&2; exit 3"], timeout=60)
    assert (done.returncode, done.stdout, done.last_line) == (3, "out\n", "last words")
    assert transport.run(["sh", "-c", "exit 255"], timeout=60).returncode == 255
    assert transport.run(["cat"], timeout=60).stdout == "", "its input is empty"


@pytest.mark.slow
def test_files_keep_their_bits(phone: Android, tmp_path: Path) -> None:
    content = {f"{size}\n;": os.urandom(size) for size in (0, 1, 513, 3_000_000)}
    (tmp_path / "sent").mkdir()
    (tmp_path / "back").mkdir()
    for name, data in content.items():
        (tmp_path / "sent" / name).write_bytes(data)
    transport = phone.device().transport
    transport.put({f"deep/er/{name}": tmp_path / "sent" / name for name in content})
    transport.get("deep/er", [*content, "absent"], tmp_path / "back")
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == content


@pytest.mark.slow
def test_job_that_hangs_is_killed(phone: Android, tiny_onnx: Any, images: str) -> None:
    job = Job(model=str(tiny_onnx()), images=images, tasks=("latency",), stopping=LONG)
    with pytest.raises(DeviceError, match=r"^phone: .*hetero-runner did not end within 8 s$"):
        phone.device(timeout=8.0).run(job)
    until(lambda: "hetero-runner" not in phone.processes())


@pytest.mark.slow
def test_two_hosts_cannot_use_one_device(phone: Android, tiny_onnx: Any, images: str) -> None:
    job = Job(model=str(tiny_onnx()), images=images)
    long = Job(model=job.model, images=images, tasks=("latency",), stopping=LONG)
    first = phone.device(timeout=90.0)
    errors: list[Exception] = []

    def run() -> None:
        try:
            first.run(long)
        except DeviceError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: RUNNING in phone.processes(), seconds=60)
    with pytest.raises(DeviceBusy, match=rf"^phone is in use by .* \(process {os.getpid()}\): try later$"):
        phone.device().run(job)
    phone.call("kill-server")  # and with it goes the connection, in the middle of the job
    thread.join(timeout=120)
    assert [str(error) for error in errors] == ["phone: the connection was lost"]
    phone.connect()
    until(lambda: "hetero-runner" not in phone.processes())
    assert phone.device().run(job).embeddings is not None


HOST = """
import sys
from pathlib import Path
from hetero_devices.devices import Job, Stopping
from hetero_devices.devices.adb import build
stopping = Stopping(warm_up=0, min_samples=1, min_seconds=300.0, max_seconds=300.0)
connection, model, images = eval(sys.argv[1])
build("phone", connection).run(Job(model=model, images=images, tasks=("latency",), stopping=stopping))
"""


@pytest.mark.slow
def test_host_killed_in_the_middle(
    phone: Android, tiny_tflite: Any, net: Any, images: str, tmp_path: Path
) -> None:
    model = tiny_tflite()
    half = embed_in_shards(phone.device(), model, net.images(4), tmp_path / "shards", shard=2)
    device = phone.device()
    program, *libraries = device.runner.files.values()
    connection = {"adb": list(phone.adb), "serial": SERIAL, "program": str(program)}
    connection["libraries"] = list(map(str, libraries))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    argv = [sys.executable, "-c", HOST, repr((connection, str(model), images))]
    with subprocess.Popen(argv, env=environment) as host:
        until(lambda: RUNNING in phone.processes(), seconds=60)
        host.kill()
    until(lambda: "hetero-runner" not in phone.processes())
    again = embed_in_shards(device, model, net.images(4), tmp_path / "other", shard=2)
    assert half.embeddings is not None
    np.testing.assert_array_equal(half.embeddings, again.embeddings)
    assert not list((phone.data / "hetero/jobs").glob("*")), "the job of the killed host is cleared"


@pytest.mark.slow
def test_disk_full(phone: Android, tiny_onnx: Any, net: Any) -> None:
    small = "/data/local/tmp/small"
    (phone.data / "small").mkdir()
    mounted = f"{root()}{small}"
    phone.inside("mount", "-t", "tmpfs", "-o", "size=64k", "none", mounted)
    device = phone.device(workspace=f"{small}/work")
    with pytest.raises(
        DeviceError, match=f"^phone: no space left on the device: .* old models in {small}/work/"
    ):
        embed(device, tiny_onnx(), net.images(1))
    phone.inside("mount", "-o", "remount,size=100m", mounted)
    embed(device, tiny_onnx(), net.images(1))


@pytest.mark.slow
def test_runner_of_another_architecture(phone: Android, tiny_onnx: Any, net: Any, tmp_path: Path) -> None:
    need_tool("gcc", "gcc")
    program = build_runner("host", tmp_path / "runner")
    with pytest.raises(DeviceError, match=r"^phone: the runner does not start: .*hetero-runner"):
        embed(phone.device(program=str(program)), tiny_onnx(), net.images(1))


@pytest.mark.slow
def test_python_that_is_absent(phone: Android, tiny_onnx: Any, net: Any) -> None:
    with pytest.raises(DeviceError, match=r"^phone: the runner does not start: .*python3: .*not found"):
        embed(phone.device(runner="python"), tiny_onnx(), net.images(1))


@pytest.mark.slow
def test_runtime_that_is_absent(phone: Android, tiny_bundle: Path, net: Any) -> None:
    with pytest.raises(MissingExtra, match=r"^phone: ONNX Runtime is not there: put libonnxruntime"):
        embed(phone.device(libraries=[]), tiny_bundle / "model.fp32.onnx", net.images(1))


@pytest.mark.slow
def test_which_device(phone: Android) -> None:
    """No serial with one device, with two (the same one by two names), a wrong serial, none attached."""
    assert phone.device(serial=None).info()["cpu"]["machine"] == "aarch64"
    other = SERIAL.replace("127.0.0.1", "127.0.0.2")
    phone.call("connect", other)
    with pytest.raises(DeviceError, match=r"^phone: several devices are attached \(127.*device\), 127"):
        phone.device(serial=None).info()
    assert phone.device().info()["runtimes"]["onnxruntime"]
    phone.call("disconnect", other)
    with pytest.raises(DeviceError, match=rf"^phone: it is not attached \(attached: {SERIAL} \(device\)\)"):
        phone.device(serial="R58M").info()
    phone.call("disconnect")
    with pytest.raises(DeviceError, match=r"^phone: no device is attached: connect one and turn on Settings"):
        phone.device(serial=None).info()
    phone.connect()


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set", "has not authorised"),
        ("error: device still authorizing", "has not authorised this computer: unlock it"),
        ("error: device offline", "it is offline: plug it in again"),
        ("error: insufficient permissions for device: user in plugdev group", "may not use the USB device"),
        ("adb: failed to read data", "adb failed: adb: failed to read data"),
        ("", "the connection was lost"),
    ],
)
def test_states_that_only_a_phone_can_show(tmp_path: Path, says: str, message: str) -> None:
    """What adb prints then, by a stub: the words are adb's own, the device is none."""
    device = build("phone", {"adb": stub_adb(tmp_path, says), "runner": "python"})
    with pytest.raises(DeviceError, match=f"^phone: {message}" if "adb" in message else message) as raised:
        device.info()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("connection", "message"),
    [
        ({"adb": []}, "adb is started by words"),
        ({"adb": "adb -H other"}, r"adb is 'adb -H other', expected a list"),
        ({"adb": ["/absent/adb"], "runner": "python"}, "cannot start /absent/adb: No such file"),
        ({"serial": "-x"}, "is no serial"),
        ({"serial": "a b"}, "is no serial"),
        ({"workspace": "hetero"}, "is no absolute path on a device"),
        ({}, "needs the C runner built for it: set `program`"),
        ({"program": "/absent/runner"}, "there is no file /absent/runner"),
        ({"runner": "java"}, "expected 'c' or 'python'"),
    ],
)
def test_connections_that_make_no_sense(connection: dict[str, Any], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        build("phone", connection).info()
