"""What an asymmetric score is worth, in the words of docs and papers. M(q, g): query model first.

Scores are means in [0, 1] of one metric over the same queries. Compatibility criterion and update gain after
Shen et al., Towards Backward-Compatible Representation Learning (CVPR 2020), §3.1; for an edge student
after Duggal et al., Compatibility-aware Heterogeneous Visual Search (CVPR 2021), §3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hetero.retrieval.evaluation import PerQuery
from hetero.retrieval.intervals import (
    CONFIDENCE,
    RESAMPLES,
    Clusters,
    Comparison,
    Estimate,
    check_paired,
    interval,
    paired_difference,
    resampled_means,
)
from hetero.retrieval.metrics import display_name
from hetero_devices.errors import DataError

Scores = npt.NDArray[np.float64]
Shares = Sequence[float]


@dataclass(frozen=True)
class Criterion:
    """The verdict on the compatibility criterion, the comparison it rests on, and one sentence to quote."""

    metric: str
    comparison: Comparison
    holds: bool
    sentence: str


def compatibility_criterion(
    asymmetric: PerQuery,
    baseline: PerQuery,
    *,
    clusters: Clusters | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Criterion:
    """Is asymmetric search better than what it replaces, beyond chance?

    asymmetric: M(student, anchor), or M(new, old). baseline: M(student*, student*) of the student trained
    alone, or M(old, old). Holds when the whole interval of the paired difference is above zero.
    """
    comparison = paired_difference(
        asymmetric, baseline, clusters=clusters, resamples=resamples, confidence=confidence, seed=seed
    )
    holds = comparison.difference.low > 0
    sentence = _sentence(asymmetric, baseline, comparison, holds, confidence)
    return Criterion(asymmetric.metric, comparison, holds, sentence)


def retention(*, asymmetric: float, paragon: float) -> float:
    """M(q, g) / M(anchor, anchor): the share of the anchor's own score that the student keeps."""
    _refuse_zero(paragon)
    return asymmetric / paragon


def retention_interval(
    asymmetric: PerQuery,
    paragon: PerQuery,
    *,
    clusters: Clusters | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """`retention` with a percentile interval; each resample draws the same queries for both scores."""
    check_paired(asymmetric, paragon)
    value = retention(asymmetric=asymmetric.mean, paragon=paragon.mean)
    columns = np.stack([asymmetric.values, paragon.values], axis=1)  # [Q, 2]
    means = resampled_means(columns, clusters=clusters, resamples=resamples, seed=seed)
    defined = means[means[:, 1] > 0]  # a resample in which the paragon finds nothing has no ratio
    return interval(value, defined[:, 0] / defined[:, 1], confidence)


def update_gain(*, new_old: float, old_old: float, paragon: float) -> float:
    """(M(new, old) - M(old, old)) / (M(new*, new*) - M(old, old)): 1 is all that re-embedding would bring.

    DataError unless the paragon beats the old model: there is then no gain to have a share of.
    """
    if paragon <= old_old:
        raise DataError(
            f"the paragon ({paragon:.4f}) does not beat the old model ({old_old:.4f}): no gain to share"
        )
    return (new_old - old_old) / (paragon - old_old)


def gain_or_none(*, new_old: float, old_old: float, paragon: float) -> float | None:
    """`update_gain`, or None where the paragon does not beat the old model and there is nothing to share."""
    if not paragon > old_old:  # NaN: an unknown paragon
        return None
    return update_gain(new_old=new_old, old_old=old_old, paragon=paragon)


def compatibility_tax(*, paragon: float, new_new: float) -> float:
    """M(new*, new*) - M(new, new): what compatibility costs the new model on its own gallery."""
    return paragon - new_new


def average_compatibility(scores: Scores) -> float:
    """AC = 2 / (T (T - 1)) sum_{i > j} 1[C_ij > C_jj]: the share of pairs that meet the criterion.

    scores: float64 [T, T], C_ij = M(model i, model j) of T models in order of their release. Biondi et al.,
    CoReS (TPAMI 2023).
    """
    newer, older = _pairs(scores)
    return float((scores[newer, older] > scores[older, older]).mean())


def average_accuracy(scores: Scores) -> float:
    """AA = 2 / (T (T + 1)) sum_{i >= j} C_ij: how good search is in all pairs that occur. See AC."""
    _pairs(scores)
    return float(scores[np.tril_indices(len(scores))].mean())


def p_up(*, new_new: Shares, paragon: Shares) -> float:
    """Mean over data sets of sigma((M(new, new) - M(new*, new*)) / M(new*, new*)): 1/2 is no tax.

    This and the two below: Pan et al., AdvBCT (CVPR 2023); sigma is the logistic function.
    """
    return float(_up(new_new, paragon).mean())


def p_comp(*, new_old: Shares, old_old: Shares, paragon: Shares) -> float:
    """Mean over data sets of sigma(update gain): above 1/2 where updating helps at all."""
    return float(_comp(new_old, old_old, paragon).mean())


def p_1(*, new_new: Shares, new_old: Shares, old_old: Shares, paragon: Shares) -> float:
    """Mean over data sets of the harmonic mean of the two terms of P_up and P_comp.

    Not the harmonic mean of P_up and P_comp: only this order reproduces the published table.
    """
    up, comp = _up(new_new, paragon), _comp(new_old, old_old, paragon)
    return float((2 * up * comp / (up + comp)).mean())


def _up(new_new: Shares, paragon: Shares) -> Scores:
    for best in paragon:
        _refuse_zero(best)
    return _logistic([(new - best) / best for new, best in zip(new_new, paragon, strict=True)])


def _comp(new_old: Shares, old_old: Shares, paragon: Shares) -> Scores:
    sets = zip(new_old, old_old, paragon, strict=True)
    return _logistic([update_gain(new_old=cross, old_old=old, paragon=best) for cross, old, best in sets])


def _logistic(values: list[float]) -> Scores:
    if not values:
        raise DataError("no data sets to average over")
    shares: Scores = 1 / (1 + np.exp(-np.array(values)))
    return shares


def _pairs(scores: Scores) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or len(scores) < 2:
        raise DataError(f"scores of shape {list(scores.shape)}: expected [T, T] of at least two models")
    return np.tril_indices(len(scores), -1)


def _refuse_zero(paragon: float) -> None:
    if paragon <= 0:
        raise DataError("the paragon scores 0: nothing can be given as a share of it")


def _sentence(a: PerQuery, b: PerQuery, comparison: Comparison, holds: bool, confidence: float) -> str:
    low, high = 100 * comparison.difference.low, 100 * comparison.difference.high
    verdict = "holds" if holds else "does not hold"
    return (
        f"The compatibility criterion {verdict}: {display_name(a.metric)} is {100 * a.mean:.1f} % asymmetric "
        f"against {100 * b.mean:.1f} % symmetric, {100 * comparison.difference.value:+.1f} points "
        f"({100 * confidence:.0f} % interval {low:+.1f} to {high:+.1f}, {_significance(comparison.p_value)})."
    )


def _significance(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"
