"""`hetero devices`."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import click

from hetero.cli.options import json_option, need_export_stack, print_json, seed_option
from hetero_devices.bundle import Precision
from hetero_devices.devices import build
from hetero_devices.devices.doctor import Finding, examine
from hetero_devices.devices.profile import (
    add_profile,
    load_profile,
    own_folder,
    parse_setting,
    profiles,
    remove_profile,
)
from hetero_devices.runtimes import Format


@click.group("devices")
def command() -> None:
    """Devices that bundles are run on: list and add them, ask what they are, make runners, measure blocks.

    A device is a TOML file: those that come with hetero describe typical machines and need an address, yours
    are kept in your configuration folder. Every verb but `table` works without torch.

    \b
    Example:
      hetero devices list
      hetero devices add my-pi --like raspberry-pi-5 host=pi.local user=me
      hetero devices probe my-pi
    """


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the known devices: name, kind, what it is, and how far it was tried.

    \b
    Example:
      hetero devices list --json
    """
    known = {name: load_profile(name) for name in profiles()}
    if as_json:
        print_json({name: asdict(profile) for name, profile in known.items()})
        return
    width = max(map(len, known))
    for name, profile in known.items():
        click.echo(f"{name:{width}}  {profile.kind:8}  {profile.title}  [tested: {profile.tested or 'no'}]")


@command.command("show")
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Print a device's profile as TOML.

    \b
    Example:
      hetero devices show raspberry-pi-5
    """
    profile = load_profile(name)
    print_json(asdict(profile)) if as_json else click.echo(profile.to_toml(), nl=False)


@command.command("add")
@click.argument("name")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--like", required=True, help="The device to start from; see `hetero devices list`.")
@click.option("--title", help="What it is  [default: that device's]")
@json_option
def add(name: str, settings: tuple[str, ...], like: str, title: str | None, as_json: bool) -> None:
    """Keep a device of your own: another one's profile with KEY=VALUE settings of its connection.

    Values are TOML, or text where they are none: a serial of digits alone needs its quotes, serial='"123"'.
    Nothing is contacted; `hetero devices probe NAME` does that.

    \b
    Example:
      hetero devices add my-pi --like raspberry-pi-5 host=pi.local user=me
      hetero devices add my-phone --like pixel-8 serial=1A2B3C
    """
    template = load_profile(like)
    connection = template.connection | dict(map(parse_setting, settings))
    profile = replace(template, connection=connection, title=title or template.title, tested="")
    build(name, profile).close()  # a setting that the kind does not know is refused before it is kept
    _say_path(add_profile(name, profile), as_json)


@command.command("remove")
@click.argument("name")
@json_option
def remove(name: str, as_json: bool) -> None:
    """Forget a device of your own.

    \b
    Example:
      hetero devices remove my-pi
    """
    _say_path(remove_profile(name), as_json)


def _say_path(path: Path, as_json: bool) -> None:
    print_json({"path": str(path)}) if as_json else click.echo(path)


@command.command("probe")
@click.argument("name")
@json_option
def probe(name: str, as_json: bool) -> None:
    """Contact a device and say what it is: processor, instruction sets, runtimes and their versions.

    \b
    Example:
      hetero devices probe my-pi
    """
    with closing(build(name, load_profile(name))) as device:
        found = device.info()
    if as_json:
        print_json(found)
        return
    for part, values in found.items():
        click.echo(part)
        for key, value in values.items() if isinstance(values, dict) else [("", values)]:
            said = " ".join(map(str, value)) if isinstance(value, list) else value
            click.echo(f"  {key:12} {'-' if said is None else said}")


@command.command("doctor")
@click.argument("names", nargs=-1)
@json_option
def doctor(names: tuple[str, ...], as_json: bool) -> None:
    """Say which kinds of device this machine can drive, what is missing, and whether yours answer.

    NAMES: contact these too  [default: every device of your own]. Exit code 1 if one does not answer.

    \b
    Example:
      hetero devices doctor
    """
    own = tuple(sorted(path.stem for path in own_folder().glob("*.toml")))
    findings = examine(names or own)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(_line(finding))
    sys.exit(1 if any(finding.state == "fails" for finding in findings) else 0)


def _line(finding: Finding) -> str:
    colours = {"ok": "green", "missing": "yellow", "fails": "red"}
    mark = click.style(f"{finding.state:7}", fg=colours[finding.state])
    advice = f"  -> {finding.advice}" if finding.advice else ""
    return f"{mark}  {finding.name:16} {finding.detail}{advice}"


@command.command("runner")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The file to write.")
@click.option(
    "--kind",
    type=click.Choice(["python", "x86_64", "aarch64"]),
    default="python",
    show_default=True,
    help="One file for any Python, or the C runner compiled for a processor.",
)
@json_option
def runner(output: Path, kind: str, as_json: bool) -> None:
    """Write the program that does jobs on a device, to be copied there by hand.

    The Python one needs Python 3.11, numpy and a runtime there: `python3 runner.pyz --help`. The C one needs
    no Python, but the runtime's shared library; it is compiled here.

    \b
    Example:
      hetero devices runner -o runner.pyz
      hetero devices runner --kind aarch64 -o runner
    """
    from hetero_devices.devices.zipapp import write_runner
    from hetero_devices.native.build import build_runner

    if kind == "python":
        write_runner(output)
    else:
        build_runner(kind, output)  # type: ignore[arg-type]
    _say_path(output, as_json)


@command.command("setup")
@click.argument("kind", type=click.Choice(["emulated", "browser"]))
@json_option
def setup(kind: str, as_json: bool) -> None:
    """Fetch what a kind of device needs into the cache, once: the ARM root, or the page's runtimes.

    \b
    Example:
      hetero devices setup emulated
      hetero devices setup browser
    """
    from hetero_devices.devices import emulation
    from hetero_devices.devices.browser import packages

    if kind == "browser":
        _say_path(packages.set_up(), as_json)
    else:
        cache = emulation.default_cache()
        emulation.set_up(cache, progress=lambda step: click.echo(step, err=True))
        _say_path(cache, as_json)


@command.command("table")
@click.argument("name")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The JSON file to write."
)
@click.option("--format", type=click.Choice(["onnx", "tflite"]), default="tflite", show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "int8"]), default="int8", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--size", type=click.IntRange(8), default=32, show_default=True, help="Side of the images.")
@click.option(
    "--resolution",
    "resolutions",
    type=click.IntRange(8),
    multiple=True,
    help="Also of networks that resize images to this side; may be repeated.",
)
@click.option("--candidates", type=click.IntRange(0), default=32, show_default=True, help="Whose blocks.")
@click.option("--calibration", type=click.IntRange(3), default=8, show_default=True, help="Measured whole.")
@seed_option
@json_option
def table(
    name: str,
    output: Path,
    format: Format,
    precision: Precision,
    threads: int,
    size: int,
    resolutions: tuple[int, ...],
    candidates: int,
    calibration: int,
    seed: int | None,
    as_json: bool,
) -> None:
    """Measure the blocks of the elastic family on a device, so that a search can price any candidate.

    The blocks of the presets and of seeded random candidates; others are interpolated. Every block is
    exported and measured, which takes a while; both stay in OUTPUT-work, so the same command continues.

    \b
    Example:
      hetero devices table my-pi -o my-pi-int8.json
    """
    need_export_stack()
    from hetero_export.block_table import Bench, device_table

    work = output.with_name(f"{output.stem}-work")
    with closing(build(name, load_profile(name))) as device:
        bench = Bench(device, work, format, precision, threads)
        found = device_table(
            bench,
            size=size,
            resolutions=resolutions,
            candidates=candidates,
            calibration=calibration,
            seed=seed or 0,
        )
    found.save(output)
    if as_json:
        print_json(found.to_json())
        return
    click.echo(f"{output}: {len(found.rows)} blocks of {name}, {format} {precision}, {threads} thread(s)")
    for kind, errors in found.interpolation_errors().items():
        click.echo(
            f"  interpolated {kind}: median error {100 * errors.median:.0f} %, p90 {100 * errors.p90:.0f} %"
        )
