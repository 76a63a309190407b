"""The decoded cache: keyed by content, memory-mapped, whole or absent, clear about a full disk."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hetero.data import open_source
from hetero.data.cache import Decoded, ImagePlan, cached, decoded
from hetero.data.cachedir import cache_dir
from hetero.data.digests import file_digest
from hetero.data.imageset import Images
from hetero_devices.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HETERO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_zip(path: Path, count: int = 6, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(count):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
            archive.writestr(f"class{index % 2}/{index:05d}.png", buffer.getvalue())
    return path


def load(path: Path, size: int = 16) -> Decoded:
    return decoded(open_source(path), size)


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "images").iterdir())


def test_images_are_memory_mapped_and_decoded_once(tmp_path: Path, cache: Path) -> None:
    path = write_zip(tmp_path / "set.zip")
    first = load(path)
    assert isinstance(first.images.images, np.memmap)
    stamp = (entries(cache)[0] / "images.npy").stat().st_mtime_ns
    np.testing.assert_array_equal(load(path).images.images, first.images.images)
    assert [(entry / "images.npy").stat().st_mtime_ns for entry in entries(cache)] == [stamp]


def test_the_key_is_the_content_not_the_name(tmp_path: Path, cache: Path) -> None:
    path = write_zip(tmp_path / "set.zip")
    load(path)
    load(path.rename(tmp_path / "moved.zip"))
    assert len(entries(cache)) == 1
    load(write_zip(tmp_path / "moved.zip", seed=1))
    load(tmp_path / "moved.zip", size=8)
    assert len(entries(cache)) == 3


def test_a_changed_folder_is_decoded_again(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (4, 4), "black").save(root / name / "1.png")
    assert load(root, 4).images.images.max() == 0
    Image.new("RGB", (4, 4), "white").save(root / "a" / "1.png")
    os.utime(root / "a" / "1.png", ns=(1, 1))
    assert load(root, 4).images.images.max() == 255


def test_digests_are_remembered_until_the_file_changes(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    first = file_digest(file)
    [remembered] = (cache / "digests").iterdir()
    remembered.write_text("0" * 64)
    assert file_digest(file) == "0" * 64
    os.utime(file, ns=(1, 1))
    assert file_digest(file) == first


def test_a_run_killed_half_way_leaves_nothing_taken_for_whole(tmp_path: Path, cache: Path) -> None:
    script = """if True:
        import os, signal, sys
        import numpy as np
        from hetero.data.cache import ImagePlan, cached
        def rows():
            yield 0, np.zeros((4, 4, 3), np.uint8)
            os.kill(os.getpid(), signal.SIGKILL)
        cached(["k"], lambda: (ImagePlan(4, ["a", "b"], np.zeros(2, np.int64)), rows()))
    """
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'devices'}"}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == -9
    [remains] = entries(cache)
    pictures = [(row, np.full((4, 4, 3), row + 1, np.uint8)) for row in range(2)]
    result = cached(["k"], lambda: (ImagePlan(4, ["a", "b"], np.zeros(2, np.int64)), pictures))
    assert result.images.images[:, 0, 0, 0].tolist() == [1, 2]
    assert remains in entries(cache)  # perhaps somebody still writes it
    os.utime(remains, (time.time() - 100_000,) * 2)
    cached(["other"], lambda: (ImagePlan(4, ["a", "b"], np.zeros(2, np.int64)), pictures))
    assert remains not in entries(cache)


def test_rows_may_come_in_any_order() -> None:
    pictures = [(row, np.full((4, 4, 3), row, np.uint8)) for row in (2, 0, 1)]
    result = cached(["k"], lambda: (ImagePlan(4, ["a", "b", "a"], np.arange(3, dtype=np.int64)), pictures))
    assert result.images.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert result.images.labels.tolist() == [0, 1, 0]


def test_the_entry_of_a_quicker_process_stays() -> None:
    def slow() -> Iterator[tuple[int, Images]]:
        cached(["k"], lambda: (plan(), [(0, np.full((4, 4, 3), 7, np.uint8))]))
        yield 0, np.zeros((4, 4, 3), np.uint8)

    def plan() -> ImagePlan:
        return ImagePlan(4, ["a"], np.zeros(1, np.int64))

    assert cached(["k"], lambda: (plan(), slow())).images.images.max() == 7


def test_a_damaged_entry_is_named(tmp_path: Path, cache: Path) -> None:
    path = write_zip(tmp_path / "set.zip")
    load(path)
    [entry] = entries(cache)
    (entry / "images.npy").write_bytes(b"")
    with pytest.raises(DataError, match=f"cache entry {entry} is damaged: remove it"):
        load(path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a small tmpfs here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_zip(tmp_path / "set.zip", count=40)
    monkeypatch.setenv("HETERO_CACHE", str(small_disk))
    with pytest.raises(
        DataError, match=rf"no space left in {small_disk}: need about 2 MB; .*HETERO_CACHE"
    ) as caught:
        load(path, size=128)
    assert "\n" not in str(caught.value)
    assert entries(small_disk) == []
    assert len(load(path, size=16).images) == 40  # what fits still works


def test_a_cache_that_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HETERO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="cannot write the cache"):
        load(write_zip(tmp_path / "set.zip"))


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETERO_CACHE", "/somewhere")
    assert cache_dir() == Path("/somewhere")
    monkeypatch.delenv("HETERO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/hetero")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_dir() == Path("/home/someone/.cache/hetero")


def test_sizes_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="size is 0"):
        load(write_zip(tmp_path / "set.zip"), size=0)
