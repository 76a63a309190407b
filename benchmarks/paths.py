"""Which paths should train a supernet? How its scores rank networks, by the rule that drew its candidates.

Omniglot. One supernet a rule (`search.paths`), all of the same steps, and the same random architectures
within each of four budgets, 20 to 160 times fewer multiply-accumulates than the anchor. Each architecture is
also trained from scratch. Kendall's tau says how well the supernet's scores order what training brings, over
all budgets and, what a search needs, inside one. Everything on validation classes, since a rule is chosen by
it. Writes results/paths.{json,md}. Killed at any moment, the same command continues; the anchor is that of
search.py.

    python benchmarks/paths.py --root DATA
    python benchmarks/paths.py --root DATA --scale full --device cuda
    python benchmarks/paths.py --root DATA --scale trial            a few steps: does it run?
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch

import results
import search_bench
import search_recipes
import search_table
import sharing
from hetero.report import wording
from hetero.retrieval import RECALL_AT_1
from hetero.search.scoring import Scores, score_network
from hetero.search.space import Architecture
from hetero_devices.files import read_json, write_json
from search_budgets import RATIOS

RULES: dict[str, tuple[str, ...]] = {
    "single": ("search.paths.rule=single",),
    "shrinking": ("search.paths.rule=single", "search.paths.shrinking=0.5"),
    "sandwich": ("search.paths.rule=sandwich",),
}
FIRST = "single"  # whose folder also holds the networks trained from scratch
EACH = {"default": 4, "full": 12, "trial": 2}  # architectures a budget
STEPS = {"default": 700, "full": 20000, "trial": 4}  # of each from scratch
DATA = "omniglot"


@dataclass(frozen=True)
class Pair:
    """One architecture: its cost, its scores in the supernet of a rule, and after training from scratch."""

    ratio: int
    macs: int
    supernet: Scores
    trained: Scores


class Bench(search_bench.Bench):
    """One rule's supernet."""

    def __init__(self, rule: str, options: argparse.Namespace) -> None:
        anchor = search_bench.Bench(DATA, 0, options).anchor
        super().__init__(DATA, 0, options, RULES[rule])
        self.anchor = anchor
        self.folder = results.WORK / "paths" / f"{DATA}-{options.scale}" / rule

    def architectures(self) -> list[tuple[int, Architecture]]:
        """(budget, architecture): random ones of each budget, the same for every rule."""
        count, generator = EACH[self.options.scale], np.random.default_rng(7)
        limits = [*((ratio, self.macs(ratio)) for ratio in RATIOS), (0, 0.0)]
        found: dict[int, list[Architecture]] = {ratio: [] for ratio in RATIOS}
        while any(len(each) < count for each in found.values()):
            drawn = self._drawn(generator)
            macs = self.search.evaluations.costs(drawn).macs
            for (ratio, high), (_, low) in pairwise(limits):
                if low < macs <= high and len(found[ratio]) < count and drawn not in found[ratio]:
                    found[ratio].append(drawn)
        return [(ratio, each) for ratio, group in found.items() for each in group]

    def _drawn(self, generator: np.random.Generator) -> Architecture:
        """Of any size: a random one, made smaller by a random share of the way to the smallest."""
        space = self.search.space
        drawn = space.sample(generator)
        way = [drawn, *space.shrinking(drawn, generator)]
        return way[int(generator.integers(len(way)))]

    def from_scratch(self, index: int) -> Scores:
        """The scores of an architecture after training; done once."""
        _, architecture = self.architectures()[index]
        path = self.folder / "trained" / f"{index}.json"
        if not path.exists():
            student, network = self.run.recipe.student, self.search.space.config(architecture)
            fit = student.fit.model_copy(update={"steps": STEPS[self.options.scale]})
            model = self.run.student_by(student.objective, fit, f"trained/{index}", network)
            write_json(path, asdict(score_network(model.deploy, self.search.validation, RECALL_AT_1)))
        return Scores(**read_json(path))


@cache
def _bench(rule: str, words: tuple[str, ...]) -> Bench:
    """One a process and rule, so that images are read once."""
    return Bench(rule, _options(words))


def _prepare(rule: str, words: tuple[str, ...]) -> None:
    bench = _bench(rule, words)
    if rule != FIRST:
        sharing.share_views(_bench(FIRST, words).run, bench.run.folder)
    bench.prepare()


def _train(index: int, words: tuple[str, ...]) -> None:
    _bench(FIRST, words).from_scratch(index)


def pairs(words: tuple[str, ...]) -> dict[str, list[Pair]]:
    """By rule; trained where it is missing."""
    options = _options(words)
    _bench(FIRST, words).run.cache_views()
    sharing.side_by_side([(_prepare, (rule, words)) for rule in RULES], options, "supernets")
    count = len(RATIOS) * EACH[options.scale]
    sharing.side_by_side([(_train, (index, words)) for index in range(count)], options, "from scratch")
    first = _bench(FIRST, words)
    trained = [first.from_scratch(index) for index in range(count)]
    return {rule: _scored(_bench(rule, words), trained) for rule in RULES}


def _scored(bench: Bench, trained: Sequence[Scores]) -> list[Pair]:
    chosen = bench.architectures()
    evaluations = bench.search.evaluations
    candidates = evaluations([architecture for _, architecture in chosen])
    return [
        Pair(ratio, candidate.costs.macs, candidate.scores, after)
        for (ratio, _), candidate, after in zip(chosen, candidates, trained, strict=True)
    ]


def section(found: dict[str, list[Pair]]) -> str:
    """The table: a rule a line, and operations as the score to beat."""
    trained = [pair.trained.asymmetric for pair in next(iter(found.values()))]
    lines = [
        "| score | τ, all budgets | τ inside a budget, mean | its mean |",
        "|---|---|---|---|",
        *(
            _line(f"supernet, {rule}", of_rule, [p.supernet.asymmetric for p in of_rule])
            for rule, of_rule in found.items()
        ),
        _line("multiply-accumulates", next(iter(found.values())), None),
        f"| trained from scratch | – | – | {wording.percent(float(np.mean(trained)))} |",
    ]
    return "\n".join(lines) + "\n"


def _line(name: str, of_rule: Sequence[Pair], scores: Sequence[float] | None) -> str:
    """scores: of the supernet; None for operations."""
    ranked = [float(pair.macs) for pair in of_rule] if scores is None else list(scores)
    groups = [[i for i, pair in enumerate(of_rule) if pair.ratio == ratio] for ratio in RATIOS]
    inside = float(np.mean([_tau(of_rule, ranked, group) for group in groups]))
    mean = wording.NONE if scores is None else wording.percent(float(np.mean(scores)))
    return f"| {name} | {_tau(of_rule, ranked, range(len(of_rule))):+.2f} | {inside:+.2f} | {mean} |"


def _tau(of_rule: Sequence[Pair], ranked: Sequence[float], rows: Iterable[int]) -> float:
    """Kendall's tau with the asymmetric score after training, over some of the architectures."""
    return search_table.correlation([(ranked[i], of_rule[i].trained.asymmetric) for i in rows])


_INTRODUCTION = """# Paths of a supernet

Omniglot, validation classes, Recall@1 of a candidate's queries in the anchor's gallery. {count} random
architectures, {each} inside each budget of 20, 40, 80 and 160 times fewer operations than the anchor, each
trained from scratch for {steps} steps; supernets of {supernet} steps. Kendall's τ of a score with the score
after training. Inside one budget there are {each} architectures, so its τ is coarse; one seed.

"""


def main() -> None:
    words = tuple(sys.argv[1:])
    options = _options(words)
    torch.set_num_threads(1)
    found = pairs(words)
    fit = _bench(FIRST, words).search.config.fit
    each = EACH[options.scale]
    page = _INTRODUCTION.format(
        count=len(RATIOS) * each, each=each, steps=STEPS[options.scale], supernet=fit.steps
    ) + section(found)
    fields: dict[str, Any] = {rule: [asdict(pair) for pair in of_rule] for rule, of_rule in found.items()}
    stamp = results.stamp(f"python benchmarks/paths.py --scale {options.scale}", DATA, 0)
    results.write(results.named("paths", options, True), {"stamp": stamp, "rules": fields}, page)
    print(page)


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = sharing.parser(__doc__, search_recipes.COMMON, [DATA])
    sharing.trainings(parser)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
