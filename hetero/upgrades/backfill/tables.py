"""A plan in words and tables."""

from __future__ import annotations

from collections.abc import Iterator

from hetero.report.table import Table, Text, row_of
from hetero.retrieval import Estimate, display_name
from hetero.upgrades.backfill.cost import Cost
from hetero.upgrades.backfill.plan import Plan


def curve_table(plan: Plan) -> Table:
    """One row an order, the chosen one first: area, worst point, share needed."""
    metric = display_name(plan.curves[0].metric)
    columns = ("order", "area", "worst point", "at share", "reaches the target at")
    rows = []
    for curve in plan.curves:
        lost = plan.old_system is not None and curve.worst.value < plan.old_system
        needed = "never" if curve.share_needed is None else f"{100 * curve.share_needed:.0f} %"
        worst = Text(percent(curve.worst), "bad" if lost else "plain")
        name, area = row_of(curve.order, percent(curve.area))
        rows.append((name, area, worst, *row_of(f"{100 * curve.worst_share:.0f} %", needed)))
    return Table(f"Backfill curves, {metric} in percent", _note(plan), columns, tuple(rows))


def plan_lines(plan: Plan) -> Iterator[str]:
    """What a plan says beside its curves."""
    kind = "one index" if plan.old_space == plan.new_space else "two searches, merged"
    yield f"{plan.rows} images, order {plan.order}; old {plan.old_space}, new {plan.new_space}: {kind}"
    if plan.curves and plan.old_system is not None and plan.curves[0].target < plan.old_system:
        yield "no upgrade: the target is below what the old system reaches on the same queries"
    if plan.cost:
        yield f"all of it: {_costs(plan.cost)}"
    if plan.cost_needed:
        yield f"up to the target: {_costs(plan.cost_needed)}"


def percent(estimate: Estimate) -> str:
    """'61.2 (59.8 to 62.7)'."""
    low, value, high = (100 * end for end in (estimate.low, estimate.value, estimate.high))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _note(plan: Plan) -> str:
    sample = plan.sample or {}
    said = f"target {100 * plan.curves[0].target:.1f}"
    if plan.old_system is not None:
        said += f", old system {100 * plan.old_system:.1f}"
    return f"{said}; {sample.get('queries')} queries, {sample.get('gallery')} gallery images, 95 % intervals"


def _costs(cost: Cost) -> str:
    money = "" if cost.money is None else f", {cost.money:.2f} in money"
    return (
        f"{cost.images} images, {cost.hours:.2f} hours at {cost.images_per_second:.1f} images a second{money}"
    )
