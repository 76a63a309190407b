"""Latency tables: arithmetic of predictions, strict reading, cost model, decomposition of real networks."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from hetero.models.build import build
from hetero.models.cost import cost
from hetero.models.elastic import PRESETS, ElasticConfig, ElasticNet, InvertedResidual, Stage
from hetero.models.layers import SqueezeExcite
from hetero.models.shuffle import ShuffleConfig, ShuffleStage
from hetero.search.blocks import Head, Part, Residual, Stem, distinct, macs, parts
from hetero.search.candidates import Choices, sample_distinct
from hetero_devices.cpu import describe
from hetero_devices.devices import HostDevice, Stopping
from hetero_devices.errors import DeviceError, HeteroError, UnknownBlock
from hetero_devices.latency_model import CostModel, Errors, Row, cross_validated
from hetero_devices.latency_table import LatencyTable, rows

CONFIGS = [
    *PRESETS.values(),
    ElasticConfig(stem_stride=1, dim=64, project=256, width=0.5, activation="leaky_relu"),
    ElasticConfig(stages=(Stage(width=24, kernel=7, expansion=2.5, stride=2, squeeze_excite=True),)),
    ElasticConfig(resolution=24),
    *sample_distinct(8, seed=3),
]

STEM = Stem(32, 16, 2, "relu6")
BLOCK = Residual(16, 48, 32, 3, 2, "relu6", False, 16)
HEAD = Head(32, 192, 128, None, "relu6", 8)
NETWORK: tuple[Part, ...] = (STEM, BLOCK, HEAD)


def made(ms: tuple[float, float, float] = (0.1, 0.02, 0.03), **changes: Any) -> LatencyTable:
    fields: dict[str, Any] = {
        "device": "host",
        "format": "onnx",
        "precision": "fp32",
        "threads": 1,
        "cpu": describe(),
        "runtime": {"runtime": "onnxruntime", "version": "1"},
        "rows": rows(NETWORK, {part.key: time for part, time in zip(NETWORK, ms, strict=True)}),
    }
    return LatencyTable(**{**fields, **changes})


def test_prediction_is_the_calibrated_sum() -> None:
    assert made().predict(NETWORK) == pytest.approx(0.15)
    assert made(overhead_ms=0.5, scale=2.0).predict((STEM, BLOCK, BLOCK, HEAD)) == pytest.approx(0.84)


def test_calibration_recovers_overhead_and_scale() -> None:
    networks: list[tuple[Part, ...]] = [(STEM, *(BLOCK,) * depth, HEAD) for depth in range(1, 6)]
    measured = [0.04 + 1.1 * made().predict(network) for network in networks]
    table = made().calibrated(list(zip(networks, measured, strict=True)))
    assert table.overhead_ms == pytest.approx(0.04)
    assert table.scale == pytest.approx(1.1)
    assert table.calibrated_on == 5
    with pytest.raises(DeviceError, match="at least three"):
        made().calibrated([(NETWORK, 1.0)])
    falling = [(network, 1 / (index + 1)) for index, network in enumerate(networks)]
    with pytest.raises(DeviceError, match="quieter device"):
        made().calibrated(falling)


def test_an_unknown_block_is_named_and_priced_only_when_asked() -> None:
    other = replace(BLOCK, hidden=96)
    with pytest.raises(
        UnknownBlock, match=r"has no residual-16-96-32-k3-s2-relu6-r16: measure .* interpolate"
    ):
        made().predict((STEM, other, HEAD))
    assert made().unknown((STEM, other, other)) == [other.key]
    assert made().predict((STEM, other, HEAD), interpolate=True) > made().predict(NETWORK)
    assert made().predict(NETWORK, interpolate=True) == made().predict(NETWORK)
    without = made(rows={HEAD.key: made().rows[HEAD.key]})
    with pytest.raises(DeviceError, match="no block of kind 'stem' was measured"):
        without.predict(NETWORK, interpolate=True)


@pytest.mark.parametrize("ms", [0.0, -0.1, float("nan"), float("inf")])
def test_times_are_positive(ms: float) -> None:
    with pytest.raises(DeviceError, match="cost no positive time"):
        made((0.1, ms, 0.1))


def test_a_table_is_written_and_read_back(tmp_path: Path) -> None:
    table = made(overhead_ms=0.01, scale=1.02, calibrated_on=8)
    table.save(tmp_path / "new folder" / "table.json")
    assert LatencyTable.load(tmp_path / "new folder" / "table.json") == table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "unknown key 'extra'"),
        ({"schema": 2}, "schema is 2, expected 1"),
        ({"scale": "1"}, "scale is '1', expected number"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"scale": -1.0}, "a scale of -1.0"),
        ({"format": "pt"}, "expected 'onnx' or 'tflite'"),
        ({"rows": {"a": 1.0}}, r"rows\.a is 1\.0, expected an object"),
        ({"rows": {"a": {"ms": 0.0, "kind": "stem", "features": {}}}}, "a cost no positive time"),
    ],
)
def test_damaged_tables_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(made().to_json() | change))
    with pytest.raises(DeviceError, match=message):
        LatencyTable.load(path)


def test_missing_keys_and_files_are_refused(tmp_path: Path) -> None:
    fields = made().to_json()
    del fields["rows"]
    with pytest.raises(DeviceError, match="lacks the key 'rows'"):
        LatencyTable.from_json(fields)
    (tmp_path / "table.json").write_text('{"device": ')
    with pytest.raises(HeteroError, match=r"cannot read .*table\.json"):
        LatencyTable.load(tmp_path / "table.json")


def test_cost_model_finds_prices_that_explain_the_rows() -> None:
    generator = np.random.default_rng(0)
    features = [{"constant": 1.0, "macs": float(m)} for m in generator.uniform(1e4, 1e6, 40)]
    noisy = generator.normal(1, 0.02, 40)
    measured = [
        Row(ms=(0.01 + 1e-7 * f["macs"]) * noise, kind="residual", features=f)
        for f, noise in zip(features, noisy, strict=True)
    ]
    prices = CostModel.fit(measured).prices["residual"]
    assert prices["constant"] == pytest.approx(0.01, rel=0.1)
    assert prices["macs"] == pytest.approx(1e-7, rel=0.05)
    errors = cross_validated(measured)["residual"]
    assert 0.003 < errors.median < 0.04
    assert errors.count == 40


def test_cost_model_never_pays_back() -> None:
    falling = [Row(ms=1 / (1 + x), kind="k", features={"constant": 1.0, "x": float(x)}) for x in range(6)]
    prices = CostModel.fit(falling).prices["k"]
    assert prices["x"] == 0
    assert prices["constant"] > 0


def test_a_block_with_a_feature_that_was_never_measured_has_no_price() -> None:
    measured = [Row(ms=0.1, kind="stem", features=dict(STEM.features))]
    model = CostModel.fit(measured)
    assert model.price(replace(STEM, width=32)) > model.price(STEM)
    with pytest.raises(DeviceError, match=r"stem-32-to24-16-s2-relu6 .* with resized was measured"):
        model.price(replace(STEM, resized=24))


def test_candidates_resize_their_images_where_they_may() -> None:
    plain, resizing = (sample_distinct(20, 0, Choices(resolutions=sides)) for sides in ((), (24,)))
    assert {config.resolution for config in plain} == {None}
    assert {config.resolution for config in resizing} == {None, 24}


def test_errors_are_relative() -> None:
    assert asdict(Errors.of([1.1, 2.0, 0.5], [1.0, 2.0, 1.0])) == pytest.approx(
        {"median": 0.1, "p90": 0.42, "count": 3}
    )


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_parts_are_the_network(config: ElasticConfig) -> None:
    """The key's fields are those of the real modules, and their MACs add up to the network's."""
    found = parts(config, 36)
    assert sum(map(macs, found)) == cost(build(config), 36).macs
    network = ElasticNet(config)
    real = [module for module in network.features if isinstance(module, InvertedResidual)]
    assert [_fields(block) for block in found[1:-1] if isinstance(block, Residual)] == list(map(_read, real))
    assert isinstance(found[0], Stem)
    assert isinstance(found[-1], Head)
    last = [module for module in network.features.modules() if isinstance(module, nn.Conv2d)][-1]
    assert (found[-1].inputs, found[-1].width) == (last.in_channels, last.out_channels)


def _fields(block: Residual) -> tuple[object, ...]:
    return block.inputs, block.hidden, block.outputs, block.kernel, block.stride, block.gated, block.identity


def _read(module: InvertedResidual) -> tuple[object, ...]:
    convolutions = [m for m in module.body.modules() if isinstance(m, nn.Conv2d) and m.bias is None]
    expand, depthwise, project = convolutions
    gated = any(isinstance(m, SqueezeExcite) for m in module.modules())
    shape = expand.in_channels, depthwise.in_channels, project.out_channels
    return *shape, depthwise.kernel_size[0], depthwise.stride[0], gated, module.identity


def test_keys_tell_parts_apart() -> None:
    every = [part for config in CONFIGS for part in parts(config, 32)]
    assert len({part.key for part in every}) == len(set(every)) == len(distinct([every]))


def test_candidates_are_seeded_and_distinct() -> None:
    assert sample_distinct(30, seed=1)[:10] == sample_distinct(10, seed=1)
    assert sample_distinct(10, seed=2) != sample_distinct(10, seed=1)
    assert len({config.model_dump_json() for config in sample_distinct(50, seed=0)}) == 50


@pytest.mark.slow
@pytest.mark.parametrize(("format", "precision"), [("onnx", "int8"), ("tflite", "fp32")])
def test_networks_are_priced_by_their_measured_blocks(tmp_path: Path, format: Any, precision: Any) -> None:
    """A real table on the host: exported, measured, calibrated; again without exporting or measuring."""
    from hetero_export.block_table import Bench, measure_table

    def config(width: int, depth: int) -> ElasticConfig:
        return ElasticConfig(stem=8, stages=(Stage(width=width, depth=depth, stride=2),), head=64, dim=32)

    quick = Stopping(warm_up=5, min_samples=100, min_seconds=0.02, max_seconds=5)
    bench = Bench(HostDevice(), tmp_path, format, precision, rounds=2, stopping=quick)
    networks = [config(8, 1), config(8, 2), config(64, 1)]
    table = measure_table(bench, [], networks, size=32)
    assert set(table.rows) == {part.key for network in networks for part in parts(network, 32)}
    small, large = (table.predict(parts(network, 32)) for network in (networks[0], networks[2]))
    assert 0 < small < large
    assert table.runtime["runtime"] == {"onnx": "onnxruntime", "tflite": "litert"}[format]

    class Unreachable(HostDevice):
        def run(self, job: Any) -> Any:
            raise AssertionError("measured again")

    table.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json") == table
    again = replace(bench, device=Unreachable())
    assert measure_table(again, [], networks, size=32) == table


@pytest.mark.slow
def test_networks_of_any_family_are_measured_whole(tmp_path: Path) -> None:
    from hetero_export.block_table import Bench
    from hetero_export.blocks import Probe

    quick = Stopping(warm_up=5, min_samples=50, min_seconds=0.01, max_seconds=5)
    bench = Bench(HostDevice(), tmp_path, "onnx", "int8", rounds=1, stopping=quick)
    stages = [(ShuffleStage(width=32),), (ShuffleStage(width=32),) * 3]
    short, long = (Probe.whole(ShuffleConfig(stages=each), 32) for each in stages)
    measured = bench.measure([short, long])
    sizes = [(tmp_path / f"{probe.name}.int8.onnx").stat().st_size for probe in (short, long)]
    assert sizes[0] < sizes[1]
    assert min(measured.ms(short), measured.ms(long)) > 0
