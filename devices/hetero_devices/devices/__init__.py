"""Where models run: the job contract, the device interface and the devices."""

from hetero_devices.devices.device import Device, Result, embed
from hetero_devices.devices.host import HostDevice
from hetero_devices.devices.job import Condition, Job, Latency, Profile, Stopping, Task
from hetero_devices.devices.registry import build, open_device
from hetero_devices.devices.shards import embed_in_shards

__all__ = [
    "Condition",
    "Device",
    "HostDevice",
    "Job",
    "Latency",
    "Profile",
    "Result",
    "Stopping",
    "Task",
    "build",
    "embed",
    "embed_in_shards",
    "open_device",
]
