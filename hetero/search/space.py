"""A search space: named choices, and the network that every combination of them stands for.

To bring one's own, subclass `SearchSpace` and say what the choices are and what network they make; sampling,
mutation, crossover, rewards, constraints and reports then work as they do for ours (docs/search.md).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hetero.models.build import Family
from hetero_devices.errors import RecipeError

_FIRST_BLOCK = 2  # in `features`, after the stem and its activation


@dataclass(frozen=True)
class Choice:
    """One decision: its name and what may be chosen, in an order where neighbours are alike.

    sized: whether later options are larger; where not, a floor leaves none out.
    """

    name: str
    options: tuple[Any, ...]
    sized: bool = True

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) < len(self.options):
            raise RecipeError(f"choice {self.name} needs distinct options, not {list(self.options)}")


@dataclass(frozen=True)
class Architecture:
    """One candidate: for every choice of its space the index of the option taken."""

    genes: tuple[int, ...]


class SearchSpace(ABC):
    """The candidates of a search."""

    name: str

    @property
    @abstractmethod
    def choices(self) -> tuple[Choice, ...]:
        """Every decision, always in the same order; options from small to large where they have a size."""

    @abstractmethod
    def config(self, architecture: Architecture) -> Family:
        """The network of a candidate, as `student.network` of a recipe."""

    def canonical(self, architecture: Architecture) -> Architecture:
        """The same network with the genes that do not matter at 0, so that equal networks are equal."""
        return architecture

    @property
    def size(self) -> int:
        """How many combinations there are, those of equal networks included."""
        return math.prod(len(choice.options) for choice in self.choices)

    def sample(self, generator: np.random.Generator, floor: float = 0.0) -> Architecture:
        """Options of a choice are equally likely; those below the share `floor` of its range are left out."""
        lowest = self._lowest(floor)
        pairs = zip(lowest, self._lengths, strict=True)
        return self.canonical(Architecture(tuple(int(generator.integers(low, n)) for low, n in pairs)))

    def smallest(self, floor: float = 0.0) -> Architecture:
        """The first option of every choice, or the first that is not below the share `floor` of its range."""
        return self.canonical(Architecture(self._lowest(floor)))

    def largest(self) -> Architecture:
        """The last option of every choice."""
        return self.canonical(Architecture(tuple(n - 1 for n in self._lengths)))

    def mutate(
        self, architecture: Architecture, generator: np.random.Generator, rate: float = 0.1
    ) -> Architecture:
        """Every gene is drawn anew with probability `rate`, and one at least."""
        drawn = generator.random(len(architecture.genes)) < rate
        drawn[generator.integers(len(drawn))] = True
        pairs = zip(architecture.genes, drawn, self._lengths, strict=True)
        return self.canonical(
            Architecture(tuple(int(generator.integers(n)) if new else gene for gene, new, n in pairs))
        )

    def cross(self, a: Architecture, b: Architecture, generator: np.random.Generator) -> Architecture:
        """Every gene from either parent, as a coin falls."""
        coins = generator.random(len(a.genes)) < 0.5
        pairs = zip(a.genes, b.genes, coins, strict=True)
        return self.canonical(Architecture(tuple(x if first else y for x, y, first in pairs)))

    def shrinking(self, architecture: Architecture, generator: np.random.Generator) -> list[Architecture]:
        """Ever smaller ones, to the smallest: one sized choice at a time, in random order, an option less."""
        pairs = zip(architecture.genes, self.choices, strict=True)
        counts = [gene if choice.sized else 0 for gene, choice in pairs]
        genes, found = list(architecture.genes), []
        for i in generator.permutation(np.repeat(np.arange(len(counts)), counts)):
            genes[i] -= 1
            found.append(self.canonical(Architecture(tuple(genes))))
        return found

    def describe(self, architecture: Architecture) -> dict[str, Any]:
        """Choice -> option taken."""
        pairs = zip(self.choices, architecture.genes, strict=True)
        return {choice.name: choice.options[gene] for choice, gene in pairs}

    def parse(self, described: Mapping[str, Any]) -> Architecture:
        """Undo `describe`; RecipeError names a choice that is missing, unknown, or an option there is not."""
        names = {choice.name for choice in self.choices}
        if described.keys() != names:
            wrong = sorted(described.keys() ^ names)[0]
            raise RecipeError(f"the architecture is not of the space {self.name}: see its choice {wrong!r}")
        return self.canonical(Architecture(tuple(_index(c, described[c.name]) for c in self.choices)))

    def _lowest(self, floor: float) -> tuple[int, ...]:
        return tuple(math.ceil(floor * (len(c.options) - 1)) if c.sized else 0 for c in self.choices)

    @property
    def _lengths(self) -> tuple[int, ...]:
        return tuple(len(choice.options) for choice in self.choices)


class SharedSpace(SearchSpace):
    """A space whose candidates can share the weights of a supernet."""

    @abstractmethod
    def cover(self) -> tuple[Architecture, ...]:
        """Candidates that together have every shared parameter at its full size."""

    @abstractmethod
    def shared_name(self, architecture: Architecture, parameter: str) -> str:
        """The shared parameter of which a candidate's parameter, by its name in the network, is a part."""


def check_rising(where: str, options: Sequence[float]) -> None:
    """Raise ValueError unless the options of a sized choice rise without repeats."""
    if list(options) != sorted(set(options)):
        raise ValueError(f"{where} must rise without repeats, not {list(options)}")


def named_by_place(parameter: str, blocks: Sequence[str], wrapped: bool) -> str:
    """A parameter's name in a supernet: of its block in `blocks`, or by the role of what is around them.

    For networks of ours: `features` are a stem, its activation, the blocks, and a last convolution. wrapped:
    whether a linear layer follows the network, before whose own names `build` then puts "0.".
    """
    head, dot, rest = parameter.removeprefix("0." if wrapped else "").partition("features.")
    if not dot:
        return parameter
    index, _, inner = rest.partition(".")
    place = int(index) - _FIRST_BLOCK
    if 0 <= place < len(blocks):
        return f"{head}{blocks[place]}.{inner}"
    return f"{head}{'stem' if place < 0 else 'last'}.{inner}"


def _index(choice: Choice, option: Any) -> int:
    if option not in choice.options:
        raise RecipeError(f"choice {choice.name} has no option {option!r}: there are {list(choice.options)}")
    return choice.options.index(option)
