"""Where the operators of a model run, and in which arithmetic: what a runtime made of the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE", "CAST", "QUANTIZELINEAR", "DEQUANTIZELINEAR"})
"""Operators that only change the type of numbers, in upper case, of all runtimes."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Counts of executed operators, after all optimisation by the runtime.

    backends: backend -> operators, e.g. {"XNNPACK": 21, "builtin": 1} or {"CPUExecutionProvider": 19}.
    partitions: parts of the graph the accelerated backend took over; None where the runtime has none.
    fallback: operator -> how many the accelerated backend left to the runtime; empty where it has none.
    integer, floating, conversions: operators by arithmetic; conversions only quantise, dequantise or cast.
    float_layers: operator -> how many layers with weights (convolutions, matrix products) compute in float.
    """

    backends: dict[str, int]
    partitions: int | None
    fallback: dict[str, int]
    integer: int
    floating: int
    conversions: int
    float_layers: dict[str, int]

    @property
    def operators(self) -> int:
        return sum(self.backends.values())

    @property
    def delegated_share(self) -> float | None:
        """Share of operators that XNNPACK runs; None where the runtime has no delegate."""
        if self.partitions is None:
            return None
        return self.backends.get("XNNPACK", 0) / self.operators if self.operators else 0.0


@dataclass(frozen=True)
class Operator:
    """One executed operator: its name, its backend, whether it has weights and computes with integers."""

    name: str
    backend: str
    weighted: bool
    integer: bool


def summarise(operators: Iterable[Operator], partitions: int | None, accelerated: str | None) -> Placement:
    """Count operators; `accelerated` is the backend from which the others fall back, None without one."""
    known = list(operators)
    computing = [operator for operator in known if operator.name.upper() not in CONVERSIONS]
    integer = sum(operator.integer for operator in computing)
    left = (operator.name for operator in known if accelerated and operator.backend != accelerated)
    return Placement(
        backends=_counted(operator.backend for operator in known),
        partitions=partitions,
        fallback=_counted(left),
        integer=integer,
        floating=len(computing) - integer,
        conversions=len(known) - len(computing),
        float_layers=_counted(o.name for o in computing if o.weighted and not o.integer),
    )


def _counted(names: Iterable[Any]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))
