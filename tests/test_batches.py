"""Batches are a function of the step; items, turns, views and cached targets agree with each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hetero.data.augment import AugmentConfig
from hetero.data.imageset import ImageSet
from hetero.models.build import build, preset
from hetero.models.deploy import Deploy
from hetero.models.encoder import TorchEncoder
from hetero.models.store import define_space
from hetero.training.batches import Batches
from hetero.training.items import TrainingItems
from hetero.training.views import CachedTargets, StoredTargets, Views
from hetero_devices.errors import SpaceMismatch
from hetero_devices.space import Preprocessing

SIZE = 16


@pytest.fixture(scope="module")
def images() -> ImageSet:
    generator = np.random.default_rng(0)
    column = np.arange(20, dtype=np.int64)
    pixels = generator.integers(0, 256, (20, SIZE, SIZE, 3), dtype=np.uint8)
    return ImageSet(pixels, column % 5, column, np.zeros(20, np.int64), tuple("abcde"))


@pytest.fixture(scope="module")
def encoder() -> TorchEncoder:
    torch.manual_seed(0)
    config, preprocessing = preset("elastic-xs"), Preprocessing(size=SIZE)
    network = build(config).eval()
    return TorchEncoder(Deploy(network, preprocessing), define_space(network, preprocessing, config.dim))


def test_every_item_comes_once_an_epoch(images: ImageSet) -> None:
    batches = Batches(TrainingItems(images), AugmentConfig(), 5, seed=3)
    for epoch in (0, 1):
        rows = np.concatenate([batches._rows(4 * epoch + i)[1] for i in range(4)])
        assert sorted(rows) == list(range(20))
    assert not np.array_equal(batches._rows(0)[1], batches._rows(4)[1])


def test_a_step_gives_the_same_batch_in_any_process(images: ImageSet) -> None:
    first, other = (Batches(TrainingItems(images), AugmentConfig(), 6, seed=3) for _ in range(2))
    first(0)  # having been asked for other steps must not matter
    a, b = first(7), other(7)
    assert torch.equal(a.pixels, b.pixels)
    assert torch.equal(a.supervision.labels, b.supervision.labels)


def test_turned_images_are_classes_of_their_own(images: ImageSet) -> None:
    items = TrainingItems(images, rotations=True)
    assert (len(items), items.classes) == (80, 20)
    rows = np.array([3, 23, 43, 63])
    pixels = items.pixels(rows)
    for k in range(4):
        assert torch.equal(pixels[k], pixels[0].rot90(k, (1, 2)))
    assert items.labels(rows).tolist() == [3, 8, 13, 18]


def test_labels_need_not_be_contiguous(images: ImageSet) -> None:
    some = images.select(np.flatnonzero(np.isin(images.labels, (1, 4))))
    items = TrainingItems(some)
    assert items.classes == 2
    assert set(items.labels(np.arange(len(some))).tolist()) == {0, 1}


def test_cached_targets_are_the_anchors_embeddings_of_the_very_views(
    images: ImageSet, encoder: TorchEncoder, tmp_path: Path
) -> None:
    views = Views(TrainingItems(images), AugmentConfig(), count=3, seed=1)
    batches = Batches(
        views.items, AugmentConfig(), 5, seed=1, targets=CachedTargets(tmp_path, views, encoder)
    )
    for step in range(12):  # three epochs: each view once
        batch = batches(step)
        assert batch.supervision.targets is not None
        pixels = batch.pixels.permute(0, 2, 3, 1).to(torch.uint8).numpy()
        np.testing.assert_allclose(encoder.encode(pixels), batch.supervision.targets.numpy(), atol=1e-5)


def test_the_first_view_is_the_image_itself(images: ImageSet) -> None:
    views = Views(TrainingItems(images), AugmentConfig(), count=2, seed=1)
    rows = np.arange(20)
    first, second = views.pixels(rows, np.zeros_like(rows)), views.pixels(rows, np.ones_like(rows))
    assert torch.equal(first, views.items.pixels(rows))
    assert not torch.equal(second, first)
    mixed = views.pixels(rows, rows % 2)
    assert torch.equal(mixed[::2], first[::2])
    assert torch.equal(mixed[1::2], second[1::2])


def test_every_epoch_mixes_the_views_and_an_item_is_shown_in_each_once(images: ImageSet) -> None:
    views = Views(TrainingItems(images), AugmentConfig(), count=3, seed=1)
    rows = np.random.default_rng(0).permutation(20)
    shown = np.stack([views.shown(rows, epoch) for epoch in range(5, 8)])
    assert (np.sort(shown, axis=0) == np.arange(3)[:, None]).all()
    assert all(len(np.unique(shown[:, image])) == 3 for image in range(len(rows)))
    assert np.bincount(shown[0], minlength=3).min() >= 6  # of 20 images each view shows a third


def test_an_interrupted_cache_is_completed(images: ImageSet, encoder: TorchEncoder, tmp_path: Path) -> None:
    views = Views(TrainingItems(images), AugmentConfig(), count=2, seed=1)
    CachedTargets(tmp_path, views, encoder)
    whole = (tmp_path / "view1.npy").read_bytes()
    (tmp_path / "view1.npy").unlink()
    CachedTargets(tmp_path, views, encoder)
    assert (tmp_path / "view1.npy").read_bytes() == whole


def test_a_cache_of_another_augmentation_is_refused(
    images: ImageSet, encoder: TorchEncoder, tmp_path: Path
) -> None:
    items = TrainingItems(images)
    CachedTargets(tmp_path, Views(items, AugmentConfig(), 1, seed=1), encoder)
    with pytest.raises(SpaceMismatch, match="another anchor, data set or augmentation"):
        CachedTargets(tmp_path, Views(items, AugmentConfig(rotation=45), 1, seed=1), encoder)


def test_a_stored_vector_is_the_target_of_every_augmentation(images: ImageSet) -> None:
    vectors = np.eye(20, dtype=np.float32)
    batches = Batches(TrainingItems(images), AugmentConfig(), 5, seed=1, targets=StoredTargets(vectors))
    batch = batches(9)
    assert batch.supervision.targets is not None
    rows = batch.supervision.targets.argmax(1).numpy()
    np.testing.assert_array_equal(images.labels[rows], batch.supervision.labels.numpy())
