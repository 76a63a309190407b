"""Candidates with what they cost and what they are worth, each computed once and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hetero.progress import track
from hetero.search.cost import Costs, Pricing
from hetero.search.scoring import Scores
from hetero.search.space import Architecture, SearchSpace
from hetero_devices import strict
from hetero_devices.errors import HeteroError

ScoreMany = Callable[[Sequence[Architecture]], Iterable[tuple[Architecture, Scores]]]
"""Scores candidates in any order, as they are done: here, in processes, or on a cluster."""


@dataclass(frozen=True)
class Candidate:
    """An architecture, its cost and its scores."""

    architecture: Architecture
    costs: Costs
    scores: Scores


class Evaluations:
    """Scores by architecture in a file of JSON lines; a line is written as soon as a candidate is scored.

    Asking again for what is there costs nothing, so a search that was killed and is started again with the
    same seed goes the same way through the same scores.
    """

    def __init__(self, path: Path, space: SearchSpace, pricing: Pricing, score: ScoreMany) -> None:
        self.path, self.space, self.pricing, self.score = path, space, pricing, score
        self._scores = dict(_read(path, space))
        self._costs: dict[Architecture, Costs] = {}

    def __len__(self) -> int:
        return len(self._scores)

    def costs(self, architecture: Architecture) -> Costs:
        """What a candidate costs; nothing is trained or scored for it."""
        if architecture not in self._costs:
            self._costs[architecture] = self.pricing.of(self.space.config(architecture))
        return self._costs[architecture]

    def feasible(self, architecture: Architecture) -> bool:
        """Whether a candidate is within the budget."""
        return self.pricing.fits(self.costs(architecture))

    def __call__(self, architectures: Sequence[Architecture]) -> list[Candidate]:
        """Every candidate, in the order asked for."""
        missing = [a for a in dict.fromkeys(architectures) if a not in self._scores]
        for architecture, scores in self.score(missing):
            self._keep(architecture, scores)
        return [Candidate(a, self.costs(a), self._scores[a]) for a in architectures]

    def all(self) -> list[Candidate]:
        """Everything scored so far, in the order it was scored."""
        priced = track(self._scores.items(), "price candidates", total=len(self._scores))
        return [Candidate(a, self.costs(a), scores) for a, scores in priced]

    def _keep(self, architecture: Architecture, scores: Scores) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = {"architecture": self.space.describe(architecture), "scores": asdict(scores)}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._scores[architecture] = scores


def _read(path: Path, space: SearchSpace) -> Iterable[tuple[Architecture, Scores]]:
    """The whole lines; a last one that a kill cut off is dropped from the file as well."""
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        path.write_text("".join(whole))
    for line in whole:
        fields = _parsed(path, line)
        scores = strict.decode(Scores, fields.get("scores"), f"{path.name}", HeteroError)
        yield space.parse(fields.get("architecture", {})), scores


def _parsed(path: Path, line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        raise HeteroError(f"{path} is damaged: delete it, and its candidates are scored again")
    return fields
