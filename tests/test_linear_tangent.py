"""The linearised network: equal to finite differences in double precision, frozen, with clear refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from hetero.linear.tangent import Tangent
from hetero.models.build import build, preset
from hetero.models.elastic import ElasticConfig, Stage
from hetero.models.residual import ResidualConfig
from hetero.models.shuffle import ShuffleConfig, ShuffleStage
from hetero_devices.errors import ModelError

ELASTIC = ElasticConfig(
    stem=8, stages=(Stage(width=8), Stage(width=8, squeeze_excite=True)), head=16, dim=6, activation="hswish"
)
RESIDUAL = ResidualConfig(widths=(8, 16), depths=(1, 1), dim=6, activation="leaky_relu")
SHUFFLE = ShuffleConfig(
    stem=8,
    stages=(ShuffleStage(width=16, operators=("shuffle3", "xception", "shuffle5")),),
    head=16,
    dim=6,
    activation="leaky_relu",
)
FAMILIES = {"elastic, hard-swish": ELASTIC, "residual, LeakyReLU": RESIDUAL, "shuffle, LeakyReLU": SHUFFLE}


def network(config: ElasticConfig | ResidualConfig | ShuffleConfig, seed: int = 0) -> nn.Module:
    """In double precision, with running statistics as after training, no gain at zero or one."""
    torch.manual_seed(seed)
    built = build(config).double()
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return built.eval()


def direction(tangent: Tangent, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    start = tangent.start()
    return {n: torch.randn(w.shape, generator=generator, dtype=w.dtype) * 0.1 for n, w in start.items()}


def moved(net: nn.Module, delta: dict[str, Tensor], step: float) -> nn.Module:
    changed = copy.deepcopy(net)
    with torch.no_grad():
        for name, change in delta.items():
            changed.get_parameter(name).add_(step * change)
    return changed


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_the_change_equals_finite_differences(config: ElasticConfig | ResidualConfig | ShuffleConfig) -> None:
    net = network(config)
    images = torch.randn(3, 3, 12, 12, dtype=torch.double)
    tangent = Tangent(net)
    delta = direction(tangent)
    tangent.move(delta)
    outputs, change = tangent.both(images)
    step = 1e-6
    with torch.no_grad():
        ends = [moved(net, delta, sign * step)(images) for sign in (1, -1)]
        torch.testing.assert_close(outputs, net(images), rtol=0, atol=0)
    torch.testing.assert_close(change.detach(), (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(tangent(images), outputs + change)
    assert change.abs().max() > 1e-2


def test_it_is_linear_in_the_update() -> None:
    tangent = Tangent(network(RESIDUAL))
    images = torch.randn(2, 3, 12, 12, dtype=torch.double)
    one, two = direction(tangent, 1), direction(tangent, 2)
    mixed = {name: 3 * one[name] - 2 * two[name] for name in one}
    changes = [tangent.along(images, each)[1] for each in (one, two, mixed)]
    torch.testing.assert_close(changes[2], 3 * changes[0] - 2 * changes[1])


def test_gradients_are_those_of_the_network_at_the_start() -> None:
    net = network(ELASTIC)
    images = torch.randn(2, 3, 12, 12, dtype=torch.double)
    tangent = Tangent(net)
    weights = torch.randn(2, 6, dtype=torch.double)
    (tangent(images) * weights).sum().backward()
    net.requires_grad_(True)
    (net(images) * weights).sum().backward()
    for name, parameter in tangent.delta().items():
        torch.testing.assert_close(parameter.grad, net.get_parameter(name).grad, rtol=1e-9, atol=1e-12)


def test_only_the_chosen_layers_move() -> None:
    net = network(RESIDUAL)
    tangent = Tangent(net, moving=("embed", "features.2.body.0.0.weight"))
    assert tangent.names == ("features.2.body.0.0.weight", "embed.weight", "embed.bias")
    tangent.move({n: torch.ones_like(w) for n, w in tangent.start().items()})
    whole = Tangent(net)
    whole.move({n: tangent.delta().get(n, torch.zeros_like(w)) for n, w in whole.start().items()})
    images = torch.randn(2, 3, 12, 12, dtype=torch.double)
    torch.testing.assert_close(tangent(images), whole(images))


def test_the_callers_network_is_untouched_and_the_copy_never_trains() -> None:
    net = build(RESIDUAL).train()
    before = copy.deepcopy(net.state_dict())
    tangent = Tangent(net).train()
    assert not tangent.network.training
    assert net.training
    optimiser = torch.optim.SGD(tangent.parameters(), 0.1)
    tangent(torch.randn(2, 3, 12, 12)).square().sum().backward()
    optimiser.step()
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
        torch.testing.assert_close(tangent.network.state_dict()[name], before[name], rtol=0, atol=0)
    assert [name for name, p in tangent.delta().items() if not p.abs().max() > 0] == []
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_it_runs_in_inference_mode_and_by_parts() -> None:
    tangent = Tangent(network(SHUFFLE))
    tangent.move(direction(tangent))
    images = torch.randn(4, 3, 12, 12, dtype=torch.double)
    with torch.inference_mode():
        whole = tangent(images)
        parts = torch.cat([tangent(images[:1]), tangent(images[1:])])
    torch.testing.assert_close(whole, parts)


def test_attention_is_linearised() -> None:
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True, dtype=torch.double).eval()
    tangent = Tangent(net)
    delta = direction(tangent)
    tokens = torch.randn(2, 5, 8, dtype=torch.double)
    change = tangent.along(tokens, delta)[1]
    with torch.no_grad():
        ends = [moved(net, delta, sign * 1e-6)(tokens) for sign in (1, -1)]
    torch.testing.assert_close(change.detach(), (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-7)


def test_equal_networks_have_equal_digests() -> None:
    one, other = network(RESIDUAL), network(RESIDUAL, seed=1)
    moved_on = Tangent(one)
    moved_on.move(direction(moved_on))
    assert Tangent(one).digest == moved_on.digest != Tangent(other).digest


class _Doubles(torch.autograd.Function):
    """Twice its input, without a derivative in forward mode."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return 2 * gradients[0]


class _Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = _Doubles.apply(x)  # type: ignore[no-untyped-call]
        return doubled


class _Distances(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x, x + 1)


class _Numpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy())


REFUSED = {
    "_Custom (1.inner)": _Custom(),
    "_Distances (1.inner)": _Distances(),
    "_Numpy (1.inner)": _Numpy(),
}


@pytest.mark.parametrize("named", REFUSED)
def test_what_has_no_derivative_is_named(named: str) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ModuleDict({"inner": REFUSED[named]}))
    net[1].forward = REFUSED[named].__call__
    with pytest.raises(ModelError) as raised:
        Tangent(net, example=torch.randn(3, 3))
    assert str(raised.value).startswith(f"{named} cannot be linearised: ")
    assert "\n" not in str(raised.value)


def test_a_wrong_input_is_not_blamed_on_linearising() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Tangent(nn.Linear(3, 3))(torch.randn(2, 4))


def test_networks_and_choices_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ModelError, match=r"BatchNorm2d \(0\) cannot be linearised: it keeps no running"):
        Tangent(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)))
    with pytest.raises(ModelError, match="no parameters"):
        Tangent(nn.ReLU())
    with pytest.raises(ModelError, match="no parameter or layer 'head'"):
        Tangent(nn.Linear(3, 3), moving=("head",))
    with pytest.raises(ModelError, match="no parameter moves"):
        Tangent(nn.Linear(3, 3), moving=())
    tangent = Tangent(nn.Linear(3, 3))
    with pytest.raises(ModelError, match="of another network"):
        tangent.move({"weight": torch.zeros(3, 3)})


def test_hard_sigmoids_are_trained_through() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Hardsigmoid(), nn.Hardswish(), nn.Linear(3, 2)).double()
    inputs = torch.randn(5, 3, dtype=torch.double)
    tangent = Tangent(net)
    delta = direction(tangent)
    change = tangent.along(inputs, delta)[1]
    with torch.no_grad():
        ends = [moved(net, delta, sign * 1e-6)(inputs) for sign in (1, -1)]
    torch.testing.assert_close(change.detach(), (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-9)
    tangent(inputs).sum().backward()
    net(inputs).sum().backward()
    torch.testing.assert_close(tangent.delta()["0.weight"].grad, net[0].weight.grad)


def test_presets_are_linearised() -> None:
    for name in ("elastic-xs", "residual-s", "shuffle-s"):
        Tangent(build(preset(name)), example=torch.randn(1, 3, 16, 16))
