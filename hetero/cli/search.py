"""`hetero search`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hetero.cli.options import (
    dry_run_option,
    json_option,
    need_training_stack,
    print_json,
    seed_option,
    with_seed,
)

if TYPE_CHECKING:
    from hetero.search.result import SearchResult


@click.command("search")
@click.argument("recipe", default="demo")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--run", type=click.Path(path_type=Path), help="Run folder  [default: runs/NAME]")
@click.option("--name", default="best", show_default=True, help="Of this search; a run may have many.")
@seed_option
@dry_run_option
@json_option
def command(
    recipe: str,
    overrides: tuple[str, ...],
    run: Path | None,
    name: str,
    seed: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Search the student's architecture by cross-model accuracy, within a budget.

    Trains the anchor, unless the run has it; then a supernet of the recipe's space by the student's objective
    against the anchor's cached embeddings; then scores candidates by retrieval on validation classes, their
    queries in the anchor's gallery (CMP-NAS). Writes RUN/search/NAME: the front (result.json, search.png) and
    the chosen architecture, which `hetero train` takes as student.network. Searches of one run share supernet
    and scores, so that one training serves several budgets. Killed at any moment, the same command continues.

    \b
    search.reward.kind     product (R3), asymmetric (R2), symmetric (R1: plain architecture search)
    search.budget          macs, mac_ratio, parameters, memory, latency: [{table: FILE, ms: 2}]
    search.algorithm.kind  evolution, random, nsga2
    search.workers         {kind: processes, count: 4}, or {kind: ray, address: ...}

    \b
    Example:
      hetero search omniglot search.budget.mac_ratio=40 --run runs/family --name phone
      hetero search omniglot search.budget.mac_ratio=160 --run runs/family --name watch
      hetero train omniglot student.network=runs/family/search/watch/architecture.json --run runs/watch
    """
    need_training_stack()
    from hetero.recipes.resolve import resolve
    from hetero.search.searching import open_search

    resolved = resolve(recipe, with_seed(overrides, seed))
    if dry_run:
        print_json(resolved.model_dump(mode="json"))
        return
    search = open_search(run or Path("runs") / resolved.name, resolved, name)
    result = search.carry_out()
    print_json(result.to_json()) if as_json else _show(result, search.folder)


def _show(result: SearchResult, folder: Path) -> None:
    click.echo(f"{'MACs':>10} {'parameters':>11} {'R1 %':>7} {'R2 %':>7} {'reward':>8}")
    for each in result.front:
        mark = "  <- chosen" if each.network == result.chosen.network else ""
        click.echo(
            f"{each.costs.macs:10d} {each.costs.parameters:11d} {100 * each.scores.symmetric:7.2f} "
            f"{100 * each.scores.asymmetric:7.2f} {each.reward:8.4f}{mark}"
        )
    click.echo(f"{len(result.looked_at)} candidates; {folder / 'architecture.json'}")
