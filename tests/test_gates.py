"""Gates: each threshold decides on its own side; rules differ by precision; budgets only when asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetero.data.imageset import ImageSet
from hetero.recipes.recipe import GateConfig
from hetero.report import Gate, LatencyRow, ParityRow, PlacementRow
from hetero.retrieval import Comparison, Criterion, Estimate, evaluate
from hetero.runs.bundle_gates import Search, gate_bundle
from hetero.runs.gates import gates
from hetero.runs.parity import parity_row
from hetero_devices.bundle import Bundle, ModelFile
from hetero_devices.errors import BundleError, DataError, RecipeError, SpaceMismatch
from hetero_devices.runtimes import Placement
from hetero_devices.space import Embeddings, Space
from hetero_devices.verify import Check

ZERO = Estimate(0.0, -0.001, 0.001)
FP32 = ParityRow(
    artefact="model.fp32.onnx",
    format="onnx",
    precision="fp32",
    cosine_distance_mean=1e-8,
    cosine_distance_median=1e-8,
    cosine_distance_p99=1e-7,
    cosine_distance_max=1e-6,
    max_abs_error=1e-6,
    top1_identical=1.0,
    recall=Estimate(0.8, 0.75, 0.85),
    recall_delta=ZERO,
    map_delta=ZERO,
    top10_overlap=1.0,
    queries=1000,
    negative_flips=0,
    positive_flips=0,
)
INT8 = replace(
    FP32,
    artefact="model.int8.onnx",
    precision="int8",
    cosine_distance_max=0.2,
    top1_identical=0.7,
    recall_delta=Estimate(-0.004, -0.011, 0.002),
    map_delta=Estimate(-0.003, -0.006, -0.001),
    top10_overlap=0.8,
    negative_flips=12,
    positive_flips=8,
)
FP16 = replace(FP32, artefact="model.fp16.onnx", precision="fp16", cosine_distance_max=5e-4)
LATENCY = LatencyRow(
    artefact="model.int8.onnx",
    device="host",
    runtime="onnxruntime 1",
    threads=1,
    p50_ms=2.0,
    p90_ms=3.0,
    p95_ms=4.0,
    peak_mb=None,
    size_kb=200.0,
)
PLACEMENT = Placement(
    backends={"XNNPACK": 8, "builtin": 2},
    partitions=2,
    fallback={"RESIZE": 2},
    integer=9,
    floating=1,
    conversions=0,
    float_layers={"CONV_2D": 1},
)
CHECK = Check("hashes", True, None, None, "")


def model(precision: str, size: int, format: str = "onnx") -> ModelFile:
    file: Any = {"format": format, "precision": precision}
    name = f"model.{precision}.{format}"
    return ModelFile(file=name, sha256="0" * 64, bytes=size, input_dtype="uint8", tolerance=1e-3, **file)


MODELS = [model("fp32", 500_000), model("int8", 200_000)]
TIMES = [replace(LATENCY, artefact="model.fp32.onnx", p50_ms=3.0), LATENCY]


def placed(precision: str) -> PlacementRow:
    return PlacementRow(artefact="m", precision=precision, device="host", placement=PLACEMENT)


def criterion(low: float) -> Criterion:
    difference = Estimate(low + 0.01, low, low + 0.02)
    return Criterion("recall@1", Comparison(difference, 0.01, 20, 5, "paired bootstrap"), low > 0, "")


def failed(config: GateConfig, parity: ParityRow = FP32, low: float = 0.02) -> list[str]:
    found = gates(
        config,
        checks=[CHECK],
        parity=[parity],
        models=MODELS,
        latency=TIMES,
        criterion=criterion(low),
    )
    return [gate.name for gate in found if not gate.passed]


def test_a_sound_student_passes_everything() -> None:
    everything = GateConfig(latency_ms=2.5, size_kb=250, latency_ratio=0.7, size_ratio=0.4, recall=0.8)
    for row in (FP32, FP16, INT8, replace(INT8, precision="mixed")):
        assert failed(everything, row) == []


@pytest.mark.parametrize(
    ("config", "parity", "expected"),
    [
        (GateConfig(), replace(FP32, cosine_distance_max=2e-4), "model.fp32.onnx: lowest cosine"),
        (GateConfig(), replace(FP32, top1_identical=0.9999), "model.fp32.onnx: same first result"),
        (GateConfig(), replace(FP16, cosine_distance_max=2e-3), "model.fp16.onnx: lowest cosine"),
        (GateConfig(), replace(FP16, top1_identical=0.98), "model.fp16.onnx: same first result"),
        (GateConfig(int8_recall_drop=0.003), INT8, "model.int8.onnx: change of Recall@1"),
        (GateConfig(int8_map_drop=0.002), INT8, "model.int8.onnx: change of mAP"),
        (GateConfig(int8_min_cosine=0.9), INT8, "model.int8.onnx: lowest cosine"),
        (GateConfig(int8_top10_overlap=0.9), INT8, "model.int8.onnx: top-10 overlap"),
        (GateConfig(int8_negative_flips=0.01), INT8, "model.int8.onnx: negative flips"),
        (GateConfig(rule="interval"), INT8, "model.int8.onnx: change of Recall@1"),
        (GateConfig(recall=0.81), FP32, "model.fp32.onnx: Recall@1"),
        (GateConfig(latency_ms=1.9), FP32, "median latency, ms"),
        (GateConfig(latency_ratio=0.6), FP32, "median latency over fp32's"),
        (GateConfig(size_kb=199), FP32, "smallest file, kB"),
        (GateConfig(size_ratio=0.3), FP32, "size over fp32's"),
    ],
)
def test_each_threshold_decides(config: GateConfig, parity: ParityRow, expected: str) -> None:
    assert failed(config, parity) == [expected]


def test_a_precision_nobody_has_heard_of_is_bounded_by_its_loss() -> None:
    row = replace(INT8, precision="int4", recall_delta=Estimate(-0.02, -0.03, -0.01))
    assert failed(GateConfig(), row) == ["model.int8.onnx: change of Recall@1"]


def test_an_unproven_loss_asks_for_more_queries() -> None:
    found = gates(GateConfig(rule="interval"), parity=[INT8])
    (gate,) = [gate for gate in found if not gate.passed]
    assert gate.value == -0.011
    assert "more queries may prove it" in gate.detail
    proven = replace(INT8, recall_delta=Estimate(-0.02, -0.03, -0.015))
    assert "more queries" not in gates(GateConfig(rule="interval"), parity=[proven])[0].detail


def test_placement_is_judged_where_the_runtime_tells() -> None:
    def names(config: GateConfig, precision: str) -> list[str]:
        return [gate.name for gate in gates(config, placement=[placed(precision)]) if not gate.passed]

    assert names(GateConfig(), "int8") == ["m: layers in float"]
    assert names(GateConfig(float_layers=1), "int8_io") == []
    assert names(GateConfig(), "fp32") == names(GateConfig(), "mixed") == names(GateConfig(), "dynamic") == []
    assert names(GateConfig(delegated_share=0.9), "fp32") == ["m: share run by XNNPACK"]
    onnx = replace(placed("fp32"), placement=replace(PLACEMENT, partitions=None))
    assert gates(GateConfig(delegated_share=1.0), placement=[onnx]) == ()


def test_a_ratio_without_its_denominator_is_refused() -> None:
    with pytest.raises(RecipeError, match="size over fp32's"):
        gates(GateConfig(size_ratio=0.5), models=[model("int8", 100), model("fp32", 300, "tflite")])
    with pytest.raises(RecipeError, match="median latency"):
        gates(GateConfig(latency_ms=5), models=MODELS)


def test_an_interval_that_touches_zero_is_no_proof() -> None:
    assert failed(GateConfig(), low=0.0) == ["compatibility criterion"]
    assert failed(GateConfig(criterion=False), low=0.0) == []


def test_a_failed_check_of_the_bundle_is_named() -> None:
    (gate,) = gates(GateConfig(), checks=[CHECK, Check("model parity", False, 1.0, 0.1, "too far")])
    assert not gate.passed
    assert "model parity: too far" in gate.detail


def unit(vectors: np.ndarray[Any, np.dtype[Any]]) -> Any:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_flips_are_counted_query_by_query() -> None:
    """Four queries of two classes; the artefact turns one right query wrong and one wrong query right."""
    space, labels = Space("a" * 16, 2), np.array([0, 0, 1, 1])
    gallery = Embeddings(np.eye(2, dtype=np.float32), np.array([90, 91]), np.array([0, 1]), space)

    def queries(right: list[bool]) -> Embeddings:
        towards = np.where(right, labels, 1 - labels)
        vectors = unit(np.eye(2)[towards] + 0.1)
        return Embeddings(vectors, np.arange(4), labels, space)

    before, after = queries([True, True, False, True]), queries([True, False, True, True])
    row = parity_row(
        model("int8", 10), (after, before), gallery, (evaluate(after, gallery), evaluate(before, gallery))
    )
    assert (row.queries, row.negative_flips, row.positive_flips) == (4, 1, 1)
    assert row.recall.value == 0.75
    assert row.recall_delta.value == 0.0
    assert row.top1_identical == 0.5
    assert row.top10_overlap == 1.0
    assert row.max_abs_error == pytest.approx(np.abs(after.vectors - before.vectors).max())
    assert row.cosine_distance_median == pytest.approx(row.cosine_distance_max / 2, rel=1e-6)


@pytest.fixture
def images(net: Any) -> ImageSet:
    """40 images of 10 classes, noisy copies of one image each."""
    generator = np.random.default_rng(5)
    centres = net.images(10, seed=4).astype(np.int64)
    labels = np.arange(40) % 10
    noisy = centres[labels] + generator.integers(-60, 61, (40, 8, 8, 3))
    pixels = np.clip(noisy, 0, 255).astype(np.uint8)
    return ImageSet(pixels, labels, np.arange(40), np.zeros(40, np.int64), tuple(f"c{i}" for i in range(10)))


@pytest.fixture
def gallery(net: Any, images: ImageSet) -> Embeddings:
    return Embeddings(net.embed(images.images), images.ids, images.labels, Space("0" * 16, 16))


def by_name(found: tuple[Gate, ...]) -> dict[str, Gate]:
    return {gate.name: gate for gate in found}


def test_a_bundle_alone_is_gated(tiny_bundle: Path, images: ImageSet, gallery: Embeddings) -> None:
    config = GateConfig(int8_negative_flips=0.0, size_ratio=1.1, delegated_share=0.6)
    found = by_name(gate_bundle(Bundle.open(tiny_bundle), config, search=Search(images, gallery)))
    assert all(
        gate.passed for name, gate in found.items() if "share run" not in name and "layers" not in name
    )
    assert {"model.fp32.tflite: same first result", "model.int8.tflite: negative flips"} <= found.keys()
    # The tiny graphs leave their normalisation to the builtin kernels, and "int8" multiplies floats.
    assert not found["model.fp32.tflite: share run by XNNPACK"].passed
    assert "L2_NORMALIZATION" in found["model.fp32.tflite: share run by XNNPACK"].detail
    assert not found["model.int8.tflite: layers in float"].passed
    json.dumps([gate.value for gate in found.values()])


def test_without_a_search_only_size_and_placement_are_gated(tiny_bundle: Path) -> None:
    found = gate_bundle(Bundle.open(tiny_bundle), GateConfig(size_kb=1.0), formats=["onnx"])
    assert [gate.name for gate in found] == ["smallest file, kB"]


def test_a_model_of_other_weights_fails_by_retrieval(
    tiny_bundle: Path, images: ImageSet, gallery: Embeddings
) -> None:
    """The reference is another float model: near in no number, far in what it finds."""
    turned = np.roll(gallery.vectors, 3, axis=1)
    reference = Embeddings(gallery.vectors, gallery.ids, gallery.labels, gallery.space)
    other = replace(gallery, vectors=turned)
    found = by_name(
        gate_bundle(Bundle.open(tiny_bundle), GateConfig(), search=Search(images, gallery, other))
    )
    assert not found["model.fp32.onnx: lowest cosine"].passed
    same = gate_bundle(Bundle.open(tiny_bundle), GateConfig(), search=Search(images, gallery, reference))
    assert by_name(same)["model.fp32.onnx: lowest cosine"].passed


def test_sides_that_do_not_fit_are_refused(tiny_bundle: Path, images: ImageSet, gallery: Embeddings) -> None:
    bundle = Bundle.open(tiny_bundle)
    foreign = replace(gallery, space=Space("b" * 16, 16))
    with pytest.raises(SpaceMismatch, match="the gallery is in space b"):
        gate_bundle(bundle, GateConfig(), search=Search(images, foreign))
    with pytest.raises(DataError, match="embeds other images"):
        gate_bundle(bundle, GateConfig(), search=Search(images, gallery, gallery.select(np.arange(39))))
    manifest = replace(bundle.manifest, models=bundle.manifest.models[2:])
    with pytest.raises(BundleError, match="no fp32 model"):
        gate_bundle(replace(bundle, manifest=manifest), GateConfig(), search=Search(images, gallery))
