"""Scoring candidates in processes of this machine, or on a Ray cluster; a killed worker loses nothing."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from hetero.config import Config
from hetero.progress import track
from hetero.search.scoring import Scores
from hetero.search.space import Architecture
from hetero_devices.errors import HeteroError, require

Scorer = Callable[[Architecture], Scores]
Opener = Callable[[Path], Scorer]
"""Makes a scorer from the folder of a search: a top-level function, so that other processes find it."""

_RESTARTS = 5  # of a pool whose workers keep dying


class WorkersConfig(Config):
    """Where candidates are scored: `here`, in `processes` of this machine, or on a `ray` cluster.

    address: of a running Ray cluster, None starts one on this machine. threads: of torch, in every worker.
    """

    kind: Literal["here", "processes", "ray"] = "here"
    count: int = Field(default=2, ge=1, description="workers")
    threads: int = Field(default=1, ge=1)
    address: str | None = None


class Workers:
    """Scores candidates by what `opener` makes of `folder`, in the way the configuration says."""

    def __init__(self, config: WorkersConfig, opener: Opener, folder: Path) -> None:
        self.config, self.opener, self.folder = config, opener, folder

    def __call__(self, architectures: Sequence[Architecture]) -> Iterator[tuple[Architecture, Scores]]:
        """Each candidate with its scores, as they are done. HeteroError when workers keep dying."""
        ways = {"here": self._here, "processes": self._processes, "ray": self._ray}
        return track(ways[self.config.kind](architectures), "score candidates", total=len(architectures))

    def _here(self, architectures: Sequence[Architecture]) -> Iterator[tuple[Architecture, Scores]]:
        for architecture in architectures:
            yield architecture, _opened(self.opener, self.folder)(architecture)

    def _processes(self, architectures: Sequence[Architecture]) -> Iterator[tuple[Architecture, Scores]]:
        """A pool that lost a worker is made anew, with the candidates that have no scores yet."""
        left = dict.fromkeys(architectures)
        for _ in range(_RESTARTS):
            try:
                for architecture, scores in self._pool(list(left)):
                    del left[architecture]
                    yield architecture, scores
            except BrokenProcessPool:
                continue
            return
        raise HeteroError(
            f"workers of the search died {_RESTARTS} times: give fewer of them (search.workers.count)"
        )

    def _pool(self, architectures: Sequence[Architecture]) -> Iterator[tuple[Architecture, Scores]]:
        with ProcessPoolExecutor(
            max_workers=min(self.config.count, max(1, len(architectures))),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=torch.set_num_threads,
            initargs=(self.config.threads,),
        ) as pool:
            futures: dict[Future[Scores], Architecture] = {
                pool.submit(_score, self.opener, self.folder, each): each for each in architectures
            }
            for future in as_completed(futures):
                yield futures[future], future.result()

    def _ray(self, architectures: Sequence[Architecture]) -> Iterator[tuple[Architecture, Scores]]:
        """Ray starts a task again whose worker died."""
        ray: Any = require("ray", "cluster")
        if not ray.is_initialized():
            ray.init(
                address=self.config.address,
                num_cpus=None if self.config.address else self.config.count,
                include_dashboard=False,
                log_to_driver=False,
            )
        task = ray.remote(max_retries=_RESTARTS, num_cpus=1)(_score)
        references = {task.remote(self.opener, self.folder, each): each for each in architectures}
        waiting = list(references)
        while waiting:
            done, waiting = ray.wait(waiting)
            for reference in done:
                yield references[reference], ray.get(reference)


def _score(opener: Opener, folder: Path, architecture: Architecture) -> Scores:
    return _opened(opener, folder)(architecture)


@cache
def _opened(opener: Opener, folder: Path) -> Scorer:
    """Once a process."""
    return opener(folder)
