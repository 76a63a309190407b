"""Spaces, the supernet's sharing of weights, costs, and how candidates are proposed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from hetero.models.build import build
from hetero.models.cost import cost
from hetero.models.elastic import ElasticConfig
from hetero.search.algorithms import AlgorithmConfig, Problem, best, search
from hetero.search.blocks import macs, parts
from hetero.search.cost import BudgetConfig, LatencyBudget, Pricing, peak_elements
from hetero.search.elastic_space import ElasticSpace, ElasticSpaceConfig, StageSpace
from hetero.search.evaluation import Candidate, Evaluations
from hetero.search.front import front
from hetero.search.paths import Paths
from hetero.search.scoring import Scores
from hetero.search.space import Architecture, Choice, SearchSpace
from hetero.search.supernet import SuperNet, part
from hetero_devices.errors import HeteroError, RecipeError

SMALL = ElasticSpaceConfig(
    stem=(8, 16),
    stages=(
        StageSpace(width=(8, 16), depth=(1, 2), kernel=(3, 5), expansion=(1.0, 2.0), stride=1),
        StageSpace(width=(16, 24), depth=(1, 2), kernel=(3, 7), expansion=(2.0, 3.0)),
    ),
    head=(16, 32),
    dim=8,
)


@pytest.fixture(scope="module")
def space() -> ElasticSpace:
    return ElasticSpace(SMALL)


def drawn(space: SearchSpace, count: int, seed: int = 0) -> list[Architecture]:
    generator = np.random.default_rng(seed)
    return [space.sample(generator) for _ in range(count)]


def test_a_candidate_is_described_and_found_again(space: ElasticSpace) -> None:
    for architecture in drawn(space, 20):
        assert space.parse(space.describe(architecture)) == architecture
        assert space.canonical(architecture) == architecture
        assert isinstance(space.config(architecture), ElasticConfig)
    assert len({space.config(a).model_dump_json() for a in drawn(space, 50)}) == len(set(drawn(space, 50)))


def test_what_is_not_of_the_space_is_named(space: ElasticSpace) -> None:
    described = space.describe(space.smallest())
    with pytest.raises(RecipeError, match="stem has no option 99"):
        space.parse(described | {"stem": 99})
    with pytest.raises(RecipeError, match="'colour'"):
        space.parse(described | {"colour": "red"})
    with pytest.raises(RecipeError, match="distinct options"):
        Choice("x", (1, 1))
    with pytest.raises(ValidationError, match="must rise"):
        ElasticSpaceConfig(stem=(16, 8))


def test_mutation_changes_something_and_crossing_takes_from_the_parents(space: ElasticSpace) -> None:
    generator = np.random.default_rng(1)
    parents = drawn(space, 2)
    for _ in range(20):
        child = space.cross(parents[0], parents[1], generator)
        described, *theirs = (space.describe(each) for each in (child, *parents))
        for name, taken in described.items():
            unused = name.count(".") == 2  # of a block that the child may not have
            assert unused or taken in [each[name] for each in theirs]
    mutants = {space.mutate(parents[0], generator, 0.2) for _ in range(20)}
    assert len(mutants) > 10


def test_a_floor_leaves_the_larger_options(space: ElasticSpace) -> None:
    generator = np.random.default_rng(0)
    assert space.sample(generator, floor=1.0) == space.largest() == space.smallest(floor=1.0)
    assert space.smallest(0.0) == space.smallest()


def test_the_supernet_computes_what_the_candidate_with_its_weights_computes(space: ElasticSpace) -> None:
    torch.manual_seed(0)
    supernet = SuperNet(space, Paths(rule="single"))
    images = torch.randn(4, 3, 16, 16)
    for architecture in [space.smallest(), space.largest(), *drawn(space, 8)]:
        network = supernet.extract(architecture).train()
        torch.testing.assert_close(supernet.path(images, architecture), network(images), rtol=0, atol=0)


def test_the_resolution_is_a_choice_that_costs_operations_and_no_weights() -> None:
    torch.manual_seed(0)
    space = ElasticSpace(SMALL.model_copy(update={"resolution": (8, 12, 16)}))
    small, large = (space.config(each) for each in (space.smallest(), space.largest()))
    assert (small.resolution, large.resolution) == (8, 16)
    assert space.parse(space.describe(space.smallest())) == space.smallest()
    at = {side: large.model_copy(update={"resolution": side}) for side in (8, 16)}
    costs = {side: cost(build(config), 16) for side, config in at.items()}
    assert costs[8].parameters == costs[16].parameters
    assert 3 * costs[8].macs < costs[16].macs
    supernet, images = SuperNet(space, Paths(rule="single")), torch.randn(4, 3, 16, 16)
    for architecture in drawn(space, 6):
        network = supernet.extract(architecture).train()
        torch.testing.assert_close(supernet.path(images, architecture), network(images), rtol=0, atol=0)
    with pytest.raises(ValidationError, match="resolution must rise"):
        ElasticSpaceConfig(resolution=(16, 8))


def test_candidates_share_weights(space: ElasticSpace) -> None:
    supernet = SuperNet(space, Paths(rule="single"))
    small, large = space.smallest(), space.largest()
    before = supernet.extract(small).state_dict()
    supernet.path(torch.randn(4, 3, 16, 16), large).sum().backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in supernet.parameters():
            assert parameter.grad is not None
            parameter.sub_(0.1 * parameter.grad)
    after = supernet.extract(small).state_dict()
    assert all(not torch.equal(before[k], after[k]) for k in before if k.endswith("weight"))
    whole = sum(p.numel() for p in build(space.config(large)).parameters())
    assert sum(p.numel() for p in supernet.parameters()) == whole


def test_a_part_is_the_first_channels_and_the_middle_of_a_kernel() -> None:
    weight = torch.arange(2 * 3 * 5 * 5).reshape(2, 3, 5, 5)
    assert torch.equal(part(weight, torch.Size((1, 2, 3, 3))), weight[:1, :2, 1:4, 1:4])


def test_a_sandwich_step_has_the_largest_first_and_the_smallest_last(space: ElasticSpace) -> None:
    supernet = SuperNet(space, Paths(rule="sandwich", between=2)).train()
    images = torch.randn(3, 3, 16, 16)
    torch.manual_seed(5)
    found = supernet(images).chunk(4)
    torch.testing.assert_close(found[0], supernet.path(images, space.largest()))
    torch.testing.assert_close(found[-1], supernet.path(images, space.smallest()))
    torch.manual_seed(5)
    torch.testing.assert_close(torch.cat(found), supernet(images))


def test_shrinking_begins_with_the_largest(space: ElasticSpace) -> None:
    paths = Paths(rule="single", shrinking=0.5, steps=100)
    assert {paths.draw(space, 0) for _ in range(10)} == {(space.largest(),)}
    assert len({paths.draw(space, 50) for _ in range(20)}) > 10


def test_costs_are_those_of_the_network(space: ElasticSpace) -> None:
    pricing = Pricing(BudgetConfig(macs=10**6, parameters=10**5), 16, None)
    for architecture in drawn(space, 5):
        config = space.config(architecture)
        found, counted = pricing.of(config), cost(build(config), 16)
        assert (found.macs, found.parameters) == (counted.macs, counted.parameters)
        assert sum(macs(each) for each in parts(config, 16)) == counted.macs
        assert pricing.fits(found) == (found.macs <= 10**6 and found.parameters <= 10**5)
        assert found.memory == peak_elements(build(config), 16) >= 3 * 16 * 16


def test_a_budget_by_ratio_needs_an_anchor_of_known_cost(tmp_path: Path) -> None:
    assert Pricing(BudgetConfig(mac_ratio=20, macs=10**9), 16, 10**8).limits == {"macs": 5e6}
    with pytest.raises(RecipeError, match="known by its vectors"):
        Pricing(BudgetConfig(mac_ratio=20), 16, None)
    with pytest.raises(HeteroError, match="does not exist"):
        Pricing(BudgetConfig(latency=(LatencyBudget(table=str(tmp_path / "t.json"), ms=1),)), 16, None)


def worth(space: SearchSpace, architecture: Architecture) -> float:
    """A reward that rewards every larger option but the first choice's: known optimum, no training."""
    return sum(architecture.genes[1:]) - 2.0 * architecture.genes[0]


class Scorer:
    def __init__(self, space: SearchSpace) -> None:
        self.space, self.scored = space, list[Architecture]()

    def __call__(self, architectures: Sequence[Architecture]) -> Iterable[tuple[Architecture, Scores]]:
        for each in architectures:
            self.scored.append(each)
            value = worth(self.space, each)
            yield each, Scores(symmetric=value, asymmetric=value, agreement=value)


def evaluations(space: SearchSpace, path: Path, macs: int | None = None) -> tuple[Evaluations, Scorer]:
    scorer, pricing = Scorer(space), Pricing(BudgetConfig(macs=macs), 16, None)
    return Evaluations(path / "scores.jsonl", space, pricing, scorer), scorer


def reward(candidate: Candidate) -> float:
    return candidate.scores.asymmetric


def test_evolution_beats_random_search_with_as_many_evaluations(space: ElasticSpace, tmp_path: Path) -> None:
    config = AlgorithmConfig(population=12, generations=6, parents=4)
    found = {}
    for kind in ("evolution", "random"):
        (folder := tmp_path / kind).mkdir()
        asked = config.model_copy(update={"kind": kind})
        looked_at = search(Problem(evaluations(space, folder)[0], reward, asked), 0)
        assert len({each.architecture for each in looked_at}) == len(looked_at)
        found[kind] = max(map(reward, looked_at))
    assert found["evolution"] > found["random"]


@pytest.mark.parametrize("kind", ["evolution", "nsga2"])
def test_what_earlier_searches_scored_is_a_start(space: ElasticSpace, tmp_path: Path, kind: str) -> None:
    """As many new candidates are scored, the known ones are among the parents, and the best is no worse."""
    config = AlgorithmConfig(kind=kind, population=6, generations=3, parents=3)  # type: ignore[arg-type]
    evaluations_, scorer = evaluations(space, tmp_path)
    known = evaluations_([space.largest(), *drawn(space, 40, seed=5)])
    before = len(scorer.scored)
    found = search(Problem(evaluations_, reward, config, known), 1)
    assert found[: len(known)] == known
    assert len(scorer.scored) - before <= config.evaluations
    alone = search(Problem(evaluations(space, tmp_path / "other")[0], reward, config), 1)
    assert max(map(reward, found)) >= max(map(reward, known))
    assert max(map(reward, found)) > max(map(reward, alone))
    assert not {each.architecture for each in found[len(known) :]} & {each.architecture for each in known}


@pytest.mark.parametrize("kind", ["evolution", "random", "nsga2"])
def test_every_candidate_is_within_the_budget(space: ElasticSpace, tmp_path: Path, kind: str) -> None:
    config = AlgorithmConfig(kind=kind, population=8, generations=3, parents=3)  # type: ignore[arg-type]
    found = search(Problem(evaluations(space, tmp_path, macs=200_000)[0], reward, config), 0)
    assert len(found) > 8
    assert all(each.costs.macs <= 200_000 for each in found)


def test_shrinking_goes_down_to_the_smallest_choice_by_choice(space: ElasticSpace) -> None:
    path = space.shrinking(space.largest(), np.random.default_rng(0))
    sized = [choice.name for choice in space.choices if choice.sized]
    first, last = space.describe(path[0]), space.describe(path[-1])
    assert all(last[name] == space.describe(space.smallest())[name] for name in sized)
    assert sum(value != space.describe(space.largest())[name] for name, value in first.items()) >= 1
    pricing = Pricing(BudgetConfig(), 16, None)
    costs = [pricing.of(space.config(each)).macs for each in path]
    assert costs == sorted(costs, reverse=True)
    assert space.shrinking(space.smallest(), np.random.default_rng(0)) == []


@pytest.mark.parametrize("kind", ["evolution", "random"])
def test_a_budget_that_chance_does_not_meet_is_met(space: ElasticSpace, tmp_path: Path, kind: str) -> None:
    """Little more than the smallest: one in thousands of random candidates."""
    least = cost(build(space.config(space.smallest())), 16).macs
    evaluations_, _ = evaluations(space, tmp_path, macs=round(1.15 * least))
    assert not any(map(evaluations_.feasible, drawn(space, 50)))
    config = AlgorithmConfig(kind=kind, population=4, generations=2, parents=2)  # type: ignore[arg-type]
    found = search(Problem(evaluations_, reward, config), 0)
    assert len(found) >= 4
    assert all(each.costs.macs <= 1.15 * least for each in found)


def test_an_impossible_budget_is_named(space: ElasticSpace, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no candidate of elastic is within the budget"):
        search(Problem(evaluations(space, tmp_path, 10)[0], reward, AlgorithmConfig()), 0)


def test_nsga2_keeps_cheap_candidates_beside_good_ones(space: ElasticSpace, tmp_path: Path) -> None:
    config = AlgorithmConfig(kind="nsga2", population=12, generations=6)
    found = search(Problem(evaluations(space, tmp_path)[0], reward, config), 0)
    joined = front(found, lambda each: (each.costs.macs,), reward)
    assert len(joined) >= 3
    macs_ = [each.costs.macs for each in joined]
    assert macs_ == sorted(macs_)
    rewards = [reward(each) for each in joined]
    assert rewards == sorted(rewards)
    bad = config.model_copy(update={"objectives": ("price",)})
    with pytest.raises(RecipeError, match="no cost 'price'"):
        search(Problem(evaluations(space, tmp_path)[0], reward, bad), 0)


def test_a_search_started_again_goes_the_same_way_and_scores_nothing_twice(
    space: ElasticSpace, tmp_path: Path
) -> None:
    config = AlgorithmConfig(population=6, generations=4, parents=3)
    whole = search(Problem(evaluations(space, tmp_path)[0], reward, config), 3)
    path = tmp_path / "scores.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:10]) + lines[10][:20])  # killed while it wrote
    again, scorer = evaluations(space, tmp_path)
    assert len(again) == 10
    assert search(Problem(again, reward, config), 3) == whole
    assert len(scorer.scored) == len(lines) - 10
    path.write_text("nonsense\n")
    with pytest.raises(HeteroError, match=r"scores\.jsonl is damaged"):
        evaluations(space, tmp_path)


def test_the_front_keeps_what_nothing_beats_and_the_best_are_sorted(
    space: ElasticSpace, tmp_path: Path
) -> None:
    items = [(1, 5.0), (2, 4.0), (3, 7.0), (3, 6.0), (1, 5.0)]
    assert front(items, lambda x: (x[0],), lambda x: x[1]) == [(1, 5.0), (3, 7.0)]
    candidates = evaluations(space, tmp_path)[0](drawn(space, 12))
    chosen = best(candidates, reward, 4)
    assert [reward(each) for each in chosen] == sorted(map(reward, candidates), reverse=True)[:4]


class Listed(SearchSpace):
    """A fixed list of networks, as anybody may bring."""

    name = "listed"

    @property
    def choices(self) -> tuple[Choice, ...]:
        return (Choice("width", (0.5, 1.0, 2.0)),)

    def config(self, architecture: Architecture) -> ElasticConfig:
        return ElasticConfig(width=self.describe(architecture)["width"], dim=8)


def test_a_space_of_ones_own_is_searched_alike(tmp_path: Path) -> None:
    listed = Listed()
    config = AlgorithmConfig(kind="random", population=2, generations=5)
    found = search(Problem(evaluations(listed, tmp_path)[0], reward, config), 0)
    assert sorted(each.architecture.genes[0] for each in found) == [0, 1, 2]
    macs_ = [each.costs.macs for each in sorted(found, key=lambda each: each.architecture.genes)]
    assert macs_ == sorted(set(macs_))
