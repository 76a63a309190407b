"""Retrieval evaluators side by side: time, memory, and whether the answer is right.

1,000 queries against galleries of up to a million 256-d vectors (ten million with --scale 10m). Ours ranks
every relevant row exactly, for mAP and Recall@k over the full list; the others stop at the first 100.
`torch` is what one writes by hand: chunked matrix products, each followed by a top-100. Each evaluator runs
in a process of its own, so its peak memory is its own. The last column is for correctness: random queries,
none of them in the gallery, must score chance. Writes results/evaluator.{json,md}.

    python benchmarks/evaluator.py --scale 1m     10k: seconds; 100k: a minute; 1m: minutes, 2 GB; 10m: 21 GB
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import results
from hetero.retrieval import evaluate
from hetero_devices.space import Embeddings, Space

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

SCALES = {"10k": 10_000, "100k": 100_000, "1m": 1_000_000, "10m": 10_000_000}
DIM, QUERIES, PER_CLASS, TOP = 256, 1_000, 20, 100
NOISE = 2.0  # of a vector around its class: Recall@1 neither 0 nor 1
CHUNK = 2**16
NEEDS = {
    "faiss": "faiss",
    "pytorch-metric-learning": "pytorch_metric_learning",
    "torchmetrics": "torchmetrics",
}


def hetero(query: Embeddings, gallery: Embeddings) -> float:
    """Recall@1, and everything else `evaluate` computes on the way: the whole list, ties settled."""
    return evaluate(query, gallery).means["recall@1"]


def torch_by_hand(query: Embeddings, gallery: Embeddings) -> float:
    return _recall(query, gallery, _torch_top(query.vectors, gallery.vectors))


def faiss_flat(query: Embeddings, gallery: Embeddings) -> float:
    index = import_module("faiss").IndexFlatIP(DIM)
    index.add(np.asarray(gallery.vectors))
    return _recall(query, gallery, index.search(np.asarray(query.vectors), TOP)[1])


def metric_learning(query: Embeddings, gallery: Embeddings) -> float:
    import torch

    library = "pytorch_metric_learning"
    distance = import_module(f"{library}.distances").CosineSimilarity()
    neighbours = import_module(f"{library}.utils.inference").CustomKNN(distance, batch_size=256)
    calculator = import_module(f"{library}.utils.accuracy_calculator").AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision"),
        k="max_bin_count",
        knn_func=neighbours,
        device=torch.device("cpu"),
    )
    sides = [torch.from_numpy(np.array(x)) for s in (query, gallery) for x in (s.vectors, s.labels)]
    return float(calculator.get_accuracy(*sides)["precision_at_1"])


def torch_metrics(query: Embeddings, gallery: Embeddings) -> float:
    """It only scores lists, so it is given the first 100 rows that torch finds."""
    import torch

    rows = _torch_top(query.vectors, gallery.vectors)
    right = torch.from_numpy(gallery.labels[rows] == query.labels[:, None])
    order = -torch.arange(TOP, dtype=torch.float32).expand(right.shape)
    owners = torch.arange(len(query))[:, None].expand(right.shape)
    retrieval = import_module("torchmetrics.retrieval")
    lists = order.reshape(-1), right.reshape(-1)
    retrieval.RetrievalMAP()(*lists, indexes=owners.reshape(-1))
    return float(retrieval.RetrievalHitRate(top_k=1)(*lists, indexes=owners.reshape(-1)))


EVALUATORS: dict[str, Callable[[Embeddings, Embeddings], float]] = {
    "torch, by hand": torch_by_hand,
    "hetero": hetero,
    "faiss": faiss_flat,
    "pytorch-metric-learning": metric_learning,
    "torchmetrics": torch_metrics,
}


def main() -> None:
    options = _options()
    if options.measure:
        print(json.dumps(measure(options.measure, Path(options.data), options.threads, options.repeat)))
        return
    sizes = [name for name in SCALES if SCALES[name] <= SCALES[options.scale]]
    rows = [row for size in sizes for row in _at_size(size, options)]
    command = f"python benchmarks/evaluator.py --scale {options.scale} --threads {options.threads}"
    page = table(rows, options.threads)
    print(page)
    if not options.dry_run:
        stamp = results.stamp(command, "generated: classes of 20 around random centres", options.seed)
        results.write("evaluator", {"stamp": stamp, "rows": rows}, page)


def measure(name: str, data: Path, threads: int, repeat: int) -> dict[str, Any]:
    """Best of `repeat` runs in this process; the vectors are memory-mapped files. Seconds and MB (10^6)."""
    import torch

    torch.set_num_threads(threads)
    query, gallery, random = (Embeddings.load(data / part) for part in ("query", "gallery", "random"))
    np.asarray(gallery.vectors).sum()  # the file is in memory before any clock starts
    walls: list[float] = []
    processor: list[float] = []
    before, recall = _peak(), 0.0
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        recall = EVALUATORS[name](query, gallery)
        walls.append(time.perf_counter() - wall)
        processor.append(time.process_time() - cpu)
    peak = _peak() - before
    chance = EVALUATORS[name](random, gallery)
    return {"wall": min(walls), "cpu": min(processor), "mb": peak, "recall": recall, "chance": chance}


def table(rows: list[dict[str, Any]], threads: int) -> str:
    lines = [
        "# Evaluators",
        "",
        f"{QUERIES} queries, {DIM}-d, {threads} thread(s), best run. MB: how far the peak rises above the "
        "memory that holds the gallery. "
        f"Last column: random queries; chance is {PER_CLASS} in the gallery's size.",
        "",
        "| gallery | evaluator | seconds | CPU s | times torch | MB | Recall@1 | Recall@1, random |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "missing" in row:
            lines.append(f"| {row['size']} | {row['name']} | {row['missing']} | | | | | |")
            continue
        ratio = row["wall"] / next(r["wall"] for r in rows if r["size"] == row["size"] and "wall" in r)
        lines.append(
            f"| {row['size']} | {row['name']} | {row['wall']:.2f} | {row['cpu']:.2f} | {ratio:.2f} "
            f"| {row['mb']:.0f} | {100 * row['recall']:.2f} % | {100 * row['chance']:.2f} % |"
        )
    return "\n".join(lines) + "\n"


def _at_size(size: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        _write_data(Path(folder), SCALES[size], options.seed)
        return [{"size": size, "name": name} | _apart(name, folder, options) for name in EVALUATORS]


def _apart(name: str, folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure in a process of its own."""
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        return {"missing": "not installed"}
    command = [sys.executable, __file__, "--measure", name, "--data", folder]
    command += ["--threads", str(options.threads), "--repeat", str(options.repeat)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {
            "missing": f"failed: {done.stderr.strip().splitlines()[-1] if done.stderr else done.returncode}"
        }
    fields: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return fields


def _write_data(folder: Path, count: int, seed: int) -> None:
    """Gallery and queries of the same classes, and queries at random; the gallery is written in parts."""
    space = Space("0" * 16, DIM)
    classes = count // PER_CLASS
    centres = _unit(np.random.default_rng([seed, 0]).standard_normal((classes, DIM), np.float32))
    labels = np.random.default_rng([seed, 1]).permutation(np.arange(count) % classes)
    small = Embeddings(np.empty((0, DIM), np.float32), labels[:0], labels[:0], space)
    small.save(folder / "gallery")
    np.save(folder / "gallery" / "ids.npy", np.arange(count))
    np.save(folder / "gallery" / "labels.npy", labels)
    vectors = np.lib.format.open_memmap(
        folder / "gallery" / "vectors.npy", mode="w+", dtype=np.float32, shape=(count, DIM)
    )
    for start in range(0, count, CHUNK):
        part = labels[start : start + CHUNK]
        vectors[start : start + CHUNK] = _noisy(centres[part], [seed, 2, start])
    vectors.flush()
    asked = np.random.default_rng([seed, 3]).integers(0, classes, QUERIES)
    ids = np.arange(10**9, 10**9 + QUERIES)
    Embeddings(_noisy(centres[asked], [seed, 4]), ids, asked, space).save(folder / "query")
    noise = np.random.default_rng([seed, 5]).standard_normal((QUERIES, DIM), np.float32)
    Embeddings(_unit(noise), ids, asked, space).save(folder / "random")


def _noisy(centres: Floats, seed: list[int]) -> Floats:
    noise = np.random.default_rng(seed).standard_normal(centres.shape, np.float32)
    return _unit(centres + np.float32(NOISE / DIM**0.5) * noise)


def _unit(vectors: Floats) -> Floats:
    lengths: Floats = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths


def _torch_top(query: Floats, gallery: Floats) -> Rows:
    """The first TOP rows by chunked products, merged after each: what everybody writes."""
    import torch

    queries = torch.from_numpy(np.array(query))
    scores, rows = torch.empty(len(query), 0), torch.empty(len(query), 0, dtype=torch.int64)
    for start in range(0, len(gallery), CHUNK):
        part = torch.from_numpy(np.asarray(gallery[start : start + CHUNK]))
        found = (queries @ part.T).topk(min(TOP, len(part)), dim=1)
        merged = torch.cat([scores, found.values], 1)
        places = torch.cat([rows, found.indices + start], 1)
        best = merged.topk(min(TOP, merged.shape[1]), dim=1)
        scores, rows = best.values, places.gather(1, best.indices)
    return rows.numpy()


def _recall(query: Embeddings, gallery: Embeddings, rows: Rows) -> float:
    return float((gallery.labels[rows[:, 0]] == query.labels).mean())


def _peak() -> float:
    """Highest resident memory of this process so far, in MB."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+)", status)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="100k")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder for the generated vectors; default: temporary")
    parser.add_argument("--dry-run", action="store_true", help="print the table, write no results")
    parser.add_argument("--measure", choices=EVALUATORS, help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
