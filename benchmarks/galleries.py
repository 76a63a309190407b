"""Compressed galleries searched by the float student and by the exported int8 student.

The run and the searches are those of gates.py (see gates_data.py). Codecs that learn do so from the gallery
owner's vectors of training images. Writes results/galleries.{json,md}.

    python benchmarks/galleries.py      after gates.py: two minutes on one core
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import gates_data
import results
from gates_data import Task
from hetero.models.encoder import Encoder, embed
from hetero.models.opening import open_encoder
from hetero.report import GalleryRow
from hetero.retrieval import Evaluation, evaluate
from hetero.retrieval.codecs import Codec, codec, compress, decoded
from hetero.retrieval.codecs.scalar import unit
from hetero.runs.galleries import gallery_row
from hetero_export.loop import export_run

Vectors = npt.NDArray[np.float32]

NAMES = ("float16", "int8", "binary", "pq32", "pq16")
TRAINING = 4_096  # images
QUERIES = 1_000  # at most


@dataclass(frozen=True)
class PerDimension:
    """int8 with a scale for each dimension, learnt: what the codec `int8` was chosen over."""

    scales: Vectors
    name: str = "int8 per dimension"
    code_dtype: type[Any] = np.int8

    @property
    def dim(self) -> int:
        return len(self.scales)

    @property
    def code_length(self) -> int:
        return self.dim

    def encode(self, vectors: Vectors) -> npt.NDArray[Any]:
        codes: npt.NDArray[Any] = np.clip(np.rint(vectors / self.scales), -127, 127).astype(np.int8)
        return codes

    def decode(self, codes: npt.NDArray[Any]) -> Vectors:
        return unit(codes * self.scales)

    def tables(self) -> Mapping[str, Vectors]:
        return {"scales": self.scales}


@dataclass(frozen=True)
class Row:
    search: str
    found: GalleryRow


def main() -> None:
    run = gates_data.trained()
    anchor, student = run.anchor.encoder, run.student.encoder
    assert anchor is not None  # it was trained here
    phone = open_encoder(export_run(run).root, "tflite", "int8")
    images = run.splits.train
    sample = images.select(np.linspace(0, len(images) - 1, TRAINING).astype(np.int64))
    rows: list[Row] = []
    for task in gates_data.tasks(run):
        owner = student if "student" in task.name else anchor
        queries = {"student float32": student, "student LiteRT int8": phone}
        rows += _rows(task, queries, embed(owner, sample).vectors)
    page = table(rows)
    print(page)
    stamp = results.stamp("python benchmarks/galleries.py", gates_data.DATA, run.recipe.seed)
    results.write("galleries", {"stamp": stamp, "rows": [asdict(row) for row in rows]}, page)


def table(rows: list[Row]) -> str:
    lines = [
        "# Compressed galleries",
        "",
        f"128-d vectors, 512 bytes in float32; at most {QUERIES} queries. Differences: compressed minus "
        "float32 gallery, same queries, in points, with 95 % intervals over classes (of `copies`: over "
        "pictures).",
        "",
        "| search | query | gallery | bytes | Recall@1 % | Δ Recall@1 | Δ mAP |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        found = row.found
        changes = " | ".join(map(results.signed, (found.recall_delta, found.map_delta)))
        lines.append(
            f"| {row.search} | {found.query} | {found.codec} | {found.bytes_per_vector} "
            f"| {100 * found.recall.value:.2f} | {changes} |"
        )
    return "\n".join(lines) + "\n"


def _rows(task: Task, queries: Mapping[str, Encoder], training: Vectors) -> Iterator[Row]:
    count = len(task.query)
    asked = task.query.select(np.linspace(0, count - 1, min(QUERIES, count)).astype(np.int64))
    sides = {name: embed(encoder, asked) for name, encoder in queries.items()}
    plain: dict[str, Evaluation] = {name: evaluate(side, task.gallery) for name, side in sides.items()}
    for by in _codecs(task.gallery.space.dim, lambda: training):
        compressed = compress(task.gallery, by)
        gallery = decoded(compressed)
        for name, side in sides.items():
            yield Row(task.name, gallery_row(compressed, name, evaluate(side, gallery), plain[name]))


def _codecs(dim: int, training: Callable[[], Vectors]) -> Iterator[Codec]:
    for name in NAMES:
        yield codec(name, dim, training)
    yield PerDimension(np.abs(training()).max(axis=0) / np.float32(127))


if __name__ == "__main__":
    main()
