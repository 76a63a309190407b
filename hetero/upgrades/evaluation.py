"""What an upgrade is worth: the four scores that decide, and what follows from them.

M(q, g) has the query model first. old/old is what there is; new/old is what updating the queries alone
brings; new/new is what re-embedding the gallery brings; the paragon is new*/new*, the new model trained
without compatibility, on both sides.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hetero.retrieval import (
    RECALL_AT_1,
    Criterion,
    Estimate,
    Evaluation,
    Flips,
    PerQuery,
    bootstrap,
    compatibility_criterion,
    compatibility_tax,
    evaluate,
    flips,
    gain_or_none,
    is_success,
)
from hetero.retrieval.intervals import CONFIDENCE, RESAMPLES
from hetero.runs.extension import link_to_anchor
from hetero.runs.run import Run
from hetero.runs.sides import Sides, anchor_sides, model_sides
from hetero.upgrades.links import Link
from hetero_devices.space import Embeddings


@dataclass(frozen=True)
class UpgradeScores:
    """One metric of the four searches of an upgrade, over the same queries; paragon: None where unknown."""

    old_old: PerQuery
    new_old: PerQuery
    new_new: PerQuery
    paragon: PerQuery | None = None


@dataclass(frozen=True)
class Upgrade:
    """The verdict on an upgrade.

    Scores are means with intervals. criterion: M(new, old) > M(old, old). gain: the share of the paragon's
    advantage that updating the queries alone brings, None without a paragon that beats the old model; tax:
    M(new*, new*) - M(new, new), None without a paragon. flips: of queries from old/old to new/old, None
    where the metric is no success bit.
    """

    metric: str
    old_old: Estimate
    new_old: Estimate
    new_new: Estimate
    paragon: Estimate | None
    criterion: Criterion
    gain: float | None
    tax: float | None
    flips: Flips | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate_upgrade(
    old: Sides,
    new: Sides,
    paragon: Sides | None = None,
    *,
    link: Link | None = None,
    metric: str = RECALL_AT_1,
    by_class: bool = True,
) -> Upgrade:
    """The verdict from embeddings of one list of query images and one of gallery images.

    old and new live in one space, or `link` leads new queries into the old one.
    Intervals resample classes, or queries where not `by_class`. Raises SpaceMismatch when old and new are
    of different spaces, DataError for other images or an unknown metric.
    """
    return verdict(upgrade_scores(old, new, paragon, metric, link), by_class=by_class)


def upgrade_scores(
    old: Sides,
    new: Sides,
    paragon: Sides | None,
    metric: str = RECALL_AT_1,
    link: Link | None = None,
) -> UpgradeScores:
    """The four searches of one metric. Errors as `evaluate_upgrade`."""

    def score(query: Embeddings, gallery: Sides) -> PerQuery:
        found: Evaluation = evaluate(query, gallery.gallery)
        return found.per_query(metric)

    crossing = new.query if link is None else link(new.query, side="query")
    best = None if paragon is None else score(paragon.query, paragon)
    return UpgradeScores(score(old.query, old), score(crossing, old), score(new.query, new), best)


def verdict(
    scores: UpgradeScores,
    *,
    by_class: bool = True,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Upgrade:
    """What follows from the four searches; DataError unless they are over the same queries."""
    clusters = scores.old_old.labels if by_class else None
    drawn: dict[str, Any] = {
        "clusters": clusters, "resamples": resamples, "confidence": confidence, "seed": seed
    }  # fmt: skip

    def estimate(values: PerQuery) -> Estimate:
        return bootstrap(values.values, **drawn)

    best = scores.paragon
    return Upgrade(
        metric=scores.old_old.metric,
        old_old=estimate(scores.old_old),
        new_old=estimate(scores.new_old),
        new_new=estimate(scores.new_new),
        paragon=None if best is None else estimate(best),
        criterion=compatibility_criterion(scores.new_old, scores.old_old, **drawn),
        gain=None if best is None else _gain(scores, best),
        tax=None if best is None else compatibility_tax(paragon=best.mean, new_new=scores.new_new.mean),
        flips=flips(scores.old_old, scores.new_old, **drawn) if is_success(scores.old_old) else None,
    )


def evaluate_run(run: Run, *, paragon: Run | None = None, metric: str = RECALL_AT_1) -> Upgrade:
    """The verdict on a run whose anchor is the old model and whose student is the new one.

    The paragon is the student trained alone, of `paragon` where that is given, else of the run itself where
    its recipe trains one. An extended student's queries reach the old gallery by its link. Trains what is
    not there yet. SpaceMismatch when the student is in another space.
    """
    source = paragon or (run if run.recipe.student.alone else None)
    alone = None if source is None else model_sides(source.alone, run.test)
    old, new = anchor_sides(run.anchor, run.test), model_sides(run.student, run.test)
    link = link_to_anchor(run) if run.recipe.student.dimension == "extended" else None
    return evaluate_upgrade(old, new, alone, link=link, metric=metric)


def _gain(scores: UpgradeScores, paragon: PerQuery) -> float | None:
    return gain_or_none(new_old=scores.new_old.mean, old_old=scores.old_old.mean, paragon=paragon.mean)
