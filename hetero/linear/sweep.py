"""One method trained at each of its rates, kept in a folder: what was trained is only read.

FOLDER/RATE/metrics.jsonl, curve.json     one training
FOLDER/RATE/trained.safetensors           what moved, of the chosen rate only once there is one
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from hetero.linear.fitting import Curve, Fitting, Lesson, LessonConfig, Loss, Precondition
from hetero.tensors import load_tensors, save_tensors
from hetero.training.loop import CHECKPOINT
from hetero_devices.files import read_json, write_json

_CURVE, _TRAINED = "curve.json", "trained.safetensors"


@dataclass(frozen=True)
class Sweep:
    """make: the model at its start, afresh; score: on validation images; better: its preconditioner."""

    folder: Path
    make: Callable[[], nn.Module]
    loss: Loss
    lesson: Lesson
    score: Callable[[nn.Module], float]
    config: LessonConfig
    seed: int
    better: Callable[[nn.Module], Precondition | None]

    def curves(self, rates: Sequence[float]) -> dict[float, Curve]:
        """Of every rate, trained where it is missing."""
        return {rate: self._curve(rate) for rate in rates}

    def trained(self, rate: float) -> nn.Module:
        """The model trained at a rate, in evaluation mode."""
        model, (tensors, _) = self.make(), load_tensors(self._place(rate) / _TRAINED)
        model.load_state_dict(tensors, strict=False)
        return model.eval()

    def keep(self, rate: float) -> None:
        """Drop the weights of all other rates."""
        for path in self.folder.glob(f"*/{_TRAINED}"):
            if path.parent != self._place(rate):
                path.unlink()

    def _curve(self, rate: float) -> Curve:
        folder = self._place(rate)
        if not (folder / _CURVE).exists():
            better, seconds = self._measured
            fitting = Fitting(self.make(), self.loss, rate, self.config, folder, self.seed, better)
            curve = fitting.run(self.lesson, self.score)
            save_tensors(folder / _TRAINED, dict(fitting.moving))
            write_json(folder / _CURVE, asdict(replace(curve, seconds=curve.seconds + seconds)))
            (folder / CHECKPOINT).unlink(missing_ok=True)
        return curve_of(read_json(folder / _CURVE))

    @cached_property
    def _measured(self) -> tuple[Precondition | None, float]:
        """The preconditioner, the same for all rates, and the seconds it took."""
        model, begun = self.make(), time.perf_counter()
        return self.better(model), time.perf_counter() - begun

    def _place(self, rate: float) -> Path:
        return self.folder / f"{rate:g}"


def best(scores: Mapping[float, float]) -> float:
    """The key of the highest score; of several equal ones the middle one, which errs least on either side."""
    top = max(scores.values())
    equal = sorted(key for key, score in scores.items() if score == top)
    return equal[len(equal) // 2]


def best_rate(curves: Mapping[float, Curve]) -> float:
    """The rate of the best last score."""
    return best({rate: curve.scores[-1] for rate, curve in curves.items()})


def curve_of(fields: Mapping[str, Any]) -> Curve:
    """From JSON."""
    return Curve(tuple(fields["scores"]), fields["seconds"])
