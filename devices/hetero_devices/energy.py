"""Energy of a stretch of work, where a sensor exists; what it covers is said in `source`, idling included.

In this order: a Jetson's INA3221 (power of the module), a Raspberry Pi 5's power controller (sum of its
rails), RAPL of x86 (processor packages alone; usually readable by root alone), a discharging battery (the
whole device). The parsers are tested on samples of text and on made-up sysfs trees, not on the boards
themselves.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from hetero_devices.sensors import ROOT, read_number, read_text, vcgencmd

Watts = Callable[[], float | None]

_MODULE = "VDD_IN"  # of INA3221: what feeds all the others
_PERIOD = 0.1  # seconds between two samples of power


@dataclass
class Reading:
    """joules: of the stretch, once it is over; None where nothing told."""

    source: str | None = None
    joules: float | None = None

    def mj_each(self, count: int) -> float | None:
        """Millijoules of each of `count` equal pieces of the work."""
        return None if self.joules is None else 1000 * self.joules / count


class Meter(Protocol):
    """Something that tells energy. source: what it covers."""

    @property
    def source(self) -> str: ...

    def start(self) -> None: ...

    def stop(self) -> float | None:
        """Joules since `start`."""
        ...


@contextmanager
def metered(meter: Meter | None) -> Iterator[Reading]:
    """Measure what happens in the context; without a meter the reading stays empty."""
    reading = Reading()
    if meter is None:
        yield reading
        return
    meter.start()
    try:
        yield reading
    finally:
        joules = meter.stop()
    if joules is not None:
        reading.source, reading.joules = meter.source, joules


def find_meter(root: Path = ROOT) -> Meter | None:
    """The best meter of this machine; None where there is none. root: where its /sys begins."""
    if ina3221_watts(root) is not None:
        return PowerMeter("INA3221", lambda: ina3221_watts(root))
    if pmic_watts(vcgencmd("pmic_read_adc")) is not None:
        return PowerMeter("Raspberry Pi PMIC", lambda: pmic_watts(vcgencmd("pmic_read_adc")), period=0.5)
    if rapl_counters(root):
        return RaplMeter(root)
    if battery_watts(root) is not None:
        return PowerMeter("battery", lambda: battery_watts(root))
    return None


@dataclass
class PowerMeter:
    """Samples power in a thread every `period` seconds and integrates it."""

    source: str
    watts: Watts
    period: float = _PERIOD
    _samples: list[tuple[float, float]] = field(default_factory=list, init=False)
    _over: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def start(self) -> None:
        self._samples.clear()
        self._over.clear()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._sample()
        self._thread.start()

    def stop(self) -> float | None:
        assert self._thread is not None, "start comes first"
        self._over.set()
        self._thread.join()
        self._sample()
        return integral(self._samples)

    def _follow(self) -> None:
        while not self._over.wait(self.period):
            self._sample()

    def _sample(self) -> None:
        watts = self.watts()
        if watts is not None:
            self._samples.append((time.monotonic(), watts))


@dataclass
class RaplMeter:
    """Counters of energy that wrap around. root: where /sys begins."""

    root: Path = ROOT
    source: str = "RAPL, processor packages"
    _before: dict[Path, int] = field(default_factory=dict, init=False)

    def start(self) -> None:
        self._before = rapl_counters(self.root)

    def stop(self) -> float | None:
        after = rapl_counters(self.root)
        if not self._before or after.keys() != self._before.keys():
            return None
        risen = [_risen(zone, self._before[zone], after[zone]) for zone in after]
        return None if min(risen) < 0 else sum(risen) / 1e6


def integral(samples: list[tuple[float, float]]) -> float | None:
    """Joules of (seconds, watts) by the trapezoidal rule; None for fewer than two samples."""
    if len(samples) < 2:
        return None
    return sum((b - a) * (p + q) / 2 for (a, p), (b, q) in pairwise(samples))


def rapl_counters(root: Path = ROOT) -> dict[Path, int]:
    """Microjoules by zone of each processor package; empty where there is none or it may not be read."""
    zones = sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
    packages = [zone for zone in zones if (read_text(zone / "name") or "").startswith("package")]
    found = {zone: read_number(zone / "energy_uj") for zone in packages}
    return {zone: counter for zone, counter in found.items() if counter is not None}


def ina3221_watts(root: Path = ROOT) -> float | None:
    """Power now: of the channel `VDD_IN` where there is one, else of all labelled channels together."""
    channels: dict[str, float] = {}
    for sensor in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if read_text(sensor / "name") == "ina3221":
            channels |= {f"{sensor.name} {label}": watts for label, watts in _channels(sensor).items()}
    module = [watts for label, watts in channels.items() if label.endswith(f" {_MODULE}")]
    return sum(module or channels.values()) if channels else None


def battery_watts(root: Path = ROOT) -> float | None:
    """Power now of the batteries that discharge; None where none does: a charger would be measured too."""
    powers = [
        watts
        for supply in sorted((root / "sys/class/power_supply").glob("*"))
        if read_text(supply / "type") == "Battery" and read_text(supply / "status") == "Discharging"
        if (watts := _supply_watts(supply)) is not None
    ]
    return sum(powers) if powers else None


def pmic_watts(text: str | None) -> float | None:
    """Power now in the answer of `vcgencmd pmic_read_adc`: volts times amperes, over rails that have both.

    Lines such as `VDD_CORE_A current(7)=2.10500000A` and `VDD_CORE_V volt(15)=0.87667970V`.
    """
    pattern = r"^\s*(\S+)_([AV]) (?:current|volt)\(\d+\)=([\d.]+)[AV]\s*$"
    found: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for rail, unit, value in re.findall(pattern, text or "", re.MULTILINE):
        found[unit][rail] = float(value)
    rails = found["A"].keys() & found["V"].keys()
    return sum(found["A"][rail] * found["V"][rail] for rail in rails) if rails else None


def _channels(sensor: Path) -> dict[str, float]:
    """Watts by label of one INA3221, whose driver gives mV and mA, in some kernels also µW."""
    watts = {}
    for label in sorted(sensor.glob("in[1-3]_label")):
        number, name = label.name[2], read_text(label)
        power = read_number(sensor / f"power{number}_input")
        volts, amperes = (read_number(sensor / f"{kind}{number}_input") for kind in ("in", "curr"))
        if name and power is not None:
            watts[name] = power / 1e6
        elif name and volts is not None and amperes is not None:
            watts[name] = volts * amperes / 1e6
    return watts


def _supply_watts(supply: Path) -> float | None:
    """Of µW, or of µA and µV; some drivers give what flows out a minus sign."""
    power = read_number(supply / "power_now")
    if power is not None:
        return abs(power) / 1e6
    current, voltage = read_number(supply / "current_now"), read_number(supply / "voltage_now")
    return None if current is None or voltage is None else abs(current) * voltage / 1e12


def _risen(zone: Path, before: int, after: int) -> int:
    """Microjoules between two readings; the counter starts again at its range, < 0 when that is unknown."""
    again = 0 if after >= before else read_number(zone / "max_energy_range_uj") or 0
    return after - before + again
