"""One cell of `conversions.py`: a network's file of one format and precision, written and measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from conversions_data import Data
from hetero.models.deploy import Deploy
from hetero.models.foreign.fusing import fused
from hetero.models.store import Model
from hetero.quantisation.config import QuantisedConfig
from hetero.quantisation.finishing import finish
from hetero.recipes.recipe import MixedConfig
from hetero_devices import runtimes
from hetero_devices.bundle import Precision
from hetero_devices.devices.measure import timed
from hetero_devices.errors import HeteroError, ModelError
from hetero_devices.runtimes import Format, Session
from hetero_devices.verify import cosine_distance
from hetero_export.calibration import Calibration
from hetero_export.formats import EXPORTERS
from hetero_export.tolerance import tolerance

Vectors = npt.NDArray[np.float32]
Cell = dict[str, Any]
Kind = Literal["fp32", "fp16", "dynamic", "int8", "corrected", "mixed"]
"""A precision, or `corrected`: int8 of the student mended for it."""

ALWAYS: tuple[Kind, ...] = ("fp32", "fp16", "dynamic", "int8")
RESCUES: tuple[Kind, ...] = ("corrected", "mixed")
KINDS: tuple[Kind, ...] = get_args(Kind)
LOSSY = 0.97
"""Lowest cosine of a query below which the rescues are tried on an int8 file that is not refused."""

CORRECTIONS = QuantisedConfig(corrections=("equalise", "adaround", "bias"), fit=None)
MIXED = MixedConfig(images=16)
WARM_UP, ROUNDS = 5, 40


@dataclass(frozen=True)
class Subject:
    """A trained network, what torch computes with it, and the folder of its files."""

    model: Model
    data: Data
    folder: Path

    @cached_property
    def query(self) -> Vectors:
        return self.model.encoder.encode(self.data.query)

    @cached_property
    def gallery(self) -> Vectors:
        return self.model.encoder.encode(self.data.gallery)

    @cached_property
    def golden(self) -> Vectors:
        return self.model.encoder.encode(self.data.golden)

    @cached_property
    def calibration(self) -> Calibration:
        return Calibration(self.data.calibration)

    def first(self, query: Vectors) -> npt.NDArray[np.int64]:
        """The first gallery image of each query: int64 [Q]."""
        found: npt.NDArray[np.int64] = (query @ self.gallery.T).argmax(1)
        return found

    def source(self, format: Format) -> Path:
        """The float32 file, written once."""
        return self._exported(format, "fp32", lambda: self.deployed)

    def mended(self, format: Format) -> Path:
        """The float32 file of the network finished for the format's int8, written once."""
        return self._exported(format, "mended", lambda: self._finished(format))

    @cached_property
    def deployed(self) -> Model:
        """With blocks fused where the network offers it: what is exported."""
        deploy = self.model.deploy
        network = fused(deploy.network, deploy.preprocessing.size)
        return replace(self.model, deploy=Deploy(network, deploy.preprocessing).eval())

    def _exported(self, format: Format, name: str, model: Callable[[], Model]) -> Path:
        path = self.folder / f"{name}.{format}"
        if not path.is_file():
            EXPORTERS[format].export(model().deploy, path, {})
        return path

    def _finished(self, format: Format) -> Model:
        images = self.data.calibration
        return finish(
            self.deployed, format, CORRECTIONS, images, objective=None, batches=None, folder=self.folder
        )


def rescues(int8: Cell) -> tuple[Kind, ...]:
    """What else is tried on a format, given its int8 cell: nothing where that converts and stays close."""
    lossy = "cosine_min" in int8 and int8["cosine_min"] < LOSSY
    return RESCUES if lossy or "refused" in int8 else ()


def cell(subject: Subject, format: Format, kind: Kind) -> Cell:
    """Write and measure one file; a failure is a cell too, in the words of the error."""
    try:
        path, found = _written(subject, format, kind)
    except HeteroError as error:
        return {"error": _words(error)}
    return found | _measured(subject, format, kind, path)


def _written(subject: Subject, format: Format, kind: Kind) -> tuple[Path, Cell]:
    """The file, and what is worth telling of how it was made."""
    source = subject.source(format)
    if kind == "fp32":
        return source, {}
    if kind == "corrected":
        source = subject.mended(format)
    path = subject.folder / f"{kind}.{format}"
    write = EXPORTERS[format].variants[_precision(kind)].write
    details = write(source, path, subject.calibration, MIXED)
    if "sensitivity" not in details:
        return path, {}
    scan = details["sensitivity"]
    return path, {
        "layers": len(scan["layers"]),
        "layers_float": len(scan["kept"]),
        "macs_float": scan["macs_share"],
    }


def _precision(kind: Kind) -> Precision:
    return "int8" if kind == "corrected" else kind


def _measured(subject: Subject, format: Format, kind: Kind, path: Path) -> Cell:
    session, float32 = runtimes.load(path), runtimes.load(subject.source(format))
    found = session.run(subject.data.query)
    cosine = 1 - cosine_distance(found, subject.query)
    first, bytes_ = subject.first(found), path.stat().st_size
    return {
        "cosine_mean": float(cosine.mean()),
        "cosine_min": float(cosine.min()),
        "top1_same": float((first == subject.first(subject.query)).mean()),
        "recall_at_1": subject.data.hits(first),
        "bytes": bytes_,
        "bytes_ratio": bytes_ / subject.source(format).stat().st_size,
        "xnnpack_partitions": session.details["xnnpack_partitions"],
        **_refusal(subject, session, kind, path),
        **_by_turns(session, float32, subject.data),
    }


def _refusal(subject: Subject, session: Session, kind: Kind, path: Path) -> Cell:
    """Whether `hetero export` would keep the file from being written, and in which words."""
    distance = float(cosine_distance(session.run(subject.data.golden), subject.golden).max())
    try:
        tolerance(_precision(kind), distance, path.name)
    except ModelError as error:
        return {"golden_distance": distance, "refused": _words(error)}
    return {"golden_distance": distance}


def _by_turns(session: Session, float32: Session, data: Data) -> Cell:
    """Median CPU milliseconds of single images, both files in turn, and the ratio of the medians.

    Processor time: other work on the machine stretches the clock on the wall tenfold, this hardly.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(WARM_UP + ROUNDS):
        image = data.query[round_ % len(data.query)][None]
        for own, run in zip(times, (session, float32), strict=True):
            own.append(timed(partial(run.run, image), time.process_time_ns)[1])
    own_ms, float_ms = (float(np.median(own[WARM_UP:])) for own in times)
    return {"ms": own_ms, "ms_fp32": float_ms, "latency_ratio": own_ms / float_ms}


def _words(error: Exception) -> str:
    return " ".join(str(error).split())
