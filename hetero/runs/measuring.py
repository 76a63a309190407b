"""Latency, memory and operator placement of a bundle's models, as rows of a report."""

from __future__ import annotations

from collections.abc import Sequence

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
    profiles = profile_bundle(
        device,
        bundle,
        threads=config.threads,
        stopping=stopping_of(config),
        models=models,
        tasks=tasks,
        repeats=config.repeats,
        cpus=config.cpus,
    )
    found = [(model, profiles[model.file]) for model in models]
    latency = (latency_row(model, device.name, profile) for model, profile in found)
    placement = (placement_row(model, device.name, profile) for model, profile in found)
    return tuple(filter(None, latency)), tuple(filter(None, placement))


def stopping_of(config: MeasureConfig) -> Stopping:
    """The recipe's rule for ending a measurement."""
    return Stopping(
        warm_up=config.warmup,
        min_samples=config.min_samples,
        min_seconds=config.min_seconds,
        max_seconds=config.max_seconds,
    )


def latency_row(model: ModelFile, device: str, profile: Profile) -> LatencyRow | None:
    """None where nothing was timed."""
    if profile.latency is None:
        return None
    return LatencyRow(
        artefact=model.file,
        device=device,
        runtime=f"{profile.runtime['runtime']} {profile.runtime['version']}",
        threads=profile.threads,
        p50_ms=profile.latency.p50_ms,
        p90_ms=profile.latency.p90_ms,
        p95_ms=profile.latency.p95_ms,
        peak_mb=profile.peak_memory_mb,
        size_kb=model.bytes / 1000,
    )


def placement_row(model: ModelFile, device: str, profile: Profile) -> PlacementRow | None:
    """None where the runtime does not tell."""
    if profile.placement is None:
        return None
    return PlacementRow(
        artefact=model.file, precision=model.precision, device=device, placement=profile.placement
    )
