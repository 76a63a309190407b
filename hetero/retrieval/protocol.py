"""Who may find whom: relevance by label, exclusion by id. Both int64 from end to end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Protocol:
    """Relevance without a queries x gallery matrix.

    own: int64 [Q], the gallery row with the query's id, or -1. order: int64 [N], gallery rows grouped by
    label, ascending inside a group. first, last: int64 [Q], the group of the query's label in `order`.
    offsets: int64 [Q + 1], running number of relevant rows.
    """

    own: Rows
    order: Rows
    first: Rows
    last: Rows
    offsets: Rows

    @classmethod
    def of(cls, query: Embeddings, gallery: Embeddings) -> Protocol:
        """Raise DataError when ids repeat on a side, or an id carries different labels on the two sides."""
        own = _own_rows(query, gallery)
        order = np.argsort(gallery.labels, kind="stable")
        grouped = gallery.labels[order]
        first = np.searchsorted(grouped, query.labels, side="left")
        last = np.searchsorted(grouped, query.labels, side="right")
        relevant = last - first - (own >= 0)
        return cls(own, order, first, last, np.concatenate([[0], np.cumsum(relevant)]))

    def relevant(self, i: int) -> Rows:
        """Gallery rows of query i's label, ascending, itself excluded."""
        rows: Rows = self.order[self.first[i] : self.last[i]]
        others: Rows = rows[rows != self.own[i]]
        return others


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
    present = own >= 0
    wrong = gallery.labels[own[present]] != query.labels[present]
    if wrong.any():
        image = query.ids[present][wrong][0]
        raise DataError(
            f"image id {image} has one label as a query and another in the gallery: ids must be unique"
        )
    return own


def _refuse_repeats(side: str, ids: Rows) -> None:
    repeats = ids[1:][ids[1:] == ids[:-1]]
    if repeats.size:
        raise DataError(f"{side} id {repeats[0]} occurs more than once: ids must be unique per image")
