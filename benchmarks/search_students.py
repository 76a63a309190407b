"""The students of one data set and seed of `search.py`: trained from scratch, scored on the test classes."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import search_table
from hetero.models.build import Family
from hetero.models.encoder import Encoder, RuntimeEncoder, embed
from hetero.models.store import Model
from hetero.recipes.resolve import changed
from hetero.retrieval import evaluate
from hetero.runs import Run
from hetero_devices.errors import ModelError
from hetero_devices.space import Embeddings
from hetero_export.bundle import write_bundle
from hetero_export.choosing import calibration, spread
from search_bench import Bench
from search_budgets import BUDGETS, RATIOS
from search_cost import Cost
from search_recipes import DEPLOYED, filled
from search_table import METRICS, Cell


class Students:
    """Of a bench's networks; each is trained and scored once."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    @property
    def run(self) -> Run:
        return self.bench.run

    @cached_property
    def _cells(self) -> Path:
        return self.bench.folder / f"cells-{self.bench.seed}"

    def cell(self, network: Family) -> Cell:
        """A network trained from scratch into the anchor's space, scored on the test classes."""
        path = self._cells / f"{_digest(network)}.npz"
        if not path.exists():
            model = self._student(network)
            search_table.save(path, self._cell(model.encoder, model.cost.macs))
        return search_table.load(path)

    def _student(self, network: Family) -> Model:
        student = self.run.recipe.student
        return self.run.student_by(student.objective, student.fit, self._folder(network), network)

    def _folder(self, network: Family) -> str:
        return f"students/{_digest(network)}"

    def int8(self, network: Family) -> Cell | None:
        """The network's int8 ONNX file, scored like `cell`; None where the exporter refuses it."""
        path = self._cells / f"{_digest(network)}-int8.npz"
        if not path.exists():
            try:
                search_table.save(path, self._scored_file(self._student(network), path.with_suffix("")))
            except ModelError:
                return None
        return search_table.load(path)

    def _scored_file(self, model: Model, folder: Path) -> Cell:
        run = self.run
        config = run.recipe.export.model_copy(update={"formats": ("onnx",), "precisions": ("int8",)})
        bundle = write_bundle(
            model,
            folder,
            name=run.recipe.name,
            calibration=calibration(run.splits.train, config, self.bench.seed),
            golden=spread(run.splits.train, config.golden),
            formats=config.formats,
            precisions=config.precisions,
            source={},
        )
        file = bundle.path(bundle.manifest.models[0])
        return self._cell(RuntimeEncoder(file, run.anchor.space, run.preprocessing), model.cost.macs)

    def _cell(self, encoder: Encoder, macs: int) -> Cell:
        query, own = embed(encoder, self.run.test.query), embed(encoder, self.run.test.gallery)
        gallery = self.run.anchor.embed("test", self.run.test.gallery)
        return Cell(macs, _values(query, gallery), _values(query, own))

    def paragon(self) -> Cell:
        """The anchor on both sides."""
        path = self._cells / "paragon.npz"
        if not path.exists():
            query = self.run.anchor.embed("test", self.run.test.query)
            gallery = self.run.anchor.embed("test", self.run.test.gallery)
            values = _values(query, gallery)
            search_table.save(path, Cell(int(self.bench.macs(1)), values, values))
        return search_table.load(path)

    def ranking(self) -> list[dict[str, float]]:
        """Supernet scores beside retrained ones, of every searched and further architecture."""
        search, found = self.bench.search, dict[str, dict[str, float]]()
        for architecture in [*self.bench.searched(), *self.bench.further()]:
            network = search.space.config(architecture)
            (candidate,) = search.evaluations([architecture])
            cell, scores = self.cell(network), candidate.scores
            found[_digest(network)] = {
                "macs": float(cell.macs),
                "budget": max((ratio for ratio in RATIOS if cell.macs <= self.bench.macs(ratio)), default=1),
                "R1": scores.symmetric,
                "R2": scores.asymmetric,
                "R3": scores.symmetric * scores.asymmetric,
                "agreement": scores.agreement,
                "retrained": cell.asymmetric[METRICS[0]].mean,
                "retrained_symmetric": cell.symmetric[METRICS[0]].mean,
            }
        return list(found.values())

    def cost(self) -> Cost:
        """Of the search for the largest budget, against the training of the student that it found."""
        network = self.bench.winner("CMP-NAS, R3", BUDGETS[0])
        assert network is not None
        folder, steps = self.run.folder / self._folder(network), self.run.recipe.student.fit.steps
        return Cost.of(self.bench.search, folder, steps, self._deployed_steps)

    @property
    def _deployed_steps(self) -> float:
        """The training of `headline.py`, in steps of the batches here."""
        recipe = self.run.recipe
        deployed = DEPLOYED[self.bench.options.scale][self.bench.data]
        fit = changed(recipe, filled(deployed, self.bench.search.shared)).student.fit
        return fit.steps * fit.batch / recipe.student.fit.batch


def _digest(network: Family) -> str:
    return hashlib.sha256(network.model_dump_json().encode()).hexdigest()[:12]


def _values(query: Embeddings, gallery: Embeddings) -> dict[str, Any]:
    found = evaluate(query, gallery)
    return {metric: found.per_query(metric) for metric in METRICS}
