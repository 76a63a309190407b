"""What a migration keeps beside its plan, readable by any process at any time.

PLAN/migration/state.json     which store, which versions, which source, and how far it is
PLAN/migration/journal.jsonl  one line a batch that the store has acknowledged
PLAN/migration/lock           held by the process that migrates
PLAN/migration/pause          exists while somebody wants it to stop after the present batch

The store itself is the truth about which rows are done; the journal is for people and for `status`.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hetero_devices.errors import DataError
from hetero_devices.files import disk_full_explained, read_json, write_json
from hetero_devices.strict import decode

Phase = Literal["running", "paused", "complete", "live", "rolled-back"]


@dataclass(frozen=True)
class State:
    """plan: its digest. store, gallery: as `open_store` takes them. source: see `migration.opening`.

    new_version: empty until it is made, and again when a rollback has dropped it.
    phase: 'complete' is everything written but not live, 'live' after the cut-over.
    """

    plan: str
    store: str
    gallery: str
    source: dict[str, str]
    old_version: str
    new_version: str
    batch: int
    phase: Phase
    total: int


class Folder:
    """PLAN/migration."""

    def __init__(self, plan: Path) -> None:
        self.path = plan / "migration"

    def state(self) -> State | None:
        """None before the first `apply`."""
        path = self.path / "state.json"
        return decode(State, read_json(path), "migration state", DataError) if path.exists() else None

    def require(self) -> State:
        """The state of a migration that must have begun."""
        state = self.state()
        if state is None:
            raise DataError(f"{self.path.parent} has not been applied: start with 'hetero upgrade apply'")
        return state

    def write(self, state: State) -> None:
        write_json(self.path / "state.json", asdict(state))

    @property
    def pausing(self) -> bool:
        return (self.path / "pause").exists()

    def ask_to_pause(self) -> None:
        (self.path / "pause").touch()

    def unpause(self) -> None:
        (self.path / "pause").unlink(missing_ok=True)

    def note(self, **fields: Any) -> None:
        """Append a line to the journal."""
        path = self.path / "journal.jsonl"
        with disk_full_explained(path), path.open("ab") as file:
            torn = file.tell() > 0 and not _ends_line(path)
            file.write((b"\n" if torn else b"") + json.dumps(fields).encode() + b"\n")

    def journal(self) -> list[dict[str, Any]]:
        """Every whole line; what a kill tore is left out."""
        path = self.path / "journal.jsonl"
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        return [fields for fields in map(_parsed, lines) if fields is not None]

    @property
    def busy(self) -> bool:
        """Whether a process is migrating now."""
        try:
            with self.lock(tries=1):
                return False
        except DataError:
            return True

    @contextmanager
    def lock(self, tries: int = 10) -> Iterator[None]:
        """Be the one process that migrates; DataError when another is. Death of the process releases it.

        Tried a few times, since `busy` holds the lock for a moment too.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not any(_locked(handle, wait_s=0.05 * (i > 0)) for i in range(tries)):
                raise DataError(
                    f"{self.path.parent} is being applied by another process: "
                    "'hetero upgrade pause' stops it after its batch"
                )
            yield
        finally:
            os.close(handle)


def _locked(handle: int, wait_s: float) -> bool:
    time.sleep(wait_s)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    numbers = {"done", "rows", "seconds"}
    whole = isinstance(fields, dict) and (fields.get("event") != "batch" or numbers <= set(fields))
    return fields if whole and all(isinstance(fields.get(key, 0), int | float) for key in numbers) else None
