"""A link that goes along with a student's bundle: the exported file embeds into the link's target space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hetero.models.encoder import embed
from hetero.recipes.recipe import ExportConfig
from hetero.recipes.resolve import changed, resolve
from hetero.runs import Run
from hetero.runs.sides import all_sides
from hetero.upgrades.links import Link, fit_link, method_named
from hetero.upgrades.links.attach import attached
from hetero_devices import runtimes
from hetero_devices.bundle import Bundle
from hetero_devices.devices import HostDevice
from hetero_devices.errors import ModelError, RecipeError, SpaceMismatch
from hetero_devices.space import Embeddings, Space
from hetero_devices.verify import cosine_distance, verify
from hetero_export.loop import export_run
from tests.small import small

SMALL = (
    *small("residual-s", steps=30, batch=16, views=1),
    "student.alone=false",
    "gates.criterion=false",
    "export.golden=4",
    "export.calibration=16",
)
OTHER = Space("f" * 16, 12)


@pytest.fixture(scope="module")
def run(arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run.open(tmp_path_factory.mktemp("run"), resolve("demo", [*SMALL, f"data.source={arrays}"]))
    _ = run.student
    return run


def link_of(run: Run, kind: str, *changes: str, side: str = "query") -> Link:
    """From the student's space into one of 12 dimensions, a noisy quadratic image of it."""
    source = embed(run.student.encoder, run.splits.train)
    mix = np.random.default_rng(0).normal(size=(16, 12))
    bent = source.vectors @ mix + (source.vectors @ mix[::-1]) ** 2 + 0.5
    unit = (bent / np.linalg.norm(bent, axis=1, keepdims=True)).astype(np.float32)
    target = Embeddings(unit, source.ids, source.labels, OTHER)
    return fit_link(changed(method_named(kind), changes), source, target, side=side)  # type: ignore[arg-type]


def exported(run: Run, link: Link | None, folder: Path, formats: str, precisions: str) -> Bundle:
    config = run.recipe.export
    changes = [f"formats={formats}", f"precisions={precisions}"]
    if link is not None:
        link.save(folder / "a.link")
        changes.append(f"link={folder / 'a.link'}")
    return export_run(run, folder / "bundle", changed(config, changes))


@pytest.mark.parametrize(("kind", "changes"), [("affine", ()), ("mlp", ("descent.steps=20", "hidden=8"))])
def test_an_exported_link_is_the_student_then_the_link(
    run: Run, tmp_path: Path, kind: str, changes: tuple[str, ...]
) -> None:
    """A real ONNX Runtime session against the torch student followed by the link, on test images."""
    link = link_of(run, kind, *changes)
    bundle = exported(run, link, tmp_path, "[onnx]", "[fp32,int8]")
    assert bundle.manifest.space == OTHER
    assert bundle.manifest.source["link"] == link.digest
    expected = link(embed(run.student.encoder, run.test.query)).vectors
    found = {
        model.precision: runtimes.load(bundle.path(model)).run(run.test.query.images)
        for model in bundle.manifest.models
    }
    assert found["fp32"].shape == (len(run.test.query), 12)
    np.testing.assert_allclose(found["fp32"], expected, atol=2e-6)
    assert float(cosine_distance(found["int8"], expected).mean()) < 0.02
    assert all(check.passed for check in verify(bundle.root, HostDevice()))
    with pytest.raises(ModelError, match="carries a link into space"):
        all_sides(run, bundle, HostDevice())


def test_a_bundle_without_the_link_is_another(run: Run, tmp_path: Path) -> None:
    first = exported(run, link_of(run, "procrustes"), tmp_path, "[onnx]", "[fp32]")
    assert first.manifest.space == OTHER
    plain = exported(run, None, tmp_path, "[onnx]", "[fp32]")
    assert plain.manifest.space == run.student.space
    assert plain.manifest.source["link"] is None


def test_int8_keeps_the_link_in_float(run: Run, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    bundle = exported(run, link_of(run, "affine"), tmp_path, "[onnx]", "[int8]")
    graph = onnx.load(bundle.path(bundle.model("onnx", "int8"))).graph
    floats = {t.name for t in graph.initializer if t.data_type == 1 and len(t.dims) == 2}
    assert {name for name in floats if "unit_norm.link" in name}, floats


@pytest.mark.slow
def test_litert_carries_a_link_too(run: Run, tmp_path: Path) -> None:
    link = link_of(run, "mlp", "descent.steps=20", "hidden=8")
    bundle = exported(run, link, tmp_path, "[tflite]", "[fp32,int8]")
    expected = link(embed(run.student.encoder, run.test.query)).vectors
    fp32, int8 = (
        runtimes.load(bundle.path(model)).run(run.test.query.images) for model in bundle.manifest.models
    )
    np.testing.assert_allclose(fp32, expected, atol=2e-6)
    assert float(cosine_distance(int8, expected).mean()) < 0.02
    assert all(check.passed for check in verify(bundle.root, HostDevice()))


def test_links_that_cannot_go_along_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(SpaceMismatch, match="converts the gallery side"):
        attached(run.student, link_of(run, "affine", side="gallery"))
    with pytest.raises(SpaceMismatch, match="needs the target model's own embeddings"):
        attached(run.student, link_of(run, "slerp", "share=0.5"))
    elsewhere = Link(**{**vars(link_of(run, "affine")), "source": Space("e" * 16, 16)})
    with pytest.raises(SpaceMismatch, match="starts elsewhere"):
        attached(run.student, elsewhere)
    with pytest.raises(RecipeError, match="ends before its unit norm"):
        exported(run, link_of(run, "affine"), tmp_path, "[tflite]", "[uint8_io]")
    with pytest.raises(ModelError, match="no link at"):
        export_run(run, tmp_path / "b", ExportConfig(link=str(tmp_path / "none.link")))
    assert not (tmp_path / "b").exists()
