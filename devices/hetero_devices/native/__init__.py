"""The device runner in C, for machines without Python, and how to compile it."""

from hetero_devices.native.build import Target, build_runner

__all__ = ["Target", "build_runner"]
