"""LQF, its ablations and its baselines: how well is a pre-trained network adapted from a few images?

Omniglot, CIFAR-100 (32 px) and Caltech-101 (48 px): a network is trained on some of the classes and adapted
to others, from 1, 2, 5, 10, 20 images of each and from all. Every method has the same network, the same
ridge head to start from, the same epochs and a grid of five rates; seed 0 chooses its rate on validation
images, the other seeds draw other shots and keep it, or where it diverges take a smaller one, and only then
are the test images looked at. LeakyReLU is trained into the same network by regression to its own embeddings.
Writes results/lqf*.{json,md,png}. Each training is a folder in work/: killed, the same command continues.

    python benchmarks/lqf.py --root DATA                            two cores, under two hours
    python benchmarks/lqf.py --root DATA --data omniglot --seeds 1 --workers 1
    python benchmarks/lqf.py --root DATA --scale full --device cuda
    python benchmarks/lqf.py --root DATA --scale trial              a few steps: does it run?
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

import results
import sharing
from hetero.linear.classifier import pixels_of
from hetero.linear.fitting import saved_bytes
from hetero.linear.methods import METHODS
from hetero.linear.task import Shots
from lqf_cells import PRETRAINING, TASK, Bench
from lqf_plot import plot
from lqf_table import Cell, accuracy_table, against_table, fields, training_table

Words = tuple[str, ...]
SHOTS: tuple[Shots, ...] = (1, 2, 5, 10, 20, "all")


@cache
def _bench(data: str, words: Words) -> Bench:
    """One a process and data set, so that images are read once."""
    return Bench(data, _options(words))


def _one(data: str, name: str, shots: Shots, seed: int, words: Words) -> None:
    _bench(data, words).outcome(name, shots, seed)


def shots_of(bench: Bench, options: argparse.Namespace) -> list[Shots]:
    """Those that the data set has images for."""
    return [shots for shots in options.shots if bench.possible(shots)]


def train_all(options: argparse.Namespace, words: Words) -> None:
    """Networks first, then every method, dearest last; other seeds follow the first, which chooses rates."""
    for data in options.data:
        bench = _bench(data, words)
        print(f"{data}: {bench.cost}", flush=True)
        _ = bench.source
        numbers = shots_of(bench, options)
        print(_estimate(bench, numbers, options), flush=True)
        for seeds in ([0], range(1, options.seeds)):
            tasks: list[sharing.Task] = [
                (_one, (data, name, shots, seed, words))
                for shots in numbers
                for name in options.only
                for seed in seeds
            ]
            sharing.side_by_side(tasks, options, f"{data}, seeds {list(seeds)}")


def _estimate(bench: Bench, numbers: Sequence[Shots], options: argparse.Namespace) -> str:
    """How long it will take, from one step of a network and of its expansion."""
    seconds = 0.0
    steps = {name: step_seconds(bench, name) for name in options.only if METHODS[name].form != "head"}
    for shots in numbers:
        config, images = bench.config(shots, 0), len(bench.adaptation("head", shots, 0).task.train)
        per_rate = config.lesson.epochs * max(1.0, images / config.lesson.batch)
        for name, step in steps.items():
            seconds += step * per_rate * (len(METHODS[name].rates) + options.seeds - 1)
    return f"about {seconds / 60 / options.workers:.0f} minutes, if nothing was done before"


def step_seconds(bench: Bench, name: str, count: int = 3) -> float:
    """One pass forward and back over a batch, the fastest of a few."""
    model, pixels = _example(bench, name)
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        model(pixels).square().sum().backward()
        found.append(time.perf_counter() - begun)
    return min(found)


def memory_ratios(bench: Bench, names: Sequence[str]) -> dict[str, float]:
    """What a pass keeps for the way back, beside that of non-linear fine-tuning."""
    kept = {name: saved_bytes(*_example(bench, name)) for name in {*names, "finetune"} if name != "head"}
    return {name: size / kept["finetune"] for name, size in kept.items()}


def _example(bench: Bench, name: str) -> tuple[Any, torch.Tensor]:
    adaptation = bench.adaptation("head", 1, 0)
    images = pixels_of(adaptation.task.test)[: adaptation.config.lesson.batch].float()
    return adaptation.model_of(METHODS[name]), images


def section(bench: Bench, options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """One data set's tables and its fields for the JSON; what is on disk is only read."""
    numbers = shots_of(bench, options)
    cells = [
        Cell(name, shots, tuple(bench.outcome(name, shots, seed) for seed in range(options.seeds)))
        for name in options.only
        for shots in numbers
    ]
    memory = memory_ratios(bench, options.only)
    task = bench.adaptation("head", numbers[0], 0).task
    text = f"## {bench.data}\n\n{task.classes} new classes, {len(task.test)} test images; {bench.cost}.\n\n"
    text += accuracy_table(cells, options.only, numbers) + "\n"
    if "lqf" in options.only:
        text += against_table(cells, options.only, numbers, "lqf") + "\n"
    text += training_table(cells, options.only, memory)
    return text, {"cells": fields(cells), "memory": memory}


_INTRODUCTION = """# LQF: linear quadratic fine-tuning

Test accuracy in percent, with 95 % bootstrap intervals over {seeds} seeds, which draw the training images,
and over test images. Rates were chosen on validation images with seed 0, out of five of each method; where
another seed diverges at that rate, it takes the next smaller one.
Every method begins at the same ridge head. Range of rates: neighbouring rates of the grid whose validation
accuracy is within a point of the best, in decades; 0 where only the best is, 1.9 or 2.0 at most. Epochs to
converge: the first from which validation accuracy stays within a point of its last. Time: of one training,
K-FAC's measuring included. Memory: what a pass keeps for the way back. The range, epochs, seconds and ratios
are means over the columns of the first table.
"""


def main() -> None:
    words = tuple(sys.argv[1:])
    options = _options(words)
    begun = time.monotonic()
    train_all(options, words)
    parts = {data: section(_bench(data, words), options) for data in options.data}
    page = "\n".join([_INTRODUCTION.format(seeds=options.seeds), *(text for text, _ in parts.values())])
    stamp = results.stamp(_command(options), ", ".join(options.data), 0)
    found = {data: each for data, (_, each) in parts.items()}
    name = _name(options)
    results.write(name, {"stamp": stamp, "data": found}, page)
    plot(results.RESULTS / f"{name}.png", {data: each["cells"] for data, each in found.items()})
    print(f"{page}\n{(time.monotonic() - begun) / 60:.1f} minutes")


def _command(options: argparse.Namespace) -> str:
    command = f"python benchmarks/lqf.py --scale {options.scale} --seeds {options.seeds}"
    command += f" --data {' '.join(options.data)} --shots {' '.join(map(str, options.shots))}"
    return command if tuple(options.only) == tuple(METHODS) else f"{command} --only {' '.join(options.only)}"


def _name(options: argparse.Namespace) -> str:
    whole = tuple(options.only) == tuple(METHODS) and tuple(options.data) == tuple(TASK)
    return results.named("lqf", options, whole and tuple(options.shots) == SHOTS)


def _shots(text: str) -> Shots:
    return "all" if text == "all" else int(text)


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = sharing.parser(__doc__, PRETRAINING, TASK)
    sharing.trainings(parser, METHODS)
    parser.set_defaults(seeds=5)
    parser.add_argument("--shots", nargs="+", type=_shots, default=list(SHOTS))
    parser.add_argument("--classes", type=int, help="new classes, instead of the scale's number")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
