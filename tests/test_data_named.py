"""Named sets and the one door `load`: where files are looked for, how they are split, what goes wrong."""

from __future__ import annotations

import functools
import io
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hetero.data import NAMES, load, named, protocol
from hetero.data.named import NAMED, NamedSet
from hetero_devices.errors import DataError
from hetero_devices.files import sha256_file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and an environment that names no data."""
    for name in ("HETERO_DATA_ROOT", "HETERO_DATA_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HETERO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with a small `caltech101-96px.zip`, registered under the name caltech101."""
    path = write_zip(tmp_path / "root" / "caltech101-96px.zip")
    files = {path.name: sha256_file(path)}
    monkeypatch.setitem(NAMED, "caltech101", NamedSet(files, NAMED["caltech101"].split))
    return path.parent


def write_zip(path: Path) -> Path:
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(100):
            buffer = io.BytesIO()
            Image.new("RGB", (4, 4), (number, 0, 0)).save(buffer, "PNG")
            archive.writestr(f"class{number:03d}/1.png", buffer.getvalue())
    return path


@pytest.fixture
def server(tiny: Path) -> Iterator[str]:
    """Serves the tiny root over HTTP; nothing else tells where it is."""
    handler = functools.partial(QuietHandler, directory=str(tiny))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_the_files_are_found_in_the_root_given_or_in_the_environment(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(load("caltech101", size=4, root=tiny).test) == 50
    monkeypatch.setenv("HETERO_DATA_ROOT", str(tiny))
    assert len(load("caltech101", size=4).test) == 50


def test_classes_in_name_order_validation_from_training(tiny: Path) -> None:
    splits = load("caltech101", size=4, root=tiny, validation_share=0.2)
    assert splits.train.class_names == tuple(f"class{number:03d}" for number in range(40))
    assert splits.validation.class_names == tuple(f"class{number:03d}" for number in range(40, 50))
    assert splits.test.class_names == tuple(f"class{number:03d}" for number in range(50, 100))
    np.testing.assert_array_equal(splits.test.images[:, 0, 0, 0], np.arange(50, 100))


def test_download_goes_to_the_cache_and_is_found_there(
    server: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETERO_DATA_URL", f"{server}/")
    load("caltech101", size=4)
    monkeypatch.delenv("HETERO_DATA_URL")
    shutil.rmtree(cache / "images")
    assert len(load("caltech101", size=4).test) == 50
    assert (cache / "downloads" / "caltech101-96px.zip").is_file()


def test_a_base_url_may_be_given(server: str) -> None:
    assert len(load("caltech101", size=4, base_url=server).train) == 45


def test_not_found_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"omniglot/images_background\.zip is not in .*HETERO_DATA_ROOT.*HETERO_DATA_URL"
    ):
        load("omniglot", size=8, root=tmp_path)


def test_a_file_of_that_name_with_another_content_is_refused(tiny: Path) -> None:
    with (tiny / "caltech101-96px.zip").open("ab") as file:
        file.write(b"more")
    with pytest.raises(
        DataError, match=r"caltech101-96px\.zip has sha256 .*expected .*: remove it or replace it"
    ):
        load("caltech101", size=4, root=tiny)


def test_unknown_names_and_missing_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data at omniglott: did you mean 'omniglot'"):
        load("omniglott", size=8)
    with pytest.raises(DataError, match=r"no data at .*nowhere: the named sets are glyphs, omniglot"):
        load(tmp_path / "nowhere", size=8)
    assert set(NAMES) == {"glyphs", "omniglot", "cifar100", "cifar100-closed", "caltech101"}


def test_a_path_is_split_by_class(tiny: Path) -> None:
    path = tiny / "caltech101-96px.zip"
    splits, again, other = (load(path, size=4, seed=seed) for seed in (0, 0, 1))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [45, 5, 50]
    assert splits.test.class_names == again.test.class_names
    assert splits.test.class_names != other.test.class_names
    assert splits.protocol == "leave-one-out"


def test_split_folders_and_designated_sides_of_your_own_data(tmp_path: Path) -> None:
    rows = []
    for number in range(12):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
        split = "train" if number < 6 else "test"
        rows.append(f"{number}.png,c{number // 2},{split},{number % 2},{1 - number % 2}")
    (tmp_path / "m.csv").write_text("\n".join(["path,label,split,is_query,is_gallery", *rows]))
    splits = load(tmp_path / "m.csv", size=4)
    assert splits.train.class_names == ("c0", "c1")
    assert splits.validation.class_names == ("c2",)
    sides = protocol(splits.protocol, splits.test)
    assert sorted(sides.query.images[:, 0, 0, 0].tolist()) == [7, 9, 11]
    assert sorted(sides.gallery.images[:, 0, 0, 0].tolist()) == [6, 8, 10]


def test_classes_of_one_image_are_an_error_when_left_out(tiny: Path) -> None:
    splits = load("caltech101", size=4, root=tiny)
    with pytest.raises(DataError, match=r"class 'class050' has 1 image\(s\)"):
        protocol(splits.protocol, splits.test)


def test_alphabets_are_held_out_whole() -> None:
    assert named.alphabet("Greek/character01") == "Greek"


REAL = Path(os.environ.get("HETERO_DATA_ROOT") or Path(__file__).parents[2] / "shared" / "data")


def real(name: str) -> pytest.MarkDecorator:
    missing = [file for file in NAMED[name].files if not (REAL / file).is_file()]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not in {REAL}")


@real("omniglot")
def test_omniglot_as_published() -> None:
    splits = load("omniglot", size=8, root=REAL)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [17_380, 1_900, 13_180]
    assert len(splits.test.class_names) == 659
    scripts = [
        {named.alphabet(name) for name in part.class_names} for part in (splits.train, splits.validation)
    ]
    assert [len(names) for names in scripts] == [27, 3]
    assert scripts[0].isdisjoint(scripts[1])
    sides = protocol(splits.protocol, splits.test)
    assert (len(sides.query), len(sides.gallery)) == (12_521, 659)


@real("caltech101")
def test_caltech101_as_published() -> None:
    splits = load("caltech101", size=8, root=REAL)
    assert [len(part.class_names) for part in (splits.train, splits.validation, splits.test)] == [45, 5, 50]
    assert splits.train.class_names[0] == "Faces"
    assert splits.test.class_names[-1] == "yin_yang"
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 6198
    assert len(protocol(splits.protocol, splits.test).query) == len(splits.test)


@pytest.mark.slow
@real("cifar100")
def test_cifar100_as_published() -> None:
    splits = load("cifar100", size=32, root=REAL)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [22_500, 2_500, 5_000]
    assert splits.train.class_names[0] == "apple"
    assert splits.test.class_names[-1] == "worm"
    assert set(splits.train.class_names).isdisjoint(splits.test.class_names)
