"""The table of `upgrade.py`: the four searches of each row, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import results
from hetero.retrieval import (
    MAP,
    RECALL_AT_1,
    Estimate,
    compatibility_tax,
    gain_or_none,
    negative_flip_bits,
)
from hetero.retrieval.metrics import display_name
from objectives_table import METRICS, Scores, column, difference, summary


@dataclass(frozen=True)
class UpgradeRow:
    """A way to upgrade: its chosen setting, new/old (asymmetric) and new/new (symmetric) by seed.

    refused: why there are none, where the method cannot be used here.
    """

    name: str
    setting: str = ""
    scores: tuple[Scores, ...] = ()
    refused: str = ""


_HEAD = (
    "| row | old/old R@1, mAP | new/old R@1 | new/old mAP | new/new R@1, mAP | paragon R@1, mAP "
    "| new/old − old/old R@1 | the same, mAP | criterion R@1, mAP | gain R@1, mAP | tax R@1, mAP "
    "| NFR | chosen on validation |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def table(data: str, rows: Sequence[UpgradeRow], old: Sequence[Scores], paragon: Sequence[Scores]) -> str:
    """One data set's section."""
    lines = [_line(row, old, paragon) for row in rows]
    return "\n".join([f"## {data}\n", _HEAD, *lines]) + "\n"


_SHORT = (
    "| row | new/old − old/old R@1, points | the same, mAP | criterion | gain R@1, mAP | tax R@1, mAP "
    "| NFR |\n"
    "|---|---|---|---|---|---|---|"
)


def short(rows: Sequence[UpgradeRow], old: Sequence[Scores], paragon: Sequence[Scores]) -> str:
    """The same for readers in a hurry: what an upgrade brings and costs."""
    lines = [_short_line(row, old, paragon) for row in rows if not row.refused]
    return "\n".join([_SHORT, *lines]) + "\n"


def _short_line(row: UpgradeRow, old: Sequence[Scores], paragon: Sequence[Scores]) -> str:
    gained = {metric: _difference(row, old, metric) for metric in METRICS}
    holding = [display_name(metric) for metric, each in gained.items() if each.low > 0]
    cells = (
        *map(results.signed, gained.values()),
        "neither" if not holding else " and ".join(holding),
        ", ".join(_share(_gain(row, old, paragon, metric)) for metric in METRICS),
        ", ".join(f"{100 * _tax(row, paragon, metric):+.1f}" for metric in METRICS),
        f"{100 * _nfr(row, old):.1f}",
    )
    return f"| {row.name} | {' | '.join(cells)} |"


def fields(rows: Sequence[UpgradeRow], old: Sequence[Scores], paragon: Sequence[Scores]) -> dict[str, Any]:
    """The rows for the JSON."""
    return {row.name: _fields(row, old, paragon) for row in rows}


def _fields(row: UpgradeRow, old: Sequence[Scores], paragon: Sequence[Scores]) -> dict[str, Any]:
    if row.refused:
        return {"refused": row.refused}
    by_metric = {
        metric: {
            "old_old": asdict(summary(old, "symmetric", metric)),
            "new_old": asdict(summary(row.scores, "asymmetric", metric)),
            "new_new": asdict(summary(row.scores, "symmetric", metric)),
            "paragon": asdict(summary(paragon, "symmetric", metric)),
            "difference": asdict(_difference(row, old, metric)),
            "gain": _gain(row, old, paragon, metric),
            "tax": _tax(row, paragon, metric),
        }
        for metric in METRICS
    }
    holds = {metric: _difference(row, old, metric).low > 0 for metric in METRICS}
    return {"setting": row.setting, "criterion": holds, "nfr": _nfr(row, old), **by_metric}


def _line(row: UpgradeRow, old: Sequence[Scores], paragon: Sequence[Scores]) -> str:
    if row.refused:
        return f"| {row.name} |{' – |' * 11} not run: {row.refused} |"
    gained = [_difference(row, old, metric) for metric in METRICS]
    cells = (
        _both(old, "symmetric"),
        results.percent(summary(row.scores, "asymmetric", RECALL_AT_1)),
        results.percent(summary(row.scores, "asymmetric", MAP)),
        _both(row.scores, "symmetric"),
        _both(paragon, "symmetric"),
        *map(results.signed, gained),
        ", ".join("holds" if each.low > 0 else "does not hold" for each in gained),
        ", ".join(_share(_gain(row, old, paragon, metric)) for metric in METRICS),
        ", ".join(f"{100 * _tax(row, paragon, metric):+.2f}" for metric in METRICS),
        f"{100 * _nfr(row, old):.2f}",
        row.setting,
    )
    return f"| {row.name} | {' | '.join(cells)} |"


def _difference(row: UpgradeRow, old: Sequence[Scores], metric: str) -> Estimate:
    """new/old - old/old, paired by seed and query."""
    return difference(column(row.scores, "asymmetric", metric), column(old, "symmetric", metric))


def _gain(row: UpgradeRow, old: Sequence[Scores], paragon: Sequence[Scores], metric: str) -> float | None:
    """Of the means over seeds."""
    return gain_or_none(
        new_old=_mean(row.scores, "asymmetric", metric),
        old_old=_mean(old, "symmetric", metric),
        paragon=_mean(paragon, "symmetric", metric),
    )


def _tax(row: UpgradeRow, paragon: Sequence[Scores], metric: str) -> float:
    means = [_mean(scores, "symmetric", metric) for scores in (paragon, row.scores)]
    return compatibility_tax(paragon=means[0], new_new=means[1])


def _nfr(row: UpgradeRow, old: Sequence[Scores]) -> float:
    """Mean over seeds, at Recall@1."""
    pairs = zip(
        column(old, "symmetric", RECALL_AT_1), column(row.scores, "asymmetric", RECALL_AT_1), strict=True
    )
    return float(np.mean([negative_flip_bits(a, b).mean for a, b in pairs]))


def _mean(scores: Sequence[Scores], side: str, metric: str) -> float:
    return float(np.mean([each.mean for each in column(scores, side, metric)]))


def _both(scores: Sequence[Scores], side: str) -> str:
    return ", ".join(f"{100 * _mean(scores, side, metric):.2f}" for metric in METRICS)


def _share(gain: float | None) -> str:
    return "–" if gain is None else f"{gain:.0%}"
