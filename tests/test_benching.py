"""One bundle on several devices: golden vectors, drift, flips, budgets, failures, resume, the report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetero import report as reports
from hetero.data.imageset import ImageSet
from hetero.recipes.recipe import GateConfig, MeasureConfig
from hetero.report import HOST, pareto
from hetero.runs.bench_source import BenchSource
from hetero.runs.benching import WORK, Outcome, Target, bench
from hetero.runs.bundle_gates import Search
from hetero_devices.bundle import Bundle
from hetero_devices.devices import Device, HostDevice, Job, Result, Stopping, embed_in_shards
from hetero_devices.devices.profile import Budget
from hetero_devices.errors import BundleError, DeviceError, SpaceMismatch
from hetero_devices.space import Embeddings, Space

QUICK = MeasureConfig(warmup=1, min_samples=5, min_seconds=0, max_seconds=5)
LOOSE = GateConfig(delegated_share=None, float_layers=None)  # the tiny nets multiply floats


@dataclass
class Shifted:
    """The host, with `shift` added to every vector of jobs after the first `sound`; counts its jobs."""

    shift: float
    sound: int = 0
    name: str = "other"
    fail_at: int | None = None
    jobs: int = 0

    def run(self, job: Job) -> Result:
        self.jobs += 1
        if self.fail_at is not None and self.jobs >= self.fail_at:
            raise DeviceError(f"{self.name} is gone")
        result = HostDevice().run(replace(job, stopping=Stopping(warm_up=0, min_samples=2, min_seconds=0)))
        if result.embeddings is None or self.jobs <= self.sound:
            return result
        moved = result.embeddings + self.shift
        return replace(result, embeddings=moved / np.linalg.norm(moved, axis=1, keepdims=True))

    def info(self) -> dict[str, Any]:
        return HostDevice().info()

    def close(self) -> None: ...


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture
def search(bundle: Bundle, net: Any) -> Search:
    """Forty images in ten classes of near copies; the gallery holds one of each class."""
    base = net.images(10, seed=3).astype(int)
    noise = np.random.default_rng(4).integers(-40, 41, (40, *base.shape[1:]))
    pixels = np.clip(base.repeat(4, axis=0) + noise, 0, 255).astype(np.uint8)
    rows = np.arange(40)
    images = ImageSet(pixels, rows // 4, rows, np.zeros(40, np.int64), tuple("abcdefghij"))
    space = bundle.manifest.space
    gallery = Embeddings(net.embed(base.astype(np.uint8)), 100 + np.arange(10), np.arange(10), space)
    return Search(images, gallery)


def benched(bundle: Bundle, folder: Path, search: Search | None, *devices: Device, **options: Any) -> Outcome:
    targets = [Target(device) for device in devices]
    settings = {"config": LOOSE, "measuring": QUICK} | options
    return bench(bundle, targets, folder, search=search, **settings)


def test_the_host_agrees_with_itself(bundle: Bundle, search: Search, tmp_path: Path) -> None:
    counts: list[int] = []
    outcome = benched(bundle, tmp_path, search, HostDevice(), HostDevice(name="again"), advance=counts.append)
    report = outcome.report
    assert report.passed, [gate for gate in report.gates if not gate.passed]
    assert {(row.device, row.artefact) for row in report.parity} == {
        (device, model.file) for device in ("host", "again") for model in bundle.manifest.models
    }
    assert all(row.device == "again" and row.max_abs_error == 0 for row in report.drift)
    assert len(report.drift) == len(bundle.manifest.models)
    assert sum(counts) >= 2 * len(bundle.manifest.models) * 40
    assert len(report.figures) == 1
    assert not (tmp_path / WORK).exists()
    assert reports.read(reports.write(report, tmp_path / "out").with_suffix(".json")) == report


def test_a_device_with_other_vectors_fails_its_golden_gate_and_gets_no_queries(
    bundle: Bundle, search: Search, tmp_path: Path
) -> None:
    device = Shifted(0.5)
    report = benched(bundle, tmp_path, search, device).report
    assert not report.passed
    assert [gate.passed for gate in report.gates] == [False] * len(bundle.manifest.models)
    assert "golden vectors" in report.gates[0].name
    assert device.jobs == len(bundle.manifest.models)
    assert not report.parity
    assert not report.runs


def test_flips_that_a_device_causes_are_counted_against_this_machine(
    bundle: Bundle, search: Search, tmp_path: Path
) -> None:
    fp32 = [bundle.model("onnx", "fp32")]
    device = Shifted(0.5, sound=1)  # sound on the golden images, wrong afterwards
    report = benched(bundle, tmp_path, search, HostDevice(), device, models=fp32).report
    (drift,) = report.drift
    wrong = next(row for row in report.parity if row.device == "other")
    right = next(row for row in report.parity if row.device == HOST)
    assert right.recall.value > wrong.recall.value
    assert drift.negative_flips - drift.positive_flips == round(
        40 * (right.recall.value - wrong.recall.value)
    )
    assert not report.passed
    assert any("on other: lowest cosine" in gate.name and not gate.passed for gate in report.gates)
    tables = reports.write(report, tmp_path / "out").with_suffix(".md").read_text()
    assert f"{drift.negative_flips} / {drift.positive_flips}" in tables


def test_budgets_of_a_device_are_gates(bundle: Bundle, tmp_path: Path) -> None:
    target = Target(HostDevice(), Budget(latency_ms=1e-6, size_mb=100), formats=("onnx",))
    report = bench(bundle, [target], tmp_path, config=LOOSE, measuring=QUICK).report
    verdicts = {gate.name.rpartition(": ")[2]: gate.passed for gate in report.gates}
    assert verdicts == {"golden vectors": True, "median latency, ms": False, "file, MB": True}


def test_the_others_are_reported_when_a_device_is_gone_and_its_shards_stay(
    bundle: Bundle, search: Search, tmp_path: Path
) -> None:
    gone = Shifted(0, fail_at=3)
    outcome = benched(bundle, tmp_path, search, gone, HostDevice())
    assert outcome.failures == {"other": "other is gone"}
    assert {run.device for run in outcome.report.runs} == {HOST}
    assert (tmp_path / WORK).is_dir()
    back = Shifted(0)
    assert not benched(bundle, tmp_path, search, back, HostDevice()).failures
    assert not (tmp_path / WORK).exists()


def test_shards_are_done_once_and_belong_to_one_bundle(bundle: Bundle, net: Any, tmp_path: Path) -> None:
    images, model = net.images(23), bundle.path(bundle.model("onnx", "fp32"))
    with pytest.raises(DeviceError, match="gone"):
        embed_in_shards(Shifted(0, fail_at=3), model, images, tmp_path, shard=5)
    device = Shifted(0)
    found = embed_in_shards(device, model, images, tmp_path, shard=5).embeddings
    assert device.jobs == 3  # of five, two were there
    assert found is not None
    np.testing.assert_allclose(found, net.embed(images), atol=1e-5)
    other = Shifted(0)
    embed_in_shards(other, bundle.path(bundle.model("tflite", "fp32")), images, tmp_path, shard=5)
    assert other.jobs == 5


def test_another_machine_behind_the_same_name_is_refused(bundle: Bundle, net: Any, tmp_path: Path) -> None:
    images, model = net.images(10), bundle.path(bundle.model("onnx", "fp32"))
    with pytest.raises(DeviceError, match="gone"):
        embed_in_shards(Shifted(0, fail_at=2), model, images, tmp_path, shard=5)

    class Changed(Shifted):
        def run(self, job: Job) -> Result:
            result = super().run(job)
            return replace(
                result, profile=replace(result.profile, cpu=replace(result.profile.cpu, model="another"))
            )

    with pytest.raises(DeviceError, match="another machine or runtime"):
        embed_in_shards(Changed(0), model, images, tmp_path, shard=5)


def test_a_gallery_of_another_space_is_refused(bundle: Bundle, search: Search, tmp_path: Path) -> None:
    gallery = replace(search.gallery, space=Space(id="f" * 16, dim=16))
    with pytest.raises(SpaceMismatch):
        benched(bundle, tmp_path, replace(search, gallery=gallery), HostDevice())


def test_models_are_chosen_by_format_and_precision(bundle: Bundle, search: Search) -> None:
    source = BenchSource.of_bundle(bundle, "demo", ("gates.recall=0.5", "measure.threads=2"), search)
    assert (source.recipe.gates.recall, source.recipe.measure.threads) == (0.5, 2)
    assert [model.file for model in source.models(("tflite",), ("int8",))] == ["model.int8.tflite"]
    with pytest.raises(BundleError, match="it has onnx fp32"):
        source.models(("onnx",), ("int8",))
    limited = source.limited(7).search
    assert limited is not None
    assert len(limited.images) == 7


def test_the_front_keeps_what_nothing_beats() -> None:
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (4.0, 0.9)]
    assert pareto.front(points) == [1, 3, 0]
