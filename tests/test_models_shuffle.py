"""The shuffle family: its blocks, its cost, and its export to both runtimes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hetero.models import store
from hetero.models.build import build, preset
from hetero.models.cost import cost
from hetero.models.deploy import Deploy
from hetero.models.shuffle import Operator, ShuffleBlock, ShuffleConfig, ShuffleStage, interleave
from hetero.models.store import Model, define_space
from hetero_devices import runtimes
from hetero_devices.bundle import Bundle
from hetero_devices.space import Preprocessing
from hetero_export.bundle import write_bundle
from hetero_export.calibration import Calibration

SIZE = 16
OPERATORS: tuple[Operator, ...] = ("shuffle3", "shuffle5", "shuffle7", "xception")


def test_the_halves_are_interleaved() -> None:
    a, b = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    together = interleave(a, b)
    assert together.shape == (2, 6, 4, 4)
    assert together[0, :, 0, 0].tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("operator", OPERATORS)
def test_half_of_the_channels_passes_by_a_block(operator: Operator) -> None:
    block, x = ShuffleBlock(16, 16, operator, 1.0, 1, "relu", opens=False), torch.randn(2, 16, 8, 8)
    y = block(x)
    assert y.shape == x.shape
    torch.testing.assert_close(y[:, ::2], x[:, :8], rtol=0, atol=0)
    assert (y[:, 1::2] >= 0).all()
    assert not torch.equal(y[:, 1::2], x[:, 8:])


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_first_block_of_a_stage_strides_and_widens(operator: Operator) -> None:
    block = ShuffleBlock(8, 32, operator, 1.0, 2, "relu", opens=True)
    assert block(torch.randn(2, 8, 8, 8)).shape == (2, 32, 4, 4)


def test_cost_of_a_block_counted_by_hand() -> None:
    """Half of 32 channels, 1.5 times as many inside, 8 x 8 pixels."""
    costs = {
        operator: cost(ShuffleBlock(3, 32, operator, 1.5, 1, "relu", opens=True), 8).macs / 64
        for operator in OPERATORS
    }
    shortcut = 3 * 9 + 3 * 16
    assert costs == {
        "shuffle3": shortcut + 3 * 24 + 24 * 9 + 24 * 16,
        "shuffle5": shortcut + 3 * 24 + 24 * 25 + 24 * 16,
        "shuffle7": shortcut + 3 * 24 + 24 * 49 + 24 * 16,
        "xception": shortcut + 3 * 9 + 3 * 24 + 24 * 9 + 24 * 24 + 24 * 9 + 24 * 16,
    }


@pytest.mark.parametrize("size", ["s", "m"])
def test_presets_cost_about_as_much_as_the_elastic_ones(size: str) -> None:
    ours, theirs = (cost(build(preset(f"{family}-{size}")), 32) for family in ("shuffle", "elastic"))
    assert 0.9 < ours.macs / theirs.macs < 1.1
    assert 0.8 < ours.parameters / theirs.parameters < 1.1


def test_the_width_multiplier_narrows_to_multiples_of_eight() -> None:
    wide, narrow = (cost(build(ShuffleConfig(width=w)), 32) for w in (1.0, 0.5))
    assert narrow.macs < wide.macs / 2
    assert [ShuffleConfig(width=0.3).scaled(w) for w in (16, 32, 128)] == [8, 8, 40]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Bundle]:
    """A network with depthwise kernels of 3, 5 and 7, its batch statistics settled, in both formats."""
    config = ShuffleConfig(
        stem=8,
        stages=(ShuffleStage(width=32, operators=("shuffle7", "xception", "shuffle5"), hidden=1.5),),
        head=64,
        dim=32,
    )
    torch.manual_seed(0)
    network = build(config).train()
    with torch.no_grad():
        for seed in range(30):
            network((torch.from_numpy(images(32, seed)).permute(0, 3, 1, 2) - 127.5) / 127.5)
    scale = Preprocessing(size=SIZE)
    model = Model(Deploy(network.eval(), scale), config, define_space(network, scale, config.dim))
    bundle = write_bundle(
        model,
        tmp_path_factory.mktemp("shuffle") / "bundle",
        name="shuffle",
        calibration=Calibration(images(64, 100)),
        golden=images(4, 200),
        source={},
        precisions=("fp32", "int8"),
    )
    return model, bundle


def images(count: int, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Flat patches of colour, so that embeddings spread."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(SIZE // 4, axis=1).repeat(SIZE // 4, axis=2)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.999999), ("int8", 0.97)])
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_exports_keep_the_embeddings(
    exported: tuple[Model, Bundle], format: str, precision: str, least: float
) -> None:
    model, bundle = exported
    batch = images(24, 300)
    found = runtimes.load(bundle.path(bundle.model(format, precision))).run(batch)
    assert (found * model.encoder.encode(batch)).sum(1).min() > least


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_litert_runs_it_wholly_in_xnnpack(exported: tuple[Model, Bundle], precision: str) -> None:
    _, bundle = exported
    where = runtimes.placement(bundle.path(bundle.model("tflite", precision)))
    assert where is not None
    assert (where.partitions, where.fallback) == (1, {})
    assert precision == "fp32" or where.float_layers == {}


@pytest.mark.slow
def test_a_stored_network_is_found_again(exported: tuple[Model, Bundle], tmp_path: Path) -> None:
    model, _ = exported
    model.save(tmp_path, {})
    loaded = store.load(tmp_path)
    assert loaded.config == model.config
    batch = images(4, 1)
    np.testing.assert_array_equal(loaded.encoder.encode(batch), model.encoder.encode(batch))
