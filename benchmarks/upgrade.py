"""Upgrades: a new model for an old gallery. Who meets the criterion, with what gain, at what tax?

CIFAR-100, 50 -> 100 classes (closed set: test images of all 100); Omniglot, 15 -> 27 alphabets (3 of the 30
are for validation), test on unseen alphabets, a gallery of one drawer; Caltech-101, 20 -> 40 classes (10 are
for validation), test on 50 unseen classes. The old network is of one family, the new one of another, larger
and trained for longer, or there would be nothing to upgrade to; both are small, as two cores demand; the
published setting is a ResNet-50 on CIFAR-100, see --scale full.

Rows are trained into the old space (L2, BCT, contrast, the library's default, BT2, HOC), or link the old
model with a new one trained alone (Procrustes, lambda-orthogonal, FCT, rank merge). Of each row's settings,
trained for a part of the steps, the one with the best mean of new/old and new/new mAP on validation images,
seed 0, is trained in full with every seed. Writes results/upgrade*.{json,md}. Each training and each scoring
is a file in work/, so that the same command continues after a kill.

    python benchmarks/upgrade.py --root DATA                              two cores
    python benchmarks/upgrade.py --root DATA --scale full --device cuda
    python benchmarks/upgrade.py --root DATA --data caltech101 --only default BT2
    python benchmarks/upgrade.py --root DATA --scale trial                a few steps: does it run?
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

import results
import sharing
from hetero.data import load
from hetero.data.named import alphabet
from hetero.models.encoder import embed
from hetero.recipes.resolve import changed, resolve
from hetero.retrieval import MAP, Evaluation, evaluate
from hetero.runs import Run
from hetero.runs.sides import Sides, anchor_sides, model_sides
from hetero.upgrades.backfill.mixed import Upgrade, evaluate_mixed
from hetero.upgrades.links import Link, fit_link
from hetero.upgrades.links.method import Method
from hetero.upgrades.links.prefix import Prefix
from hetero_devices.errors import RecipeError
from objectives_grid import Setting
from objectives_table import Scores, values_of
from upgrade_rows import ROWS, AnySetting, ExtendedSetting, LinkSetting, side_information
from upgrade_table import UpgradeRow, fields, short, table

COMMON: dict[str, tuple[str, ...]] = {
    "default": (
        "anchor.network=elastic-s",
        "anchor.fit.precision=fp32",
        "anchor.fit.batch=64",
        "student.network=residual-s",
        "student.fit.batch=64",
        "student.fit.precision=bf16",
        "student.views=2",
    ),
    "full": (
        "anchor.network=residual-m",
        "anchor.fit.batch=256",
        "student.network={kind: timm, name: resnet50, pretrained: false, dim: 128}",
        "student.fit.batch=256",
        "student.views=8",
    ),
    "trial": (
        "anchor.network=elastic-xs",
        "anchor.fit.precision=fp32",
        "anchor.fit.steps=4",
        "student.network=residual-s",
        "student.fit.steps=4",
        "student.views=1",
    ),
}
OF_DATA: dict[str, dict[str, tuple[str, ...]]] = {
    "cifar100": {
        "default": ("anchor.fit.steps=1500", "student.fit.steps=1500"),
        "full": ("anchor.fit.steps=40000", "student.fit.steps=40000"),
        "trial": (),
    },
    "omniglot": {
        "default": ("anchor.fit.steps=2000", "student.fit.steps=2000"),
        "full": ("anchor.fit.steps=20000", "student.fit.steps=20000"),
        "trial": (),
    },
    "caltech101": {
        "default": ("data.size=48", "anchor.fit.steps=1000", "student.fit.steps=1200"),
        "full": ("anchor.fit.steps=10000", "student.fit.steps=10000"),
        "trial": ("data.size=32",),
    },
}
BASE: dict[str, tuple[str, ...]] = {
    "cifar100": ("data.source=cifar100-closed", "data.validation_share=0.1", "data.rotations=false"),
    "omniglot": ("data.validation_share=0.1", "data.rotations=false"),
    "caltech101": ("data.validation_share=0.2",),
}
_OLD_ALPHABETS = 15
_HALF = {"cifar100": 50, "caltech101": 20}


def recipe_pairs(data: str, options: argparse.Namespace) -> list[str]:
    """Changes of the built-in recipe called `data` that all runs on it share."""
    return [*COMMON[options.scale], *OF_DATA[data][options.scale], *BASE[data], *sharing.given(options)]


def old_classes(data: str, options: argparse.Namespace) -> int:
    """How many training classes the old model knew: the first by name."""
    if data != "omniglot":
        return _HALF[data]
    root = Path(options.root) if options.root else None
    names = load("omniglot", size=32, root=root, validation_share=0.1).train.class_names
    known = sorted({alphabet(name) for name in names})[:_OLD_ALPHABETS]
    return sum(alphabet(name) in known for name in names)


class Bench:
    """One data set: by seed, a run of the old model, and one of everything that could replace it."""

    def __init__(self, data: str, options: argparse.Namespace) -> None:
        self.data, self.options = data, options
        self.folder = results.WORK / "upgrade" / f"{data}-{options.scale}"
        self._runs: dict[tuple[int, int], Run] = {}

    def run(self, seed: int, extra: int = 0) -> Run:
        """The run whose anchor is the old model of this seed, and whose students are new ones.

        extra: dimensions that these have beside the old model's.
        """
        if (seed, extra) not in self._runs:
            pairs = [*recipe_pairs(self.data, self.options), f"seed={seed}"]
            few = f"data.train_classes={old_classes(self.data, self.options)}"
            old = Run.open(self.folder / f"old{seed}", resolve(self.data, [*pairs, few]))
            dim = old.whole_anchor.space.dim + extra
            new = [*pairs, f"anchor.source={old.folder / 'anchor'}", f"student.network.dim={dim}"]
            new += ["student.dimension=extended", "gates.criterion=false"] if extra else []
            folder = self.folder / (f"seed{seed}-{extra}-more" if extra else f"seed{seed}")
            self._runs[seed, extra] = Run.open(folder, resolve(self.data, new))
        return self._runs[seed, extra]

    def prepare(self, seed: int) -> None:
        """Train the old model and the paragon of a seed, and cache what other processes then only read."""
        self.run(seed).cache_views()
        for extra in {setting.extra for setting in extended(self.options)}:
            run = self.run(seed, extra)
            sharing.share_views(self.run(seed), run.folder)
            run.cache_views()
        for split in ("validation", "test"):
            self.old(seed, split)
            self.independent(seed, split)

    def old(self, seed: int, split: sharing.Split) -> Scores:
        """old/old, on both sides of the pair."""

        def compute() -> Scores:
            old = self._old(seed, split)
            values = values_of(evaluate(old.query, old.gallery))
            return Scores(values, values)

        return self._kept(f"old-{split}-{seed}", compute)

    def independent(self, seed: int, split: sharing.Split) -> Scores:
        """The new model trained alone against the old gallery (chance), and against its own: the paragon."""

        def compute() -> Scores:
            alone, old = self._alone(seed, split), self._old(seed, split)
            cross = evaluate(alone.query, old.gallery, across_spaces=True)
            return Scores(values_of(cross), values_of(evaluate(alone.query, alone.gallery)))

        return self._kept(f"independent-{split}-{seed}", compute)

    def score(self, setting: AnySetting, seed: int, split: sharing.Split) -> Scores:
        """new/old and new/new, trained or fitted where that is still to be done; RecipeError if it cannot."""
        compute = self._trained if isinstance(setting, Setting) else self._linked
        return self._kept(
            f"{setting.digest}-{split}-{seed}",
            lambda: compute(setting, seed, split),  # type: ignore[arg-type]
        )

    def _trained(self, setting: Setting, seed: int, split: sharing.Split) -> Scores:
        run = self.run(seed, setting.extra if isinstance(setting, ExtendedSetting) else 0)
        fit = sharing.fit(run, split, setting.rate)
        model = run.student_by(setting.objective, fit, f"{setting.digest}-{split}")
        new, old = model_sides(model, sharing.images(run, split)), self._old(seed, split)
        query = new.query
        if isinstance(setting, ExtendedSetting):
            query = fit_link(Prefix(), new.query, old.query, holdout=0)(new.query)
        cross = evaluate(query, old.gallery)
        return Scores(values_of(cross), values_of(evaluate(new.query, new.gallery)))

    def _linked(self, setting: LinkSetting, seed: int, split: sharing.Split) -> Scores:
        paragon = self.independent(seed, split).symmetric
        if setting.method is None:
            return Scores(values_of(self._merged(seed, split)), paragon)
        link, old, alone = self._link(setting.method, seed), self._old(seed, split), self._alone(seed, split)
        if link.side == "query":
            return Scores(values_of(evaluate(link(alone.query), old.gallery)), paragon)
        side = side_information(self.run(seed).splits.train, sharing.images(self.run(seed), split).gallery)
        return Scores(values_of(evaluate(alone.query, link(old.gallery, side))), paragon)

    def _link(self, method: Method, seed: int) -> Link:
        run = self.run(seed)
        train = run.splits.train
        old, new = run.anchor.embed("train", train), embed(run.alone.encoder, train)
        if self.options.scale == "trial" and hasattr(method, "descent"):
            method = changed(method, ["descent.steps=10"])
        if method.sides[0] == "query":
            return fit_link(method, new, old, seed=seed)
        return fit_link(method, old, new, companion=side_information(train, train), seed=seed)

    def _merged(self, seed: int, split: sharing.Split) -> Evaluation:
        """Half of the gallery, drawn by the seed, re-embedded; the other half searched by the old model."""
        old, new = self._old(seed, split), self._alone(seed, split)
        done = np.random.default_rng(seed).permutation(len(old.gallery)) < len(old.gallery) // 2
        upgrade = Upgrade(old.query, new.query, old.gallery, new.gallery)
        return evaluate_mixed(upgrade, done, "calibrated")

    def _old(self, seed: int, split: sharing.Split) -> Sides:
        run = self.run(seed)
        return anchor_sides(run.anchor, sharing.images(run, split), split)

    def _alone(self, seed: int, split: sharing.Split) -> Sides:
        run = self.run(seed)
        return model_sides(run.alone, sharing.images(run, split))

    def _kept(self, name: str, compute: Callable[[], Scores]) -> Scores:
        return Scores.kept(self.folder / "cells" / f"{name}.npz", compute)


def row(bench: Bench, name: str, seeds: int) -> UpgradeRow:
    """Choose the setting on validation images with seed 0, then test it with every seed."""
    settings = ROWS[name]
    try:
        tried = [_chosen_by(bench.score(setting, 0, "validation")) for setting in settings]
    except RecipeError as refusal:
        return UpgradeRow(name, refused=str(refusal))
    best = settings[int(np.argmax(tried))]
    scores = tuple(bench.score(best, seed, "test") for seed in range(seeds))
    return UpgradeRow(name, str(best), scores)


def extended(options: argparse.Namespace) -> list[ExtendedSetting]:
    """The settings of extended networks in the rows asked for."""
    asked = (setting for name in options.only for setting in ROWS[name])
    return [setting for setting in asked if isinstance(setting, ExtendedSetting)]


def _chosen_by(scores: Scores) -> float:
    """The mean of new/old and new/new mAP: compatible, and worth the upgrade."""
    return (scores.asymmetric[MAP].mean + scores.symmetric[MAP].mean) / 2


@cache
def _bench(data: str, words: tuple[str, ...]) -> Bench:
    """One a process and data set, so that images are read once."""
    return Bench(data, _options(words))


def train_all(options: argparse.Namespace, words: tuple[str, ...]) -> None:
    """Train and score every row; the cells are read again afterwards."""
    places = [(data, seed, words) for seed in range(options.seeds) for data in options.data]
    sharing.side_by_side([(_prepare, place) for place in places], options, "old models and paragons")
    tasks: list[sharing.Task] = [
        (_work, (data, name, words)) for name in options.only for data in options.data
    ]
    sharing.side_by_side(tasks, options, "upgrade")


def _prepare(data: str, seed: int, words: tuple[str, ...]) -> None:
    _bench(data, words).prepare(seed)


def _work(data: str, name: str, words: tuple[str, ...]) -> None:
    bench = _bench(data, words)
    row(bench, name, bench.options.seeds)


def main() -> None:
    words = tuple(sys.argv[1:])
    options = _options(words)
    train_all(options, words)
    page, found = _INTRODUCTION.format(share=f"{sharing.SWEEP:.0%}", seeds=options.seeds), {}
    for data in options.data:
        bench = _bench(data, words)
        old, paragon = (
            tuple(of(seed, "test") for seed in range(options.seeds)) for of in (bench.old, bench.independent)
        )
        rows = [UpgradeRow("independent", "trained alone", paragon)]
        rows += [row(bench, name, options.seeds) for name in options.only]
        page += "\n" + table(data, rows, old, paragon) + "\nIn short:\n\n" + short(rows[1:], old, paragon)
        found[data] = fields(rows, old, paragon)
    command = f"python benchmarks/upgrade.py --scale {options.scale} --seeds {options.seeds}"
    stamp = results.stamp(command, ", ".join(options.data), 0)
    results.write(_name(options), {"stamp": stamp, "data": found}, page)
    print(page)


_INTRODUCTION = """# Upgrades: new queries, an old gallery

Percent, with 95 % bootstrap intervals over {seeds} training seeds and over test classes. Query model before
gallery model. The criterion is that new/old beats old/old, with the whole interval of the difference above
zero; it is said of Recall@1 and of mAP. Gain: the part of the paragon's advantage that new/old brings; tax:
what new/new lacks to the paragon, in points. NFR: queries that old/old answers and new/old does not, at
Recall@1. Of each row's settings, trained for {share} of the steps, the one with the best mean of new/old and
new/new mAP on validation images (seed 0) is shown. Links serve a new model trained alone, so their new/new is
the paragon's.
FCT converts the old gallery, by 64 principal components of the pixels as side information. Rank merge is
shown with half of the gallery re-embedded, where every other row has re-embedded nothing.
"""


def _name(options: argparse.Namespace) -> str:
    whole = tuple(options.only) == tuple(ROWS) and tuple(options.data) == tuple(OF_DATA)
    return results.named("upgrade", options, whole)


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = sharing.parser(__doc__, COMMON, OF_DATA)
    sharing.trainings(parser, ROWS)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
