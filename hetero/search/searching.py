"""A search from a run's anchor to the front of architectures: supernet, scoring, algorithm, result.

RUN/search/supernet.json          settings of the supernet and of scoring, which all searches of a run share
RUN/search/supernet/              its weights, metrics and checkpoint
RUN/search/listed/NETWORK/        instead, where the space is a list: each network, trained by itself
RUN/search/scores.jsonl           every scored candidate, of all searches
RUN/search/NAME/begun.json        how many of them there were when the search began
RUN/search/NAME/result.json       the front, the chosen architecture, and where they came from
RUN/search/NAME/architecture.json the chosen one, as `student.network=FILE` takes it
RUN/search/NAME/inherited.safetensors  its weights in the supernet, as `student.start=FILE` takes them
RUN/search/NAME/search.png        reward over cost of all candidates, the front joined
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from hetero.data import protocol
from hetero.models.deploy import Deploy
from hetero.models.store import Model
from hetero.recipes.recipe import Recipe
from hetero.runs.run import Run, given_by
from hetero.search.algorithms import Problem, search
from hetero.search.config import SearchConfig
from hetero.search.cost import Pricing
from hetero.search.evaluation import Candidate, Evaluations
from hetero.search.listed import ListedSpace
from hetero.search.objective import SharedObjective
from hetero.search.result import INHERITED, SearchResult
from hetero.search.scoring import Scores, Validation, score, score_network, settle
from hetero.search.space import Architecture, SearchSpace, SharedSpace
from hetero.search.spaces import open_space
from hetero.search.supernet import SuperNet
from hetero.search.workers import Scorer, Workers
from hetero.tensors import load_tensors, save_tensors
from hetero.training.batches import Batches
from hetero.training.loop import CHECKPOINT, Fit
from hetero_devices.errors import DataError, RecipeError
from hetero_devices.files import read_json, write_json

FOLDER = "search"
_SHARED = "supernet.json"
_BEGUN = "begun.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SUPERNET = "supernet.safetensors"


class Search:
    """A search of a run. Every stage is done once; killed at any moment, asking again continues.

    Searches with other budgets, rewards and algorithms share the run's supernet and its candidates' scores.
    """

    def __init__(self, run: Run, config: SearchConfig, name: str = "best") -> None:
        self.run, self.config = run, config
        self.shared, self.folder = run.folder / FOLDER, run.folder / FOLDER / name

    @cached_property
    def space(self) -> SearchSpace:
        """The recipe's space, its embeddings of the anchor's dimension."""
        return open_space(self.config.space, self.run.anchor.space.dim)

    @cached_property
    def supernet(self) -> SuperNet:
        """The trained supernet; trained, or continued, where it is not there."""
        paths = self.config.paths.model_copy(update={"steps": self.config.fit.steps})
        space = self.space  # which may train the anchor, so before the seed
        assert isinstance(space, SharedSpace)
        torch.manual_seed(self.run.recipe.seed)
        network = SuperNet(space, paths)
        weights = self.shared / "supernet" / _SUPERNET
        if not weights.exists():
            save_tensors(weights, self._trained(network).state_dict())
            (self.shared / "supernet" / CHECKPOINT).unlink(missing_ok=True)
        network.load_state_dict(load_tensors(weights)[0])
        return network.eval()

    @cached_property
    def validation(self) -> Validation:
        """Validation classes on both sides of the search; DataError where the data has none."""
        run, images = self.run, self.run.splits.validation
        if not len(images):
            raise DataError("a search is scored on validation classes: set data.validation_share above 0")
        sides = protocol(run.recipe.data.protocol or run.splits.protocol, images, run.recipe.seed)
        whole = Validation(
            sides,
            run.anchor.embed("validation", sides.query),
            run.anchor.embed("validation", sides.gallery),
            self._settling(),
            run.preprocessing,
        )
        return whole.limited(self.config.queries, run.recipe.seed)

    @cached_property
    def evaluations(self) -> Evaluations:
        """Costs and scores of candidates, kept in the folder."""
        cost = self.run.anchor.cost
        pricing = Pricing(self.config.budget, self.run.recipe.data.size, cost.macs if cost else None)
        workers = Workers(self.config.workers, scorer, self.run.folder)
        return Evaluations(self.shared / "scores.jsonl", self.space, pricing, workers)

    def scores(self, architecture: Architecture) -> Scores:
        """One candidate, scored in this process."""
        metric = self.config.reward.metric
        if isinstance(self.space, SharedSpace):
            return score(self.supernet, architecture, self.validation, metric)
        return score_network(self.trained(architecture).deploy, self.validation, metric)

    def trained(self, architecture: Architecture) -> Model:
        """A network of a list by the student's objective; trained, or continued, where it is not there."""
        space, run = self.space, self.run
        assert isinstance(space, ListedSpace)
        name, network = f"{FOLDER}/listed/{space.label(architecture)}", space.config(architecture)
        return run.student_by(run.recipe.student.objective, self.config.fit, name, network)

    def carry_out(self) -> SearchResult:
        """Train the supernet, search, and write the result; done once."""
        path = self.folder / "result.json"
        if not path.exists():
            self._prepare()
            reward = partial(_reward, self.config)
            algorithm, seed = self.config.algorithm, self.run.recipe.seed
            known = self._known() if algorithm.known else []
            looked_at = search(Problem(self.evaluations, reward, algorithm, known), seed)
            found = SearchResult.of(self.space, looked_at, self.config, self.run)
            self._bequeath(self.space.parse(found.chosen.choices))
            found.write(self.folder)
        return SearchResult.from_json(read_json(path))

    def _known(self) -> list[Candidate]:
        """Those within the budget that were scored before this search began, be it killed and continued."""
        path = self.folder / _BEGUN
        if not path.exists():
            write_json(path, {"scored": len(self.evaluations)})
        before = self.evaluations.all()[: read_json(path)["scored"]]
        return [each for each in before if self.evaluations.pricing.fits(each.costs)]

    def _prepare(self) -> None:
        """What all workers need, before they open it."""
        if isinstance(self.space, SharedSpace):
            _ = self.supernet
        else:
            self.run.cache_views()

    def _bequeath(self, architecture: Architecture) -> None:
        save_tensors(self.folder / INHERITED, self._inherited(architecture).state_dict())

    def _inherited(self, architecture: Architecture) -> nn.Module:
        if not isinstance(self.space, SharedSpace):
            return self.trained(architecture).deploy.network
        network = self.supernet.extract(architecture)
        settle(network, self.validation.settling)
        return network

    def _trained(self, network: SuperNet) -> SuperNet:
        run, config = self.run, self.config
        targets = run.targets(run.anchor)
        given = given_by(run.items, targets, run.anchor.space.dim, run.anchor.head, run.recipe.seed)
        objective = SharedObjective(run.recipe.student.objective, given)
        batches = Batches(run.items, run.recipe.data.augment, config.fit.batch, run.recipe.seed, targets)
        deploy = Deploy(network, run.preprocessing)
        fit = Fit(deploy, objective, config.fit, self.shared / "supernet", run.recipe.seed)
        trained = fit.run(batches).to("cpu").network
        assert isinstance(trained, SuperNet)
        return trained

    def _settling(self) -> Tensor:
        """Preprocessed training images, the same for every candidate."""
        items, scale = self.run.items, self.run.preprocessing
        count = min(self.config.settle, len(items))
        rows = np.sort(np.random.default_rng(self.run.recipe.seed).permutation(len(items))[:count])
        return (items.pixels(rows) - scale.offset) * (1 / scale.scale)


def open_search(folder: Path, recipe: Recipe, name: str = "best") -> Search:
    """Start or continue the search `name` of a run folder; its other stages may be there, and stay.

    Raises RecipeError when the run's supernet, or a search of that name, has other settings.
    """
    if not _NAME.fullmatch(name) or name in ("supernet", "listed"):
        raise RecipeError(f"{name!r} is no name for a search: use letters, digits, dot, dash and underscore")
    search = Search(Run.open(folder, recipe), recipe.search, name)
    _keep(search.shared / _SHARED, _common, recipe.search, "give another --run")
    _keep(search.folder / "search.json", _settings, recipe.search, "give another --name")
    return search


def _settings(config: SearchConfig) -> dict[str, Any]:
    """What decides what is found."""
    return config.model_dump(mode="json", exclude={"workers"})


def _common(config: SearchConfig) -> dict[str, Any]:
    """What decides the supernet's weights and the scores of candidates."""
    fields = _settings(config)
    of_supernet = {key: fields[key] for key in ("space", "paths", "fit", "settle", "queries")}
    return of_supernet | {"reward": {"metric": fields["reward"]["metric"]}}


def _keep(
    path: Path, part: Callable[[SearchConfig], dict[str, Any]], config: SearchConfig, remedy: str
) -> None:
    fields = part(config)
    if path.exists() and (kept := part(_stored(path))) != fields:
        changed = next(key for key in fields if kept[key] != fields[key])
        raise RecipeError(f"{path.parent} holds a search of another `search.{changed}`: {remedy}")
    write_json(path, fields)


def _stored(path: Path) -> SearchConfig:
    """With defaults for what was not there when it was written."""
    try:
        return SearchConfig.model_validate(read_json(path))
    except ValidationError:
        raise RecipeError(f"{path} is damaged, or of another version: use another folder") from None


def scorer(folder: Path) -> Scorer:
    """For workers: scores candidates by the search of a run folder, whose supernet is trained."""
    return Search(Run.existing(folder), _stored(folder / FOLDER / _SHARED)).scores


def _reward(config: SearchConfig, candidate: Candidate) -> float:
    return config.reward.of(candidate.scores)
