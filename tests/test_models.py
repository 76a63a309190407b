"""Networks, their cost, the deployed form, storage, and the kinds of anchors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hetero.data.imageset import ImageSet
from hetero.models import anchor as anchors
from hetero.models import store
from hetero.models.build import PRESETS, build, preset
from hetero.models.cost import cost
from hetero.models.deploy import Deploy
from hetero.models.elastic import ElasticConfig, Stage
from hetero.models.encoder import TorchEncoder, embed
from hetero.models.opening import open_encoder
from hetero.models.store import Model, define_space
from hetero_devices.errors import DataError, HeteroError, ModelError
from hetero_devices.space import Embeddings, Preprocessing, Space

PREPROCESSING = Preprocessing(size=16)


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    config = preset("elastic-xs")
    network = build(config).eval()
    return Model(Deploy(network, PREPROCESSING), config, define_space(network, PREPROCESSING, config.dim))


def pixels(count: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def image_set(count: int) -> ImageSet:
    column = np.arange(count, dtype=np.int64)
    return ImageSet(pixels(count), column % 2, column, np.zeros(count, np.int64), ("a", "b"))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_embeds_to_unit_length(name: str) -> None:
    deploy = Deploy(build(preset(name)), PREPROCESSING).eval()
    with torch.no_grad():
        z = deploy(torch.from_numpy(pixels(3)))
    assert z.shape == (3, preset(name).dim)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(3))


def test_bytes_and_floats_of_bytes_are_the_same_input(model: Model) -> None:
    x = torch.from_numpy(pixels(2))
    with torch.no_grad():
        torch.testing.assert_close(model.deploy(x), model.deploy(x.float()), rtol=0, atol=0)


def test_cost_of_a_network_counted_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 4 * 4, 5))
    counted = cost(network, 4)
    assert counted.macs == 4 * 4 * 9 * 3 * 8 + 8 * 4 * 4 * 5
    assert counted.parameters == 9 * 3 * 8 + 8 * 4 * 4 * 5 + 5
    assert network.training  # left as it was


def test_the_width_multiplier_narrows() -> None:
    wide, narrow = (cost(build(ElasticConfig(width=w)), 32) for w in (1.0, 0.5))
    assert narrow.macs < wide.macs / 2


@pytest.mark.parametrize("name", ["elastic-xs", "shuffle-s", "residual-s"])
def test_a_network_of_a_resolution_sees_the_resized_image(name: str) -> None:
    plain = build(preset(name)).eval()
    resizing = build(preset(name).model_copy(update={"resolution": 24})).eval()
    resizing.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    resized = F.interpolate(images, (24, 24), mode="bilinear")
    torch.testing.assert_close(resizing(images), plain(resized), rtol=0, atol=0)
    assert cost(resizing, 32) == cost(plain, 24)


def test_a_block_keeps_its_input_only_where_shapes_allow() -> None:
    network = build(ElasticConfig(stages=(Stage(width=16, depth=2, stride=2),)))
    identities = [m.identity for m in network.modules() if hasattr(m, "identity")]
    assert identities == [False, True]


def test_a_stored_model_embeds_the_same(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path, {})
    loaded = store.load(tmp_path)
    assert loaded.space == model.space
    np.testing.assert_array_equal(loaded.encoder.encode(pixels(4)), model.encoder.encode(pixels(4)))


def test_changed_weights_are_noticed(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path, {})
    path = tmp_path / "network.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not those its description names"):
        store.load(tmp_path)


def test_truncated_weights_are_one_line(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path, {})
    path = tmp_path / "network.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot read weights"):
        store.load(tmp_path)


def test_a_description_of_another_version_is_one_line(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path, {})
    description = json.loads((tmp_path / "model.json").read_text())
    description["network"]["kind"] = "perceptron"
    (tmp_path / "model.json").write_text(json.dumps(description))
    with pytest.raises(ModelError, match="not a model of this version"):
        store.load(tmp_path)


def test_no_model_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="hetero train"):
        store.load(tmp_path)
    with pytest.raises(ModelError, match="neither a trained model's folder"):
        open_encoder(tmp_path)


def test_the_space_changes_with_weights_and_preprocessing(model: Model) -> None:
    other = build(preset("elastic-xs"))
    ids = {
        define_space(model.deploy.network, PREPROCESSING, 128).id,
        define_space(other, PREPROCESSING, 128).id,
        define_space(model.deploy.network, Preprocessing(size=32), 128).id,
    }
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((2, 16, 16, 3), np.nan, np.float32), "float32 with NaN"),
        (pixels(2)[:, :8], "expected uint8"),
        (pixels(2)[:0], "expected uint8"),
    ],
)
def test_wrong_images_are_refused(model: Model, images: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        model.encoder.encode(images)


def test_a_broken_network_does_not_give_embeddings(model: Model) -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) * float("nan") * self.weight

    encoder = TorchEncoder(Deploy(Broken(), PREPROCESSING), Space("0" * 16, 3))
    with pytest.raises(ModelError, match="NaN"):
        embed(encoder, image_set(2))


def test_any_torch_module_is_an_anchor() -> None:
    module = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 6))
    anchor = anchors.from_module(module, PREPROCESSING)
    assert anchor.space.dim == 6
    assert np.allclose(np.linalg.norm(anchor.embed("test", image_set(3)).vectors, axis=1), 1, atol=1e-5)


def test_a_module_that_returns_maps_is_an_anchor_of_their_mean() -> None:
    module = nn.Conv2d(3, 4, 3)
    pooled = nn.Sequential(module, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found, expected = (
        anchors.from_module(m, PREPROCESSING).embed("test", image_set(2)) for m in (module, pooled)
    )
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-6)


def test_a_module_that_returns_something_else_is_refused() -> None:
    with pytest.raises(ModelError, match=r"returns \[2, 3, 16, 16, 1\], expected \[N, D\]"):
        anchors.from_module(nn.Unflatten(3, (16, 1)), PREPROCESSING)


def test_an_onnx_file_is_an_anchor(tiny_onnx: object, tmp_path: Path) -> None:
    assert callable(tiny_onnx)
    path = tiny_onnx()
    anchor = anchors.bring(str(path), Preprocessing(size=8))
    assert anchor.encoder is not None
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    assert anchor.encoder.encode(images).shape == (2, anchor.space.dim)


def test_stored_vectors_are_an_anchor_whatever_their_order(tmp_path: Path, model: Model) -> None:
    images = image_set(6)
    whole = embed(model.encoder, images)
    for split in ("train", "test"):
        whole.select(np.array([3, 5, 0, 1, 4, 2])).save(tmp_path / split)
    anchor = anchors.bring(str(tmp_path), PREPROCESSING)
    np.testing.assert_array_equal(anchor.embed("test", images).vectors, whole.vectors)


def test_missing_stored_vectors_are_counted(tmp_path: Path, model: Model) -> None:
    images = image_set(6)
    part = embed(model.encoder, images).select(np.arange(4))
    for split in ("train", "test"):
        part.save(tmp_path / split)
    with pytest.raises(DataError, match=r"2 images have no stored embedding \(first id 4\)"):
        anchors.from_embeddings(tmp_path).embed("test", images)


def test_stored_vectors_of_two_spaces_are_refused(tmp_path: Path, model: Model) -> None:
    whole = embed(model.encoder, image_set(4))
    whole.save(tmp_path / "train")
    Embeddings(whole.vectors, whole.ids, whole.labels, Space("f" * 16, 128)).save(tmp_path / "test")
    with pytest.raises(HeteroError, match="ffffffffffffffff"):
        anchors.from_embeddings(tmp_path)


@pytest.mark.parametrize("source", ["nowhere", "no.such.module:f", "json:dumps", "collections:OrderedDict"])
def test_what_is_no_anchor_is_one_line(source: str) -> None:
    with pytest.raises(ModelError, match=source.split(":")[0]):
        anchors.bring(source, PREPROCESSING)
