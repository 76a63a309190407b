"""What every benchmark writes beside its figures, and where."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any

from hetero.report import wording
from hetero.retrieval import Estimate
from hetero.runs.environment import environment
from hetero_devices.files import atomic_file, write_json

HERE = Path(__file__).parent
RESULTS = HERE / "results"
WORK = HERE / "work"  # not committed: weights and caches that let a killed benchmark continue


def named(name: str, options: argparse.Namespace, whole: bool) -> str:
    """NAME, with the scale where it is not the default, and `part` where rows or data are missing."""
    scale = "" if options.scale == "default" else f"-{options.scale}"
    return f"{name}{scale}{'' if whole else '-part'}"


def percent(e: Estimate) -> str:
    """A share as `12.34 (11.20 to 13.50)`."""
    return f"{100 * e.value:.2f} ({100 * e.low:.2f} to {100 * e.high:.2f})"


def signed(e: Estimate) -> str:
    """A difference of shares in points, as `+1.20 (-0.30 to +2.70)`."""
    return wording.points(e, 2)


def stamp(command: str, data: str, seed: int) -> dict[str, Any]:
    """Command, data, seed, date and machine of a result."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"command": command, "data": data, "seed": seed, "date": date, "environment": environment()}


def write(name: str, fields: dict[str, Any], table: str, folder: Path = RESULTS) -> None:
    """Write NAME.json and NAME.md into `folder`; the Markdown ends with the stamp in words."""
    write_json(folder / f"{name}.json", fields)
    made = fields["stamp"]
    machine = made["environment"]
    versions = ", ".join(f"{k} {v}" for k, v in machine["packages"].items() if v)
    processor = f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} torch threads"
    where = f"{processor}, {machine['system']}; Python {machine['python']}"
    origin = f"{made['command']}` on {made['date']}; data: {made['data']}; seed {made['seed']}"
    footer = f"\nWritten by `{origin}; {where}, {versions}.\n"
    with atomic_file(folder / f"{name}.md") as temporary:
        temporary.write_text(table + footer)
