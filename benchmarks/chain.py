"""A chain of four versions: does every new model still search every older gallery, and what does it cost?

Each version has more training classes than the one before, and the networks are of two families: elastic-s,
elastic-m, residual-s, elastic-l by default. A version is trained into the space of the first, by the
library's default objective for upgrades, towards the version before it (`last`) or towards all before it
(`all`). Each is compared with its paragon, the same network and data without an old model. Writes
results/chain*.{json,md}. Each training is kept in work/, so that the same command continues after a kill.

    python benchmarks/chain.py --root DATA                              two cores
    python benchmarks/chain.py --root DATA --scale full --device cuda
    python benchmarks/chain.py --root DATA --scale trial                a few steps: does it run?
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np

import results
import sharing
from hetero.recipes.builtin import UPGRADE_OBJECTIVE
from hetero.recipes.resolve import resolve
from hetero.retrieval import MAP, RECALL_AT_1
from hetero.runs import Run
from hetero.runs.sides import Sides, anchor_sides, model_sides
from hetero.upgrades.chain import Chain, evaluate_chains

Networks = tuple[str, str, str, str]

NETWORKS: dict[str, Networks] = {
    "default": ("elastic-s", "elastic-m", "residual-s", "elastic-l"),
    "full": ("elastic-l", "residual-m", "residual-l", "residual-l"),
    "trial": ("elastic-xs", "elastic-s", "residual-s", "elastic-xs"),
}
CLASSES = {"cifar100": (25, 50, 75, 100), "caltech101": (10, 20, 30, 40)}
BASE = {
    "cifar100": ("data.source=cifar100-closed", "data.validation_share=0.1"),
    "caltech101": ("data.validation_share=0.2",),
}
FIT: dict[str, dict[str, tuple[int, int]]] = {
    "cifar100": {"default": (1000, 64), "full": (40000, 256), "trial": (4, 64)},
    "caltech101": {"default": (500, 64), "full": (10000, 64), "trial": (4, 64)},
}
"""Steps and batch of every version."""

SIZE = {("caltech101", "trial"): ["data.size=32"], ("caltech101", "default"): ["data.size=48"]}

TOWARDS = ("last", "all")
METRICS = (RECALL_AT_1, MAP)
VERSIONS = ("v1", "v2", "v3", "v4")


class Series:
    """The runs of one chain, one a version; the first version's anchor is trained alone."""

    def __init__(self, data: str, towards: str, seed: int, options: argparse.Namespace) -> None:
        self.data, self.towards, self.seed, self.options = data, towards, seed, options
        self.folder = results.WORK / "chain" / f"{data}-{options.scale}" / f"seed{seed}"
        self._runs: dict[int, Run] = {}

    def run(self, version: int) -> Run:
        """The run of a version: the first holds an anchor, the others a student and its paragon."""
        if version not in self._runs:
            self._runs[version] = self._opened(version)
        return self._runs[version]

    def _opened(self, version: int) -> Run:
        (steps, batch), networks = FIT[self.data][self.options.scale], NETWORKS[self.options.scale]
        part = "student" if version else "anchor"
        pairs = [
            *BASE[self.data],
            f"seed={self.seed}",
            f"data.train_classes={CLASSES[self.data][version]}",
            f"{part}.network={networks[version]}",
            "student.views=1" if self.options.scale == "trial" else "student.views=2",
            "anchor.fit.precision=fp32",
        ]
        for each in ("anchor", "student"):
            pairs += [f"{each}.fit.steps={steps}", f"{each}.fit.batch={batch}"]
        pairs += sharing.given(self.options)
        pairs += SIZE.get((self.data, self.options.scale), [])
        recipe = resolve(self.data, [*pairs, *self._old(version)])
        student = recipe.student.model_copy(update={"objective": UPGRADE_OBJECTIVE})
        return Run.open(self._home(version), recipe.model_copy(update={"student": student}))

    def _home(self, version: int) -> Any:
        return self.folder / VERSIONS[0] if version == 0 else self.folder / self.towards / VERSIONS[version]

    def _old(self, version: int) -> list[str]:
        """The version before, and where the chain looks at all of them, those before it."""
        if version == 0:
            return []
        folders = [self._home(v) / ("student" if v else "anchor") for v in range(version)]
        also = folders[-2::-1] if self.towards == "all" else []
        return [f"anchor.source={folders[-1]}", f"anchor.also=[{','.join(map(str, also))}]"]

    def train(self) -> None:
        """Every version, oldest first, and its paragon, which is the same however it is upgraded."""
        _ = self.run(0).whole_anchor
        for version in range(1, len(VERSIONS)):
            _ = self.run(version).student
            if self.towards == TOWARDS[0]:
                _ = self.run(version).alone

    @cached_property
    def versions(self) -> dict[str, Sides]:
        """Every version on both sides of the last run's test images, which are those of every run."""
        images = self.run(len(VERSIONS) - 1).test
        first = {VERSIONS[0]: anchor_sides(self.run(0).whole_anchor, images)}
        return first | {
            VERSIONS[n]: model_sides(self.run(n).student, images) for n in range(1, len(VERSIONS))
        }

    @cached_property
    def paragons(self) -> dict[str, Sides]:
        """The same of the paragons; asked of the chain that trains them."""
        images = self.run(len(VERSIONS) - 1).test
        return {VERSIONS[n]: model_sides(self.run(n).alone, images) for n in range(1, len(VERSIONS))}


@cache
def _chains(data: str, towards: str, seed: int, words: tuple[str, ...]) -> dict[str, Chain]:
    """By metric."""
    options = _options(words)
    paragons = Series(data, TOWARDS[0], seed, options).paragons
    return evaluate_chains(Series(data, towards, seed, options).versions, paragons, metrics=METRICS)


def _train(data: str, seed: int, words: tuple[str, ...]) -> None:
    for towards in TOWARDS:  # one after the other: they share the first version
        Series(data, towards, seed, _options(words)).train()  # not kept: every run holds its images


def train_all(options: argparse.Namespace, words: tuple[str, ...]) -> None:
    """Every chain; what is there already is kept."""
    tasks = [(_train, (data, seed, words)) for data in options.data for seed in range(options.seeds)]
    sharing.side_by_side(tasks, options, "chains")


def section(data: str, towards: str, chains: Sequence[Chain], networks: Networks) -> str:
    """One chain's matrix, averaged over seeds, and its summary."""
    scores = np.mean([chain.matrix.scores() for chain in chains], axis=0)
    head = f"| query | network, classes | {' | '.join(VERSIONS)} | paragon | tax |\n|{'---|' * 8}"
    lines = [
        f"| {name} | {network}, {classes} | {' | '.join(f'{100 * s:.2f}' for s in row)} | {best} | {tax} |"
        for name, network, classes, row, best, tax in zip(
            VERSIONS, networks, CLASSES[data], scores, *_columns(chains), strict=True
        )
    ]
    means = {k: float(np.mean([getattr(c, k) for c in chains])) for k in ("ac", "aa", "tax_growth")}
    summary = (
        f"AC {means['ac']:.3f}, AA {100 * means['aa']:.2f} %, tax growth "
        f"{100 * means['tax_growth']:+.2f} points a version."
    )
    title = f"## {data}, towards {towards}: {chains[0].matrix.metric}\n"
    return "\n".join([title, head, *lines, "", summary]) + "\n"


def _columns(chains: Sequence[Chain]) -> tuple[list[str], list[str]]:
    """Paragons and taxes of every version, means over seeds."""
    paragons = np.mean([chain.paragons for chain in chains], axis=0)
    taxes = np.mean([chain.taxes for chain in chains], axis=0)
    return [f"{100 * p:.2f}" for p in paragons], [f"{round(100 * t, 2) + 0.0:+.2f}" for t in taxes]


def main() -> None:
    words = tuple(sys.argv[1:])
    options = _options(words)
    train_all(options, words)
    page, found = _INTRODUCTION.format(seeds=options.seeds), {}
    for data in options.data:
        for towards in TOWARDS:
            for metric in METRICS:
                chains = [_chains(data, towards, seed, words)[metric] for seed in range(options.seeds)]
                page += "\n" + section(data, towards, chains, NETWORKS[options.scale])
                found[f"{data} {towards} {metric}"] = [chain.to_json() for chain in chains]
    name = results.named("chain", options, tuple(options.data) == tuple(CLASSES))
    command = f"python benchmarks/chain.py --scale {options.scale} --seeds {options.seeds}"
    stamp = results.stamp(command, ", ".join(options.data), 0)
    results.write(name, {"stamp": stamp, "chains": found}, page)
    print(page)


_INTRODUCTION = """# A chain of versions

Percent, means over {seeds} seeds. Rows are query models, columns gallery models. AC: the share of pairs of a
newer query and an older gallery that beat the older model alone; AA: the mean over all pairs of a query and a
gallery that is not newer. Tax: what a version lacks to its paragon, in points; the first version is its own.
"""


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = sharing.parser(__doc__, NETWORKS, CLASSES)
    sharing.trainings(parser)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
