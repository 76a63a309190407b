"""The page in a real headless Chromium: both runtimes against the host, reloads, closed tabs, the LAN."""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hetero_devices.bundle import Bundle
from hetero_devices.devices import HostDevice, Job, Stopping, build, embed, embed_in_shards
from hetero_devices.devices.browser import BrowserDevice, Connection, set_up
from hetero_devices.devices.browser import build as build_browser
from hetero_devices.devices.browser.network import lan_address
from hetero_devices.devices.profile import load_profile
from hetero_devices.errors import DeviceError, HeteroError
from hetero_devices.verify import cosine_distance
from tests.chromium import Chromium, chromium
from tests.device_tools import missing, need_tool

pytestmark = pytest.mark.slow

QUICK = Stopping(warm_up=2, min_samples=20, min_seconds=0.0, max_seconds=5.0)
LONG = Stopping(warm_up=0, min_samples=10**6, min_seconds=60.0, max_seconds=60.0)
MEMORY_AT_ONCE = "--enable-blink-features=ForceEagerMeasureMemory"  # else it waits for a garbage collection

Images = npt.NDArray[np.uint8]


@pytest.fixture(scope="module", autouse=True)
def runtimes() -> Path:
    """The page's runtimes, in the user's cache as after `hetero devices setup browser`."""
    need_tool("chromium", "chromium")
    try:
        return set_up()
    except HeteroError as error:
        missing(f"the page's runtimes cannot be fetched: {error}")


@pytest.fixture(scope="module")
def own() -> Iterator[BrowserDevice]:
    """The shipped profile: a Chromium that the device starts, one page for many jobs."""
    command = ["chromium", "--headless", MEMORY_AT_ONCE]
    device = build("chromium", load_profile("chromium"), {"command": command})
    assert isinstance(device, BrowserDevice)
    with closing(device):
        yield device


@pytest.fixture
def page() -> Iterator[Callable[..., tuple[BrowserDevice, Chromium]]]:
    """`page(**connection)` -> a device, and a Chromium that opened it by its address."""
    with chromium() as browser:
        devices: list[BrowserDevice] = []

        def begin(**connection: Any) -> tuple[BrowserDevice, Chromium]:
            device = build_browser("page", {"wait": 30.0, **connection})
            devices.append(device)
            device.serve()
            browser.open(device.url)
            browser.until(lambda: browser.text("#label") == "Ready", "the page")
            return device, browser

        yield begin
        for device in devices:
            device.close()


@pytest.fixture
def running() -> Iterator[Callable[..., Future[Any]]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit


@pytest.fixture
def images(tmp_path: Path, net: Any) -> Images:
    np.save(tmp_path / "images.npy", found := net.images(40))
    return np.asarray(found)


def job(tmp_path: Path, model: Path, **changes: Any) -> Job:
    return Job(model=str(model), images=str(tmp_path / "images.npy"), **changes)


@pytest.mark.parametrize("model", ["model.fp32.onnx", "model.fp32.tflite"])
@pytest.mark.parametrize("threads", [1, 2])
def test_embeds_as_the_host(
    own: BrowserDevice, tiny_bundle: Path, images: Images, model: str, threads: int
) -> None:
    there, profile = embed(own, tiny_bundle / model, images, threads=threads)
    here, _ = embed(HostDevice(), tiny_bundle / model, images)
    assert cosine_distance(there, here).max() <= 1e-5
    expected = ("onnxruntime-web", "1.30.0") if model.endswith("onnx") else ("litert-web", "2.5.3")
    assert (profile.runtime["runtime"], profile.runtime["version"]) == expected
    assert profile.runtime["simd"]
    assert profile.runtime["threads_possible"], "isolated on loopback"
    assert profile.runtime["timer_ms"] < 0.05
    assert profile.placement is None
    assert not profile.emulated
    assert "Chrom" in profile.versions["user_agent"]


def test_measures(own: BrowserDevice, tiny_bundle: Path, images: Images, tmp_path: Path) -> None:
    tasks = ("embed", "latency", "memory")
    for model in ("model.fp32.onnx", "model.fp32.tflite"):
        result = own.run(job(tmp_path, tiny_bundle / model, tasks=tasks, stopping=QUICK))
        latency = result.profile.latency
        assert result.embeddings is not None
        assert latency is not None
        assert (latency.samples, latency.warm_up) == (20, 2)
        assert 0 < latency.min_ms <= latency.p50_ms <= latency.p90_ms <= latency.p99_ms
        assert latency.first_ms > 0
        assert 0 < latency.load_ms < 5000
        memory = result.profile.peak_memory_mb
        assert memory is not None, "this Chromium tells"
        assert 0 < memory < 500
        print(f"{model}: load {latency.load_ms:.1f} ms, first {latency.first_ms:.1f} ms, {memory:.2f} MB")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from hetero_export.bundle import write_bundle
    from hetero_export.calibration import Calibration
    from tests.test_export_bundle import blobs
    from tests.test_export_bundle import student as trained

    return write_bundle(
        trained(),
        tmp_path_factory.mktemp("student") / "bundle",
        name="student of blobs",
        calibration=Calibration(blobs(64, 100)),
        golden=blobs(12, 200),
        source={"seed": 0},
        precisions=("fp32", "int8"),
    )


@pytest.fixture(scope="module")
def int8_io(student: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hetero.recipes.recipe import MixedConfig
    from hetero_export.calibration import Calibration
    from hetero_export.formats import EXPORTERS
    from tests.test_export_bundle import blobs

    path, fp32 = tmp_path_factory.mktemp("ends") / "m.tflite", student.path(student.model("tflite", "fp32"))
    EXPORTERS["tflite"].variants["int8_io"].write(fp32, path, Calibration(blobs(64, 100)), MixedConfig())
    return path


@pytest.mark.parametrize("format", ["onnx", "tflite"])
@pytest.mark.parametrize(("precision", "within"), [("fp32", 1e-5), ("int8", 1e-3)])
def test_a_real_student(
    own: BrowserDevice, student: Bundle, tmp_path: Path, format: str, precision: str, within: float
) -> None:
    from tests.test_export_bundle import blobs

    model, images = student.path(student.model(format, precision)), blobs(48, 300)
    result = embed_in_shards(own, model, images, tmp_path / "shards", shard=20)
    assert result.embeddings is not None
    here, _ = embed(HostDevice(), model, images)
    distance = cosine_distance(result.embeddings, here)
    exact = bool((result.embeddings == here).all())
    print(f"{format} {precision}: 1-cos max {distance.max():.1e}, bit-exact: {exact}")
    assert distance.max() <= within


def test_integer_ends_are_refused_by_name(
    own: BrowserDevice, int8_io: Path, tiny_bundle: Path, tiny_tflite: Any
) -> None:
    unsigned = tiny_tflite("u.tflite", dtype="uint8")
    for path, type in [(int8_io, "int8"), (tiny_bundle / "model.int8.tflite", "int8"), (unsigned, "uint8")]:
        message = rf"{path.name} has {type} input or output, LiteRT\.js needs float32"
        with pytest.raises(DeviceError, match=message):
            embed(own, path, np.zeros((1, 8, 8, 3), np.uint8))


def test_models_that_do_not_load(
    own: BrowserDevice, tiny_onnx: Any, tiny_tflite: Any, images: Images
) -> None:
    cut_onnx, cut_tflite = tiny_onnx("c.onnx"), tiny_tflite("c.tflite")
    for path in (cut_onnx, cut_tflite):
        path.write_bytes(path.read_bytes()[:500])
    for model, message in [
        (cut_onnx, r"^chromium: cannot load c\.onnx with ONNX Runtime Web: .*protobuf parsing failed"),
        (cut_tflite, r"^chromium: cannot load c\.tflite with LiteRT\.js: "),
        (tiny_onnx("o.onnx", output="vector"), r"o\.onnx has outputs vector: float32 .*, expected embedding"),
        (tiny_onnx("i.onnx", input_type="FLOAT"), r"i\.onnx has inputs image: float32 .* image: uint8"),
        (tiny_tflite("o.tflite", output="vector"), r"o\.tflite has .*vector .* image .* and embedding"),
    ]:
        with pytest.raises(DeviceError, match=message) as raised:
            embed(own, model, images)
        assert "\n" not in str(raised.value)
    with pytest.raises(DeviceError, match=r"images are \[N, 9, 8, 3\], this model takes \[N, 8, 8, 3\]"):
        embed(own, tiny_onnx("s.onnx"), np.zeros((1, 9, 8, 3), np.uint8))
    embed(own, tiny_onnx("good ';\n.onnx"), images)


def test_nan_is_named(own: BrowserDevice, tiny_onnx: Any, images: Images, net: Any) -> None:
    bias = net.bias.copy()
    bias[0] = np.nan
    with pytest.raises(DeviceError, match=r"m\.onnx gave NaN or infinity \(first for image 0\)"):
        embed(own, tiny_onnx(net=replace(net, bias=bias)), images)


def test_progress_and_result_are_visible(
    page: Any, running: Any, tiny_bundle: Path, images: Images, tmp_path: Path
) -> None:
    device, browser = page()
    browser.screen(390, 844)  # a phone's
    stopping = Stopping(warm_up=0, min_samples=10**5, min_seconds=3.0, max_seconds=6.0)
    tasks = ("embed", "latency")
    model = tiny_bundle / "model.fp32.tflite"
    result = running(device.run, job(tmp_path, model, tasks=tasks, stopping=stopping))
    browser.until(lambda: browser.text("#state") == "Measuring", "measuring")
    browser.until(lambda: browser.evaluate("document.getElementById('bar').value") > 0, "progress")
    shown = browser.text()
    for part in (
        "page",
        "Running",
        "model.fp32.tflite",
        "litert-web 2.5.3",
        "embed + latency, 1 thread",
        "%",
    ):
        assert part in shown, part
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    profile = result.result(60).profile
    browser.until(lambda: "Done" in browser.text("#state"), "the end")
    shown = browser.text()
    for part in ("40 images", profile.digests["embeddings"][:8], "Latency p50", "First inference", "100 %"):
        assert part in shown, part
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    browser.photograph(tmp_path / "page.png")
    content = (tmp_path / "page.png").read_bytes()
    assert struct.unpack(">II", content[16:24]) == (390, 844)
    assert len(content) > 20_000, "something is drawn"


def test_a_failure_is_visible(page: Any, tiny_onnx: Any, images: Images) -> None:
    device, browser = page()
    (model := tiny_onnx()).write_bytes(b"<b>no model</b>")
    with pytest.raises(DeviceError, match="cannot load"):
        embed(device, model, images)
    browser.until(lambda: browser.text("#label") == "Failed", "the failure")
    assert "cannot load m.onnx with ONNX Runtime Web" in browser.text("#detail")


def test_reload_in_mid_run(
    page: Any, running: Any, tiny_bundle: Path, images: Images, tmp_path: Path, net: Any
) -> None:
    device, browser = page()
    stopping = Stopping(warm_up=0, min_samples=10**6, min_seconds=4.0, max_seconds=4.0)
    asked = job(tmp_path, tiny_bundle / "model.fp32.onnx", tasks=("embed", "latency"), stopping=stopping)
    result = running(device.run, asked)
    browser.until(lambda: browser.text("#state") == "Measuring", "measuring")
    browser.reload()
    found = result.result(60)
    np.testing.assert_allclose(found.embeddings, net.embed(images), atol=1e-5)
    assert found.profile.latency is not None
    browser.until(lambda: "1 job done" in browser.text("#detail"), "the page's own count")


def test_a_tab_closed_between_shards_and_another_run(page: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
    device, browser = page(wait=3.0, silence=3.0)
    done: list[int] = []

    def shards(after: Callable[[], None]) -> Images:
        def advance(count: int) -> None:
            done.append(count)
            after()

        model, folder = tiny_bundle / "model.fp32.onnx", tmp_path / "shards"
        result = embed_in_shards(device, model, images, folder, shard=20, advance=advance)
        return np.asarray(result.embeddings)

    with pytest.raises(DeviceError, match=r"no page asked for the job within 3 s: open http|not been heard"):
        shards(browser.close_tab)
    assert done == [20]
    (kept,) = (tmp_path / "shards").glob("*/*/embeddings.npy")
    when = kept.stat().st_mtime_ns
    browser.open(device.url)
    embeddings = shards(lambda: None)
    assert done == [20] * 4
    assert kept.stat().st_mtime_ns == when, "what was finished is not done again"
    np.testing.assert_array_equal(embeddings, embed(device, tiny_bundle / "model.fp32.onnx", images)[0])


def test_a_tab_closed_in_mid_run(
    page: Any, running: Any, tiny_bundle: Path, images: Images, tmp_path: Path
) -> None:
    device, browser = page(silence=3.0)
    model = tiny_bundle / "model.fp32.onnx"
    result = running(device.run, job(tmp_path, model, tasks=("latency",), stopping=LONG))
    browser.until(lambda: browser.text("#state") == "Measuring", "measuring")
    browser.close_tab()
    message = r"^page: the page has not been heard for 3 s, measuring with \d+ of 1000000 done: was its tab"
    with pytest.raises(DeviceError, match=message):
        result.result(30)
    browser.open(device.url)
    assert embed(device, model, images)[0].shape == (40, 16)


def test_a_device_that_falls_asleep(running: Any, tiny_bundle: Path, images: Images, tmp_path: Path) -> None:
    with closing(build("chromium", load_profile("chromium"), {"silence": 3.0})) as device:
        assert isinstance(device, BrowserDevice)
        embed(device, tiny_bundle / "model.fp32.tflite", images)
        asked = job(tmp_path, tiny_bundle / "model.fp32.tflite", tasks=("latency",), stopping=LONG)
        result = running(device.run, asked)
        assert device._browser is not None
        time.sleep(1.5)
        os.killpg(device._browser.pid, signal.SIGSTOP)
        with pytest.raises(DeviceError, match=r"^chromium: the page has not been heard for 3 s, "):
            result.result(30)
        os.killpg(device._browser.pid, signal.SIGCONT)
        embed(device, tiny_bundle / "model.fp32.tflite", images)


def test_a_killed_browser(running: Any, tiny_bundle: Path, images: Images, tmp_path: Path) -> None:
    with closing(build("chromium", load_profile("chromium"))) as device:
        assert isinstance(device, BrowserDevice)
        embed(device, tiny_bundle / "model.fp32.onnx", images)
        asked = job(tmp_path, tiny_bundle / "model.fp32.onnx", tasks=("latency",), stopping=LONG)
        result = running(device.run, asked)
        assert device._browser is not None
        os.killpg(device._browser.pid, signal.SIGKILL)
        with pytest.raises(DeviceError, match=r"^chromium: chromium was killed by signal 9, "):
            result.result(30)
        embed(device, tiny_bundle / "model.fp32.onnx", images)


def test_an_open_page_outlives_the_server(page: Any, tiny_bundle: Path, images: Images) -> None:
    first, browser = page()
    port = int(first.url.rstrip("/").rpartition(":")[2])
    first.close()
    browser.until(lambda: browser.text("#label") == "Host away", "noticing")
    with closing(build_browser("second", {"port": port, "wait": 30.0})) as second:
        assert embed(second, tiny_bundle / "model.fp32.onnx", images)[0].shape == (40, 16)
        browser.until(lambda: browser.text("#device") == "second", "the new host")


def test_on_the_network(tiny_bundle: Path, images: Images, tmp_path: Path) -> None:
    """Not a secure context: one thread, a coarse clock, no crypto.subtle; the token is needed."""
    try:
        lan_address()
    except DeviceError as error:
        pytest.skip(str(error))
    said: list[str] = []
    device = BrowserDevice("lan", Connection(lan=True, wait=30.0), said.append)
    with closing(device), chromium() as browser:
        device.serve()
        assert device.url in said[0]
        assert "works once" in said[0]
        browser.open(device.url)
        browser.until(lambda: browser.text("#label") == "Ready", "the page")
        assert browser.evaluate("location.search") == "", "the token left the address bar"
        assert browser.evaluate("isSecureContext") is False
        assert browser.evaluate("typeof crypto.subtle") == "undefined"
        for model in ("model.fp32.onnx", "model.fp32.tflite"):
            there, profile = embed(device, tiny_bundle / model, images)
            assert cosine_distance(there, embed(HostDevice(), tiny_bundle / model, images)[0]).max() <= 1e-5
            assert not profile.runtime["threads_possible"]
            with pytest.raises(DeviceError, match="2 threads need a cross-origin isolated page"):
                embed(device, tiny_bundle / model, images, threads=2)
        browser.reload()
        embed(device, tiny_bundle / "model.fp32.onnx", images)
        with chromium() as stranger:
            stranger.open(device.url)
            stranger.until(lambda: "this link was used" in stranger.text(), "the refusal")


def test_set_up_fetches_what_is_pinned(tmp_path: Path, runtimes: Path) -> None:
    need_tool("npm", "npm")
    fresh = set_up(tmp_path)
    assert fresh.name == runtimes.name
    for path in (path for path in runtimes.rglob("*") if path.is_file()):
        assert (fresh / path.relative_to(runtimes)).read_bytes() == path.read_bytes()
