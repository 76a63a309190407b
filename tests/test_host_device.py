"""Jobs in fresh processes without torch: results, profiles, errors, time limits, and `hetero-device`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hetero_devices.bundle import MANIFEST, Bundle, FileRecord
from hetero_devices.cpu import describe, parse_flags, parse_model
from hetero_devices.devices import HostDevice, Job, Latency, Stopping, embed
from hetero_devices.devices.measure import measure_latency, summarise
from hetero_devices.errors import BundleError, DeviceError, MissingExtra
from hetero_devices.runtimes import load
from hetero_devices.verify import cosine_distance, norm_check, verify

QUICK = Stopping(warm_up=2, min_samples=20, min_seconds=0.0, max_seconds=5.0)


def device_command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    argv = [sys.executable, "-m", "hetero_devices", *arguments]
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def images(tmp_path: Path, net: Any) -> str:
    np.save(tmp_path / "images.npy", net.images(7))
    return str(tmp_path / "images.npy")


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_embeds_and_measures(request: pytest.FixtureRequest, net: Any, images: str, suffix: str) -> None:
    model = request.getfixturevalue(f"tiny_{suffix}")()
    job = Job(model=str(model), images=images, tasks=("embed", "latency", "memory"), stopping=QUICK)
    result = HostDevice().run(job)
    assert result.embeddings is not None
    np.testing.assert_allclose(result.embeddings, net.embed(net.images(7)), atol=1e-5)
    profile = result.profile
    assert profile.runtime == load(model).details
    assert profile.cpu == describe()
    assert profile.threads == 1
    assert profile.peak_memory_mb is None or 0 < profile.peak_memory_mb < 500
    check_latency(profile.latency)
    json.dumps(profile.to_json())


def check_latency(latency: Latency | None) -> None:
    assert latency is not None
    order = [latency.min_ms, latency.p50_ms, latency.p90_ms, latency.p95_ms, latency.p99_ms]
    assert order == sorted(order)
    assert order[0] > 0
    assert latency.min_ms <= latency.mean_ms
    assert latency.load_ms > 0
    assert latency.first_ms > 0
    assert (latency.samples, latency.warm_up) == (20, 2)


def test_what_was_not_asked_for_is_absent(tiny_onnx: Any, images: str) -> None:
    result = HostDevice().run(Job(model=str(tiny_onnx()), images=images, tasks=("latency",), stopping=QUICK))
    assert result.embeddings is None
    assert result.profile.peak_memory_mb is None
    result = HostDevice().run(Job(model=str(tiny_onnx()), images=images))
    assert result.profile.latency is None


class Counter:
    """A session that counts, on a clock that advances `step` nanoseconds a reading."""

    def __init__(self, step: int) -> None:
        self.calls: list[int] = []
        self.details: dict[str, Any] = {}
        self.ticks = iter(range(0, 10**18, step))

    def clock(self) -> int:
        return next(self.ticks)

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        assert images.shape == (1, 1, 1, 3)
        self.calls.append(int(images[0, 0, 0, 0]))
        return np.ones((1, 1), np.float32)


@pytest.fixture
def three_images() -> npt.NDArray[np.uint8]:
    return np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)


# A sample takes one tick; three pass from sample to sample (start, end, the stopping rule).
@pytest.mark.parametrize(
    ("stopping", "samples"),
    [
        (Stopping(warm_up=4, min_samples=5, min_seconds=0.0, max_seconds=100.0), 5),
        (Stopping(warm_up=4, min_samples=5, min_seconds=30.0, max_seconds=100.0), 10),
        (Stopping(warm_up=4, min_samples=500, min_seconds=30.0, max_seconds=60.0), 20),
        (Stopping(warm_up=4, min_samples=500, min_seconds=0.0, max_seconds=0.0), 1),
    ],
    ids=["samples", "seconds", "at-most", "never-none"],
)
def test_stopping(three_images: npt.NDArray[np.uint8], stopping: Stopping, samples: int) -> None:
    session = Counter(step=10**9)
    latency = measure_latency(session, three_images, stopping, load_ms=7.0, clock=session.clock)
    assert latency.samples == samples
    assert (latency.p50_ms, latency.first_ms, latency.load_ms) == (1000.0, 1000.0, 7.0)
    assert session.calls == [i % 3 for i in range(1 + 4 + samples)], "the images are taken in turn"


def test_percentiles_are_by_nearest_rank() -> None:
    latency = summarise([float(i) for i in range(100, 0, -1)], first_ms=9.0, load_ms=1.0, warm_up=0)
    assert asdict(latency) == {
        "p50_ms": 50.0, "p90_ms": 90.0, "p95_ms": 95.0, "p99_ms": 99.0, "mean_ms": 50.5, "min_ms": 1.0,
        "first_ms": 9.0, "load_ms": 1.0, "samples": 100, "warm_up": 0, "repeats": 1, "spread": None,
    }  # fmt: skip


def test_errors_of_the_runner_arrive(tiny_onnx: Any, images: str, tmp_path: Path) -> None:
    model = tiny_onnx()
    host = HostDevice()
    with pytest.raises(DeviceError, match=r"^host: cannot read the images .*absent\.npy: "):
        host.run(Job(model=str(model), images=str(tmp_path / "absent.npy")))
    np.save(tmp_path / "float.npy", np.full((1, 8, 8, 3), np.nan, np.float32))
    with pytest.raises(DeviceError, match="are float32, expected uint8"):
        host.run(Job(model=str(model), images=str(tmp_path / "float.npy")))
    np.save(tmp_path / "none.npy", np.zeros((0, 8, 8, 3), np.uint8))
    with pytest.raises(DeviceError, match="at least one image"):
        host.run(Job(model=str(model), images=str(tmp_path / "none.npy"), tasks=("latency",)))
    model.write_bytes(model.read_bytes()[:500])
    with pytest.raises(DeviceError, match=r"^host: cannot load m\.onnx") as raised:
        host.run(Job(model=str(model), images=images))
    assert "\n" not in str(raised.value)


def test_time_limit(tiny_onnx: Any, images: str) -> None:
    with pytest.raises(DeviceError, match=r"did not end within 0\.01 s"):
        HostDevice(timeout=0.01).run(Job(model=str(tiny_onnx()), images=images))


def test_interpreter_that_is_none(images: str, tmp_path: Path) -> None:
    job = Job(model="m.onnx", images=images)
    with pytest.raises(DeviceError, match="cannot start"):
        HostDevice(python=str(tmp_path / "python")).run(job)
    with pytest.raises(DeviceError, match="the runner failed with exit code 1: it said nothing"):
        HostDevice(python="/bin/false").run(job)


@pytest.fixture
def without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An onnxruntime on the runner's path that behaves as if absent."""
    (tmp_path / "shadow").mkdir()
    code = "raise ModuleNotFoundError('No module named onnxruntime', name='onnxruntime')"
    (tmp_path / "shadow/onnxruntime.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "shadow"))


@pytest.mark.usefixtures("without_onnxruntime")
def test_absent_runtime(tiny_bundle: Path, net: Any) -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'hetero\[device-onnx\]'"):
        embed(HostDevice(), tiny_bundle / "model.fp32.onnx", net.images(1))
    with pytest.raises(MissingExtra):
        verify(tiny_bundle)
    assert all(check.passed for check in verify(tiny_bundle, formats=["tflite"]))


def test_runner_cannot_import_torch(tmp_path: Path, images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow/onnxruntime.py").write_text("import torch")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "shadow"))
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(DeviceError, match="the device runner must not import torch"):
        HostDevice().run(Job(model=str(tmp_path / "m.onnx"), images=images))


def test_job_file_with_relative_paths(tiny_onnx: Any, net: Any, images: str, tmp_path: Path) -> None:
    tiny_onnx()
    (tmp_path / "elsewhere").mkdir()
    job = {"model": "m.onnx", "images": "images.npy", "output": "out"}
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = device_command("run", "../job.json", cwd=tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr
    embeddings = np.load(tmp_path / "out/embeddings.npy")
    np.testing.assert_allclose(embeddings, net.embed(net.images(7)), atol=1e-5)
    assert json.loads((tmp_path / "out/statistics.json").read_text())["latency"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thread": 1}, "job has the unknown key 'thread'"),
        ({"threads": 0}, "at least one thread"),
        ({"tasks": []}, "distinct tasks"),
        ({"tasks": ["fly"]}, "job.tasks[0] is 'fly', expected 'embed' or 'latency' or 'memory'"),
        ({"tasks": ["embed", "memory"]}, "memory is measured in a process of its own"),
        ({"stopping": {"min_samples": 0}}, "min_samples >= 1"),
        ({"model": "absent.onnx"}, "no model file at"),
        ({"output": "images.npy"}, "File exists"),
    ],
)
def test_job_that_cannot_be_done(
    tiny_onnx: Any, images: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    tiny_onnx()
    job = {"model": "m.onnx", "images": images} | changes
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = device_command("run", str(tmp_path / "job.json"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_job_survives_json() -> None:
    job = Job(model="a.onnx", images="b.npy", tasks=("memory",), threads=3, stopping=QUICK)
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job


def test_verify_passes_and_says_what_ran(tiny_bundle: Path) -> None:
    checks = verify(tiny_bundle)
    assert all(check.passed for check in checks)
    parity = {check.name: check for check in checks if check.name.endswith("parity")}
    assert len(parity) == 3
    assert "1 XNNPACK partitions" in parity["model.int8.tflite parity"].detail


def test_verify_fails_on_vectors_of_another_net(tiny_bundle: Path, net: Any) -> None:
    vectors = net.embed(net.images(6))
    vectors[3] = net.embed(net.images(6))[2]
    np.save(tiny_bundle / "golden/vectors.npy", vectors)
    manifest = Bundle.open(tiny_bundle, verify_hashes=False).manifest
    golden = replace(manifest.golden, vectors=FileRecord.of(tiny_bundle, "golden/vectors.npy"))
    (tiny_bundle / MANIFEST).write_text(json.dumps(replace(manifest, golden=golden).to_json()))
    failed = [check for check in verify(tiny_bundle, formats=["onnx"]) if not check.passed]
    assert [check.name for check in failed] == ["model.fp32.onnx parity"]
    assert "golden image 3" in failed[0].detail
    done = device_command("verify", str(tiny_bundle), "--format", "onnx")
    assert done.returncode == 1
    assert "FAIL  model.fp32.onnx parity" in done.stdout


def test_verify_reports_a_model_that_does_not_run(tiny_bundle: Path) -> None:
    path = tiny_bundle / "model.fp32.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    content = json.loads((tiny_bundle / MANIFEST).read_text())
    content["models"][0] |= asdict(FileRecord.of(tiny_bundle, path.name))
    (tiny_bundle / MANIFEST).write_text(json.dumps(content))
    failed = [check for check in verify(tiny_bundle, formats=["onnx"]) if not check.passed]
    assert [check.name for check in failed] == ["model.fp32.onnx runs"]
    assert "cannot load" in failed[0].detail


def test_verify_command(tiny_bundle: Path) -> None:
    done = device_command("verify", str(tiny_bundle), "--json")
    assert done.returncode == 0, done.stderr
    assert all(check["passed"] for check in json.loads(done.stdout))
    model = tiny_bundle / "model.fp32.tflite"
    content = bytearray(model.read_bytes())
    content[-20] ^= 1
    model.write_bytes(content)
    done = device_command("verify", str(tiny_bundle))
    assert done.returncode == 2
    assert done.stderr.startswith("error: model.fp32.tflite was changed")


def test_verify_needs_a_model(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="has no model of the formats"):
        verify(tiny_bundle, formats=[])


def test_norm_and_distance() -> None:
    rows = np.array([[1, 0], [0, 2], [0, 0], [np.nan, 1], [-1, 0]], np.float32)
    unit = np.array([[1, 0]] * 5, np.float32)
    np.testing.assert_allclose(cosine_distance(rows, unit), [0, 1, 1, 1, 2])
    assert norm_check("v", unit).passed
    assert not norm_check("v", rows[:2]).passed
    assert norm_check("v", rows).value is None


def test_info_command() -> None:
    done = device_command("info")
    told = json.loads(done.stdout)
    assert told["cpu"]["machine"] == describe().machine
    assert set(told["runtimes"]) == {"onnxruntime", "litert", "executorch"}


def test_usage_error_is_exit_code_2() -> None:
    assert device_command("fly").returncode == 2


def test_cpuinfo_of_x86_arm_and_nothing() -> None:
    x86 = "processor\t: 0\nmodel name\t: EPYC\nflags\t\t: fpu avx2 avx512_vnni\n\nprocessor\t: 1\n"
    arm = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n"
    assert (parse_model(x86), parse_flags(x86)) == ("EPYC", ("avx2", "avx512_vnni"))
    assert (parse_model(arm), parse_flags(arm)) == ("implementer 0x41 part 0xd0b", ("asimd", "asimddp"))
    assert (parse_model(""), parse_flags("")) == (None, None)
