"""Who may find whom: relevance by label or by judgement, exclusion by id. All int64 from end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings

Rows = npt.NDArray[np.int64]

_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class Judgements:
    """Relevance given query by query, where labels do not say it (landmarks, graded collections).

    relevant[i], ignored[i]: int64, gallery rows that are right for query i, and rows that count as neither
    right nor wrong: they are taken out of its ranking. Rows in neither are wrong.
    """

    relevant: Sequence[Rows]
    ignored: Sequence[Rows]


@dataclass(frozen=True)
class Protocol:
    """Relevance without a queries x gallery matrix.

    own: int64 [Q], the gallery row with the query's id, or -1. order: int64 [N], gallery rows grouped by
    label, ascending inside a group. first, last: int64 [Q], the group of the query's label in `order`.
    offsets: int64 [Q + 1], running number of relevant rows. judgements: replace labels when given.
    """

    own: Rows
    order: Rows
    first: Rows
    last: Rows
    offsets: Rows
    judgements: Judgements | None = None

    @classmethod
    def of(cls, query: Embeddings, gallery: Embeddings, judgements: Judgements | None = None) -> Protocol:
        """Raise DataError when ids repeat on a side, or an id carries different labels on the two sides.

        With judgements labels are not read; DataError when they do not fit the two sides.
        """
        own = _own_rows(query, gallery)
        if judgements is not None:
            return cls._judged(own, judgements, len(gallery))
        _refuse_other_labels(query, gallery, own)
        order = np.argsort(gallery.labels, kind="stable")
        grouped = gallery.labels[order]
        first = np.searchsorted(grouped, query.labels, side="left")
        last = np.searchsorted(grouped, query.labels, side="right")
        return cls(own, order, first, last, _running(last - first - (own >= 0)))

    @classmethod
    def _judged(cls, own: Rows, judgements: Judgements, gallery: int) -> Protocol:
        if not len(judgements.relevant) == len(judgements.ignored) == len(own):
            raise DataError(
                f"{len(judgements.relevant)} judgements for {len(own)} queries: give one for each"
            )
        ignored = [np.unique(rows) for rows in judgements.ignored]
        out = [np.append(rows, mine[mine >= 0]) for rows, mine in zip(ignored, own[:, None], strict=True)]
        relevant = [np.setdiff1d(*pair) for pair in zip(judgements.relevant, out, strict=True)]
        clean = Judgements(relevant, ignored)
        for rows in (*clean.relevant, *clean.ignored):
            if len(rows) and not 0 <= rows[0] <= rows[-1] < gallery:
                raise DataError(f"judgements name a row outside the gallery of {gallery}")
        sizes = np.array([len(rows) for rows in clean.relevant], np.int64)
        return cls(own, _NONE, _NONE, _NONE, _running(sizes), clean)

    def relevant(self, i: int) -> Rows:
        """Gallery rows relevant to query i, ascending, itself excluded."""
        if self.judgements is not None:
            return self.judgements.relevant[i]
        rows: Rows = self.order[self.first[i] : self.last[i]]
        others: Rows = rows[rows != self.own[i]]
        return others

    def excluded(self, i: int) -> Rows:
        """Gallery rows that take no part in the ranking of query i: itself, and what is ignored for it."""
        own = self.own[i : i + 1]
        found: Rows = own[own >= 0]
        return found if self.judgements is None else np.union1d(found, self.judgements.ignored[i])

    def excluded_counts(self) -> Rows:
        """int64 [Q]: how many rows `excluded` has."""
        if self.judgements is None:
            return (self.own >= 0).astype(np.int64)
        return np.array([len(self.excluded(i)) for i in range(len(self.own))], np.int64)


def _running(sizes: Rows) -> Rows:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def _own_rows(query: Embeddings, gallery: Embeddings) -> Rows:
    order = np.argsort(gallery.ids, kind="stable")
    ids = gallery.ids[order]
    _refuse_repeats("query", np.sort(query.ids))
    _refuse_repeats("gallery", ids)
    if not len(ids):
        return np.full(len(query), -1, np.int64)
    place = np.minimum(np.searchsorted(ids, query.ids), len(ids) - 1)
    own = order[place]
    own[ids[place] != query.ids] = -1
    return own


def _refuse_other_labels(query: Embeddings, gallery: Embeddings, own: Rows) -> None:
    present = own >= 0
    wrong = gallery.labels[own[present]] != query.labels[present]
    if wrong.any():
        image = query.ids[present][wrong][0]
        raise DataError(
            f"image id {image} has one label as a query and another in the gallery: ids must be unique"
        )


def _refuse_repeats(side: str, ids: Rows) -> None:
    repeats = ids[1:][ids[1:] == ids[:-1]]
    if repeats.size:
        raise DataError(f"{side} id {repeats[0]} occurs more than once: ids must be unique per image")
