"""`hetero upgrade interpolate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hetero.cli.options import json_option, need_training_stack, print_json, root_option, split_option

_path = click.Path(path_type=Path)


@click.command("interpolate")
@click.argument("old", type=_path)
@click.argument("new", type=_path, nargs=-1, required=True)
@click.option("--images", required=True, metavar="SOURCE", help="The new model's training data.")
@click.option(
    "--unseen", metavar="SOURCE", help="Labelled images nobody was trained on: they choose the share."
)
@split_option
@click.option("--share", type=click.FloatRange(0, 1), help="Of the old weights, instead of choosing it.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1),
    default=0.005,
    show_default=True,
    help="Error that may be added to the new model's, where the share is chosen.",
)
@click.option("--fisher", is_flag=True, help="Weigh by the old model's Fisher information.")
@root_option
@click.option("-o", "--output", type=_path, required=True, help="Folder for the model.")
@json_option
def interpolate(old: Path, new: tuple[Path, ...], output: Path, as_json: bool, **options: Any) -> None:
    """A classifier between an old one and its fine-tuned successor: fewer flips, nothing to train.

    OLD and NEW are trained models' folders, NEW fine-tuned from OLD (student.start=OLD/network.safetensors);
    several NEW are averaged first. The share of the old weights is the one of fewest negative flips among
    those that cost no more error than --tolerance, on --unseen images; or the one given. Batch normalisation
    is measured anew on the training images.

    \b
    Example:
      hetero upgrade interpolate v1/anchor v2/student --images photos --unseen held-out -o between
      hetero flips v1/anchor between --classify --queries test-photos
    """
    if (options["share"] is None) == (options["unseen"] is None):
        raise click.UsageError("give either --share, or --unseen images that choose it")
    if output.resolve() in {path.resolve() for path in (old, *new)}:
        raise click.UsageError(f"{output} is one of the models that are mixed: give another --output")
    need_training_stack()
    from hetero.models.store import check_target
    from hetero.upgrades.shares import Generations, Trial, chosen, tried, unseen_images

    check_target(output)
    root, share = options["root"], options["share"]
    trials: tuple[Trial, ...] = ()
    generations = Generations.open(old, new, options["images"], fisher=options["fisher"], root=root)
    if share is None:
        unseen = unseen_images(generations, options["unseen"], options["split"], root)
        trials = tried(generations, unseen)
        share = chosen(trials, options["tolerance"]).share
    made_of = {"interpolated": [str(old), *map(str, new)], "share": share}
    generations.mixed(share).save(output, made_of)
    if as_json:
        print_json({"share": share, "model": str(output), "trials": [vars(trial) for trial in trials]})
        return
    for trial in trials:
        mark = "  <- chosen" if trial.share == share else ""
        click.echo(f"share {trial.share:.1f}  error {trial.error:7.2%}  NFR {trial.nfr:7.2%}{mark}")
    click.echo(f"model  {output}, with {share:.0%} of the old weights")
