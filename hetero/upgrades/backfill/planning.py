"""Making a plan: choose the order, measure its curve on a sample, count the cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hetero.retrieval import MAP, search
from hetero.upgrades.backfill.cost import Cost, embedding_cost
from hetero.upgrades.backfill.curve import (
    POINTS,
    Curve,
    CurveSummary,
    backfill_curve,
    best,
    old_system,
    summarise_curve,
)
from hetero.upgrades.backfill.mixed import Merge, Upgrade
from hetero.upgrades.backfill.orders import ORDERS, OrderName, hit_counts, order
from hetero.upgrades.backfill.plan import SCHEMA, Plan, digest_of
from hetero.upgrades.gallery import check_gallery
from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings, Space

Rows = npt.NDArray[np.int64]
DEFAULT_ORDER: OrderName = "class-mean"
_TRAFFIC_HITS = 10


@dataclass(frozen=True)
class Wish:
    """What is asked of a plan. order: a name, or 'auto': the largest area on the sample, else class-mean."""

    order: OrderName | str = "auto"
    metric: str = MAP
    merge: Merge = "quantile"
    points: int = POINTS
    seed: int = 0
    target: float | None = None
    images_per_second: float | None = None
    workers: int = 1
    price_per_hour: float | None = None


def make_plan(
    gallery: Embeddings,
    new_space: Space,
    wish: Wish,
    sample: Upgrade | None = None,
    traffic: Embeddings | None = None,
) -> tuple[Plan, Rows, tuple[Curve, ...]]:
    """(plan, ids in order, measured curves) for the old `gallery`, whole, as the old model embedded it.

    sample: labelled queries and gallery rows that both models have embedded. traffic: logged queries in the
    old space. Raises DataError, SpaceMismatch as the parts do.
    """
    check_gallery(gallery)
    if traffic is not None and not len(traffic):
        raise DataError("the log of traffic has no queries: embed some, or take another order")
    if wish.target is not None and not 0 <= wish.target <= 1:
        raise DataError(
            f"a target of {wish.target} is out of reach: a metric lies between 0 and 1, so 0.9 is 90 %"
        )
    names = _candidates(wish.order, sample is not None, traffic is not None)
    curves = _curves(sample, names, traffic, wish) if sample else ()
    chosen = best(curves).order if curves else names[0]
    rows = _ordered(chosen, gallery, traffic, wish.seed)
    curves = tuple(sorted(curves, key=lambda curve: curve.order != chosen))
    summaries = tuple(summarise_curve(curve, wish.target, wish.seed) for curve in curves)
    cost, needed = _costs(len(gallery), summaries, wish)
    ids = gallery.ids[rows]
    before = old_system(sample, wish.metric) if sample else None
    plan = Plan(
        schema=SCHEMA,
        old_space=gallery.space,
        new_space=new_space,
        rows=len(gallery),
        order=chosen,
        seed=wish.seed,
        order_sha256=digest_of(ids),
        merge=wish.merge if sample and not sample.compatible else None,
        sample={"gallery": len(sample.old_gallery), "queries": len(sample.new_query)} if sample else None,
        old_system=before.mean if before else None,
        curves=summaries,
        cost=cost,
        cost_needed=needed,
    )
    return plan, ids, curves


def _candidates(wanted: str, sampled: bool, logged: bool) -> Sequence[OrderName]:
    if wanted != "auto":
        if wanted not in ORDERS:
            raise DataError(f"there is no order {wanted!r}: choose one of auto, {', '.join(ORDERS)}")
        return [name for name in ORDERS if name == wanted]
    if not sampled:
        return [DEFAULT_ORDER]
    return [name for name in ORDERS if logged or name != "traffic"]


def _curves(
    sample: Upgrade, names: Sequence[OrderName], traffic: Embeddings | None, wish: Wish
) -> tuple[Curve, ...]:
    return tuple(
        backfill_curve(
            sample,
            _ordered(name, sample.old_gallery, traffic, wish.seed),
            order=name,
            metric=wish.metric,
            merge=wish.merge,
            points=wish.points,
        )
        for name in names
    )


def _ordered(name: str, gallery: Embeddings, traffic: Embeddings | None, seed: int) -> Rows:
    (known,) = (each for each in ORDERS if each == name)
    counts = None
    if known == "traffic" and traffic is not None:
        counts = hit_counts(search(traffic, gallery, _TRAFFIC_HITS).rows, len(gallery))
    return order(known, gallery, seed=seed, traffic=counts)


def _costs(rows: int, summaries: Sequence[CurveSummary], wish: Wish) -> tuple[Cost | None, Cost | None]:
    if wish.images_per_second is None:
        return None, None
    share = summaries[0].share_needed if summaries else None

    def cost(images: int) -> Cost:
        assert wish.images_per_second is not None
        return embedding_cost(images, wish.images_per_second, wish.workers, wish.price_per_hour)

    return cost(rows), None if share is None else cost(round(share * rows))
