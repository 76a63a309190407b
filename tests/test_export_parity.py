"""Comparing embeddings, the tolerance drawn from it, and names of layers in LiteRT files."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from hetero_devices.bundle import Precision
from hetero_devices.errors import DataError, ModelError
from hetero_export.flatbuffer import module_path
from hetero_export.parity import parity
from hetero_export.tolerance import tolerance


@pytest.fixture
def vectors() -> npt.NDArray[np.float32]:
    z = np.random.default_rng(0).normal(size=(200, 16))
    unit: npt.NDArray[np.float32] = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
    return unit


def test_equal_embeddings(vectors: npt.NDArray[np.float32]) -> None:
    found = parity(vectors, vectors.copy())
    assert found.cosine_min == pytest.approx(1, abs=1e-7)
    assert found.max_abs_error == 0


def test_one_opposite_row_moves_the_minimum_only(vectors: npt.NDArray[np.float32]) -> None:
    exported = vectors.copy()
    exported[7] *= -1
    found = parity(vectors, exported)
    assert found.cosine_min == pytest.approx(-1, abs=1e-6)
    assert found.cosine_p01 > 0.9
    assert found.cosine_mean == pytest.approx(1 - 2 / 200, abs=1e-6)
    assert found.max_abs_error == pytest.approx(2 * np.abs(vectors[7]).max())


def test_a_row_of_nan_counts_as_lost(vectors: npt.NDArray[np.float32]) -> None:
    exported = vectors.copy()
    exported[3, 5] = np.nan
    found = parity(vectors, exported)
    assert (found.cosine_min, found.max_abs_error) == (0, np.inf)


@pytest.mark.parametrize("rows", [0, 199])
def test_other_shapes_are_refused(vectors: npt.NDArray[np.float32], rows: int) -> None:
    with pytest.raises(DataError, match="cannot be compared"):
        parity(vectors[:rows], vectors if rows else vectors[:0])


def test_float_tolerance_does_not_grow_with_the_error() -> None:
    assert tolerance("fp32", 0.0, "m") == tolerance("fp32", 9e-6, "m") == 1e-5
    with pytest.raises(ModelError, match="m does not compute what the network does"):
        tolerance("fp32", 2e-5, "m")


def test_half_precision_has_a_limit_of_its_own() -> None:
    assert tolerance("fp16", 0.0, "m") == tolerance("fp16", 9e-4, "m") == 1e-3
    with pytest.raises(ModelError, match="m does not compute what the network does"):
        tolerance("fp16", 2e-3, "m")


@pytest.mark.parametrize("precision", ["dynamic", "int8", "int8_io", "uint8_io", "mixed"])
def test_tolerance_of_8_bits_grows_until_the_space_is_lost(precision: Precision) -> None:
    assert tolerance(precision, 1e-5, "m") == 1e-3
    assert tolerance(precision, 0.01, "m") == pytest.approx(0.03)
    for distance in (0.2, float("nan")):
        with pytest.raises(ModelError, match="m loses the space"):
            tolerance(precision, distance, "m")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "a.b._Signature/x.Deploy_deploy/y.Net_network/z.Sequential_features/r.ReLU6_1;;q.W/s.T_0;1",
            "network/features/1",
        ),
        ("a._Signature/x.Deploy_deploy/hetero.models.layers.UnitNorm_unit_norm;2", "unit_norm"),
        ("a._Signature/x.Deploy_deploy;2", "deploy"),
        ("serving_default_image", "serving_default_image"),
        ("arith.constant3", "arith.constant3"),
    ],
)
def test_tensors_are_named_by_the_torch_module(name: str, expected: str) -> None:
    assert module_path(name) == expected
