"""Measure every model of a bundle on a device, and ask where its operators run."""

from __future__ import annotations

from collections.abc import Iterable

from hetero_devices.bundle import Bundle, ModelFile
from hetero_devices.devices import Device, Job, Profile, Stopping, Task


def profile_bundle(
    device: Device,
    bundle: Bundle,
    *,
    threads: int = 1,
    stopping: Stopping | None = None,
    models: Iterable[ModelFile] | None = None,
    tasks: tuple[Task, ...] = ("latency", "memory", "placement"),
) -> dict[str, Profile]:
    """File name -> what `tasks` measure on the golden images; every model runs in processes of its own.

    models: those to measure, by default all. Raises MissingExtra or DeviceError as `Device.run`.
    """
    images = bundle.path(bundle.manifest.golden.images)
    return {
        model.file: device.run(
            Job(
                model=str(bundle.path(model)),
                images=str(images),
                tasks=tasks,
                threads=threads,
                stopping=stopping or Stopping(),
            )
        ).profile
        for model in models or bundle.manifest.models
    }
