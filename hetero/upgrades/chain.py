"""Chains of upgrades: every version's queries against every version's gallery, and the tax along the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hetero.retrieval import (
    RECALL_AT_1,
    Evaluation,
    Matrix,
    average_accuracy,
    average_compatibility,
    compatibility_tax,
    cross_evaluate,
    evaluate,
    gain_or_none,
)
from hetero.runs.sides import Sides
from hetero_devices.errors import DataError


@dataclass(frozen=True)
class Chain:
    """Versions of one space, in order of their release.

    matrix: M(version, version), query first. ac, aa: average compatibility and accuracy over newer queries
    and older galleries (CoReS, TPAMI 2023). paragons: M(v*, v*) of each version trained without
    compatibility, NaN where none was given. taxes: M(v*, v*) - M(v, v) of each, NaN likewise; tax_growth: the
    mean change of the tax from one version to the next, over those that have one. gains: of each version
    over the first, its queries against the first gallery; None where there is nothing to share.
    """

    matrix: Matrix
    ac: float
    aa: float
    paragons: tuple[float, ...]
    taxes: tuple[float, ...]
    tax_growth: float
    gains: tuple[float | None, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate_chain(
    versions: Mapping[str, Sides],
    paragons: Mapping[str, Sides] | None = None,
    *,
    metric: str = RECALL_AT_1,
    by_class: bool = True,
) -> Chain:
    """The chain of at least two versions, by name in order of their release; paragons: of some of them.

    The first version was trained without compatibility, so it is its own paragon unless one is given.
    Raises SpaceMismatch when two versions are of different spaces, DataError for fewer than two versions,
    for other images, or for a paragon of no version.
    """
    return evaluate_chains(versions, paragons, metrics=(metric,), by_class=by_class)[metric]


def evaluate_chains(
    versions: Mapping[str, Sides],
    paragons: Mapping[str, Sides] | None = None,
    *,
    metrics: Sequence[str],
    by_class: bool = True,
) -> dict[str, Chain]:
    """`evaluate_chain` by several metrics, from one search a pair."""
    if len(versions) < 2:
        raise DataError(f"{len(versions)} version(s) are no chain: give at least two, oldest first")
    paragons = dict(paragons or {})
    if unknown := sorted(paragons.keys() - versions.keys()):
        raise DataError(f"there is a paragon of {unknown[0]!r}, which is no version: {', '.join(versions)}")
    crossed = cross_evaluate(
        {name: sides.query for name, sides in versions.items()},
        {name: sides.gallery for name, sides in versions.items()},
    )
    first = next(iter(versions))
    own = {first: crossed[first, first]}  # its own paragon
    own |= {name: evaluate(sides.query, sides.gallery) for name, sides in paragons.items()}
    return {metric: _chain(crossed.matrix(metric, by_class=by_class), own) for metric in metrics}


def _chain(matrix: Matrix, paragons: Mapping[str, Evaluation]) -> Chain:
    scores, unknown = matrix.scores(), float("nan")
    best = tuple(
        paragons[name].per_query(matrix.metric).mean if name in paragons else unknown
        for name in matrix.queries
    )
    taxes = tuple(
        compatibility_tax(paragon=paragon, new_new=float(own))
        for paragon, own in zip(best, np.diag(scores), strict=True)
    )
    gains = tuple(
        gain_or_none(new_old=float(score), old_old=float(scores[0, 0]), paragon=paragon)
        for score, paragon in zip(scores[:, 0], best, strict=True)
    )
    compatibility, accuracy = average_compatibility(scores), average_accuracy(scores)
    return Chain(matrix, compatibility, accuracy, best, taxes, tax_growth(taxes), gains)


def tax_growth(taxes: tuple[float, ...]) -> float:
    """Mean change from one version to the next: (last - first) / steps between them; NaN for fewer than two.

    Versions without a tax (NaN) are passed over, but count as steps.
    """
    known = [(step, tax) for step, tax in enumerate(taxes) if not np.isnan(tax)]
    if len(known) < 2:
        return float("nan")
    (start, low), (end, high) = known[0], known[-1]
    return (high - low) / (end - start)
