"""An export that cannot succeed says why in one line and leaves no files behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from hetero.models.build import preset
from hetero.models.deploy import Deploy
from hetero.models.store import Model
from hetero_devices.bundle import MANIFEST
from hetero_devices.errors import BundleError, DataError, HeteroError, ModelError, RecipeError
from hetero_devices.space import Preprocessing, Space
from hetero_export.bundle import write_bundle
from hetero_export.calibration import Calibration

SIZE = 16


class Colours(nn.Module):
    """Embeds the mean colour: the smallest network that converts."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        embedding: Tensor = self.embed(x.mean((2, 3)))
        return embedding


class Branching(Colours):
    """Which way it goes depends on the pixels: no exporter can follow."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class NeverAlone(Colours):
    """Refuses a single image: converts to ONNX (any batch), but not to LiteRT (one image)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            raise RuntimeError("this network wants company")
        return super().forward(x)


def pixels(count: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def export(network: nn.Module, folder: Path, **changes: Any) -> None:
    model = Model(Deploy(network, Preprocessing(size=SIZE)), preset("elastic-xs"), Space("ab" * 8, 8))
    arguments: dict[str, Any] = {
        "calibration": Calibration(pixels(8)),
        "golden": pixels(4),
        "precisions": ("fp32",),
    }
    write_bundle(model, folder, name="failing", source={}, **(arguments | changes))


def assert_one_line(error: HeteroError, words: str) -> None:
    assert words in str(error)
    assert "\n" not in str(error)


def test_a_network_that_does_not_convert_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        export(Branching(), tmp_path / "bundle", formats=("onnx",))
    assert_one_line(caught.value, "the network does not convert to ONNX: ")
    assert list(tmp_path.iterdir()) == []


def test_failing_in_the_second_format_keeps_the_older_bundle(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / MANIFEST).write_text("the older bundle")
    with pytest.raises(ModelError) as caught:
        export(NeverAlone(), folder)
    assert_one_line(caught.value, "does not convert to LiteRT: this network wants company")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert [path.name for path in folder.iterdir()] == [MANIFEST]
    assert (folder / MANIFEST).read_text() == "the older bundle"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"formats": ("coreml",)}, "there is no format 'coreml' to export: known are onnx, tflite"),
        (
            {"precisions": ("int4",)},
            "there is no precision 'int4' of onnx to export: known are fp32, fp16, dynamic, int8, mixed",
        ),
        (
            {"precisions": ("int8_io",)},
            "there is no precision 'int8_io' of onnx to export: known are fp32, fp16, dynamic, int8, mixed",
        ),
        ({"precisions": ()}, "precisions to export are none"),
        ({"formats": ("onnx", "onnx")}, "formats to export are onnx, onnx: name each wanted one once"),
    ],
    ids=["format", "precision", "combination", "none", "twice"],
)
def test_unknown_choices_are_refused_at_once(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        export(Colours(), tmp_path / "bundle", **changes)
    assert_one_line(caught.value, words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"golden": pixels(4).astype(np.float32)}, "images are float32"),
        ({"golden": pixels(4)[:, :8]}, f"expected uint8 [N, {SIZE}, {SIZE}, 3]"),
        ({"calibration": None, "precisions": ("mixed",)}, "static int8 needs calibration images"),
    ],
    ids=["golden type", "golden size", "no calibration images"],
)
def test_unusable_images_are_refused_at_once(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError) as caught:
        export(Colours(), tmp_path / "bundle", **changes)
    assert_one_line(caught.value, words)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pixels(1), "1 calibration images do not show the range"),
        (np.full((9, SIZE, SIZE, 3), np.nan, np.float32), "calibration images are float32"),
        (pixels(9).astype(np.int64), "calibration images are int64"),
        (np.repeat(pixels(1), 9, axis=0), "all the same"),
        (pixels(9)[0], r"expected uint8 \[K, S, S, 3\]"),
    ],
    ids=["one image", "NaN", "dtype", "constant", "no batch"],
)
def test_unusable_calibration_images_are_named(images: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Calibration(images)


@pytest.mark.parametrize(
    ("method", "percentile", "message"),
    [
        ("kl", 99.99, "there is no calibration method 'kl': known are minmax, percentile, entropy, mse"),
        ("percentile", 100.1, "percentile is 100.1: give one above 50 and at most 100"),
        ("percentile", 50, "percentile is 50"),
        ("percentile", float("nan"), "percentile is nan"),
    ],
)
def test_unusable_calibration_settings_are_named(method: Any, percentile: float, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Calibration(pixels(8), method, percentile)


def test_too_few_training_images_are_no_mistake_where_none_are_needed(tmp_path: Path) -> None:
    export(Colours(), tmp_path / "bundle", calibration=None, precisions=("fp32", "fp16", "dynamic"))
    assert (tmp_path / "bundle" / MANIFEST).is_file()


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    network = Colours()
    torch.nn.init.constant_(network.embed.weight, float("nan"))
    with pytest.raises(ModelError) as caught:
        export(network, tmp_path / "bundle")
    assert_one_line(caught.value, "returns NaN or infinity on the golden images")


def test_a_folder_of_other_things_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(BundleError) as caught:
        export(Colours(), tmp_path)
    assert_one_line(caught.value, "exists and is not a bundle")
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "bundle").write_text("a file")
    with pytest.raises(BundleError, match="is a file: choose a folder"):
        export(Colours(), tmp_path / "bundle")
