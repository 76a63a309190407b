"""Looking at a migration, stopping it, taking it back: from any process."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hetero.upgrades.migration.state import Folder, State
from hetero.upgrades.stores import GalleryStore
from hetero_devices.errors import DataError


@dataclass(frozen=True)
class Status:
    """done of total images are known to be written. running: a process is at it now.

    images_per_second: of the batches since the last start; None before the first. hours_left: at that rate.
    """

    state: State
    running: bool
    pausing: bool
    done: int
    images_per_second: float | None
    hours_left: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def phase(self) -> str:
        """The state's phase, 'interrupted' where the process that migrated is gone."""
        return "interrupted" if self.state.phase == "running" and not self.running else self.state.phase


def status(plan: Path) -> Status:
    """How far a migration is, from the files beside the plan alone; DataError when it has not begun."""
    keep = Folder(plan)
    state = keep.require()
    lines = keep.journal()
    done = next((int(line["done"]) for line in reversed(lines) if "done" in line), 0)
    if state.phase in ("complete", "live"):
        done = state.total
    rate = _rate(lines)
    left = (state.total - done) / rate / 3600 if rate else None
    return Status(state, keep.busy, keep.pausing, done, rate, left)


def pause(plan: Path, wait_s: float = 0.0) -> Status:
    """Ask the migrating process to stop after its batch; waits at most `wait_s` seconds until it has."""
    keep = Folder(plan)
    state = keep.require()
    if state.phase in ("complete", "live", "rolled-back"):
        raise DataError(f"the migration is {state.phase}: there is nothing to pause")
    if not keep.busy:
        raise DataError("no process applies this plan: there is nothing to pause, 'resume' would go on")
    keep.ask_to_pause()
    limit = time.monotonic() + wait_s
    while keep.busy and time.monotonic() < limit:
        time.sleep(0.1)
    return status(plan)


def unpause(plan: Path) -> State:
    """Withdraw a pause, or a rollback, so that `migrate` goes on; DataError while a process is at it."""
    keep = Folder(plan)
    state = keep.require()
    keep.unpause()
    with keep.lock():
        if state.phase == "rolled-back":
            keep.note(event="resume", time=time.time())
            keep.write(state := replace(state, phase="running"))
    return state


def rollback(plan: Path, store: GalleryStore, drop: bool = False) -> State:
    """Make the old version live again, at once. drop: delete the new one; otherwise `resume` needs no work.

    DataError while a process migrates, when the store is another, or when it has moved on to a later version.
    """
    keep = Folder(plan)
    with keep.lock():
        state = keep.require()
        if state.store != store.address:
            raise DataError(f"this plan was applied to {state.store}, not to {store.address}")
        live = store.live()
        if live not in (state.old_version, state.new_version):
            raise DataError(f"{store.address} has moved on to {live}: roll that migration back first")
        if state.old_version not in store.versions():
            raise DataError(f"{store.address} has no version {state.old_version} to go back to")
        keep.write(state := replace(state, phase="rolled-back"))
        if live != state.old_version:
            store.point(state.old_version)
        if drop and state.new_version:
            if state.new_version in store.versions():
                store.drop(state.new_version)
            keep.write(state := replace(state, new_version=""))
        keep.note(event="rollback", version=state.old_version, dropped=drop, time=time.time())
        return state


def _rate(lines: list[dict[str, Any]]) -> float | None:
    starts = [i for i, line in enumerate(lines) if line.get("event") == "start"]
    batches = [line for line in lines[starts[-1] :] if line.get("event") == "batch"] if starts else []
    seconds = sum(float(line["seconds"]) for line in batches)
    return sum(int(line["rows"]) for line in batches) / seconds if seconds > 0 else None
