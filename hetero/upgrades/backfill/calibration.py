"""What a query scores by chance in a space: mean and spread of its inner products with a background."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings, Space, check_same

Floats = npt.NDArray[np.float64]
_BLOCK = 65_536
_FLOOR = 1e-6  # of a standard deviation: a background of one vector has none


@dataclass(frozen=True)
class Calibration:
    """Mean float64 [D] and covariance float64 [D, D] of background vectors in `space`.

    With them the mean and the variance of a query's scores, <q, m> and q'Cq, are exact, and no score of the
    background need be computed.
    """

    mean: Floats
    covariance: Floats
    space: Space

    def of(self, query: Embeddings) -> tuple[Floats, Floats]:
        """(mean, standard deviation) of each query's scores against the background: float64 [Q] each."""
        check_same(query.space, self.space, "the query", "the calibration")
        vectors = np.asarray(query.vectors, np.float64)
        variance = np.einsum("qd,qd->q", vectors @ self.covariance, vectors)
        return vectors @ self.mean, np.sqrt(np.maximum(variance, _FLOOR**2))


def calibrate(background: Embeddings) -> Calibration:
    """The calibration by a background: gallery rows, or training images, embedded in that space.

    DataError for an empty background, NaN included as `Embeddings.check` finds it.
    """
    if not len(background):
        raise DataError("no vectors to calibrate a space with: give at least one")
    background.check()
    dim = background.space.dim
    total, products = np.zeros(dim), np.zeros((dim, dim))
    for start in range(0, len(background), _BLOCK):
        block = np.asarray(background.vectors[start : start + _BLOCK], np.float64)
        total += block.sum(axis=0)
        products += block.T @ block
    mean = total / len(background)
    return Calibration(mean, products / len(background) - np.outer(mean, mean), background.space)
