"""Compressed galleries: known values, error bounds, one answer however read, one line for bad files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetero.retrieval import evaluate, search
from hetero.retrieval.codecs import Compressed, codec, compress, decoded, load_gallery
from hetero.retrieval.codecs.product import Product
from hetero.retrieval.codecs.scalar import Binary, Float16, Int8
from hetero_devices.errors import DataError, HeteroError, MissingExtra, SpaceMismatch
from hetero_devices.files import write_json
from hetero_devices.space import Embeddings, Space, prefix

DIM = 32
SPACE = Space("a" * 16, DIM)
PLAIN = ("float16", "int8", "binary")


def embeddings(count: int, seed: int = 0, first_id: int = 0) -> Embeddings:
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(50, DIM))
    labels = np.arange(count) % 50
    vectors = centres[labels] + generator.normal(size=(count, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Embeddings(vectors.astype(np.float32), first_id + np.arange(count), labels, SPACE)


def never() -> Any:
    raise AssertionError("this codec learns nothing")


def handmade_product(rotation: Any = None) -> Product:
    generator = np.random.default_rng(3)
    books = generator.normal(size=(4, 256, DIM // 4)).astype(np.float32)
    return Product("pq4" if rotation is None else "opq4", books, rotation)


def rotation() -> Any:
    return np.linalg.qr(np.random.default_rng(7).normal(size=(DIM, DIM)))[0].astype(np.float32)


def every_codec() -> list[Any]:
    return [*(codec(name, DIM, never) for name in PLAIN), handmade_product(), handmade_product(rotation())]


def test_known_codes() -> None:
    vector = np.array([[0.6, -0.8, 0.0]], np.float32)
    assert Int8(3).encode(vector).tolist() == [[95, -127, 0]]
    assert Binary(3).encode(vector).tolist() == [[0b10100000]]
    np.testing.assert_allclose(
        Binary(3).decode(np.array([[0b10100000]], np.uint8)), [[3**-0.5, -(3**-0.5), 3**-0.5]]
    )
    assert Float16(3).encode(vector).tolist() == vector.astype(np.float16).tolist()


def test_product_codes_name_the_nearest_centroid() -> None:
    product = handmade_product()
    chosen = np.array([[3, 0, 255, 17], [200, 1, 2, 4]], np.uint8)
    exact = np.stack([np.concatenate([product.codebooks[m, row[m]] for m in range(4)]) for row in chosen])
    assert product.encode(exact).tolist() == chosen.tolist()
    np.testing.assert_allclose(
        product.decode(chosen), exact / np.linalg.norm(exact, axis=1, keepdims=True), rtol=1e-5
    )
    brute = ((exact[0, :8] + 0.3 - product.codebooks[0]) ** 2).sum(axis=1)
    assert product.encode(exact + np.float32(0.3))[0, 0] == brute.argmin()


def test_a_rotation_is_undone_by_decoding() -> None:
    turned, plain = handmade_product(rotation()), handmade_product()
    vectors = embeddings(40).vectors
    np.testing.assert_array_equal(turned.encode(vectors), plain.encode(vectors @ rotation().T))
    expected = plain.decode(plain.encode(vectors @ rotation().T)) @ rotation()
    np.testing.assert_allclose(turned.decode(turned.encode(vectors)), expected, atol=1e-6)


def test_errors_are_bounded() -> None:
    vectors = embeddings(500).vectors
    half = Float16(DIM).decode(Float16(DIM).encode(vectors))
    assert np.abs(half - vectors).max() <= np.abs(vectors).max() * 2**-10
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    raw = Int8(DIM).encode(vectors) * (largest / 127)
    assert (np.abs(raw - vectors) <= largest / 254 * (1 + 1e-5)).all()
    # The error of normalising is at most that of the vector: D components of max|x| / 254 each.
    byte = Int8(DIM).decode(Int8(DIM).encode(vectors))
    assert (np.linalg.norm(byte - vectors, axis=1) <= 2 * DIM**0.5 * largest[:, 0] / 254).all()
    assert (np.sign(Binary(DIM).decode(Binary(DIM).encode(vectors))) == np.where(vectors >= 0, 1, -1)).all()


@pytest.mark.parametrize("each", every_codec(), ids=lambda c: c.name)
def test_decoded_vectors_are_unit_and_survive_a_second_encoding(each: Any) -> None:
    vectors = embeddings(300).vectors
    codes = each.encode(vectors)
    assert codes.shape == (300, each.code_length)
    assert codes.dtype == each.code_dtype
    back = each.decode(codes)
    assert back.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=1e-5)
    if each.name in ("int8", "binary"):
        np.testing.assert_array_equal(each.encode(back), codes)


@pytest.mark.parametrize(("name", "size"), [("float16", 64), ("int8", 32), ("binary", 4)])
def test_bytes_of_a_vector_are_what_the_file_holds(tmp_path: Path, name: str, size: int) -> None:
    compressed = compress(embeddings(1000), codec(name, DIM, never))
    compressed.save(tmp_path / "g")
    assert compressed.bytes_per_vector == size
    assert (tmp_path / "g" / "codes.npy").stat().st_size == 1000 * size + 128  # numpy's header


@pytest.mark.parametrize("each", every_codec(), ids=lambda c: c.name)
def test_a_stored_gallery_is_the_same_gallery(tmp_path: Path, each: Any) -> None:
    gallery = embeddings(300, seed=1, first_id=1000)
    compress(gallery, each).save(tmp_path / "g")
    loaded = load_gallery(tmp_path / "g")
    np.testing.assert_array_equal(loaded.vectors[:], each.decode(each.encode(gallery.vectors)))
    np.testing.assert_array_equal(loaded.ids, gallery.ids)
    np.testing.assert_array_equal(loaded.labels, gallery.labels)
    assert loaded.space == SPACE
    query = embeddings(40)
    assert evaluate(query, loaded).means == evaluate(query, decoded(compress(gallery, each))).means


@pytest.mark.parametrize("each", every_codec(), ids=lambda c: c.name)
@pytest.mark.parametrize("block_bytes", [2**27, 2**14, 2**12])
def test_streaming_decodes_to_the_same_ranks(monkeypatch: Any, each: Any, block_bytes: int) -> None:
    """Against a gallery decoded beforehand; parts of 64 rows, so that tiles consist of several."""
    monkeypatch.setattr("hetero.retrieval.scoring._DECODED_BYTES", 64 * 4 * DIM)
    query, gallery = embeddings(60), compress(embeddings(2000, seed=1, first_id=1000), each)
    lazy = decoded(gallery)
    whole = Embeddings(np.asarray(lazy.vectors[:]), gallery.ids, gallery.labels, gallery.space)
    expected, found = evaluate(query, whole), evaluate(query, lazy, block_bytes=block_bytes)
    np.testing.assert_array_equal(found.ranking.ranks, expected.ranking.ranks)
    np.testing.assert_array_equal(
        search(query, lazy, 5, block_bytes=block_bytes).rows, search(query, whole, 5).rows
    )


def test_equal_codes_tie_and_the_earlier_row_wins() -> None:
    gallery = embeddings(400, seed=1, first_id=1000)
    coarse = Embeddings(gallery.vectors[:, :8], gallery.ids, gallery.labels, Space("b" * 16, 8))
    compressed = compress(coarse, Binary(8))  # 256 codes for 400 vectors
    query = Embeddings(embeddings(30).vectors[:, :8], np.arange(30), np.zeros(30, np.int64), coarse.space)
    query = Embeddings(Int8(8).decode(Int8(8).encode(query.vectors)), query.ids, query.labels, query.space)
    rows = search(query, decoded(compressed), 400).rows
    codes = compressed.codes[rows, 0]
    for row, code in zip(rows, codes, strict=True):
        same = code[1:] == code[:-1]
        assert (row[1:][same] > row[:-1][same]).all()


def test_memory_stays_far_below_the_decoded_gallery() -> None:
    """200,000 x 128-d are 102 MB decoded; bits and scores need a fraction. Measured in a fresh process."""
    code = """
import resource, numpy as np
from hetero.retrieval import evaluate
from hetero.retrieval.codecs import decoded, Compressed
from hetero.retrieval.codecs.scalar import Binary
from hetero.retrieval import scoring
from hetero_devices.space import Embeddings, Space
scoring._DECODED_BYTES = 2**20
n, d, space = 200_000, 128, Space("a" * 16, 128)
rng = np.random.default_rng(0)
codes = rng.integers(0, 256, (n, d // 8), dtype=np.uint8)
gallery = decoded(Compressed(Binary(d), codes, np.arange(n), np.arange(n) % 50_000, space))
q = gallery.vectors[:16]
query = Embeddings(q, 10**9 + np.arange(16), np.arange(16), space)
small = decoded(Compressed(Binary(d), codes[:100], np.arange(100), np.arange(100), space))
evaluate(query, small)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(evaluate(query, gallery, block_bytes=2**21).means["recall@1"])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    recall, megabytes = done.stdout.split()
    assert float(recall) == 1.0
    assert int(megabytes) < 60


def test_finer_codes_find_more() -> None:
    query, gallery = embeddings(400), embeddings(1000, seed=1, first_id=1000)
    scores = {
        name: evaluate(query, decoded(compress(gallery, codec(name, DIM, never)))).means for name in PLAIN
    }
    plain = evaluate(query, gallery).means["map"]
    assert scores["float16"]["map"] == pytest.approx(plain, abs=1e-4)
    assert scores["int8"]["map"] == pytest.approx(plain, abs=2e-3)
    assert plain - 0.3 < scores["binary"]["map"] < plain - 0.01


def test_product_quantisation_learns_from_the_given_vectors_only() -> None:
    pytest.importorskip("faiss", reason="learning tables needs the extra codecs")
    gallery, training = embeddings(300, seed=1, first_id=1000), embeddings(600, seed=2)
    learnt, again = (codec("pq8", DIM, lambda: training.vectors) for _ in range(2))
    np.testing.assert_array_equal(learnt.tables()["codebooks"], again.tables()["codebooks"])
    query = embeddings(100)
    score = evaluate(query, decoded(compress(gallery, learnt))).means["map"]
    handmade = evaluate(query, decoded(compress(gallery, handmade_product()))).means["map"]
    assert score > handmade + 0.1
    with pytest.raises(DataError, match="was given 100 vectors"):
        codec("pq8", DIM, lambda: training.vectors[:100])


def test_the_rotation_that_is_learnt_is_one(monkeypatch: Any) -> None:
    pytest.importorskip("faiss", reason="learning tables needs the extra codecs")
    training = embeddings(300, seed=2).vectors[:, :8]
    learnt = codec("opq2", 8, lambda: training).tables()["rotation"]
    np.testing.assert_allclose(learnt @ learnt.T, np.eye(8), atol=1e-4)


def test_learning_without_faiss_names_the_extra(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"pip install 'hetero\[codecs\]'"):
        codec("pq8", DIM, lambda: embeddings(300).vectors)


@pytest.mark.parametrize(
    ("name", "message"),
    [("int4", "known are float16"), ("pq0", "known are"), ("pq5", "divides"), ("opq64", "divides")],
)
def test_codecs_that_do_not_exist(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        codec(name, DIM, never)


def stored(folder: Path, each: Any = None) -> Path:
    compress(embeddings(10), each or Int8(DIM)).save(folder)
    return folder


def _wrong_dtype(folder: Path) -> None:
    np.save(folder / "codes.npy", np.zeros((10, DIM), np.int16))


def _wrong_length(folder: Path) -> None:
    np.save(folder / "codes.npy", np.zeros((10, DIM + 1), np.int8))


def _nonsense(folder: Path) -> None:
    (folder / "codes.npy").write_bytes(b"\x93NUMPY nonsense")


def _unknown_codec(folder: Path) -> None:
    write_json(folder / "codec.json", {"schema": 1, "codec": "zip"})


def _newer(folder: Path) -> None:
    write_json(folder / "codec.json", {"schema": 2, "codec": "int8"})


def _no_json(folder: Path) -> None:
    (folder / "codec.json").write_text("{")


def _other_space(folder: Path) -> None:
    write_json(folder / "space.json", Space("a" * 16, DIM - 8).to_json())


@pytest.mark.parametrize(
    "damage", [_wrong_dtype, _wrong_length, _nonsense, _unknown_codec, _newer, _no_json, _other_space]
)
def test_damaged_folders_are_one_line(tmp_path: Path, damage: Any) -> None:
    folder = stored(tmp_path / "g")
    damage(folder)
    with pytest.raises(HeteroError) as raised:
        load_gallery(folder)
    assert "\n" not in str(raised.value)


def test_damaged_tables_are_one_line(tmp_path: Path) -> None:
    folder = stored(tmp_path / "g", handmade_product())
    np.save(folder / "codebooks.npy", np.full((4, 256, 8), np.nan, np.float32))
    with pytest.raises(DataError, match=r"codebooks\.npy"):
        load_gallery(folder)
    (folder / "codebooks.npy").unlink()
    with pytest.raises(HeteroError, match=r"codebooks\.npy"):
        load_gallery(folder)


def test_another_space_is_refused(tmp_path: Path) -> None:
    gallery = load_gallery(stored(tmp_path / "g"))
    query = replace(embeddings(5), space=Space("c" * 16, DIM))
    with pytest.raises(SpaceMismatch, match="c" * 16):
        evaluate(query, gallery)


def test_codes_that_decode_to_nothing_are_refused(tmp_path: Path) -> None:
    folder = stored(tmp_path / "g")
    np.save(folder / "codes.npy", np.zeros((10, DIM), np.int8))
    with pytest.raises(DataError, match="has length 0"):
        evaluate(embeddings(5), load_gallery(folder))


def test_what_else_reads_embeddings_reads_decoded_ones(tmp_path: Path) -> None:
    gallery = load_gallery(stored(tmp_path / "g"))
    whole = Embeddings(np.asarray(gallery.vectors), gallery.ids, gallery.labels, gallery.space)
    np.testing.assert_array_equal(prefix(gallery, 8).vectors, prefix(whole, 8).vectors)
    np.testing.assert_array_equal(gallery.select(np.array([3, 1])).vectors, whole.vectors[[3, 1]])
    np.testing.assert_array_equal(gallery.vectors[2], whole.vectors[2])
    with pytest.raises(DataError, match="compressed gallery"):
        Embeddings.load(tmp_path / "g")
    with pytest.raises(DataError, match="no compressed gallery"):
        Compressed.load(tmp_path / "none")


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "hetero", *map(str, arguments)]
    return subprocess.run(
        argv, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )


def test_compressed_galleries_stand_beside_the_float_one_in_a_matrix(tmp_path: Path) -> None:
    embeddings(60).save(tmp_path / "q")
    embeddings(300, seed=1, first_id=1000).save(tmp_path / "g")
    done = command("compress", tmp_path / "g", "--codec", "binary", "-o", tmp_path / "bits", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bytes_per_vector"] == 4
    sides = ["--gallery", f"cloud={tmp_path / 'g'}", "--gallery", f"bits={tmp_path / 'bits'}"]
    done = command("matrix", "--query", f"phone={tmp_path / 'q'}", *sides, "--metric", "map", "--json")
    assert done.returncode == 0, done.stderr
    matrix = json.loads(done.stdout)
    assert matrix["galleries"] == ["cloud", "bits"]
    plain, bits = (cell["estimate"]["value"] for cell in matrix["cells"][0])
    assert bits < plain


def test_the_command_refuses_what_the_library_refuses(tmp_path: Path) -> None:
    embeddings(60).save(tmp_path / "g")
    for arguments, message in (
        (("--codec", "zip"), "known are"),
        (("--codec", "pq7"), "divides"),
    ):
        done = command("compress", tmp_path / "g", *arguments, "-o", tmp_path / "out")
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "out").exists()
