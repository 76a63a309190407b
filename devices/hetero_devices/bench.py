"""Measure every model of a bundle on a device, and ask where its operators run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from hetero_devices.bundle import Bundle, ModelFile
from hetero_devices.devices import Device, Job, Latency, Profile, Stopping, Task
from hetero_devices.errors import DeviceError


def profile_bundle(
    device: Device,
    bundle: Bundle,
    *,
    threads: int = 1,
    stopping: Stopping | None = None,
    models: Iterable[ModelFile] | None = None,
    tasks: tuple[Task, ...] = ("latency", "memory", "placement"),
    repeats: int = 1,
    cpus: tuple[int, ...] = (),
) -> dict[str, Profile]:
    """File name -> what `tasks` measure on the golden images; every model runs in processes of its own.

    models: those to measure, by default all. repeats: in how many processes latency is measured; the other
    tasks are done once. cpus: processors to pin to, none for the system's choice. Raises MissingExtra or
    DeviceError as `Device.run`.
    """
    images = bundle.path(bundle.manifest.golden.images)
    return {
        model.file: profile_repeatedly(
            device,
            Job(
                model=str(bundle.path(model)),
                images=str(images),
                tasks=tasks,
                threads=threads,
                cpus=cpus,
                stopping=stopping or Stopping(),
            ),
            repeats,
        )
        for model in models or bundle.manifest.models
    }


def profile_repeatedly(device: Device, job: Job, repeats: int) -> Profile:
    """The profile of a job whose latency is measured in `repeats` processes. Raises as `Device.run`."""
    if repeats < 1:
        raise DeviceError(f"latency is measured at least once, not {repeats} times")
    first = device.run(job).profile
    if first.latency is None:  # not asked for, or the device does not measure
        return first
    again = replace(job, tasks=("latency",))
    return combined([first, *(device.run(again).profile for _ in range(repeats - 1))])


def combined(profiles: Sequence[Profile]) -> Profile:
    """The first profile with latency, energy and conditions of the median repeat (of two: the faster).

    It is throttled, and its clock dropped, when that happened to any repeat.
    """
    measured = [(profile.latency, profile) for profile in profiles if profile.latency is not None]
    measured.sort(key=lambda pair: pair[0].p50_ms)
    latency, median = measured[(len(measured) - 1) // 2]
    return replace(
        profiles[0],
        latency=replace(latency, repeats=len(measured), spread=_spread([found for found, _ in measured])),
        before=median.before,
        after=median.after,
        energy_mj=median.energy_mj,
        energy_source=median.energy_source,
        throttled=_any([profile.throttled for profile in profiles]),
        clock_dropped=_any([profile.clock_dropped for profile in profiles]),
    )


def _spread(ascending: Sequence[Latency]) -> float | None:
    """(max - min) / median of p50; None for a single repeat."""
    p50 = [latency.p50_ms for latency in ascending]
    return (p50[-1] - p50[0]) / p50[(len(p50) - 1) // 2] if len(p50) > 1 else None


def _any(told: Sequence[bool | None]) -> bool | None:
    """Whether one says yes; None when none says anything."""
    heard = [answer for answer in told if answer is not None]
    return any(heard) if heard else None
