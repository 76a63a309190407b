"""What a report says, as plain data; the writers only lay it out. JSON is the form other programs read."""

from __future__ import annotations

import base64
import operator
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from hetero.report.table import Table
from hetero.retrieval.compatibility import Criterion
from hetero.retrieval.intervals import Comparison, Estimate
from hetero.retrieval.matrix import Matrix
from hetero_devices.devices import Profile
from hetero_devices.errors import HeteroError, require
from hetero_devices.runtimes import Placement
from hetero_devices.space import Space

SCHEMA = 3
HOST = "host"
"""The name of this machine among the devices."""

Relation = Literal["<", "<=", ">", ">="]
_HOLDS: Mapping[Relation, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The result in four scores of one metric. M(q, g): query model first.

    paragon: M(anchor, anchor). asymmetric: M(student, anchor). symmetric: M(student, student).
    alone: M(student*, student*) of the same network trained without the anchor.
    """

    metric: str
    paragon: Estimate
    asymmetric: Estimate
    symmetric: Estimate
    alone: Estimate


@dataclass(frozen=True, kw_only=True)
class Versus:
    """The student's queries in the anchor's gallery minus another search by the same queries.

    other: what it is compared with, in words. Wins and losses are queries: PFR and NFR are their shares.
    """

    metric: str
    other: str
    comparison: Comparison


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One model; macs and parameters are None for an anchor known only by its vectors."""

    name: str
    role: Literal["anchor", "student", "alone"]
    macs: int | None = None
    parameters: int | None = None
    mac_ratio: float | None = None  # anchor's MACs / this model's: how many times fewer


@dataclass(frozen=True, kw_only=True)
class ParityRow:
    """One exported artefact against the float model it came from, on the same queries and gallery.

    cosine_distance_*: 1 - cosine between the two embeddings of an image. max_abs_error: of any element.
    recall: of the artefact, M(artefact, anchor). top1_identical, top10_overlap: shares in [0, 1].
    recall_delta, map_delta: artefact minus float model, paired over queries, in [-1, 1].
    device: where the artefact ran. queries: those with a relevant gallery image; negative_flips: how many of
    them the float model answers (Recall@1) and the artefact does not; positive_flips: the reverse.
    """

    artefact: str
    format: str
    precision: str
    cosine_distance_mean: float
    cosine_distance_median: float
    cosine_distance_p99: float
    cosine_distance_max: float
    max_abs_error: float
    top1_identical: float
    recall: Estimate
    recall_delta: Estimate
    map_delta: Estimate
    top10_overlap: float
    queries: int
    negative_flips: int
    positive_flips: int
    device: str = HOST


@dataclass(frozen=True, kw_only=True)
class DeviceRun:
    """One artefact on one device: what ran there, on what, and the record of the run."""

    artefact: str
    device: str
    profile: Profile


@dataclass(frozen=True, kw_only=True)
class PlacementRow:
    """Where the operators of one artefact ran on one device; placement as the runtime tells it."""

    artefact: str
    precision: str
    device: str
    placement: Placement


@dataclass(frozen=True, kw_only=True)
class GalleryRow:
    """One compressed gallery searched by one model, beside the float32 gallery.

    bytes_per_vector: stored for one vector, tables shared by all vectors left out. recall: with the
    compressed gallery; recall_delta, map_delta: compressed minus float32, paired over queries.
    """

    query: str
    codec: str
    bytes_per_vector: int
    recall: Estimate
    recall_delta: Estimate
    map_delta: Estimate


@dataclass(frozen=True, kw_only=True)
class LatencyRow:
    """One artefact measured on one device: milliseconds per image, MB of 10^6 and kB of 10^3 bytes."""

    artefact: str
    device: str
    runtime: str
    threads: int
    p50_ms: float
    p90_ms: float
    p95_ms: float
    peak_mb: float | None
    size_kb: float


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A requirement and what was measured: passed when `value relation threshold`."""

    name: str
    passed: bool
    value: float
    relation: Relation
    threshold: float
    detail: str = ""

    @classmethod
    def check(cls, name: str, value: float, relation: Relation, threshold: float, detail: str = "") -> Gate:
        """Decide the gate: passed when `value relation threshold` holds, so never for NaN."""
        passed = _HOLDS[relation](value, threshold)
        return cls(
            name=name, passed=passed, value=value, relation=relation, threshold=threshold, detail=detail
        )


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture carried inside the report; `data` is base64. `alternative` says in words what it shows."""

    title: str
    alternative: str
    media_type: Literal["image/png", "image/svg+xml"]
    data: str

    @classmethod
    def of(cls, title: str, alternative: str, content: bytes, svg: bool = False) -> Figure:
        """A figure from the bytes of a PNG file, or of an SVG file."""
        media: Literal["image/png", "image/svg+xml"] = "image/svg+xml" if svg else "image/png"
        encoded = base64.b64encode(content).decode("ascii")
        return cls(title=title, alternative=alternative, media_type=media, data=encoded)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything one run found. created: ISO 8601 date; recipe: as resolved; scores in [0, 1].

    summary, sentences: the verdict and what is said under it, where it is about neither a compatibility
    criterion nor devices; tables: shown before all others, and values: the numbers behind them.
    drift: as parity, of an artefact on another device against the same file on this machine.
    """

    title: str
    created: str
    space: Space
    environment: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[ModelRow, ...] = ()
    headline: Headline | None = None
    criterion: Criterion | None = None
    retention: Estimate | None = None
    versus: tuple[Versus, ...] = ()
    matrices: tuple[Matrix, ...] = ()
    parity: tuple[ParityRow, ...] = ()
    drift: tuple[ParityRow, ...] = ()
    runs: tuple[DeviceRun, ...] = ()
    latency: tuple[LatencyRow, ...] = ()
    placement: tuple[PlacementRow, ...] = ()
    galleries: tuple[GalleryRow, ...] = ()
    gates: tuple[Gate, ...] = ()
    figures: tuple[Figure, ...] = ()
    summary: str = ""
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return all(gate.passed for gate in self.gates)

    def to_json(self) -> dict[str, Any]:
        """Plain data; the same report gives the same JSON."""
        return {"schema": SCHEMA} | asdict(self)

    @classmethod
    def from_json(cls, fields: Any) -> Report:
        """Undo `to_json`; HeteroError names the first field that is wrong or of a newer schema."""
        if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
            raise HeteroError(f"not a report of schema {SCHEMA}: write it again with this version of hetero")
        pydantic = require("pydantic", "train")
        try:
            report: Report = pydantic.TypeAdapter(cls).validate_python(fields)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise HeteroError(f"report is not understood: {place}: {first['msg']}") from None
        return report
