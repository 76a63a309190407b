"""Mistakes around upgrades: one line, exit code 2, and nothing of the user's lost or half-written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from hetero.cli.main import cli
from hetero.upgrades.backfill.plan import check_plan_target
from hetero.upgrades.backfill.planning import Wish, make_plan
from hetero.upgrades.migration.loading import load_gallery
from hetero.upgrades.migration.opening import stored_source
from hetero.upgrades.migration.state import Folder
from hetero.upgrades.stores import open_store
from hetero_devices.errors import DataError, HeteroError
from hetero_devices.files import atomic_directory
from hetero_devices.space import Embeddings, Space

SPACE = Space("a0" * 8, 4)


def embedded(count: int = 8) -> Embeddings:
    vectors = np.eye(4, dtype=np.float32)[np.arange(count) % 4]
    return Embeddings(vectors, np.arange(count), np.arange(count) % 2, SPACE)


@pytest.mark.parametrize("marked", [False, True])
def test_embeddings_never_replace_a_folder_of_other_things(tmp_path: Path, marked: bool) -> None:
    target = tmp_path / "mine"
    (target / "photos").mkdir(parents=True)
    (target / "photos" / "cat").write_text("precious")
    if marked:
        (target / "space.json").write_text("{}")
    with pytest.raises(DataError, match="name another folder"):
        embedded().save(target)
    assert (target / "photos" / "cat").read_text() == "precious"


def test_embeddings_replace_embeddings_and_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for count in (4, 8):
        embedded(count).save(tmp_path / "a")
        assert len(Embeddings.load(tmp_path / "a")) == count


def test_the_folder_here_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="not a folder of embeddings"):
        embedded().save(Path("."))
    with pytest.raises(DataError, match="not a plan"):
        check_plan_target(Path("."))
    assert (tmp_path / "notes.txt").read_text() == "precious"


def test_a_folder_without_name_is_written_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with atomic_directory(Path(".")) as folder:
        (folder / "file").touch()
    assert (tmp_path / "here" / "file").exists()


def test_a_folder_of_splits_names_one(tmp_path: Path) -> None:
    embedded().save(tmp_path / "all" / "test")
    with pytest.raises(DataError, match=r"perhaps .*all/test"):
        Embeddings.load(tmp_path / "all")


@pytest.mark.parametrize("target", [7.0, -0.1, float("nan")])
def test_a_target_is_a_share(target: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        make_plan(embedded(), SPACE, Wish(target=target))


def test_galleries_that_cannot_be_upgraded(tmp_path: Path) -> None:
    whole = embedded()
    twice = Embeddings(whole.vectors, np.zeros(8, np.int64), whole.labels, SPACE)
    for gallery, said in ((twice, "occurs twice"), (embedded(0), "no images")):
        with pytest.raises(DataError, match=said):
            make_plan(gallery, SPACE, Wish())
        store = open_store(str(tmp_path / "store"), create=True)
        with pytest.raises(DataError, match=said):
            load_gallery(store, gallery)
        assert not store.versions()


@pytest.mark.parametrize("address", ["http://", "http://host:port", "ftp://host"])
def test_addresses_that_name_no_server(address: str) -> None:
    with pytest.raises(DataError, match="is no gallery store"):
        open_store(address, create=True)


@pytest.mark.parametrize("fields", [[1], {"id": "a" * 16}, {"id": "a", "dim": 1, "more": 2}])
def test_a_space_that_is_none(fields: object) -> None:
    with pytest.raises(HeteroError, match="space is not understood"):
        Space.from_json(fields)


def test_new_vectors_that_are_none_do_not_bind_a_migration(tmp_path: Path) -> None:
    good = embedded()
    Embeddings(good.vectors * np.float32(np.nan), good.ids, good.labels, SPACE).save(tmp_path / "new")
    with pytest.raises(DataError, match="NaN"):
        stored_source(tmp_path / "new")


def test_a_journal_keeps_its_whole_lines(tmp_path: Path) -> None:
    keep = Folder(tmp_path)
    keep.path.mkdir()
    whole = '{"event": "batch", "done": 3, "rows": 3, "seconds": 0.5}'
    lines = (whole, '{"event": "batch", "done": "x"}', '{"event": "batch"}', "[]", '{"even')
    (keep.path / "journal.jsonl").write_text("\n".join(lines))
    assert [line["done"] for line in keep.journal()] == [3]


def test_a_gate_is_a_number() -> None:
    done = CliRunner().invoke(cli, ["flips", "a", "b", "--max-nfr", "nan"])
    assert done.exit_code == 2
    assert "--max-nfr" in done.output
