"""Latency and memory of a session, measured the way MLPerf's single stream is."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from hetero_devices.devices.job import Latency, Stopping
from hetero_devices.runtimes import Session

Images = npt.NDArray[np.uint8]
Clock = Callable[[], int]
T = TypeVar("T")

_MEMORY_RUNS = 5  # enough for every buffer a runtime allocates lazily


def timed(action: Callable[[], T], clock: Clock = time.perf_counter_ns) -> tuple[T, float]:
    """The action's result and the milliseconds it took."""
    start = clock()
    result = action()
    return result, (clock() - start) / 1e6


def measure_latency(
    session: Session,
    images: Images,
    stopping: Stopping,
    *,
    load_ms: float,
    clock: Clock = time.perf_counter_ns,
) -> Latency:
    """Run a freshly loaded session on the images in turn, one at a time, until `stopping` says so.

    images: uint8 [N, H, W, 3], N >= 1. clock: monotonic nanoseconds.
    """
    batches = cycle([images[i : i + 1] for i in range(len(images))])
    _, first_ms = timed(lambda: session.run(next(batches)), clock)
    for _ in range(stopping.warm_up):
        session.run(next(batches))
    samples = _samples(lambda: session.run(next(batches)), stopping, clock)
    return summarise(samples, first_ms=first_ms, load_ms=load_ms, warm_up=stopping.warm_up)


def summarise(samples: list[float], *, first_ms: float, load_ms: float, warm_up: int) -> Latency:
    """Order statistics of the samples, in milliseconds."""
    p50, p90, p95, p99 = np.percentile(samples, [50, 90, 95, 99], method="inverted_cdf").tolist()
    return Latency(
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        mean_ms=float(np.mean(samples)),
        min_ms=min(samples),
        first_ms=first_ms,
        load_ms=load_ms,
        samples=len(samples),
        warm_up=warm_up,
    )


def measure_memory(load: Callable[[], Session], images: Images) -> tuple[Session, float | None]:
    """Load a session and run single images; the session and the rise of the peak resident set in 10^6 bytes.

    images: uint8 [N, H, W, 3], N >= 1. None where the kernel does not tell, or when an earlier, higher peak
    of this process hides the rise.
    """
    _reset_peak()
    resident, peak_before = _status("VmRSS"), _status("VmHWM")
    session = load()
    for row in range(_MEMORY_RUNS):
        session.run(images[row % len(images)][None])
    peak = _status("VmHWM")
    if resident is None or peak is None or peak == peak_before:
        return session, None
    return session, (peak - resident) / 1e6


def _samples(run: Callable[[], Any], stopping: Stopping, clock: Clock) -> list[float]:
    samples: list[float] = []
    start = clock()
    while True:
        samples.append(timed(run, clock)[1])
        seconds = (clock() - start) / 1e9
        enough = len(samples) >= stopping.min_samples and seconds >= stopping.min_seconds
        if enough or seconds >= stopping.max_seconds:
            return samples


def _reset_peak() -> None:
    """Lower VmHWM to the present resident set (proc(5), clear_refs); not permitted everywhere."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _status(key: str) -> int | None:
    """A field of /proc/self/status in bytes."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(rf"^{key}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None
