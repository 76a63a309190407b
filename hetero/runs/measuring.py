"""Latency, memory and operator placement of a bundle's models, as rows of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hetero.recipes.recipe import MeasureConfig
from hetero.report import LatencyRow, PlacementRow
from hetero_devices.bench import profile_bundle
from hetero_devices.bundle import Bundle, ModelFile
from hetero_devices.devices import Device, Profile, Stopping, Task

EVERYTHING: tuple[Task, ...] = ("latency", "memory", "placement")


def measure(
    bundle: Bundle,
    models: Sequence[ModelFile],
    config: MeasureConfig,
    device: Device,
    tasks: tuple[Task, ...] = EVERYTHING,
) -> tuple[tuple[LatencyRow, ...], tuple[PlacementRow, ...]]:
    """Profile the models one after another on `device`; rows of what `tasks` ask for.

    Raises MissingExtra or DeviceError as `Device.run`.
    """
    stopping = Stopping(
        warm_up=config.warmup,
        min_samples=config.min_samples,
        min_seconds=config.min_seconds,
        max_seconds=config.max_seconds,
    )
    profiles = profile_bundle(
        device, bundle, threads=config.threads, stopping=stopping, models=models, tasks=tasks
    )
    return _latency(models, profiles, device), _placement(models, profiles, device)


def _latency(
    models: Sequence[ModelFile], profiles: Mapping[str, Profile], device: Device
) -> tuple[LatencyRow, ...]:
    rows = []
    for model in models:
        profile = profiles[model.file]
        if profile.latency is None:
            continue
        rows.append(
            LatencyRow(
                artefact=model.file,
                device=device.name,
                runtime=f"{profile.runtime['runtime']} {profile.runtime['version']}",
                threads=profile.threads,
                p50_ms=profile.latency.p50_ms,
                p90_ms=profile.latency.p90_ms,
                p95_ms=profile.latency.p95_ms,
                peak_mb=profile.peak_memory_mb,
                size_kb=model.bytes / 1000,
            )
        )
    return tuple(rows)


def _placement(
    models: Sequence[ModelFile], profiles: Mapping[str, Profile], device: Device
) -> tuple[PlacementRow, ...]:
    found = ((model, profiles[model.file].placement) for model in models)
    return tuple(
        PlacementRow(artefact=m.file, precision=m.precision, device=device.name, placement=where)
        for m, where in found
        if where is not None
    )
