"""A bundle opens only when it is exactly what its manifest says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetero_devices import strict
from hetero_devices.bundle import MANIFEST, PRECISIONS, Bundle, FileRecord, Manifest, model_name
from hetero_devices.errors import BundleError

Change = Callable[[dict[str, Any]], object]


def rewrite(bundle: Path, change: Change) -> None:
    """Edit the manifest's JSON in place."""
    path = bundle / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def refused(bundle: Path, match: str) -> None:
    with pytest.raises(BundleError, match=match) as raised:
        Bundle.open(bundle)
    assert "\n" not in str(raised.value)


def test_reads_what_was_written(tiny_bundle: Path, net: Any) -> None:
    bundle = Bundle.open(tiny_bundle)
    np.testing.assert_array_equal(bundle.golden_images(), net.images(6))
    np.testing.assert_array_equal(bundle.golden_vectors(), net.embed(net.images(6)))
    model = bundle.model("tflite", "int8")
    assert bundle.path(model) == tiny_bundle / model_name("tflite", "int8")
    with pytest.raises(
        BundleError, match="has no onnx int8 model; it has onnx fp32, tflite fp32, tflite int8"
    ):
        bundle.model("onnx", "int8")


def test_manifest_survives_json(tiny_bundle: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


def test_committed_schema_is_that_of_the_dataclasses() -> None:
    committed = resources.files("hetero_devices.bundle").joinpath("manifest.schema.json").read_text()
    assert json.loads(committed) == strict.schema(Manifest), "write json.dumps(strict.schema(Manifest)) there"


@pytest.mark.parametrize("name", ["model.fp32.onnx", "golden/vectors.npy", "README.md"])
def test_one_changed_byte(tiny_bundle: Path, name: str) -> None:
    path = tiny_bundle / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(tiny_bundle, f"{name} was changed")
    Bundle.open(tiny_bundle, verify_hashes=False)


def test_missing_truncated_and_extra_files(tiny_bundle: Path) -> None:
    model = tiny_bundle / "model.fp32.onnx"
    content = model.read_bytes()
    model.write_bytes(content[:-1])
    refused(tiny_bundle, "the manifest says")
    model.unlink()
    refused(tiny_bundle, r"lacks model\.fp32\.onnx")
    model.write_bytes(content)
    (tiny_bundle / "golden" / "notes.txt").write_text("hello")
    refused(tiny_bundle, r"holds golden/notes\.txt, which its manifest does not name")


@pytest.mark.parametrize("name", ["README.md", "golden"])
def test_links_are_refused_even_to_the_same_content(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    shutil.move(tiny_bundle / name, outside)
    (tiny_bundle / name).symlink_to(outside)
    refused(tiny_bundle, f"holds the link {name}")


@pytest.mark.parametrize(
    "name",
    ["../card.md", "/etc/hostname", "a/../../b", "golden//x", "a\\b", "./a", ".hidden", "", "a\n", MANIFEST],
)
def test_names_that_leave_the_bundle(tiny_bundle: Path, name: str) -> None:
    rewrite(tiny_bundle, lambda manifest: manifest["card"].update(file=name))
    refused(tiny_bundle, "not a plain path inside the bundle")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m.update(schema_version=2), "schema version 2, this library reads 1"),
        (lambda m: m.update(schema_version=True), "schema version True"),
        (lambda m: m.pop("schema_version"), "schema version None"),
        (lambda m: m.update(colour="red"), "manifest has the unknown key 'colour'"),
        (lambda m: m.pop("macs"), "manifest lacks the key 'macs'"),
        (lambda m: m["models"][1].pop("details"), r"manifest\.models\[1\] lacks the key 'details'"),
        (lambda m: m.update(parameters="many"), r"manifest\.parameters is 'many', expected integer"),
        (lambda m: m.update(macs=True), r"manifest\.macs is True, expected integer"),
        (lambda m: m["space"].update(dim=1.5), r"manifest\.space\.dim is 1\.5, expected integer"),
        (lambda m: m["models"][0].update(format="pt"), r"format is 'pt', expected 'onnx' or 'tflite'"),
        (lambda m: m["models"][0].update(tolerance=float("nan")), "tolerance is nan, expected number"),
        (lambda m: m["models"][0].update(tolerance=-1), "tolerance -1"),
        (lambda m: m["models"][0].update(sha256="beef"), "no valid sha256"),
        (lambda m: m["models"][0].update(format="tflite"), r"must end in \.tflite"),
        (lambda m: m.update(models=[]), "lists no model"),
        (lambda m: m["models"].append(m["models"][0]), r"lists the file model\.fp32\.onnx twice"),
        (lambda m: m["golden"].update(count=0), "expected at least 1"),
        (lambda m: m.update(tools={"onnx": 1}), r"manifest\.tools\.onnx is 1, expected string"),
    ],
)
def test_manifests_not_understood(tiny_bundle: Path, change: Change, match: str) -> None:
    rewrite(tiny_bundle, change)
    refused(tiny_bundle, match)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_manifest_that_is_no_manifest(tiny_bundle: Path, content: bytes) -> None:
    (tiny_bundle / MANIFEST).write_bytes(content)
    refused(tiny_bundle, "manifest")


def test_no_bundle_at_all(tmp_path: Path) -> None:
    refused(tmp_path / "absent", "no bundle at")
    refused(tmp_path, f"has no file {MANIFEST}")


@pytest.mark.parametrize(
    ("array", "match"),
    [(np.zeros((5, 16), np.float32), r"\[5, 16\]"), (np.zeros((6, 16)), "float64"), (None, "cannot read")],
)
def test_golden_vectors_that_do_not_fit(tiny_bundle: Path, array: Any, match: str) -> None:
    path = tiny_bundle / "golden/vectors.npy"
    if array is None:
        path.write_bytes(b"not numpy")
    else:
        np.save(path, array)
    record = FileRecord.of(tiny_bundle, "golden/vectors.npy").__dict__
    rewrite(tiny_bundle, lambda manifest: manifest["golden"].update(vectors=record))
    with pytest.raises(BundleError, match=match):
        Bundle.open(tiny_bundle).golden_vectors()


def test_what_can_be_recorded_is_what_can_be_written() -> None:
    from hetero_export.formats import EXPORTERS

    assert {format: tuple(exporter.variants) for format, exporter in EXPORTERS.items()} == PRECISIONS
