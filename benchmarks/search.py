"""Does searching the architecture by cross-model accuracy pay? CMP-NAS against plain search, chance and hand.

Omniglot and Caltech-101. One supernet a seed is trained towards the anchor; for budgets of 20 to 160 times
fewer multiply-accumulates than the anchor's, evolution maximises R1 (symmetric: plain architecture search),
R2 (asymmetric) or R3 (their product) on validation classes, and random search looks at as many candidates.
Every winner, and MobileNetV2, MobileNetV3 and the presets' family scaled to the budget, is trained alike from
scratch; test classes are scored once. Further random architectures say how well each reward ranks. Writes
results/search.{json,md,png}. Killed at any moment, the same command continues.

    python benchmarks/search.py --root DATA
    python benchmarks/search.py --root DATA --data omniglot --seeds 1
    python benchmarks/search.py --root DATA --scale full --device cuda
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache, cached_property
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

import results
import search_table
import sharing
from hetero.models.build import Family
from hetero.models.elastic import ElasticConfig
from hetero.models.encoder import embed
from hetero.progress import track
from hetero.recipes.resolve import resolve
from hetero.retrieval import evaluate
from hetero.runs import Run
from hetero.search.searching import Search, open_search
from hetero.search.space import Architecture
from hetero_devices.errors import RecipeError
from hetero_devices.files import read_json
from hetero_devices.space import Embeddings
from search_handmade import HANDMADE, within
from search_table import METRICS, Cell

RATIOS = (20, 40, 80, 160)
REWARDS = {"CMP-NAS, R3": "product", "CMP-NAS, R2": "asymmetric", "plain, R1": "symmetric"}
RANDOM = "random search"
FURTHER = 8  # random architectures, for the rank correlation

SPACE = (
    "search.space.head=[64,96,128,192,256]",
    "search.space.stages.1.width=[16,24,32,40,48]",
    "search.space.stages.2.width=[24,32,48,64,80,96]",
)
COMMON = {
    "default": (
        "anchor.network=residual-m",
        "anchor.fit.batch=64",
        "student.fit.batch=64",
        "student.views=2",
        "search.fit.batch=64",
        "search.algorithm.population=24",
        "search.algorithm.generations=8",
        "search.queries=500",
    ),
    "full": (
        "anchor.network=residual-l",
        "anchor.fit.batch=256",
        "student.fit.batch=256",
        "student.views=8",
        "search.fit.batch=256",
    ),
    "trial": (
        "anchor.network=residual-s",
        "anchor.fit.steps=4",
        "student.fit.steps=4",
        "student.views=1",
        "search.fit.steps=4",
        "search.fit.batch=16",
        "search.algorithm.population=4",
        "search.algorithm.generations=2",
        "search.algorithm.parents=2",
        "search.queries=100",
    ),
}
OF_DATA = {
    "omniglot": {
        "default": ("anchor.fit.steps=3000", "student.fit.steps=1500", "search.fit.steps=2500"),
        "full": ("anchor.fit.steps=60000", "student.fit.steps=60000", "search.fit.steps=60000"),
        "trial": ("data.rotations=false",),
    },
    "caltech101": {
        "default": (
            "data.size=48",
            "anchor.fit.steps=1500",
            "student.fit.steps=1000",
            "search.fit.steps=1500",
            "student.network=elastic-m",
        ),
        "full": ("anchor.fit.steps=20000", "student.fit.steps=30000", "search.fit.steps=30000"),
        "trial": ("data.size=32", "student.network=elastic-xs"),
    },
}
VALIDATION = {"omniglot": "data.validation_share=0.1", "caltech101": "data.validation_share=0.2"}


class Bench:
    """One data set and seed: anchor, supernet, searches, and every student trained for them."""

    def __init__(self, data: str, seed: int, options: argparse.Namespace) -> None:
        self.data, self.seed, self.options = data, seed, options
        self.folder = results.WORK / "search" / f"{data}-{options.scale}"

    @cached_property
    def anchor(self) -> str:
        """The folder of the anchor, shared by all seeds."""
        scale = self.options.scale
        recipe = (*COMMON[scale], *OF_DATA[self.data][scale], VALIDATION[self.data])
        return sharing.anchor(self.folder, self.data, self.options, recipe)

    @cached_property
    def search(self) -> Search:
        """Without a budget: its supernet, scores and validation serve all others."""
        return self._opened("any")

    @property
    def run(self) -> Run:
        return self.search.run

    def prepare(self) -> None:
        """Anchor, its cached embeddings and the supernet, which the processes then only read."""
        self.run.cache_views()
        _ = self.search.supernet

    def _opened(self, name: str, *changes: str) -> Search:
        options, scale = self.options, self.options.scale
        given = [*SPACE, *COMMON[scale], *OF_DATA[self.data][scale], VALIDATION[self.data]]
        given += [f"{part}.fit.device={options.device}" for part in ("anchor", "student", "search")]
        given += [f"data.root={options.root}"] if options.root else []
        given += [f"seed={self.seed}", *changes, f"anchor.source={self.anchor}"]
        return open_search(self.folder / f"seed{self.seed}", resolve(self.data, given), name)

    def winner(self, how: str, ratio: int) -> Family | None:
        """The architecture of a row at a budget; None where its kind has no network so small."""
        macs = self.macs(ratio)
        if how in HANDMADE:
            try:
                return within(HANDMADE[how], macs, self.run.recipe.data.size, self.run.anchor.space.dim)
            except RecipeError:
                return None
        kind = "random" if how == RANDOM else "evolution"
        reward = REWARDS.get(how, "product")
        name = f"{reward if how != RANDOM else 'random'}-{ratio}"
        changes = (
            f"search.budget.macs={int(macs)}",
            f"search.algorithm.kind={kind}",
            f"search.reward.kind={reward}",
        )
        return ElasticConfig.model_validate(self._opened(name, *changes).carry_out().chosen.network)

    def macs(self, ratio: int) -> float:
        anchor = self.run.anchor.cost
        assert anchor is not None
        return anchor.macs / ratio

    def further(self) -> list[Architecture]:
        """Random architectures between the smallest and the largest budget."""
        generator = np.random.default_rng(1000 + self.seed)
        search, found = self.search, list[Architecture]()
        low, high = self.macs(max(RATIOS)), self.macs(min(RATIOS))
        while len(found) < FURTHER:
            each = search.space.sample(generator)
            if low <= search.evaluations.costs(each).macs <= high:
                found.append(each)
        return found

    def cell(self, network: Family) -> Cell:
        """A network trained from scratch, scored on the test classes; each network once."""
        name = _digest(network)
        path = self.folder / f"cells-{self.seed}" / f"{name}.npz"
        if not path.exists():
            search_table.save(path, self._scored(network, name))
        return search_table.load(path)

    def _scored(self, network: Family, name: str) -> Cell:
        student = self.run.recipe.student
        model = self.run.student_by(student.objective, student.fit, f"students/{name}", network)
        query, own = embed(model.encoder, self.run.test.query), embed(model.encoder, self.run.test.gallery)
        gallery = self.run.anchor.embed("test", self.run.test.gallery)
        return Cell(model.cost.macs, _values(query, gallery), _values(query, own))

    def paragon(self) -> Cell:
        path = self.folder / f"cells-{self.seed}" / "paragon.npz"
        if not path.exists():
            query = self.run.anchor.embed("test", self.run.test.query)
            gallery = self.run.anchor.embed("test", self.run.test.gallery)
            values = _values(query, gallery)
            search_table.save(path, Cell(int(self.macs(1)), values, values))
        return search_table.load(path)

    def ranking(self) -> list[dict[str, float]]:
        """Supernet scores beside retrained ones, of every searched and further architecture."""
        search, found = self.search, dict[str, dict[str, float]]()
        for architecture in [*self._searched(), *self.further()]:
            network = search.space.config(architecture)
            (candidate,) = search.evaluations([architecture])
            cell, scores = self.cell(network), candidate.scores
            found[_digest(network)] = {
                "macs": float(cell.macs),
                "R1": scores.symmetric,
                "R2": scores.asymmetric,
                "R3": scores.symmetric * scores.asymmetric,
                "agreement": scores.agreement,
                "retrained": cell.asymmetric[METRICS[0]].mean,
                "retrained_symmetric": cell.symmetric[METRICS[0]].mean,
            }
        return list(found.values())

    def _searched(self) -> list[Architecture]:
        names = [name for name in (*REWARDS.values(), "random") for _ in RATIOS]
        folders = [f"{name}-{ratio}" for name, ratio in zip(names, RATIOS * (len(REWARDS) + 1), strict=True)]
        results_ = (read_json(self.search.shared / name / "result.json") for name in folders)
        return [self.search.space.parse(each["chosen"]["choices"]) for each in results_]


def _digest(network: Family) -> str:
    import hashlib

    return hashlib.sha256(network.model_dump_json().encode()).hexdigest()[:12]


def _values(query: Embeddings, gallery: Embeddings) -> dict[str, Any]:
    found = evaluate(query, gallery)
    return {metric: found.per_query(metric) for metric in METRICS}


@cache
def _bench(data: str, seed: int, words: tuple[str, ...]) -> Bench:
    """One a process, so that images are read once."""
    return Bench(data, seed, _options(words))


def _prepare(data: str, seed: int, words: tuple[str, ...]) -> None:
    _bench(data, seed, words).prepare()


def _row(data: str, seed: int, words: tuple[str, ...], how: str, ratio: int) -> None:
    bench = _bench(data, seed, words)
    network = bench.winner(how, ratio)
    if network is not None:
        bench.cell(network)


def _further(data: str, seed: int, words: tuple[str, ...], index: int) -> None:
    bench = _bench(data, seed, words)
    bench.cell(bench.search.space.config(bench.further()[index]))


def carry_out(options: argparse.Namespace, words: tuple[str, ...]) -> None:
    """Everything that takes long, in processes; what they leave is read afterwards."""
    places = [(data, seed, words) for data in options.data for seed in range(options.seeds)]
    for data in options.data:
        _ = _bench(data, 0, words).anchor
    rows = [(how, ratio) for ratio in RATIOS for how in (*REWARDS, RANDOM, *HANDMADE)]
    _in_processes(options, [(_prepare, place) for place in places], "supernets")
    # One process writes the scores of a run: its searches come one after another, then the trainings.
    _in_processes(options, [(_searches, place) for place in places], "searches")
    tasks: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
        (_row, (*place, how, ratio)) for how, ratio in rows for place in places
    ]
    tasks += [(_further, (*place, index)) for index in range(FURTHER) for place in places]
    _in_processes(options, tasks, "students")


def _searches(data: str, seed: int, words: tuple[str, ...]) -> None:
    bench = _bench(data, seed, words)
    for ratio in RATIOS:
        for how in (*REWARDS, RANDOM):
            bench.winner(how, ratio)


def _in_processes(
    options: argparse.Namespace, tasks: Sequence[tuple[Callable[..., None], tuple[Any, ...]]], what: str
) -> None:
    with ProcessPoolExecutor(options.workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        futures = [pool.submit(task, *arguments) for task, arguments in tasks]
        for future in track(as_completed(futures), what, len(futures)):
            future.result()


def main() -> None:
    words = tuple(sys.argv[1:])
    options = _options(words)
    torch.set_num_threads(1)
    carry_out(options, words)
    found: dict[str, Any] = {}
    page = _INTRODUCTION.format(seeds=options.seeds)
    for data in options.data:
        benches = [_bench(data, seed, words) for seed in range(options.seeds)]
        rows = {
            (how, ratio): [bench.cell(n) if (n := bench.winner(how, ratio)) else None for bench in benches]
            for ratio in RATIOS
            for how in (*REWARDS, RANDOM, *HANDMADE)
        }
        ranked = [bench.ranking() for bench in benches]
        paragons = [bench.paragon() for bench in benches]
        page += search_table.section(data, rows, paragons, ranked)
        found[data] = {"rows": search_table.fields(rows, paragons), "ranking": ranked}
    command = f"python benchmarks/search.py --scale {options.scale} --seeds {options.seeds}"
    stamp = results.stamp(command, ", ".join(options.data), 0)
    results.write(_name(options), {"stamp": stamp, "data": found}, page)
    search_table.plot(results.RESULTS / f"{_name(options)}.png", found)
    print(page)


_INTRODUCTION = """# Searching the architecture by cross-model accuracy

Every network is trained alike from scratch, {seeds} seed(s). Percent on test classes with 95 % bootstrap
intervals over seeds and classes. Asymmetric: its queries in the anchor's gallery. The loss is against the
paragon, the anchor on both sides, paired by query. Searched rows were chosen on validation classes.
"""


def _name(options: argparse.Namespace) -> str:
    whole = tuple(options.data) == tuple(OF_DATA) and options.seeds >= 3
    scale = "" if options.scale == "default" else f"-{options.scale}"
    return f"search{scale}{'' if whole else '-part'}"


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = sharing.parser(__doc__, COMMON, OF_DATA)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
