"""NSGA-II (Deb et al., 2002) over a search space: reward against costs, all at once; by the library pymoo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hetero.search.algorithms import AlgorithmConfig, Reward, draw
from hetero.search.evaluation import Candidate, Evaluations
from hetero.search.space import Architecture, SearchSpace
from hetero_devices.errors import RecipeError, require


def nsga2(
    space: SearchSpace,
    evaluations: Evaluations,
    reward: Reward,
    config: AlgorithmConfig,
    seed: int,
    known: Sequence[Candidate] = (),
) -> list[Candidate]:
    """Every candidate looked at, in order. Parents are those that pymoo's rank and crowding let survive.

    Raises MissingExtra without pymoo, RecipeError for a cost that is not known.
    """
    require("pymoo", "search")
    from pymoo.algorithms.moo.nsga2 import RankAndCrowding
    from pymoo.core.problem import Problem

    generator = np.random.default_rng(seed)
    problem: Any = Problem(n_var=1, n_obj=1 + len(config.objectives))
    survival: Any = RankAndCrowding()
    found = {each.architecture: each for each in known}
    parents = _survivors(list(known), survival, problem, reward, config, generator) if known else []
    for generation in range(config.generations):
        proposed = _proposed(space, evaluations, parents, config, generator, set(found))
        children = evaluations(proposed)
        found |= {child.architecture: child for child in children}
        parents = _survivors([*parents, *children], survival, problem, reward, config, generator)
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
    space: SearchSpace,
    evaluations: Evaluations,
    parents: list[Candidate],
    config: AlgorithmConfig,
    generator: np.random.Generator,
    known: set[Architecture],
) -> list[Architecture]:
    if not parents:
        return draw(evaluations, lambda: space.sample(generator), config.population, generator)

    def propose() -> Architecture:
        first, second = (parents[int(i)].architecture for i in generator.integers(len(parents), size=2))
        return space.mutate(space.cross(first, second, generator), generator, config.mutation)

    return draw(evaluations, propose, config.population, generator, known)


def _survivors(
    candidates: list[Candidate],
    survival: Any,
    problem: Any,
    reward: Reward,
    config: AlgorithmConfig,
    generator: np.random.Generator,
) -> list[Candidate]:
    from pymoo.core.population import Population

    values = np.array([objectives(each, reward, config.objectives) for each in candidates])
    population = Population.new(X=np.arange(len(candidates))[:, None], F=values)
    count = min(config.population, len(candidates))
    kept = survival.do(problem, population, n_survive=count, random_state=generator)
    return [candidates[int(x)] for x in kept.get("X")[:, 0]]
