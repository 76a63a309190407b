"""The full graph: every version's models and phones as queries, every version's gallery.

Does the new student work against the old gallery, and yesterday's student against the new one? M(q, g): query
model first. A role is what stays the same over versions: the cloud's model, a student in torch, one exported
artefact on one device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal

import numpy as np

from hetero.retrieval import (
    RECALL_AT_1,
    Comparison,
    CrossEvaluation,
    Flips,
    average_accuracy,
    average_compatibility,
    compatibility_tax,
    cross_evaluate,
    evaluate,
    flips,
    gain_or_none,
    paired_difference,
)
from hetero.runs.sides import Sides
from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings, Space

CLOUD = "cloud"
MAX_LOSS = 0.01


@dataclass(frozen=True)
class Row:
    """One query model: its role, its version, and its embeddings of the test queries."""

    role: str
    version: str
    query: Embeddings

    @property
    def name(self) -> str:
        return f"{self.version} {self.role}"


@dataclass(frozen=True)
class Link:
    """A query of one version in the gallery of another, against the search it replaces.

    forward: a newer query in an older gallery, against the old query there: the compatibility criterion
    (Shen et al., CVPR 2020), which holds when the whole interval is above 0. Otherwise an older query in a
    newer gallery, against its own gallery: it works as well when the interval stays above -max_loss.
    nfr is of Recall@1, from the search that is replaced to this one.
    """

    role: str
    query: str
    gallery: str
    forward: bool
    comparison: Comparison
    flips: Flips
    max_loss: float

    @property
    def verdict(self) -> Literal["holds", "fails", "unproven"]:
        difference = self.comparison.difference
        limit = 0.0 if self.forward else -self.max_loss
        if difference.low > limit if self.forward else difference.low >= limit:
            return "holds"
        return "fails" if difference.high < limit else "unproven"


@dataclass(frozen=True)
class Series:
    """One role over all versions. scores: float64 [T, T], M(role of version i, gallery j), Recall@1.

    gain, tax: of each update, newer version -> value; by the paragon where the version has one, else against
    the version's own new/new, which then is the paragon and has no tax. None where there is no gain to share.
    """

    role: str
    scores: np.ndarray[Any, np.dtype[np.float64]]
    gain: Mapping[str, float | None]
    tax: Mapping[str, float]

    @property
    def ac(self) -> float:
        return average_compatibility(self.scores)

    @property
    def aa(self) -> float:
        return average_accuracy(self.scores)


@dataclass(frozen=True)
class Graph:
    """All cells, what they mean pair by pair, and each role's series; space: of the newest gallery."""

    crossed: CrossEvaluation
    links: tuple[Link, ...]
    series: tuple[Series, ...]
    space: Space


def graph(
    rows: Sequence[Row],
    galleries: Mapping[str, Embeddings],
    paragons: Mapping[str, Sides] | None = None,
    *,
    max_loss: float = MAX_LOSS,
    across_spaces: bool = False,
    seed: int = 0,
) -> Graph:
    """Evaluate every row against every version's gallery; versions in order of release.

    paragons: by version, a model trained without compatibility.
    Intervals resample classes. Raises DataError for a row of an unknown version or twice the same,
    SpaceMismatch for versions of two spaces unless `across_spaces` asks to see what that gives.
    """
    _refuse_muddle(rows, list(galleries))
    queries = {row.name: row.query for row in rows}
    crossed = cross_evaluate(queries, galleries, across_spaces=across_spaces)
    versions = list(galleries)
    links = tuple(_links(rows, versions, crossed, max_loss, seed))
    best = {version: _score(sides) for version, sides in (paragons or {}).items()}
    series = tuple(_series(rows, versions, crossed, best))
    return Graph(crossed, links, series, galleries[versions[-1]].space)


def _refuse_muddle(rows: Sequence[Row], versions: Sequence[str]) -> None:
    if len(versions) < 2:
        raise DataError("a graph needs at least two versions")
    for row in rows:
        if row.version not in versions:
            raise DataError(f"{row.name!r} is of no version: there are {', '.join(versions)}")
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise DataError(f"a query model is named twice: {', '.join(sorted(names))}")


def _links(
    rows: Sequence[Row], versions: Sequence[str], crossed: CrossEvaluation, max_loss: float, seed: int
) -> Iterator[Link]:
    known = {(row.role, row.version): row for row in rows}
    for role in dict.fromkeys(row.role for row in rows):
        for query, gallery in permutations(versions, 2):
            forward = versions.index(query) > versions.index(gallery)
            before = known.get((role, gallery if forward else query))
            row = known.get((role, query))
            if row is None or before is None or _absent(crossed, row.name, gallery):
                continue
            now = crossed[row.name, gallery].per_query(RECALL_AT_1)
            then = crossed[before.name, before.version].per_query(RECALL_AT_1)
            found = paired_difference(now, then, clusters=now.labels, seed=seed)
            flipped = flips(then, now, clusters=now.labels, seed=seed)
            yield Link(role, query, gallery, forward, found, flipped, max_loss)


def _absent(crossed: CrossEvaluation, query: str, gallery: str) -> bool:
    return crossed.evaluations[query, gallery] is None


def _score(sides: Sides) -> float:
    return evaluate(sides.query, sides.gallery).means[RECALL_AT_1]


def _series(
    rows: Sequence[Row], versions: Sequence[str], crossed: CrossEvaluation, best: Mapping[str, float]
) -> Iterator[Series]:
    known = {(row.role, row.version): row.name for row in rows}
    for role in dict.fromkeys(row.role for row in rows):
        names = [known.get((role, version)) for version in versions]
        present = [name for name in names if name is not None]
        if len(present) < len(versions) or any(_absent(crossed, n, v) for n in present for v in versions):
            continue
        scores = np.array([[crossed[n, v].means[RECALL_AT_1] for v in versions] for n in present])
        paragons = best if role == CLOUD else {}
        yield Series(role, scores, _gains(scores, versions, paragons), _taxes(scores, versions, paragons))


def _gains(
    scores: np.ndarray[Any, np.dtype[np.float64]], versions: Sequence[str], best: Mapping[str, float]
) -> dict[str, float | None]:
    return {
        versions[i]: gain_or_none(
            new_old=float(scores[i, i - 1]),
            old_old=float(scores[i - 1, i - 1]),
            paragon=best.get(versions[i], float(scores[i, i])),
        )
        for i in range(1, len(versions))
    }


def _taxes(
    scores: np.ndarray[Any, np.dtype[np.float64]], versions: Sequence[str], best: Mapping[str, float]
) -> dict[str, float]:
    return {
        version: compatibility_tax(paragon=best[version], new_new=float(scores[i, i]))
        for i, version in enumerate(versions)
        if version in best
    }
