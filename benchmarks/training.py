"""What compatible training costs: images a second against plain classification, with cached and live anchor.

The same student network and batch, three ways: by labels alone, against the anchor's cached embeddings, and
with the anchor running in the loop. Each round trains all three for a few epochs of the embedded glyphs, so
that every cached view is seen; the first logged interval of a training is left out. View 0 is the image
itself, so cached training augments one epoch in two here, which is why it may be faster than labels alone.
Speed does not depend on how well the anchor is trained, so it is trained for one step. Caching itself is
timed apart: it is paid once. Writes results/training.{json,md}.

    python benchmarks/training.py                          a quarter of an hour on two cores
    python benchmarks/training.py --scale full --device cuda     larger networks and batch
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

import results
from hetero.recipes.resolve import resolve
from hetero.retrieval.seeds import t_interval
from hetero.runs import Run

SCALES = {
    "default": ("anchor.network=residual-m", "student.network=elastic-m", "student.fit.steps=161"),
    "full": (
        "anchor.network=residual-l",
        "student.network=elastic-l",
        "student.fit.steps=2001",
        "student.fit.batch=512",
        "student.fit.precision=bf16",
    ),
    "trial": ("anchor.network=residual-s", "student.network=elastic-xs", "student.fit.steps=41"),
}
VIEWS = 2

PLAIN, CACHED, LIVE = "labels alone", "cached anchor", "live anchor"


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        fields = measure(Path(folder), options)
    page = table(fields, options)
    print(page)
    command = f"python benchmarks/training.py --scale {options.scale} --threads {options.threads}"
    stamp = results.stamp(f"{command} --rounds {options.rounds}", "embedded glyphs", 0)
    if options.scale != "trial":
        results.write("training", {"stamp": stamp, **fields}, page)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Images a second of each way, by round; seconds that caching took; images, views."""
    first = _run(folder / "anchor", options, "anchor.fit.steps=1")
    anchor = f"anchor.source={first.folder / 'anchor'}"
    _ = first.anchor
    begin = time.perf_counter()
    first.cache_views()
    caching = time.perf_counter() - begin
    rates: dict[str, list[float]] = {PLAIN: [], CACHED: [], LIVE: []}
    for number in range(options.rounds):
        order = list(rates)[number % 3 :] + list(rates)[: number % 3]  # nobody always comes first
        for way in order:
            views = 0 if way == LIVE else VIEWS
            run = _run(folder / f"{number}-{way}", options, anchor, f"student.views={views}")
            rates[way].append(_rate(run, way))
    return {
        "images_per_second": rates,
        "caching_seconds": caching,
        "cached": len(first.items) * VIEWS,
        "batch": first.recipe.student.fit.batch,
    }


def _run(folder: Path, options: argparse.Namespace, *changes: str) -> Run:
    devices = [f"{part}.fit.device={options.device}" for part in ("anchor", "student")]
    changed = [*SCALES[options.scale], *devices, f"student.views={VIEWS}", *changes]
    return Run.open(folder, resolve("demo", changed))


def _rate(run: Run, way: str) -> float:
    """Images a second of the median logged interval."""
    _ = run.alone if way == PLAIN else run.student
    log = run.folder / ("alone" if way == PLAIN else "student") / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()][1:]
    seconds = [(b["time"] - a["time"]) / (b["step"] - a["step"]) for a, b in pairwise(lines)]
    return run.recipe.student.fit.batch / float(np.median(seconds))


def table(fields: dict[str, Any], options: argparse.Namespace) -> str:
    rates = {way: np.array(values) for way, values in fields["images_per_second"].items()}
    lines = [
        "# Training speed",
        "",
        f"One student, batches of {fields['batch']}, {options.rounds} rounds in turn, {options.threads} "
        "thread(s). Ratio to training by labels alone, paired by round: mean and 95 % t interval.",
        "",
        "| training | images/s, median round | ratio |",
        "|---|---|---|",
    ]
    for way, values in rates.items():
        ratio = "1" if way == PLAIN else _interval(values / rates[PLAIN])
        lines.append(f"| {way} | {np.median(values):.0f} | {ratio} |")
    gain = _interval(rates[CACHED] / rates[LIVE])
    lines += [
        "",
        f"Cached over live: {gain} times. Caching {fields['cached']} embeddings took "
        f"{fields['caching_seconds']:.0f} s, once.",
    ]
    return "\n".join(lines) + "\n"


def _interval(ratios: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    found = t_interval(ratios)
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="default")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="a torch device")
    parser.add_argument("--work", type=Path, help="folder for the runs; default: temporary")
    return parser.parse_args()


if __name__ == "__main__":
    main()
