"""The stock paths that a benchmark compares with compute what they should: else the comparison is unfair."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hetero.models.build import build, preset
from hetero_devices.errors import ModelError
from hetero_export.quiet import quiet

SIZE = 16
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("export_peers_paths")


def images(count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def test_stock_onnx_paths_keep_the_embedding(stock: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build(preset("elastic-xs")).eval()
    with torch.no_grad():
        expected = stock.Stock(network)(torch.from_numpy(stock.scaled(images(4)))).numpy()
    plain = tmp_path / "plain.onnx"
    with quiet():
        stock.torch_onnx(network, SIZE, plain)
        stock.onnx_static(plain, tmp_path / "static.onnx", images(16))
        stock.onnx_dynamic(plain, tmp_path / "dynamic.onnx")
    for name, least in (("plain", 0.99999), ("static", 0.9), ("dynamic", 0.9)):
        found = stock.FileSession(tmp_path / f"{name}.onnx").run(images(4))
        assert (found * expected).sum(1).min() > least, name


def test_stock_scaling_is_that_of_the_student(stock: Any) -> None:
    pixels = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    pixels[0, 2, 5] = (0, 51, 255)
    np.testing.assert_allclose(stock.scaled(pixels)[0, :, 2, 5], (-1, -0.6, 1), atol=1e-6)


def test_integer_ends_of_a_stock_file_are_scaled(stock: Any) -> None:
    tensor = {"dtype": np.int8, "quantization": (1 / 127.5, 0)}
    np.testing.assert_array_equal(stock._entered(np.array([[-1, 0, 1.0]]), tensor), [[-128, 0, 127]])
    vector = stock._left(np.array([[30, 40]], np.int8), {"dtype": np.int8, "quantization": (0.1, 0)})
    np.testing.assert_allclose(vector, [[0.6, 0.8]], atol=1e-6)


def test_onnx2tf_that_fails_is_named(stock: Any, tmp_path: Path) -> None:
    (tmp_path / "plain.onnx").write_bytes(b"no model")
    (tmp_path / "site").mkdir()
    with pytest.raises(ModelError, match="onnx2tf failed: "):
        stock.onnx2tf(tmp_path / "plain.onnx", tmp_path / "out.tflite", tmp_path / "site", None)
