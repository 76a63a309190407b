"""Where models run: the job contract, the device interface and the devices."""

from hetero_devices.devices.device import Device, Result, embed
from hetero_devices.devices.host import HostDevice
from hetero_devices.devices.job import Job, Latency, Profile, Stopping, Task

__all__ = ["Device", "HostDevice", "Job", "Latency", "Profile", "Result", "Stopping", "Task", "embed"]
