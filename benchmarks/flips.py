"""Do upgrades break what worked? Negative flips of classifiers and of retrieval, and what prevents them.

CIFAR-100, 50 -> 100 classes, closed set, as MPT does it: no treatment, PCT-naive, focal distillation, logit
distillation, LDI, ELODI, MPT, weight interpolation and ensembles; flips are counted on test images of the old
classes, since the old model cannot name the others. Omniglot, 15 -> 30 alphabets, retrieval on unseen
alphabets: a focal weight on queries that the old model answers, in regression and in contrast. Settings are
chosen on validation images, with seed 0 and a part of the steps: the fewest flips among those within half a
point of the baseline's error, else the smallest error. Writes results/flips.{json,md}. Killed at any moment,
the same command continues.

    python benchmarks/flips.py --root DATA                              two cores, two hours, small networks
    python benchmarks/flips.py --root DATA --scale full --device cuda --seeds 5 --members 8
    python benchmarks/flips.py --root DATA --scale trial                a few steps: does it run?
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

import results
import sharing
from flips_cells import COMMON, MEMBER, NETWORK, STEPS, Bench, Bits
from flips_data import CIFAR, OMNIGLOT
from flips_grid import BASELINE, CLASSIFIERS, INDEPENDENT, NO_TREATMENT, RETRIEVAL, SHARES, Setting
from flips_table import Row, table, verdict
from hetero.models import store
from hetero.retrieval import PerQuery, negative_flip_bits
from hetero.upgrades.shares import fewest_flips
from hetero_devices.errors import RecipeError

Words = tuple[str, ...]
Task = tuple[str, ...]


@cache
def _bench(data: str, words: Words) -> Bench:
    """One a process and data set, so that images are read once."""
    return Bench(data, _options(words))


def chosen(
    name: str, bench: Bench, grid: dict[str, tuple[Any, ...]], score: Callable[[Setting], tuple[float, float]]
) -> Setting:
    """The setting of fewest flips among those within the tolerated error; score: setting -> (error, nfr)."""
    settings = [Setting(terms) for terms in grid[name]]
    if len(settings) == 1:
        return settings[0]
    baseline = min(score(Setting(terms))[0] for terms in grid[next(iter(grid))])
    scores = [score(setting) for setting in settings]
    return settings[fewest_flips(scores, baseline)]


# Classification


def _classifier_score(bench: Bench, setting: Setting) -> tuple[float, float]:
    new = bench.classified(setting, 0, "validation")["accuracy"]
    old = bench.old_answers("validation", bench.old(), "old")["accuracy"]
    return 1 - new.mean, negative_flip_bits(old, new).mean


def classifier(bench: Bench, name: str) -> tuple[Setting, tuple[Bits, ...]]:
    """The chosen setting, and its answers to the test images by seed."""
    best = chosen(name, bench, CLASSIFIERS, lambda setting: _classifier_score(bench, setting))
    return best, tuple(bench.classified(best, seed, "test") for seed in range(bench.options.seeds))


def interpolation(bench: Bench, fisher: bool) -> tuple[float, tuple[Bits, ...]]:
    """As `classifier`, where the setting is the share of the old weights."""
    old = bench.old_answers("validation", bench.old(), "old")["accuracy"]

    def score(share: float) -> tuple[float, float]:
        new = bench.interpolation(0, share, "validation", fisher)["accuracy"]
        return 1 - new.mean, negative_flip_bits(old, new).mean

    best = SHARES[fewest_flips([score(share) for share in SHARES], score(0.0)[0])]
    return best, tuple(bench.interpolation(seed, best, "test", fisher) for seed in range(bench.options.seeds))


def classifier_rows(bench: Bench) -> list[Row]:
    """Every row of the classification's table; what is on disk is only read."""
    known = set(store.load(bench.old()).classes)
    images = bench.images("test")
    shared = np.array([images.class_names[label] in known for label in images.labels])
    old = bench.old_answers("test", bench.old(), "old")["accuracy"]

    def row(name: str, bits: Sequence[Bits], told: str = "", before: PerQuery = old) -> Row:
        return Row(name, before, tuple(each["accuracy"] for each in bits), shared, told)

    rows, found = [], {}
    for name in CLASSIFIERS:
        setting, bits = found[name] = classifier(bench, name)
        rows.append(row(name, bits, str(setting)))
    taught = bench.old_answers("test", bench.elodi_old(), "old-elodi")["accuracy"]
    rows.append(row("ELODI, both generations", found["ELODI"][1], str(found["ELODI"][0]), taught))
    tuned = [bench.interpolation(seed, 0.0, "test", False) for seed in range(bench.options.seeds)]
    rows.append(row("fine-tuned from the old model", tuned))
    for name, fisher in (("interpolation (BCWI)", False), ("interpolation, Fisher", True)):
        share, bits = interpolation(bench, fisher)
        rows.append(row(name, bits, f"share {share}"))
    rows.append(row(f"ensemble of {bench.options.members}", [bench.ensemble("test")]))
    return rows


# Retrieval


def _retrieval_score(bench: Bench, setting: Setting) -> tuple[float, float]:
    new, old = bench.searched(setting, 0, "validation"), bench.old_search("validation")["old/old"]
    flips = [negative_flip_bits(old, new[pair]).mean for pair in ("new/old", "new/new")]
    return 1 - new["new/new"].mean, float(np.mean(flips))


def searcher(bench: Bench, name: str) -> tuple[Setting, tuple[Bits, ...]]:
    """As `classifier`, of retrieval; flips are the mean of before and after the gallery is re-embedded."""
    best = chosen(name, bench, RETRIEVAL, lambda setting: _retrieval_score(bench, setting))
    return best, tuple(bench.searched(best, seed, "test") for seed in range(bench.options.seeds))


def retrieval_rows(bench: Bench, pair: str) -> list[Row]:
    """Every row of one table; pair: new/old, or new/new once the gallery is re-embedded."""
    old = bench.old_search("test")["old/old"]
    every = np.ones(len(old.values), np.bool_)
    rows = []
    for name in RETRIEVAL:
        setting, bits = searcher(bench, name)
        rows.append(Row(name, old, tuple(each[pair] for each in bits), every, str(setting)))
    if pair == "new/new":
        alone = tuple(bench.searched(None, seed, "test")[pair] for seed in range(bench.options.seeds))
        rows.append(Row(INDEPENDENT, old, alone, every))
    return rows


# Trainings, side by side


def train_all(options: argparse.Namespace, words: Words) -> None:
    """What others learn from first, then every method; the cells are read again afterwards."""
    seeds, members = range(options.seeds), range(options.members)
    for data in options.data:
        bench = _bench(data, words)
        _ = bench.old()
        for seed in seeds:
            bench.run(seed).cache_views()

    def carry_out(tasks: Sequence[Task]) -> None:
        sharing.side_by_side([(_task, (words, *task)) for task in tasks], options, "flips")

    if CIFAR in options.data:
        carry_out([(CIFAR, kind, str(i)) for kind in ("member", "old") for i in members])
        carry_out([(CIFAR, "tuned", str(i)) for i in seeds] + [(CIFAR, "elodi-old", "")])
    carry_out([(data, "baseline", "") for data in options.data])
    tasks = [(CIFAR, "classifier", name) for name in CLASSIFIERS] if CIFAR in options.data else []
    if OMNIGLOT in options.data:
        tasks += [(OMNIGLOT, "searcher", name) for name in RETRIEVAL]
        tasks += [(OMNIGLOT, "alone", str(seed)) for seed in seeds]
    carry_out(tasks)


def _task(words: Words, data: str, kind: str, what: str) -> None:
    bench = _bench(data, words)
    match kind:
        case "member":
            _ = bench.member(int(what))
        case "old":
            _ = bench.old(MEMBER + int(what))
        case "tuned":
            _ = bench.tuned(int(what))
        case "elodi-old":
            _ = bench.elodi_old()
        case "baseline":  # on validation images, which every choice looks at
            grid, score = (CLASSIFIERS, _classifier_score) if data == CIFAR else (RETRIEVAL, _retrieval_score)
            _ = [score(bench, Setting(terms)) for terms in grid[next(iter(grid))]]
        case "classifier":
            _ = classifier(bench, what)
        case "searcher":
            _ = searcher(bench, what)
        case "alone":
            _ = bench.searched(None, int(what), "test")


def sections(options: argparse.Namespace, words: Words) -> tuple[str, dict[str, Any]]:
    """The tables, and their numbers for the JSON."""
    parts: list[tuple[str, str, list[Row], str]] = []
    if CIFAR in options.data:
        note = (
            "Closed set; the new error is over all 100 classes, the old error and flips over test images "
            "of the 50 old ones. Times fewer: flips of no treatment over the method's."
        )
        parts.append(
            ("CIFAR-100, 50 to 100 classes", note, classifier_rows(_bench(CIFAR, words)), NO_TREATMENT)
        )
    if OMNIGLOT in options.data:
        note = "Unseen alphabets, a gallery of one drawer. Error: 1 - Recall@1. Flips from M(old, old) to {}."
        for pair, told in (("new/old", "M(new, old)"), ("new/new", "M(new, new)")):
            rows = retrieval_rows(_bench(OMNIGLOT, words), pair)
            parts.append((f"Omniglot, 15 to 30 alphabets, {pair}", note.format(told), rows, BASELINE))
    page, fields = "", {}
    for title, note, rows, name in parts:
        baseline = next(row for row in rows if row.name == name)
        page += f"\n{table(title, note, rows, baseline)}{verdict(rows, baseline)}"
        fields[title] = {row.name: row.fields(baseline) for row in rows}
    return page, fields


def main() -> None:
    words = tuple(sys.argv[1:])
    options = _options(words)
    torch.set_num_threads(1)
    train_all(options, words)
    page, fields = sections(options, words)
    introduction = _INTRODUCTION.format(
        network=NETWORK[options.scale],
        steps=STEPS.get(options.scale, {}).get(CIFAR, 4),
        seeds=options.seeds,
        members=options.members,
    )
    print(introduction + page)
    command = f"python benchmarks/flips.py --scale {options.scale} --seeds {options.seeds}"
    stamp = results.stamp(f"{command} --members {options.members}", ", ".join(options.data), 0)
    if options.scale != "trial":
        results.write("flips", {"stamp": stamp, **fields}, introduction + page)


_INTRODUCTION = """# Negative flips

Both generations are {network} ({steps} steps on CIFAR-100), so that all trainings fit; published figures are
of ResNet-18. {seeds} seed(s); intervals resample seeds and classes. ELODI's ensembles, MPT's independent
model and the ensemble row are of {members} further trainings.
"""


def _options(words: Words) -> argparse.Namespace:
    parser = sharing.parser(__doc__, COMMON, (CIFAR, OMNIGLOT))
    sharing.trainings(parser)
    parser.add_argument("--members", type=int, default=3, help="of each ensemble")
    options = parser.parse_args(words)
    if options.root is None:
        parser.error("--root is needed: the folder of cifar100.zip and omniglot/")
    if options.anchor:
        raise RecipeError("this benchmark trains its own old models: leave --anchor out")
    return options


if __name__ == "__main__":
    main()
