"""Models from elsewhere: any output, pixel scaling, re-parameterisation, timm and Hugging Face by name."""

from __future__ import annotations

import sys
from collections import namedtuple
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hetero.models.build import build
from hetero.models.foreign.adopt import adopt
from hetero.models.foreign.config import ForeignConfig
from hetero.models.foreign.fusing import LIMIT, fused
from hetero.models.foreign.output import chosen, pooled
from hetero.models.foreign.source import is_foreign, open_model
from hetero.models.foreign.timm_models import TimmConfig
from hetero_devices.errors import ModelError

SIZE = 16
EXAMPLE = torch.zeros(2, 3, SIZE, SIZE)

needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
needs_torchvision = pytest.mark.skipif(
    find_spec("torchvision") is None, reason="torchvision is not installed"
)
needs_transformers = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed"
)


@dataclass
class Outputs:
    last_hidden_state: Tensor
    pooler_output: Tensor | None = None


Named = namedtuple("Named", "maps embedding")


class Net(nn.Module):
    """A convolution whose maps leave in one of many wrappings."""

    def __init__(self, wrap: Any = lambda maps: maps) -> None:
        super().__init__()
        self.layer, self.wrap = nn.Conv2d(3, 5, 3, stride=2), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.layer(x))


def net(wrap: Any = lambda maps: maps) -> Net:
    torch.manual_seed(0)
    return Net(wrap)


def images(count: int = 3) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def embedded(module: nn.Module, **changes: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    return adopt(module, EXAMPLE, **changes).encoder.encode(images())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda maps: maps.mean((2, 3)),
        lambda maps: (maps, maps * 2),
        lambda maps: [maps],
        lambda maps: {"last_hidden_state": maps, "attentions": maps[:1]},
        lambda maps: {"anything": maps},
        lambda maps: Outputs(maps),
        lambda maps: Outputs(maps * 0, pooler_output=maps),
        lambda maps: Named(maps * 0, maps),
        lambda maps: maps.flatten(2).transpose(1, 2),
        lambda maps: maps.mean((2, 3), keepdim=True).double(),
    ],
    ids=["vector", "tuple", "list", "mapping", "single", "dataclass", "pooler", "named", "tokens", "double"],
)
def test_every_wrapping_of_an_output_gives_the_same_embedding(wrap: Any) -> None:
    np.testing.assert_allclose(embedded(net(wrap)), embedded(net()), atol=1e-6)


def test_an_output_is_taken_by_position_name_or_as_the_class_token() -> None:
    other = embedded(net(lambda maps: maps.flip(1)))
    np.testing.assert_array_equal(embedded(net(lambda m: (m, m.flip(1))), embedding=1), other)
    np.testing.assert_array_equal(embedded(net(lambda m: {"a": m, "b": m.flip(1)}), embedding="b"), other)
    tokens = net(lambda maps: maps.flatten(2).transpose(1, 2))
    first = embedded(net(lambda maps: maps[:, :, 0, 0]))
    np.testing.assert_allclose(embedded(tokens, pool="first"), first, atol=1e-6)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"x": torch.zeros(1, 2), "y": torch.zeros(1, 2)}, "returns x, y: say which is the embedding"),
        ("text", "returns a str"),
        ((), "returns a tuple"),
    ],
)
def test_an_unclear_output_is_named(output: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        chosen(output, None)


def test_an_output_of_another_rank_is_named() -> None:
    with pytest.raises(ModelError, match=r"returns \[2\], expected"):
        pooled(torch.zeros(2), "mean")


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.zeros(1, 3, 8, 9), "must be square"),
        (torch.zeros(1, 1, 8, 8), r"expected float32 \[N, 3, S, S\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "is torch.uint8"),
        (torch.zeros(1, 3, 2, 2), r"does not run on float32 \[2, 3, 2, 2\]"),
    ],
)
def test_a_wrong_example_is_one_line(example: Tensor, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        adopt(net(), example)


def test_broken_weights_are_noticed() -> None:
    broken = net()
    broken.layer.weight.data[0] = torch.nan
    with pytest.raises(ModelError, match="NaN"):
        adopt(broken, EXAMPLE)


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.0,) * 3, (1.0,) * 3), ((0.3,) * 3, (0.2, 0.3, 0.4))],
)
def test_the_module_sees_pixels_scaled_as_it_wants(mean: Any, std: Any) -> None:
    model = adopt(net(), EXAMPLE, mean=mean, std=std)
    pixels = torch.from_numpy(images()).permute(0, 3, 1, 2) / 255
    expected = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        found = model.deploy.raw(torch.from_numpy(images()).permute(0, 3, 1, 2).float())
        torch.testing.assert_close(found, net()(expected).mean((2, 3)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5, 0.5), (1, 1, 1)), ((0,) * 3, (1, 0, 1)), ((0,) * 3, (1, np.nan, 1))]
)
def test_impossible_scaling_is_one_line(mean: Any, std: Any) -> None:
    with pytest.raises(ModelError, match="cannot scale pixels"):
        adopt(net(), EXAMPLE, mean=mean, std=std)


def test_what_changes_the_embedding_changes_the_space() -> None:
    tokens = net(lambda maps: maps.flatten(2).transpose(1, 2))
    ids = {
        adopt(tokens, EXAMPLE).space.id,
        adopt(tokens, EXAMPLE, pool="first").space.id,
        adopt(tokens, EXAMPLE, mean=(0.1, 0.2, 0.3)).space.id,
        adopt(tokens, torch.zeros(1, 3, 24, 24)).space.id,
        adopt(Net(), EXAMPLE).space.id,
    }
    assert len(ids) == 5


class Branches(nn.Module):
    """A 3x3 and a 1x1 convolution, each normalised, added up; `reparameterize` makes them one (RepVGG)."""

    def __init__(self, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.three, self.one = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.Conv2d(3, 6, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(6)])
        self.epsilon, self.single = epsilon, False
        for norm in self.norms:
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.01, 1)
            nn.init.uniform_(norm.weight, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.single:
            y: Tensor = self.three(x)
            return y
        first: Tensor = self.norms[0](self.three(x))
        second: Tensor = self.norms[1](self.one(x))
        return first + second

    def reparameterize(self) -> None:
        weight, bias = torch.zeros(6, 3, 3, 3), torch.zeros(6)
        for layer, norm in zip((self.three, self.one), self.norms, strict=True):
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            gain = norm.weight / (norm.running_var + self.epsilon).sqrt()
            padded = layer.weight if layer is self.three else nn.functional.pad(layer.weight, (1, 1, 1, 1))
            weight += padded * gain[:, None, None, None]
            bias += norm.bias - norm.running_mean * gain
        self.three = nn.Conv2d(3, 6, 3, padding=1)
        self.three.weight.data, self.three.bias.data = weight, bias  # type: ignore[union-attr]
        del self.one, self.norms
        self.single = True


def branches(epsilon: float = 1e-5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Branches(epsilon), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_branches_are_fused_and_the_network_itself_is_not() -> None:
    network = branches()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    single = fused(network, SIZE)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in single.modules()) == 0
    assert {name for name, _ in network.named_parameters()} == {n for n, _ in branches().named_parameters()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    x = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(single(x), network.eval()(x), atol=1e-5, rtol=1e-5)


def test_a_wrong_fusing_is_refused() -> None:
    with pytest.raises(ModelError, match=rf"changes the embeddings by .* \(at most {LIMIT:.0e}\)"):
        fused(branches(epsilon=1e-2), SIZE)


def test_a_fusing_that_fails_is_named() -> None:
    class Failing(nn.Identity):
        def switch_to_deploy(self) -> None:
            raise KeyError("branch")

    with pytest.raises(ModelError, match=r"Failing.switch_to_deploy failed: 'branch'"):
        fused(nn.Sequential(Failing(), net()), SIZE)


def test_nothing_to_fuse_leaves_the_very_network() -> None:
    network = net()
    assert fused(network, SIZE) is network


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`mine_NAME.py` in the current folder, which offers networks."""
    name = f"mine_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "from torch import nn\n"
        "def net():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.1))\n"
        "def text():\n    return 'no module'\n"
        "def broken():\n    raise RuntimeError('out of order')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return Path(name)


def test_a_function_of_the_current_folder_is_called(mine: Path) -> None:
    source = f"{mine}:net"
    assert is_foreign(source)
    model = open_model(ForeignConfig(source=source, size=SIZE), seed=3)
    again = open_model(ForeignConfig(source=source, size=SIZE), seed=3)
    assert (model.space.dim, model.space) == (4, again.space)
    assert open_model(ForeignConfig(source=source, size=SIZE), seed=4).space != model.space


def test_weights_of_a_file_are_loaded(mine: Path, tmp_path: Path) -> None:
    given = open_model(ForeignConfig(source=f"{mine}:net", size=SIZE), seed=7)
    tensors = given.deploy.network.state_dict()
    save_file({name.removeprefix("module."): tensor for name, tensor in tensors.items()}, "w.safetensors")
    loaded = open_model(ForeignConfig(source=f"{mine}:net", size=SIZE, weights="w.safetensors"), seed=0)
    assert loaded.space == given.space


@pytest.mark.parametrize(
    ("function", "changes", "message"),
    [
        ("text", {}, "returned a str, not a torch module"),
        ("broken", {}, "cannot be built: out of order"),
        ("absent", {}, "has no attribute 'absent'"),
        ("net", {"size": None}, "give size=PIXELS"),
        ("net", {"weights": "w.pth"}, "neither 'pretrained', 'random' nor a .safetensors file"),
        ("net", {"weights": "w.safetensors"}, "there are no weights at w.safetensors"),
    ],
)
def test_what_cannot_be_opened_is_one_line(
    mine: Path, function: str, changes: dict[str, Any], message: str
) -> None:
    config = {"source": f"{mine}:{function}", "size": SIZE} | changes
    with pytest.raises(ModelError, match=message):
        open_model(ForeignConfig.model_validate(config))


def test_weights_of_another_network_are_one_line(mine: Path) -> None:
    save_file({"other": torch.zeros(1)}, "w.safetensors")
    with pytest.raises(ModelError, match="do not fit: "):
        open_model(ForeignConfig(source=f"{mine}:net", size=SIZE, weights="w.safetensors"))


@needs_timm
def test_a_timm_backbone_brings_its_own_scaling() -> None:
    model = open_model(ForeignConfig(source="timm:mobilenetv3_small_050", weights="random", size=32))
    assert model.config.model_dump()["mean"] == (0.485, 0.456, 0.406)
    assert (model.space.dim, model.deploy.preprocessing.size) == (1024, 32)
    own = open_model(
        ForeignConfig(source="timm:mobilenetv3_small_050", weights="random", mean=(0.5,) * 3, std=(0.5,) * 3)
    )
    assert own.deploy.preprocessing.size == 224  # the model's own


@needs_timm
def test_timm_weights_come_from_a_local_file(tmp_path: Path) -> None:
    config = ForeignConfig(source="timm:mobilenetv3_small_050", weights="random", size=32)
    first = open_model(config, seed=1)
    tensors = {n.removeprefix("1."): t for n, t in first.deploy.network.state_dict().items() if n[0] == "1"}
    save_file(tensors, tmp_path / "w.safetensors")
    again = open_model(config.model_copy(update={"weights": str(tmp_path / "w.safetensors")}), seed=2)
    assert again.space == first.space


@needs_timm
def test_an_unknown_timm_model_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="the nearest is 'mobilenetv3_small_050'"):
        open_model(ForeignConfig(source="timm:mobilenetv3_smal_050"))


@needs_timm
def test_timm_s_repvgg_and_mobileone_fuse() -> None:
    for name in ("repvgg_a0", "mobileone_s0"):
        model = open_model(ForeignConfig(source=f"timm:{name}", weights="random", size=32))
        for module in model.deploy.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                nn.init.uniform_(module.running_mean, -0.1, 0.1)
        single = fused(model.deploy.network, 32)
        assert sum(p.numel() for p in single.parameters()) < model.cost.parameters


@needs_timm
def test_a_timm_network_of_a_recipe_has_the_asked_dimension() -> None:
    config = TimmConfig(name="mobilenetv3_small_050", dim=24, project=40)
    with torch.no_grad():
        assert build(config).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 40)


@needs_timm
def test_a_vision_transformer_of_another_size() -> None:
    model = open_model(ForeignConfig(source="timm:vit_tiny_patch16_224", weights="random", size=32))
    assert model.encoder.encode(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 192)


@needs_torchvision
def test_torchvision_is_importable_beside_any_torch() -> None:
    model = open_model(ForeignConfig(source="torchvision.models:shufflenet_v2_x0_5", size=32))
    assert model.space.dim == 1000


@needs_transformers
@pytest.mark.filterwarnings("ignore")
def test_hugging_face_models_from_a_folder(tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic"
    )
    transformers.ResNetModel(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"shortest_edge": 32}}'
    )
    model = open_model(ForeignConfig(source=f"hf:{tmp_path}"))
    assert (model.space.dim, model.deploy.preprocessing.size) == (12, 32)
    assert model.config.model_dump()["mean"] == (0.1, 0.2, 0.3)
    file = ForeignConfig(source=f"hf:{tmp_path}", weights=str(tmp_path / "model.safetensors"))
    assert open_model(file, seed=9).space == model.space
    assert open_model(file.model_copy(update={"weights": "random"}), seed=9).space != model.space


@needs_transformers
@pytest.mark.filterwarnings("ignore")
def test_a_hugging_face_checkpoint_without_its_pooler_says_what_to_do(tmp_path: Path) -> None:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lacks 2 tensors .*embedding=last_hidden_state"):
        open_model(ForeignConfig(source=f"hf:{tmp_path}"))
    taken = ForeignConfig(source=f"hf:{tmp_path}", embedding="last_hidden_state", pool="first")
    assert open_model(taken).space.dim == 16


@needs_transformers
def test_a_hugging_face_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="give a local folder"):
        open_model(ForeignConfig(source=f"hf:{tmp_path}"))
