"""The generated data set: deterministic, made of real style variation, too hard for raw pixels, learnable."""

from __future__ import annotations

import time
import unicodedata
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from hetero.data import ImageSet, Splits, load, protocol
from hetero.data.glyph_shapes import DEJAVU, STIX, distinct_code_points, glyph, styles_of
from hetero.data.glyphs import GlyphRecipe, load_glyphs
from hetero_devices.errors import DataError

SMALL = GlyphRecipe(training=8, test=6)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETERO_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETERO_CACHE", str(tmp_path_factory.mktemp("cache")))
        start = time.process_time()
        splits = load("glyphs", size=32)
        assert time.process_time() - start < 30, "meant to take about 7 s on one core"
        return splits


def centred(images: ImageSet) -> npt.NDArray[np.float32]:
    """Unit-norm pixels without their mean: float32 [N, S * S * 3]."""
    flat = images.images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    normalised: npt.NDArray[np.float32] = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    return normalised


@pytest.mark.parametrize("name", ["group=0", "one-per-class"])
def test_nearest_neighbour_on_raw_pixels_fails(full: Splits, name: str) -> None:
    sides = protocol(name, full.test)
    scores = centred(sides.query) @ centred(sides.gallery).T
    for similarity in (scores, np.abs(scores)):  # light on dark is the same glyph
        found = sides.gallery.labels[similarity.argmax(axis=1)]
        assert (found == sides.query.labels).mean() < 0.35


def test_sizes_groups_and_default_protocol(full: Splits) -> None:
    assert [len(part.class_names) for part in (full.train, full.validation, full.test)] == [540, 60, 200]
    for part in (full.train, full.validation, full.test):
        assert (part.counts() == 20).all()
        sides = protocol(full.protocol, part)
        assert len(sides.gallery) == len(part.class_names)
    assert set(full.train.groups.tolist()) == set(range(len(DEJAVU + STIX) + 1))
    names = [set(part.class_names) for part in (full.train, full.validation, full.test)]
    assert names[0].isdisjoint(names[1] | names[2])
    assert names[1].isdisjoint(names[2])


def test_the_plain_picture_is_black_on_white(full: Splits) -> None:
    plain = protocol("group=0", full.test).gallery.images
    assert (plain[:, 0, 0] == 255).all()
    assert (plain.min(axis=(1, 2, 3)) < 128).all()


def test_same_seed_same_pictures_other_seed_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_glyphs(SMALL)
    monkeypatch.setenv("HETERO_CACHE", str(tmp_path / "elsewhere"))
    again, other = load_glyphs(SMALL), load_glyphs(GlyphRecipe(training=8, test=6, seed=1))
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(first, part).images, getattr(again, part).images)
        assert getattr(first, part).class_names == getattr(again, part).class_names
    assert first.test.class_names != other.test.class_names


@pytest.mark.parametrize("size", [16, 33])
def test_any_size(size: int) -> None:
    assert load_glyphs(GlyphRecipe(size=size, training=3, test=1)).train.images.shape[1:] == (size, size, 3)


def test_classes_look_different_and_styles_look_alike() -> None:
    """Among clean renderings, the nearest to a serif glyph is mostly the same glyph without serifs."""
    points = distinct_code_points()[::7]
    plain, serif = (
        np.stack([np.asarray(glyph(style, point, 24, 0.85), np.float32).ravel() for point in points])
        for style in ("DejaVuSans", "DejaVuSerif")
    )
    for ink in (plain, serif):
        ink -= ink.mean(axis=1, keepdims=True)
        ink /= np.linalg.norm(ink, axis=1, keepdims=True)
    found = (serif @ plain.T).argmax(axis=1)
    assert (found == np.arange(len(points))).mean() > 0.6
    same = plain @ plain.T - np.eye(len(points))
    assert same.max() < 0.95


def test_look_alikes_are_one_class() -> None:
    chosen = set(distinct_code_points())
    assert ord("A") in chosen
    assert not chosen.intersection(map(ord, "ΑА"))  # Greek and Cyrillic
    assert len(chosen) >= 800
    assert all(unicodedata.category(chr(point))[0] in "LNSP" for point in chosen)
    assert all(set(DEJAVU) <= set(styles_of(point)) for point in chosen)


def test_blank_and_missing_glyphs_are_none() -> None:
    assert glyph("DejaVuSans", 0x20, 24, 0.8) is None
    lost = next(point for point in distinct_code_points() if "STIXGeneral" not in styles_of(point))
    assert glyph("STIXGeneral", lost, 24, 0.8) is None
    assert glyph("DejaVuSans", lost, 24, 0.8) is not None


def test_more_classes_than_there_are_shapes() -> None:
    with pytest.raises(DataError, match=r"5100 glyph classes were asked for, the fonts have [0-9]+ distinct"):
        load_glyphs(GlyphRecipe(training=5000, test=100))


@pytest.mark.parametrize("change", [{"per_class": 1}, {"training": 0}, {"test": 0}, {"size": 4}])
def test_a_set_without_queries_or_classes_is_refused(change: dict[str, int]) -> None:
    ((name, value),) = change.items()
    with pytest.raises(DataError, match=f"{name} of at least .*, not {value}"):
        GlyphRecipe(**change)
