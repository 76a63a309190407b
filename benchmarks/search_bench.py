"""One data set and seed of `search.py`: recipes, anchor, supernet and searches."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cached_property

import numpy as np

import results
import sharing
from hetero.models.build import Family
from hetero.models.elastic import ElasticConfig
from hetero.recipes.resolve import resolve
from hetero.runs import Run
from hetero.search.cost import BudgetConfig, LatencyBudget, Pricing
from hetero.search.searching import Search, open_search
from hetero.search.space import Architecture
from hetero_devices.errors import RecipeError
from hetero_devices.files import read_json
from search_budgets import BUDGETS, RANDOM, RATIOS, REWARDS, SEARCHED, SHARED, Budget, rows
from search_handmade import HANDMADE, PRESET, within
from search_recipes import COMMON, OF_DATA, SPACE, VALIDATION
from search_timing import Time, Timing

FURTHER = 8  # random architectures, for the rank correlation
# Random networks that are measured in parts, and whole.
BLOCKS = {"default": (8, 4), "full": (32, 8), "trial": (1, 3)}


class Bench:
    """One data set and seed: anchor, supernet, and the networks that are found or made."""

    def __init__(
        self, data: str, seed: int, options: argparse.Namespace, changes: Sequence[str] = ()
    ) -> None:
        """changes: of the recipe, beside those of the benchmark."""
        self.data, self.seed, self.options, self.changes = data, seed, options, tuple(changes)
        self.folder = results.WORK / "search" / f"{data}-{options.scale}"

    @cached_property
    def anchor(self) -> str:
        """The folder of the anchor, shared by all seeds."""
        scale = self.options.scale
        recipe = (*COMMON[scale], *OF_DATA[self.data][scale], VALIDATION[self.data])
        return sharing.anchor(self.folder, self.data, self.options, recipe)

    @cached_property
    def search(self) -> Search:
        """Without a budget: its supernet, scores and validation serve all others."""
        return self._opened("any")

    @property
    def run(self) -> Run:
        return self.search.run

    @property
    def rows(self) -> list[tuple[str, Budget]]:
        """What is compared, as the options say."""
        return rows(timed=not self.options.untimed)

    def prepare(self) -> None:
        """Anchor, its cached embeddings and the supernet, which the processes then only read."""
        self.run.cache_views()
        _ = self.search.supernet

    def _opened(self, name: str, *changes: str) -> Search:
        options, scale = self.options, self.options.scale
        given = [*SPACE, *COMMON[scale], *OF_DATA[self.data][scale], VALIDATION[self.data]]
        given += [f"{part}.fit.device={options.device}" for part in ("anchor", "student", "search")]
        given += [f"data.root={options.root}"] if options.root else []
        given += [f"seed={self.seed}", *self.changes, *changes, f"anchor.source={self.anchor}"]
        return open_search(self.folder / f"seed{self.seed}", resolve(self.data, given), name)

    def winner(self, how: str, budget: Budget) -> Family | None:
        """The architecture of a row; None where its kind has no network so small, or none with a price."""
        limits = self.limits(budget)
        if how in HANDMADE:
            return self._made(how, limits)
        chosen = self._opened(self._name(how, budget), *self._changes(how, limits)).carry_out().chosen
        return ElasticConfig.model_validate(chosen.network)

    def limits(self, budget: Budget) -> BudgetConfig:
        """The budget as a search takes it."""
        counted = BudgetConfig(macs=int(self.macs(budget.ratio)))
        if not budget.timed:
            return counted
        preset = self._made(PRESET, counted)
        assert isinstance(preset, ElasticConfig)
        allowed = LatencyBudget(table=str(self.timing.path), ms=self.timing.predicted(preset))
        return BudgetConfig(latency=(allowed,))

    @cached_property
    def timing(self) -> Timing:
        """With this machine's table, measured once for all seeds: random networks and those made by hand."""
        found, whole = BLOCKS[self.options.scale]
        timing, generator = Timing(self.folder, self._size), np.random.default_rng(0)
        space = self.search.space
        networks = [space.config(space.sample(generator)) for _ in range(found + whole)]
        elastic = [ElasticConfig.model_validate(network.model_dump()) for network in networks]
        timing.measure([*elastic[whole:], *self._known()], elastic[:whole])
        return timing

    def _known(self) -> list[ElasticConfig]:
        """Those made by hand for the budgets of which time is limited, as far as a table can price them."""
        budgets = [BudgetConfig(macs=int(self.macs(budget.ratio))) for budget in BUDGETS if budget.timed]
        made = (self._made(how, limits) for how in HANDMADE for limits in budgets)
        return [network for network in made if isinstance(network, ElasticConfig)]

    def time(self, how: str, budget: Budget) -> Time | None:
        """Of a row whose time is limited; None where it has no network."""
        network, limits = self.winner(how, budget), self.limits(budget).latency
        if not isinstance(network, ElasticConfig) or not limits:
            return None
        return Time(limits[0].ms, self.timing.predicted(network), self.timing.measured(network))

    @property
    def _size(self) -> int:
        return self.run.recipe.data.size

    def _made(self, how: str, limits: BudgetConfig) -> Family | None:
        """By hand, as large as the limits allow; None where not even the smallest is within them."""
        try:
            return within(HANDMADE[how], Pricing(limits, self._size, None), self.run.anchor.space.dim)
        except RecipeError:
            return None

    def _name(self, how: str, budget: Budget) -> str:
        names = {**REWARDS, RANDOM: "random", SHARED: "shared"}
        return f"{names[how]}-{budget.name}"

    def _changes(self, how: str, limits: BudgetConfig) -> list[str]:
        return [
            f"search.budget={limits.model_dump_json()}",
            f"search.algorithm.kind={'random' if how == RANDOM else 'evolution'}",
            f"search.algorithm.known={str(how == SHARED).lower()}",
            f"search.reward.kind={REWARDS.get(how, 'product')}",
        ]

    def macs(self, ratio: int) -> float:
        anchor = self.run.anchor.cost
        assert anchor is not None
        return anchor.macs / ratio

    def further(self) -> list[Architecture]:
        """Random architectures between the smallest and the largest budget."""
        generator = np.random.default_rng(1000 + self.seed)
        search, found = self.search, list[Architecture]()
        low, high = self.macs(max(RATIOS)), self.macs(min(RATIOS))
        while len(found) < FURTHER:
            each = search.space.sample(generator)
            if low <= search.evaluations.costs(each).macs <= high:
                found.append(each)
        return found

    def searched(self) -> list[Architecture]:
        """What every search chose."""
        folders = [
            self.search.shared / self._name(how, budget) for how, budget in self.rows if how in SEARCHED
        ]
        results_ = (read_json(folder / "result.json") for folder in folders)
        return [self.search.space.parse(each["chosen"]["choices"]) for each in results_]
