"""Repeats and their spread, throttling, energy: parsers on samples of text and on made-up sysfs trees."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetero_devices import sensors
from hetero_devices.bench import combined, profile_bundle, profile_repeatedly
from hetero_devices.bundle import Bundle
from hetero_devices.cpu import describe
from hetero_devices.devices import Condition, HostDevice, Job, Latency, Profile, Stopping
from hetero_devices.energy import (
    PowerMeter,
    RaplMeter,
    battery_watts,
    find_meter,
    ina3221_watts,
    integral,
    metered,
    pmic_watts,
    rapl_counters,
)
from hetero_devices.errors import DeviceError

QUICK = Stopping(warm_up=2, min_samples=20, min_seconds=0.0, max_seconds=5.0)

PMIC = """\
 3V7_WL_SW_A current(0)=0.10000000A
   3V3_SYS_A current(1)=0.05000000A
  VDD_CORE_A current(7)=2.00000000A
 3V7_WL_SW_V volt(8)=3.70000000V
   3V3_SYS_V volt(9)=3.30000000V
  VDD_CORE_V volt(15)=0.80000000V
    EXT5V_V volt(24)=5.15000000V
      BATT_V volt(25)=0.00000000V
"""


def tree(root: Path, files: dict[str, object]) -> Path:
    """A made-up sysfs."""
    for name, value in files.items():
        path = root / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


def profile(p50: float, **changes: Any) -> Profile:
    times: dict[str, Any] = dict.fromkeys(("p50_ms", "p90_ms", "p95_ms", "p99_ms", "mean_ms", "min_ms"), p50)
    latency = Latency(**times, first_ms=1, load_ms=1, samples=20, warm_up=2)
    fields: dict[str, Any] = {"latency": latency, "peak_memory_mb": None, "threads": 1, "runtime": {}}
    return Profile(**{**fields, "cpu": describe(), "versions": {}, **changes})


def test_repeats_report_the_median_and_their_spread() -> None:
    repeats = [profile(5, peak_memory_mb=7.0), profile(2), profile(4, energy_mj=1.5, throttled=True)]
    found = combined(repeats)
    assert found.latency is not None
    assert (found.latency.p50_ms, found.latency.repeats, found.latency.spread) == (4, 3, 0.75)
    assert (found.peak_memory_mb, found.energy_mj, found.throttled) == (7.0, 1.5, True)


def test_one_repeat_has_no_spread() -> None:
    alone = combined([profile(3)])
    assert alone.latency is not None
    assert (alone.latency.repeats, alone.latency.spread) == (1, None)


@dataclass
class Counting:
    """The host, remembering what it was asked."""

    asked: list[tuple[str, ...]] = field(default_factory=list)
    name: str = "host"

    def run(self, job: Job) -> Any:
        self.asked.append(job.tasks)
        return HostDevice().run(job)

    def info(self) -> dict[str, Any]:
        return HostDevice().info()

    def close(self) -> None: ...


def test_latency_is_repeated_and_nothing_else(tiny_bundle: Path) -> None:
    bundle, device = Bundle.open(tiny_bundle), Counting()
    (onnx, *_) = bundle.manifest.models
    found = profile_bundle(device, bundle, models=[onnx], stopping=QUICK, repeats=2)[onnx.file]
    assert device.asked == [("latency", "memory", "placement"), ("latency",)]
    assert found.latency is not None
    assert (found.latency.repeats, found.latency.samples) == (2, 20)
    assert found.latency.spread is not None
    assert 0 <= found.latency.spread < 50
    assert found.placement is not None


def test_a_bundle_is_measured_on_chosen_processors(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    (onnx, *_) = bundle.manifest.models
    here = min(os.sched_getaffinity(0))
    found = profile_bundle(HostDevice(), bundle, models=[onnx], stopping=QUICK, cpus=(here,))[onnx.file]
    assert found.cpu.cores == 1
    with pytest.raises(DeviceError, match="no processors"):
        profile_bundle(HostDevice(), bundle, models=[onnx], stopping=QUICK, cpus=(4096,))


def test_without_latency_there_is_nothing_to_repeat(tiny_onnx: Any, tmp_path: Path, net: Any) -> None:
    np.save(tmp_path / "images.npy", net.images(2))
    job = Job(model=str(tiny_onnx()), images=str(tmp_path / "images.npy"), tasks=("placement",))
    device = Counting()
    profile_repeatedly(device, job, 5)
    assert device.asked == [("placement",)]
    with pytest.raises(DeviceError, match="at least once, not 0 times"):
        profile_repeatedly(device, job, 0)


def test_a_runner_that_knows_nothing_of_this_is_understood() -> None:
    """Older runners, and those in C and JavaScript, leave the new keys out."""
    fields = profile(1).to_json()
    for key in ("throttled", "clock_dropped", "energy_mj", "energy_source"):
        del fields[key]
    for key in ("repeats", "spread"):
        del fields["latency"][key]
    del fields["before"]["throttle_events"]
    assert Profile.from_json(fields) == profile(1)


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("throttled=0x0\n", 0),
        ("throttled=0x50005\n", 0x50005),
        ("throttled=0xE0000", 0xE0000),
        ("VCHI initialization failed\n", None),
        ("", None),
        (None, None),
    ],
)
def test_answers_of_a_pi_about_throttling(text: str | None, flags: int | None) -> None:
    assert sensors.parse_throttled(text) == flags


def vcgencmd(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A program of that name on the PATH, standing in for a Pi's firmware."""
    program = folder / "vcgencmd"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_condition_of_a_pi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vcgencmd(tmp_path, monkeypatch, 'test "$1" = get_throttled && echo throttled=0x50004')
    found = sensors.condition(tmp_path)
    assert (found.throttled, found.throttle_events) == (True, 2)
    vcgencmd(tmp_path, monkeypatch, "echo no; exit 1")
    assert sensors.condition(tmp_path).throttled is None


def test_x86_counts_how_often_it_was_throttled(tmp_path: Path) -> None:
    assert sensors.throttle_count(tmp_path) is None
    folder = "devices/system/cpu/cpu{}/thermal_throttle/{}_throttle_count"
    counts = {(0, "core"): 3, (0, "package"): 10, (1, "core"): 4, (1, "package"): 10}
    tree(tmp_path, {folder.format(*key): value for key, value in counts.items()})
    assert sensors.throttle_count(tmp_path) == 27
    before = sensors.condition(tmp_path)
    tree(tmp_path, {folder.format(1, "core"): 5})
    after = sensors.condition(tmp_path)
    assert sensors.throttled_between(before, after) is True
    assert sensors.throttled_between(after, after) is False
    assert sensors.throttled_between(Condition(), Condition()) is None


def test_a_moment_of_throttling_counts_without_events() -> None:
    assert sensors.throttled_between(Condition(throttled=True), Condition(throttled=False)) is True
    assert sensors.throttled_between(Condition(), Condition(throttled=False)) is False


@pytest.mark.parametrize(
    ("before", "after", "dropped"), [(2400, 1500, True), (2400, 2300, False), (800, 2400, False)]
)
def test_a_clock_that_drops(before: float, after: float, dropped: bool) -> None:
    moments = Condition(clock_mhz=before), Condition(clock_mhz=after)
    assert sensors.clock_dropped(*moments) is dropped
    assert sensors.clock_dropped(Condition(), moments[1]) is None


def test_power_of_a_jetson(tmp_path: Path) -> None:
    assert ina3221_watts(tmp_path) is None
    sensor = "class/hwmon/hwmon3"
    channels = {1: ("VDD_IN", 5000, 1600), 2: ("VDD_CPU_GPU_CV", 5000, 600), 3: ("VDD_SOC", 5000, 300)}
    tree(tmp_path, {"class/hwmon/hwmon0/name": "cpu_thermal", f"{sensor}/name": "ina3221"})
    for number, (label, millivolts, milliamperes) in channels.items():
        names = {"in{}_label": label, "in{}_input": millivolts, "curr{}_input": milliamperes}
        tree(tmp_path, {f"{sensor}/{key.format(number)}": value for key, value in names.items()})
    assert ina3221_watts(tmp_path) == pytest.approx(8.0)  # VDD_IN feeds the others
    (tmp_path / "sys" / sensor / "in1_label").write_text("VDD_GPU_SOC\n")
    assert ina3221_watts(tmp_path) == pytest.approx(12.5)
    tree(tmp_path, {f"{sensor}/power2_input": 2_000_000})
    assert ina3221_watts(tmp_path) == pytest.approx(11.5)


def test_power_of_a_pi() -> None:
    assert pmic_watts(PMIC) == pytest.approx(0.37 + 0.165 + 1.6)
    assert pmic_watts('error=1 error_msg="Command not registered"') is None
    assert pmic_watts(None) is None


def test_power_of_a_battery(tmp_path: Path) -> None:
    battery = "class/power_supply/BAT0"
    assert battery_watts(tmp_path) is None
    tree(tmp_path, {f"{battery}/type": "Battery", f"{battery}/status": "Discharging"})
    assert battery_watts(tmp_path) is None
    tree(tmp_path, {f"{battery}/current_now": -500_000, f"{battery}/voltage_now": 4_000_000})
    assert battery_watts(tmp_path) == pytest.approx(2.0)
    tree(tmp_path, {f"{battery}/power_now": 3_000_000})
    assert battery_watts(tmp_path) == pytest.approx(3.0)
    tree(tmp_path, {f"{battery}/status": "Charging"})
    assert battery_watts(tmp_path) is None


def rapl(root: Path, microjoules: int, limit: bool = True) -> Path:
    zone = "class/powercap/intel-rapl:0"
    tree(root, {f"{zone}/name": "package-0", f"{zone}/energy_uj": microjoules})
    tree(root, {f"{zone}:0/name": "core", f"{zone}:0/energy_uj": 1})
    return tree(root, {f"{zone}/max_energy_range_uj": 10_000_000}) if limit else root


def test_energy_of_a_package_wraps_around(tmp_path: Path) -> None:
    meter = RaplMeter(rapl(tmp_path, 9_000_000))
    assert list(rapl_counters(tmp_path).values()) == [9_000_000]
    meter.start()
    rapl(tmp_path, 9_500_000)
    assert meter.stop() == pytest.approx(0.5)
    rapl(tmp_path, 2_000_000)
    assert meter.stop() == pytest.approx(3.0)


def test_a_wrapped_counter_of_unknown_range_tells_nothing(tmp_path: Path) -> None:
    meter = RaplMeter(rapl(tmp_path, 9_000_000, limit=False))
    meter.start()
    rapl(tmp_path, 1, limit=False)
    assert meter.stop() is None


def test_power_is_integrated() -> None:
    assert integral([(0.0, 1.0), (1.0, 3.0), (3.0, 3.0)]) == pytest.approx(8.0)
    assert integral([(0.0, 1.0)]) is None


def test_a_sampled_meter_gives_the_energy_of_the_stretch() -> None:
    with metered(PowerMeter("two watts", lambda: 2.0, period=0.01)) as reading:
        start = time.monotonic()
        time.sleep(0.1)
    elapsed = time.monotonic() - start
    assert reading.source == "two watts"
    assert reading.joules is not None
    assert 0.2 <= reading.joules <= 2 * elapsed + 1
    assert reading.mj_each(100) == pytest.approx(10 * reading.joules)


def test_a_sensor_that_fails_or_is_absent_gives_null() -> None:
    with metered(PowerMeter("broken", lambda: None, period=0.01)) as broken:
        time.sleep(0.02)
    with metered(None) as absent:
        pass
    assert (broken.source, broken.joules, broken.mj_each(3)) == (None, None, None)
    assert absent.mj_each(3) is None


def test_the_best_meter_is_taken(tmp_path: Path) -> None:
    assert find_meter(tmp_path) is None
    battery = "class/power_supply/BAT0"
    tree(tmp_path, {f"{battery}/type": "Battery", f"{battery}/status": "Discharging"})
    tree(tmp_path, {f"{battery}/power_now": 3_000_000})
    assert find_meter(tmp_path) is not None
    assert find_meter(tmp_path).source == "battery"  # type: ignore[union-attr]
    meter = find_meter(rapl(tmp_path, 1))
    assert meter is not None
    assert meter.source == "RAPL, processor packages"


def test_a_job_reports_energy_where_a_program_tells_power(
    tiny_onnx: Any, tmp_path: Path, net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a whole job in its own process; the power is made up, the path it takes is not."""
    answers = f'test "$1" = pmic_read_adc && cat "{tmp_path}/pmic" || echo throttled=0x0'
    (tmp_path / "pmic").write_text(PMIC)
    vcgencmd(tmp_path, monkeypatch, answers)
    np.save(tmp_path / "images.npy", net.images(2))
    job = Job(model=str(tiny_onnx()), images=str(tmp_path / "images.npy"), tasks=("latency",), stopping=QUICK)
    found = HostDevice().run(job).profile
    assert found.energy_source == "Raspberry Pi PMIC"
    assert found.energy_mj is not None
    assert found.energy_mj > 0
    assert found.throttled is False
