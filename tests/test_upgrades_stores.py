"""Gallery stores: one contract, on plain files and on a real embedded Milvus."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hetero.retrieval import search
from hetero.upgrades.migration.loading import load_gallery
from hetero.upgrades.stores import FileStore, GalleryStore, best_of, next_version, open_store
from hetero.upgrades.stores.store import StoreHits
from hetero.upgrades.stores.top import dropped
from hetero_devices.errors import DataError, DiskFull, HeteroError, SpaceMismatch
from hetero_devices.space import Embeddings, Space

OLD, NEW = Space("a0" * 8, 16), Space("b1" * 8, 24)


def embeddings(count: int, space: Space = OLD, seed: int = 0, first_id: int = 0) -> Embeddings:
    vectors = np.random.default_rng(seed).normal(size=(count, space.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = first_id + 7 * np.arange(count, dtype=np.int64)
    return Embeddings(vectors, ids, np.arange(count, dtype=np.int64) % 5, space)


@pytest.fixture(params=["files", "milvus"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GalleryStore]:
    address = str(tmp_path / ("store" if request.param == "files" else "store.db"))
    opened = open_store(address, create=True)
    yield opened
    opened.close()


def test_what_is_written_is_read_back_bit_for_bit(store: GalleryStore) -> None:
    rows = embeddings(50)
    store.create("v1", OLD)
    store.write("v1", rows.select(np.arange(0, 30)))
    store.write("v1", rows.select(np.arange(30, 50)))
    assert np.array_equal(np.sort(store.ids("v1")), rows.ids)
    picked = np.array([49, 0, 17])
    back = store.read("v1", rows.ids[picked])
    assert np.array_equal(back.vectors, rows.vectors[picked])
    assert back.labels.tolist() == rows.labels[picked].tolist()
    assert back.ids.tolist() == rows.ids[picked].tolist()
    with pytest.raises(DataError, match="lacks"):
        store.read("v1", np.array([3]))


def test_a_batch_written_twice_is_there_once_and_the_last_one_counts(store: GalleryStore) -> None:
    store.create("v1", OLD)
    store.write("v1", embeddings(20, seed=1))
    again = embeddings(30, seed=2)  # 20 of the same ids, 10 more
    store.write("v1", again)
    store.write("v1", again)
    assert np.array_equal(np.sort(store.ids("v1")), again.ids)
    assert np.array_equal(store.read("v1", again.ids).vectors, again.vectors)


def test_search_finds_what_exact_search_finds(store: GalleryStore) -> None:
    rows, queries = embeddings(300), embeddings(8, seed=9, first_id=1)
    store.create("v1", OLD)
    store.write("v1", rows)
    hits, expected = store.search("v1", queries, 5), search(queries, rows, 5)
    assert np.array_equal(hits.ids, rows.ids[expected.rows])
    assert hits.scores == pytest.approx(expected.scores, abs=1e-6)
    inside = rows.select(np.arange(4))  # a query that is in the gallery does not find itself
    assert not (store.search("v1", inside, 10).ids == inside.ids[:, None]).any()


@pytest.mark.parametrize("share", [0.1, 0.9, 0.99])
def test_search_without_some_rows_is_exact_however_many_they_are(store: GalleryStore, share: float) -> None:
    rows, queries = embeddings(300), embeddings(8, seed=9, first_id=1)
    store.create("v1", OLD)
    store.write("v1", rows)
    out = np.random.default_rng(0).permutation(300)[: int(300 * share)]
    kept = np.setdiff1d(np.arange(300), out)
    hits = store.search("v1", queries, 5, without=rows.ids[out])
    expected = search(queries, rows.select(kept), 5)
    found = np.where(expected.rows >= 0, rows.ids[kept][expected.rows], -1)
    assert np.array_equal(hits.ids, found)


def test_over_fetching_replaces_a_long_list_of_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hetero.upgrades.stores import milvus

    store = milvus.MilvusStore(str(tmp_path / "s.db"))
    rows, queries = embeddings(300), embeddings(8, seed=9, first_id=1)
    store.create("v1", OLD)
    store.write("v1", rows)
    out = np.random.default_rng(0).permutation(300)[:240]
    monkeypatch.setattr(milvus, "MOST_HITS", 59)  # one fewer than remain: no list of ids is sent
    with pytest.raises(DataError, match="59 hits at most"):
        store.search("v1", queries, 20, without=rows.ids[out])
    out = out[:200]
    expected = search(queries, rows.select(np.setdiff1d(np.arange(300), out)), 5)
    kept = np.setdiff1d(np.arange(300), out)
    found = store.search("v1", queries, 5, without=rows.ids[out])
    assert np.array_equal(found.ids, rows.ids[kept][expected.rows])
    store.close()


def test_versions_are_apart_and_the_cut_over_moves_one_pointer(store: GalleryStore) -> None:
    assert store.live() is None
    assert next_version(store.versions()) == "v1"
    store.create("v1", OLD)
    store.create("v2", NEW)
    store.write("v1", embeddings(10))
    store.write("v2", embeddings(4, NEW))
    assert dict(store.versions()) == {"v1": OLD, "v2": NEW}
    assert next_version(store.versions()) == "v3"
    for version in ("v1", "v2", "v1"):
        store.point(version)
        assert store.live() == version
    with pytest.raises(DataError, match="is live"):
        store.drop("v1")
    store.drop("v2")
    assert list(store.versions()) == ["v1"]
    assert len(store.ids("v1")) == 10
    with pytest.raises(DataError, match="no version 'v2'"):
        store.ids("v2")


def test_spaces_do_not_mix_and_bad_vectors_do_not_enter(store: GalleryStore) -> None:
    store.create("v1", OLD)
    stranger = Space("c2" * 8, OLD.dim)
    for batch in (embeddings(3, NEW), embeddings(3, stranger)):
        with pytest.raises(SpaceMismatch, match=OLD.id):
            store.write("v1", batch)
    store.write("v1", embeddings(3))
    with pytest.raises(SpaceMismatch, match=stranger.id):
        store.search("v1", embeddings(1, stranger), 1)
    broken = embeddings(3)
    broken.vectors[1, 2] = np.nan
    with pytest.raises(DataError, match="NaN"):
        store.write("v1", broken)
    twice = embeddings(3)
    twice.ids[1] = twice.ids[0]
    with pytest.raises(DataError, match="twice"):
        store.write("v1", twice)
    with pytest.raises(DataError, match="already"):
        store.create("v1", OLD)
    with pytest.raises(DataError, match="is no version"):
        store.create("new", OLD)
    assert len(store.ids("v1")) == 3


def test_a_closed_store_opens_again_as_it_was(store: GalleryStore) -> None:
    store.create("v1", OLD)
    store.write("v1", embeddings(40))
    store.point("v1")
    store.close()
    again = open_store(store.address)
    assert (again.live(), dict(again.versions())) == ("v1", {"v1": OLD})
    assert np.array_equal(np.sort(again.ids("v1")), embeddings(40).ids)
    again.close()


def test_an_address_means_the_same_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("store", create=True).address == str(tmp_path.resolve() / "store")
    store = open_store("store.db", create=True)
    assert store.address == str(tmp_path.resolve() / "store.db")
    store.close()


def test_a_store_that_is_gone_or_something_else_is_said_in_one_line(tmp_path: Path) -> None:
    for address in (tmp_path / "nothing", tmp_path / "nothing.db"):
        with pytest.raises(DataError, match=r"no gallery store|is gone") as caught:
            open_store(str(address))
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("hello")
    with pytest.raises(DataError, match="no gallery store and not empty"):
        open_store(str(tmp_path / "mine"), create=True)
    (tmp_path / "file.db").write_text("hello")
    with pytest.raises(DataError, match="no Milvus Lite database"):
        open_store(str(tmp_path / "file.db"), create=True)
    with pytest.raises(DataError, match="is no gallery store"):
        open_store("s3://bucket")
    with pytest.raises(DataError, match="cannot name"):
        open_store(str(tmp_path / "x.db"), "my gallery", create=True)


def test_a_server_that_does_not_answer_is_said_in_one_line() -> None:
    with pytest.raises(DataError, match=r"^Milvus at http://127.0.0.1:9: ") as caught:
        open_store("http://127.0.0.1:9")
    assert "\n" not in str(caught.value)


def test_a_server_is_the_same_code_and_its_loss_is_one_line(tmp_path: Path) -> None:
    """Milvus's protocol over a socket, as a server speaks it; behind it stands the embedded engine."""
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    server, engine, port = start_server_in_thread(str(tmp_path / "data"))
    store = open_store(f"http://127.0.0.1:{port}", "cloud")
    rows = embeddings(60)
    assert load_gallery(store, rows) == "v1"
    store.create("v2", NEW)
    store.write("v2", embeddings(60, NEW))
    store.point("v2")
    assert store.live() == "v2"
    again = open_store(f"http://127.0.0.1:{port}", "cloud")  # many may use a server at once
    assert np.array_equal(again.read("v1", rows.ids).vectors, rows.vectors)
    assert open_store(f"http://127.0.0.1:{port}", "other").versions() == {}
    server.stop(grace=0).wait()
    engine.close()
    with pytest.raises(DataError, match=rf"^Milvus at http://127.0.0.1:{port}: ") as caught:
        store.write("v2", embeddings(3, NEW))
    assert "\n" not in str(caught.value)


def test_the_embedded_file_serves_one_process(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "s.db"), create=True)
    code = f"from hetero.upgrades.stores import open_store; open_store({store.address!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "another process is using" in done.stderr.splitlines()[-1]
    store.close()


def test_rows_beyond_the_last_commit_do_not_count(tmp_path: Path) -> None:
    """What a write leaves that is killed between its rows and their number."""
    store = FileStore(tmp_path / "store")
    store.create("v1", OLD)
    store.write("v1", embeddings(10))
    folder = tmp_path / "store" / "versions" / "v1"
    with (folder / "vectors.f32").open("ab") as file:
        file.write(os.urandom(333))
    with (folder / "ids.i64").open("ab") as file:
        file.write(os.urandom(11))
    assert np.array_equal(store.ids("v1"), embeddings(10).ids)
    more = embeddings(25)
    store.write("v1", more)
    assert np.array_equal(store.read("v1", more.ids).vectors, more.vectors)


def test_a_shortened_file_is_damage_not_a_crash(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    store.create("v1", OLD)
    store.write("v1", embeddings(10))
    path = tmp_path / "store" / "versions" / "v1" / "vectors.f32"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(HeteroError, match=r"vectors.f32 is damaged or gone"):
        store.ids("v1")


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    """A device that is always full takes the place of one column."""
    store = FileStore(tmp_path / "store")
    store.create("v1", OLD)
    labels = tmp_path / "store" / "versions" / "v1" / "labels.i64"
    labels.symlink_to("/dev/full")
    with pytest.raises(DiskFull, match="no space left to write"):
        store.write("v1", embeddings(30))
    labels.unlink()
    assert len(store.ids("v1")) == 0
    store.write("v1", embeddings(30))
    assert np.array_equal(store.ids("v1"), embeddings(30).ids)


def test_a_gallery_is_loaded_once_and_goes_on_where_it_was(store: GalleryStore) -> None:
    gallery = embeddings(50)
    store.create("v1", OLD)
    store.write("v1", gallery.select(np.arange(0, 50, 3)))  # a load that was killed
    assert load_gallery(store, gallery, batch=7) == "v1"
    assert store.live() == "v1"
    assert np.array_equal(np.sort(store.ids("v1")), gallery.ids)
    with pytest.raises(DataError, match="has a live gallery"):
        load_gallery(store, gallery)


def test_another_gallery_does_not_finish_a_half_loaded_one(store: GalleryStore) -> None:
    store.create("v1", OLD)
    store.write("v1", embeddings(5, first_id=10_000))
    with pytest.raises(DataError, match="beginning of another gallery"):
        load_gallery(store, embeddings(50))
    with pytest.raises(SpaceMismatch):
        load_gallery(store, embeddings(50, NEW))


def test_the_best_of_lists_and_what_is_dropped_from_them() -> None:
    a = StoreHits(np.array([[1, 2]]), np.array([[0.9, 0.5]], np.float32))
    b = StoreHits(np.array([[3, -1]]), np.array([[0.5, -np.inf]], np.float32))
    both = best_of([a, b], 4)
    assert both.ids.tolist() == [[1, 2, 3, -1]]  # equal scores: in the order of the lists
    left = dropped(both, np.array([2]), np.array([1]))
    assert left.ids.tolist() == [[3, -1, -1, -1]]
    assert left.scores.tolist() == [[0.5, -np.inf, -np.inf, -np.inf]]
