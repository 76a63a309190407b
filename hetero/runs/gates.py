"""The gates of a student: thresholds from the recipe, each one line of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hetero.recipes.recipe import GateConfig
from hetero.report import Gate, LatencyRow, ParityRow
from hetero.retrieval import Criterion
from hetero_devices.verify import Check


def gates(
    config: GateConfig,
    parity: Sequence[ParityRow],
    latency: Sequence[LatencyRow],
    criterion: Criterion | None,
    checks: Sequence[Check],
) -> tuple[Gate, ...]:
    """Every gate the configuration asks for, in the order: bundle, numeric, retrieval, budget, criterion."""
    return (
        *_bundle(checks),
        *(gate for row in parity for gate in _parity(config, row)),
        *_budget(config, latency),
        *_criterion(config, criterion),
    )


def _bundle(checks: Sequence[Check]) -> Iterator[Gate]:
    failed = "; ".join(f"{c.name}: {c.detail}" for c in checks if not c.passed)
    detail = failed or "hashes, contract and golden vectors, in a process without torch"
    yield Gate.check("bundle checks passed", sum(check.passed for check in checks), ">=", len(checks), detail)


def _parity(config: GateConfig, row: ParityRow) -> Iterator[Gate]:
    name = row.artefact
    if row.precision == "fp32":
        yield Gate.check(f"{name}: lowest cosine", 1 - row.cosine_distance_max, ">=", config.fp32_min_cosine)
        yield Gate.check(f"{name}: same first result", row.top1_identical, ">=", config.fp32_top1_same)
    else:
        change = row.recall_delta
        detail = f"95 % interval {change.low:+.4f} to {change.high:+.4f}"
        yield Gate.check(f"{name}: change of Recall@1", change.value, ">=", -config.int8_recall_drop, detail)


def _budget(config: GateConfig, latency: Sequence[LatencyRow]) -> Iterator[Gate]:
    if config.latency_ms is not None and latency:
        fastest = min(latency, key=lambda row: row.p50_ms)
        yield Gate.check("median latency, ms", fastest.p50_ms, "<=", config.latency_ms, fastest.artefact)
    if config.size_kb is not None and latency:
        smallest = min(latency, key=lambda row: row.size_kb)
        yield Gate.check("smallest file, kB", smallest.size_kb, "<=", config.size_kb, smallest.artefact)


def _criterion(config: GateConfig, criterion: Criterion | None) -> Iterator[Gate]:
    if config.criterion and criterion is not None:
        detail = "lower end of the interval of M(student, anchor) - M(alone, alone)"
        yield Gate.check("compatibility criterion", criterion.comparison.difference.low, ">", 0.0, detail)
