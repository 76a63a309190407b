"""How candidates are proposed: evolution as in the paper, random search, and NSGA-II for a front."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from hetero.config import Config
from hetero.search.evaluation import Candidate, Evaluations
from hetero.search.space import Architecture, SearchSpace
from hetero_devices.errors import RecipeError

Reward = Callable[[Candidate], float]

_ATTEMPTS = 200  # draws without a new candidate after which a budget counts as exhausted
_REJECTIONS = 20  # proposals over the budget in a row after which one is made smaller


class AlgorithmConfig(Config):
    """How the space is searched, every candidate within the budget.

    kind: `evolution` keeps the best by reward as parents (Guo et al., ECCV 2020; Duggal et al., CVPR 2021);
    `random` draws as many candidates at random; `nsga2` seeks the front of reward against the objectives of
    cost at once (Deb et al., 2002, by the library pymoo).

    known: whether candidates that earlier searches of the run have scored may be parents, and be chosen.
    """

    kind: Literal["evolution", "random", "nsga2"] = "evolution"
    population: int = Field(default=50, ge=2)
    generations: int = Field(default=20, ge=1)
    parents: int = Field(default=10, ge=2)
    mutation: float = Field(default=0.1, gt=0, le=1, description="probability of a gene to be drawn anew")
    objectives: tuple[str, ...] = Field(default=("macs",), description="costs nsga2 trades against reward")
    known: bool = True

    @property
    def evaluations(self) -> int:
        """Candidates that are scored, those met twice included."""
        return self.population * self.generations


@dataclass(frozen=True)
class Problem:
    """What an algorithm is given to solve.

    evaluations: price and score the candidates of a space. reward: what is made as large as possible.
    known: candidates within the budget to begin with; random search looks at none of them.
    """

    evaluations: Evaluations
    reward: Reward
    config: AlgorithmConfig
    known: Sequence[Candidate] = ()

    @property
    def space(self) -> SearchSpace:
        return self.evaluations.space


def search(problem: Problem, seed: int) -> list[Candidate]:
    """Every candidate the algorithm looked at, each once, in the order it looked.

    Raises RecipeError when nothing within the budget is found.
    """
    generator = np.random.default_rng(seed)
    match problem.config.kind:
        case "random":
            return _random(problem, generator)
        case "evolution":
            return _evolution(problem, generator)
        case "nsga2":
            from hetero.search.nsga import nsga2

            return nsga2(problem, generator)


def draw(
    evaluations: Evaluations,
    propose: Callable[[], Architecture],
    count: int,
    generator: np.random.Generator,
    known: set[Architecture] | None = None,
) -> list[Architecture]:
    """`count` different candidates within the budget, none `known`; fewer where no more are found.

    Raises RecipeError when not one is found.
    """
    found: dict[Architecture, None] = {}
    seen = known or set()
    misses = 0
    while len(found) < count and misses < _ATTEMPTS:
        candidate = _feasible(evaluations, propose, generator)
        if candidate is None:
            misses += _REJECTIONS
        elif candidate in seen or candidate in found:
            misses += 1
        else:
            found[candidate] = None
            misses = 0
    if not found and not seen:
        raise RecipeError(
            f"no candidate of {evaluations.space.name} is within the budget: "
            "raise the limit, or give the space smaller options"
        )
    return list(found)


def _feasible(
    evaluations: Evaluations, propose: Callable[[], Architecture], generator: np.random.Generator
) -> Architecture | None:
    """A proposal within the budget: by rejection, as in the paper; a tight budget by making one smaller."""
    for _ in range(_REJECTIONS):
        candidate = propose()
        if evaluations.feasible(candidate):
            return candidate
    smaller = evaluations.space.shrinking(candidate, generator)
    first = bisect_left(smaller, True, key=evaluations.feasible)  # costs fall along the way
    return smaller[first] if first < len(smaller) else None


def _random(problem: Problem, generator: np.random.Generator) -> list[Candidate]:
    space, config = problem.space, problem.config
    drawn = draw(problem.evaluations, lambda: space.sample(generator), config.evaluations, generator)
    blocks = range(0, len(drawn), config.population)
    return [
        each for start in blocks for each in problem.evaluations(drawn[start : start + config.population])
    ]


def _evolution(problem: Problem, generator: np.random.Generator) -> list[Candidate]:
    """Half of a generation by crossover of two parents, half by mutation of one."""
    space, evaluations, config = problem.space, problem.evaluations, problem.config
    found = {each.architecture: each for each in problem.known}
    first = draw(evaluations, lambda: space.sample(generator), config.population, generator, set(found))
    found |= {each.architecture: each for each in evaluations(first)}
    for _ in range(config.generations - 1):
        parents = best(list(found.values()), problem.reward, config.parents)
        half = config.population // 2
        crossing, mutating = (make(problem, parents, generator) for make in (_crossing, _mutation))
        crossed = draw(evaluations, crossing, half, generator, set(found))
        met = set(found) | set(crossed)
        mutated = draw(evaluations, mutating, config.population - half, generator, met)
        found |= {each.architecture: each for each in evaluations([*crossed, *mutated])}
    return list(found.values())


def best(candidates: Sequence[Candidate], reward: Reward, count: int) -> list[Candidate]:
    """The first `count` by reward; equal rewards by fewer operations."""
    return sorted(candidates, key=lambda each: (-reward(each), each.costs.macs))[:count]


def _crossing(
    problem: Problem, parents: Sequence[Candidate], generator: np.random.Generator
) -> Callable[[], Architecture]:
    space = problem.space

    def propose() -> Architecture:
        first, second = generator.integers(len(parents), size=2)
        child = space.cross(parents[first].architecture, parents[second].architecture, generator)
        return child if first != second else space.mutate(child, generator, problem.config.mutation)

    return propose


def _mutation(
    problem: Problem, parents: Sequence[Candidate], generator: np.random.Generator
) -> Callable[[], Architecture]:
    def propose() -> Architecture:
        parent = parents[int(generator.integers(len(parents)))].architecture
        return problem.space.mutate(parent, generator, problem.config.mutation)

    return propose
