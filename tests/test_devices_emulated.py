"""The emulated ARM machine: refusals at once; in the slow tier its set-up, and parity with this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hetero_devices.bundle import Bundle
from hetero_devices.cpu import parse_flags, parse_model
from hetero_devices.devices import Job, build
from hetero_devices.devices.emulated import EmulatedDevice
from hetero_devices.devices.emulation import (
    CORES,
    WHEELS,
    Machine,
    cpuinfo,
    default_cache,
    open_machine,
    set_up,
)
from hetero_devices.devices.process import run_process
from hetero_devices.devices.profile import load_profile
from hetero_devices.errors import DeviceError
from hetero_devices.native import build_runner
from hetero_devices.runtimes import load
from hetero_devices.verify import cosine_distance
from tests.device_tools import missing, need_tool

FILES = [(format, precision) for format in ("onnx", "tflite") for precision in ("fp32", "int8")]
WITHIN = {"fp32": 1e-5, "int8": 1e-3}  # largest 1 - cosine, where the same kind of kernels runs


def one_line(error: pytest.ExceptionInfo[DeviceError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize("tasks", [("latency",), ("memory",), ("latency", "memory")])
def test_a_job_only_for_costs_is_refused(tasks: Any) -> None:
    with pytest.raises(DeviceError, match="emulated processor say nothing about a device") as raised:
        EmulatedDevice().run(Job(model="m.onnx", images="i.npy", tasks=tasks))
    one_line(raised)


@pytest.mark.parametrize(
    ("connection", "message"),
    [
        ({"cpu": "max"}, "cpu 'max' is refused: qemu 7.2 computes wrong int8 embeddings"),
        ({"cpu": "max,sve=off"}, "cpu 'max' is refused"),
        ({"cpu": "cortex-a76 -plugin x"}, "there is no core 'cortex-a76 -plugin x'"),
        ({"cpu": "../../x"}, "there is no core"),
        ({"core": "cortex-a53"}, "unknown key 'core'"),
        ({"timeout": "long"}, "timeout is 'long', expected number"),
    ],
)
def test_connections_that_are_refused(connection: dict[str, Any], message: str) -> None:
    with pytest.raises(DeviceError, match=message) as raised:
        build("e", load_profile("emulated-a53"), connection)
    one_line(raised)


def test_profiles_that_come_with_the_package() -> None:
    for core in ("a53", "a76"):
        device = build(f"emulated-{core}", load_profile(f"emulated-{core}"), {"timeout": 5})
        assert isinstance(device, EmulatedDevice)
        assert (device.name, device.cpu, device.timeout) == (f"emulated-{core}", f"cortex-{core}", 5)


def test_what_was_not_set_up_or_is_outdated(tmp_path: Path) -> None:
    device = EmulatedDevice(cache=str(tmp_path))
    job = Job(model="m.onnx", images="i.npy")
    with pytest.raises(DeviceError, match="run 'hetero devices setup emulated'"):
        device.run(job)
    record = {"qemu": "q", "root": "r", "python": "p", "site": "s", "versions": WHEELS | {"numpy": "1.0"}}
    (tmp_path / "emulation.json").write_text(json.dumps(record))
    with pytest.raises(DeviceError, match="is outdated: run 'hetero devices setup emulated'"):
        device.run(job)
    (tmp_path / "emulation.json").write_text(json.dumps({"qemu": "q"}))
    with pytest.raises(DeviceError, match="lacks the key"):
        device.run(job)


def test_default_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "hetero" / "emulated"


def test_cores_look_like_themselves() -> None:
    for core, (part, _) in CORES.items():
        text = cpuinfo(core, 4)
        assert text.count("processor") == 4
        assert parse_model(text) == f"implementer 0x41 part {part}"
    assert parse_flags(cpuinfo("cortex-a53", 1)) == ("asimd",)
    assert parse_flags(cpuinfo("cortex-a76", 1)) == ("asimd", "asimddp")
    assert {"i8mm", "sve"} <= set(parse_flags(cpuinfo("neoverse-v1", 1)) or ())


def test_set_up_without_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="needs apt, dpkg, tar: it works on Debian and Ubuntu"):
        set_up(tmp_path / "cache")


def test_set_up_without_sources_leaves_nothing(tmp_path: Path) -> None:
    need_tool("apt-get", "apt")
    sources = [f"deb [trusted=yes] file:{tmp_path}/absent ./"]
    with pytest.raises(DeviceError, match="apt") as raised:
        set_up(tmp_path / "cache", sources=sources)
    one_line(raised)
    assert not (tmp_path / "cache").exists() or list((tmp_path / "cache").iterdir()) == []


@pytest.fixture(scope="module")
def machine_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine of this session's own, or that of the user's cache where there is a current one."""
    need_tool("apt-get", "apt")
    try:
        open_machine(default_cache(), "cortex-a76")
    except DeviceError:
        folder = tmp_path_factory.mktemp("emulated") / "with space"
    else:
        return default_cache()
    try:
        set_up(folder)
    except DeviceError as error:
        missing(f"the emulated machine cannot be set up here: {error}")
    return folder


@pytest.fixture(scope="module")
def student_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from hetero_export.bundle import write_bundle
    from hetero_export.calibration import Calibration
    from tests.test_export_bundle import blobs, student

    return write_bundle(
        student(steps=20),
        tmp_path_factory.mktemp("student") / "bundle",
        name="student",
        calibration=Calibration(blobs(64, 100)),
        golden=blobs(12, 200),
        source={"seed": 0},
        precisions=("fp32", "int8"),
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.test_export_bundle import blobs

    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, blobs(8, 300))
    return path


def check_parity(found: npt.NDArray[np.float32] | None, here: npt.NDArray[np.float32], within: float) -> None:
    assert found is not None
    assert cosine_distance(found, here).max() <= within
    nearest = (found @ here.T).argmax(axis=1)
    np.testing.assert_array_equal(nearest, np.arange(len(here)))


@pytest.mark.slow
@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a76"])
@pytest.mark.parametrize(("format", "precision"), FILES)
def test_embeddings_are_those_of_this_machine(
    machine_folder: Path, student_bundle: Bundle, images: Path, core: str, format: str, precision: str
) -> None:
    model = student_bundle.path(student_bundle.model(format, precision))
    device = EmulatedDevice(cpu=core, cache=str(machine_folder))
    result = device.run(Job(model=str(model), images=str(images), tasks=("embed", "latency", "placement")))
    check_parity(result.embeddings, load(model).run(np.load(images)), WITHIN[precision])
    profile = result.profile
    assert (profile.emulated, profile.latency, profile.peak_memory_mb) == (True, None, None)
    assert profile.cpu.machine == "aarch64"
    assert ("asimddp" in (profile.cpu.flags or ())) == (core == "cortex-a76")
    assert profile.versions["core"] == core
    assert profile.placement is not None
    assert profile.runtime["xnnpack_partitions"] == {"onnx": None, "tflite": 1}[format]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_tool("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    return build_runner("aarch64", tmp_path_factory.mktemp("native") / "runner")


def native(machine: Machine, runner: Path, job: Job) -> Any:
    (onnxruntime,) = (machine.site / "onnxruntime/capi").glob("libonnxruntime.so.*")
    litert = machine.site / "ai_edge_litert/libLiteRt.so"
    environment = {"HETERO_ONNXRUNTIME": str(onnxruntime), "HETERO_LITERT": str(litert)}
    return run_process("native", machine.argv(runner), job, environment=environment, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize(("format", "precision"), FILES)
def test_c_runner_gives_the_bits_of_the_python_runner_on_arm(
    machine_folder: Path, runner: Path, student_bundle: Bundle, images: Path, format: str, precision: str
) -> None:
    machine = open_machine(machine_folder, "cortex-a76")
    job = Job(
        model=str(student_bundle.path(student_bundle.model(format, precision))),
        images=str(images),
    )
    python = EmulatedDevice(cache=str(machine_folder)).run(job)
    found = native(machine, runner, job)
    np.testing.assert_array_equal(found.embeddings, python.embeddings)
    assert found.profile.cpu == python.profile.cpu
    for key in ("runtime", "input_dtype", "batch", "xnnpack_partitions"):
        assert found.profile.runtime[key] == python.profile.runtime[key]


@pytest.fixture
def blind_core(machine_folder: Path, tmp_path: Path) -> Path:
    """The machine with a processor that tells the runtimes nothing of itself, as in a chroot without /sys."""
    folder = tmp_path / "machine"
    folder.mkdir()
    for entry in machine_folder.iterdir():
        if entry.name != "cores":
            (folder / entry.name).symlink_to(entry)
    machine = open_machine(folder, "cortex-a76")
    core = Path(machine.argv(machine.python)[4])
    (core / "proc/cpuinfo").write_text("")
    (core / "sys/devices/system/cpu").mkdir(parents=True)
    for name in ("possible", "present", "online", "kernel_max"):
        (core / "sys/devices/system/cpu" / name).touch()
    return folder


@pytest.mark.slow
def test_missing_xnnpack_is_reported(blind_core: Path, runner: Path, tiny_bundle: Path) -> None:
    model = tiny_bundle / "model.fp32.tflite"
    job = Job(model=str(model), images=str(tiny_bundle / "golden/images.npy"))
    with pytest.raises(DeviceError, match=r"ran model\.fp32\.tflite without XNNPACK"):
        EmulatedDevice(cache=str(blind_core)).run(job)
    with pytest.raises(DeviceError, match=r"cannot load model\.fp32\.tflite with LiteRT: Error in cpuinfo: "):
        native(open_machine(blind_core, "cortex-a76"), runner, job)  # that interface falls back to nothing


@pytest.mark.slow
def test_interrupted_set_up_goes_on(machine_folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "qemu").symlink_to(machine_folder / "qemu")
    (cache / ".root.unfinished").mkdir()
    (cache / "root").symlink_to(machine_folder / "root")
    steps: list[str] = []
    machine = set_up(cache, progress=steps.append)
    assert [step.partition("=")[0] for step in steps] == ["numpy"], "the finished parts stay"
    assert set_up(cache, progress=steps.append) == machine
    assert len(steps) == 1


@pytest.mark.slow
def test_time_limit(machine_folder: Path, tiny_bundle: Path) -> None:
    job = Job(model=str(tiny_bundle / "model.fp32.onnx"), images=str(tiny_bundle / "golden/images.npy"))
    with pytest.raises(DeviceError, match=r"did not end within 0\.2 s"):
        EmulatedDevice(cache=str(machine_folder), timeout=0.2).run(job)
