"""The `search` section of a recipe."""

from __future__ import annotations

from pydantic import Field

from hetero.config import Config
from hetero.search.algorithms import AlgorithmConfig
from hetero.search.cost import BudgetConfig
from hetero.search.elastic_space import ElasticSpaceConfig
from hetero.search.paths import Paths
from hetero.search.scoring import RewardConfig
from hetero.search.spaces import SpaceConfig
from hetero.search.workers import WorkersConfig
from hetero.training.optimizer import FitConfig


class SearchConfig(Config):
    """How the student's architecture is searched: see `hetero search --help`.

    fit: of the supernet, or of each network of a list, by the student's objective against the anchor.
    settle: training images by which a candidate's batch statistics are computed. queries: the most validation
    queries a candidate is scored by.
    """

    space: SpaceConfig = ElasticSpaceConfig()
    paths: Paths = Paths()
    fit: FitConfig = FitConfig(steps=6000, batch=64)
    reward: RewardConfig = RewardConfig()
    budget: BudgetConfig = BudgetConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    workers: WorkersConfig = WorkersConfig()
    settle: int = Field(default=512, ge=2)
    queries: int | None = Field(default=None, ge=1)
