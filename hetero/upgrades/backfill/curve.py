"""The backfill curve: a metric of new queries against the share of the gallery that is re-embedded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hetero.retrieval import (
    MAP,
    Comparison,
    Estimate,
    PerQuery,
    bootstrap_columns,
    evaluate,
    paired_difference,
)
from hetero.upgrades.backfill.mixed import Merge, Upgrade, evaluate_mixed
from hetero_devices.errors import DataError

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

POINTS = 21
"""Shares of a curve: 0, 0.05, ..., 1."""


@dataclass(frozen=True)
class Curve:
    """order: its name. shares: float64 [P], rising from 0 to 1. values: float64 [Q, P], query by query.

    query_ids, labels: int64 [Q], of the queries that can be answered.
    """

    order: str
    metric: str
    shares: Values
    values: Values
    query_ids: Rows
    labels: Rows

    @property
    def means(self) -> Values:
        """float64 [P]."""
        means: Values = self.values.mean(axis=0)
        return means

    @property
    def areas(self) -> PerQuery:
        """The area of each query's own curve; their mean is the area of the curve."""
        return PerQuery(self.metric, self.query_ids, self.labels, area(self.shares, self.values))


@dataclass(frozen=True)
class CurveSummary:
    """What is read off a curve. Intervals resample classes.

    points: metric at each of `shares`. area: M̃ = E_{β ~ U[0, 1]} M(β) (FastFill, ICLR 2023). worst: the
    lowest point, at `worst_share`. share_needed: the smallest measured share at which the metric is at least
    `target`; None when it never is.
    """

    order: str
    metric: str
    shares: tuple[float, ...]
    points: tuple[Estimate, ...]
    area: Estimate
    worst_share: float
    worst: Estimate
    target: float
    share_needed: float | None


def backfill_curve(
    upgrade: Upgrade,
    rows: Rows,
    *,
    order: str,
    metric: str = MAP,
    merge: Merge = "quantile",
    points: int = POINTS,
) -> Curve:
    """Measure the curve of an order, int64 [N], a permutation of gallery rows, at `points` even shares.

    Cost: one exact search a point. DataError for a list that is no permutation, or fewer than two points.
    """
    curves = backfill_curves(upgrade, rows, order=order, metrics=(metric,), merge=merge, points=points)
    return curves[metric]


def backfill_curves(
    upgrade: Upgrade,
    rows: Rows,
    *,
    order: str,
    metrics: Sequence[str],
    merge: Merge = "quantile",
    points: int = POINTS,
) -> dict[str, Curve]:
    """`backfill_curve` of several metrics from the same searches."""
    count = len(upgrade.old_gallery)
    if not np.array_equal(np.sort(rows), np.arange(count)):
        raise DataError(f"the order {order!r} does not name each of {count} gallery rows once")
    if points < 2:
        raise DataError(f"{points} points make no curve: measure at least two")
    sizes = np.round(np.linspace(0, count, points)).astype(np.int64)
    columns: dict[str, list[PerQuery]] = {metric: [] for metric in metrics}
    for size in sizes:
        done = np.zeros(count, np.bool_)
        done[rows[:size]] = True
        found = evaluate_mixed(upgrade, done, merge)
        for metric, measured in columns.items():
            measured.append(found.per_query(metric))
    return {metric: _curve(order, sizes / count, measured) for metric, measured in columns.items()}


def _curve(order: str, shares: Values, columns: Sequence[PerQuery]) -> Curve:
    values = np.stack([column.values for column in columns], axis=1)
    first = columns[0]
    return Curve(order, first.metric, shares, values, first.query_ids, first.labels)


def old_system(upgrade: Upgrade, metric: str = MAP) -> PerQuery | None:
    """M(old, old), which every point of a curve should beat; None without the old model's queries."""
    if upgrade.old_query is None:
        return None
    return evaluate(upgrade.old_query, upgrade.old_gallery).per_query(metric)


def summarise_curve(curve: Curve, target: float | None = None, seed: int = 0) -> CurveSummary:
    """Area, worst point, share needed. target: default the new model on both sides, the curve's end."""
    columns = np.concatenate([curve.values, curve.areas.values[:, None]], axis=1)
    *points, whole = bootstrap_columns(columns, clusters=curve.labels, seed=seed)
    worst = int(np.argmin(curve.means))
    wanted = float(curve.means[-1]) if target is None else target
    return CurveSummary(
        order=curve.order,
        metric=curve.metric,
        shares=tuple(curve.shares.tolist()),
        points=tuple(points),
        area=whole,
        worst_share=float(curve.shares[worst]),
        worst=points[worst],
        target=wanted,
        share_needed=share_needed(curve.shares, curve.means, wanted),
    )


def area(shares: Values, values: Values) -> Values:
    """Trapezoid area under values [..., P] over shares float64 [P], 0 to 1: float64 [...].

    AssertionError unless the shares span [0, 1].
    """
    assert (shares[0], shares[-1]) == (0, 1), "a backfill curve goes from nothing to everything"
    areas: Values = ((values[..., 1:] + values[..., :-1]) / 2 * np.diff(shares)).sum(axis=-1)
    return areas


def share_needed(shares: Values, means: Values, target: float) -> float | None:
    """The smallest measured share at which the mean is at least `target`; None when none is."""
    reached = np.flatnonzero(means >= target)
    return float(shares[reached[0]]) if len(reached) else None


def compare_areas(a: Curve, b: Curve, seed: int = 0) -> Comparison:
    """Area of a - area of b over the same queries, resampling classes."""
    return paired_difference(a.areas, b.areas, clusters=a.labels, seed=seed)


def best(curves: Sequence[Curve]) -> Curve:
    """The curve of the largest area; the first of equals."""
    return max(curves, key=lambda curve: float(curve.areas.mean))
