"""One data set and seed of `search.py`: recipes, anchor, supernet and searches."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
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
from hetero_devices.files import read_json
from search_budgets import BUDGETS, RANDOM, RATIOS, REWARDS, SEARCHED, SHARED, Budget, rows
from search_handmade import HANDMADE, PRESET, narrowest, within
from search_recipes import COMMON, OF_DATA, SPACE, VALIDATION
from search_timing import Time, Timing

# Random architectures a seed for the rank correlation, beside those found; those of 48 pixels take longer.
FURTHER = {"omniglot": 8, "caltech101": 4}
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
        self._winners: dict[tuple[str, Budget], Family | None] = {}

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
        """The architecture of a row; None where even the narrowest of its kind is too dear."""
        if (how, budget) not in self._winners:
            self._winners[how, budget] = self._winner(how, budget)
        return self._winners[how, budget]

    def _winner(self, how: str, budget: Budget) -> Family | None:
        if how in HANDMADE:
            return within(HANDMADE[how], self._fits(budget), self._dim)
        chosen = self._opened(self._name(how, budget), *self._changes(how, self.limits(budget))).carry_out()
        return ElasticConfig.model_validate(chosen.chosen.network)

    def limits(self, budget: Budget) -> BudgetConfig:
        """The budget as a search takes it."""
        if not budget.timed:
            return BudgetConfig(macs=self._most(budget))
        return BudgetConfig(latency=(LatencyBudget(table=str(self.timing.path), ms=self._allowed(budget)),))

    def _fits(self, budget: Budget) -> Callable[[Family], bool]:
        """Whether a network made by hand is within the budget."""
        if not budget.timed:
            return self._cheap(budget)
        allowed = self._allowed(budget)
        return lambda network: self.timing.fits(network, allowed)

    def _cheap(self, budget: Budget) -> Callable[[Family], bool]:
        """Whether a network has no more multiply-accumulates than the budget's."""
        pricing = Pricing(BudgetConfig(macs=self._most(budget)), self._size, None)
        return lambda network: pricing.fits(pricing.of(network))

    def _most(self, budget: Budget) -> int:
        return int(self.macs(budget.ratio))

    def _allowed(self, budget: Budget) -> float:
        """Milliseconds: of the preset with as many times fewer multiply-accumulates, by the table."""
        preset = within(HANDMADE[PRESET], self._cheap(budget), self._dim)
        allowed = self.timing.predicted(preset) if preset else None
        assert allowed is not None, "the budgets are of sizes that the preset has"
        return allowed

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
        cheap = [self._cheap(budget) for budget in BUDGETS if budget.timed]
        made = (within(make, fits, self._dim) for make in HANDMADE.values() for fits in cheap)
        return [network for network in made if isinstance(network, ElasticConfig)]

    def time(self, how: str, budget: Budget) -> Time:
        """Of a row whose time is limited."""
        network = self.winner(how, budget)
        measured = network or narrowest(HANDMADE[how], self._dim)
        predicted = self.timing.predicted(measured)
        return Time(self._allowed(budget), predicted, self.timing.measured(measured), network is None)

    @property
    def _size(self) -> int:
        return self.run.recipe.data.size

    @property
    def _dim(self) -> int:
        return self.run.anchor.space.dim

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
        while len(found) < FURTHER[self.data]:
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
