"""The curves of `backfill.py`: trainings, one file a curve, the table and the picture."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import results
import sharing
from hetero.data.imageset import ImageSet
from hetero.models.encoder import embed
from hetero.recipes.resolve import resolve
from hetero.report.markdown import section
from hetero.report.table import Table, row_of
from hetero.retrieval import MAP, RECALL_AT_1, PerQuery, across_seeds, difference_across_seeds, search
from hetero.runs import Run
from hetero.upgrades.backfill.curve import Curve, backfill_curves, old_system, share_needed
from hetero.upgrades.backfill.figure import curves_png
from hetero.upgrades.backfill.mixed import Merge, Upgrade
from hetero.upgrades.backfill.orders import ORDERS, OrderName, hit_counts, order
from hetero_devices.files import atomic_file
from hetero_devices.space import Embeddings

DATA = ("omniglot", "caltech101")
METRICS = (MAP, RECALL_AT_1)
KINDS: dict[str, tuple[bool, Merge]] = {
    "one space": (True, "quantile"),
    "two spaces, by quantile": (False, "quantile"),
    "two spaces, calibrated": (False, "calibrated"),
}

_PAIR = (
    "anchor.network=elastic-xs",
    "student.network=residual-s",
    sharing.UPGRADE,
    "student.views=1",
)
OF_SCALE = {
    "default": ("anchor.fit.batch=64", "student.fit.batch=64"),
    "full": ("anchor.fit.batch=256", "student.fit.batch=256"),
    "trial": ("anchor.fit.steps=4", "student.fit.steps=4"),
}
OF_DATA = {
    "omniglot": {
        "default": ("anchor.fit.steps=2000", "student.fit.steps=1500"),
        "full": ("anchor.fit.steps=10000", "student.fit.steps=40000"),
        "trial": ("data.rotations=false",),
    },
    "caltech101": {
        "default": ("data.size=48", "anchor.fit.steps=300", "student.fit.steps=1000"),
        "full": ("anchor.fit.steps=5000", "student.fit.steps=20000"),
        "trial": ("data.size=32",),
    },
}
_POINTS = {"default": 11, "full": 41, "trial": 3}
_QUERIES = {"default": 3000, "full": 10_000, "trial": 200}
_GALLERY = {"default": 100_000, "full": 100_000, "trial": 800}


@dataclass(frozen=True)
class Row:
    """One order on one kind of upgrade: a curve a seed for each metric, and the old system's score."""

    kind: str
    order: OrderName
    curves: dict[str, tuple[Curve, ...]]


class Bench:
    """One data set and seed: old model, the new one in its space, the new one in its own."""

    def __init__(self, data: str, seed: int, options: argparse.Namespace) -> None:
        self.data, self.seed, self.options = data, seed, options
        self.folder = results.WORK / "backfill" / f"{data}-{options.scale}" / f"seed{seed}"
        self._sides: dict[bool, tuple[Upgrade, Embeddings]] = {}

    @cached_property
    def run(self) -> Run:
        """The upgrade, whose anchor is the old model."""
        old = Run.open(self.folder / "old", self._recipe())
        _ = old.whole_anchor
        return Run.open(self.folder / "new", self._recipe(f"anchor.source={old.folder / 'anchor'}"))

    def _recipe(self, *changes: str) -> Any:
        options = self.options
        given = [*_PAIR, *OF_SCALE[options.scale], *OF_DATA[self.data][options.scale]]
        return resolve(self.data, [*given, *sharing.given(options), f"seed={self.seed}", *changes])

    def upgrade(self, compatible: bool) -> tuple[Upgrade, Embeddings]:
        """(the scored half of the queries, the logged half in the old space)."""
        gallery, scored, logged = self._images
        model = self.run.student if compatible else self.run.alone
        anchor = self.run.anchor
        upgrade = Upgrade(
            anchor.embed("test", scored),
            embed(model.encoder, scored),
            anchor.embed("test", gallery),
            embed(model.encoder, gallery),
        )
        return upgrade, anchor.embed("test", logged)

    @cached_property
    def _images(self) -> tuple[ImageSet, ImageSet, ImageSet]:
        """Gallery, scored queries, logged queries: the same images for every seed."""
        test, scale = self.run.splits.test, self.options.scale
        drawn = np.random.default_rng(0).permutation(len(test))
        gallery = np.sort(drawn[: _GALLERY[scale]])
        queries = drawn[: min(_QUERIES[scale], len(gallery))]
        scored, logged = np.array_split(queries, 2)
        return test.select(gallery), test.select(np.sort(scored)), test.select(np.sort(logged))

    def curves(self, kind: str, name: OrderName) -> dict[str, Curve]:
        """A curve for each metric, from disk where they were measured before."""
        file = f"{kind}-{name}".replace(" ", "_").replace(",", "")
        path = self.folder / "curves" / f"{file}.npz"
        if not path.exists():
            _save(path, self._measured(kind, name))
        return _load(path, name)

    def _measured(self, kind: str, name: OrderName) -> dict[str, Curve]:
        compatible, merge = KINDS[kind]
        upgrade, logged = self._upgrades(compatible)
        hits = search(logged, upgrade.old_gallery, 10).rows
        traffic = hit_counts(hits, len(upgrade.old_gallery))
        rows = order(name, upgrade.old_gallery, seed=self.seed, traffic=traffic)
        points = _POINTS[self.options.scale]
        return backfill_curves(upgrade, rows, order=name, metrics=METRICS, merge=merge, points=points)

    def old_system(self, metric: str) -> PerQuery:
        """M(old, old)."""
        found = old_system(self._upgrades(True)[0], metric)
        assert found is not None
        return found

    def _upgrades(self, compatible: bool) -> tuple[Upgrade, Embeddings]:
        if compatible not in self._sides:
            self._sides[compatible] = self.upgrade(compatible)
        return self._sides[compatible]


def carry_out(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """(page, fields) of every data set; pictures go beside the results."""
    places = [(data, seed, options) for data in options.data for seed in range(options.seeds)]
    sharing.side_by_side([(_measure, place) for place in places], options, "trainings and curves")
    pages, fields = [], {}
    for data in options.data:
        benches = [Bench(data, seed, options) for seed in range(options.seeds)]
        cells = [(kind, name) for kind in KINDS for name in ORDERS]
        rows = [_row(benches, *cell) for cell in cells]
        before = {m: [bench.old_system(m) for bench in benches] for m in METRICS}
        pages += [section(_table(data, metric, rows, before[metric])) + "\n" for metric in METRICS]
        fields[data] = _fields(rows, before)
        _draw(options, data, rows, before[MAP])
    return "\n".join(pages), fields


def _measure(data: str, seed: int, options: argparse.Namespace) -> None:
    """One data set and seed: what takes long, left on disk."""
    bench = Bench(data, seed, options)
    for kind in KINDS:
        for name in ORDERS:
            bench.curves(kind, name)


def _row(benches: list[Bench], kind: str, name: OrderName) -> Row:
    measured = [bench.curves(kind, name) for bench in benches]
    return Row(kind, name, {metric: tuple(each[metric] for each in measured) for metric in METRICS})


_COLUMNS = (
    "upgrade",
    "order",
    "area",
    "area - random's",
    "before",
    "worst",
    "after",
    "new model's at",
    "95 % of the gain at",
    "paragon's at",
)


def _table(data: str, metric: str, rows: list[Row], before: list[PerQuery]) -> Table:
    old = float(np.mean([each.mean for each in before]))
    paragon = next(float(_means(row.curves[metric])[-1]) for row in rows if not KINDS[row.kind][0])
    lines = []
    for row in rows:
        random = next(r for r in rows if (r.kind, r.order) == (row.kind, "random"))
        lines.append(_line(row, row.curves[metric], random.curves[metric], old, paragon))
    note = (
        f"M(old, old) is {100 * old:.2f}; the paragon, the new model trained alone on both sides, has "
        f"{100 * paragon:.2f}. ± over seeds; intervals over seeds and classes. Shares are the smallest "
        "measured ones; the gain is that of the new model on both sides over M(old, old)."
    )
    return Table(f"{data}, {metric} in percent", note, _COLUMNS, tuple(lines))


def _line(
    row: Row, curves: tuple[Curve, ...], random: tuple[Curve, ...], old: float, paragon: float
) -> tuple[Any, ...]:
    """old, paragon: M(old, old) and M(new*, new*)."""
    clusters, means = curves[0].labels, _means(curves)
    whole = across_seeds([c.areas for c in curves], clusters=clusters)
    gained = difference_across_seeds([c.areas for c in curves], [c.areas for c in random], clusters=clusters)
    after = float(means[-1])
    targets = (after, old + 0.95 * (after - old), paragon)
    shares = [share_needed(curves[0].shares, means, target) for target in targets]
    return row_of(
        row.kind,
        row.order,
        f"{100 * whole.mean:.2f} ± {100 * whole.sd:.2f}",
        results.signed(gained.over_both),
        *(f"{100 * point:.2f}" for point in (means[0], means.min(), after)),
        *("never" if share is None else f"{100 * share:.0f} %" for share in shares),
    )


def _means(curves: tuple[Curve, ...]) -> npt.NDArray[np.float64]:
    """Over seeds, of every share."""
    found: npt.NDArray[np.float64] = np.mean([curve.means for curve in curves], axis=0)
    return found


def _fields(rows: list[Row], before: dict[str, list[PerQuery]]) -> dict[str, Any]:
    found = []
    for row in rows:
        for metric, curves in row.curves.items():
            summary = across_seeds([c.areas for c in curves], clusters=curves[0].labels)
            entry = {"upgrade": row.kind, "order": row.order, "metric": metric, "area": asdict(summary)}
            found.append(entry | {"shares": curves[0].shares.tolist(), "means": _means(curves).tolist()})
    return {"curves": found, "old": {m: [each.mean for each in seeds] for m, seeds in before.items()}}


def _draw(options: argparse.Namespace, data: str, rows: list[Row], before: list[PerQuery]) -> None:
    trial = options.scale == "trial"
    folder = results.WORK / "backfill" / "trial" if trial else results.RESULTS
    for number, kind in enumerate(KINDS):
        curves = [row.curves[MAP][0] for row in rows if row.kind == kind]
        with atomic_file(folder / f"backfill_{data}_{number}.png") as temporary:
            temporary.write_bytes(curves_png(curves, before[0].mean))


def _save(path: Path, curves: dict[str, Curve]) -> None:
    """Every metric's curve in one file."""
    first = curves[MAP]
    columns: dict[str, Any] = {metric: curve.values for metric, curve in curves.items()}
    columns |= {"shares": first.shares, "query_ids": first.query_ids, "labels": first.labels}
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **columns)


def _load(path: Path, name: str) -> dict[str, Curve]:
    with np.load(path) as cell:
        ids, labels, shares = cell["query_ids"], cell["labels"], cell["shares"]
        return {metric: Curve(name, metric, shares, cell[metric], ids, labels) for metric in METRICS}
