"""Measuring the blocks of networks on a device: every probe exported once, measured in rounds, resumable."""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from hetero.models.elastic import PRESETS, ElasticConfig
from hetero.progress import track
from hetero.search.blocks import Part, Stem, distinct, parts
from hetero.search.candidates import Choices, sample_distinct
from hetero_devices import latency_table, strict
from hetero_devices.bundle import Precision
from hetero_devices.cpu import Cpu
from hetero_devices.devices import Device, Job, Stopping
from hetero_devices.errors import DeviceError
from hetero_devices.files import read_json, sha256_file, write_json
from hetero_devices.latency_table import LatencyTable
from hetero_devices.runtimes import Format
from hetero_export.blocks import COPIES, Probe, export, images

ROUNDS = 3
STOPPING = Stopping(warm_up=20, min_samples=300, min_seconds=0.1, max_seconds=20.0)


@dataclass(frozen=True)
class Bench:
    """Where and how probes are measured.

    folder: keeps exported models and finished measurements, so that a killed run continues; it serves any
    number of devices. rounds: how often each probe is measured, all in turn before one is measured again, so
    that a slow minute of the device does not fall on one part alone.
    """

    device: Device
    folder: Path
    format: Format
    precision: Precision
    threads: int = 1
    rounds: int = ROUNDS
    stopping: Stopping = STOPPING

    def measure(self, probes: Iterable[Probe]) -> Measured:
        """Export and measure; raises ModelError as `export`, DeviceError and MissingExtra as `Device.run`."""
        what = f"{self.format} {self.precision}"
        wanted = {probe.name: probe for probe in probes}
        files = {
            name: export(probe, self.format, self.precision, self.folder)
            for name, probe in track(wanted.items(), f"Exporting {what}", total=len(wanted))
        }
        jobs = [(name, turn) for turn in range(self.rounds) for name in _shuffled(wanted, turn)]
        with tempfile.TemporaryDirectory(prefix="hetero-") as work:
            pixels = _pixels(Path(work), {probe.size for probe in wanted.values()})
            for name, turn in track(jobs, f"Measuring {what}", total=len(jobs)):
                self._measure(files[name], pixels[wanted[name].size], turn)
        return Measured.read({name: self._record(path) for name, path in files.items()}, self.device.name)

    def _measure(self, path: Path, pixels: Path, turn: int) -> None:
        """One more run of this file, unless that many are recorded already."""
        record, digest = self._record(path), sha256_file(path)
        found = read_json(record) if record.is_file() else {"digest": digest, "p50_ms": []}
        if found["digest"] != digest:
            raise DeviceError(f"{record} is of another {path.name}: delete {record.parent} and measure again")
        if len(found["p50_ms"]) > turn:
            return
        job = Job(
            model=str(path),
            images=str(pixels),
            tasks=("latency",),
            threads=self.threads,
            stopping=self.stopping,
        )
        profile = self.device.run(job).profile
        if profile.latency is None:
            why = "it is emulated" if profile.emulated else "its runner measured none"
            raise DeviceError(f"{self.device.name} tells no latency ({why}): it has no latency table")
        machine = {"cpu": asdict(profile.cpu), "runtime": profile.runtime}
        write_json(record, {**found, **machine, "p50_ms": [*found["p50_ms"], profile.latency.p50_ms]})

    def _record(self, path: Path) -> Path:
        device = quote(self.device.name, safe="")
        return self.folder / "measured" / f"{device}-t{self.threads}" / f"{path.name}.json"


@dataclass(frozen=True)
class Measured:
    """p50_ms: by probe, the p50 of each round. machine: processor, runtime and version of all of them."""

    p50_ms: dict[str, list[float]]
    machine: dict[str, Any]

    @classmethod
    def read(cls, records: Mapping[str, Path], device: str) -> Measured:
        """DeviceError when the records are of different machines or runtimes."""
        found = {name: read_json(path) for name, path in records.items()}
        machines = [_machine(record) for record in found.values()]
        if any(machine != machines[0] for machine in machines):
            raise DeviceError(
                f"{device} changed its processor or runtime between measurements: delete those in "
                f"{next(iter(records.values())).parent} and measure again"
            )
        return cls({name: record["p50_ms"] for name, record in found.items()}, machines[0])

    def ms(self, probe: Probe) -> float:
        """The fastest round: other work on the device only ever adds."""
        return min(self.p50_ms[probe.name])

    def spread(self) -> float:
        """Median over probes of (slowest - fastest round) / median round."""
        return statistics.median(
            (max(times) - min(times)) / statistics.median(times) for times in self.p50_ms.values()
        )


def probes(found: Sequence[Part]) -> list[Probe]:
    """What has to be measured to price these parts."""
    own = [Probe.of(part) for part in found]
    return list({probe.name: probe for probe in [*own, *map(_carrier, _carried(found))]}.values())


def table(bench: Bench, found: Sequence[Part], measured: Measured) -> LatencyTable:
    """The uncalibrated table of parts whose `probes` were measured.

    Raises DeviceError for a part that seems to cost nothing.
    """
    return LatencyTable(
        device=bench.device.name,
        format=bench.format,
        precision=bench.precision,
        threads=bench.threads,
        cpu=strict.decode(Cpu, measured.machine["cpu"], "cpu", DeviceError),
        runtime=measured.machine["runtime"],
        rows=latency_table.rows(found, {part.key: _ms(part, measured) for part in found}),
    )


def measure_table(
    bench: Bench, networks: Sequence[ElasticConfig], calibration: Sequence[ElasticConfig], *, size: int
) -> LatencyTable:
    """A calibrated table of every part of `networks` and `calibration` on images of `size` x `size`.

    calibration: at least three networks, which are measured whole as well. Killed at any moment, the same
    call continues. Raises as `Bench.measure` and `LatencyTable.calibrated`.
    """
    found = distinct(parts(config, size) for config in (*networks, *calibration))
    wholes = [Probe.whole(config, size) for config in calibration]
    measured = bench.measure([*probes(found), *wholes])
    pairs = zip(calibration, wholes, strict=True)
    return table(bench, found, measured).calibrated(
        [(parts(config, size), measured.ms(whole)) for config, whole in pairs]
    )


def device_table(
    bench: Bench,
    *,
    size: int = 32,
    resolutions: Sequence[int] = (),
    candidates: int = 32,
    calibration: int = 8,
    seed: int = 0,
) -> LatencyTable:
    """A calibrated table of the presets and of seeded random candidates: what `hetero devices table` makes.

    resolutions: to which candidates may resize their images, beside leaving them at `size`. candidates:
    whose blocks are measured, beside the presets'; the calibrating networks are further ones.
    Raises as `measure_table`.
    """
    choices = Choices(resolutions=tuple(resolutions))
    sampled = sample_distinct(candidates + calibration, seed, choices)
    networks = [*PRESETS.values(), *sampled[calibration:]]
    return measure_table(bench, networks, sampled[:calibration], size=size)


def _carried(found: Iterable[Part]) -> list[Any]:
    return [part for part in found if not isinstance(part, Stem)]


def _carrier(part: Any) -> Probe:
    return Probe.carrier(part.inputs, part.resolution)


def _ms(part: Part, measured: Measured) -> float:
    own = measured.ms(Probe.of(part))
    return own if isinstance(part, Stem) else (own - measured.ms(_carrier(part))) / COPIES


def _shuffled(names: Iterable[str], turn: int) -> list[str]:
    order = sorted(names)
    random.Random(turn).shuffle(order)
    return order


def _pixels(folder: Path, sizes: Iterable[int]) -> dict[int, Path]:
    files = {size: folder / f"{size}.npy" for size in sizes}
    for size, path in files.items():
        np.save(path, images(size), allow_pickle=False)
    return files


def _machine(record: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same for times to be added: not how a model was split, which is the model's."""
    runtime = {key: record["runtime"][key] for key in ("runtime", "version")}
    return {"cpu": record["cpu"], "runtime": runtime}
