"""Does searching the architecture by cross-model accuracy pay? CMP-NAS against plain search, chance and hand.

Omniglot and Caltech-101. One supernet a seed is trained towards the anchor; for budgets of 20 to 160 times
fewer multiply-accumulates than the anchor's, and for two of int8 time on this machine by a table of measured
blocks, evolution maximises R1 (symmetric: plain architecture search), R2 (asymmetric) or R3 (their product)
on validation classes, and random search looks at as many candidates. A last search for R3 looks at as many
new ones, and begins with what the others scored, as searches do by default. Every winner, and MobileNetV2,
MobileNetV3, ShuffleNetV2 and the presets' family scaled to the budget, is trained alike from scratch; test
classes are scored once, for some rows by the exported int8 file too. Further random architectures say how
well each reward ranks. Writes results/search.{json,md,png}. Killed at any moment, the same command continues.

    python benchmarks/search.py --root DATA --data omniglot       up to two hours on two cores
    python benchmarks/search.py --root DATA --data caltech101     as long
    python benchmarks/search.py --root DATA                       both, in one page
    python benchmarks/search.py --root DATA --data omniglot --seeds 1 --untimed
    python benchmarks/search.py --root DATA --scale full --device cuda
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

import results
import search_table
import sharing
from search_bench import FURTHER, Bench
from search_budgets import EXPORTED, SEARCHED, SHARED, Budget
from search_recipes import COMMON, OF_DATA
from search_students import Students
from search_table import Part
from search_timing import Time


@cache
def _bench(data: str, seed: int, words: tuple[str, ...]) -> Bench:
    """One a process, so that images are read once."""
    return Bench(data, seed, _options(words))


@cache
def _students(data: str, seed: int, words: tuple[str, ...]) -> Students:
    return Students(_bench(data, seed, words))


def _prepare(data: str, seed: int, words: tuple[str, ...]) -> None:
    _bench(data, seed, words).prepare()


def _row(data: str, seed: int, words: tuple[str, ...], how: str, budget: Budget) -> None:
    network, students = _bench(data, seed, words).winner(how, budget), _students(data, seed, words)
    if network is not None:
        students.cell(network)
        if how in EXPORTED:
            students.int8(network)


def _further(data: str, seed: int, words: tuple[str, ...], index: int) -> None:
    bench = _bench(data, seed, words)
    _students(data, seed, words).cell(bench.search.space.config(bench.further()[index]))


def carry_out(options: argparse.Namespace, words: tuple[str, ...]) -> None:
    """Everything that takes long, in processes; what they leave is read afterwards."""
    places = [(data, seed, words) for data in options.data for seed in range(options.seeds)]
    for data in options.data:
        _ = _bench(data, 0, words).anchor if options.untimed else _bench(data, 0, words).timing
    sharing.side_by_side([(_prepare, place) for place in places], options, "supernets")
    # One process writes the scores of a run: its searches come one after another, then the trainings.
    sharing.side_by_side([(_searches, place) for place in places], options, "searches")
    for place in places:
        _times(_bench(*place))  # before anything else makes the machine busy
    tasks: list[sharing.Task] = [
        (_row, (*place, how, budget)) for place in places for how, budget in _bench(*place).rows
    ]
    tasks += [(_further, (*place, index)) for place in places for index in range(FURTHER[place[0]])]
    sharing.side_by_side(tasks, options, "students")


def _searches(data: str, seed: int, words: tuple[str, ...]) -> None:
    bench = _bench(data, seed, words)
    for how, budget in sorted(bench.rows, key=_turn):
        if how in SEARCHED:
            bench.winner(how, budget)


def _turn(row: tuple[str, Budget]) -> int:
    """Those that know what others scored come after them, and know the same with and without `--untimed`."""
    how, budget = row
    return 2 if budget.timed else int(how == SHARED)


def _times(bench: Bench) -> dict[tuple[str, Budget], Time]:
    """Of the rows whose time is limited."""
    return {(how, budget): bench.time(how, budget) for how, budget in bench.rows if budget.timed}


def main() -> None:
    words = tuple(sys.argv[1:])
    options = _options(words)
    torch.set_num_threads(1)
    carry_out(options, words)
    found: dict[str, Any] = {}
    page = _INTRODUCTION.format(seeds=options.seeds)
    for data in options.data:
        part = _part([_students(data, seed, words) for seed in range(options.seeds)])
        page += search_table.section(data, part)
        found[data] = part.to_json()
    command = f"python benchmarks/search.py --scale {options.scale} --seeds {options.seeds}"
    command += f" --data {' '.join(options.data)}{' --untimed' if options.untimed else ''}"
    stamp = results.stamp(command, ", ".join(options.data), 0)
    results.write(_name(options), {"stamp": stamp, "data": found}, page)
    search_table.plot(results.RESULTS / f"{_name(options)}.png", found)
    print(page)


def _part(seeds: Sequence[Students]) -> Part:
    """One data set's results, of all seeds."""
    benches = [each.bench for each in seeds]
    cells, exported = {}, {}
    for how, budget in benches[0].rows:
        networks = [bench.winner(how, budget) for bench in benches]
        pairs = list(zip(seeds, networks, strict=True))
        key = (how, budget)
        cells[key] = [students.cell(network) if network else None for students, network in pairs]
        if how in EXPORTED:
            exported[key] = [students.int8(network) if network else None for students, network in pairs]
    return Part(
        cells,
        exported,
        [_times(bench) for bench in benches],
        [each.paragon() for each in seeds],
        [each.ranking() for each in seeds],
        [each.cost() for each in seeds],
    )


_INTRODUCTION = """# Searching the architecture by cross-model accuracy

Every network is trained alike from scratch, {seeds} seed(s). Percent on test classes with 95 % bootstrap
intervals over seeds and classes. Asymmetric: its queries in the anchor's gallery. The loss is against the
paragon, the anchor on both sides, paired by query. Searched rows were chosen on validation classes.
"""


def _name(options: argparse.Namespace) -> str:
    whole = tuple(options.data) == tuple(OF_DATA) and options.seeds >= 3 and not options.untimed
    return results.named("search", options, whole)


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = sharing.parser(__doc__, COMMON, OF_DATA)
    sharing.trainings(parser)
    parser.add_argument("--untimed", action="store_true", help="without the two budgets of int8 time")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
