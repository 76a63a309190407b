"""`hetero bench`."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hetero.cli.options import json_option, need_training_stack, print_json, search_options, seed_option
from hetero_devices.bundle import MANIFEST, Bundle
from hetero_devices.devices import build
from hetero_devices.devices.profile import load_profile
from hetero_devices.errors import DeviceError

if TYPE_CHECKING:
    from hetero.runs.bench_source import BenchSource
    from hetero.runs.benching import Outcome


@click.command("bench")
@click.argument("source", type=click.Path(path_type=Path), metavar="RUN_OR_BUNDLE")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--on", "names", multiple=True, default=("host",), show_default=True, help="A device; repeatable."
)
@click.option("--precision", "precisions", multiple=True, help="Only this one; repeatable.")
@click.option("--threads", type=click.IntRange(1), help="Threads of a runtime  [default: the recipe's]")
@click.option("--samples", type=click.IntRange(1), help="Measure at least so many  [default: the recipe's]")
@click.option("--seconds", type=click.FloatRange(0), help="Measure at least so long  [default: the recipe's]")
@click.option(
    "--repeats", type=click.IntRange(1), help="Measure in so many processes  [default: the recipe's]"
)
@click.option("--limit", type=click.IntRange(1), help="Search with only so many of the queries.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Report folder  [default: SOURCE-bench]"
)
@search_options
@seed_option
@json_option
def command(source: Path, overrides: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Run a bundle on devices: golden vectors, search in the anchor's gallery, latency, memory, placement.

    Each device embeds the golden images first; one that gives other vectors than the bundle's fails its gate
    and gets no more work. A run brings its own queries and gallery; for a bundle from elsewhere give
    --queries and --gallery as to `hetero verify`, or only measure. Retrieval is compared with the float
    model and with the same file on this machine. KEY=VALUE changes `gates` and `measure` of the recipe; a
    device's profile adds its own budget. `hetero devices list` names the devices.

    Writes report.html, report.md and report.json. Killed at any moment, the same command continues. Exit code
    1 if a gate fails, 2 if a device does not answer (the report then has the others).

    \b
    Example:
      hetero bench runs/demo
      hetero bench runs/demo --on host --on emulated-a76 --precision int8 measure.threads=2
      hetero bench phone-model --on pixel-8 --queries glyphs --gallery cloud/test
    """
    if (options["queries"] is None) != (options["gallery"] is None):
        raise click.UsageError("a search needs both --queries and --gallery")
    need_training_stack()
    from hetero import report as reports

    named = source if source.name else source.resolve()  # "." has no name
    folder = options["output"] or named.with_name(f"{named.name}-bench")
    opened = _opened(source, _settings(overrides, options), options)
    outcome = _benched(opened.limited(options["limit"]), folder, options)
    page = reports.write(outcome.report, folder)
    if as_json:
        print_json(outcome.report.to_json() | {"failures": dict(outcome.failures)})
    else:
        reports.show(outcome.report)
        click.echo(f"\nreport: {page}")
    for line in outcome.failures.values():
        click.echo(f"error: {line}", err=True)
    sys.exit(2 if outcome.failures else 0 if outcome.report.passed else 1)


def _settings(overrides: tuple[str, ...], options: dict[str, Any]) -> tuple[str, ...]:
    """The options that stand for recipe keys, before the pairs, which win."""
    keys = {"threads": "threads", "samples": "min_samples", "seconds": "min_seconds", "repeats": "repeats"}
    given = {key: options[name] for name, key in keys.items() if options[name] is not None}
    if "min_seconds" in given:
        given["max_seconds"] = max(30.0, 2 * given["min_seconds"])
    return (*(f"measure.{key}={value}" for key, value in given.items()), *overrides)


def _opened(source: Path, overrides: tuple[str, ...], options: dict[str, Any]) -> BenchSource:
    from hetero.runs.bench_source import BenchSource
    from hetero.runs.bundle_gates import Search

    if not (source / MANIFEST).is_file() and (source / "recipe.json").is_file():
        if options["queries"]:
            raise click.UsageError("a run brings its own queries and gallery: leave those options out")
        return BenchSource.of_run(source, overrides)
    bundle = Bundle.open(source)
    search = None
    if options["queries"]:
        given = {key: options[key] for key in ("reference", "split", "root")}
        size, seed = bundle.manifest.preprocessing.size, options["seed"] or 0
        search = Search.load(options["queries"], options["gallery"], size=size, seed=seed, **given)
    return BenchSource.of_bundle(bundle, options["recipe"], overrides, search)


def _benched(opened: BenchSource, folder: Path, options: dict[str, Any]) -> Outcome:
    from hetero.progress import counter
    from hetero.runs.benching import Target, bench

    names, models = options["names"], opened.models(options["formats"], options["precisions"])
    if len(set(names)) < len(names):
        raise DeviceError(f"a device is named twice: {', '.join(names)}")
    profiles = {name: load_profile(name) for name in names}
    images = len(opened.search.images) if opened.search else 0
    with ExitStack() as stack:
        targets = [
            Target(stack.enter_context(closing(build(name, profile))), profile.budget, profile.formats)
            for name, profile in profiles.items()
        ]
        advance = stack.enter_context(counter("queries", images * len(models) * len(targets)))
        return bench(
            opened.bundle,
            targets,
            folder,
            search=opened.search,
            models=models,
            config=opened.recipe.gates,
            measuring=opened.recipe.measure,
            advance=advance,
        )
