"""From values to the range that 8 bits cover: each rule against a direct computation, and at the edges."""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest

from hetero.recipes.recipe import CalibrationMethod
from hetero_devices.errors import ModelError
from hetero_export.calibration import Calibration
from hetero_export.clipping import (
    Histogram,
    Range,
    by_entropy,
    by_extremes,
    by_percentile,
    by_squared_error,
    clipping,
)

Values = npt.NDArray[np.float32]


def histogram(values: Values) -> Histogram:
    return Histogram.empty(float(values.min()), float(values.max())).add(values)


def normal(count: int = 50_000, seed: int = 0) -> Values:
    return np.random.default_rng(seed).normal(size=count).astype(np.float32)


def with_outlier(values: Values, outlier: float = 40.0) -> Values:
    return np.append(values, np.float32(outlier))


def quantisation_error(values: Values, limits: Range) -> float:
    """Mean squared error of 256 levels over the range, one of which is zero, computed value by value."""
    step = (limits[1] - limits[0]) / 255
    zero_point = np.rint(-limits[0] / step)
    codes = np.clip(np.rint(values / step) + zero_point, 0, 255)
    return float((((codes - zero_point) * step - values) ** 2).mean())


def test_extremes_include_zero() -> None:
    assert by_extremes(histogram(np.array([2, 3], np.float32))) == (0, 3)
    assert by_extremes(histogram(np.array([-2, -1], np.float32))) == (-2, 0)


def test_zeros_are_not_counted() -> None:
    values = np.array([0, 0, 0, 1, 2], np.float32)
    assert histogram(values).counts.sum() == 2


def test_counting_in_parts_is_counting_at_once() -> None:
    values = normal(1000)
    whole = histogram(values)
    parts = Histogram.empty(whole.low, whole.high).add(values[:300]).add(values[300:])
    np.testing.assert_array_equal(whole.counts, parts.counts)
    assert whole.counts[0] >= 1
    assert whole.counts[-1] >= 1


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
def test_percentile_is_that_of_the_values(percentile: float) -> None:
    values = normal()
    found = by_percentile(histogram(values), percentile)
    expected = np.percentile(values, [(100 - percentile) / 2, 100 - (100 - percentile) / 2])
    width = (values.max() - values.min()) / 2048
    np.testing.assert_allclose(found, expected, atol=1.01 * width + (0.05 if percentile > 99 else 0))
    assert np.mean((values >= found[0]) & (values <= found[1])) >= percentile / 100


def test_the_hundredth_percentile_is_everything() -> None:
    whole = histogram(with_outlier(normal(1000)))
    assert by_percentile(whole, 100) == pytest.approx(by_extremes(whole))


def test_squared_error_finds_the_best_threshold() -> None:
    values = np.random.default_rng(0).laplace(size=50_000).astype(np.float32)  # long tails
    found = by_squared_error(histogram(values))
    largest = float(np.abs(values).max())
    thresholds = largest * np.arange(16, 129) / 128
    candidates = [(max(float(values.min()), -t), min(float(values.max()), t)) for t in thresholds]
    best = min(quantisation_error(values, limits) for limits in candidates)
    assert quantisation_error(values, found) <= 1.02 * best
    assert max(np.abs(found)) < 0.95 * largest


def test_uniform_values_are_not_clipped_by_squared_error() -> None:
    values = np.linspace(-1, 1, 10_001, dtype=np.float32)
    assert by_squared_error(histogram(values)) == pytest.approx((-1, 1), abs=0.02)


def test_entropy_cuts_a_lone_outlier_and_keeps_the_bulk() -> None:
    values = with_outlier(normal())
    low, high = by_entropy(histogram(values))
    assert high < 0.5 * values.max()
    assert np.mean((values >= low) & (values <= high)) > 0.999


def test_entropy_keeps_a_spike_at_the_end() -> None:
    """ReLU6 gathers values at 6: cutting there would move a large part of the distribution."""
    values = np.clip(np.abs(normal()) * 4, 0, 6)
    assert by_entropy(histogram(values)) == pytest.approx((0, 6), abs=0.05)


@pytest.mark.parametrize("method", get_args(CalibrationMethod))
@pytest.mark.parametrize("sign", [1, -1])
def test_a_tensor_of_one_sign_keeps_zero_at_its_end(method: CalibrationMethod, sign: int) -> None:
    low, high = clipping(method, 99.9)(histogram(sign * np.abs(normal(5000)).astype(np.float32)))
    assert min(abs(low), abs(high)) == pytest.approx(0, abs=0.01)
    assert low <= 0 <= high
    assert high - low > 1


@pytest.mark.parametrize("method", get_args(CalibrationMethod))
def test_a_tensor_of_zeros_has_an_empty_range(method: CalibrationMethod) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
    found = Calibration(images, method).ranges(lambda: [{"a": np.zeros((2, 3), np.float32)}])
    assert found == {"a": (0, 0)}


def test_ranges_see_every_block_and_passes_are_few() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
    blocks = [{"a": normal(500, seed), "b": -np.abs(normal(500, seed))} for seed in range(4)]
    passes = []
    for method in get_args(CalibrationMethod):
        asked: list[int] = []

        def activations(asked: list[int] = asked) -> list[dict[str, Values]]:
            asked.append(1)
            return blocks

        found = Calibration(images, method).ranges(activations)
        assert found["b"][1] == pytest.approx(0, abs=0.01)
        passes.append(len(asked))
        if method == "minmax":
            assert found["a"] == (min(b["a"].min() for b in blocks), max(b["a"].max() for b in blocks))
    assert passes == [1, 2, 2, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_not_finite_are_named(value: float) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
    with pytest.raises(ModelError, match=r"NaN or infinity on a calibration image \(at conv\)"):
        Calibration(images).ranges(lambda: [{"conv": np.array([0, value], np.float32)}])
