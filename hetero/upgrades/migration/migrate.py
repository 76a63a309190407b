"""The migration itself: new vectors in the plan's order into a new version, then the cut-over.

Killed at any moment it continues where the store is: rows that the store has are not embedded again, a batch
that was written but not noted is written over itself, and nothing is live before every row is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hetero.progress import counter
from hetero.upgrades.backfill.plan import Plan, load_plan
from hetero.upgrades.migration.sources import NewVectors
from hetero.upgrades.migration.state import Folder, State
from hetero.upgrades.stores import GalleryStore, next_version
from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings, Space, check_same

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Settings:
    """What `apply` is given beside plan, store and source, and what `resume` needs to do it again.

    source: a description of the new vectors, with a digest, compared when the migration goes on.
    gallery: the gallery's name in the store. hold: stop before the cut-over.
    """

    source: dict[str, str]
    gallery: str = "gallery"
    batch: int = 1024
    hold: bool = False


def migrate(folder: Path, store: GalleryStore, source: NewVectors, settings: Settings) -> State:
    """Apply the plan in `folder`, or go on with it; returns the state it was left in.

    'paused' when another process asked for that, 'complete' when held, 'live' after the cut-over. Raises
    DataError when it is another plan's, store's or source's migration, when the gallery has changed since the
    plan, or when another process is at it; SpaceMismatch for vectors of a space that the plan is not about.
    """
    plan, ids = load_plan(folder)
    if settings.batch < 1:
        raise DataError(f"a batch of {settings.batch}: take at least one image at a time")
    keep = Folder(folder)
    with keep.lock():
        state = _begin(keep, plan, ids, store, source, settings)
        if state.phase == "live":
            keep.write(state)  # killed between the cut-over and this line
            return state
        return _carry_on(keep, state, ids, store, source, settings.hold)


def _begin(
    keep: Folder, plan: Plan, ids: Ids, store: GalleryStore, source: NewVectors, settings: Settings
) -> State:
    """The state to go on from: the one on disk when it is of the same things, else a new one."""
    check_same(source.space, plan.new_space, "the new vectors", "the plan's new gallery")
    state = keep.state()
    if state is None:
        state = _first(plan, store, settings)
    _refuse_others(state, plan, store, settings)
    versions = store.versions()
    if state.old_version not in versions:
        raise DataError(f"{store.address} has lost version {state.old_version} of the gallery")
    check_same(versions[state.old_version], plan.old_space, "the stored gallery", "the plan's old gallery")
    if state.phase == "live" or (state.new_version and store.live() == state.new_version):
        return replace(state, phase="live")
    _refuse_changed_gallery(store, state, ids)
    if missing := np.setdiff1d(ids, source.ids)[:1].tolist():
        raise DataError(f"there is no new vector for the gallery's id {missing[0]}")
    if not state.new_version:  # before anything is written down, or the plan would be tied to this source
        _refuse_old_vectors(store, state, source, ids[: state.batch])
    return _with_version(keep, state, store, plan.new_space)


def _with_version(keep: Folder, state: State, store: GalleryStore, space: Space) -> State:
    """The state with a version of its own: made where it has none yet, else found again.

    Made before it is written down: a kill between leaves an empty version that nobody uses, where the other
    way round two plans could come to share one.
    """
    versions = store.versions()
    if not state.new_version:
        state = replace(state, new_version=next_version(versions))
        store.create(state.new_version, space)
        keep.write(state)
    elif state.new_version not in versions:
        raise DataError(
            f"{store.address} has lost version {state.new_version}: 'hetero upgrade rollback --drop' forgets "
            "it, then 'hetero upgrade resume' begins another"
        )
    check_same(space, store.versions()[state.new_version], "the plan", f"version {state.new_version}")
    return state


def _first(plan: Plan, store: GalleryStore, settings: Settings) -> State:
    live = store.live()
    if live is None:
        raise DataError(f"{store.address} has no live gallery: put one there with 'hetero upgrade store'")
    return State(
        plan=plan.digest,
        store=store.address,
        gallery=settings.gallery,
        source=settings.source,
        old_version=live,
        new_version="",
        batch=settings.batch,
        phase="running",
        total=plan.rows,
    )


def _refuse_others(state: State, plan: Plan, store: GalleryStore, settings: Settings) -> None:
    if state.plan != plan.digest:
        raise DataError("the migration in this folder is of another plan: put the plan back, or start anew")
    if (state.store, state.gallery) != (store.address, settings.gallery):
        raise DataError(f"this plan is being applied to {state.store}, not to {store.address}")
    if state.source != settings.source:
        raise DataError(
            "the new vectors are not those this migration began with: go on with "
            + ", ".join(f"{key} {value}" for key, value in state.source.items() if key != "sha256")
        )
    if state.phase == "rolled-back":
        raise DataError("this migration was rolled back: 'hetero upgrade resume' takes it up again")


def _refuse_changed_gallery(store: GalleryStore, state: State, ids: Ids) -> None:
    """The old gallery must be exactly what the plan orders."""
    stored = store.ids(state.old_version)
    if not np.array_equal(np.sort(stored), np.sort(ids)):
        raise DataError(
            f"the gallery in {store.address} has {len(stored)} images, not the {len(ids)} of the plan, "
            "or others: plan again for the gallery as it is"
        )


def _carry_on(
    keep: Folder, state: State, ids: Ids, store: GalleryStore, source: NewVectors, hold: bool
) -> State:
    todo = remaining(store, state, ids)
    keep.write(state := replace(state, phase="running"))
    keep.note(event="start", done=len(ids) - len(todo), time=time.time())
    with counter("re-embedding", len(todo)) as advance:
        paused = not _fill(keep, state, todo, store, source, advance)
    if paused:
        keep.write(state := replace(state, phase="paused"))
        return state
    return _finish(keep, state, ids, store, hold)


def _fill(
    keep: Folder,
    state: State,
    todo: Ids,
    store: GalleryStore,
    source: NewVectors,
    advance: Callable[[int], None],
) -> bool:
    """Embed and write what is left, in order; False when it was asked to pause."""
    for start in range(0, len(todo), state.batch):
        if keep.pausing:
            return False
        began = time.perf_counter()
        wanted = todo[start : start + state.batch]
        batch = source.fetch(wanted)
        store.write(state.new_version, batch)
        done = state.total - len(todo) + start + len(wanted)
        keep.note(event="batch", done=done, rows=len(wanted), seconds=time.perf_counter() - began)
        advance(len(wanted))
    return not keep.pausing


def _finish(keep: Folder, state: State, ids: Ids, store: GalleryStore, hold: bool) -> State:
    """Check that everything is there, once each, then cut over."""
    verify_complete(store, state, ids)
    keep.write(state := replace(state, phase="complete"))
    if hold:
        return state
    if store.live() != state.old_version:
        raise DataError(
            f"{store.address} was cut over to {store.live()} meanwhile: plan again from that version"
        )
    _refuse_changed_gallery(store, state, ids)
    store.point(state.new_version)
    keep.note(event="cut-over", version=state.new_version, time=time.time())
    keep.write(state := replace(state, phase="live"))
    return state


def remaining(store: GalleryStore, state: State, ids: Ids) -> Ids:
    """Ids that the new version lacks, in the plan's order; DataError when it holds one not planned."""
    have = store.ids(state.new_version)
    foreign = np.setdiff1d(have, ids)
    if len(foreign):
        raise DataError(
            f"version {state.new_version} of {store.address} holds {len(foreign)} images that the plan does "
            f"not name (first id {foreign[0]})"
        )
    return ids[~np.isin(ids, have)]


def verify_complete(store: GalleryStore, state: State, ids: Ids) -> None:
    """Raise DataError unless the new version holds each planned id exactly once, and nothing else."""
    have = np.sort(store.ids(state.new_version))
    if not np.array_equal(have, np.sort(ids)):
        doubled = len(have) - len(np.unique(have))
        lost = len(np.setdiff1d(ids, have))
        raise DataError(
            f"version {state.new_version} of {store.address} is not whole ({lost} lost, {doubled} doubled): "
            "run 'hetero upgrade resume'"
        )


def _refuse_old_vectors(store: GalleryStore, state: State, source: NewVectors, ids: Ids) -> None:
    """Two models of one space are told apart by their vectors: equal ones were embedded by the old model."""
    old, new = store.read(state.old_version, ids), source.fetch(ids)
    if not np.array_equal(old.labels, new.labels):
        raise DataError("the new vectors carry other labels than the gallery: embed the same images")
    if _same_vectors(old, new):
        raise DataError("the new vectors are the gallery's own: embed the images with the new model")


def _same_vectors(old: Embeddings, new: Embeddings) -> bool:
    return old.space == new.space and bool(np.allclose(old.vectors, new.vectors, atol=1e-6))
