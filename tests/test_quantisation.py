"""int8 arithmetic simulated in torch: known values, the artefacts it stands for, and what mends a network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from hetero.models.build import build
from hetero.models.deploy import Deploy
from hetero.models.elastic import ElasticConfig, Stage
from hetero.models.foreign import timm_models
from hetero.models.foreign.scaling import ChannelAffine
from hetero.models.layers import Resize, conv_bn
from hetero.models.residual import ResidualConfig
from hetero.models.store import Model
from hetero.objectives.regression import RegressionConfig
from hetero.objectives.terms import Given, Objective, Supervision
from hetero.quantisation import (
    SCHEMES,
    AdaRound,
    QuantisedDeploy,
    correct_biases,
    equalise,
    fold,
    round_adaptively,
)
from hetero.quantisation.config import QuantisedConfig
from hetero.quantisation.corrections import adaptive_rounding, mean_error
from hetero.quantisation.equalisation import pairs, scales
from hetero.quantisation.finishing import finish
from hetero.quantisation.lockstep import Visit, visit_layers
from hetero.quantisation.lowering import lowered
from hetero.recipes.resolve import resolve
from hetero.training.batches import Batch
from hetero.training.optimizer import FitConfig
from hetero_devices import runtimes
from hetero_devices.errors import DataError, ModelError, RecipeError
from hetero_devices.runtimes import Format
from hetero_devices.space import Preprocessing, Space
from hetero_devices.verify import cosine_distance
from hetero_export.calibration import Calibration
from hetero_export.litert import export_litert
from hetero_export.litert_int8 import quantise_litert
from hetero_export.onnx import export_onnx
from hetero_export.onnx_int8 import quantise_onnx

SIZE = 16
FORMATS: tuple[Format, ...] = ("onnx", "tflite")
Images = npt.NDArray[np.uint8]

NETWORKS: dict[str, ElasticConfig | ResidualConfig] = {
    "hswish": ElasticConfig(
        stem=8,
        stages=(Stage(width=8, expansion=2), Stage(width=16, depth=2, stride=2, squeeze_excite=True)),
        head=64,
        activation="hswish",
        dim=32,
    ),
    "relu6": ElasticConfig(
        stem=8,
        stages=(Stage(width=8, expansion=2), Stage(width=16, depth=2, stride=2)),
        head=64,
        dim=24,
        project=32,
    ),
    "leaky": ResidualConfig(widths=(8, 16), depths=(1, 1), stem_stride=2, activation="leaky_relu", dim=32),
    "relu": ResidualConfig(widths=(8, 16), depths=(1, 1), stem_stride=2, dim=32),
    "resized": ElasticConfig(
        stem=8, stages=(Stage(width=8), Stage(width=16, stride=2)), head=64, dim=32, resolution=12
    ),
}


class Gated(nn.Module):
    """Squeeze and excitation as other libraries word it."""

    def __init__(self, channels: int, activation: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)
        self.activation, self.gate = activation, gate

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.gate(self.expand(self.activation(self.reduce(x.mean((2, 3), keepdim=True)))))
        return y


def foreign(activation: type[nn.Module], gate: type[nn.Module], *head: nn.Module) -> nn.Sequential:
    """A network as other libraries build theirs: an own scaling of pixels, modules for what we spell out."""
    return nn.Sequential(
        ChannelAffine((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        *(conv_bn(3, 8, 3, 2), activation()),
        *(conv_bn(8, 8, 3, groups=8), nn.Identity(), activation()),
        Gated(8, nn.ReLU(), gate()),
        *(conv_bn(8, 32, 1), activation(), nn.AdaptiveAvgPool2d(1)),
        *head,
    )


FOREIGN: dict[str, Callable[[], nn.Module]] = {
    "hard-swish": lambda: foreign(
        nn.Hardswish, nn.Hardsigmoid, nn.Conv2d(32, 32, 1), nn.Hardswish(), nn.Flatten()
    ),
    "silu": lambda: foreign(nn.SiLU, nn.Sigmoid, nn.Flatten(), nn.Linear(32, 32)),
    "pooled": lambda: foreign(nn.ReLU6, nn.Sigmoid, nn.Flatten()),
}


def blobs(count: int, seed: int) -> Images:
    """Smooth random colour images uint8 [count, 16, 16, 3]."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(coarse, (SIZE, SIZE), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def pixels(images: Images) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def student(name: str, steps: int = 60) -> Model:
    """A network trained for seconds towards fixed vectors of 64 blobs, so that its embeddings spread."""
    config = NETWORKS[name]
    torch.manual_seed(0)
    deploy = trained(build(config), steps)
    return Model(deploy, config, Space("0123456789abcdef", 32))


def trained(network: nn.Module, steps: int = 60) -> Deploy:
    deploy = Deploy(network.train(), Preprocessing(size=SIZE))
    classes, generator = pixels(blobs(64, 1)), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(steps):
        noisy = (classes + 25 * torch.randn(classes.shape, generator=generator)).clamp(0, 255)
        optimizer.zero_grad()
        (1 - (deploy.embed(noisy) * anchor()).sum(1)).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return deploy.eval()


def anchor() -> Tensor:
    """The embeddings of a pretended anchor: unit float32 [64, 32]."""
    return F.normalize(torch.randn(64, 32, generator=torch.Generator().manual_seed(7)))


@pytest.fixture(scope="module")
def students() -> dict[str, Model]:
    return {name: student(name) for name in NETWORKS}


def simulated(model: Model, format: Format) -> QuantisedDeploy:
    return QuantisedDeploy(
        fold(model.deploy.network), model.deploy.preprocessing, SCHEMES[format], blobs(32, 100)
    ).eval()


def written(deploy: QuantisedDeploy, model: Model) -> Deploy:
    return Deploy(deploy.into(model.deploy.network), model.deploy.preprocessing).eval()


def artefact(deploy: Deploy, format: Format, folder: Path) -> runtimes.Session:
    """The int8 file of `deploy`, calibrated on the images of `simulated`, opened by its runtime."""
    source, target = folder / f"fp32.{format}", folder / f"int8.{format}"
    export, quantise = {
        "onnx": (export_onnx, quantise_onnx),
        "tflite": (export_litert, quantise_litert),
    }[format]
    export(deploy, source, {})
    quantise(source, target, Calibration(blobs(32, 100)))
    return runtimes.load(target)


@torch.no_grad()
def embedded(deploy: Deploy, images: Images) -> npt.NDArray[np.float32]:
    vectors: npt.NDArray[np.float32] = deploy.eval()(torch.from_numpy(images)).numpy()
    return vectors


# Known values.


@pytest.mark.parametrize("format", FORMATS)
def test_weights_of_a_hand_made_convolution(format: Format) -> None:
    scheme = SCHEMES[format]
    weight = torch.tensor([[[[0.5]], [[-1.0]]], [[[2.0]], [[0.013]]]])
    top = {"onnx": 64, "tflite": 127}[format]
    expected = torch.tensor(
        [[[[round(0.5 * top) / top]], [[-1.0]]], [[[2.0]], [[round(0.013 / 2 * top) * 2 / top]]]]
    )
    found = scheme.quantised_weight(weight)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(scheme.quantised_weight(found), found, rtol=0, atol=1e-7)


def test_a_channel_of_zeros_stays_zero() -> None:
    assert SCHEMES["onnx"].quantised_weight(torch.zeros(2, 3)).eq(0).all()


@pytest.mark.parametrize("format", FORMATS)
def test_activations_of_a_hand_made_range(format: Format) -> None:
    low, high = torch.tensor(-1.0), torch.tensor(4.1)  # 0.02 a step; zero is level 50
    scale, zero = SCHEMES[format].activation_grid(low, high)
    assert float(scale) == pytest.approx(0.02)
    assert int(zero) - SCHEMES[format].lowest == 50
    x = torch.tensor([-2.0, -0.009, 0.0, 0.031, 9.0], requires_grad=True)
    rounded = SCHEMES[format].quantised(x, low, high)
    torch.testing.assert_close(rounded.detach(), torch.tensor([-1.0, 0.0, 0.0, 0.04, 4.1]))
    rounded.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("format", FORMATS)
def test_pixels_enter_as_the_runtimes_round_them(format: Format) -> None:
    """Every byte lies between two levels; LiteRT rounds all of them up, ONNX Runtime to the even one."""
    bytes_ = torch.arange(256.0)
    levels = SCHEMES[format].pixels(bytes_, Preprocessing(size=SIZE)) * 127.5
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    assert (levels - (bytes_ - 127.5)).abs().max() < 0.501
    if format == "tflite":
        assert (levels[:-1] - (bytes_[:-1] - 127)).abs().max() < 1e-3


def test_a_layer_computes_what_a_hand_does() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2))
    images = np.arange(8 * 3, dtype=np.uint8).reshape(8, 1, 1, 3) * 10
    scheme, preprocessing = SCHEMES["tflite"], Preprocessing(size=1)
    deploy = QuantisedDeploy(fold(network), preprocessing, scheme, images).eval()
    first, last = (network[index] for index in (0, 3))
    assert isinstance(first, nn.Conv2d)
    assert isinstance(last, nn.Linear)
    assert first.bias is not None
    assert last.bias is not None
    biases = first.bias, last.bias

    def step_of(layer: nn.Conv2d | nn.Linear) -> Tensor:
        return layer.weight.detach().flatten(1).abs().amax(1, keepdim=True) / 127

    def on_grid(layer: nn.Conv2d | nn.Linear) -> Tensor:
        return (layer.weight.detach().flatten(1) / step_of(layer)).round() * step_of(layer)

    def grid_of(seen: Tensor) -> tuple[Tensor, Tensor]:
        low, high = seen.min().clamp(max=0), seen.max().clamp(min=0)
        step = (high - low) / 255
        return step, (-128 - low / step).round()

    def rounded(x: Tensor, seen: Tensor) -> Tensor:
        step, zero = grid_of(seen)
        return ((x / step).round() + zero).clamp(-128, 127).sub(zero) * step

    # Without padding, the first layer takes bytes, of which 127.5 stand for 1, and its bias the -1.
    bytes_ = pixels(images).flatten(1)
    with torch.no_grad():
        exact_hidden = ((bytes_ / 127.5 - 1) @ on_grid(first).T + biases[0]).relu()
        exact_raw = exact_hidden @ on_grid(last).T + biases[1]
        sums = step_of(first)[:, 0] / 127.5
        bias = ((biases[0] - first.weight.flatten(1).sum(1)) / sums).round() * sums
        hidden = rounded((bytes_ / 127.5 @ on_grid(first).T + bias).relu(), exact_hidden)
        sums = step_of(last)[:, 0] * grid_of(exact_hidden)[0]
        raw = hidden @ on_grid(last).T + (biases[1] / sums).round() * sums
        torch.testing.assert_close(deploy.raw(pixels(images)), rounded(raw, exact_raw), rtol=0, atol=1e-5)


# Structure.


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_keeps_the_function(students: dict[str, Model], name: str) -> None:
    network = students[name].deploy.network
    x = (pixels(blobs(8, 3)) - 127.5) / 127.5
    with torch.no_grad():
        torch.testing.assert_close(fold(network).graph(x), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", NETWORKS)
def test_written_weights_keep_the_simulation(students: dict[str, Model], name: str, format: Format) -> None:
    model, deploy = students[name], simulated(students[name], format)
    float_network = written(deploy, model)
    assert float_network.network.state_dict().keys() == model.deploy.network.state_dict().keys()
    again = simulated(Model(float_network, model.config, model.space), format)
    images = blobs(16, 4)
    assert cosine_distance(embedded(again, images), embedded(deploy, images)).max() < 1e-5


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU(), nn.Flatten(), nn.Linear(4, 4)), r"GELU \(1\)"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), Resize(8), nn.Conv2d(4, 4, 1)), "the operator 'interpolate'"),
        (nn.Sequential(nn.ReLU(), nn.Flatten()), "has no convolution or linear layer"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)), r"BatchNorm2d \(0\)"),
    ],
)
def test_what_is_not_simulated_is_named(network: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        fold(network)
    assert "\n" not in str(caught.value)


class _Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(self.layer(x))
        return y


@pytest.mark.parametrize(
    ("network", "message"), [(_Branching(), "torch.fx does not trace it"), (_Twice(), "layer is used twice")]
)
def test_what_cannot_be_traced_is_said(network: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        fold(network)
    assert "\n" not in str(caught.value)


def test_calibration_images_of_another_size_are_refused(students: dict[str, Model]) -> None:
    model = students["relu6"]
    with pytest.raises(DataError, match="expected uint8"):
        QuantisedDeploy(
            fold(model.deploy.network), model.deploy.preprocessing, SCHEMES["onnx"], blobs(8, 1)[:, :8, :8]
        )


# The artefact.

TOLERANCE = 1e-4
"""Mean 1 - cosine between simulation and artefact; most embeddings are equal bit for bit."""


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("hswish", "onnx"),
        ("hswish", "tflite"),
        ("relu6", "tflite"),
        ("resized", "onnx"),
        ("resized", "tflite"),
        *(
            pytest.param(name, format, marks=pytest.mark.slow)
            for name, format in (("relu6", "onnx"), ("leaky", "onnx"), ("leaky", "tflite"))
        ),
    ],
)
def test_the_simulation_agrees_with_the_artefact(
    students: dict[str, Model], name: str, format: Format, tmp_path: Path
) -> None:
    model, deploy = students[name], simulated(students[name], format)
    session, images = artefact(written(deploy, model), format, tmp_path), blobs(48, 5)
    real = session.run(images)
    distance = cosine_distance(embedded(deploy, images), real)
    from_float = cosine_distance(embedded(model.deploy, images), real)
    assert distance.mean() < TOLERANCE
    assert np.median(distance) < 1e-7  # the same integers
    assert from_float.mean() > 10 * TOLERANCE  # what the simulation has to explain


@pytest.mark.parametrize("format", ["onnx", pytest.param("tflite", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FOREIGN)
def test_the_simulation_agrees_with_networks_from_elsewhere(
    name: str, format: Format, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    deploy = trained(FOREIGN[name](), steps=30)
    simulation = QuantisedDeploy(
        fold(deploy.network), deploy.preprocessing, SCHEMES[format], blobs(32, 100)
    ).eval()
    finished_ = Deploy(simulation.into(deploy.network), deploy.preprocessing).eval()
    images = blobs(48, 5)
    real = artefact(finished_, format, tmp_path).run(images)
    distance = cosine_distance(embedded(simulation, images), real)
    assert distance.mean() < TOLERANCE
    # LiteRT's own HARD_SWISH computes in 16-bit fixed point: now and then one integer step away.
    same_integers = (name, format) != ("hard-swish", "tflite")
    assert np.median(distance) < (1e-7 if same_integers else TOLERANCE)
    assert cosine_distance(embedded(deploy, images), real).mean() > 1e-5  # what there is to explain


def test_pooling_to_more_than_one_pixel_is_named() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4))
    with pytest.raises(ModelError, match=r"AdaptiveAvgPool2d \(1\) to 2"):
        QuantisedDeploy(fold(network), Preprocessing(size=SIZE), SCHEMES["onnx"], blobs(8, 1))


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed: pip install timm")
@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "efficientnet_b0", "resnet18"])
def test_networks_of_timm_are_folded(name: str) -> None:
    """Their batch norms hold the activation."""
    network = timm_models.backbone(name, "random", dim=8).network.eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        folded = lowered(fold(network), SCHEMES["tflite"])
        torch.testing.assert_close(folded.graph(x), network(x), rtol=1e-3, atol=1e-5)
    assert all(norm is not None for name, norm in folded.norms.items() if "bn" in name)


# Corrections.


def test_equalisation_of_two_layers_by_hand() -> None:
    s = scales(torch.tensor([[4.0], [0.0]]), torch.tensor([[1.0], [3.0]]))
    assert s.tolist() == [2.0, 1.0]  # channel 1 is never written, so there is nothing to even


def test_equalisation_keeps_the_function_and_evens_the_ranges() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        conv_bn(3, 8, 1),
        nn.ReLU(),
        conv_bn(8, 8, 3, groups=8),
        nn.LeakyReLU(0.2),
        nn.Conv2d(8, 4, 1),
        nn.ReLU6(),
        nn.Conv2d(4, 4, 1),
    ).eval()
    with torch.no_grad():
        network.get_submodule("0.1").get_parameter("weight").copy_(torch.logspace(-2, 2, 8))
    before = fold(network)
    assert pairs(before) == [("0.0", "2.0"), ("2.0", "4")]  # not across ReLU6
    after = equalise(before)
    x = torch.randn(16, 3, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(after.graph(x), before.graph(x), rtol=1e-4, atol=1e-4)
    out, inside = (after.layer(name).weight.detach().abs().flatten(1).amax(1) for name in ("0.0", "2.0"))
    torch.testing.assert_close(out, inside, rtol=0.05, atol=1e-3)
    spread = [
        float(w.max() / w.min()) for w in (before.layer("0.0").weight.detach().abs().flatten(1).amax(1), out)
    ]
    assert spread[1] < spread[0] / 10


def test_equalisation_leaves_a_value_that_is_added_elsewhere(students: dict[str, Model]) -> None:
    found = pairs(fold(students["leaky"].deploy.network))
    assert found == [
        ("features.2.body.0.0", "features.2.body.2.0"),
        ("features.3.body.0.0", "features.3.body.2.0"),
    ]


def layer_errors(deploy: QuantisedDeploy, images: Images) -> dict[str, tuple[float, float]]:
    """For each layer: its mean error per channel, absolute, and its mean squared error."""
    errors: dict[str, tuple[float, float]] = {}
    names = iter(deploy.layers())

    def look(visit: Visit) -> None:
        found = visit.layer(visit.quantised_input)
        bias = mean_error(visit.float_output, found).abs().mean()
        errors[next(names)] = float(bias), float(F.mse_loss(found, visit.float_output))

    visit_layers(deploy, pixels(images), look)
    return errors


@pytest.mark.parametrize("format", FORMATS)
def test_bias_correction_lowers_the_mean_error(students: dict[str, Model], format: Format) -> None:
    deploy = simulated(students["hswish"], format)
    before = layer_errors(deploy, blobs(32, 100))
    correct_biases(deploy)
    after = layer_errors(deploy, blobs(32, 100))
    assert sum(bias for bias, _ in after.values()) < 0.5 * sum(bias for bias, _ in before.values())


def test_adaround_lowers_the_error_of_a_layer_over_nearest() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, SIZE))
    deploy = QuantisedDeploy(fold(network), Preprocessing(size=SIZE), SCHEMES["onnx"], blobs(32, 1)).eval()
    seen: list[float] = []

    def compare(visit: Visit) -> None:
        nearest = visit.layer.weight
        adapted = adaptive_rounding(visit, AdaRound(iterations=150), seed=0)
        step = visit.layer.scheme.weight_scale(nearest).reshape(-1, 1, 1, 1)
        assert ((adapted - visit.layer.layer.weight).abs() <= step * 1.001).all()
        outputs = [
            functional_call(visit.layer.layer, {"weight": w}, (visit.quantised_input,))
            for w in (nearest, adapted)
        ]
        seen.extend(float(F.mse_loss(output, visit.float_output)) for output in outputs)

    visit_layers(deploy, pixels(blobs(32, 1)), compare)
    assert len(seen) == 4
    assert seen[1] < seen[0]
    assert seen[3] < 0.8 * seen[2]


def test_adaround_leaves_weights_on_the_grid(students: dict[str, Model]) -> None:
    deploy = simulated(students["relu"], "tflite")
    round_adaptively(deploy, AdaRound(iterations=10))
    for layer in deploy.layers().values():
        torch.testing.assert_close(layer.weight, layer.layer.weight, rtol=0, atol=1e-6)


# Training.


def lessons(step: int) -> Batch:
    """All 64 blobs with noise, labels all the same: they must not matter."""
    generator = torch.Generator().manual_seed(step)
    noisy = (pixels(blobs(64, 1)) + 25 * torch.randn(64, 3, SIZE, SIZE, generator=generator)).clamp(0, 255)
    return Batch(noisy, Supervision(torch.zeros(64, dtype=torch.int64), anchor()))


def finished(model: Model, format: Format, folder: Path, steps: int = 60) -> Model:
    config = QuantisedConfig(
        fit=FitConfig(steps=steps, batch=64, rate=1e-3, weight_decay=0, ema=0.9, checkpoint_every=5),
        refresh=20,
    )
    objective = Objective((RegressionConfig(),), Given(classes=1, dim=32, anchor=True, head=None))
    return finish(model, format, config, blobs(32, 100), objective=objective, batches=lessons, folder=folder)


@pytest.mark.parametrize("format", ["onnx", pytest.param("tflite", marks=pytest.mark.slow)])
def test_training_lowers_the_distance_of_the_artefact_from_the_anchor(
    students: dict[str, Model], format: Format, tmp_path: Path
) -> None:
    model, images = students["hswish"], blobs(64, 1)
    trained = finished(model, format, tmp_path / "fit")
    assert trained.space == model.space
    assert trained.config == model.config
    folders = [tmp_path / "ptq", tmp_path / "qat"]
    for folder in folders:
        folder.mkdir()
    deploys = (model.deploy, trained.deploy)
    target = anchor().numpy()
    plain, real = (
        artefact(deploy, format, folder).run(images) for deploy, folder in zip(deploys, folders, strict=True)
    )
    assert cosine_distance(real, target).mean() < 0.9 * cosine_distance(plain, target).mean()
    simulation = simulated(trained, format)
    assert cosine_distance(embedded(simulation, images), real).mean() < TOLERANCE


def test_the_float_student_is_not_touched(students: dict[str, Model], tmp_path: Path) -> None:
    model = students["relu"]
    before = copy.deepcopy(model.deploy.network.state_dict())
    finished(model, "onnx", tmp_path, steps=2)
    assert all(torch.equal(v, before[k]) for k, v in model.deploy.network.state_dict().items())


class _Killed(Exception):
    pass


def test_interrupted_and_continued_equals_uninterrupted(students: dict[str, Model], tmp_path: Path) -> None:
    model = students["relu"]
    whole = finished(model, "tflite", tmp_path / "whole", steps=24)
    config = QuantisedConfig(
        corrections=("equalise", "bias"),
        fit=FitConfig(steps=24, batch=64, rate=1e-3, weight_decay=0, ema=0.9, checkpoint_every=5),
        refresh=20,
    )

    def run(folder: Path, stop: int | None) -> Model:
        def batches(step: int) -> Batch:
            if step == stop:
                raise _Killed
            return lessons(step)

        objective = Objective((RegressionConfig(),), Given(classes=1, dim=32, anchor=True, head=None))
        return finish(
            model, "tflite", config, blobs(32, 100), objective=objective, batches=batches, folder=folder
        )

    uninterrupted = run(tmp_path / "a", None)
    for stop in (7, 22):
        with pytest.raises(_Killed):
            run(tmp_path / "b", stop)
    continued = run(tmp_path / "b", None)
    for key, value in uninterrupted.deploy.network.state_dict().items():
        assert torch.equal(value, continued.deploy.network.state_dict()[key]), key
    assert any(
        not torch.equal(value, whole.deploy.network.state_dict()[key])
        for key, value in uninterrupted.deploy.network.state_dict().items()
    )


# Recipe.


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{fit: null}", "give corrections, fit, or both"),
        ("{corrections: [bias, equalise]}", "in the order equalise, adaround, bias"),
        ("{corrections: [bias, bias]}", "each given once"),
        ("{fit: {precision: bf16}}", "fit.precision must be fp32"),
        ("{teacher: nobody}", "teacher"),
        ("{teechers: student}", "no key 'quantised.teechers'; the nearest is 'quantised.teacher'"),
    ],
)
def test_mistakes_in_a_recipe_are_named(value: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        resolve("demo", [f"student.quantised={value}"])
    assert "\n" not in str(caught.value)


def test_what_is_not_said_of_finishing_stays_the_default() -> None:
    pairs_ = ["student.quantised={fit: {steps: 7}}", "student.quantised.fit.batch=8"]
    config = resolve("demo", pairs_).student.quantised
    default = QuantisedConfig().fit
    assert config is not None
    assert default is not None
    assert config.fit == default.model_copy(update={"steps": 7, "batch": 8})


def test_a_recipe_finishes_nothing_by_default() -> None:
    assert resolve("demo").student.quantised is None
    config = resolve("demo", ["student.quantised={corrections: [bias], fit: null}"]).student.quantised
    assert config == QuantisedConfig(corrections=("bias",), fit=None)
