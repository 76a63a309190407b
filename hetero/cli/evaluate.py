"""`hetero upgrade evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hetero.cli.options import json_option, need_training_stack, print_json

if TYPE_CHECKING:
    from hetero.retrieval import Estimate
    from hetero.upgrades.evaluation import Upgrade


@click.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--paragon", type=click.Path(path_type=Path), help="Another run, whose student alone is the paragon."
)
@click.option("--metric", default="recall@1", show_default=True, help="As of `hetero matrix`.")
@json_option
def command(run: Path, paragon: Path | None, metric: str, as_json: bool) -> None:
    """Say what an upgrade is worth: RUN's anchor is the old model, its student the new one.

    Prints M(query, gallery) of old/old, new/old, new/new and of the paragon, the new network trained
    without the old model, with 95 % intervals over classes; whether the compatibility criterion holds; the
    update gain, the tax, and the negative flips from the old system to new queries in the old gallery.

    \b
    Example:
      hetero train upgrade anchor.source=runs/old/anchor --run runs/new
      hetero upgrade evaluate runs/new
    """
    need_training_stack()
    from hetero.retrieval import metric as known_metric
    from hetero.runs import Run
    from hetero.upgrades.evaluation import evaluate_run

    known_metric(metric)  # a misspelt name is refused before anything is embedded
    other = Run.existing(paragon) if paragon else None
    found = evaluate_run(Run.existing(run), paragon=other, metric=metric)
    if as_json:
        print_json(found.to_json())
        return
    _say(found)


def _say(found: Upgrade) -> None:
    click.echo(f"{found.metric}, query model / gallery model")
    for name in ("old_old", "new_old", "new_new", "paragon"):
        estimate: Estimate | None = getattr(found, name)
        if estimate is not None:
            shown = f"{estimate.value:.4f}  ({estimate.low:.4f} to {estimate.high:.4f})"
            click.echo(f"  {name.replace('_', '/'):8}  {shown}")
    click.echo(found.criterion.sentence)
    gain = "none to share" if found.gain is None else f"{found.gain:.1%}"
    tax = "unknown" if found.tax is None else f"{100 * found.tax:+.2f} points"
    click.echo(f"update gain: {gain}; compatibility tax: {tax}")
    if found.flips is not None:
        click.echo(
            f"negative flips: {found.flips.nfr.value:.2%} of queries, positive {found.flips.pfr.value:.2%}"
        )
