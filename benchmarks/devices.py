"""One student on all five kinds of device: is it the same model there, and what do its queries find?

Omniglot queries of unseen alphabets, embedded on this host, on a machine behind ssh (a real sshd on
loopback), an Android-like device behind adb (a real arm64 adbd, in namespaces), a web page (headless
Chromium) and an emulated ARM processor, by fp32 and int8 files on both runtimes; all search the anchor's
gallery. The student and its space are those of quantisation.py (seed 0), trained if they are not there.
Devices that cannot be had here are named and left out. Writes results/devices.{json,md}, and the HTML report
in work/devices.

    apt-get install openssh-server adb mmdebstrap gcc-aarch64-linux-gnu chromium npm
    python benchmarks/devices.py --root DATA
    python benchmarks/devices.py --root DATA --on host ssh --queries 128
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the machines that tests start

import quantisation
import results
from hetero import report as reports
from hetero.recipes.recipe import MeasureConfig
from hetero.report.device_tables import devices as side_by_side
from hetero.report.device_tables import drift, runs
from hetero.report.markdown import section
from hetero.runs.bench_source import BenchSource
from hetero.runs.benching import Target, bench
from hetero_devices.devices import Device, Job, Result, open_device
from hetero_devices.devices.browser import packages
from hetero_devices.devices.emulation import default_cache, set_up
from hetero_devices.errors import HeteroError
from hetero_export.loop import export_run
from tests import android, sshd

PRECISIONS = ("fp32", "int8")
MEASURING = MeasureConfig(min_samples=100, min_seconds=0.5, repeats=3)


@dataclass(frozen=True)
class Emulated:
    """A device whose processor is emulated, though it does not say so: what it times means nothing."""

    device: Device

    @property
    def name(self) -> str:
        return self.device.name

    def run(self, job: Job) -> Result:
        result = self.device.run(job)
        profile = replace(result.profile, emulated=True, latency=None, peak_memory_mb=None)
        return replace(result, profile=profile)

    def info(self) -> dict[str, Any]:
        return self.device.info()

    def close(self) -> None:
        self.device.close()


@contextmanager
def _host() -> Iterator[Device]:
    with open_device("host") as device:
        yield device


@contextmanager
def _ssh() -> Iterator[Device]:
    with (
        tempfile.TemporaryDirectory() as name,
        sshd.serve(Path(name) / "sshd") as machine,
        closing(machine.device("ssh")) as device,
    ):
        yield device


@contextmanager
def _adb() -> Iterator[Device]:
    with (
        tempfile.TemporaryDirectory() as name,
        android.boot(Path(name) / "adb") as machine,
        closing(Emulated(machine.device("adb"))) as device,
    ):
        yield device


@contextmanager
def _browser() -> Iterator[Device]:
    packages.set_up()
    with open_device("chromium") as device:
        yield device


@contextmanager
def _emulated() -> Iterator[Device]:
    set_up(default_cache())
    with open_device("emulated-a76") as device:
        yield device


KINDS: dict[str, Callable[[], Any]] = {
    "host": _host,
    "ssh": _ssh,
    "adb": _adb,
    "browser": _browser,
    "emulated": _emulated,
}


def main() -> None:
    options = _options()
    source = _source(options).limited(options.queries)
    folder = results.WORK / "devices"
    with ExitStack() as stack:
        opened, absent = _opened(stack, options.on)
        outcome = bench(
            source.bundle,
            [Target(device) for device in opened],
            folder,
            search=source.search,
            models=source.models((), PRECISIONS),
            config=source.recipe.gates,
            measuring=MEASURING,
        )
    report, absent = outcome.report, {**absent, **outcome.failures}
    page = reports.write(report, folder)
    text = _text(report, absent, options.queries)
    stamp = results.stamp(f"python benchmarks/devices.py --queries {options.queries}", "Omniglot", 0)
    fields = {"stamp": stamp, "absent": absent, "report": report.to_json() | {"figures": []}}
    whole = set(options.on) == set(KINDS)
    results.write("devices" if whole else "devices-part", fields, text)
    print(text, page, sep="\n")
    sys.exit(2 if absent else 0 if report.passed else 1)


def _source(options: argparse.Namespace) -> BenchSource:
    settings = argparse.Namespace(root=options.root, scale="default", device="cpu", anchor=[])
    run = quantisation.Bench("omniglot", 0, settings).variant(quantisation.PLAIN)
    export_run(run)
    return BenchSource.of_run(run.folder)


def _opened(stack: ExitStack, kinds: list[str]) -> tuple[list[Device], dict[str, str]]:
    """The devices that can be had here, and why the others cannot."""
    found, absent = list[Device](), dict[str, str]()
    for kind in kinds:
        try:
            found.append(stack.enter_context(KINDS[kind]()))
        except (HeteroError, pytest.skip.Exception) as error:
            absent[kind] = str(error)
    return found, absent


def _text(report: reports.Report, absent: dict[str, str], queries: int) -> str:
    failed = [f"{gate.name} ({gate.value:.3g})" for gate in report.gates if not gate.passed]
    verdict = f"{len(report.gates) - len(failed)} of {len(report.gates)} gates pass"
    verdict += f", not: {'; '.join(failed)}" if failed else ""
    missing = "".join(f"\nNot run: {kind}: {why}\n" for kind, why in absent.items())
    tables = (side_by_side(report), drift(report), runs(report))
    head = _HEAD.format(queries=queries, verdict=verdict) + missing + "\n"
    return head + "\n\n".join(section(table) for table in tables) + "\n"


_HEAD = """# One student on every kind of device

{queries} Omniglot queries of unseen alphabets, the anchor's gallery on the host. {verdict}.

ssh is a real sshd on loopback; adb a real arm64 adbd with the C runner, its processor emulated; browser is
headless Chromium with the WebAssembly runtimes.
"""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=lambda p: str(Path(p).resolve()), help="folder of the data sets")
    parser.add_argument("--on", nargs="+", choices=tuple(KINDS), default=list(KINDS))
    parser.add_argument("--queries", type=int, default=512, help="so many, evenly taken from all")
    return parser.parse_args()


if __name__ == "__main__":
    main()
