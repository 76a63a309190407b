"""Open-set identification, 1:N: some queries have no mate in the gallery, and should then find nothing.

TPIR = 1 - FNIR at a fixed FPIR, as in ISO/IEC 19795-1 and the 1:N protocol of IJB-C (Maze et al., ICB 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hetero.retrieval.evaluation import PerQuery
from hetero.retrieval.operating import OperatingPoint, operating_point
from hetero.retrieval.ranking import search
from hetero.retrieval.scoring import BLOCK_BYTES, prepare
from hetero_devices.space import Embeddings

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class OpenSet:
    """mated: float32 [M], the best score of a right hit among the first hits of each query that has a mate,
    -inf without one; mated_ids, mated_labels: int64 [M]. unmated: float32 [U], the best score of each query
    that has none, descending."""

    mated: Floats
    mated_ids: Ids
    mated_labels: Ids
    unmated: Floats

    def accepted(self, threshold: float) -> PerQuery:
        """1 for each mated query that is identified above the threshold: for intervals and paired tests."""
        values = (self.mated > threshold).astype(np.float64)
        return PerQuery(f"identified above {threshold:.4f}", self.mated_ids, self.mated_labels, values)


def open_set(
    query: Embeddings,
    gallery: Embeddings,
    *,
    rank: int = 1,
    block_bytes: int = BLOCK_BYTES,
    across_spaces: bool = False,
) -> OpenSet:
    """Search every query. A mate is a gallery row of its label, itself left out; right within `rank` hits."""
    mates = np.diff(prepare(query, gallery, across_spaces).offsets) > 0
    hits = search(query, gallery, rank, block_bytes=block_bytes, across_spaces=across_spaces)
    right = (hits.rows >= 0) & (gallery.labels[hits.rows] == query.labels[:, None])
    best = np.where(right, hits.scores, -np.inf).max(axis=1)
    unmated = np.sort(hits.scores[~mates, 0])[::-1]
    return OpenSet(best[mates], query.ids[mates], query.labels[mates], unmated)


def tpir_at_fpir(found: OpenSet, fpir: float) -> OperatingPoint:
    """The share of mated queries identified (`true_rate`) at the threshold that at most `fpir` of the unmated
    queries exceed (`false_rate`)."""
    return operating_point(found.mated, found.unmated, len(found.unmated), fpir)
