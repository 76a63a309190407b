"""Negative flips: queries the old system answered and the new one does not, whatever the averages say.

Yan et al., Positive-Congruent Training (CVPR 2021), for retrieval: a query counts as right when
its success bit (Recall@k) is 1; for classification, when its class is named. NFI: Xie et al., Regression Bugs
Are In Your Model! (ACL 2021).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hetero.retrieval.evaluation import PerQuery
from hetero.retrieval.intervals import (
    CONFIDENCE,
    RESAMPLES,
    Clusters,
    Estimate,
    bootstrap_columns,
    check_paired,
    mcnemar,
)
from hetero_devices.errors import DataError


@dataclass(frozen=True)
class Flips:
    """nfr: share of queries right before and wrong now; pfr: the reverse; nfr - pfr is the change of error.

    relative_nfr: nfr / ((1 - old error) x new error), 1 when errors are independent. nfi: share of the new
    errors that are negative flips. Both NaN where the new system errs nowhere. p_value: McNemar's exact
    test of nfr = pfr (queries as independent).
    """

    nfr: Estimate
    pfr: Estimate
    relative_nfr: float
    nfi: float
    p_value: float


def flips(
    old: PerQuery,
    new: PerQuery,
    *,
    clusters: Clusters | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Flips:
    """Flips from old to new success bits of the same queries; DataError for anything but bits."""
    negative, positive = _flipped(old, new)
    columns = np.stack([negative, positive], axis=1).astype(np.float64)
    nfr, pfr = bootstrap_columns(
        columns, clusters=clusters, resamples=resamples, confidence=confidence, seed=seed
    )
    error = 1 - new.mean
    return Flips(
        nfr,
        pfr,
        _ratio(nfr.value, old.mean * error),
        _ratio(nfr.value, error),
        mcnemar(int(positive.sum()), int(negative.sum())),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")


@dataclass(frozen=True)
class ClassFlips:
    """The queries of one class: how many, how many each system answers, and how many flip which way.

    p_value: McNemar's exact test inside the class; with many classes some are small by chance.
    """

    label: int
    queries: int
    old_right: int
    new_right: int
    negative: int
    positive: int
    p_value: float

    @property
    def nfr(self) -> float:
        """The share of the class' queries that flip to wrong."""
        return self.negative / self.queries


def flips_by_class(old: PerQuery, new: PerQuery) -> tuple[ClassFlips, ...]:
    """`flips` inside every class, in order of label; DataError as there."""
    negative, positive = _flipped(old, new)
    labels, member = np.unique(old.labels, return_inverse=True)
    columns = (np.ones(len(member)), old.values, new.values, negative, positive)
    counts = [np.bincount(member, weights=column) for column in columns]
    return tuple(
        _class_flips(int(label), [round(column[row]) for column in counts])
        for row, label in enumerate(labels)
    )


def _class_flips(label: int, counts: list[int]) -> ClassFlips:
    queries, old_right, new_right, negative, positive = counts
    return ClassFlips(label, queries, old_right, new_right, negative, positive, mcnemar(positive, negative))


def negative_flips(old: PerQuery, new: PerQuery) -> npt.NDArray[np.int64]:
    """int64 [F]: the ids of the queries that were right and are wrong, in query order; errors as `flips`."""
    return old.query_ids[_flipped(old, new)[0]]


def negative_flip_bits(old: PerQuery, new: PerQuery) -> PerQuery:
    """1 for a query that was right and is wrong, else 0: their mean is the NFR; errors as `flips`."""
    return replace(old, values=_flipped(old, new)[0].astype(np.float64))


def is_success(values: PerQuery) -> bool:
    """Whether a metric is a success bit, 0 or 1 of every query, so that its flips can be counted."""
    return bool(np.isin(values.values, (0.0, 1.0)).all())


def _flipped(old: PerQuery, new: PerQuery) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    check_paired(old, new)
    if not (is_success(old) and is_success(new)):
        raise DataError(f"{old.metric} is no success bit: flips need a metric of 0 and 1, such as recall@1")
    return old.values > new.values, new.values > old.values
