"""Folders, archives, manifests and arrays: the same images out of each, and clear words about bad ones."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from hetero.data import open_source
from hetero.data.cache import decoded
from hetero.data.images import decode
from hetero_devices.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HETERO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(seed: int, size: int = 8) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {
    f"set/{split}/{alphabet}/character{number:02d}/{number:04d}_{drawer:02d}.png": png(seed)
    for seed, (split, alphabet, number, drawer) in enumerate(
        (split, alphabet, number, drawer)
        for split in ("train", "test")
        for alphabet in ("Greek", "Latin")
        for number in (1, 2)
        for drawer in (1, 2, 3)
    )
}


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    modes: dict[str, Literal["w:", "w:gz", "w:xz"]] = {".tar": "w:", ".gz": "w:gz", ".xz": "w:xz"}
    with tarfile.open(path, modes[path.suffix]) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def write_csv(root: Path, files: dict[str, bytes]) -> Path:
    write_folder(root, files)
    lines = ["path,label,split,group"]
    for name in files:
        _, split, *classes, file = name.split("/")
        lines.append(f"{name},{'/'.join(classes)},{split},{int(file[5:7])}")
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root / "manifest.csv"


def write_parquet(root: Path, files: dict[str, bytes]) -> Path:
    from pyarrow import csv, parquet

    table = csv.read_csv(write_csv(root, files))
    parquet.write_table(table, root / "manifest.parquet")
    return root / "manifest.parquet"


def write_any(kind: str, root: Path, files: dict[str, bytes]) -> Path:
    backwards = dict(reversed(files.items()))  # an order other than by name
    match kind:
        case "folder":
            return write_folder(root / "folder", files)
        case "csv":
            return write_csv(root / "csv", backwards)
        case "parquet":
            return write_parquet(root / "parquet", backwards)
        case "zip":
            return write_zip(root / "set.zip", backwards)
    return write_tar(root / f"set.{kind}", {f"./{name}": content for name, content in backwards.items()})


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz", "tar.xz", "csv", "parquet"])
def test_every_packing_of_the_same_images_decodes_to_the_same_rows(kind: str, tmp_path: Path) -> None:
    source = open_source(write_any(kind, tmp_path, FILES), group_pattern=r"_(\d+)\.")
    result = decoded(source, 8)
    by_place = sorted(FILES)  # by split, class and file name
    assert result.images.class_names == tuple(
        f"{alphabet}/character{number:02d}" for alphabet in ("Greek", "Latin") for number in (1, 2)
    )
    assert result.splits is not None
    for row, name in enumerate(by_place):
        np.testing.assert_array_equal(result.images.images[row], decode(FILES[name], 8))
        assert f"set/{result.splits[row]}/{result.images.class_names[result.images.labels[row]]}/" in name
        assert result.images.groups[row] == int(name[-6:-4])
    np.testing.assert_array_equal(result.images.ids, np.arange(len(FILES)))


def test_a_folder_without_wrapper_or_splits_keeps_its_class_names(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", {"cat/1.png": png(0), "dog/1.png": png(1), ".git/x/1.png": png(2)})
    (root / "README.txt").write_text("beside the classes")
    result = decoded(open_source(root), 8)
    assert result.images.class_names == ("cat", "dog")
    assert result.splits is None
    assert result.images.groups.tolist() == [0, 0]


def test_linked_class_folders_are_followed_and_loops_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "far", {"1.png": png(0)})
    root = write_folder(tmp_path / "set", {"cat/1.png": png(1)})
    (root / "dog").symlink_to(tmp_path / "far")
    assert len(open_source(root).records()) == 2
    (root / "cat" / "again").symlink_to(root)
    with pytest.raises(DataError, match="again is a link to a folder that contains it"):
        open_source(root).records()


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_an_empty_class_is_named(kind: str, tmp_path: Path) -> None:
    if kind == "folder":
        path = write_folder(tmp_path / "set", {"cat/1.png": png(0)})
        (path / "dog").mkdir()
    elif kind == "zip":
        path = write_zip(tmp_path / "set.zip", {"cat/1.png": png(0), "dog/": b""})
    else:
        path = write_tar(tmp_path / "set.tar", {"cat/1.png": png(0)})
        with tarfile.open(path, "a") as archive:
            entry = tarfile.TarInfo("dog")
            entry.type = tarfile.DIRTYPE
            archive.addfile(entry)
    with pytest.raises(DataError, match="class 'dog' is empty"):
        open_source(path).records()


@pytest.mark.parametrize("write", [write_zip, write_tar])
@pytest.mark.parametrize(
    "name", ["../up.png", "cat/../../up.png", "/etc/up.png", "cat\\..\\..\\up.png", "C:/up.png"]
)
def test_an_entry_that_points_outside_is_refused(write: Any, name: str, tmp_path: Path) -> None:
    path = write(
        tmp_path / ("set.zip" if write is write_zip else "set.tar"), {"cat/1.png": png(0), name: png(1)}
    )
    with pytest.raises(DataError, match=r"unsafe: entry .* points outside") as caught:
        open_source(path).records()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("up.png"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "set.tar", {"cat/1.png": png(0)})
    with tarfile.open(path, "a") as archive:
        entry = tarfile.TarInfo("cat/2.png")
        entry.type, entry.linkname = kind, "/etc/passwd"
        archive.addfile(entry)
    with pytest.raises(DataError, match=r"unsafe: entry 'cat/2.png' is a link or a device"):
        open_source(path).records()


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        entry = zipfile.ZipInfo("cat/2.png")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(DataError, match="is a link"):
        open_source(tmp_path / "set.zip").records()


@pytest.mark.parametrize("write", [write_zip, write_tar])
@pytest.mark.parametrize("content", [b"no image at all", png(0)[:60], b""])
def test_a_corrupt_image_names_archive_and_entry(
    write: Any, content: bytes, tmp_path: Path, cache: Path
) -> None:
    suffix = "zip" if write is write_zip else "tar"
    path = write(tmp_path / f"set.{suffix}", {"cat/good.png": png(0), "dog/bad.png": content})
    with pytest.raises(DataError, match=rf"set\.{suffix}, entry dog/bad\.png: ") as caught:
        decoded(open_source(path), 8)
    assert "\n" not in str(caught.value)
    assert not list((cache / "images").iterdir())


def test_flipped_bytes_in_an_archive_are_noticed(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", {"cat/1.png": png(0), "dog/1.png": png(1)})
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"set\.zip, entry cat/1\.png: "):
        decoded(open_source(path), 8)


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tar.gz", "set.tar.xz", "set.npz", "m.parquet"])
def test_a_damaged_container_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x1f\x8b not really")
    with pytest.raises(DataError, match=name) as caught:
        open_source(tmp_path / name).records()
    assert "\n" not in str(caught.value)


def test_truncated_compressed_tar_is_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "set.tar.gz", FILES)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"cannot read archive .*set\.tar\.gz"):
        open_source(path).records()


def test_nothing_there_and_unknown_kinds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data at"):
        open_source(tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="is none of: a folder"):
        open_source(tmp_path / "notes.txt")
    (tmp_path / "hollow").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        open_source(tmp_path / "hollow").records()
    with pytest.raises(DataError, match=r"1\.png lies outside any class folder"):
        open_source(write_folder(tmp_path / "flat", {"1.png": png(0)})).records()


def test_group_pattern_that_does_not_fit(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"cat/first.png": png(0), "dog/1.png": png(0)})
    with pytest.raises(DataError, match=r"captures no number in 'first\.png'"):
        open_source(root, group_pattern=r"(\d+)\.").records()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path,class\na.png,cat\n", "no column 'label': it has path, class"),
        ("path,label\n", "has no rows"),
        ("path,label\na.png\n", "row 1: the number of fields"),
        ("path,label\na.png,cat,more\n", "row 1: the number of fields"),
        ("path,label\n,cat\n", "row 1: path is empty"),
        ("path,label\na.png,\n", "row 1: label is empty"),
        ("path,label\na.png,cat\na.png,cat\n", "row 2: a.png is listed twice"),
        ("path,label\nb.png,cat\n", "row 1: 'b.png' does not exist"),
        ("path,label\n../out.png,cat\n", "row 1: '../out.png' leads out of"),
        ("path,label\n/etc/passwd,cat\n", "row 1: '/etc/passwd' leads out of"),
        ("path,label\nlink.png,cat\n", "row 1: 'link.png' leads out of"),
        ("path,label,split\na.png,cat,tset\n", "row 1: split 'tset' is none of"),
        ("path,label,group\na.png,cat,one\n", "row 1: group 'one' is no whole number"),
        ("path,label,is_query\na.png,cat,maybe\n", "row 1: is_query is 'maybe'"),
    ],
)
def test_bad_manifests_say_which_row(table: str, message: str, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a.png": png(0), "../out.png": png(1)})
    (root / "link.png").symlink_to(tmp_path / "out.png")
    (root / "m.csv").write_text(table)
    with pytest.raises(DataError) as caught:
        open_source(root / "m.csv").records()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_manifest_may_designate_sides(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"a.png": png(0), "b.png": png(1)})
    (root / "m.csv").write_text("path,label,is_query,is_gallery\na.png,x,1,0\nb.png,x,,TRUE\n")
    images = decoded(open_source(root / "m.csv"), 8).images
    assert images.is_query is not None
    assert images.is_gallery is not None
    assert images.is_query.tolist() == [True, False]
    assert images.is_gallery.tolist() == [False, True]


def test_some_rows_without_a_split(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"a.png": png(0), "b.png": png(1)})
    (root / "m.csv").write_text("path,label,split\na.png,x,train\nb.png,x,\n")
    with pytest.raises(DataError, match=r"b\.png has no split, others have"):
        decoded(open_source(root / "m.csv"), 8)


def test_parquet_without_the_label_column(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"path": ["a.png"], "class": [1]}), tmp_path / "m.parquet")
    with pytest.raises(DataError, match="no column 'label'"):
        open_source(tmp_path / "m.parquet").records()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("packing", ["npz", "folder", "npy"])
def test_arrays_keep_their_pixels(channels: int, packing: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, channels), dtype=np.uint8)
    labels = np.array([10, 2] * 6)
    if packing == "npz":
        np.savez_compressed(tmp_path / "set.npz", images=images, labels=labels, groups=np.arange(12))
        path = tmp_path / "set.npz"
    else:
        for name, array in (("images", images), ("labels", labels), ("groups", np.arange(12))):
            np.save(tmp_path / f"{name}.npy", array)
        path = tmp_path if packing == "folder" else tmp_path / "images.npy"
    result = decoded(open_source(path), 8).images
    assert result.class_names == ("02", "10")  # padded, so that name order is number order
    rows = result.groups  # the original row of each
    np.testing.assert_array_equal(result.images, np.broadcast_to(images[rows], (12, 8, 8, 3)))
    np.testing.assert_array_equal(np.array([2, 10])[result.labels], labels[rows])


GOOD: npt.NDArray[Any] = np.zeros((4, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.full((4, 8, 8, 3), np.nan, np.float32), np.arange(4), "float32 with NaN or infinity"),
        (GOOD.astype(np.float32), np.arange(4), "images are float32, expected uint8"),
        (GOOD.astype(np.int64), np.arange(4), "images are int64, expected uint8"),
        (GOOD[..., 0], np.arange(4), "images have shape [4, 8, 8]"),
        (GOOD[..., :2], np.arange(4), "images have shape [4, 8, 8, 2]"),
        (GOOD[:0], np.arange(0), "images have shape [0, 8, 8, 3]"),
        (GOOD, np.arange(3), "labels are int64 [3], expected integers or strings [4]"),
        (GOOD, np.arange(4.0), "labels are float64 [4]"),
        (GOOD, np.array(["a", "", "b", "c"]), "the label of row 1 is empty"),
        (GOOD, np.array([{}, {}, {}, {}]), "cannot read labels"),  # would need pickle
    ],
)
def test_bad_arrays_say_what_they_are(
    images: npt.NDArray[Any], labels: npt.NDArray[Any], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "set.npz", images=images, labels=labels)
    with pytest.raises(DataError) as caught:
        open_source(tmp_path / "set.npz").records()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arrays_without_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=GOOD)
    with pytest.raises(DataError, match="has no array 'labels'"):
        open_source(tmp_path / "set.npz").records()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"cat/1.png": png(0)})
    (root / "cat" / "1.png").chmod(0)
    with pytest.raises(DataError, match=r"cannot read .*1\.png"):
        decoded(open_source(root), 8)
