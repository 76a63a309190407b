"""The migration of `backfill.py`: load, kill three times, complete, compare, roll back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hetero.upgrades.backfill.plan import load_plan, save_plan
from hetero.upgrades.backfill.planning import Wish, make_plan
from hetero.upgrades.migration.control import status
from hetero.upgrades.migration.state import Folder
from hetero.upgrades.stores import GalleryStore, open_store
from hetero_devices.files import read_json, write_json
from hetero_devices.space import Embeddings, Space

OLD, NEW, DIM = Space("a0" * 8, 128), Space("b1" * 8, 128), 128
KILLS = (0.25, 0.5, 0.75)
_BATCHES = 100


def carry_out(folder: Path, count: int) -> tuple[str, dict[str, Any]]:
    """(page, fields); measured once, kept in `folder`. AssertionError where anything is lost or doubled."""
    if not (folder / "result.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / "result.json", _measure(folder, count))
    found = read_json(folder / "result.json")
    return _page(found), found


def _measure(folder: Path, count: int) -> dict[str, Any]:
    old, new = _vectors(count, OLD), _vectors(count, NEW)
    old.save(folder / "old")
    new.save(folder / "new")
    plan, ids, _ = make_plan(old, NEW, Wish(order="random"))
    save_plan(folder / "plan", plan, ids, ())
    address = str(folder / "gallery.db")
    loaded = _seconds(lambda: _say("store", folder / "old", address))
    kills = [_killed(folder, address, round(share * count)) for share in KILLS]
    completed = _seconds(lambda: _say(*_apply(folder, address)))
    after = _checked(address, "v2", {"v1": old, "v2": new}, load_plan(folder / "plan")[1])
    rolled = _seconds(lambda: _say("rollback", folder / "plan"))
    back = _checked(address, "v1", {"v1": old, "v2": new}, old.ids)
    embedded = sum(line["rows"] for line in _journal(folder) if line["event"] == "batch")
    return {
        "vectors": count,
        "dim": DIM,
        "batch": max(1, count // _BATCHES),
        "load_s": loaded,
        "kills": kills,
        "complete_s": completed,
        "rows_noted": embedded,
        "after": after,
        "rollback_s": rolled,
        "back": back,
        "bytes": sum(path.stat().st_size for path in Path(address).rglob("*") if path.is_file()),
    }


def _killed(folder: Path, address: str, at: int) -> dict[str, Any]:
    """Start, kill as soon as the journal says `at` rows, and look at what is there."""
    start = time.perf_counter()
    process = subprocess.Popen(_command(*_apply(folder, address)), stdout=subprocess.DEVNULL)
    while (done := _done(folder)) < at:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    took = time.perf_counter() - start
    store = open_store(address)
    rows, live = store.ids("v2"), store.live()
    store.close()
    assert live == "v1", "a half-migrated version is live"
    assert len(np.unique(rows)) == len(rows) >= done, "acknowledged rows are lost, or rows are doubled"
    phase = status(folder / "plan").phase
    return {"seconds": took, "journal": done, "stored": len(rows), "live": live, "status": phase}


def _checked(
    address: str, live: str, galleries: dict[str, Embeddings], ids: np.ndarray[Any, np.dtype[np.int64]]
) -> dict[str, Any]:
    """Every version row by row: ids exactly once, vectors and labels bit for bit."""
    store = open_store(address)
    assert store.live() == live
    counts = {name: _compared(store, name, gallery) for name, gallery in galleries.items()}
    store.close()
    assert all(found == {"rows": len(ids), "lost": 0, "doubled": 0, "other": 0} for found in counts.values())
    return {"live": live, **counts}


def _compared(store: GalleryStore, version: str, gallery: Embeddings) -> dict[str, int]:
    have = store.ids(version)
    other = 0
    for start in range(0, len(gallery), 5000):
        part = gallery.select(np.arange(start, min(start + 5000, len(gallery))))
        back = store.read(version, part.ids)
        other += int((back.vectors != part.vectors).any(axis=1).sum())
        other += int((back.labels != part.labels).sum())
    lost = len(np.setdiff1d(gallery.ids, have))
    return {"rows": len(have), "lost": lost, "doubled": len(have) - len(np.unique(have)), "other": other}


def _vectors(count: int, space: Space) -> Embeddings:
    generator = np.random.default_rng(int(space.id, 16) % 2**32)
    vectors = generator.normal(size=(count, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = np.arange(count, dtype=np.int64)
    return Embeddings(vectors, ids, ids % 1000, space)


def _apply(folder: Path, address: str) -> tuple[object, ...]:
    new = folder / "new"
    batch = max(1, len(Embeddings.load(new)) // _BATCHES)
    return "apply", folder / "plan", "--store", address, "--embeddings", new, "--batch", batch


def _command(*words: object) -> list[str]:
    return [sys.executable, "-m", "hetero", "upgrade", *map(str, words)]


def _say(*words: object) -> None:
    subprocess.run(_command(*words), check=True, env={**os.environ})


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _journal(folder: Path) -> list[dict[str, Any]]:
    return Folder(folder / "plan").journal()


def _done(folder: Path) -> int:
    return next((int(line["done"]) for line in reversed(_journal(folder)) if "done" in line), 0)


def _page(found: dict[str, Any]) -> str:
    count, after = found["vectors"], found["after"]["v2"]
    kills = "\n".join(
        f"| kill {i} | {k['seconds']:.1f} | {k['journal']} | {k['stored']} | {k['live']} | {k['status']} |"
        for i, k in enumerate(found["kills"], 1)
    )
    return (
        f"## Migration of {count} vectors of {found['dim']} dimensions in Milvus Lite\n\n"
        "| step | seconds | noted | stored | live | status |\n|---|---|---|---|---|---|\n"
        f"| load v1 | {found['load_s']:.1f} | | {count} | v1 | |\n{kills}\n"
        f"| complete | {found['complete_s']:.1f} | {count} | {after['rows']} | v2 | live |\n"
        f"| roll back | {found['rollback_s']:.1f} | | {found['back']['v1']['rows']} | v1 | rolled-back |\n\n"
        f"After completion v2 holds {after['rows']} rows: {after['lost']} lost, {after['doubled']} doubled, "
        f"{after['other']} different from what was embedded, bit for bit; v1 likewise before and after the "
        f"rollback. Batches of {found['batch']}; seconds are wall clock of whole commands, start of the "
        "interpreter included, and depend on what else the machine does.\n"
    )
