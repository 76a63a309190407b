"""The job contract: one model and images in, embeddings and a profile out; JSON and .npy on both sides."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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

    model: an .onnx or .tflite file; the suffix decides the runtime. images: a .npy of uint8 [N, H, W, 3].
    output: folder for the results. Relative paths start at the folder of the job's own file.
    tasks: `embed` writes the embeddings of all images, `latency` and `memory` measure with batch 1,
    `placement` says which backend runs which operators.
    A process that does other things has no clean memory peak, so a runner takes `memory` only alone;
    a `Device` splits a mixed job itself.
    """

    model: str
    images: str
    output: str = "."
    tasks: tuple[Task, ...] = ("embed",)
    threads: int = 1
    stopping: Stopping = Stopping()

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise DeviceError(f"a job needs distinct tasks, not {list(self.tasks)}")
        if self.threads < 1:
            raise DeviceError(f"a job needs at least one thread, not {self.threads}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Any) -> Job:
        """Parse; keys with a default may be absent. DeviceError for an unknown key or a wrong type."""
        return strict.decode(cls, fields, "job", DeviceError, defaults=True)

    def relative_to(self, folder: Path) -> Job:
        """The same job with its relative paths resolved against `folder`."""
        paths = {name: str(folder / getattr(self, name)) for name in ("model", "images", "output")}
        return Job(**paths, tasks=self.tasks, threads=self.threads, stopping=self.stopping)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one inference at batch 1, conversion of the image to the input's dtype included.

    Percentiles are by nearest rank. first_ms: the first inference after loading. load_ms: reading and
    preparing the model, without importing the runtime. samples: measured runs; warm_up: runs before them.
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


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What ran and what it cost; None is "not measured" or "this machine does not tell", never a guess.

    peak_memory_mb: how far loading and running raised the process's peak resident set, in units of 10^6
    bytes, the imported runtime not included. runtime: the session's `details`. temperature_c: after the run.
    versions: of Python, numpy and this library's platform. placement: None also where a runtime hides it.
    """

    latency: Latency | None
    peak_memory_mb: float | None
    threads: int
    runtime: dict[str, Any]
    cpu: Cpu
    temperature_c: float | None
    versions: dict[str, str]
    placement: Placement | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Any) -> Profile:
        """Parse what a runner wrote; DeviceError when it is not a profile."""
        return strict.decode(cls, fields, "statistics", DeviceError, defaults=True)
