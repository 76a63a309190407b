"""NSGA-II (Deb et al., 2002) over a search space: reward against costs, all at once; by the library pymoo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hetero.search.algorithms import Problem, Reward, draw
from hetero.search.evaluation import Candidate
from hetero.search.space import Architecture
from hetero_devices.errors import RecipeError, require


def nsga2(problem: Problem, generator: np.random.Generator) -> list[Candidate]:
    """Every candidate looked at, in order. Parents are those that pymoo's rank and crowding let survive.

    Raises MissingExtra without pymoo, RecipeError for a cost that is not known.
    """
    require("pymoo", "search")
    found = {each.architecture: each for each in problem.known}
    parents = _survivors(problem, list(problem.known), generator)
    for generation in range(problem.config.generations):
        children = problem.evaluations(_proposed(problem, parents, generator, set(found)))
        found |= {child.architecture: child for child in children}
        parents = _survivors(problem, [*parents, *children], generator)
        if not children and generation:
            break  # the budget leaves nothing new
    return list(found.values())


def objectives(candidate: Candidate, reward: Reward, names: tuple[str, ...]) -> list[float]:
    """What is minimised: the negative reward, then the named costs; RecipeError for an unknown name."""
    costs = candidate.costs
    known = {"macs": costs.macs, "parameters": costs.parameters, "memory": costs.memory, **costs.latency}
    for name in names:
        if name not in known:
            raise RecipeError(f"there is no cost {name!r} to trade against: known are {', '.join(known)}")
    return [-reward(candidate), *(float(known[name]) for name in names)]


def _proposed(
    problem: Problem, parents: Sequence[Candidate], generator: np.random.Generator, known: set[Architecture]
) -> list[Architecture]:
    space, config = problem.space, problem.config
    if not parents:
        return draw(problem.evaluations, lambda: space.sample(generator), config.population, generator)

    def propose() -> Architecture:
        first, second = (parents[int(i)].architecture for i in generator.integers(len(parents), size=2))
        return space.mutate(space.cross(first, second, generator), generator, config.mutation)

    return draw(problem.evaluations, propose, config.population, generator, known)


def _survivors(
    problem: Problem, candidates: Sequence[Candidate], generator: np.random.Generator
) -> list[Candidate]:
    from pymoo.algorithms.moo.nsga2 import RankAndCrowding
    from pymoo.core import problem as pymoo
    from pymoo.core.population import Population

    if not candidates:
        return []
    names, reward = problem.config.objectives, problem.reward
    values = np.array([objectives(each, reward, names) for each in candidates])
    population = Population.new(X=np.arange(len(candidates))[:, None], F=values)
    survival: Any = RankAndCrowding()
    kept = survival.do(
        pymoo.Problem(n_var=1, n_obj=1 + len(names)),
        population,
        n_survive=min(problem.config.population, len(candidates)),
        random_state=generator,
    )
    return [candidates[int(x)] for x in kept.get("X")[:, 0]]
