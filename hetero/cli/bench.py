"""`hetero bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hetero.cli.options import json_option, print_json
from hetero_devices.bench import profile_bundle
from hetero_devices.bundle import Bundle
from hetero_devices.devices import HostDevice, Stopping


@click.command("bench")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--on", "device", type=click.Choice(["host"]), default="host", show_default=True, help="Device."
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--samples", type=click.IntRange(1), default=200, show_default=True, help="At least so many.")
@click.option("--seconds", type=click.FloatRange(0), default=1.0, show_default=True, help="At least so long.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Also write the profiles as JSON.")
@json_option
def command(
    bundle: Path, device: str, threads: int, samples: int, seconds: float, output: Path | None, as_json: bool
) -> None:
    """Measure latency and peak memory of every model of a bundle, each in its own torch-free process.

    Single stream, batch 1, on the bundle's golden images; stops when both minima are reached.

    \b
    Example:
      hetero bench runs/demo/bundle --threads 2
    """
    opened = Bundle.open(bundle)
    stopping = Stopping(min_samples=samples, min_seconds=seconds, max_seconds=max(60.0, 2 * seconds))
    profiles = profile_bundle(HostDevice(), opened, threads=threads, stopping=stopping)
    rows = {file: profile.to_json() for file, profile in profiles.items()}
    if output:
        from hetero_devices.files import write_json

        write_json(output, rows)
    print_json(rows) if as_json else _show(opened, rows, device)


def _show(bundle: Bundle, rows: dict[str, Any], device: str) -> None:
    click.echo(
        f"{'model':22} {'device':8} {'p50 ms':>8} {'p90 ms':>8} {'p95 ms':>8} {'peak MB':>8} {'kB':>8}"
    )
    for model in bundle.manifest.models:
        row = rows[model.file]
        latency, memory = row["latency"], row["peak_memory_mb"]
        peak = "-" if memory is None else f"{memory:.1f}"
        click.echo(
            f"{model.file:22} {device:8} {latency['p50_ms']:8.3f} {latency['p90_ms']:8.3f} "
            f"{latency['p95_ms']:8.3f} {peak:>8} {model.bytes / 1000:8.1f}"
        )
