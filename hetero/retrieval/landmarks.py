"""Landmark retrieval with easy, hard and junk images: Revisited Oxford and Paris.

Radenović, Iscen, Tolias, Avrithis, Chum, Revisiting Oxford and Paris (CVPR 2018). Junk is taken out of
the ranking, so it counts neither for nor against; distractors are whatever a query does not name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hetero.retrieval.metrics import precision_at_k, trapezoid_average_precision
from hetero.retrieval.protocol import Judgements
from hetero.retrieval.ranking import Ranking, rank
from hetero.retrieval.scoring import BLOCK_BYTES
from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings

Rows = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
Difficulty = Literal["easy", "medium", "hard"]

DIFFICULTIES: tuple[Difficulty, ...] = ("easy", "medium", "hard")


@dataclass(frozen=True)
class Landmarks:
    """For each query the gallery rows that show its landmark easily, hardly, or not usefully: int64 each."""

    easy: Sequence[Rows]
    hard: Sequence[Rows]
    junk: Sequence[Rows]

    def judgements(self, difficulty: Difficulty) -> Judgements:
        """easy: hard images are junk; medium: easy and hard are right; hard: easy images are junk."""
        if difficulty == "medium":
            return Judgements(_both(self.easy, self.hard), self.junk)
        right, other = (self.easy, self.hard) if difficulty == "easy" else (self.hard, self.easy)
        return Judgements(right, _both(other, self.junk))


@dataclass(frozen=True)
class LandmarkScores:
    """float64 [Q] each, NaN where nothing is relevant. ap: trapezoid AP. precision: k -> values of mP@k."""

    ap: Values
    precision: dict[int, Values]

    @property
    def mean_ap(self) -> float:
        """mAP over the queries that can be answered, as published for ROxford and RParis."""
        return float(np.nanmean(self.ap))


def evaluate_landmarks(
    query: Embeddings,
    gallery: Embeddings,
    landmarks: Landmarks,
    *,
    ks: Sequence[int] = (1, 5, 10),
    block_bytes: int = BLOCK_BYTES,
    across_spaces: bool = False,
) -> dict[Difficulty, LandmarkScores]:
    """Scores of every difficulty; DataError when no query of one can be answered."""

    def scores(difficulty: Difficulty) -> LandmarkScores:
        ranking = rank(
            query,
            gallery,
            judgements=landmarks.judgements(difficulty),
            block_bytes=block_bytes,
            across_spaces=across_spaces,
        )
        if not len(ranking.ranks):
            raise DataError(f"no query has a relevant image at difficulty {difficulty}: check the judgements")
        precision = {k: landmark_precision(ranking, k) for k in ks}
        return LandmarkScores(trapezoid_average_precision(ranking), precision)

    return {difficulty: scores(difficulty) for difficulty in DIFFICULTIES}


def landmark_precision(ranking: Ranking, k: int) -> Values:
    """Precision among the first min(k, r_R + 1) hits: a query with few images is not marked down for it.

    The mP@k of the authors' evaluation code (filipradenovic/revisitop).
    """
    answerable = ranking.relevant > 0
    last = ranking.ranks[ranking.offsets[1:][answerable] - 1]
    depth = np.full(len(ranking), np.nan)
    depth[answerable] = np.minimum(last + 1, k)
    shares: Values = precision_at_k(ranking, k) * k / depth
    return shares


def _both(a: Sequence[Rows], b: Sequence[Rows]) -> list[Rows]:
    return [np.union1d(x, y) for x, y in zip(a, b, strict=True)]
