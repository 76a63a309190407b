"""`hetero finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hetero.cli.options import json_option, need_training_stack, print_json, seed_option, with_seed

_METHODS = "head, gradients, finetune, finetune-mse, lqf, lqf-relu, lqf-ce, lqf-sgd"


@click.command("finetune")
@click.argument("source")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", metavar="SOURCE", help="Labelled images: a named data set or a path.")
@click.option("--root", help="Folder of the named data sets.")
@click.option("--shots", metavar="N", help="Training images a class, or all  [default: 5]")
@click.option(
    "--method",
    "methods",
    multiple=True,
    default=("lqf",),
    show_default=True,
    help=f"Repeatable, or all: {_METHODS}.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder  [default: runs/finetune]")
@seed_option
@json_option
def command(
    source: str,
    overrides: tuple[str, ...],
    methods: tuple[str, ...],
    output: Path | None,
    seed: int | None,
    as_json: bool,
    **short: str | None,
) -> None:
    """Adapt a trained network to new classes from a few images of each, and compare how.

    SOURCE is a run (its student), a trained model's folder (RUN/student, RUN/anchor) or timm:NAME. Classes it
    was trained on are left out. `lqf` trains the network's first-order expansion by a quadratic loss; the
    others are its baselines and its ablations. Learning rates are chosen on validation images.
    KEY=VALUE pairs change lesson.epochs, lesson.batch, lesson.decay, task.classes, task.validation, target,
    rates, expand, damping and more. Killed at any moment, the same command continues with the same result.

    \b
    Example:
      hetero finetune runs/demo/student --data photos --shots 5 --method lqf --method finetune
      hetero finetune runs/demo/anchor --data omniglot --root ~/data --method all task.classes=50
    """
    need_training_stack()
    from hetero.linear import table as tables
    from hetero.linear.adaptation import Adaptation, outcomes
    from hetero.linear.methods import chosen
    from hetero.linear.source import open_source

    wanted, config = chosen(methods), _config(overrides, seed, short)
    adaptation = Adaptation.open(
        output or Path("runs") / "finetune", open_source(source, config.size), config
    )
    found = outcomes(adaptation, wanted)
    if as_json:
        print_json(tables.fields(adaptation, found))
    else:
        from hetero.report.terminal import print_table

        print_table(tables.table(adaptation, found))
        click.echo(f"folder: {adaptation.folder}")


def _config(overrides: tuple[str, ...], seed: int | None, short: dict[str, str | None]) -> Any:
    from hetero.linear.config import FinetuneConfig
    from hetero.recipes.resolve import changed

    keys = {"data": "task.source", "root": "task.root", "shots": "task.shots"}
    pairs = [f"{keys[name]}={value}" for name, value in short.items() if value is not None]
    return changed(FinetuneConfig(), with_seed((*pairs, *overrides), seed))
