"""The compatibility matrix: M(q, g) for every query model against every gallery model, on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hetero.retrieval.evaluation import Evaluation, evaluate
from hetero.retrieval.intervals import CONFIDENCE, RESAMPLES, Estimate, bootstrap_columns
from hetero.retrieval.metrics import RECALL_AT_1
from hetero.retrieval.scoring import BLOCK_BYTES
from hetero_devices.errors import DataError, HeteroError
from hetero_devices.space import Embeddings, check_same

Pair = tuple[str, str]


@dataclass(frozen=True)
class Cell:
    """M(q, g) with its interval; skipped: queries without a relevant gallery image, in no mean.

    across_spaces marks a pair that shares no space: shown as the chance level, never as a result.
    """

    estimate: Estimate
    skipped: int
    across_spaces: bool


@dataclass(frozen=True)
class Matrix:
    """cells[i][j] is M(queries[i], galleries[j]); None where dimensions differ: nothing can be computed."""

    metric: str
    queries: tuple[str, ...]
    galleries: tuple[str, ...]
    cells: tuple[tuple[Cell | None, ...], ...]

    def cell(self, query: str, gallery: str) -> Cell | None:
        """The cell of two models by name; DataError names those there are."""
        for side, name, names in (("query", query, self.queries), ("gallery", gallery, self.galleries)):
            if name not in names:
                raise DataError(f"no {side} model {name!r} in the matrix: choose one of {', '.join(names)}")
        return self.cells[self.queries.index(query)][self.galleries.index(gallery)]

    def scores(self) -> npt.NDArray[np.float64]:
        """float64 [queries, galleries]: values without intervals, NaN where a cell is absent."""
        values = [[np.nan if cell is None else cell.estimate.value for cell in row] for row in self.cells]
        return np.array(values, np.float64)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Any) -> Matrix:
        """Undo `to_json`; HeteroError if `fields` is something else."""
        try:
            cells = tuple(tuple(_cell(cell) for cell in row) for row in fields["cells"])
            return cls(fields["metric"], tuple(fields["queries"]), tuple(fields["galleries"]), cells)
        except (KeyError, TypeError) as error:
            raise HeteroError(f"matrix is not understood: {error!r}") from None


@dataclass(frozen=True)
class CrossEvaluation:
    """Every pair of query and gallery model, evaluated once for all metrics; None where dimensions differ."""

    queries: tuple[str, ...]
    galleries: tuple[str, ...]
    evaluations: Mapping[Pair, Evaluation | None]
    across_spaces: frozenset[Pair]

    def __getitem__(self, pair: Pair) -> Evaluation:
        """The evaluation of (query model, gallery model); DataError if it is absent."""
        evaluation = self.evaluations.get(pair)
        if evaluation is None:
            raise DataError(f"{pair[0]!r} was not compared with the gallery of {pair[1]!r}")
        return evaluation

    def matrix(
        self,
        metric: str = RECALL_AT_1,
        *,
        by_class: bool = False,
        resamples: int = RESAMPLES,
        confidence: float = CONFIDENCE,
        seed: int = 0,
    ) -> Matrix:
        """The matrix of one metric. Intervals resample queries, or whole classes when `by_class`."""
        done = {pair: found for pair, found in self.evaluations.items() if found is not None}
        if not done:
            return self._arrange(metric, {})
        columns = np.stack([found.per_query(metric).values for found in done.values()], axis=1)  # [Q, cells]
        clusters = next(iter(done.values())).labels if by_class else None
        estimates = bootstrap_columns(
            columns, clusters=clusters, resamples=resamples, confidence=confidence, seed=seed
        )
        return self._arrange(metric, dict(zip(done, estimates, strict=True)))

    def _arrange(self, metric: str, estimates: Mapping[Pair, Estimate]) -> Matrix:
        def cell(pair: Pair) -> Cell | None:
            if pair not in estimates:
                return None
            return Cell(estimates[pair], self[pair].skipped, pair in self.across_spaces)

        cells = tuple(tuple(cell((q, g)) for g in self.galleries) for q in self.queries)
        return Matrix(metric, self.queries, self.galleries, cells)


def cross_evaluate(
    queries: Mapping[str, Embeddings],
    galleries: Mapping[str, Embeddings],
    *,
    ks: Sequence[int] = (1, 5, 10),
    across_spaces: bool = False,
    block_bytes: int = BLOCK_BYTES,
) -> CrossEvaluation:
    """Evaluate every pair: model name -> embeddings of the query images, and of the gallery images.

    All models must have embedded the same query images and the same gallery images, in one order
    (DataError). Two models of different spaces raise SpaceMismatch, unless `across_spaces` asks to see what
    comparing them gives; their cells are then marked, and absent where the dimensions differ.
    """
    refuse_different_images("query", queries)
    refuse_different_images("gallery", galleries)
    evaluations: dict[Pair, Evaluation | None] = {}
    foreign = set()
    for q, query in queries.items():
        for g, gallery in galleries.items():
            if not across_spaces:
                check_same(query.space, gallery.space, f"query model {q!r}", f"gallery model {g!r}")
            if query.space != gallery.space:
                foreign.add((q, g))
            comparable = query.space.dim == gallery.space.dim
            evaluations[q, g] = (
                evaluate(query, gallery, ks, block_bytes=block_bytes, across_spaces=True)
                if comparable
                else None
            )
    return CrossEvaluation(tuple(queries), tuple(galleries), evaluations, frozenset(foreign))


def compatibility_matrix(
    queries: Mapping[str, Embeddings],
    galleries: Mapping[str, Embeddings],
    metric: str = RECALL_AT_1,
    *,
    across_spaces: bool = False,
    seed: int = 0,
) -> Matrix:
    """The matrix of one metric in one call; `cross_evaluate` serves several metrics from one search."""
    return cross_evaluate(queries, galleries, across_spaces=across_spaces).matrix(metric, seed=seed)


def refuse_different_images(side: str, models: Mapping[str, Embeddings]) -> None:
    """DataError unless all models, by name, embed the same ids and labels in one order, or for no model."""
    if not models:
        raise DataError(f"no {side} models to compare")
    (first, reference), *others = models.items()
    for name, embeddings in others:
        same_ids = np.array_equal(embeddings.ids, reference.ids)
        if not same_ids or not np.array_equal(embeddings.labels, reference.labels):
            raise DataError(
                f"{side} models {first!r} and {name!r} embed different images: embed one list with both"
            )


def _cell(fields: Any) -> Cell | None:
    if fields is None:
        return None
    return Cell(Estimate(**fields["estimate"]), fields["skipped"], fields["across_spaces"])
