"""The gates of a student: thresholds from the recipe, each one line of the report.

A quantised model is judged by what it finds, not by how near its numbers are: embeddings may move much
without a neighbour changing, or little with many changing (docs/gates.md shows both). A float model has no
reason to differ at all, so it is judged by its numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hetero.recipes.recipe import GateConfig
from hetero.report import HOST, Gate, LatencyRow, ParityRow, PlacementRow
from hetero.report.model import Relation
from hetero.report.wording import counts
from hetero.retrieval import Criterion, Estimate
from hetero_devices.bundle import ModelFile
from hetero_devices.errors import RecipeError
from hetero_devices.verify import Check

EXACT = frozenset({"fp32", "fp16"})
"""Precisions without integers: near-exact is required. Every other name counts as quantised."""

FULL_INTEGER = frozenset({"int8", "int8_io"})
"""Precisions that promise integers in every layer with weights."""


def gates(
    config: GateConfig,
    *,
    checks: Sequence[Check] = (),
    parity: Sequence[ParityRow] = (),
    models: Sequence[ModelFile] = (),
    latency: Sequence[LatencyRow] = (),
    placement: Sequence[PlacementRow] = (),
    drift: Sequence[ParityRow] = (),
    criterion: Criterion | None = None,
) -> tuple[Gate, ...]:
    """Every gate the configuration asks for and for which there are facts.

    Order: bundle, numeric and retrieval of each artefact, size, latency, placement, drift, criterion. models:
    whose sizes and medians are judged. drift: artefacts on devices against the same files here. Raises
    RecipeError when a budget is asked for and nothing was measured for it.
    """
    return (
        *_bundle(checks),
        *(gate for row in parity for gate in _parity(config, row)),
        *_budgets(config, models, latency),
        *(gate for row in placement for gate in _placement(config, row)),
        *(gate for row in drift for gate in _drift(config, row)),
        *_criterion(config, criterion),
    )


def placed(row: ParityRow | PlacementRow | LatencyRow) -> str:
    """What a gate calls an artefact: its file, and where it ran if that is not this machine."""
    return row.artefact if row.device == HOST else f"{row.artefact} on {row.device}"


def _bundle(checks: Sequence[Check]) -> Iterator[Gate]:
    if not checks:
        return
    failed = "; ".join(f"{c.name}: {c.detail}" for c in checks if not c.passed)
    detail = failed or "hashes, contract and golden vectors, in processes of their own"
    yield Gate.check("bundle checks passed", sum(check.passed for check in checks), ">=", len(checks), detail)


def _parity(config: GateConfig, row: ParityRow) -> Iterator[Gate]:
    yield from _exact(config, row) if row.precision in EXACT else _bounded(config, row)
    if config.recall is not None:
        detail = f"95 % interval {row.recall.low:.4f} to {row.recall.high:.4f}"
        yield Gate.check(f"{placed(row)}: Recall@1", row.recall.value, ">=", config.recall, detail)


def _exact(config: GateConfig, row: ParityRow) -> Iterator[Gate]:
    half = row.precision == "fp16"
    cosine = config.fp16_min_cosine if half else config.fp32_min_cosine
    same = config.fp16_top1_same if half else config.fp32_top1_same
    yield Gate.check(f"{placed(row)}: lowest cosine", *_lowest_cosine(row, cosine))
    yield Gate.check(
        f"{placed(row)}: same first result", row.top1_identical, ">=", same, f"{row.queries} queries"
    )


def _bounded(config: GateConfig, row: ParityRow) -> Iterator[Gate]:
    name = placed(row)
    if config.int8_min_cosine is not None:
        yield Gate.check(f"{name}: lowest cosine", *_lowest_cosine(row, config.int8_min_cosine))
    yield _loss(f"{name}: change of Recall@1", config, row.recall_delta, config.int8_recall_drop)
    if config.int8_map_drop is not None:
        yield _loss(f"{name}: change of mAP", config, row.map_delta, config.int8_map_drop)
    if config.int8_top10_overlap is not None:
        overlap = row.top10_overlap
        yield Gate.check(f"{name}: top-10 overlap", overlap, ">=", config.int8_top10_overlap)
    if config.int8_negative_flips is not None:
        share = row.negative_flips / row.queries
        detail = f"{row.negative_flips} negative, {row.positive_flips} positive, of {row.queries} queries"
        yield Gate.check(f"{name}: negative flips", share, "<=", config.int8_negative_flips, detail)


def _lowest_cosine(row: ParityRow, threshold: float) -> tuple[float, Relation, float, str]:
    detail = (
        f"p01 {1 - row.cosine_distance_p99:.6f}, median {1 - row.cosine_distance_median:.6f}, "
        f"largest difference of an element {row.max_abs_error:.1e}"
    )
    return 1 - row.cosine_distance_max, ">=", threshold, detail


def _loss(name: str, config: GateConfig, change: Estimate, drop: float) -> Gate:
    """Non-inferiority to the float model, by the recipe's rule."""
    interval = f"95 % interval {change.low:+.4f} to {change.high:+.4f}"
    if config.rule == "value":
        return Gate.check(name, change.value, ">=", -drop, interval)
    unproven = change.low < -drop <= change.value
    detail = f"lower end of the interval; measured {change.value:+.4f}"
    return Gate.check(
        name, change.low, ">=", -drop, detail + (": more queries may prove it" if unproven else "")
    )


def _budgets(
    config: GateConfig, models: Sequence[ModelFile], latency: Sequence[LatencyRow]
) -> Iterator[Gate]:
    """A budget is met when one artefact meets it: the app ships the best one."""
    medians = {row.artefact: row.p50_ms for row in latency}
    sizes = {model.file: model.bytes / 1000 for model in models}
    keys = {model.file: (model.format, model.precision) for model in models}
    yield from _smallest("median latency, ms", medians, config.latency_ms)
    yield from _smallest("median latency over fp32's", _ratios(medians, keys), config.latency_ratio)
    yield from _smallest("smallest file, kB", sizes, config.size_kb)
    yield from _smallest("size over fp32's", _ratios(sizes, keys), config.size_ratio)


def _smallest(name: str, values: Mapping[str, float], threshold: float | None) -> Iterator[Gate]:
    if threshold is None:
        return
    if not values:
        raise RecipeError(
            f"the gate on {name!r} has nothing to judge: a ratio needs an fp32 and a quantised model of one "
            "format in the bundle"
        )
    ordered = sorted(values.items(), key=lambda item: item[1])
    detail = ", ".join(f"{file} {value:.3g}" for file, value in ordered)
    yield Gate.check(name, ordered[0][1], "<=", threshold, detail)


def _ratios(values: Mapping[str, float], keys: Mapping[str, tuple[str, str]]) -> dict[str, float]:
    """Each quantised artefact's value over that of the fp32 artefact of its format, where there is one."""
    float32 = {keys[file][0]: value for file, value in values.items() if keys[file][1] == "fp32"}
    return {
        file: value / float32[keys[file][0]]
        for file, value in values.items()
        if keys[file][1] not in EXACT and keys[file][0] in float32
    }


def _placement(config: GateConfig, row: PlacementRow) -> Iterator[Gate]:
    where, share = row.placement, row.placement.delegated_share
    if config.delegated_share is not None and share is not None:
        detail = f"partitions: {where.partitions}; not delegated: {counts(where.fallback)}"
        yield Gate.check(f"{placed(row)}: share run by XNNPACK", share, ">=", config.delegated_share, detail)
    if config.float_layers is not None and row.precision in FULL_INTEGER:
        floating = sum(where.float_layers.values())
        detail = f"{counts(where.float_layers)}; {where.integer} operators in integers"
        yield Gate.check(f"{placed(row)}: layers in float", floating, "<=", config.float_layers, detail)


def _drift(config: GateConfig, row: ParityRow) -> Iterator[Gate]:
    limit = config.device_float_drift if row.precision in EXACT else config.device_int8_drift
    if limit is not None:
        detail = f"largest 1 - cosine to this machine's; largest error of an element {row.max_abs_error:.1e}"
        yield Gate.check(f"{placed(row)}: drift", row.cosine_distance_max, "<=", limit, detail)
    if config.device_negative_flips is not None:
        share = row.negative_flips / row.queries
        detail = f"{row.negative_flips} negative, {row.positive_flips} positive, of {row.queries} queries"
        yield Gate.check(f"{placed(row)}: device flips", share, "<=", config.device_negative_flips, detail)


def _criterion(config: GateConfig, criterion: Criterion | None) -> Iterator[Gate]:
    if config.criterion and criterion is not None:
        detail = "lower end of the interval of M(student, anchor) - M(alone, alone)"
        yield Gate.check("compatibility criterion", criterion.comparison.difference.low, ">", 0.0, detail)
