"""`hetero flips`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from hetero.cli.options import (
    json_option,
    need_training_stack,
    print_json,
    root_option,
    seed_option,
    split_option,
)
from hetero_devices.bundle import Precision
from hetero_devices.runtimes.base import FORMATS

if TYPE_CHECKING:
    from hetero.upgrades.pictures import TestImages

F = TypeVar("F", bound=Callable[..., Any])
_path = click.Path(path_type=Path)


def side_options(command: F) -> F:
    """Which of a side's files, where it runs, and what it searches among; once for each side."""
    for side in ("new", "old"):
        for option in (
            click.option(
                f"--{side}-with",
                type=_path,
                multiple=True,
                metavar="MODEL",
                help=f"A further model that answers together with {side.upper()}; repeatable.",
            ),
            click.option(
                f"--{side}-head", type=_path, help=f"Trained model that names {side.upper()}'s classes."
            ),
            click.option(f"--{side}-gallery", type=_path, help=f"As --gallery, of {side.upper()} alone."),
            click.option(f"--{side}-on", metavar="DEVICE", help="Where its bundle runs  [default: here]"),
            click.option(
                f"--{side}-precision", type=click.Choice(get_args(Precision)), help="Of its bundle."
            ),
            click.option(f"--{side}-format", type=click.Choice(FORMATS), help="Of its bundle."),
        ):
            command = option(command)
    return command


@click.command("flips")
@click.argument("old", type=_path)
@click.argument("new", type=_path)
@side_options
@click.option("--gallery", type=_path, help="Stored embeddings that both sides search among.")
@click.option(
    "--queries", metavar="SOURCE", help="Labelled test images  [default: those of a side that is a run]"
)
@split_option
@click.option("--protocol", help="leave-one-out, one-per-class, group=N  [default: the data's own]")
@root_option
@click.option("--classify", is_flag=True, help="Compare named classes instead of searches.")
@click.option("--metric", default="recall@1", show_default=True, help="recall@K: whose success bits flip.")
@click.option("--by-class/--by-query", default=True, show_default=True, help="What intervals resample.")
@click.option("--max-nfr", type=click.FloatRange(0, 1), help="Gate: the largest negative flip rate, a share.")
@click.option("--by-interval", is_flag=True, help="Gate the upper end of the rate's interval instead.")
@click.option("-o", "--output", type=_path, help="Folder for report.html, report.md and report.json.")
@seed_option
@json_option
def command(old: Path, new: Path, as_json: bool, **options: Any) -> None:
    """Which queries did the old system answer that the new one does not?

    OLD and NEW are runs, trained models' folders, bundles, embeddings as `hetero embed` writes them, or the
    vectors that a device's runner left. So the same command compares versions, float with int8, and devices.
    Without a gallery a run searches its anchor's, a model or bundle its own. With --classify the
    classes are compared that each model's head names. Models that answer together are an ensemble: they vote
    by the mean of their cosines, and search what they embed together.

    Says NFR, PFR, relative NFR and NFI with intervals, McNemar's test, each class, and shows the flipped
    queries with what both systems found. Exit code 1 if --max-nfr is exceeded.

    \b
    Example:
      hetero flips runs/v1 runs/v2 -o flips --max-nfr 0.02
      hetero flips runs/v1 runs/v1 --new-precision int8
      hetero flips v1/bundle v1/bundle --queries omniglot --gallery cloud/test --new-on pixel-8
      hetero flips v1/anchor v2/student --classify --queries photos
      hetero flips v1/anchor v2/a --new-with v2/b --new-with v2/c --classify --queries photos
    """
    if options["by_interval"] and options["max_nfr"] is None:
        raise click.UsageError("--by-interval gates nothing without --max-nfr")
    if options["max_nfr"] is not None and isnan(options["max_nfr"]):
        raise click.UsageError("--max-nfr is not a number: give a share between 0 and 1")
    need_training_stack()
    from hetero import report as reports
    from hetero.upgrades.flips import FlipGate, compare

    output, work = options["output"], _work(options["output"], old, new)
    report = compare(
        _wanted(old, "old", options),
        _wanted(new, "new", options),
        work,
        images=_images(options),
        metric=options["metric"],
        classify=options["classify"],
        by_class=options["by_class"],
        gate=FlipGate(options["max_nfr"], options["by_interval"]),
        seed=options["seed"] or 0,
    )
    page = reports.write(report, output) if output else None
    shutil.rmtree(work if output else work.parent, ignore_errors=True)
    if as_json:
        print_json({**report.values, "gates": [vars(gate) for gate in report.gates]})
    else:
        reports.show(report)
        click.echo(f"\nreport: {page}" if page else "\nfor the pictures of the flipped queries add -o FOLDER")
    sys.exit(0 if report.passed else 1)


def _work(output: Path | None, old: Path, new: Path) -> Path:
    """Where finished shards of devices wait, so that a killed command continues."""
    named = new if new.name else new.resolve()
    return (output or named.with_name(f".{old.name}-{named.name}-flips")) / ".work"


def _wanted(path: Path, side: str, options: dict[str, Any]) -> Any:
    from hetero.upgrades.systems import Wanted

    return Wanted(
        path,
        options[f"{side}_format"],
        options[f"{side}_precision"],
        options[f"{side}_on"],
        options[f"{side}_gallery"] or options["gallery"],
        options[f"{side}_head"],
        options[f"{side}_with"],
    )


def _images(options: dict[str, Any]) -> TestImages | None:
    from hetero.upgrades.pictures import TestImages

    if options["queries"] is None:
        if options["protocol"] or options["root"]:
            raise click.UsageError("--protocol and --root say something of --queries, which is not given")
        return None
    return TestImages.of_source(
        options["queries"],
        split=options["split"],
        name=options["protocol"],
        root=options["root"],
        seed=options["seed"] or 0,
    )
