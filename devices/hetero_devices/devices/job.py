"""The job contract: one model and images in, embeddings and a profile out; JSON and .npy on both sides."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from hetero_devices import strict
from hetero_devices.cpu import Cpu
from hetero_devices.errors import DeviceError
from hetero_devices.runtimes.placement import Placement

EMBEDDINGS = "embeddings.npy"
STATISTICS = "statistics.json"
FAILURE = "failure.json"

Task = Literal["embed", "latency", "memory", "placement"]


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """When a latency measurement ends: after `warm_up` unmeasured runs, once both minima are reached.

    It ends after `max_seconds` in any case, but never without a sample. This is the single-stream rule of
    MLPerf Inference (there: 1024 samples and 60 s).
    """

    warm_up: int = 10
    min_samples: int = 200
    min_seconds: float = 1.0
    max_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.warm_up < 0 or self.min_samples < 1 or not 0 <= self.min_seconds <= self.max_seconds:
            rule = "warm_up >= 0, min_samples >= 1, 0 <= min_seconds <= max_seconds"
            raise DeviceError(f"cannot measure by {self}: needs {rule}")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a device is asked to do.

    model: an .onnx, .tflite or .pte file; the suffix decides the runtime.
    images: a .npy of uint8 [N, H, W, 3].
    output: folder for the results. Relative paths start at the folder of the job's own file.
    tasks: `embed` writes the embeddings of all images, `latency` and `memory` measure with batch 1,
    `placement` says which backend runs which operators.
    A process that does other things has no clean memory peak, so a runner takes `memory` only alone;
    a `Device` splits a mixed job itself.
    cpus: processors the runner pins itself to, by number; empty leaves the choice to the system.
    digests: sha256 of `model` and `images` as they were sent; the runner refuses a file that differs.
    """

    model: str
    images: str
    output: str = "."
    tasks: tuple[Task, ...] = ("embed",)
    threads: int = 1
    cpus: tuple[int, ...] = ()
    stopping: Stopping = Stopping()
    digests: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise DeviceError(f"a job needs distinct tasks, not {list(self.tasks)}")
        if self.threads < 1:
            raise DeviceError(f"a job needs at least one thread, not {self.threads}")
        if any(cpu < 0 for cpu in self.cpus) or len(set(self.cpus)) != len(self.cpus):
            raise DeviceError(f"processors are distinct numbers from 0, not {list(self.cpus)}")
        if not self.digests.keys() <= {"model", "images"}:
            raise DeviceError(f"a job has digests of model and images, not of {sorted(self.digests)}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Any) -> Job:
        """Parse; keys with a default may be absent. DeviceError for an unknown key or a wrong type."""
        return strict.decode(cls, fields, "job", DeviceError, defaults=True)

    def relative_to(self, folder: Path) -> Job:
        """The same job with its relative paths resolved against `folder`."""
        model, images, output = (str(folder / path) for path in (self.model, self.images, self.output))
        return replace(self, model=model, images=images, output=output)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one inference at batch 1, conversion of the image to the input's dtype included.

    Percentiles are by nearest rank. first_ms: the first inference after loading. load_ms: reading and
    preparing the model, without importing the runtime. samples: measured runs; warm_up: runs before them.
    repeats: in how many processes this was measured, of which it is the median by p50; spread: their
    (slowest - fastest) / median p50, None for a single one.
    """

    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    first_ms: float
    load_ms: float
    samples: int
    warm_up: int
    repeats: int = 1
    spread: float | None = None


@dataclass(frozen=True, kw_only=True)
class Condition:
    """The machine at one moment; None where it does not tell.

    temperature_c: of its hottest zone. clock_mhz: mean over the usable processors. throttled: whether it
    says that heat or supply holds its clock down. throttle_events: a number that grows when that happens.
    """

    temperature_c: float | None = None
    clock_mhz: float | None = None
    throttled: bool | None = None
    throttle_events: int | None = None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What ran and what it cost; None is "not measured" or "this machine does not tell", never a guess.

    peak_memory_mb: how far loading and running raised the process's peak resident set, in units of 10^6
    bytes, the imported runtime not included. runtime: the session's `details`. before, after: the machine
    around the run. throttled: whether heat or supply held it back meanwhile. clock_dropped: whether its clock
    was clearly lower afterwards. energy_mj: millijoules of one inference, idling included; energy_source: the
    sensor, and so what of the machine it covers. versions: of what took part, by name.
    placement: None also where a runtime hides it. emulated: the processor was; its times would mean
    nothing, so there are none. digests: sha256 of the `embeddings` file as the runner wrote it.
    """

    latency: Latency | None
    peak_memory_mb: float | None
    threads: int
    runtime: dict[str, Any]
    cpu: Cpu
    versions: dict[str, str]
    before: Condition = Condition()
    after: Condition = Condition()
    throttled: bool | None = None
    clock_dropped: bool | None = None
    energy_mj: float | None = None
    energy_source: str | None = None
    placement: Placement | None = None
    emulated: bool = False
    digests: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Any) -> Profile:
        """Parse what a runner wrote; DeviceError when it is not a profile."""
        return strict.decode(cls, fields, "statistics", DeviceError, defaults=True)
