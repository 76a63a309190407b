"""Int8 time on this machine for `search.py`: the searches' table, and networks measured whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hetero.models.build import Family
from hetero.models.elastic import ElasticConfig
from hetero.search.blocks import parts
from hetero_devices.devices import HostDevice
from hetero_devices.latency_table import LatencyTable
from hetero_export.block_table import Bench, measure_table
from hetero_export.blocks import Probe


@dataclass(frozen=True)
class Time:
    """Milliseconds of one image: what is allowed, what the table says, and the network measured whole.

    predicted: None for a family whose blocks the table does not know. narrowest: of the narrowest of its
    kind, as none is within what is allowed.
    """

    allowed: float
    predicted: float | None
    measured: float
    narrowest: bool


@dataclass(frozen=True)
class Timing:
    """ONNX Runtime on one thread, on images of `size` x `size`; what was measured is kept in `folder`."""

    folder: Path
    size: int

    @property
    def path(self) -> Path:
        """The table."""
        return self.folder / "host-onnx-int8.json"

    def measure(self, networks: Sequence[ElasticConfig], calibration: Sequence[ElasticConfig]) -> None:
        """Write the table of these networks' blocks, unless it is there."""
        if not self.path.exists():
            measure_table(self._bench, networks, calibration, size=self.size).save(self.path)

    def predicted(self, network: Family) -> float | None:
        """Milliseconds by the table; None for a family that it does not know."""
        if not isinstance(network, ElasticConfig):
            return None
        return self._table.predict(parts(network, self.size), interpolate=True)

    def fits(self, network: Family, allowed: float) -> bool:
        """By the table; a network of another family is measured."""
        predicted = self.predicted(network)
        return (self.measured(network) if predicted is None else predicted) <= allowed

    def measured(self, network: Family) -> float:
        """Milliseconds of its int8 file; measured once."""
        probe = Probe.whole(network, self.size)
        return self._bench.measure([probe]).ms(probe)

    @cached_property
    def _table(self) -> LatencyTable:
        return LatencyTable.load(self.path)

    @property
    def _bench(self) -> Bench:
        return Bench(HostDevice(), self.folder / "blocks", "onnx", "int8")
