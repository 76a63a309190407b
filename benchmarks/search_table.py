"""Tables and picture of `search.py`."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from scipy.stats import kendalltau

import results
from hetero.report import wording
from hetero.retrieval import MAP, RECALL_AT_1, Estimate, PerQuery
from hetero.retrieval.seeds import across_seeds, difference_across_seeds
from hetero_devices.files import atomic_file
from search_budgets import RANDOM, RATIOS, SHARED, Budget
from search_cost import Cost
from search_handmade import HANDMADE
from search_timing import Time

METRICS = (RECALL_AT_1, MAP)
SIDES = ("asymmetric", "symmetric")
BASELINES = ("plain, R1", RANDOM, *HANDMADE)
SCORES = ("R1", "R2", "R3", "agreement", "macs")

Each = TypeVar("Each")
Rows = Mapping[tuple[str, Budget], Sequence["Cell | None"]]
"""(how the architecture came about, its budget) -> a cell a seed, None where there is no such network."""
Ranking = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Cell:
    """One trained network of one seed on the test classes: its cost, and values by metric."""

    macs: int
    asymmetric: dict[str, PerQuery]
    symmetric: dict[str, PerQuery]


def save(path: Path, cell: Cell) -> None:
    """Query ids and labels once, values by side and metric."""
    first = cell.asymmetric[RECALL_AT_1]
    columns: dict[str, Any] = {f"{s}/{m}": getattr(cell, s)[m].values for s in SIDES for m in METRICS}
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, query_ids=first.query_ids, labels=first.labels, macs=np.array(cell.macs), **columns)


def load(path: Path) -> Cell:
    """What `save` wrote."""
    with np.load(path) as stored:
        ids, labels = stored["query_ids"], stored["labels"]
        sides = ({m: PerQuery(m, ids, labels, stored[f"{s}/{m}"]) for m in METRICS} for s in SIDES)
        return Cell(int(stored["macs"]), *sides)


@dataclass(frozen=True)
class Part:
    """One data set: cells by row, those of int8 files; by seed times, paragon, ranking and cost."""

    rows: Rows
    exported: Rows
    times: Sequence[Mapping[tuple[str, Budget], Time]]
    paragons: Sequence[Cell]
    ranked: Sequence[Ranking]
    costs: Sequence[Cost]

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": [self._fields(how, budget, cells) for (how, budget), cells in self.rows.items()],
            "gains": {
                budget.label: {how: asdict(gain) for how, gain in gains.items()}
                for budget, gains in self.gains.items()
            },
            "times": [
                {"how": how, "budget": budget.label, "ms": [asdict(time) for time in times]}
                for (how, budget), times in self.timed.items()
            ],
            "ranking": self.ranked,
            "cost": [asdict(cost) for cost in self.costs],
        }

    @property
    def gains(self) -> dict[Budget, dict[str, Estimate]]:
        """By budget and baseline, how much higher the asymmetric R@1 of R3 is."""
        found: dict[Budget, dict[str, Estimate]] = {}
        for (how, budget), cells in self.rows.items():
            ours, theirs = _all(self.rows[best(self.rows, budget)]), _all(cells)
            if how in BASELINES and ours and theirs:
                found.setdefault(budget, {})[how] = _difference(ours, theirs)
        return found

    @property
    def timed(self) -> dict[tuple[str, Budget], list[Time]]:
        """The rows whose time is limited, by seed."""
        return {key: [times[key] for times in self.times] for key in self.times[0]}

    def _fields(self, how: str, budget: Budget, cells: Sequence[Cell | None]) -> dict[str, Any]:
        about = {"how": how, "budget": budget.label, "timed": budget.timed}
        if (there := _all(cells)) is None:
            return about | {"macs": None}
        int8 = _all(self.exported.get((how, budget), [None]))
        return about | {
            "macs": [cell.macs for cell in there],
            "asymmetric": asdict(_score(there, "asymmetric", RECALL_AT_1)),
            "symmetric": asdict(_score(there, "symmetric", RECALL_AT_1)),
            "loss": asdict(_difference(there, self.paragons)),
            "int8": asdict(_score(int8, "asymmetric", RECALL_AT_1)) if int8 else None,
        }


def best(rows: Container[tuple[str, Budget]], budget: Budget) -> tuple[str, Budget]:
    """Of a budget the row of R3 that knows most."""
    return next(key for key in ((SHARED, budget), ("CMP-NAS, R3", budget)) if key in rows)


_HEAD = (
    "| budget, less than the anchor | architecture | MACs | asymmetric R@1 | asymmetric mAP | symmetric R@1 "
    "| R@1 over the paragon, points | asymmetric R@1, int8 file |\n|---|---|---|---|---|---|---|---|"
)


def section(data: str, part: Part) -> str:
    """One data set: the paragon, every budget, how well supernet scores rank, and what the search costs."""
    lines = [_HEAD, _line("1×", "paragon", part.paragons, None, None)]
    for (how, budget), cells in part.rows.items():
        if (there := _all(cells)) is None:
            none = "none so fast" if budget.timed else "none so small"
            lines.append(f"| {budget.label} | {how} | {none} | – | – | – | – | – |")
        else:
            int8 = _all(part.exported.get((how, budget), [None]))
            lines.append(_line(budget.label, how, there, part.paragons, int8))
    lines += ["", *_gains(part.gains), *_times(part.timed), *_ranking(part.ranked), "", *_costs(part.costs)]
    return "\n".join([f"\n## {data}\n", *lines]) + "\n"


def _all(values: Sequence[Each | None]) -> list[Each] | None:
    """The values, if every seed has one."""
    there = [value for value in values if value is not None]
    return there if len(there) == len(values) else None


def _line(
    budget: str,
    how: str,
    cells: Sequence[Cell],
    paragons: Sequence[Cell] | None,
    int8: Sequence[Cell] | None,
) -> str:
    macs = wording.count(round(float(np.mean([cell.macs for cell in cells]))))
    loss = results.signed(_difference(cells, paragons)) if paragons else "–"
    file = results.percent(_score(int8, "asymmetric", RECALL_AT_1)) if int8 else "–"
    scores = (
        _score(cells, "asymmetric", RECALL_AT_1),
        _score(cells, "asymmetric", MAP),
        _score(cells, "symmetric", RECALL_AT_1),
    )
    return f"| {budget} | {how} | {macs} | {' | '.join(map(results.percent, scores))} | {loss} | {file} |"


def _score(cells: Sequence[Cell], side: str, metric: str) -> Estimate:
    runs = [getattr(cell, side)[metric] for cell in cells]
    return across_seeds(runs, clusters=runs[0].labels).over_both


def _difference(cells: Sequence[Cell], others: Sequence[Cell]) -> Estimate:
    runs, before = ([cell.asymmetric[RECALL_AT_1] for cell in side] for side in (cells, others))
    return difference_across_seeds(runs, before, clusters=runs[0].labels).over_both


def _ranking(ranked: Sequence[Ranking]) -> list[str]:
    """Kendall's τ of each score of the supernet with the asymmetric score after training, by seed."""
    count = ", ".join(str(len(each)) for each in ranked)
    lines = [
        f"Kendall's τ with the asymmetric R@1 after training from scratch; {count} architectures, by seed:",
        "",
        "| score | τ | τ inside a budget, mean |",
        "|---|---|---|",
    ]
    names = {"R1": "R1, symmetric", "R2": "R2, asymmetric", "R3": "R3, product"}
    names |= {"agreement": "agreement (no search)", "macs": "multiply-accumulates"}
    for score in SCORES:
        found = (", ".join(f"{of(each, score):+.2f}" for each in ranked) for of in (tau, inside))
        lines.append(f"| {names[score]} | {' | '.join(found)} |")
    return lines


def _gains(gains: Mapping[Budget, Mapping[str, Estimate]]) -> list[str]:
    """Does searching by R3 pay?"""
    lines = [
        "Asymmetric R@1 of R3 (after the others; at a time, alone) less that of what it is compared with, "
        "points, paired by query and seed:",
        "",
        f"| budget | {' | '.join(BASELINES)} |",
        f"|---|{'---|' * len(BASELINES)}",
    ]
    for budget, found in gains.items():
        cells = (results.signed(found[how]) if how in found else "–" for how in BASELINES)
        lines.append(f"| {budget.label} | {' | '.join(cells)} |")
    return [*lines, ""]


def _times(timed: Mapping[tuple[str, Budget], Sequence[Time]]) -> list[str]:
    """What the networks found for a time take, by the table and when they are measured."""
    if not timed:
        return []
    lines = [
        "Int8 time of one image on this machine (ONNX Runtime, one thread), by seed. Predicted: by the table "
        "of measured blocks, as the search saw it; measured: the network whole. Narrowest: of a kind that "
        "has none so fast.",
        "",
        "| budget | architecture | allowed, ms | predicted, ms | measured, ms |",
        "|---|---|---|---|---|",
    ]
    for (how, budget), times in timed.items():
        columns = zip(*((time.allowed, time.predicted, time.measured) for time in times), strict=True)
        values = " | ".join(", ".join(map(_ms, column)) for column in columns)
        kind = f"{how}, narrowest" if times[0].narrowest else how
        lines.append(f"| {budget.label} | {kind} | {values} |")
    return [*lines, ""]


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _costs(costs: Sequence[Cost]) -> list[str]:
    """One search in trainings of one student, by seed."""
    lines = [
        "What a search costs, one thread, against training the student that R3 found for the largest budget; "
        "by seed:",
        "",
        "| supernet, s | scoring a candidate, s | candidates | candidates/s per core | student, s "
        "| search in trainings of the student | of one trained as long as in `headline.py` |",
        "|---|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {c.supernet:.0f} | {c.candidate:.2f} | {c.candidates} | {1 / c.candidate:.2f} | {c.student:.0f} "
        f"| {c.trainings:.1f} | {c.long_trainings:.1f} |"
        for c in costs
    ]


def tau(ranking: Ranking, score: str) -> float:
    """Kendall's rank correlation of a score with what retraining gave."""
    return correlation([(each[score], each["retrained"]) for each in ranking])


def inside(ranking: Ranking, score: str) -> float:
    """The mean of Kendall's tau over budgets, each of the architectures that fit it and no tighter one."""
    groups = [[each for each in ranking if each["budget"] == budget] for budget in RATIOS]
    return float(np.mean([tau(group, score) for group in groups if len(group) > 2]))


def correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Kendall's tau of both columns."""
    return float(kendalltau(*zip(*pairs, strict=True)).statistic)


def plot(path: Path, found: Mapping[str, Any]) -> None:
    """Asymmetric R@1 after training over MACs, and over measured int8 time where time was limited."""
    from matplotlib.figure import Figure

    drawn = [_over_macs, _over_time] if all(part["times"] for part in found.values()) else [_over_macs]
    canvas = Figure(figsize=(6.5 * len(found), 4.8 * len(drawn)), layout="constrained")
    grid = canvas.subplots(len(drawn), len(found), squeeze=False)
    for line, draw in zip(grid, drawn, strict=True):
        for axes, (data, part) in zip(line, found.items(), strict=True):
            draw(axes, part)
            axes.set(title=data, ylabel="asymmetric Recall@1, %")
            axes.grid(alpha=0.3, which="both")
            axes.legend(fontsize=7)
    with atomic_file(path) as temporary:
        canvas.savefig(temporary, format="png", dpi=130)


def _over_macs(axes: Any, part: Mapping[str, Any]) -> None:
    """Architectures of equal cost differ by their height."""
    points = [each for ranking in part["ranking"] for each in ranking]
    macs, scores = [p["macs"] for p in points], [100 * p["retrained"] for p in points]
    axes.scatter(macs, scores, s=12, c="0.6", label="searched and random")
    for how, colour in _colours(part).items():
        rows = [row for row in part["rows"] if row["how"] == how and row["macs"] and not row["timed"]]
        x = [float(np.mean(row["macs"])) for row in rows]
        axes.plot(x, [_height(row) for row in rows], "o-", c=colour, ms=4, lw=1, label=how)
    axes.set(xlabel="multiply-accumulates", xscale="log")


def _over_time(axes: Any, part: Mapping[str, Any]) -> None:
    """The networks that were found or made for a time."""
    rows = {(row["how"], row["budget"]): row for row in part["rows"] if row["timed"] and row["macs"]}
    taken = {(each["how"], each["budget"]): each["ms"] for each in part["times"]}
    for how, colour in _colours(part).items():
        if keys := [key for key in rows if key[0] == how]:
            x = [float(np.mean([ms["measured"] for ms in taken[key]])) for key in keys]
            axes.plot(x, [_height(rows[key]) for key in keys], "o-", c=colour, ms=4, lw=1, label=how)
    axes.set(xlabel="measured int8 time of one image, ms")


def _colours(part: Mapping[str, Any]) -> dict[str, str]:
    """By how an architecture came about, the same in every picture."""
    return {how: f"C{index}" for index, how in enumerate(dict.fromkeys(row["how"] for row in part["rows"]))}


def _height(row: Mapping[str, Any]) -> float:
    return 100 * float(row["asymmetric"]["value"])
