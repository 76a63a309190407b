"""Searching a gallery of which only a part is re-embedded, without ever merging scores of two spaces.

Four embeddings describe an upgrade: queries and gallery, by the old and by the new model.

* One space (a backward-compatible new model, or an old gallery that a link converted): old and new vectors
  stand in one index, `mixed_gallery`.
* Two spaces: the query is embedded twice and each part is searched in its own space. The lists are merged
  by *quantile* (the place in a list divided by its length) or by *calibrated* score: how many standard
  deviations the score stands above what this query scores against a background in that space. Training-free
  merging of two searches is the baseline of Seo et al., Online Backfilling (WACV 2025, arXiv 2301.03767), who
  compare raw distances; here they are put on a common footing first, as by the test normalisation of speaker
  verification (Auckenthaler et al., Digital Signal Processing 2000).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from hetero.retrieval import Evaluation, Ranking, evaluate, rank, summarise
from hetero.retrieval.matrix import refuse_different_images
from hetero.upgrades.backfill.calibration import Calibration, calibrate
from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings, Space, check_same

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Merge = Literal["quantile", "calibrated"]
MERGES: tuple[Merge, ...] = get_args(Merge)


@dataclass(frozen=True)
class Upgrade:
    """Both models' view of one search. Galleries: the same ids and labels in one order; queries likewise.

    old_query: in the old gallery's space: embedded by the old model, or by the new one through a link; a
    compatible upgrade may do without (None), and then does not know what the old system scored.
    Raises SpaceMismatch when a query is not in its gallery's space, DataError for different images.
    """

    old_query: Embeddings | None
    new_query: Embeddings
    old_gallery: Embeddings
    new_gallery: Embeddings

    def __post_init__(self) -> None:
        check_same(self.new_query.space, self.new_gallery.space, "new query", "new gallery")
        refuse_different_images("gallery", {"old": self.old_gallery, "new": self.new_gallery})
        if self.old_query is not None:
            check_same(self.old_query.space, self.old_gallery.space, "old query", "old gallery")
            refuse_different_images("query", {"old": self.old_query, "new": self.new_query})
        elif not self.compatible:
            raise DataError(
                "old and new gallery are in two spaces: give the queries in the old space too, "
                "embedded by the old model or converted by a link"
            )

    @property
    def compatible(self) -> bool:
        """Whether old and new vectors may be compared: they are in one space."""
        return self.old_gallery.space == self.new_gallery.space

    @property
    def asked_in_old(self) -> Embeddings:
        """What the old part of a mixed gallery is searched with."""
        if self.compatible:
            return self.new_query
        assert self.old_query is not None  # __post_init__
        return self.old_query


def evaluate_mixed(upgrade: Upgrade, done: Mask, merge: Merge = "quantile") -> Evaluation:
    """Queries of the new model against the gallery of which the rows `done`, bool [N], are re-embedded.

    merge: how the two searches of an incompatible upgrade are joined; a compatible one needs none. Before the
    first row is re-embedded that is M(new, old) in one space, and M(old, old) in two.
    """
    if done.shape != (len(upgrade.old_gallery),):
        raise DataError(f"{list(done.shape)} marks for {len(upgrade.old_gallery)} gallery rows")
    if done.all():
        return evaluate(upgrade.new_query, upgrade.new_gallery)
    if upgrade.compatible:
        gallery = mixed_gallery(upgrade.old_gallery, upgrade.new_gallery, done)
        return evaluate(upgrade.new_query, gallery)
    if not done.any():
        return evaluate(upgrade.asked_in_old, upgrade.old_gallery)
    if merge == "quantile":
        return summarise(_quantile_ranking(upgrade, done))
    return evaluate(*_joint_sides(upgrade, done))


def mixed_gallery(old: Embeddings, new: Embeddings, done: Mask) -> Embeddings:
    """One gallery of old vectors and, where `done`, bool [N], new ones; SpaceMismatch unless in one space."""
    check_same(new.space, old.space, "the new gallery", "the old gallery")
    vectors = np.where(done[:, None], new.vectors, old.vectors)
    return Embeddings(vectors, old.ids, old.labels, old.space)


def merge_rankings(old: Ranking, new: Ranking) -> Ranking:
    """Two rankings of disjoint gallery parts by the same queries, merged by quantile (r + 1/2) / n.

    r is a row's rank in its part, n the number of candidates there. Equal quantiles: the new part first. In
    whole numbers, so exact. DataError unless the queries are the same.
    """
    if not np.array_equal(old.query_ids, new.query_ids):
        raise DataError("the two searches are of different queries: embed one list with both models")
    ranks = np.concatenate([_merged_ranks(old, new, first=False), _merged_ranks(new, old, first=True)])
    owners = np.concatenate([old.owners, new.owners])
    offsets = np.concatenate([[0], np.cumsum(old.relevant + new.relevant)]).astype(np.int64)
    ranks = ranks[np.lexsort((ranks, owners))]
    return Ranking(old.query_ids, old.labels, old.candidates + new.candidates, offsets, ranks)


def joint_embeddings(old: tuple[Embeddings, Calibration], new: tuple[Embeddings, Calibration]) -> Embeddings:
    """Queries of both spaces as one vector whose inner products with `joint_gallery` order calibrated scores.

    (s - mean) / sd of both parts at once: [q_old / sd, -mean / sd, q_new / sd', -mean' / sd'], scaled to unit
    length, which changes no query's order. float32 [Q, D + D' + 2].
    """
    parts = []
    for query, calibration in (old, new):
        mean, sd = calibration.of(query)
        parts += [query.vectors / sd[:, None], -(mean / sd)[:, None]]
    whole = np.concatenate(parts, axis=1)
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    space = joint_space(old[0].space, new[0].space)
    return Embeddings(whole.astype(np.float32), old[0].ids, old[0].labels, space)


def joint_gallery(old: Embeddings, new: Embeddings, done: Mask) -> Embeddings:
    """Rows [g, 1, 0, 0] / sqrt(2), or where `done` [0, 0, g', 1] / sqrt(2): float32 [N, D + D' + 2]."""
    space = joint_space(old.space, new.space)
    vectors = np.zeros((len(old), space.dim), np.float32)
    edge = old.space.dim + 1
    vectors[~done, : edge - 1], vectors[~done, edge - 1] = old.vectors[~done], 1
    vectors[done, edge:-1], vectors[done, -1] = new.vectors[done], 1
    vectors /= np.sqrt(2, dtype=np.float32)
    return Embeddings(vectors, old.ids, old.labels, space)


def joint_space(old: Space, new: Space) -> Space:
    """The space of `joint_embeddings`: an id of its own, so that its vectors mix with no others."""
    digest = hashlib.sha256(f"calibrated {old.id} and {new.id}".encode()).hexdigest()[:16]
    return Space(digest, old.dim + new.dim + 2)


def _joint_sides(upgrade: Upgrade, done: Mask) -> tuple[Embeddings, Embeddings]:
    """Each space is calibrated by the gallery rows it has: all in the old one, the done in the new one."""
    old = upgrade.asked_in_old, calibrate(upgrade.old_gallery)
    new = upgrade.new_query, calibrate(upgrade.new_gallery.select(done))
    return joint_embeddings(old, new), joint_gallery(upgrade.old_gallery, upgrade.new_gallery, done)


def _quantile_ranking(upgrade: Upgrade, done: Mask) -> Ranking:
    old = rank(upgrade.asked_in_old, upgrade.old_gallery.select(~done))
    new = rank(upgrade.new_query, upgrade.new_gallery.select(done))
    return merge_rankings(old, new)


def _merged_ranks(own: Ranking, other: Ranking, first: bool) -> Rows:
    """Rank of each relevant row of `own` among both parts: int64 [P].

    Ahead of it: its rank, and the r' with (2r' + 1) n < (2r + 1) n', or <= where the other part goes first.
    """
    mine, others = own.candidates[own.owners], other.candidates[own.owners]
    numerator, denominator = (2 * own.ranks + 1) * others - mine, 2 * mine
    strictly, or_level = -(-numerator // denominator), numerator // denominator + 1
    ahead = strictly if first else or_level
    merged: Rows = own.ranks + np.clip(ahead, 0, others)
    return merged
