"""The rows of `search.py`: how an architecture comes about, and what it may cost."""

from __future__ import annotations

from dataclasses import dataclass

from search_handmade import HANDMADE, PRESET

RATIOS = (20, 40, 80, 160)
REWARDS = {"CMP-NAS, R3": "product", "CMP-NAS, R2": "asymmetric", "plain, R1": "symmetric"}
RANDOM = "random search"
SHARED = "CMP-NAS, R3, after the others"  # begins with what they scored
SEARCHED = (*REWARDS, RANDOM, SHARED)
EXPORTED = ("CMP-NAS, R3", PRESET)  # whose int8 files are scored as well


@dataclass(frozen=True)
class Budget:
    """`ratio` times fewer multiply-accumulates than the anchor; timed: the int8 time of the preset there."""

    ratio: int
    timed: bool = False

    @property
    def name(self) -> str:
        """In names of folders."""
        return f"int8-{self.ratio}" if self.timed else str(self.ratio)

    @property
    def label(self) -> str:
        return f"int8 time at {self.ratio}×" if self.timed else f"{self.ratio}×"


BUDGETS = (*map(Budget, RATIOS), Budget(20, timed=True), Budget(80, timed=True))
TIMED_ROWS = ("CMP-NAS, R3", RANDOM, *HANDMADE)


def rows(*, timed: bool = True) -> list[tuple[str, Budget]]:
    """Every row of a data set, if asked with the budgets of time."""
    every = (*SEARCHED, *HANDMADE)
    budgets = [budget for budget in BUDGETS if timed or not budget.timed]
    return [(how, budget) for budget in budgets for how in (TIMED_ROWS if budget.timed else every)]
