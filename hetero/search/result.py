"""What a search found: the front, the chosen architecture, its lineage, and a picture of all candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetero.search.config import SearchConfig
from hetero.search.cost import Costs
from hetero.search.evaluation import Candidate
from hetero.search.front import front
from hetero.search.scoring import Scores
from hetero.search.space import SearchSpace
from hetero_devices import strict
from hetero_devices.errors import HeteroError
from hetero_devices.files import atomic_file, write_json

if TYPE_CHECKING:
    from hetero.runs import Run

ARCHITECTURE = "architecture.json"
INHERITED = "inherited.safetensors"


@dataclass(frozen=True, kw_only=True)
class Found:
    """One candidate of the result. choices: option by choice; network: as a recipe takes it."""

    choices: dict[str, Any]
    network: dict[str, Any]
    costs: Costs
    scores: Scores
    reward: float


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """front: candidates that no other beats in reward and MACs, by rising MACs; chosen: that of most reward.

    looked_at: reward and MACs of all candidates, in the order they were met. lineage: recipe, seed, space of
    the anchor, settings of the search.
    """

    front: tuple[Found, ...]
    chosen: Found
    looked_at: tuple[tuple[float, float], ...]
    lineage: dict[str, Any]

    @classmethod
    def of(
        cls, space: SearchSpace, candidates: Sequence[Candidate], config: SearchConfig, run: Run
    ) -> SearchResult:
        """Sort what a search looked at; at least one candidate."""

        def reward(candidate: Candidate) -> float:
            return config.reward.of(candidate.scores)

        def described(candidate: Candidate) -> Found:
            return Found(
                choices=space.describe(candidate.architecture),
                network=space.config(candidate.architecture).model_dump(mode="json"),
                costs=candidate.costs,
                scores=candidate.scores,
                reward=reward(candidate),
            )

        best = front(candidates, lambda each: (each.costs.macs,), reward)
        return cls(
            front=tuple(map(described, best)),
            chosen=described(max(best, key=reward)),
            looked_at=tuple((float(each.costs.macs), reward(each)) for each in candidates),
            lineage={
                "recipe": run.recipe.name,
                "seed": run.recipe.seed,
                "space": run.anchor.space.to_json(),
                "search": config.model_dump(mode="json", exclude={"workers"}),
            },
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Any) -> SearchResult:
        """Undo `to_json`; HeteroError names the first field that is wrong."""
        return strict.decode(cls, fields, "search result", HeteroError)

    def write(self, folder: Path) -> None:
        """Picture, architecture, then the result, whose presence says that the search is done."""
        with atomic_file(folder / "search.png") as temporary:
            temporary.write_bytes(picture(self))
        write_json(folder / ARCHITECTURE, self.chosen.network)
        write_json(folder / "result.json", self.to_json())


def picture(result: SearchResult) -> bytes:
    """PNG: reward over MACs of all candidates, the front joined, the chosen one ringed."""
    import io

    from matplotlib.figure import Figure

    canvas = Figure(figsize=(8, 4.5), layout="constrained")
    axes = canvas.subplots()
    macs, rewards = zip(*result.looked_at, strict=True)
    shades = axes.scatter(macs, rewards, c=range(len(macs)), s=14, cmap="viridis", label="candidates")
    on_front = [(each.costs.macs, each.reward) for each in result.front]
    axes.plot(*zip(*on_front, strict=True), "C3.-", label="front")
    chosen = result.chosen.costs.macs, result.chosen.reward
    axes.plot(*chosen, "o", ms=12, mfc="none", mec="C3", label="chosen")
    axes.set(xlabel="multiply-accumulates", ylabel="reward on validation classes", xscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    canvas.colorbar(shades, label="order in the search")
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
