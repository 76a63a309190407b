"""A model's layers, as the unit that static quantisation can leave in float."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Protocol, TypeVar

from hetero_devices.errors import RecipeError

Operator = TypeVar("Operator")


@dataclass(frozen=True)
class Layer:
    """A weighted operator and what follows it until the next one, so that its activation stays with it.

    operator: the weighted one's type in its format. macs: its multiply-accumulates of one image.
    members: what the format's quantiser calls the operators.
    """

    name: str
    operator: str
    macs: int
    members: tuple[str, ...]


class Static(Protocol):
    """A float32 file with its ranges, ready to be quantised with different layers left in float."""

    @property
    def layers(self) -> tuple[Layer, ...]: ...

    def content(self, keep_float: Collection[str]) -> bytes:
        """The quantised file; RecipeError for a layer it does not have."""
        ...


def grouped(operators: Iterable[Operator], weighted: Callable[[Operator], bool]) -> list[list[Operator]]:
    """Operators in order, a new group at each weighted one; what comes before the first is left out."""
    groups: list[list[Operator]] = []
    for operator in operators:
        if weighted(operator):
            groups.append([])
        if groups:
            groups[-1].append(operator)
    return groups


def members(layers: Sequence[Layer], names: Collection[str]) -> list[str]:
    """The operators of the named layers; RecipeError names the nearest for a name that is none of them."""
    known = {layer.name: layer for layer in layers}
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0)
            raise RecipeError(
                f"there is no layer {name!r} to keep in float; the nearest is {', '.join(near)!r}"
            )
    return [member for name in names for member in known[name].members]
