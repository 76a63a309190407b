"""From a profile to a device: one builder for each kind, imported when it is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from hetero_devices.devices.device import Device
from hetero_devices.devices.profile import DeviceProfile, load_profile


def build(name: str, profile: DeviceProfile, changes: Mapping[str, Any] | None = None) -> Device:
    """The device that `profile` describes. changes: connection settings for this time alone.

    Each kind's module has a function `build(name, connection) -> Device`, which raises DeviceError for a
    setting it does not know. Nothing is contacted before the first job.
    """
    module = import_module(f"hetero_devices.devices.{profile.kind}")
    device: Device = module.build(name, {**profile.connection, **(changes or {})})
    return device


@contextmanager
def open_device(name: str) -> Iterator[Device]:
    """The device of that name for the length of the context. Raises DeviceError as `load_profile`."""
    device = build(name, load_profile(name))
    try:
        yield device
    finally:
        device.close()
