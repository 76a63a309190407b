"""ReLU to LeakyReLU: in modules, in code, in the library's families, and the recipe that starts so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetero.data import load
from hetero.data.augment import AugmentConfig
from hetero.linear.rectifiers import SLOPE, converted, is_leaky, leaky
from hetero.models.build import build, preset
from hetero.models.deploy import Deploy
from hetero.models.encoder import embed
from hetero.models.store import Model, define_space
from hetero.recipes.resolve import resolve
from hetero.training.items import TrainingItems
from hetero.training.optimizer import FitConfig
from hetero_devices.errors import ModelError
from hetero_devices.space import Preprocessing


class InCode(nn.Module):
    """A ReLU as a module, as a function and as a method."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.act = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.act(self.layer(x))
        return first + F.relu(x) + torch.relu(2 * x) + (3 * x).relu()


def test_every_relu_of_a_module_and_its_code_leaks() -> None:
    torch.manual_seed(0)
    network, x = InCode(), torch.randn(5, 4)
    changed = leaky(network)
    expected = F.leaky_relu(network.layer(x), SLOPE) + 6 * F.leaky_relu(x, SLOPE)
    torch.testing.assert_close(changed(x), expected)
    assert changed.state_dict().keys() == network.state_dict().keys()
    assert isinstance(network.act, nn.ReLU6), "the original stays as it is"


def test_a_network_without_relu_is_refused() -> None:
    with pytest.raises(ModelError, match="no ReLU"):
        leaky(nn.Linear(2, 2))


def test_the_family_s_own_option_is_what_the_conversion_makes() -> None:
    config = preset("residual-s")
    network = build(config)
    family = build(config.model_copy(update={"activation": "leaky_relu"}))
    family.load_state_dict(network.state_dict())
    x = torch.randn(2, 3, 16, 16)
    assert is_leaky(family)
    assert not is_leaky(network)
    torch.testing.assert_close(leaky(network.eval())(x), family.eval()(x))


def toy(arrays: Path, activation: str = "relu") -> tuple[Model, TrainingItems]:
    items = TrainingItems(load(arrays, size=16, validation_share=0).train)
    torch.manual_seed(0)
    config = preset("residual-s")
    config = config.model_copy(update={"activation": activation, "widths": (8, 16), "depths": (1, 1)})
    deploy = Deploy(build(config), Preprocessing(size=16)).eval()
    return Model(deploy, config, define_space(deploy.network, deploy.preprocessing, 128)), items


def test_a_short_retraining_brings_the_embeddings_back(arrays: Path, tmp_path: Path) -> None:
    model, items = toy(arrays)
    fit = FitConfig(steps=150, batch=32, rate=1e-3, ema=0.9)
    after = converted(model, items, AugmentConfig(), fit, tmp_path, seed=0)
    plain = build(after.config)  # type: ignore[arg-type]
    plain.load_state_dict(model.deploy.network.state_dict())
    before = Model(Deploy(plain, model.deploy.preprocessing).eval(), after.config, model.space)
    wanted = embed(model.encoder, items.images).vectors
    cosines = [(embed(m.encoder, items.images).vectors * wanted).sum(1).mean() for m in (before, after)]
    assert cosines[1] > cosines[0]
    assert is_leaky(after.deploy.network)
    assert after.space == model.space
    again = converted(model, items, AugmentConfig(), fit, tmp_path, seed=0)
    assert torch.equal(
        again.deploy.network.state_dict()["embed.weight"], after.deploy.network.state_dict()["embed.weight"]
    )


@pytest.mark.parametrize("activation", ["leaky_relu", "hswish"])
def test_what_has_no_relu_is_not_converted(arrays: Path, tmp_path: Path, activation: str) -> None:
    model, items = toy(arrays, activation)
    with pytest.raises(ModelError, match="leaky=keep"):
        converted(model, items, AugmentConfig(), FitConfig(steps=1), tmp_path, seed=0)


def test_the_recipe_pretrains_leaky_networks() -> None:
    recipe = resolve("pretrain", ["data.source=omniglot"])
    networks = (recipe.anchor.network, recipe.student.network)
    assert [getattr(network, "activation") for network in networks] == ["leaky_relu"] * 2  # noqa: B009
