"""The table of `objectives.py`: rows, their order, their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cells
import results
from hetero.retrieval import MAP, RECALL_AT_1, Estimate, Evaluation, PerQuery
from hetero.retrieval.metrics import display_name
from hetero.retrieval.seeds import across_seeds, difference_across_seeds
from objectives_grid import BASELINE, Setting

METRICS = (RECALL_AT_1, MAP)


class Scores(NamedTuple):
    """Of one model on one split: per metric, student to anchor and student to student."""

    asymmetric: dict[str, PerQuery]
    symmetric: dict[str, PerQuery]

    @classmethod
    def kept(cls, path: Path, compute: Callable[[], Scores]) -> Scores:
        """The scores that are on disk, or are computed and put there."""
        columns = cells.kept(path, lambda: compute()._columns())
        sides = ({value.metric: value for name, value in columns if name == side} for side in cls._fields)
        return cls(*sides)

    def _columns(self) -> cells.Columns:
        sides = self._asdict().items()
        return [(side, value) for side, values in sides for value in values.values()]


def values_of(found: Evaluation) -> dict[str, PerQuery]:
    """An evaluation's `METRICS`, query by query."""
    return {metric: found.per_query(metric) for metric in METRICS}


@dataclass(frozen=True)
class Row:
    """A candidate with its chosen setting and its scores by seed, or the reason why there are none.

    validation: asymmetric mAP on the validation classes, of every setting.
    """

    name: str
    setting: Setting | None
    scores: tuple[Scores, ...] = ()
    validation: tuple[float, ...] = ()
    refused: str = ""


_HEAD = (
    "| objective | asymmetric R@1 | asymmetric mAP | Δ mAP over regression | asymmetric − symmetric mAP "
    "| symmetric R@1 | symmetric mAP | chosen on validation |\n|---|---|---|---|---|---|---|---|"
)


def table(data: str, rows: Sequence[Row], references: Mapping[str, Sequence[Scores]]) -> str:
    """One data set's section."""
    baseline = _baseline(rows)
    lines = [_reference(name, scores) for name, scores in references.items()]
    lines += [_line(row, baseline) for row in ordered(rows)]
    return "\n".join([f"## {data}\n", _HEAD, *lines]) + "\n"


def ordered(rows: Sequence[Row]) -> list[Row]:
    """By asymmetric mAP; the controls below, then what could not be run."""

    def key(row: Row) -> tuple[int, float]:
        if row.setting is None:
            return 2, 0.0
        return int(row.setting.control), -summary(row.scores, "asymmetric", MAP).value

    return sorted(rows, key=key)


def fields(rows: Sequence[Row]) -> dict[str, Any]:
    """The rows for the JSON, in the table's order."""
    baseline = _baseline(rows)
    return {row.name: _fields(row, baseline) for row in ordered(rows)}


def reference_fields(references: Mapping[str, Sequence[Scores]]) -> dict[str, Any]:
    """The models that no objective is asked of, for the JSON."""
    return {name: _sides(scores) for name, scores in references.items()}


def _sides(scores: Sequence[Scores]) -> dict[str, Any]:
    return {column: asdict(estimate) for column, estimate in _summaries(scores).items()}


def _summaries(scores: Sequence[Scores]) -> dict[str, Estimate]:
    return {
        f"{side} {metric}": summary(scores, side, metric) for side in Scores._fields for metric in METRICS
    }


def recommended(by_data: Mapping[str, Sequence[Row]]) -> str | None:
    """The candidate of the best mean validation mAP over data sets; None where none ran on all of them."""
    means = {
        row.name: sum(max(_named(rows, row.name).validation) for rows in by_data.values()) / len(by_data)
        for row in next(iter(by_data.values()))
        if all(_chosen(rows, row.name) for rows in by_data.values())
    }
    return max(means, key=means.__getitem__) if means else None


def recommendation(name: str, by_data: Mapping[str, Sequence[Row]]) -> str:
    """What the recommended candidate gains on the test classes, in sentences."""
    lines = [
        f"**Recommended: {name}**, which has the best asymmetric mAP on validation classes, as a mean over "
        f"{len(by_data)} data set(s). On test classes, in points:\n"
    ]
    for data, rows in by_data.items():
        row, baseline = _named(rows, name), _baseline(rows)
        lines.append(f"* {data} ({row.setting}): {_gains(row, baseline)}")
    return "\n".join(lines) + "\n"


def _gains(row: Row, baseline: Row | None) -> str:
    own = [(row.scores, "symmetric", "against its own symmetric score")]
    if baseline is not None and baseline is not row:
        own.insert(0, (baseline.scores, "asymmetric", f"over {BASELINE}"))
    return "; ".join(
        f"{what} {', '.join(_gain(row.scores, scores, side, metric) for metric in METRICS)}"
        for scores, side, what in own
    )


def _gain(scores: Sequence[Scores], other: Sequence[Scores], side: str, metric: str) -> str:
    gained = difference(column(scores, "asymmetric", metric), column(other, side, metric))
    return f"{display_name(metric)} {results.signed(gained)}"


def _named(rows: Sequence[Row], name: str) -> Row:
    return next(row for row in rows if row.name == name)


def _chosen(rows: Sequence[Row], name: str) -> bool:
    setting = _named(rows, name).setting
    return setting is not None and not setting.control


def _baseline(rows: Sequence[Row]) -> Row | None:
    return next((row for row in rows if row.name == BASELINE), None)


def _fields(row: Row, baseline: Row | None) -> dict[str, Any]:
    if row.setting is None:
        return {"refused": row.refused}
    return {
        "setting": str(row.setting),
        "control": row.setting.control,
        "validation_map": row.validation,
        **{column: asdict(estimate) for column, estimate in _estimates(row, baseline).items()},
    }


def _estimates(row: Row, baseline: Row | None) -> dict[str, Estimate]:
    scores = row.scores
    columns = _summaries(scores)
    if baseline is not None and row.name != BASELINE:
        columns["gain"] = difference(
            column(scores, "asymmetric", MAP), column(baseline.scores, "asymmetric", MAP)
        )
    own = difference(column(scores, "asymmetric", MAP), column(scores, "symmetric", MAP))
    return columns | {"asymmetric over symmetric": own}


def column(scores: Sequence[Scores], side: str, metric: str) -> list[PerQuery]:
    """One metric of one side, by seed."""
    return [getattr(one, side)[metric] for one in scores]


def summary(scores: Sequence[Scores], side: str, metric: str) -> Estimate:
    """Mean over seeds; the interval resamples seeds and classes."""
    runs = column(scores, side, metric)
    return across_seeds(runs, clusters=runs[0].labels).over_both


def difference(a: Sequence[PerQuery], b: Sequence[PerQuery]) -> Estimate:
    """Paired by seed and query."""
    return difference_across_seeds(a, b, clusters=a[0].labels).over_both


def _line(row: Row, baseline: Row | None) -> str:
    if row.setting is None:
        return f"| {row.name} | – | – | – | – | – | – | not run: {row.refused} |"
    found = _estimates(row, baseline)
    name = f"*control:* {row.name}" if row.setting.control else row.name
    shown = [results.percent(found[f"{side} {metric}"]) for side in Scores._fields for metric in METRICS]
    gain = results.signed(found["gain"]) if "gain" in found else "–"
    numbers = (*shown[:2], gain, results.signed(found["asymmetric over symmetric"]), *shown[2:])
    return f"| {name} | {' | '.join(numbers)} | {row.setting} |"


def _reference(name: str, scores: Sequence[Scores]) -> str:
    shown = [results.percent(summary(scores, side, metric)) for side in Scores._fields for metric in METRICS]
    return f"| **{name}** | {shown[0]} | {shown[1]} | – | – | {shown[2]} | {shown[3]} | |"
