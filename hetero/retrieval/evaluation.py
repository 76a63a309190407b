"""One search M(q, g) with every metric of it, query by query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hetero.retrieval.metrics import metric as metric_of
from hetero.retrieval.metrics import metrics
from hetero.retrieval.protocol import Judgements
from hetero.retrieval.ranking import Ranking, rank
from hetero.retrieval.scoring import BLOCK_BYTES
from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings

Ids = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PerQuery:
    """One metric, query by query. query_ids, labels: int64 [Q]; values: float64 [Q]; metric: its name."""

    metric: str
    query_ids: Ids
    labels: Ids
    values: Values

    @property
    def mean(self) -> float:
        return float(self.values.mean())


@dataclass(frozen=True)
class Evaluation:
    """One search M(q, g), over the queries that can be answered.

    query_ids, labels: int64 [Q]. values: metric name -> float64 [Q], of the metrics a report shows.
    skipped: queries left out because no gallery row is relevant to them; they enter no mean. ranking: of
    all queries, from which any other metric is computed when asked for.
    """

    query_ids: Ids
    labels: Ids
    values: Mapping[str, Values]
    skipped: int
    ranking: Ranking

    def per_query(self, metric: str) -> PerQuery:
        """The values of any metric `hetero.retrieval.metric` knows; DataError names them."""
        values = self.values.get(metric)
        if values is None:
            values = metric_of(metric)(self.ranking)[self.ranking.relevant > 0]
        return PerQuery(metric, self.query_ids, self.labels, values)

    @property
    def means(self) -> dict[str, float]:
        return {name: float(values.mean()) for name, values in self.values.items()}


def evaluate(
    query: Embeddings,
    gallery: Embeddings,
    ks: Sequence[int] = (1, 5, 10),
    *,
    judgements: Judgements | None = None,
    block_bytes: int = BLOCK_BYTES,
    across_spaces: bool = False,
) -> Evaluation:
    """M(query, gallery) for every metric; see `hetero.retrieval.rank` for memory, ties and exclusion.

    Raises DataError when no query has a relevant gallery row, SpaceMismatch as `rank` does.
    """
    ranking = rank(
        query, gallery, judgements=judgements, block_bytes=block_bytes, across_spaces=across_spaces
    )
    return summarise(ranking, ks)


def summarise(ranking: Ranking, ks: Sequence[int] = (1, 5, 10)) -> Evaluation:
    """Every metric of a ranking, queries without a relevant row left out and counted."""
    keep = ranking.relevant > 0
    if not keep.any():
        raise DataError(
            f"none of the {len(ranking)} queries has a gallery image of its class: check labels and split"
        )
    values = {name: metric(ranking)[keep] for name, metric in metrics(ks).items()}
    return Evaluation(ranking.query_ids[keep], ranking.labels[keep], values, int((~keep).sum()), ranking)
