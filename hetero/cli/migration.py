"""`hetero upgrade plan`, `store`, `apply`, `status`, `pause`, `resume` and `rollback`: moving a gallery."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hetero.cli.options import (
    json_option,
    need_training_stack,
    print_json,
    root_option,
    seed_option,
    split_option,
)
from hetero_devices.runtimes.base import FORMATS

if TYPE_CHECKING:
    from hetero.upgrades.backfill.plan import Plan
    from hetero.upgrades.migration.control import Status
    from hetero.upgrades.migration.state import State

_FOLDER = click.Path(path_type=Path)


@click.command("plan")
@click.argument("gallery", type=_FOLDER)
@click.option("-o", "--output", required=True, type=_FOLDER, help="Folder to write the plan to.")
@click.option("--order", default="auto", show_default=True, help="See above; auto: the best on the sample.")
@click.option("--new-gallery", type=_FOLDER, help="Some or all of the gallery's images by the new model.")
@click.option("--new-queries", type=_FOLDER, help="Labelled queries by the new model.")
@click.option("--old-queries", type=_FOLDER, help="The same queries in the old space.")
@click.option("--traffic", type=_FOLDER, help="Logged queries in the old space, for the order of that name.")
@click.option("--metric", default="map", show_default=True, help="Of the curve, as for `hetero matrix`.")
@click.option("--merge", type=click.Choice(["quantile", "calibrated"]), default="quantile", show_default=True)
@click.option("--points", type=click.IntRange(2), default=21, show_default=True, help="Of the curve.")
@click.option("--target", type=float, help="Metric to reach  [default: the new model on both sides]")
@click.option("--model", type=_FOLDER, help="The new model: its embedding rate is measured here.")
@click.option("--images", metavar="SOURCE", help="Images to measure the rate with.")
@root_option
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Images a second, measured elsewhere.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="That embed at once.")
@click.option("--price", type=click.FloatRange(0), help="Of one worker for an hour, in your currency.")
@seed_option
@json_option
def plan_(gallery: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Plan which images of GALLERY, embeddings by the old model, are embedded again first.

    With --new-gallery and --new-queries the backfill curve is measured: the metric of new queries against a
    gallery of which a share is re-embedded. Old and new vectors of one space stand in one index; those of two
    spaces are searched separately, with --old-queries in the old one, and merged by --merge, never by raw
    score. Choose on validation data: an order picked by test queries is picked by them.

    \b
    random       in no order
    class-mean   farthest from the mean of its class first
    uncertainty  highest entropy over the class means first
    class-size   largest class first
    traffic      most often found by logged queries first (--traffic)

    \b
    Example:
      hetero upgrade plan old/test --new-gallery new/test --new-queries new/test \\
        --old-queries old/test --rate 120 --price 0.9 -o plan
    """
    need_training_stack()
    from hetero.upgrades.backfill.plan import check_plan_target, save_plan
    from hetero.upgrades.backfill.planning import make_plan
    from hetero_devices.space import Embeddings

    check_plan_target(output)
    old = Embeddings.load(gallery)
    wish, sample, space = _asked(old, options)
    traffic = Embeddings.load(options["traffic"]) if options["traffic"] else None
    plan, ids, curves = make_plan(old, space, wish, sample, traffic)
    save_plan(output, plan, ids, curves)
    print_json(asdict(plan)) if as_json else _show_plan(plan, output)


@click.command("store")
@click.argument("gallery", type=_FOLDER)
@click.argument("store")
@click.option("--name", default="gallery", show_default=True, help="Of the gallery, in Milvus.")
@json_option
def store_(gallery: Path, store: str, name: str, as_json: bool) -> None:
    """Put GALLERY, a folder of embeddings, into STORE as its first version, and make it live.

    STORE is a folder (plain files), a file that ends in .db (Milvus Lite), or http://HOST:PORT (Milvus).
    Killed, the same command continues.

    \b
    Example:
      hetero upgrade store old/test cloud.db
    """
    need_training_stack()
    from hetero.upgrades.gallery import check_gallery
    from hetero.upgrades.migration.loading import load_gallery
    from hetero.upgrades.stores import open_store
    from hetero_devices.space import Embeddings

    embeddings = Embeddings.load(gallery)
    check_gallery(embeddings)  # before there is a store
    opened = open_store(store, name, create=True)
    try:
        version = load_gallery(opened, embeddings)
    finally:
        opened.close()
    fields = {"store": store, "version": version, "images": len(embeddings)}
    if as_json:
        print_json(fields | {"space": embeddings.space.to_json()})
        return
    click.echo(f"{len(embeddings):7} embeddings in space {embeddings.space.id} -> {store}, live as {version}")


@click.command("apply")
@click.argument("plan", type=_FOLDER)
@click.option("--store", required=True, help="As for `hetero upgrade store`.")
@click.option("--name", default="gallery", show_default=True, help="Of the gallery, in Milvus.")
@click.option("--embeddings", type=_FOLDER, help="The whole gallery by the new model, already embedded.")
@click.option("--model", type=_FOLDER, help="The new model: a trained model's folder or a bundle.")
@click.option("--images", metavar="SOURCE", help="The gallery's images, as for `hetero embed`.")
@split_option
@click.option("--format", "format_", type=click.Choice(FORMATS), default="onnx", show_default=True)
@click.option("--precision", default="fp32", show_default=True, help="Of a bundle.")
@root_option
@click.option("--batch", type=click.IntRange(1), default=1024, show_default=True, help="Images at a time.")
@click.option("--hold", is_flag=True, help="Stop before the cut-over; `resume` carries it out.")
@seed_option
@json_option
def apply(plan: Path, store: str, name: str, as_json: bool, **options: Any) -> None:
    """Carry out PLAN on a gallery store: embed in its order, write, cut over when everything is there.

    The new vectors go into a version of their own beside the old one, which stays live until the last is
    written and remains for `rollback`. Killed at any moment, the same command (or `resume`) continues;
    nothing is lost or doubled. Give --embeddings, or --model and --images.

    \b
    Example:
      hetero upgrade apply plan --store cloud.db --model runs/new/anchor --images photos --split test
    """
    need_training_stack()
    from hetero.upgrades.migration.migrate import Settings

    settings = Settings(_described(options), name, options["batch"], options["hold"])
    _report(_migrated(plan, store, settings), as_json)


@click.command("status")
@click.argument("plan", type=_FOLDER)
@json_option
def status_(plan: Path, as_json: bool) -> None:
    """Say how far the migration of PLAN is, from any process: the store is not touched.

    \b
    Example:
      hetero upgrade status plan
    """
    need_training_stack()
    from hetero.upgrades.migration.control import status

    _show_status(status(plan), as_json)


@click.command("pause")
@click.argument("plan", type=_FOLDER)
@click.option("--wait", default=60.0, show_default=True, type=click.FloatRange(0), help="Seconds at most.")
@json_option
def pause_(plan: Path, wait: float, as_json: bool) -> None:
    """Ask the process that applies PLAN to stop after its batch, and wait until it has.

    \b
    Example:
      hetero upgrade pause plan
    """
    need_training_stack()
    from hetero.upgrades.migration.control import pause

    _show_status(pause(plan, wait), as_json)


@click.command("resume")
@click.argument("plan", type=_FOLDER)
@json_option
def resume(plan: Path, as_json: bool) -> None:
    """Go on with a migration that was paused, killed, held, or rolled back, with the settings it had.

    \b
    Example:
      hetero upgrade resume plan
    """
    need_training_stack()
    from hetero.upgrades.migration.control import unpause
    from hetero.upgrades.migration.migrate import Settings

    state = unpause(plan)
    _report(_migrated(plan, state.store, Settings(state.source, state.gallery, state.batch)), as_json)


@click.command("rollback")
@click.argument("plan", type=_FOLDER)
@click.option("--drop", is_flag=True, help="Delete the new version; otherwise `resume` has no work to do.")
@json_option
def rollback_(plan: Path, drop: bool, as_json: bool) -> None:
    """Make the old version live again, at once, whether PLAN was finished or not.

    \b
    Example:
      hetero upgrade rollback plan
    """
    need_training_stack()
    from hetero.upgrades.migration.control import rollback
    from hetero.upgrades.migration.state import Folder
    from hetero.upgrades.stores import open_store

    state = Folder(plan).require()
    store = open_store(state.store, state.gallery)
    try:
        _report(rollback(plan, store, drop), as_json)
    finally:
        store.close()


COMMANDS = (plan_, store_, apply, status_, pause_, resume, rollback_)


def _asked(old: Any, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """(what is wished of the plan, the sample or None, the new model's space)."""
    from hetero.upgrades.backfill.planning import Wish
    from hetero.upgrades.backfill.sample import sample_of
    from hetero_devices.space import Embeddings

    wish = Wish(
        order=options["order"],
        metric=options["metric"],
        merge=options["merge"],
        points=options["points"],
        seed=options["seed"] or 0,
        target=options["target"],
        images_per_second=options["rate"],
        workers=options["workers"],
        price_per_hour=options["price"],
    )
    given = {name: options[name] for name in ("new_gallery", "new_queries", "old_queries")}
    sides = {name: Embeddings.load(folder) for name, folder in given.items() if folder}
    if ("new_gallery" in sides) != ("new_queries" in sides) or (sides and "new_queries" not in sides):
        raise click.UsageError("a curve needs both --new-gallery and --new-queries")
    space = sides["new_gallery"].space if sides else None
    if options["model"]:
        wish, space = _measured(wish, options)
    if space is None:
        raise click.UsageError("say what the new model is: --new-gallery and --new-queries, or --model")
    if not sides:
        return wish, None, space
    sample = sample_of(old, sides["new_gallery"], sides["new_queries"], sides.get("old_queries"))
    return wish, sample, space


def _measured(wish: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """The wish with the model's own rate where no other is given, and the model's space."""
    from hetero import data
    from hetero.models.opening import open_encoder
    from hetero.upgrades.backfill.cost import measure_rate

    encoder = open_encoder(options["model"])
    if wish.images_per_second is None and options["images"]:
        splits = data.load(options["images"], size=encoder.preprocessing.size, root=options["root"])
        rate = measure_rate(encoder, splits.test.images[:64])
        wish = replace(wish, images_per_second=rate)
    return wish, encoder.space


def _described(options: dict[str, Any]) -> dict[str, str]:
    from hetero.upgrades.migration.opening import model_source, stored_source

    if options["embeddings"] is not None:
        if options["model"] or options["images"]:
            raise click.UsageError("give --embeddings, or --model and --images, not both")
        return stored_source(options["embeddings"])
    if not options["model"] or not options["images"]:
        raise click.UsageError("give --embeddings, or --model and --images")
    return model_source(
        options["model"],
        options["images"],
        options["split"],
        root=options["root"],
        format=options["format_"],
        precision=options["precision"],
        seed=options["seed"] or 0,
    )


def _migrated(plan: Path, address: str, settings: Any) -> State:
    from hetero.upgrades.backfill.plan import load_plan
    from hetero.upgrades.migration.migrate import migrate
    from hetero.upgrades.migration.opening import open_source
    from hetero.upgrades.stores import open_store

    load_plan(plan)  # before images are decoded
    store = open_store(address, settings.gallery)
    try:
        return migrate(plan, store, open_source(settings.source), settings)
    finally:
        store.close()


_SAID = {
    "paused": "paused: 'hetero upgrade resume' goes on",
    "complete": "complete, not live: 'hetero upgrade resume' cuts over",
    "live": "live",
    "rolled-back": "rolled back: the old version is live",
}


def _report(state: State, as_json: bool) -> None:
    if as_json:
        print_json(asdict(state))
        return
    click.echo(f"{state.store}: {_versions(state)}, {_SAID[state.phase]}")


def _versions(state: State) -> str:
    return f"{state.old_version} -> {state.new_version or 'nothing'}"


def _show_status(found: Status, as_json: bool) -> None:
    if as_json:
        print_json(found.to_json() | {"phase": found.phase})
        return
    state = found.state
    share = 100 * found.done / max(1, state.total)
    click.echo(f"{state.store}: {_versions(state)}, {found.phase}")
    click.echo(f"{found.done} of {state.total} images re-embedded ({share:.1f} %)")
    if found.images_per_second and found.done < state.total:
        click.echo(f"{found.images_per_second:.1f} images a second, {found.hours_left:.2f} hours left")


def _show_plan(plan: Plan, folder: Path) -> None:
    from hetero.report.terminal import print_table
    from hetero.upgrades.backfill.tables import curve_table, plan_lines

    if plan.curves:
        print_table(curve_table(plan))
    for line in plan_lines(plan):
        click.echo(line)
    click.echo(f"plan: {folder / 'plan.json'}")
