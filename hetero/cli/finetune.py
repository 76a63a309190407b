"""`hetero finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hetero.cli.options import (
    json_option,
    need_export_stack,
    need_training_stack,
    print_json,
    seed_option,
    with_seed,
)

if TYPE_CHECKING:
    from hetero.linear.config import FinetuneConfig
    from hetero.linear.methods import Method
    from hetero.linear.source import Source
    from hetero.report.table import Table

    Methods = tuple[Method, ...]
    Result = tuple[dict[str, Any], Table]

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
@click.option(
    "--targets",
    type=click.Choice(["labels", "anchor"]),
    default="labels",
    show_default=True,
    help="Learn classes, or the embeddings of the anchor of SOURCE's run.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder  [default: runs/finetune]")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Export the fine-tuned network there, as its run does; with one method.",
)
@seed_option
@json_option
def command(
    source: str,
    overrides: tuple[str, ...],
    methods: tuple[str, ...],
    targets: str,
    output: Path | None,
    bundle: Path | None,
    seed: int | None,
    as_json: bool,
    **short: str | None,
) -> None:
    """Adapt a trained network to new classes from a few images of each, and compare how.

    SOURCE is a run (its student), a trained model's folder (RUN/student, RUN/anchor) or timm:NAME. Classes it
    was trained on are left out. `lqf` trains the network's first-order expansion by a quadratic loss; the
    others are its baselines and its ablations. Learning rates are chosen on validation images. With
    --targets anchor a student learns the embeddings of its run's anchor instead, and is scored by search in
    the anchor's gallery before and after.
    KEY=VALUE pairs change lesson.epochs, lesson.batch, lesson.decay, task.classes, task.validation, target,
    rates, expand, damping and more. Killed at any moment, the same command continues with the same result.

    \b
    Example:
      hetero finetune runs/demo/student --data photos --shots 5 --method lqf --method finetune
      hetero finetune runs/demo/anchor --data omniglot --root ~/data --method all task.classes=50
      hetero finetune runs/demo/student --data photos --shots 5 --bundle classifier
      hetero finetune runs/demo/student --data photos --targets anchor --shots all --bundle updated
    """
    need_training_stack()
    from hetero.linear.methods import chosen
    from hetero.linear.source import open_source
    from hetero.report.terminal import print_table

    if bundle is not None:
        _check_bundle(methods)
    wanted, config = chosen(methods), _config(overrides, seed, short)
    folder, opened = output or Path("runs") / "finetune", open_source(source, config.size)
    values, table = (_update if targets == "anchor" else _adapt)(folder, opened, config, wanted)
    if bundle is not None:
        (_export_update if targets == "anchor" else _export)(folder, opened, config, wanted, bundle)
        values["bundle"] = str(bundle)
    if as_json:
        print_json(values)
    else:
        print_table(table)
        click.echo(f"folder: {folder}")
        if bundle is not None:
            click.echo(f"bundle: {bundle}")


def _check_bundle(methods: tuple[str, ...]) -> None:
    """Before anything is trained."""
    if len(methods) != 1 or "all" in methods:
        raise click.UsageError("--bundle exports one network: give one --method")
    need_export_stack()


def _adapt(folder: Path, source: Source, config: FinetuneConfig, methods: Methods) -> Result:
    from hetero.linear import table as tables
    from hetero.linear.adaptation import Adaptation, outcomes

    adaptation = Adaptation.open(folder, source, config)
    found = outcomes(adaptation, methods)
    return tables.fields(adaptation, found), tables.table(adaptation, found)


def _update(folder: Path, source: Source, config: FinetuneConfig, methods: Methods) -> Result:
    from hetero.linear import table as tables
    from hetero.linear.compatible import CompatibleUpdate, check, update_fields

    for method in methods:
        check(method)
    update = CompatibleUpdate.open(folder, source, config)
    found = [update.updated(method) for method in methods]
    return update_fields(update, found), tables.update_table(update, found)


def _export(folder: Path, source: Source, config: FinetuneConfig, methods: Methods, bundle: Path) -> None:
    from hetero.linear.adaptation import Adaptation
    from hetero_export.finetuned import export_classifier

    (method,) = methods
    export_classifier(Adaptation.open(folder, source, config), method, bundle)


def _export_update(
    folder: Path, source: Source, config: FinetuneConfig, methods: Methods, bundle: Path
) -> None:
    from hetero.linear.compatible import CompatibleUpdate
    from hetero_export.finetuned import export_update

    (method,) = methods
    export_update(CompatibleUpdate.open(folder, source, config), method, bundle)


def _config(overrides: tuple[str, ...], seed: int | None, short: dict[str, str | None]) -> FinetuneConfig:
    from hetero.linear.config import FinetuneConfig
    from hetero.recipes.resolve import changed

    keys = {"data": "task.source", "root": "task.root", "shots": "task.shots"}
    pairs = [f"{keys[name]}={value}" for name, value in short.items() if value is not None]
    return changed(FinetuneConfig(), with_seed((*pairs, *overrides), seed))
