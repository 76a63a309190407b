"""Rows and tables of `lqf.py`: accuracy by shots, how much the rate matters, and what training costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import results
from hetero.linear.adaptation import Outcome
from hetero.linear.fitting import Curve
from hetero.linear.methods import METHODS
from hetero.linear.task import Shots
from hetero.retrieval import across_seeds
from hetero.retrieval.seeds import SeedSummary, difference_across_seeds

NEAR = 0.01  # of accuracy: a point


@dataclass(frozen=True)
class Cell:
    """One method at one number of shots; outcomes: of every seed, the first with all rates."""

    method: str
    shots: Shots
    outcomes: tuple[Outcome, ...]

    @property
    def accuracy(self) -> SeedSummary:
        """Over seeds and over test images."""
        return across_seeds([outcome.correct for outcome in self.outcomes])

    @property
    def range_of_rates(self) -> float:
        """Decades, see `decades`."""
        return decades(self.outcomes[0].curves)

    def mean(self, of: str) -> float:
        """Of the seeds: `epochs` to converge, or `seconds` of one training."""
        values = [
            float(each.curve.converged()) if of == "epochs" else each.curve.seconds for each in self.outcomes
        ]
        return float(np.mean(values))


def decades(curves: dict[float, Curve]) -> float:
    """log10 of the span of rates around the best that are within a point of its validation accuracy.

    0 where only the best itself is; a range that reaches an end of the grid may be wider.
    """
    rates = sorted(curves)
    scores = [curves[rate].scores[-1] for rate in rates]
    top = int(np.argmax(scores))
    low = high = top
    while low > 0 and scores[low - 1] >= scores[top] - NEAR:
        low -= 1
    while high + 1 < len(rates) and scores[high + 1] >= scores[top] - NEAR:
        high += 1
    return math.log10(rates[high] / rates[low])


def accuracy_table(cells: Sequence[Cell], methods: Sequence[str], shots: Sequence[Shots]) -> str:
    """Methods by shots."""
    found = {(cell.method, cell.shots): cell for cell in cells}
    head = "| method | " + " | ".join(f"{n} shots" if n != "all" else "all" for n in shots) + " |\n"
    lines = [head, "|---|" + "---|" * len(shots) + "\n"]
    for method in methods:
        texts = [results.percent(found[method, n].accuracy.over_both) for n in shots]
        lines.append(f"| {method} | " + " | ".join(texts) + " |\n")
    return "".join(lines)


def against_table(cells: Sequence[Cell], methods: Sequence[str], shots: Sequence[Shots], other: str) -> str:
    """LQF minus every other method, paired by seed and by image, in points."""
    found = {(cell.method, cell.shots): cell for cell in cells}
    lines = [
        f"| {other} minus | " + " | ".join(str(n) for n in shots) + " |\n",
        "|---|" + "---|" * len(shots) + "\n",
    ]
    for method in methods:
        if method != other:
            texts = [_signed(found[other, n], found[method, n]) for n in shots]
            lines.append(f"| {method} | " + " | ".join(texts) + " |\n")
    return "".join(lines)


def training_table(cells: Sequence[Cell], methods: Sequence[str], memory: dict[str, float]) -> str:
    """Means over shots: range of rates, epochs, time beside non-linear fine-tuning, memory likewise."""
    lines = [
        "| method | range of rates, decades | epochs to converge | seconds | time ratio | memory ratio |\n",
        "|---|---|---|---|---|---|\n",
    ]
    base = _mean([c.mean("seconds") for c in cells if c.method == "finetune"])
    for method in methods:
        own = [cell for cell in cells if cell.method == method]
        seconds = _mean([c.mean("seconds") for c in own])
        exact = METHODS[method].form == "head"
        texts = (
            "-" if exact else f"{_mean([c.range_of_rates for c in own]):.2f}",
            "-" if exact else f"{_mean([c.mean('epochs') for c in own]):.1f}",
            f"{seconds:.1f}",
            f"{seconds / base:.2f}" if base else "-",
            f"{memory[method]:.2f}" if method in memory else "-",
        )
        lines.append(f"| {method} | " + " | ".join(texts) + " |\n")
    return "".join(lines)


def fields(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Everything the tables say, and the curve of every rate of the first seed."""
    return [
        {
            "method": cell.method,
            "shots": cell.shots,
            "accuracy": vars(cell.accuracy.over_both),
            "means": cell.accuracy.means,
            "rate": cell.outcomes[0].rate,
            "decades": cell.range_of_rates,
            "epochs": cell.mean("epochs"),
            "seconds": cell.mean("seconds"),
            "rates": {f"{r:g}": curve.scores[-1] for r, curve in cell.outcomes[0].curves.items()},
        }
        for cell in cells
    ]


def _signed(a: Cell, b: Cell) -> str:
    pairs = [outcome.correct for outcome in a.outcomes], [outcome.correct for outcome in b.outcomes]
    return results.signed(difference_across_seeds(*pairs).over_both)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
