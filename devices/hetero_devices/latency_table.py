"""What the blocks of a network family cost on one device, and from that what any network costs there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hetero_devices import strict
from hetero_devices.bundle import Precision
from hetero_devices.cpu import Cpu
from hetero_devices.errors import DeviceError, UnknownBlock
from hetero_devices.files import read_json, write_json
from hetero_devices.latency_model import Block, CostModel, Errors, Row, cross_validated
from hetero_devices.runtimes import Format

Network = Sequence[Block]

_SHOWN = 3  # unknown blocks an error names


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Measured blocks of one device, runtime and precision.

    A network costs `overhead_ms` + `scale` * the sum of its blocks; both come from whole networks
    (`calibrated`), and say how far a sum of blocks is from a network. rows: block key -> what it cost.
    runtime: the session's details. Raises DeviceError for times that are not positive.
    """

    device: str
    format: Format
    precision: Precision
    threads: int
    cpu: Cpu
    runtime: dict[str, Any]
    rows: dict[str, Row]
    overhead_ms: float = 0.0
    scale: float = 1.0
    calibrated_on: int = 0
    schema: Literal[1] = field(default=1)

    def __post_init__(self) -> None:
        bad = [key for key, row in self.rows.items() if not (math.isfinite(row.ms) and row.ms > 0)]
        if bad:
            raise DeviceError(
                f"{_listed(bad)} cost no positive time: measure them again, in more rounds or with less "
                "other work on the device"
            )
        if not (math.isfinite(self.overhead_ms) and math.isfinite(self.scale) and self.scale > 0):
            raise DeviceError(f"a scale of {self.scale} and an overhead of {self.overhead_ms} price nothing")

    def predict(self, network: Iterable[Block], *, interpolate: bool = False) -> float:
        """Median milliseconds of one inference of the network.

        interpolate: price blocks that were not measured by the cost model of the others.
        Raises UnknownBlock, naming what was not measured, unless `interpolate` is set.
        """
        return self.overhead_ms + self.scale * self._sum(network, interpolate)

    def unknown(self, network: Iterable[Block]) -> list[str]:
        """Keys of the network's blocks that were not measured, each once."""
        return sorted({block.key for block in network} - self.rows.keys())

    def calibrated(
        self, networks: Sequence[tuple[Network, float]], *, interpolate: bool = False
    ) -> LatencyTable:
        """The same table with overhead and scale fitted on (network, measured milliseconds).

        Least squares of relative errors. Raises UnknownBlock as `predict`, DeviceError for fewer than three
        networks, or when larger sums went with smaller times.
        """
        if len(networks) < 3:
            raise DeviceError(f"{len(networks)} networks do not calibrate a table: measure at least three")
        sums = np.array([self._sum(network, interpolate) for network, _ in networks])
        measured = np.array([ms for _, ms in networks])
        design = np.stack([np.ones_like(sums), sums], axis=1) / measured[:, None]
        (overhead, scale), *_ = np.linalg.lstsq(design, np.ones_like(measured), rcond=None)
        if not scale > 0:
            raise DeviceError("networks of dearer blocks took less time: measure again on a quieter device")
        return replace(self, overhead_ms=float(overhead), scale=float(scale), calibrated_on=len(networks))

    def interpolation_errors(self) -> dict[str, Errors]:
        """By kind of block: how far `interpolate` is from rows it was not fitted on."""
        return cross_validated(list(self.rows.values()))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Any) -> LatencyTable:
        """Parse; DeviceError for an unknown or missing key, a wrong type, NaN, a time not above zero."""
        return strict.decode(cls, fields, "latency table", DeviceError)

    def save(self, path: Path) -> None:
        """Write JSON, whole or not at all."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read what `save` wrote. Raises HeteroError when the file is absent or no JSON, DeviceError else."""
        return cls.from_json(read_json(path))

    @cached_property
    def _model(self) -> CostModel:
        return CostModel.fit(list(self.rows.values()))

    def _sum(self, network: Iterable[Block], interpolate: bool) -> float:
        blocks = list(network)
        if not interpolate and (unknown := self.unknown(blocks)):
            raise UnknownBlock(
                f"the table of {self.device} ({self.format} {self.precision}) has no {_listed(unknown)}: "
                "measure them with 'hetero devices table', or ask to interpolate"
            )
        return sum(self._price(block) for block in blocks)

    def _price(self, block: Block) -> float:
        row = self.rows.get(block.key)
        return self._model.price(block) if row is None else row.ms


def rows(blocks: Iterable[Block], ms: Mapping[str, float]) -> dict[str, Row]:
    """Rows of a table from blocks and their milliseconds by key."""
    return {b.key: Row(ms=ms[b.key], kind=b.kind, features=dict(b.features)) for b in blocks}


def _listed(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
