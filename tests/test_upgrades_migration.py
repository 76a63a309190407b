"""Migrations that are killed, paused, refused, finished, taken back: on files and a real Milvus Lite."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hetero.retrieval import search
from hetero.upgrades.backfill.calibration import calibrate
from hetero.upgrades.backfill.mixed import joint_embeddings, joint_gallery
from hetero.upgrades.backfill.plan import load_plan, save_plan
from hetero.upgrades.backfill.planning import Wish, make_plan
from hetero.upgrades.migration.control import pause, rollback, status, unpause
from hetero.upgrades.migration.loading import load_gallery
from hetero.upgrades.migration.migrate import Settings, migrate
from hetero.upgrades.migration.opening import open_source, stored_source
from hetero.upgrades.migration.searching import search_during
from hetero.upgrades.migration.sources import NewVectors, StoredVectors
from hetero.upgrades.migration.state import Folder, State
from hetero.upgrades.stores import GalleryStore, open_store
from hetero_devices.errors import DataError, DiskFull, SpaceMismatch
from hetero_devices.space import Embeddings, Space

OLD, NEW = Space("a0" * 8, 12), Space("b1" * 8, 16)
COUNT, BATCH = 230, 20
ROOT = Path(__file__).parents[1]


def embeddings(count: int, space: Space, seed: int = 0, first_id: int = 0) -> Embeddings:
    vectors = np.random.default_rng([seed, space.dim]).normal(size=(count, space.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = first_id + 3 * np.arange(count, dtype=np.int64)
    return Embeddings(vectors, ids, np.arange(count, dtype=np.int64) % 7, space)


class Case:
    """A store with the old gallery, new embeddings on disk, and a plan."""

    def __init__(self, folder: Path, kind: str, new_space: Space = NEW) -> None:
        self.folder, self.plan = folder, folder / "plan"
        self.address = str(folder / ("store" if kind == "files" else "store.db"))
        self.old, self.new = embeddings(COUNT, OLD, 1), embeddings(COUNT, new_space, 2)
        self.new.save(folder / "new")
        self.old.save(folder / "old")
        plan, ids, _ = make_plan(self.old, new_space, Wish(order="random", seed=4))
        save_plan(self.plan, plan, ids, ())
        self.store = open_store(self.address, create=True)
        load_gallery(self.store, self.old)
        self.settings = Settings(stored_source(folder / "new"), batch=BATCH)

    def migrate(self, source: NewVectors | None = None, hold: bool = False) -> State:
        settings = Settings(self.settings.source, batch=BATCH, hold=hold)
        return migrate(self.plan, self.store, source or StoredVectors(self.folder / "new"), settings)

    def whole(self, version: str = "v2") -> bool:
        """Whether the version holds every new vector exactly once, bit for bit."""
        have = self.store.ids(version)
        same = np.array_equal(np.sort(have), self.new.ids)
        return same and np.array_equal(self.store.read(version, self.new.ids).vectors, self.new.vectors)


@pytest.fixture(params=["files", "milvus"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    made = Case(tmp_path, request.param)
    yield made
    made.store.close()


@pytest.fixture
def files(tmp_path: Path) -> Case:
    return Case(tmp_path, "files")


class Counting:
    """The new vectors, counting what is fetched, and doing something before batch number `at`."""

    def __init__(self, folder: Path, at: int = -1, then: Callable[[], None] = lambda: None) -> None:
        self._inner, self.at, self.then = StoredVectors(folder), at, then
        self.fetched: list[int] = []
        self.batches = 0

    @property
    def space(self) -> Space:
        return self._inner.space

    @property
    def ids(self) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        return self._inner.ids

    def fetch(self, ids: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Embeddings:
        if self.batches == self.at:
            self.then()
        self.batches += 1
        self.fetched += ids.tolist()
        return self._inner.fetch(ids)


def test_a_migration_goes_in_order_and_cuts_over_when_whole(case: Case) -> None:
    source = Counting(case.folder / "new")
    assert case.store.live() == "v1"
    state = case.migrate(source)
    assert (state.phase, case.store.live()) == ("live", "v2")
    assert case.whole()
    order = load_plan(case.plan)[1].tolist()
    assert source.fetched[:BATCH] == order[:BATCH]  # the look at whose vectors they are
    assert source.fetched[BATCH:] == order
    assert np.array_equal(case.store.read("v1", case.old.ids).vectors, case.old.vectors)
    found = status(case.plan)
    assert (found.phase, found.done, found.running) == ("live", COUNT, False)
    assert case.migrate().phase == "live"  # once more changes nothing
    assert case.whole()


def test_rollback_makes_the_old_version_live_and_resume_the_new_one_again(case: Case) -> None:
    case.migrate()
    assert rollback(case.plan, case.store).phase == "rolled-back"
    assert case.store.live() == "v1"
    assert np.array_equal(case.store.read("v1", case.old.ids).vectors, case.old.vectors)
    with pytest.raises(DataError, match="rolled back"):
        case.migrate()
    unpause(case.plan)
    source = Counting(case.folder / "new")
    assert case.migrate(source).phase == "live"
    assert (case.store.live(), source.fetched) == ("v2", [])  # nothing was embedded again
    rollback(case.plan, case.store, drop=True)
    assert list(case.store.versions()) == ["v1"]
    assert status(case.plan).phase == "rolled-back"


def test_half_a_migration_rolls_back_too(case: Case) -> None:
    source = Counting(case.folder / "new", 5, lambda: Folder(case.plan).ask_to_pause())
    assert case.migrate(source).phase == "paused"
    rollback(case.plan, case.store, drop=True)
    assert (case.store.live(), list(case.store.versions())) == ("v1", ["v1"])
    unpause(case.plan)
    assert case.migrate().phase == "live"
    assert case.whole()


def test_a_pause_is_honoured_after_the_batch_and_resume_goes_on(case: Case) -> None:
    source = Counting(case.folder / "new", 5, lambda: Folder(case.plan).ask_to_pause())
    assert case.migrate(source).phase == "paused"
    found = status(case.plan)
    assert (found.phase, found.done) == ("paused", 5 * BATCH)  # batch 0 was the look at the vectors
    assert len(case.store.ids("v2")) == 5 * BATCH
    assert case.store.live() == "v1"
    assert case.migrate().phase == "paused"  # until resumed
    unpause(case.plan)
    source = Counting(case.folder / "new")
    assert case.migrate(source).phase == "live"
    assert len(source.fetched) == COUNT - 5 * BATCH
    assert case.whole()


def test_a_held_migration_is_complete_and_not_live(case: Case) -> None:
    assert case.migrate(hold=True).phase == "complete"
    assert case.store.live() == "v1"
    assert status(case.plan).done == COUNT
    assert case.migrate().phase == "live"


def start(case: Case, *more: str) -> subprocess.Popen[bytes]:
    """The command line in another process, slowed so that it can be killed in the middle."""
    code = (
        "import sys, time\n"
        "from hetero.upgrades.migration import migrate\n"
        "note = migrate.Folder.note\n"
        "def slow(self, **fields):\n"
        "    time.sleep(0.05)\n"
        "    note(self, **fields)\n"
        "migrate.Folder.note = slow\n"
        "from hetero.cli.main import main\n"
        "main()\n"
    )
    arguments = ["upgrade", "apply", str(case.plan), "--store", case.address]
    arguments += ["--embeddings", str(case.folder / "new"), "--batch", "5", *more]
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(case: Case, done: int, process: subprocess.Popen[bytes]) -> None:
    journal = case.plan / "migration" / "journal.jsonl"
    limit = time.monotonic() + 60
    while not (journal.exists() and f'"done": {done}'.encode() in journal.read_bytes()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_three_times_nothing_is_lost_or_doubled(case: Case) -> None:
    case.store.close()
    before = 0
    for kill in (30, 90, 150):
        process = start(case)
        wait_for(case, kill, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
        found = status(case.plan)
        assert found.phase == "interrupted"
        assert found.done > before
        before = found.done
    process = start(case)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert b"v1 -> v2, live" in out
    case.store = open_store(case.address)
    assert case.store.live() == "v2"
    assert case.whole()
    starts = [line["done"] for line in Folder(case.plan).journal() if line["event"] == "start"]
    assert len(starts) == 4
    assert starts == sorted(starts)
    assert starts[-1] >= 150  # what the store had was not embedded again


@pytest.mark.slow
def test_another_process_pauses_and_a_third_resumes(case: Case) -> None:
    case.store.close()
    process = start(case)
    wait_for(case, 40, process)
    assert status(case.plan).running
    with pytest.raises(DataError, match="being applied by another process"):
        unpause(case.plan)
    Folder(case.plan).unpause()
    found = pause(case.plan, wait_s=30)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert (found.phase, found.running) == ("paused", False)
    assert 40 <= found.done < COUNT
    command = [sys.executable, "-m", "hetero", "upgrade", "resume", str(case.plan), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["phase"] == "live"
    case.store = open_store(case.address)
    assert case.whole()


class Died(BaseException):
    """What no handler of the library may catch."""


@pytest.mark.parametrize("moment", ["state", "create", "write", "note", "complete", "point", "live"])
def test_every_step_may_be_the_last(files: Case, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Stopped right after one step, the next run ends as if nothing had been; real kills are tested above."""
    die_after(files.store, moment, monkeypatch)
    with pytest.raises(Died):
        files.migrate()
    monkeypatch.undo()
    assert files.migrate().phase == "live"
    assert status(files.plan).phase == "live"
    unused = ["v2"] if moment == "create" else []
    live = "v3" if unused else "v2"
    assert files.store.live() == live
    assert list(files.store.versions()) == ["v1", *unused, live]
    assert files.whole(live)


def die_after(store: GalleryStore, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fatal(owner: type, name: str, when: Callable[..., bool] = lambda *a, **b: True) -> None:
        real = getattr(owner, name)

        def wrapped(*arguments: object, **options: object) -> object:
            result = real(*arguments, **options)
            if when(*arguments, **options):
                raise Died
            return result

        monkeypatch.setattr(owner, name, wrapped)

    phase = {"state": "running", "complete": "complete", "live": "live"}.get(moment)
    if phase:
        fatal(Folder, "write", lambda self, state: state.phase == phase)
    elif moment == "note":
        fatal(Folder, "note", lambda self, **fields: len(self.journal()) > 3)
    else:
        fatal(type(store), moment)


def test_nothing_goes_live_while_a_row_is_missing(files: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    real = type(files.store).write

    def forgetful(self: GalleryStore, version: str, batch: Embeddings) -> None:
        real(self, version, batch.select(np.arange(len(batch) - 1)))

    monkeypatch.setattr(type(files.store), "write", forgetful)
    with pytest.raises(DataError, match=r"not whole \(12 lost, 0 doubled\)"):
        files.migrate()
    assert files.store.live() == "v1"
    monkeypatch.undo()
    assert files.migrate().phase == "live"
    assert files.whole()


def test_a_torn_line_in_the_journal_is_left_out(files: Case) -> None:
    source = Counting(files.folder / "new", 5, lambda: Folder(files.plan).ask_to_pause())
    files.migrate(source)
    with (files.plan / "migration" / "journal.jsonl").open("ab") as file:
        file.write(b'{"event": "batch", "done": 99')
    assert status(files.plan).done == 5 * BATCH
    unpause(files.plan)
    assert files.migrate().phase == "live"
    assert Folder(files.plan).journal()[-1]["event"] == "cut-over"


def test_another_plan_source_store_or_space_is_refused(files: Case, tmp_path: Path) -> None:
    files.migrate(Counting(files.folder / "new", 3, lambda: Folder(files.plan).ask_to_pause()))
    unpause(files.plan)
    with pytest.raises(SpaceMismatch, match=f"{OLD.id}.*{NEW.id}"):
        files.migrate(StoredVectors(files.folder / "old"))
    others = Settings(stored_source(files.folder / "old"), batch=BATCH)
    with pytest.raises(DataError, match="not those this migration began with"):
        migrate(files.plan, files.store, StoredVectors(files.folder / "new"), others)
    elsewhere = open_store(str(tmp_path / "elsewhere"), create=True)
    load_gallery(elsewhere, files.old)
    with pytest.raises(DataError, match="is being applied to"):
        migrate(files.plan, elsewhere, StoredVectors(files.folder / "new"), files.settings)
    with pytest.raises(DataError, match="was applied to"):
        rollback(files.plan, elsewhere)
    plan, ids, _ = make_plan(files.old, NEW, Wish(order="class-mean"))
    np.save(files.plan / "order.npy", ids)
    (files.plan / "plan.json").write_text(
        (files.plan / "plan.json").read_text().replace(load_digest(files.plan), plan.order_sha256)
    )
    with pytest.raises(DataError, match="of another plan"):
        files.migrate()
    assert files.store.live() == "v1"


def load_digest(plan: Path) -> str:
    return str(json.loads((plan / "plan.json").read_text())["order_sha256"])


def test_a_gallery_that_changed_since_the_plan_is_refused(files: Case) -> None:
    files.store.write("v1", embeddings(1, OLD, 9, first_id=50_000))
    with pytest.raises(DataError, match=r"has 231 images, not the 230 of the plan"):
        files.migrate()
    assert list(files.store.versions()) == ["v1"]


def test_a_gallery_that_grows_meanwhile_is_not_cut_over(files: Case) -> None:
    grow = Counting(
        files.folder / "new", 4, lambda: files.store.write("v1", embeddings(1, OLD, 9, first_id=50_000))
    )
    with pytest.raises(DataError, match="plan again"):
        files.migrate(grow)
    assert files.store.live() == "v1"


def test_new_vectors_that_miss_an_image_are_refused_before_anything_is_written(files: Case) -> None:
    files.new.select(np.arange(COUNT - 1)).save(files.folder / "short")
    settings = Settings(stored_source(files.folder / "short"), batch=BATCH)
    with pytest.raises(DataError, match=f"no new vector for the gallery's id {3 * (COUNT - 1)}"):
        migrate(files.plan, files.store, StoredVectors(files.folder / "short"), settings)
    assert list(files.store.versions()) == ["v1"]
    assert Folder(files.plan).state() is None


def test_a_source_that_changed_on_disk_is_refused(files: Case) -> None:
    description = files.settings.source
    assert open_source(description).space == NEW
    embeddings(COUNT, NEW, 3).save(files.folder / "new")
    with pytest.raises(DataError, match="has changed since"):
        open_source(description)


def test_the_old_models_vectors_are_no_upgrade(tmp_path: Path) -> None:
    case = Case(tmp_path, "files", OLD)
    settings = Settings(stored_source(tmp_path / "old"), batch=BATCH)
    with pytest.raises(DataError, match="the gallery's own"):
        migrate(case.plan, case.store, StoredVectors(tmp_path / "old"), settings)
    assert case.store.live() == "v1"
    assert Folder(case.plan).state() is None  # so another source may be given


def test_only_a_migration_at_work_is_paused(files: Case) -> None:
    source = Counting(files.folder / "new", 5, lambda: Folder(files.plan).ask_to_pause())
    files.migrate(source)
    with pytest.raises(DataError, match="no process applies this plan"):
        pause(files.plan)


def test_a_lost_store_and_a_full_disk_are_said_and_leave_the_old_version(files: Case) -> None:
    def full() -> None:
        labels = Path(files.address) / "versions" / "v2" / "labels.i64"
        labels.unlink(missing_ok=True)
        labels.symlink_to("/dev/full")

    with pytest.raises(DiskFull, match="no space left"):
        files.migrate(Counting(files.folder / "new", 1, full))
    assert files.store.live() == "v1"
    (Path(files.address) / "versions" / "v2" / "labels.i64").unlink()
    moved = Path(files.address).rename(files.folder / "away")
    with pytest.raises(DataError, match="is gone"):
        files.migrate()
    moved.rename(files.address)
    assert files.migrate().phase == "live"
    assert files.whole()


def test_another_cut_over_meanwhile_stops_this_one(files: Case) -> None:
    def overtake() -> None:
        files.store.create("v7", NEW)
        files.store.point("v7")

    with pytest.raises(DataError, match="cut over to v7 meanwhile"):
        files.migrate(Counting(files.folder / "new", 4, overtake))
    with pytest.raises(DataError, match="has moved on to v7"):
        rollback(files.plan, files.store)
    assert files.store.live() == "v7"


def test_two_plans_never_share_a_version(files: Case, tmp_path: Path) -> None:
    """The first plan is rolled back and its version dropped; a second one takes the number."""
    half(files)
    rollback(files.plan, files.store, drop=True)
    plan, ids, _ = make_plan(files.old, NEW, Wish(order="class-mean"))
    save_plan(tmp_path / "second", plan, ids, ())
    settings = Settings(files.settings.source, batch=BATCH, hold=True)
    second = migrate(tmp_path / "second", files.store, StoredVectors(tmp_path / "new"), settings)
    assert second.new_version == "v2"
    unpause(files.plan)
    assert files.migrate().new_version == "v3"
    assert files.whole("v3")


def test_a_version_that_vanished_is_said(files: Case) -> None:
    half(files)
    unpause(files.plan)
    files.store.drop("v2")
    with pytest.raises(DataError, match=r"has lost version v2: .*--drop"):
        files.migrate()
    rollback(files.plan, files.store, drop=True)
    unpause(files.plan)
    assert files.migrate().phase == "live"
    assert files.whole()


def test_what_has_not_begun_cannot_be_paused_or_looked_at(files: Case) -> None:
    for verb in (status, pause, unpause):
        with pytest.raises(DataError, match="has not been applied"):
            verb(files.plan)
    files.migrate()
    with pytest.raises(DataError, match="nothing to pause"):
        pause(files.plan)


def half(case: Case) -> State:
    return case.migrate(Counting(case.folder / "new", 6, lambda: Folder(case.plan).ask_to_pause()))


def test_search_during_a_compatible_migration_is_search_in_the_mixed_gallery(tmp_path: Path) -> None:
    case = Case(tmp_path, "files", OLD)
    state = half(case)
    done = np.isin(case.old.ids, case.store.ids("v2"))
    assert 0 < done.sum() < COUNT
    mixed = np.where(done[:, None], case.new.vectors, case.old.vectors)
    gallery = Embeddings(mixed, case.old.ids, case.old.labels, OLD)
    queries = embeddings(9, OLD, 5, first_id=1)
    hits, expected = search_during(case.store, state, None, queries, 6), search(queries, gallery, 6)
    assert np.array_equal(hits.ids, gallery.ids[expected.rows])


def test_search_during_an_incompatible_migration_never_shows_an_image_twice(case: Case) -> None:
    state = half(case)
    old_query, new_query = (
        Embeddings(e.vectors, e.ids, e.labels, e.space)
        for e in (embeddings(9, OLD, 5, first_id=1), embeddings(9, NEW, 5, first_id=1))
    )
    hits = search_during(case.store, state, old_query, new_query, 40)
    assert all(len(set(row)) == 40 for row in hits.ids.tolist())
    moved = np.isin(hits.ids, case.store.ids("v2"))
    share = len(case.store.ids("v2")) / COUNT
    assert moved.mean() == pytest.approx(share, abs=0.05)  # by quantile each part gets its share
    with pytest.raises(DataError, match="another space"):
        search_during(case.store, state, None, new_query, 5)
    with pytest.raises(SpaceMismatch):
        search_during(case.store, state, new_query, new_query, 5)


def test_calibrated_search_agrees_with_the_joint_gallery_of_the_curves(files: Case) -> None:
    state = half(files)
    done = np.isin(files.old.ids, files.store.ids("v2"))
    old_query, new_query = embeddings(9, OLD, 5, first_id=1), embeddings(9, NEW, 5, first_id=1)
    calibrations = calibrate(files.old), calibrate(files.new.select(done))
    hits = search_during(files.store, state, old_query, new_query, 10, calibrations)
    query = joint_embeddings((old_query, calibrations[0]), (new_query, calibrations[1]))
    gallery = joint_gallery(files.old, files.new, done)
    assert np.array_equal(hits.ids, gallery.ids[search(query, gallery, 10).rows])
