"""Tangents as plain operators: equal to the tangent, exported to both runtimes; and distilled back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hetero.linear.distilling import distilled, gap, merged
from hetero.linear.dual_network import DualNetwork
from hetero.linear.tangent import Tangent
from hetero.models.build import build, preset
from hetero.models.deploy import Deploy
from hetero.models.residual import ResidualConfig
from hetero.objectives.terms import Supervision
from hetero.training.batches import Batch
from hetero.training.optimizer import FitConfig
from hetero_devices import runtimes
from hetero_devices.errors import ModelError
from hetero_devices.space import Preprocessing
from hetero_export.litert import export_litert
from hetero_export.onnx import export_onnx
from hetero_export.parity import parity

RESIDUAL = ResidualConfig(widths=(8, 16), depths=(1, 1), dim=6, activation="leaky_relu")


def moved(network: nn.Module, size: float, moving: tuple[str, ...] | None = None) -> Tangent:
    """A tangent with a random update, of a network whose statistics are as after training."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    tangent = Tangent(network, moving)
    tangent.move({name: size * torch.randn_like(w) for name, w in tangent.start().items()})
    return tangent


@pytest.mark.parametrize("name", ["elastic-xs", "elastic-l", "residual-s", "shuffle-s"])
def test_a_dual_network_is_the_tangent(name: str) -> None:
    tangent = moved(build(preset(name)).double(), 0.02)
    images = torch.randn(2, 3, 16, 16, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(DualNetwork(tangent)(images), tangent(images), rtol=1e-10, atol=1e-10)
        assert float((tangent(images) - tangent.network(images)).abs().max()) > 0.1


def test_a_dual_network_resizes_its_images() -> None:
    tangent = moved(build(RESIDUAL.model_copy(update={"resolution": 8})).double(), 0.1)
    images = torch.randn(2, 3, 12, 12, dtype=torch.double)
    torch.testing.assert_close(DualNetwork(tangent)(images), tangent(images).detach())


@pytest.mark.parametrize("moving", [("embed",), ("features.2.body.0.1",), ("features.0.0.weight",)])
def test_some_layers_may_stay(moving: tuple[str, ...]) -> None:
    """The head alone, a batch norm alone, a convolution without its batch norm."""
    tangent = moved(build(RESIDUAL).double(), 0.1, moving)
    images = torch.randn(2, 3, 12, 12, dtype=torch.double)
    torch.testing.assert_close(DualNetwork(tangent)(images), tangent(images).detach())


class Mixed(nn.Module):
    """Operators beside those of the library's families."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.gain = nn.Parameter(torch.tensor([0.5, 2.0, 1.0, -1.0]))
        self.acts = nn.Sequential(nn.SiLU(), nn.Tanh(), nn.Hardswish(), nn.Hardsigmoid(), nn.AvgPool2d(2))
        self.linear = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x) * self.gain[:, None, None]
        y = torch.sigmoid(y) - self.acts[2](y) + nn.functional.leaky_relu(y, 0.1)
        y = self.acts(y)
        both: Tensor = torch.cat((y, y * y), 1).mean((2, 3))
        out: Tensor = self.linear(both)
        return out


def test_further_operators_have_dual_forms() -> None:
    tangent = moved(Mixed().double(), 0.1)
    images = torch.randn(2, 3, 6, 6, dtype=torch.double)
    torch.testing.assert_close(DualNetwork(tangent)(images), tangent(images).detach())


def test_an_operator_without_a_dual_form_is_named() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.MaxPool2d(2), nn.Flatten())
    with pytest.raises(ModelError, match=r"MaxPool2d \(1\) has no dual form"):
        DualNetwork(Tangent(net))
    with pytest.raises(ModelError, match="no dual form"):
        DualNetwork(Tangent(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))))


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "export"), [("onnx", export_onnx), ("tflite", export_litert)])
def test_a_dual_network_runs_as_exported(suffix: str, export: Callable[..., None], tmp_path: Path) -> None:
    preprocessing = Preprocessing(size=16)
    deploy = Deploy(DualNetwork(moved(build(RESIDUAL), 0.05)), preprocessing).eval()
    path = tmp_path / f"dual.{suffix}"
    export(deploy, path, {})
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = deploy(torch.from_numpy(images)).numpy()
    found = parity(expected, runtimes.load(path).run(images))
    assert found.cosine_min > 0.99999
    assert found.max_abs_error < 1e-5


def test_the_gap_of_merged_weights_is_of_second_order() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 16, 4)).double()
    images = torch.randn(4, 3, 6, 6, dtype=torch.double)
    large, small = (moved(net, size) for size in (1e-3, 1e-4))
    gaps = [gap(tangent, merged(tangent), images) for tangent in (large, small)]
    assert gaps[0] == pytest.approx(10 * gaps[1], rel=0.05)
    assert gap(large, large.network, images) == pytest.approx(1)


def test_distillation_approaches_the_tangent(tmp_path: Path) -> None:
    preprocessing = Preprocessing(size=12)
    pixels = torch.rand(32, 3, 12, 12, generator=torch.Generator().manual_seed(1)) * 255
    torch.manual_seed(0)
    deploy = Deploy(build(RESIDUAL), preprocessing).train()
    with torch.no_grad():
        for _ in range(40):  # statistics of batch norms as after training
            deploy.embed(pixels)
    tangent = Tangent(deploy.network)
    tangent.move({name: 0.1 * torch.randn_like(w) for name, w in tangent.start().items()})

    def batches(step: int) -> Batch:
        return Batch(pixels, Supervision(torch.zeros(len(pixels), dtype=torch.int64), None))

    config = FitConfig(steps=40, batch=32, rate=2e-3, ema=0.5)
    student = distilled(tangent, preprocessing, 6, batches, config, tmp_path)
    teacher = Deploy(tangent, preprocessing).eval()
    start = Deploy(merged(tangent), preprocessing).eval()
    with torch.no_grad():
        target = teacher.embed(pixels)
        cosines = [float((each.embed(pixels) * target).sum(1).mean()) for each in (student, start)]
    assert cosines[0] > cosines[1]
