"""The C runner: the bits of the Python runner, its contract, and one line for whatever it is given."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import resource
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetero_devices.cpu import describe
from hetero_devices.devices import Job, Result, Stopping, Task
from hetero_devices.devices.outcome import memory_apart
from hetero_devices.devices.process import run_process
from hetero_devices.errors import DeviceError, HeteroError, MissingExtra, TransferError
from hetero_devices.files import sha256_file
from hetero_devices.native import build_runner
from hetero_devices.native.build import FLAGS
from hetero_devices.runtimes import load
from tests.device_tools import need_tool

QUICK = Stopping(warm_up=2, min_samples=20, min_seconds=0.0, max_seconds=5.0)
SANITIZED = (*FLAGS, "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def libraries() -> dict[str, str]:
    """Where the shared libraries of the installed wheels are, as the runner wants to be told."""
    folders = {}
    for package in ("onnxruntime", "ai_edge_litert"):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        folders[package] = Path(spec.origin).parent
    (onnxruntime,) = (folders["onnxruntime"] / "capi").glob("libonnxruntime.so.*")
    litert = folders["ai_edge_litert"] / "libLiteRt.so"
    return {"HETERO_ONNXRUNTIME": str(onnxruntime), "HETERO_LITERT": str(litert)}


@dataclass(frozen=True)
class Native:
    """A built runner and the environment it is started in."""

    program: Path
    environment: dict[str, str]

    def run(self, job: Job) -> Result:
        def once(part: Job) -> Result:
            argv = [str(self.program)]
            return run_process("native", argv, part, environment=self.environment, timeout=60)

        return memory_apart(job, once)

    def start(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        argv = [str(self.program), *arguments]
        environment = self.environment | options.pop("environment", {})
        return subprocess.run(argv, env=environment, capture_output=True, check=False, timeout=60, **options)

    def job(self, folder: Path, content: bytes | dict[str, Any]) -> subprocess.CompletedProcess[bytes]:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / "job.json").write_bytes(text)
        return self.start("run", str(folder / "job.json"))


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    need_tool("gcc", "gcc")
    return Native(build_runner("host", tmp_path_factory.mktemp("native") / "runner"), libraries())


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Native:
    """Stops with another exit code at the first memory error or undefined operation."""
    need_tool("gcc", "gcc")
    program = build_runner("host", tmp_path_factory.mktemp("sanitized") / "runner", flags=SANITIZED)
    return Native(program, libraries() | {"ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1"})


@pytest.fixture
def images(tmp_path: Path, net: Any) -> str:
    np.save(tmp_path / "images.npy", net.images(67))  # more than two blocks
    return str(tmp_path / "images.npy")


def check_same_bits(native: Native, model: Path, images: str) -> None:
    result, session = native.run(Job(model=str(model), images=images)), load(model)
    np.testing.assert_array_equal(result.embeddings, session.run(np.load(images)))
    expected = session.details | ({"version": None} if model.suffix == ".tflite" else {})
    assert result.profile.runtime == expected


@pytest.mark.parametrize("name", ["model.fp32.onnx", "model.fp32.tflite", "model.int8.tflite"])
def test_bundle_gives_the_bits_of_the_python_runner(
    native: Native, tiny_bundle: Path, images: str, name: str
) -> None:
    check_same_bits(native, tiny_bundle / name, images)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("quantised_output", [False, True])
def test_integer_ends_give_the_same_bits(
    native: Native, tiny_tflite: Any, images: str, dtype: str, quantised_output: bool
) -> None:
    check_same_bits(native, tiny_tflite(dtype=dtype, quantised_output=quantised_output), images)


@pytest.mark.slow
def test_exported_student_gives_the_same_bits(native: Native, tmp_path: Path) -> None:
    from tests.test_export_bundle import blobs, export, student

    np.save(tmp_path / "blobs.npy", blobs(40, 3))
    bundle = export(student(steps=20), tmp_path / "bundle")
    for model in bundle.manifest.models:
        check_same_bits(native, bundle.path(model), str(tmp_path / "blobs.npy"))


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_measures(request: pytest.FixtureRequest, native: Native, images: str, suffix: str) -> None:
    model = request.getfixturevalue(f"tiny_{suffix}")()
    tasks: tuple[Task, ...] = ("embed", "latency", "memory", "placement")
    profile = native.run(Job(model=str(model), images=images, tasks=tasks, stopping=QUICK)).profile
    latency = profile.latency
    assert latency is not None
    order = [latency.min_ms, latency.p50_ms, latency.p90_ms, latency.p95_ms, latency.p99_ms]
    assert order == sorted(order)
    assert order[0] > 0
    assert latency.first_ms > 0
    assert latency.load_ms > 0
    assert (latency.samples, latency.warm_up) == (20, 2)
    assert profile.peak_memory_mb is None or 0 < profile.peak_memory_mb < 500
    assert profile.cpu == describe()
    assert profile.placement is None, "the C interfaces do not tell"


def test_stops_after_the_seconds_given(native: Native, tiny_onnx: Any, images: str) -> None:
    stopping = Stopping(warm_up=0, min_samples=10**12, min_seconds=0.0, max_seconds=0.05)
    result = native.run(Job(model=str(tiny_onnx()), images=images, tasks=("latency",), stopping=stopping))
    assert result.embeddings is None
    assert result.profile.latency is not None
    assert result.profile.latency.samples > 1


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_no_image_is_no_embedding(
    request: pytest.FixtureRequest, native: Native, tmp_path: Path, suffix: str
) -> None:
    model = request.getfixturevalue(f"tiny_{suffix}")()
    np.save(tmp_path / "none.npy", np.zeros((0, 8, 8, 3), np.uint8))
    result = native.run(Job(model=str(model), images=str(tmp_path / "none.npy")))
    assert result.embeddings is not None
    assert result.embeddings.shape == (0, 16)
    with pytest.raises(DeviceError, match="at least one image"):
        native.run(Job(model=str(model), images=str(tmp_path / "none.npy"), tasks=("latency",)))


@pytest.mark.parametrize("name", ["a b", "-x", "quote'\"", "semi;$(rm)", "new\nline", "ä中\U0001f600"])
def test_names_are_only_names(native: Native, tiny_onnx: Any, images: str, tmp_path: Path, name: str) -> None:
    model = tiny_onnx(f"{name}.onnx")
    done = native.job(tmp_path, {"model": model.name, "images": "images.npy", "output": f"{name}/out"})
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / name / "out" / "embeddings.npy").shape == (67, 16)
    done = native.job(tmp_path, {"model": f"absent {name}.onnx", "images": "images.npy"})
    assert failure(tmp_path, done)["message"].endswith(f"absent {name}.onnx".replace("\n", " "))


def test_pinning(native: Native, tiny_onnx: Any, images: str) -> None:
    processor = min(os.sched_getaffinity(0))
    result = native.run(Job(model=str(tiny_onnx()), images=images, cpus=(processor,)))
    assert result.profile.cpu.cores == 1
    with pytest.raises(DeviceError, match=r"there are no processors \[1000, 1001\]"):
        native.run(Job(model=str(tiny_onnx()), images=images, cpus=(1000, 1001)))


@pytest.mark.parametrize("size", [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 128, 100_000])
def test_digests_of_all_lengths(native: Native, tmp_path: Path, size: int) -> None:
    content = bytes(i * 7 % 251 for i in range(size))
    (tmp_path / "images.npy").write_bytes(content)
    digests = {"images": hashlib.sha256(content).hexdigest()}
    done = native.job(tmp_path, {"model": "m.onnx", "images": "images.npy", "digests": digests})
    assert failure(tmp_path, done)["error"] == "DataError", "the digest is right, the images are none"
    digests["images"] = digests["images"][::-1]
    done = native.job(tmp_path, {"model": "m.onnx", "images": "images.npy", "digests": digests})
    assert failure(tmp_path, done)["error"] == "TransferError"


def test_digests_of_a_job(native: Native, tiny_onnx: Any, images: str) -> None:
    model = tiny_onnx()
    digests = {"model": sha256_file(model), "images": sha256_file(Path(images))}
    job = Job(model=str(model), images=images, digests=digests)
    assert native.run(job).embeddings is not None  # `collect` checks that of the embeddings
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(TransferError, match=r"the model m\.onnx did not arrive as they were sent"):
        native.run(job)


def failure(folder: Path, done: subprocess.CompletedProcess[bytes]) -> dict[str, str]:
    """The report of a failed job, after checking that the process said the same in one line."""
    assert done.returncode == 2, done
    report: dict[str, str] = json.loads((folder / "failure.json").read_text(encoding="utf-8"))
    assert done.stderr.decode() == f"error: {report['message']}\n"
    (folder / "failure.json").unlink()
    return report


def refused(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line of a process that ended in order."""
    assert done.returncode == 2, done
    (line,) = done.stderr.decode(errors="replace").splitlines()
    assert line.startswith("error: ")
    assert len(line) < 2100
    return line


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"tasks": ["embed", "memory"]}, "DeviceError", "memory is measured in a process of its own"),
        ({"model": "absent.onnx"}, "ModelError", "no model file at"),
        ({"model": "m.pt"}, "ModelError", "m.pt is no model this library runs"),
        ({"images": "absent.npy"}, "DataError", "cannot read the images"),
        ({"images": "."}, "DataError", "this is no .npy file"),
        ({"digests": {"model": "0" * 64}}, "TransferError", "the model m.onnx did not arrive"),
    ],
)
def test_failures_are_reported(
    native: Native,
    tiny_onnx: Any,
    images: str,
    tmp_path: Path,
    changes: dict[str, Any],
    kind: str,
    message: str,
) -> None:
    tiny_onnx()
    report = failure(tmp_path, native.job(tmp_path, {"model": "m.onnx", "images": "images.npy"} | changes))
    assert report["error"] == kind
    assert message in report["message"]
    assert not (tmp_path / "statistics.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thread": 1}, "job has the unknown key 'thread'"),
        ({"threads": 0}, "at least one thread"),
        ({"threads": 1.5}, "job.threads is 1.5, expected an integer"),
        ({"threads": True}, "job.threads is true, expected an integer"),
        ({"threads": 10**30}, "expected an integer"),
        ({"tasks": []}, "distinct tasks"),
        ({"tasks": ["embed", "embed"]}, "distinct tasks"),
        ({"tasks": ["fly"]}, "job.tasks has 'fly', expected 'embed' or 'latency' or 'memory'"),
        ({"tasks": "embed"}, "job.tasks is embed, expected a list"),
        ({"cpus": [-1]}, "processors are distinct numbers from 0"),
        ({"cpus": [0, 0]}, "processors are distinct numbers from 0"),
        ({"cpus": [10**9]}, "processors are distinct numbers from 0"),
        ({"stopping": {"min_samples": 0}}, "min_samples >= 1"),
        ({"stopping": {"max_seconds": 0.5}}, "min_seconds <= max_seconds"),
        ({"stopping": {"max": 1}}, "job.stopping has the unknown key 'max'"),
        ({"digests": {"labels": ""}}, "job.digests has the unknown key 'labels'"),
        ({"digests": {"model": None}}, "job.digests.model is null, expected a string"),
        ({"model": 3}, "job.model is 3, expected a string"),
        ({"images": {"a": 1}}, "job.images is an object, expected a string"),
    ],
)
def test_jobs_that_are_none(native: Native, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    done = native.job(tmp_path, {"model": "m.onnx", "images": "images.npy"} | changes)
    assert message in refused(done)


JOB = b'{"model": "m.onnx", "images": "i.npy", "output": '
HOSTILE = {
    "empty": b"",
    "space": b" \n\t",
    "not an object": b"[1, 2]",
    "lacks a key": b'{"model": "m.onnx"}',
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "too large": b" " * 2_000_000,
    "huge integer": b'{"threads": ' + b"9" * 1000 + b', "model": "m", "images": "i"}',
    "huge exponent": b'{"stopping": {"max_seconds": 1e999999999}, "model": "m", "images": "i"}',
    "NaN": b'{"stopping": {"max_seconds": NaN}, "model": "m", "images": "i"}',
    "leading zero": b'{"threads": 01}',
    "lone minus": b'{"threads": -}',
    "lone point": b'{"threads": 1.}',
    "lone exponent": b'{"threads": 1e}',
    "plus": b'{"threads": +1}',
    "unterminated": b'{"model": "',
    "unterminated escape": b'{"model": "\\',
    "unterminated code": b'{"model": "\\u00',
    "unknown escape": b'{"model": "\\x41"}',
    "half a pair": b'{"model": "\\ud800"}',
    "wrong pair": b'{"model": "\\ud800\\u0041"}',
    "low first": b'{"model": "\\udc00"}',
    "zero character": JOB + b'"a\\u0000b"}',
    "zero byte": JOB + b'"a\x00b"}',
    "control character": JOB + b'"a\x01b"}',
    "long key": b'{"' + b"k" * 500_000 + b'": 1}',
    "key of no UTF-8": b'{"\xff\xfe\xc0\x80": 1}',
    "key twice": b'{"model": "a", "model": "b", "images": "i"}',
    "many keys": b"{" + b", ".join(b'"k%d": 1' % i for i in range(50_000)) + b"}",
    "trailing comma": b'{"model": "m.onnx",}',
    "no colon": b'{"model" "m.onnx"}',
    "no comma": b'{"model": "m.onnx" "images": "i"}',
    "two values": b"{} {}",
    "mark of byte order": b"\xef\xbb\xbf{}",
    "binary": bytes(range(256)),
    "word cut": b'{"model": nul',
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_jobs(sanitized: Native, tmp_path: Path, content: bytes) -> None:
    refused(sanitized.job(tmp_path, content))


def test_job_files_cut_anywhere(sanitized: Native, tmp_path: Path) -> None:
    fields = {
        "model": "m.onnx",
        "images": "ä\U0001f600\n",
        "tasks": ["embed"],
        "stopping": {"min_seconds": 0.5},
    }
    text = json.dumps(fields).encode()
    for length in range(0, len(text), 3):
        refused(sanitized.job(tmp_path, text[:length]))
    assert refused(sanitized.start("run", str(tmp_path / "absent.json"))).endswith(
        "absent.json does not exist"
    )
    assert "Is a directory" in refused(sanitized.start("run", str(tmp_path)))


def npy(
    header: bytes, *, version: bytes = b"\x01\x00", length: int | None = None, data: bytes = b""
) -> bytes:
    size = len(header) if length is None else length
    return b"\x93NUMPY" + version + struct.pack("<H" if version[0] == 1 else "<I", size) + header + data


def header(shape: str, descr: str = "'|u1'", order: str = "False") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()


BAD_IMAGES = {
    "nothing": b"",
    "magic alone": b"\x93NUMPY",
    "another file": b"<html>not found</html>" * 9,
    "version 3": npy(header("(1, 8, 8, 3)"), version=b"\x03\x00", data=bytes(192)),
    "header past the end": npy(b"", length=60_000),
    "header of 4 GiB": npy(b"", version=b"\x02\x00", length=2**32 - 1),
    "header of zeros": npy(bytes(100), data=bytes(192)),
    "no shape": npy(b"{'descr': '|u1', 'fortran_order': False}", data=bytes(192)),
    "open shape": npy(header("(1, 8, 8, 3"), data=bytes(192)),
    "negative": npy(header("(1, -8, 8, 3)"), data=bytes(192)),
    "words": npy(header("(one, 8, 8, 3)"), data=bytes(192)),
    "number beyond 64 bits": npy(header(f"({10**30}, 8, 8, 3)"), data=bytes(192)),
    "product beyond 64 bits": npy(header(f"({2**33}, {2**33}, 8, 3)"), data=bytes(192)),
    "truncated": npy(header("(1, 8, 8, 3)"), data=bytes(191)),
    "float32": npy(header("(1, 8, 8, 3)", "'<f4'"), data=bytes(4 * 192)),
    "objects": npy(header("(1, 8, 8, 3)", "'|O'"), data=bytes(192)),
    "records": npy(header("(1, 8, 8, 3)", "[('a', '|u1')]"), data=bytes(192)),
    "Fortran order": npy(header("(1, 8, 8, 3)", order="True"), data=bytes(192)),
    "five axes": npy(header("(1, 8, 8, 3, 1)"), data=bytes(192)),
    "no axes": npy(header("()"), data=bytes(192)),
    "flat": npy(header("(192,)"), data=bytes(192)),
    "too wide": npy(header("(1, 8, 9, 3)"), data=bytes(216)),
    "grey": npy(header("(1, 8, 8, 1)"), data=bytes(64)),
}


@pytest.mark.parametrize("content", BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_images_that_are_none(sanitized: Native, tiny_tflite: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "images.npy").write_bytes(content)
    done = sanitized.job(tmp_path, {"model": tiny_tflite().name, "images": "images.npy"})
    assert failure(tmp_path, done)["error"] == "DataError"


@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00"])
def test_both_versions_of_npy(
    sanitized: Native, tiny_tflite: Any, tmp_path: Path, net: Any, version: bytes
) -> None:
    pixels, model = net.images(3), tiny_tflite()
    (tmp_path / "images.npy").write_bytes(npy(header("(3, 8, 8, 3)"), version=version, data=pixels.tobytes()))
    stopping = {"min_samples": 5, "min_seconds": 0}
    job = {"model": model.name, "images": "images.npy", "tasks": ["embed", "latency"], "stopping": stopping}
    done = sanitized.job(tmp_path, job)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "embeddings.npy"), load(model).run(pixels))


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.99])
def test_truncated_models(
    request: pytest.FixtureRequest, native: Native, images: str, tmp_path: Path, suffix: str, keep: float
) -> None:
    model: Path = request.getfixturevalue(f"tiny_{suffix}")()
    content = model.read_bytes()
    model.write_bytes(content[: int(len(content) * keep)])
    report = failure(tmp_path, native.job(tmp_path, {"model": model.name, "images": "images.npy"}))
    assert report["error"] == "ModelError"
    assert f"cannot load m.{suffix} with" in report["message"]


@pytest.mark.parametrize(
    ("suffix", "changes", "message"),
    [
        ("onnx", {"output": "z2"}, "expected one output embedding"),
        ("onnx", {"input_type": "FLOAT"}, "expected one input image: tensor(uint8)"),
        ("onnx", {"batch": 1}, "with a free batch"),
        ("tflite", {"output": "vector"}, "expected one signature with input image and output embedding"),
        ("tflite", {"dtype": "uint8", "scale": 0.5}, "input [1, 8, 8, 3] uint8 (scale 0.5, zero point 0)"),
        (
            "tflite",
            {"dtype": "int8", "scale": 0.5},
            "uint8 of scale 1, or int8 of scale 1 and zero point -128",
        ),
    ],
)
def test_models_that_break_the_contract(
    request: pytest.FixtureRequest,
    native: Native,
    images: str,
    tmp_path: Path,
    suffix: str,
    changes: dict[str, Any],
    message: str,
) -> None:
    model: Path = request.getfixturevalue(f"tiny_{suffix}")(**changes)
    with pytest.raises(HeteroError):
        load(model)
    report = failure(tmp_path, native.job(tmp_path, {"model": model.name, "images": "images.npy"}))
    assert report["error"] == "ModelError"
    assert message in report["message"]


@pytest.mark.parametrize(
    ("suffix", "variable", "file"),
    [("onnx", "HETERO_ONNXRUNTIME", "libonnxruntime.so"), ("tflite", "HETERO_LITERT", "libLiteRt.so")],
)
def test_runtimes_that_are_not_there(
    request: pytest.FixtureRequest,
    native: Native,
    images: str,
    tmp_path: Path,
    suffix: str,
    variable: str,
    file: str,
) -> None:
    model: Path = request.getfixturevalue(f"tiny_{suffix}")()
    job = Job(model=str(model), images=images)
    without = Native(native.program, {})
    with pytest.raises(MissingExtra, match=rf"is not there: put {file} beside the runner or .* {variable}$"):
        without.run(job)
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(DeviceError, match=r"cannot open .*text\.so: "):
        Native(native.program, {variable: str(tmp_path / "text.so")}).run(job)
    with pytest.raises(DeviceError, match=r"lacks (OrtGetApiBase|LiteRtCreateEnvironment)"):
        Native(native.program, {variable: "libm.so.6"}).run(job)


def test_runtimes_beside_the_runner(native: Native, tiny_bundle: Path, images: str, tmp_path: Path) -> None:
    program = tmp_path / "there" / "runner"
    program.parent.mkdir()
    program.write_bytes(native.program.read_bytes())
    program.chmod(0o755)
    for path in libraries().values():
        (program.parent / Path(path).name).symlink_to(path)
    for name in ("model.fp32.onnx", "model.fp32.tflite"):
        assert (
            Native(program, {}).run(Job(model=str(tiny_bundle / name), images=images)).embeddings is not None
        )


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def test_results_that_do_not_fit(native: Native, tiny_onnx: Any, images: str, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(
        json.dumps({"model": tiny_onnx().name, "images": "images.npy", "output": "out"})
    )
    # Python ignores SIGXFSZ, and so does the runner after it: writing fails instead.
    done = native.start("run", str(tmp_path / "job.json"), preexec_fn=limit_files, restore_signals=False)
    assert "cannot write" in failure(tmp_path / "out", done)["message"]
    assert list((tmp_path / "out").iterdir()) == [], "nothing half-written stays"


def test_output_that_is_a_file(native: Native, tiny_onnx: Any, images: str, tmp_path: Path) -> None:
    done = native.job(tmp_path, {"model": tiny_onnx().name, "images": "images.npy", "output": "images.npy"})
    assert "Not a directory" in refused(done)


def test_info(native: Native) -> None:
    told = json.loads(native.start("info").stdout)
    assert told["cpu"]["machine"] == describe().machine
    assert told["runtimes"] == {"onnxruntime": load_version(), "litert": "2.3 or later"}
    none = json.loads(Native(native.program, {}).start("info").stdout)
    assert none["runtimes"] == {"onnxruntime": None, "litert": None}


def load_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def test_hold_until_the_host_is_gone(native: Native, tmp_path: Path) -> None:
    lock = str(tmp_path / "locks" / "device.lock")

    def hold(owner: str) -> subprocess.Popen[bytes]:
        argv = [str(native.program), "hold", lock, owner]
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def first_line(process: subprocess.Popen[bytes]) -> bytes:
        assert process.stdout is not None
        return process.stdout.readline()

    with hold("one; $(two)") as first:
        assert first_line(first) == b"held\n"
        with hold("other") as second:
            assert first_line(second) == b"busy one; $(two)\n"
        assert second.returncode == 1
    assert first.returncode == 0
    with hold("other") as third:
        assert first_line(third) == b"held\n"


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["run"], ["run", "a", "b"], ["hold", "lock"], ["info", "x"]]
)
def test_usage(native: Native, arguments: Sequence[str]) -> None:
    done = native.start(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(b"usage: ")


def test_builds_for_arm(tmp_path: Path) -> None:
    need_tool("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    program = build_runner("aarch64", tmp_path / "runner").read_bytes()
    assert program[:4] == b"\x7fELF"
    assert struct.unpack("<H", program[18:20]) == (183,), "EM_AARCH64"


def test_what_cannot_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="not for 'mips'"):
        build_runner("mips", tmp_path / "runner")  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match=r"gcc cannot compile runner\.c"):
        build_runner("host", tmp_path / "runner", flags=["--no-such-flag"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="apt install gcc-aarch64-linux-gnu"):
        build_runner("aarch64", tmp_path / "runner")
    assert list(tmp_path.iterdir()) == []
