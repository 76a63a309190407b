"""Agreement of clusterings, from their contingency table, and old clusters applied to new embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings

Ids = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """ari: adjusted Rand index, 1 for equal clusterings, 0 by chance; nmi: normalised mutual information."""

    ari: float
    nmi: float


def agreement(a: Ids, b: Ids) -> Agreement:
    """How alike two clusterings of the same items are; a, b: int64 [N], any names of clusters.

    ARI: Hubert and Arabie, Comparing Partitions (J. Classification 1985), eq. 5. NMI: mutual information
    over the mean of the two entropies (Strehl and Ghosh, JMLR 2002, with the arithmetic mean).
    """
    if len(a) != len(b) or not len(a):
        raise DataError(f"clusterings of {len(a)} and {len(b)} items: both must be of the same items")
    joint, rows, columns = _contingency(a, b)
    return Agreement(_adjusted_rand(joint, rows, columns), _mutual_information(joint, rows, columns))


def old_clusters_on_new(old: Embeddings, clusters: Ids, new: Embeddings) -> Agreement:
    """Assign new embeddings to the old clusters' centroids, and compare with the old assignment.

    clusters: int64 [N], of the images of `old`; `new` embeds the same images, perhaps by another model of
    the space. 1 means that photo albums, deduplication and the like need not be computed again.
    """
    if old.space.dim != new.space.dim or not np.array_equal(old.ids, new.ids):
        raise DataError("old and new must embed the same images, in vectors of one length")
    names, centroids = _centroids(old, clusters)
    assigned = np.empty(len(new), np.int64)
    for start in range(0, len(new), 16_384):
        part = slice(start, start + 16_384)
        assigned[part] = names[np.argmax(new.vectors[part] @ centroids.T, axis=1)]
    return agreement(clusters, assigned)


def _centroids(embeddings: Embeddings, clusters: Ids) -> tuple[Ids, npt.NDArray[np.float32]]:
    """Names of the clusters, and the normalised mean of each: float32 [C, D]."""
    if len(clusters) != len(embeddings):
        raise DataError(f"{len(clusters)} cluster assignments for {len(embeddings)} images")
    names, member = np.unique(clusters, return_inverse=True)
    sums = np.zeros((len(names), embeddings.space.dim))
    np.add.at(sums, member, embeddings.vectors)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return names, (sums / np.maximum(lengths, 1e-12)).astype(np.float32)


def _contingency(a: Ids, b: Ids) -> tuple[Values, Values, Values]:
    """Non-zero cells of the table, and the row and column totals of each cell's clusters: float64."""
    _, left, left_sizes = np.unique(a, return_inverse=True, return_counts=True)
    _, right, right_sizes = np.unique(b, return_inverse=True, return_counts=True)
    _, joint = np.unique(left * len(right_sizes) + right, return_counts=True)
    return joint.astype(np.float64), left_sizes.astype(np.float64), right_sizes.astype(np.float64)


def _adjusted_rand(joint: Values, rows: Values, columns: Values) -> float:
    def pairs(sizes: Values) -> float:
        return float((sizes * (sizes - 1) / 2).sum())

    together, left, right, total = pairs(joint), pairs(rows), pairs(columns), pairs(rows.sum(keepdims=True))
    expected = left * right / total if total else 0.0
    highest = (left + right) / 2
    return 1.0 if highest == expected else (together - expected) / (highest - expected)


def _mutual_information(joint: Values, rows: Values, columns: Values) -> float:
    """I(A, B) = H(A) + H(B) - H(A, B), over the mean of H(A) and H(B)."""

    def entropy(sizes: Values) -> float:
        shares = sizes / sizes.sum()
        return float(-(shares * np.log(shares)).sum())

    left, right = entropy(rows), entropy(columns)
    if left == right == 0:
        return 1.0  # both put everything into one cluster
    return max(0.0, left + right - entropy(joint)) / ((left + right) / 2)
