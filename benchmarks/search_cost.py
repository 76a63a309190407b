"""What a search costs against one training of a student, by the times in the training logs."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

from hetero.search.searching import Search

_SCORED = 8  # candidates whose scoring is timed


@dataclass(frozen=True)
class Cost:
    """Seconds on one thread. supernet, student: whole trainings, by the clock; long: of the same student, as
    `headline.py` trains it. candidate: the scoring of one, of processor time. candidates: how many one search
    scores at most.

    Other work on the machine lengthens the first two, so compare trainings that had the same company.
    """

    supernet: float
    student: float
    long: float
    candidate: float
    candidates: int

    @classmethod
    def of(cls, search: Search, student: Path, steps: int, long: float) -> Cost:
        """student: the folder of a student that was trained on one thread; steps, long: of both trainings."""
        generator = np.random.default_rng(0)
        sampled = [search.space.sample(generator) for _ in range(_SCORED)]
        _ = search.scores(sampled[0])  # reads images and weights
        begin = time.process_time()
        for architecture in sampled:
            search.scores(architecture)
        return cls(
            supernet=_step_seconds(search.shared / "supernet") * search.config.fit.steps,
            student=_step_seconds(student) * steps,
            long=_step_seconds(student) * long,
            candidate=(time.process_time() - begin) / _SCORED,
            candidates=search.config.algorithm.evaluations,
        )

    @property
    def trainings(self) -> float:
        """The whole search in trainings of the student."""
        return self._whole / self.student

    @property
    def long_trainings(self) -> float:
        """The same in trainings of the student that is deployed."""
        return self._whole / self.long

    @property
    def _whole(self) -> float:
        return self.supernet + self.candidates * self.candidate


def _step_seconds(folder: Path) -> float:
    """Of a training step: the median over the log, so pauses and restarts do not count."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [(b["step"] - a["step"], b["time"] - a["time"]) for a, b in pairwise(lines)]
    return float(median(seconds / count for count, seconds in steps if count > 0))
