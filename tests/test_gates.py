"""Gates: each threshold decides on its own side, and optional budgets are silent until asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hetero.recipes.recipe import GateConfig
from hetero.report import LatencyRow, ParityRow
from hetero.retrieval import Comparison, Criterion, Estimate
from hetero.runs.gates import gates
from hetero_devices.verify import Check

ZERO = Estimate(0.0, -0.001, 0.001)
FP32 = ParityRow(
    artefact="model.fp32.onnx",
    format="onnx",
    precision="fp32",
    cosine_distance_mean=1e-8,
    cosine_distance_p99=1e-7,
    cosine_distance_max=1e-6,
    top1_identical=1.0,
    recall_delta=ZERO,
    map_delta=ZERO,
    top10_overlap=1.0,
)
INT8 = replace(
    FP32, artefact="model.int8.onnx", precision="int8", recall_delta=Estimate(-0.004, -0.006, -0.002)
)
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
CHECK = Check("hashes", True, None, None, "")


def criterion(low: float) -> Criterion:
    difference = Estimate(low + 0.01, low, low + 0.02)
    return Criterion("recall@1", Comparison(difference, 0.01, 20, 5, "paired bootstrap"), low > 0, "")


def failed(
    config: GateConfig, parity: ParityRow = FP32, low: float = 0.02, check: Check = CHECK
) -> list[str]:
    return [g.name for g in gates(config, [parity], [LATENCY], criterion(low), [check]) if not g.passed]


def test_a_sound_student_passes_everything() -> None:
    assert failed(GateConfig(latency_ms=2.5, size_kb=250)) == []
    assert failed(GateConfig(), INT8) == []


@pytest.mark.parametrize(
    ("config", "parity", "expected"),
    [
        (GateConfig(), replace(FP32, cosine_distance_max=2e-4), "model.fp32.onnx: lowest cosine"),
        (GateConfig(), replace(FP32, top1_identical=0.9999), "model.fp32.onnx: same first result"),
        (GateConfig(int8_recall_drop=0.003), INT8, "model.int8.onnx: change of Recall@1"),
        (GateConfig(latency_ms=1.9), FP32, "median latency, ms"),
        (GateConfig(size_kb=199), FP32, "smallest file, kB"),
    ],
)
def test_each_threshold_decides(config: GateConfig, parity: ParityRow, expected: str) -> None:
    assert failed(config, parity) == [expected]


def test_an_interval_that_touches_zero_is_no_proof() -> None:
    assert failed(GateConfig(), low=0.0) == ["compatibility criterion"]
    assert failed(GateConfig(criterion=False), low=0.0) == []


def test_a_failed_check_of_the_bundle_is_named() -> None:
    (gate, *_) = gates(GateConfig(), [], [], None, [CHECK, Check("model parity", False, 1.0, 0.1, "too far")])
    assert not gate.passed
    assert "model parity: too far" in gate.detail
