"""What keeps the smallest phone model from the paragon? One change at a time, at 80 times fewer operations.

Omniglot. The architecture that CMP-NAS (R3) found in `search.py` for 80 times fewer operations is trained
into the anchor's space as there, for longer; then with one thing changed: longer still, larger batches, more
views, another objective or rate, the supernet's weights, images of lower resolution with wider layers, fewer
and wider blocks, more and narrower ones. Three larger networks in the same training say what size is worth:
those found for 40 and 20 times fewer operations, and the anchor's own architecture. All of it on validation
classes. What helped is then put together, trained four times as long, finished for int8, and the exported
files are scored on test classes, once. Writes results/limits.{json,md}. Killed at any moment, the same
command continues; the anchor and the architectures are those of search.py.

    python benchmarks/search.py --root DATA --data omniglot --seeds 1 --untimed     first
    python benchmarks/limits.py --root DATA
    python benchmarks/limits.py --root DATA --scale full --device cuda
    python benchmarks/limits.py --root DATA --scale trial                           a few steps: does it run?
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import headline
import results
import search_bench
import search_recipes
import search_table
import sharing
from hetero.models.elastic import ElasticConfig, Stage
from hetero.models.encoder import TorchEncoder, embed
from hetero.recipes.resolve import resolve
from hetero.report import wording
from hetero.retrieval import RECALL_AT_1, Estimate, evaluate, paired_difference
from hetero.runs import Run
from hetero.search.cost import BudgetConfig, Pricing
from hetero_devices.files import read_json
from search_table import Cell

DATA, RATIO = "omniglot", 80
STEPS = {"default": 2000, "full": 60000, "trial": 4}
LONGER = 4  # of the last training, times the steps of the comparisons
BASE = "as in search.py, longer"

Alter = Callable[["Bench"], ElasticConfig]
WIDTHS = [round(0.05 * i, 2) for i in range(2, 81)]


@dataclass(frozen=True)
class Change:
    """What differs from the base: the network, keys of the recipe, or how long it is trained.

    what: of changes to the same thing one is taken in the end, of those without a name none.
    """

    what: str = ""
    network: Alter | None = None
    recipe: tuple[str, ...] = ()
    longer: int = 1


def resized(side: int) -> Alter:
    """Images of that side, and layers as wide as the operations then allow."""
    return lambda bench: bench.widest(bench.found(RATIO).model_copy(update={"resolution": side}))


def shallower(bench: Bench) -> ElasticConfig:
    """The first block of every resolution, and layers as wide as the operations then allow."""
    found = bench.found(RATIO)
    kept = tuple(stage for i, stage in enumerate(found.stages) if i == 0 or stage.stride == 2)
    return bench.widest(found.model_copy(update={"stages": kept}))


def deeper(bench: Bench) -> ElasticConfig:
    """One more block at every resolution, and layers as narrow as the operations then ask."""
    found, stages = bench.found(RATIO), list[Stage]()
    for i, stage in enumerate(found.stages):
        stages.append(stage)
        if i + 1 == len(found.stages) or found.stages[i + 1].stride == 2:
            stages.append(stage.model_copy(update={"stride": 1}))
    return bench.widest(found.model_copy(update={"stages": tuple(stages)}))


CHANGES: dict[str, Change] = {
    BASE: Change(),
    "4 times as long": Change(longer=4),
    "batches of 256": Change("batch", recipe=("student.fit.batch=256",)),
    "4 views instead of 2": Change("views", recipe=("student.views=4",)),
    "twice the rate": Change("rate", recipe=("student.fit.rate=4e-3",)),
    "a tenth of the weight decay": Change("decay", recipe=("student.fit.weight_decay=0.002",)),
    "plain regression": Change("objective", recipe=("student.objective=[{term: regression}]",)),
    "csd and regression": Change("objective", recipe=("student.objective=[{term: csd},{term: regression}]",)),
    "csd over 4096 anchor vectors": Change(
        "objective", recipe=("student.objective=[{term: csd, bank: 4096}]",)
    ),
    "the same and regression": Change(
        "objective", recipe=("student.objective=[{term: csd, bank: 4096},{term: regression}]",)
    ),
    "24 pixels, wider": Change("network", resized(24)),
    "16 pixels, wider": Change("network", resized(16)),
    "shallower, wider": Change("network", shallower),
    "deeper, narrower": Change("network", deeper),
    "weights of the supernet": Change("start", recipe=(search_recipes.INHERITED,)),
    "found for 40×": Change(network=lambda bench: bench.found(40)),
    "found for 20×": Change(network=lambda bench: bench.found(20)),
    "the anchor's architecture": Change(recipe=("student.network=residual-m", "student.fit.precision=bf16")),
}


class Bench:
    """The anchor and the architectures of `search.py`, and a run for every change."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder = results.WORK / "limits" / f"{DATA}-{options.scale}"
        self.searched = search_bench.Bench(DATA, 0, options)

    def found(self, ratio: int) -> ElasticConfig:
        """What the search found for a budget."""
        return ElasticConfig.model_validate(read_json(self._search(ratio) / "architecture.json"))

    def widest(self, network: ElasticConfig) -> ElasticConfig:
        """The network with the largest width multiplier that needs no more operations than the base."""
        size = self.searched.run.recipe.data.size
        macs = Pricing(BudgetConfig(), size, None).of(self.found(RATIO)).macs
        pricing = Pricing(BudgetConfig(macs=macs), size, None)
        made = (network.model_copy(update={"width": width}) for width in WIDTHS)
        return [each for each in made if pricing.fits(pricing.of(each))][-1]

    def run(self, name: str, change: Change) -> Run:
        """The student's run of a change; the anchor's views that it shares with the others are copied."""
        folder = self.folder / "changes" / _slug(name)
        run = Run.open(folder, resolve(DATA, [*self.given, *self._changes(change)]))
        sharing.share_views(self.searched.run, folder)
        return run

    @property
    def given(self) -> list[str]:
        """The recipe that all have in common."""
        scale = self.options.scale
        given = [*search_recipes.COMMON[scale], *search_recipes.OF_DATA[DATA][scale]]
        given += [search_recipes.VALIDATION[DATA], *sharing.given(self.options, ["student"])]
        return [*given, f"anchor.source={self.searched.anchor}"]

    def _changes(self, change: Change) -> list[str]:
        network = change.network(self) if change.network else self.found(RATIO)
        found = [f"student.network={network.model_dump_json()}"]
        found += [f"student.fit.steps={STEPS[self.options.scale] * change.longer}"]
        return found + search_recipes.filled(change.recipe, self._search(RATIO))

    def _search(self, ratio: int) -> Path:
        return self.searched.search.shared / f"product-{ratio}"

    def cell(self, name: str) -> Cell:
        """A change's student on validation classes; trained once."""
        path = self.folder / "cells" / f"{_slug(name)}.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            search_table.save(path, self._scored(self.run(name, CHANGES[name])))
        return search_table.load(path)

    def _scored(self, run: Run) -> Cell:
        images, student = sharing.images(run, "validation"), run.student
        encoder = TorchEncoder(student.deploy, run.anchor.space)
        query, own = embed(encoder, images.query), embed(encoder, images.gallery)
        gallery = run.anchor.embed("validation", images.gallery)
        values = (
            {m: evaluate(query, each).per_query(m) for m in search_table.METRICS} for each in (gallery, own)
        )
        return Cell(student.cost.macs, *values)

    def gain(self, name: str) -> Estimate:
        """Of asymmetric Recall@1 over the base, paired by query, over classes."""
        ours, base = (self.cell(each).asymmetric[RECALL_AT_1] for each in (name, BASE))
        return paired_difference(ours, base, clusters=base.labels).difference

    @cached_property
    def together(self) -> tuple[str, ...]:
        """The changes that helped; of those to one and the same thing the best alone."""
        best: dict[str, str] = {}
        for name, change in CHANGES.items():
            gain, rival = self.gain(name).value, best.get(change.what)
            if change.what and gain > 0 and (rival is None or gain > self.gain(rival).value):
                best[change.what] = name
        return tuple(best.values())

    def last(self) -> list[headline.Row]:
        """What helped, long, finished for int8, as `headline.py` scores it."""
        changes = [CHANGES[name] for name in self.together]
        network = next((change.network for change in changes if change.network), None)
        # The supernet's weights fit the network that was found in it, no other.
        fitting = [change for change in changes if network is None or change.what != "start"]
        keys = tuple(key for change in fitting for key in change.recipe)
        whole = self._changes(Change("", network, keys, LONGER))
        return headline.Bench(DATA, self.options, whole, self.folder / "last").rows(RATIO)


def _slug(name: str) -> str:
    """The name as that of a file."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)


def page(bench: Bench) -> tuple[str, dict[str, Any]]:
    """The table of changes, the last student's, and the fields for the JSON."""
    gains = {name: bench.gain(name) for name in CHANGES}
    lines = [_line(name, bench.cell(name), gains[name]) for name in CHANGES]
    rows = bench.last()
    helped = ", ".join(bench.together) or "nothing"
    text = "\n".join([_HEAD, *lines, "", f"Together: {helped}. Test classes:", "", *headline.table(rows)])
    found = {name: {"gain": asdict(gain), "macs": bench.cell(name).macs} for name, gain in gains.items()}
    return text, {"changes": found, "together": bench.together, "last": [asdict(row) for row in rows]}


_HEAD = (
    "| change | MACs | asymmetric R@1 | symmetric R@1 | asymmetric R@1 over the first row, points |\n"
    "|---|---|---|---|---|"
)


def _line(name: str, cell: Cell, gain: Estimate) -> str:
    scores = (wording.percent(side[RECALL_AT_1].mean) for side in (cell.asymmetric, cell.symmetric))
    difference = wording.NONE if name == BASE else results.signed(gain)
    return f"| {name} | {wording.count(cell.macs)} | {' | '.join(scores)} | {difference} |"


def _train(name: str, words: tuple[str, ...]) -> None:
    Bench(_options(words)).cell(name)


def _views(options: argparse.Namespace) -> None:
    """Every view that some change asks for, embedded once."""
    bench = Bench(options)
    bench.run(BASE, CHANGES[BASE]).cache_views()


def main() -> None:
    words = tuple(sys.argv[1:])
    options = _options(words)
    torch.set_num_threads(1)
    _views(options)
    sharing.side_by_side([(_train, (name, words)) for name in CHANGES], options, "changes")
    text, found = page(Bench(options))
    stamp = results.stamp(f"python benchmarks/limits.py --scale {options.scale}", DATA, 0)
    introduction = _INTRODUCTION.format(steps=STEPS[options.scale], last=STEPS[options.scale] * LONGER)
    results.write(results.named("limits", options, True), {"stamp": stamp, **found}, introduction + text)
    print(introduction + text)


_INTRODUCTION = """# What keeps an 80 times smaller model from the paragon

One change at a time, {steps} steps, one seed; percent on validation classes of Omniglot, the gallery is the
anchor's, differences paired by query with 95 % bootstrap intervals over classes, which know nothing of the
training's own chance. What helped is put together in a training of {last} steps.

"""


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = sharing.parser(__doc__, STEPS, [DATA])
    sharing.trainings(parser)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
