"""`hetero export` of models that were not trained here, through the command line and as bundles."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from hetero.cli.main import cli
from hetero.models.build import build, preset
from hetero.models.foreign.adopt import adopt
from hetero_devices import runtimes
from hetero_devices.bundle import Bundle
from hetero_devices.errors import HeteroError
from hetero_devices.verify import verify
from hetero_export.bundle import write_bundle
from hetero_export.calibration import Calibration

SIZE = 16
MODULE = """
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.LeakyReLU(0.1), nn.Conv2d(8, 12, 3)
    )
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of the user's and data."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (48, SIZE, SIZE, 3), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", images=images, labels=np.repeat(np.arange(8), 6))
    (tmp_path / "usermodels.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def export(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["export", *map(str, arguments)])


def refused(*arguments: object) -> str:
    """The one line that a user would see."""
    done = export(*arguments)
    assert done.exit_code != 0
    assert isinstance(done.exception, HeteroError | SystemExit), done.exception
    return str(done.exception) if isinstance(done.exception, HeteroError) else done.output


def test_a_function_s_network_becomes_a_bundle_in_both_formats_and_precisions(here: Path) -> None:
    done = export(
        "usermodels:net", f"size={SIZE}", "data=mine.npz", "mean=[0.4, 0.5, 0.6]", "-o", "out", "--json"
    )
    assert done.exit_code == 0, (done.output, done.exception)
    bundle = Bundle.open(here / "out")
    assert json.loads(done.output)["space"]["id"] == bundle.manifest.space.id
    assert len(bundle.manifest.models) == 4
    assert [check for check in verify(bundle.root) if not check.passed] == []
    assert bundle.manifest.architecture["source"] == "usermodels:net"
    assert bundle.manifest.architecture["mean"] == [0.4, 0.5, 0.6]
    assert bundle.manifest.space.dim == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("usermodels:net", "size=16", "-o", "out"), "give data=FOLDER"),
        (("usermodels:net", "size=16", "dta=mine.npz", "-o", "out"), "the nearest is 'data'"),
        (("usermodels:net", "size=4", "data=mine.npz", "-o", "out"), "greater than or equal to 8"),
        (("usermodels:net", "data=mine.npz", "-o", "out"), "give size=PIXELS"),
        (("usermodels:absent", "size=16", "data=mine.npz", "-o", "out"), "no attribute 'absent'"),
        (
            ("usermodels:net", "size=16", "data=mine.npz", "export.precisions=[int4]", "-o", "out"),
            "precisions",
        ),
        (("usermodels:net", "size=16", "data=mine.npz"), "-o"),
        (("nothing", "size=16", "-o", "out"), "is not a run folder"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    here: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert message in refused(*arguments)
    assert not (here / "out").exists()


def test_dry_run_says_what_would_be_written(here: Path) -> None:
    done = export("usermodels:net", "size=16", "export.formats=[onnx]", "--dry-run")
    assert done.output == "would export onnx in fp32, int8\n"


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
def test_a_re_parameterised_timm_network_is_exported_fused(tmp_path: Path) -> None:
    from hetero.models.foreign.config import ForeignConfig
    from hetero.models.foreign.source import open_model

    model = open_model(ForeignConfig(source="timm:repvgg_a0", weights="random", size=32))
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    bundle = write_bundle(
        model,
        tmp_path / "b",
        name="repvgg",
        golden=images,
        source={},
        formats=("onnx",),
        precisions=("fp32",),
    )
    assert bundle.manifest.parameters < 0.95 * model.cost.parameters
    assert bundle.manifest.space == model.space


@pytest.mark.parametrize("name", ["residual-s", "elastic-xs"])
def test_leaky_relu_networks_convert_on_both_formats(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build(preset(name).model_copy(update={"activation": "leaky_relu"}))
    assert any(isinstance(module, nn.LeakyReLU) for module in network.modules())
    model = adopt(network, torch.zeros(2, 3, SIZE, SIZE))
    images = np.random.default_rng(0).integers(0, 256, (16, SIZE, SIZE, 3), dtype=np.uint8)
    bundle = write_bundle(
        model, tmp_path / "b", name=name, calibration=Calibration(images), golden=images[:4], source={}
    )
    expected = model.encoder.encode(images)
    for file in bundle.manifest.models:
        found = runtimes.load(bundle.path(file)).run(images)
        assert (found * expected).sum(1).min() > (0.9999 if file.precision == "fp32" else 0.95), file.file


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_padded_pooling_is_quantised_and_delegated(channels_last: bool, tmp_path: Path) -> None:
    """As ResNet and ShuffleNetV2 begin; the converter pads by minus infinity."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(nn.Conv2d(8, 16, 1, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    if channels_last:  # as training leaves a network
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = adopt(network, torch.zeros(2, 3, SIZE, SIZE))
    images = np.random.default_rng(0).integers(0, 256, (16, SIZE, SIZE, 3), dtype=np.uint8)
    bundle = write_bundle(
        model,
        tmp_path / "b",
        name="pooled",
        calibration=Calibration(images),
        golden=images[:4],
        source={},
        formats=("tflite",),
    )
    expected = model.encoder.encode(images)
    for file in bundle.manifest.models:
        session = runtimes.load(bundle.path(file))
        assert session.details["xnnpack_partitions"] == 1
        assert (session.run(images) * expected).sum(1).min() > (0.9999 if file.precision == "fp32" else 0.99)
