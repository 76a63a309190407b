"""What a candidate costs, and what it may cost: counted operations, memory, and measured latency."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from hetero.config import Config
from hetero.models import cost as counted
from hetero.models.build import Family, build
from hetero.models.elastic import ElasticConfig
from hetero.search.blocks import parts
from hetero_devices.errors import RecipeError
from hetero_devices.latency_table import LatencyTable


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Of one image's inference.

    macs: multiply-accumulates. parameters: their number, about the bytes of an int8 file. memory: the most
    activation elements that one layer reads and writes, about the bytes of int8 working memory. latency: a
    table's name -> predicted median milliseconds.
    """

    macs: int
    parameters: int
    memory: int
    latency: dict[str, float] = field(default_factory=dict)


class LatencyBudget(Config):
    """At most so many milliseconds by a table that `hetero devices table` wrote."""

    table: str = Field(description="the JSON file")
    ms: float = Field(gt=0)


class BudgetConfig(Config):
    """What a candidate may cost; None is no limit.

    mac_ratio: how many times fewer multiply-accumulates than the anchor it must have.
    """

    macs: int | None = Field(default=None, gt=0)
    mac_ratio: float | None = Field(default=None, gt=0)
    parameters: int | None = Field(default=None, gt=0)
    memory: int | None = Field(default=None, gt=0, description="elements, see `Costs`")
    latency: tuple[LatencyBudget, ...] = ()


class Pricing:
    """Costs of candidates on images of `size` pixels, by the latency tables of a budget.

    anchor_macs: of the anchor, None where it is known only by its vectors. Raises DeviceError or HeteroError
    for a table that cannot be read, RecipeError for a ratio to an anchor of unknown cost.
    """

    def __init__(self, budget: BudgetConfig, size: int, anchor_macs: int | None) -> None:
        self.size = size
        self.tables = {Path(each.table).stem: LatencyTable.load(Path(each.table)) for each in budget.latency}
        self.limits = dict(_limits(budget, anchor_macs))

    def of(self, config: Family) -> Costs:
        """Price a network without training it."""
        network = build(config, weights=False)
        found = counted.cost(network, self.size)
        return Costs(
            macs=found.macs,
            parameters=found.parameters,
            memory=peak_elements(network, self.size),
            latency={name: self._milliseconds(table, config) for name, table in self.tables.items()},
        )

    def fits(self, costs: Costs) -> bool:
        """Whether every limit of the budget holds."""
        values = {"macs": costs.macs, "parameters": costs.parameters, "memory": costs.memory, **costs.latency}
        return all(values[name] <= limit for name, limit in self.limits.items())

    def _milliseconds(self, table: LatencyTable, config: Family) -> float:
        if not isinstance(config, ElasticConfig):
            raise RecipeError("latency tables price networks of the elastic family alone: use another limit")
        return table.predict(parts(config, self.size), interpolate=True)


def peak_elements(network: nn.Module, size: int) -> int:
    """The most elements that one layer's inputs and output have together, for one image."""
    most = 0

    def measure(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal most
        most = max(most, sum(x.numel() for x in inputs) + output.numel())

    leaves = [module for module in network.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(measure) for leaf in leaves]
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, size, size))
    finally:
        for handle in handles:
            handle.remove()
    return most


def _limits(budget: BudgetConfig, anchor_macs: int | None) -> Iterator[tuple[str, float]]:
    """Name of a cost -> the most it may be."""
    macs = [] if budget.macs is None else [float(budget.macs)]
    if budget.mac_ratio is not None:
        if anchor_macs is None:
            raise RecipeError("the anchor is known by its vectors alone: limit macs, not mac_ratio")
        macs.append(anchor_macs / budget.mac_ratio)
    if macs:
        yield "macs", min(macs)
    for name in ("parameters", "memory"):
        if getattr(budget, name) is not None:
            yield name, getattr(budget, name)
    for each in budget.latency:
        yield Path(each.table).stem, each.ms
