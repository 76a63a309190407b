"""The product in one table: an int8 phone model's queries in the cloud's gallery, by how much less it costs.

For each budget the architecture that CMP-NAS (R3) found in `search.py`, beginning with what other searches
had scored, is trained into the anchor's space (on Omniglot as `limits.py` found best), finished for int8,
exported, and run by ONNX Runtime and LiteRT. The rows have the form of Duggal et al. (CVPR 2021), who
report 80 and 23 times fewer operations within 0.3 and 1.6 % of the paragon. Everything on test classes.
Writes results/headline.{json,md}; continues after a kill.

    python benchmarks/search.py --root DATA      first: it leaves the anchor and the architectures
    python benchmarks/headline.py --root DATA
    python benchmarks/headline.py --root DATA --scale full --device cuda
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import results
import search_bench
import search_recipes
import sharing
from hetero.models.encoder import RuntimeEncoder, embed
from hetero.progress import track
from hetero.recipes.resolve import resolve
from hetero.report import wording
from hetero.retrieval import MAP, RECALL_AT_1, Estimate, Evaluation, bootstrap, evaluate, paired_difference
from hetero.runs import Run
from hetero_devices.files import read_json, write_json
from hetero_devices.space import Embeddings
from hetero_export.loop import export_run
from search_budgets import RATIOS


@dataclass(frozen=True)
class Row:
    """One query model: M(q, q) and M(q, g) in [0, 1], and the loss against M(g, g), paired by query."""

    query: str
    runtime: str
    macs: int
    ratio: float
    symmetric: Estimate
    asymmetric: Estimate
    precision: Estimate
    loss: Estimate


class Bench:
    """One data set: the anchor and the students at every budget."""

    def __init__(
        self,
        data: str,
        options: argparse.Namespace,
        changes: Sequence[str] | None = None,
        folder: Path = results.WORK / "headline",
    ) -> None:
        """changes: of the recipe of every student, instead of DEPLOYED; they name its network."""
        self.data, self.options, self.changes = data, options, changes
        self.folder = folder / f"{data}-{options.scale}"
        self.searched = search_bench.Bench(data, 0, options)

    @cached_property
    def run(self) -> Run:
        return self.searched.run

    @cached_property
    def gallery(self) -> Embeddings:
        return self.run.anchor.embed("test", self.run.test.gallery)

    @cached_property
    def paragon(self) -> Evaluation:
        return evaluate(self.run.anchor.embed("test", self.run.test.query), self.gallery)

    def student(self, ratio: int) -> Run:
        """The run of a budget: the architecture found for it, a longer training, finished for int8."""
        scale, options = self.options.scale, self.options
        given = [*search_recipes.COMMON[scale], *search_recipes.OF_DATA[self.data][scale]]
        given += [search_recipes.VALIDATION[self.data], *sharing.given(options, ["student"])]
        given += [
            "student.quantised={}" if scale != "trial" else "student.quantised=null",
            "export.precisions=[fp32,int8]",
            f"anchor.source={self.searched.anchor}",
            *(self._deployed(ratio) if self.changes is None else self.changes),
        ]
        run = Run.open(self.folder / f"{ratio}x", resolve(self.data, given))
        sharing.share_views(self.run, run.folder)
        return run

    def _deployed(self, ratio: int) -> list[str]:
        """What the search found last, when it knew what the others had scored, and how it is trained."""
        search = self.searched.search.shared / f"shared-{ratio}"
        found = search_recipes.filled(search_recipes.DEPLOYED[self.options.scale][self.data], search)
        return [f"student.network={search / 'architecture.json'}", *found]

    def rows(self, ratio: int) -> list[Row]:
        """The budget's int8 artefacts, scored; done once."""
        path = self.folder / f"{ratio}x-rows.json"
        if not path.exists():
            write_json(path, [asdict(row) for row in self._scored(ratio)])
        return [_row(fields) for fields in read_json(path)]

    def _scored(self, ratio: int) -> list[Row]:
        run = self.student(ratio)
        bundle, cost, anchor = export_run(run), run.student.cost, self.run.anchor.cost
        assert anchor is not None
        found = []
        for model in bundle.manifest.models:
            encoder = RuntimeEncoder(bundle.path(model), run.anchor.space, run.preprocessing)
            query, own = embed(encoder, run.test.query), embed(encoder, run.test.gallery)
            name = f"{ratio}×, {model.precision}"
            found.append(self._row(name, model.format, cost.macs, anchor.macs / cost.macs, query, own))
        return found

    def _row(
        self, name: str, runtime: str, macs: int, ratio: float, query: Embeddings, own: Embeddings
    ) -> Row:
        crossed, alone = evaluate(query, self.gallery), evaluate(query, own)
        recall, best = crossed.per_query(RECALL_AT_1), self.paragon.per_query(RECALL_AT_1)
        return Row(
            query=name,
            runtime=runtime,
            macs=macs,
            ratio=ratio,
            symmetric=_mean(alone, RECALL_AT_1),
            asymmetric=_mean(crossed, RECALL_AT_1),
            precision=_mean(crossed, MAP),
            loss=paired_difference(recall, best, clusters=recall.labels).difference,
        )


def _mean(found: Evaluation, metric: str) -> Estimate:
    values = found.per_query(metric)
    return bootstrap(values.values, clusters=values.labels)


def _row(fields: dict[str, Any]) -> Row:
    estimates = ("symmetric", "asymmetric", "precision", "loss")
    parsed: dict[str, Any] = {k: Estimate(**v) if k in estimates else v for k, v in fields.items()}
    return Row(**parsed)


_HEAD = (
    "| query model | runtime | query MACs | fewer than the anchor | symmetric R@1 | asymmetric R@1 "
    "| asymmetric mAP | R@1 against the paragon, points |\n|---|---|---|---|---|---|---|---|"
)


def table(rows: Sequence[Row]) -> list[str]:
    """Its lines, without the paragon."""
    return [_HEAD, *map(_line, rows)]


def section(bench: Bench, rows: Sequence[Row]) -> str:
    """One data set's table, the paragon first."""
    anchor = bench.run.anchor.cost
    assert anchor is not None
    best, precision = (results.percent(_mean(bench.paragon, metric)) for metric in (RECALL_AT_1, MAP))
    scores = f"{best} | {best} | {precision}"
    first = f"| anchor (paragon) | torch | {wording.count(anchor.macs)} | 1.0 | {scores} | – |"
    return "\n".join([f"\n## {bench.data}\n", _HEAD, first, *map(_line, rows)]) + "\n"


def _line(row: Row) -> str:
    scores = " | ".join(map(results.percent, (row.symmetric, row.asymmetric, row.precision)))
    loss = results.signed(row.loss)
    macs = wording.count(row.macs)
    return f"| {row.query} | {row.runtime} | {macs} | {row.ratio:.1f} | {scores} | {loss} |"


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    page, found = _INTRODUCTION, dict[str, Any]()
    for data in options.data:
        bench = Bench(data, options)
        rows = [row for ratio in track(RATIOS, data) for row in bench.rows(ratio)]
        page += section(bench, rows)
        found[data] = [asdict(row) for row in rows]
    command = f"python benchmarks/headline.py --scale {options.scale} --data {' '.join(options.data)}"
    stamp = results.stamp(command, ", ".join(options.data), 0)
    scale = "" if options.scale == "default" else f"-{options.scale}"
    part = "" if tuple(options.data) == tuple(search_recipes.OF_DATA) else "-part"
    name = f"headline{scale}{part}"
    results.write(name, {"stamp": stamp, "data": found}, page)
    print(page)


_INTRODUCTION = """# A phone's int8 queries in the cloud's gallery

The architecture that CMP-NAS found for each budget, trained into the anchor's space, finished for int8 and
run as the exported file. Percent on test classes with 95 % bootstrap intervals over classes; one seed.
"""


def _options() -> argparse.Namespace:
    parser = sharing.parser(__doc__, search_recipes.DEPLOYED, search_recipes.OF_DATA)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
