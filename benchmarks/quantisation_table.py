"""The table of `quantisation.py`: one row a variant, format and precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import results
from hetero.report import wording
from hetero.retrieval import MAP, RECALL_AT_1, Estimate, PerQuery
from hetero.retrieval.seeds import across_seeds, difference_across_seeds

METRICS = (RECALL_AT_1, MAP)
Key = tuple[str, str, str]
Timings = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Cell:
    """One artefact of one seed: asymmetric values by metric. bytes: of the file, 0 for torch.

    refused: why the exporter did not write it, in its own words; then there are no values.
    """

    format: str
    precision: str
    variant: str
    bytes: int
    values: dict[str, PerQuery]
    refused: str = ""

    @property
    def key(self) -> Key:
        return self.format, self.precision, self.variant


@dataclass(frozen=True)
class Row:
    """One line: scores and losses over seeds; ratios to fp32 of the same format, None where unmeasured.

    refused: the exporter's words for each seed that it refused; scores are None where there is any.
    """

    key: Key
    recall: Estimate | None = None
    precision: Estimate | None = None
    recall_change: Estimate | None = None
    precision_change: Estimate | None = None
    size: float | None = None
    latency: float | None = None
    delegated: float | None = None
    refused: tuple[str, ...] = ()


def rows(seeds: Sequence[Sequence[Cell]], timings: Timings) -> list[Row]:
    """Torch first, then by format in the order of the cells."""
    keys = sorted((cell.key for cell in seeds[0]), key=lambda key: ("torch", "onnx", "tflite").index(key[0]))
    by_key = {key: [next(c for c in cells if c.key == key) for cells in seeds] for key in keys}
    baseline = by_key[keys[0]]
    return [_row(key, by_key[key], baseline, by_key, timings) for key in keys]


def _row(
    key: Key, cells: list[Cell], baseline: list[Cell], by_key: dict[Key, list[Cell]], timings: Timings
) -> Row:
    if refused := tuple(cell.refused for cell in cells if cell.refused):
        return Row(key, refused=refused)
    plain = by_key.get((key[0], "fp32", "plain"), cells)
    time = _timed(key, timings)
    return Row(
        key,
        recall=_score(cells, RECALL_AT_1),
        precision=_score(cells, MAP),
        recall_change=_change(cells, baseline, RECALL_AT_1),
        precision_change=_change(cells, baseline, MAP),
        size=cells[0].bytes / plain[0].bytes if plain[0].bytes else None,
        latency=time.get("ratio"),
        delegated=time.get("delegated"),
    )


def _score(cells: list[Cell], metric: str) -> Estimate:
    runs = [cell.values[metric] for cell in cells]
    return across_seeds(runs, clusters=runs[0].labels).over_both


def _change(cells: list[Cell], baseline: list[Cell], metric: str) -> Estimate:
    runs, before = ([cell.values[metric] for cell in side] for side in (cells, baseline))
    return difference_across_seeds(runs, before, clusters=runs[0].labels).over_both


def _timed(key: Key, timings: Timings) -> dict[str, float]:
    """Latency relative to fp32 of the format, from the run in which both were measured."""
    format, precision, variant = key
    measured = timings.get(variant, timings["plain"] if precision == "int8" else [])
    of_format = {row["precision"]: row for row in measured if row["format"] == format}
    if precision not in of_format:
        return {}
    row, fp32 = of_format[precision], of_format["fp32"]
    return {"ratio": row["p50_ms"] / fp32["p50_ms"], "delegated": row["delegated"]}


_HEAD = (
    "| runtime | precision | how | asymmetric R@1 | asymmetric mAP | Δ R@1, points | Δ mAP, points "
    "| size | latency | XNNPACK |\n|---|---|---|---|---|---|---|---|---|---|"
)


def table(data: str, seeds: Sequence[Sequence[Cell]], timings: Timings) -> str:
    """One data set's section, and the highest int8 row of each runtime in a sentence."""
    found = rows(seeds, timings)
    return "\n".join([f"\n## {data}\n", _HEAD, *map(_line, found), "", *_best(found)]) + "\n"


def _line(row: Row) -> str:
    format, precision, variant = row.key
    first = (format, precision, "" if variant == "plain" else variant)
    return f"| {' | '.join((*first, *(_refusal(row) if row.refused else _scores(row))))} |"


def _refusal(row: Row) -> tuple[str, ...]:
    """The exporter's first words stand where the scores would."""
    seeds = "1 seed" if len(row.refused) == 1 else f"{len(row.refused)} seeds"
    return (f"refused on {seeds}: {row.refused[0].partition(';')[0]}", *[wording.NONE] * 6)


def _scores(row: Row) -> tuple[str, ...]:
    changes = (row.recall_change, row.precision_change)
    return (
        *(results.percent(e) for e in (row.recall, row.precision) if e),
        *("–" if row.key[0] == "torch" else results.signed(e) for e in changes if e),
        *(_ratio(value) for value in (row.size, row.latency, row.delegated)),
    )


def _best(found: list[Row]) -> list[str]:
    lines = []
    for format in ("onnx", "tflite"):
        integer = {
            row.key[2]: row.recall_change
            for row in found
            if row.key[0] == format and row.key[1] == "int8" and row.recall_change
        }
        how = max(integer, key=lambda variant: integer[variant].value)
        said = "as it is" if how == "plain" else how
        lines.append(
            f"Highest int8 row for {format}: {said}, {results.signed(integer[how])} points of R@1, "
            "picked by these test queries and so a little flattered."
        )
    return lines


def fields(seeds: Sequence[Sequence[Cell]], timings: Timings) -> dict[str, Any]:
    """The rows and the timings for the JSON."""
    return {"rows": [asdict(row) for row in rows(seeds, timings)], "timings": timings}


def _ratio(value: float | None) -> str:
    return wording.NONE if value is None else f"{value:.2f}"
