"""Every objective with the same student and the same budget: which makes the best asymmetric search?

Omniglot (unseen alphabets, a gallery of one drawer) and Caltech-101 (classes 0-49 train, 50-99 test). A
data set has one anchor, whose embeddings of the training views are cached and shared. Of each
candidate's four settings (`objectives_grid.py`), trained for a part of the steps, the one with the best
asymmetric mAP on validation classes, seed 0, is trained in full with every seed, and only then looks at
the test classes. Writes results/objectives*.{json,md,png}. Each training and each scoring is a file in work/,
so that the same command continues after a kill. Trainings run side by side in processes of one thread.

    python benchmarks/objectives.py --root DATA                                two cores, two hours
    python benchmarks/objectives.py --root DATA --scale full --device cuda --seeds 5
    python benchmarks/objectives.py --root DATA --only regression d3still rkd --data caltech101
    python benchmarks/objectives.py --root DATA --scale trial       a few steps: does it run?
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np

import results
import sharing
from hetero.models.encoder import embed
from hetero.models.store import Model
from hetero.recipes.recipe import Recipe
from hetero.recipes.resolve import resolve
from hetero.retrieval import MAP, PerQuery, evaluate
from hetero.runs import Run
from hetero_devices.errors import RecipeError
from hetero_devices.space import Embeddings
from objectives_grid import CANDIDATES, SETTINGS, Setting
from objectives_plot import plot
from objectives_table import (
    Row,
    Scores,
    fields,
    recommendation,
    recommended,
    reference_fields,
    table,
    values_of,
)

COMMON: dict[str, tuple[str, ...]] = {
    "default": (
        "student.network=elastic-xs",
        "student.fit.batch=64",
        "student.views=2",
        "anchor.network=residual-s",
    ),
    "full": (
        "student.network=elastic-m",
        "anchor.network=residual-l",
        "anchor.fit.batch=256",
        "student.fit.batch=256",
        "student.views=8",
    ),
    "trial": (
        "student.network=elastic-xs",
        "anchor.network=residual-s",
        "anchor.fit.steps=4",
        "student.fit.steps=4",
        "student.views=1",
    ),
}
OF_DATA: dict[str, dict[str, tuple[str, ...]]] = {
    "omniglot": {
        "default": ("anchor.fit.steps=3000", "student.fit.steps=1000"),
        "full": ("anchor.fit.steps=60000", "student.fit.steps=30000"),
        "trial": ("data.rotations=false",),
    },
    "caltech101": {
        "default": ("data.size=48", "anchor.fit.steps=2000", "student.fit.steps=600"),
        "full": ("anchor.fit.steps=20000", "student.fit.steps=20000"),
        "trial": ("data.size=32",),
    },
}
VALIDATION = {"omniglot": "data.validation_share=0.1", "caltech101": "data.validation_share=0.2"}


class Bench:
    """One data set: its anchor, and one run a seed that shares it."""

    def __init__(self, data: str, options: argparse.Namespace) -> None:
        self.data, self.options = data, options
        self.folder = results.WORK / "objectives" / f"{data}-{options.scale}"
        self._runs: dict[int, Run] = {}
        self._galleries: dict[sharing.Split, Embeddings] = {}

    @cached_property
    def anchor(self) -> str:
        """The folder of the anchor, shared by all seeds."""
        scale = self.options.scale
        recipe = (*COMMON[scale], *OF_DATA[self.data][scale], VALIDATION[self.data])
        return sharing.anchor(self.folder, self.data, self.options, recipe)

    def run(self, seed: int) -> Run:
        """The run that holds every student of one seed."""
        if seed not in self._runs:
            recipe = self._recipe(seed, f"anchor.source={self.anchor}")
            self._runs[seed] = Run.open(self.folder / f"seed{seed}", recipe)
        return self._runs[seed]

    def prepare(self, seeds: int) -> None:
        """Train the anchor and cache its embeddings, which the processes then only read."""
        for seed in range(seeds):
            self.run(seed).cache_views()

    def _recipe(self, seed: int, *changes: str) -> Recipe:
        options = self.options
        overrides = [*COMMON[options.scale], *OF_DATA[self.data][options.scale], VALIDATION[self.data]]
        overrides += sharing.given(options)
        return resolve(self.data, [*overrides, f"seed={seed}", *changes])

    def score(self, setting: Setting, seed: int, split: sharing.Split) -> Scores:
        """Train where that is still to be done, and score where that is; RecipeError when it cannot be.

        On validation classes after a part of the steps, on test classes after all of them.
        """
        run = self.run(seed)
        fit = sharing.fit(run, split, setting.rate)
        name = f"{setting.digest}-{split}"

        def compute() -> Scores:
            return self._scores(run, run.student_by(setting.objective, fit, name), split)

        return self._kept(f"{name}-{seed}", compute)

    def alone(self, seed: int) -> Scores:
        """The same student trained without the anchor."""
        run = self.run(seed)
        return self._kept(f"alone-test-{seed}", lambda: self._scores(run, run.alone, "test"))

    def paragon(self) -> Scores:
        """The anchor on both sides."""
        return self._kept("paragon-test", self._paragon)

    def _paragon(self) -> Scores:
        query = self.run(0).anchor.embed("test", self.run(0).test.query)
        values = _values(query, self._gallery("test"))
        return Scores(values, values)

    def _scores(self, run: Run, model: Model, split: sharing.Split) -> Scores:
        """A student against the anchor's gallery and against its own."""
        sides = sharing.images(run, split)
        query, own = embed(model.encoder, sides.query), embed(model.encoder, sides.gallery)
        return Scores(_values(query, self._gallery(split)), _values(query, own))

    def _gallery(self, split: sharing.Split) -> Embeddings:
        """The anchor's, which is the same for every seed."""
        if split not in self._galleries:
            run = self.run(0)
            self._galleries[split] = run.anchor.embed(split, sharing.images(run, split).gallery)
        return self._galleries[split]

    def _kept(self, name: str, compute: Callable[[], Scores]) -> Scores:
        return Scores.kept(self.folder / "cells" / f"{name}.npz", compute)


def _values(query: Embeddings, gallery: Embeddings) -> dict[str, PerQuery]:
    # The student alone is in no space of the anchor's.
    return values_of(evaluate(query, gallery, across_spaces=True))


def candidate(bench: Bench, name: str, seeds: int) -> Row:
    """Choose the setting on validation classes with seed 0, then test it with every seed."""
    settings = CANDIDATES[name]
    try:
        tried = [bench.score(setting, 0, "validation").asymmetric[MAP].mean for setting in settings]
    except RecipeError as refusal:
        return Row(name, None, refused=str(refusal))
    best = settings[int(np.argmax(tried))]
    scores = tuple(bench.score(best, seed, "test") for seed in range(seeds))
    return Row(name, best, scores, tuple(tried))


@cache
def _bench(data: str, words: tuple[str, ...]) -> Bench:
    """One a process and data set, so that images are read once."""
    return Bench(data, _options(words))


def train_all(options: argparse.Namespace, words: tuple[str, ...]) -> None:
    """Train and score every candidate; the cells are read again afterwards."""
    for data in options.data:
        _bench(data, words).prepare(options.seeds)
    tasks: list[sharing.Task] = [
        (_candidate, (data, name, words)) for name in options.only for data in options.data
    ]
    tasks += [(_alone, (data, seed, words)) for data in options.data for seed in range(options.seeds)]
    sharing.side_by_side(tasks, options, "objectives")


def _candidate(data: str, name: str, words: tuple[str, ...]) -> None:
    bench = _bench(data, words)
    candidate(bench, name, bench.options.seeds)


def _alone(data: str, seed: int, words: tuple[str, ...]) -> None:
    _bench(data, words).alone(seed)


def section(bench: Bench, rows: Sequence[Row], options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """One data set's table and its fields for the JSON."""
    references = {
        "anchor on both sides": [bench.paragon()],
        "student trained alone": [bench.alone(seed) for seed in range(options.seeds)],
    }
    return table(bench.data, rows, references), {
        "rows": fields(rows),
        "references": reference_fields(references),
    }


def main() -> None:
    words = tuple(sys.argv[1:])
    options = _options(words)
    train_all(options, words)
    rows = {
        data: [candidate(_bench(data, words), name, options.seeds) for name in options.only]
        for data in options.data
    }
    parts = {data: section(_bench(data, words), rows[data], options) for data in options.data}
    best = recommended(rows)
    page = _INTRODUCTION.format(settings=SETTINGS, share=f"{sharing.SWEEP:.0%}", seeds=options.seeds)
    page += f"\n{recommendation(best, rows)}" if best else ""
    page += "\n" + "\n".join(text for text, _ in parts.values())
    command = f"python benchmarks/objectives.py --scale {options.scale} --seeds {options.seeds}"
    stamp = results.stamp(command, ", ".join(options.data), 0)
    found = {data: fields for data, (_, fields) in parts.items()}
    results.write(_name(options), {"stamp": stamp, "recommended": best, "data": found}, page)
    plot(results.RESULTS / f"{_name(options)}.png", found)
    print(page)


_INTRODUCTION = """# Objectives: the same student, the same budget

Percent, with 95 % bootstrap intervals over {seeds} training seeds and over test classes. Asymmetric: the
student's queries in the anchor's gallery; symmetric: in its own. Of each objective's {settings} settings,
trained for {share} of the steps, the one with the best asymmetric mAP on validation classes (seed 0) is
shown; the test classes were not used to choose. Sorted by asymmetric mAP, the controls at the bottom.
`student trained alone` in the anchor's gallery is chance.
"""


def _name(options: argparse.Namespace) -> str:
    whole = tuple(options.only) == tuple(CANDIDATES) and tuple(options.data) == tuple(OF_DATA)
    return results.named("objectives", options, whole)


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = sharing.parser(__doc__, COMMON, OF_DATA)
    sharing.trainings(parser, CANDIDATES)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
