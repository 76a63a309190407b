"""Whether heat or supply held the processor back; None where the machine does not tell.

The parsers are tested on samples of text and on made-up sysfs trees, not on the boards themselves.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from hetero_devices import cpu
from hetero_devices.devices.job import Condition

ROOT = Path("/")
_NOW, _SINCE_BOOT = 0xF, 0xF0000  # under-voltage, clock capped, throttled, soft temperature limit
_DROP = 0.85  # of the clock before: less is no jitter of the governor
_SECONDS = 5.0


def condition(root: Path = ROOT) -> Condition:
    """This machine now. root: where its /sys begins."""
    pi = parse_throttled(vcgencmd("get_throttled"))
    return Condition(
        temperature_c=cpu.temperature_c(),
        clock_mhz=cpu.clock_mhz(),
        throttled=None if pi is None else bool(pi & _NOW),
        throttle_events=throttle_count(root) if pi is None else (pi & _SINCE_BOOT).bit_count(),
    )


def throttled_between(before: Condition, after: Condition) -> bool | None:
    """Whether the machine says it was held back at either moment or in between; None: it does not tell."""
    if before.throttled or after.throttled:
        return True
    if before.throttle_events is not None and after.throttle_events is not None:
        return after.throttle_events > before.throttle_events
    return after.throttled


def clock_dropped(before: Condition, after: Condition) -> bool | None:
    """Whether the clock is clearly lower after a run than before it; None: the machine shows no clock."""
    if before.clock_mhz is None or after.clock_mhz is None:
        return None
    return after.clock_mhz < _DROP * before.clock_mhz


def throttle_count(root: Path = ROOT) -> int | None:
    """How often x86 processors were throttled by heat since boot: cores and packages, summed."""
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
    counts = [number for path in files if (number := read_number(path)) is not None]
    return sum(counts) if counts else None


def parse_throttled(text: str | None) -> int | None:
    """The flags in the answer of `vcgencmd get_throttled`, e.g. `throttled=0x50005`."""
    found = re.fullmatch(r"\s*throttled=0x([0-9a-fA-F]+)\s*", text or "")
    return int(found[1], 16) if found else None


def vcgencmd(*arguments: str) -> str | None:
    """What a Raspberry Pi's firmware answers; None on other machines, or when it may not be asked."""
    program = shutil.which("vcgencmd")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def read_text(path: Path) -> str | None:
    """A file of sysfs without the line's end; None when it is absent, unreadable or empty."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:  # some drivers fail on reading, with ENODEV or EAGAIN
        return None


def read_number(path: Path) -> int | None:
    """An integer of sysfs; None as `read_text`, or when it is none."""
    text = read_text(path)
    return int(text) if text and re.fullmatch(r"-?\d+", text) else None
