"""The tables of `flips.py`: errors and flips over seeds, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from hetero.report import wording
from hetero.retrieval import Estimate, PerQuery, negative_flip_bits
from hetero.retrieval.seeds import across_seeds, difference_across_seeds


@dataclass(frozen=True)
class Row:
    """A method: the old system's success bits, the new one's by seed, and how its setting was chosen.

    shared: bool [Q], the queries whose flips count: those of classes the old model knows.
    """

    name: str
    old: PerQuery
    new: tuple[PerQuery, ...]
    shared: np.ndarray[Any, np.dtype[np.bool_]]
    chosen: str = ""

    @property
    def error(self) -> Estimate:
        return across_seeds([_wrong(each) for each in self.new], clusters=self.old.labels).over_both

    @property
    def old_error(self) -> float:
        return 1 - _part(self.old, self.shared).mean

    @property
    def nfr(self) -> Estimate:
        flipped = [_flipped(self.old, each, self.shared) for each in self.new]
        return across_seeds(flipped, clusters=flipped[0].labels).over_both

    @property
    def relative(self) -> float:
        """NFR over what independent errors would give, the mean over seeds."""
        old = _part(self.old, self.shared)
        values = []
        for each in self.new:
            error = 1 - _part(each, self.shared).mean
            nfr = _flipped(self.old, each, self.shared).mean
            values.append(nfr / (old.mean * error) if error and old.mean else float("nan"))
        return float(np.mean(values))

    def cost(self, baseline: Row) -> Estimate | None:
        """The error it has beyond the baseline's, paired by query and seed where there are as many seeds."""
        if baseline is self or len(self.new) != len(baseline.new):
            return None
        pair = ([_wrong(each) for each in row.new] for row in (self, baseline))
        return difference_across_seeds(*pair, clusters=self.old.labels).over_both

    def fields(self, baseline: Row) -> dict[str, Any]:
        cost = self.cost(baseline)
        return {
            "error": asdict(self.error),
            "old_error": self.old_error,
            "nfr": asdict(self.nfr),
            "relative_nfr": None if np.isnan(self.relative) else self.relative,
            "times_fewer": _times(baseline, self),
            "error_beyond_baseline": asdict(cost) if cost else None,
            "seeds": len(self.new),
            "chosen": self.chosen,
        }


def _wrong(bits: PerQuery) -> PerQuery:
    return replace(bits, values=1 - bits.values)


def _part(bits: PerQuery, shared: np.ndarray[Any, np.dtype[np.bool_]]) -> PerQuery:
    return PerQuery(bits.metric, bits.query_ids[shared], bits.labels[shared], bits.values[shared])


def _flipped(old: PerQuery, new: PerQuery, shared: np.ndarray[Any, np.dtype[np.bool_]]) -> PerQuery:
    return negative_flip_bits(_part(old, shared), _part(new, shared))


def _times(baseline: Row, row: Row) -> float | None:
    return baseline.nfr.value / row.nfr.value if row.nfr.value else None


def table(title: str, note: str, rows: Sequence[Row], baseline: Row) -> str:
    """One section; the first column of numbers is over all test queries, flips over the shared ones."""
    lines = [
        f"## {title}\n",
        f"{note}\n",
        "| method | error old % | error new % | error beyond the baseline, points | NFR % | times fewer "
        "| relative NFR | chosen on validation |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cost, times = row.cost(baseline), _times(baseline, row)
        lines.append(
            f"| {row.name} | {wording.percent(row.old_error)} | {wording.scored(row.error)} "
            f"| {wording.points(cost) if cost else wording.NONE} | {wording.scored(row.nfr)} "
            f"| {wording.NONE if times is None else f'{times:.2f}'} "
            f"| {wording.NONE if np.isnan(row.relative) else f'{row.relative:.2f}'} "
            f"| {row.chosen or wording.NONE} |"
        )
    return "\n".join(lines) + "\n"


def verdict(rows: Sequence[Row], baseline: Row) -> str:
    """Whether some method cuts NFR twofold at half a point of error, by value."""
    good = []
    for row in rows:
        cost, times = row.cost(baseline), _times(baseline, row)
        if cost and times and times >= 2 and cost.value <= 0.005:
            good.append(f"{row.name} ({times:.2f} times, {wording.points(cost)} points)")
    told = "; ".join(good) or "none"
    return f"\nNFR cut at least twofold at no more than 0.5 points of error: {told}.\n"
