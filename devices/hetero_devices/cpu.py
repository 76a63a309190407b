"""What this machine's processor is, for the record beside every measurement; None where it does not tell."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# The instruction sets that decide which int8 and bf16 kernels run, in the kernel's spelling (x86, then ARM).
FLAGS = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """machine: architecture, e.g. `x86_64`. cores: usable by this process. flags: those of `FLAGS` it has."""

    machine: str
    model: str | None
    cores: int | None
    flags: tuple[str, ...] | None
    governor: str | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def describe() -> Cpu:
    """The processor this process runs on."""
    text = _read(Path("/proc/cpuinfo"))
    return Cpu(
        machine=platform.machine(),
        model=parse_model(text) if text else None,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        flags=parse_flags(text) if text else None,
        governor=_read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
    )


def parse_model(cpuinfo: str) -> str | None:
    """The processor's name in the text of /proc/cpuinfo; on ARM without one, implementer and part codes."""
    fields = _fields(cpuinfo)
    for key in ("model name", "Hardware", "Model"):
        if fields.get(key):
            return fields[key]
    if "CPU part" in fields:
        return f"implementer {fields.get('CPU implementer', '?')} part {fields['CPU part']}"
    return None


def parse_flags(cpuinfo: str) -> tuple[str, ...] | None:
    """Those of `FLAGS` /proc/cpuinfo lists for the first processor; None when it lists none at all."""
    fields = _fields(cpuinfo)
    listed = fields.get("flags") or fields.get("Features")
    return tuple(flag for flag in FLAGS if flag in listed.split()) if listed else None


def temperature_c() -> float | None:
    """The hottest thermal zone in degrees Celsius, None where the kernel shows none."""
    readings = (_read(zone) for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp"))
    degrees = [int(text) / 1000 for text in readings if text and text.lstrip("-").isdigit()]
    return max(degrees, default=None)


def clock_mhz() -> float | None:
    """Mean present clock of the processors in MHz, None where the kernel shows none."""
    readings = [
        _read(path) for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    ]
    clocks = [int(text) / 1000 for text in readings if text and text.isdigit()]
    return sum(clocks) / len(clocks) if clocks else None


def _fields(cpuinfo: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())  # the first processor speaks for all
    return fields


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
