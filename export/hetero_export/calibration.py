"""Calibration: the images and the rule by which static quantisation chooses its ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hetero.recipes.recipe import CalibrationMethod
from hetero_devices import runtimes
from hetero_devices.errors import DataError, ModelError
from hetero_export.clipping import Histogram, Range, clipping

MINIMUM_CALIBRATION = 8
"""Fewer images do not show the range of an activation; 100 or more of the real kind are advised."""

Images = npt.NDArray[np.uint8]
Activations = Callable[[], Iterable[Mapping[str, npt.NDArray[Any]]]]
"""One pass over the images: for each block of them, tensor name -> float32 values of any shape."""


@dataclass(frozen=True)
class Calibration:
    """What a static quantiser is given.

    images: uint8 [K, S, S, 3], K >= 8, of the kind the model will meet, from training data, never test.
    method: how a range follows from the values seen, see `clipping`. percentile: of values kept, in
    (50, 100], for the method of that name. keep_float: names of layers to leave in float32, as
    `StaticOnnx.layers` and `StaticLitert.layers` name them.

    Raises DataError for unusable images, RecipeError for an unknown method or percentile.
    """

    images: Images
    method: CalibrationMethod = "minmax"
    percentile: float = 99.99
    keep_float: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_calibration(self.images)
        clipping(self.method, self.percentile)

    def describe(self) -> dict[str, Any]:
        """For a manifest: method and number of images."""
        found: dict[str, Any] = {"method": self.method, "images": len(self.images)}
        return found | ({"percentile": self.percentile} if self.method == "percentile" else {})

    def ranges(self, activations: Activations) -> dict[str, Range]:
        """Tensor name -> (low, high) to be covered. `activations` is called once, or twice for histograms.

        Raises ModelError for values that are not finite.
        """
        extremes = _extremes(activations())
        if self.method == "minmax":
            return extremes
        clip = clipping(self.method, self.percentile)
        return {name: clip(histogram) for name, histogram in _histograms(activations(), extremes).items()}


def check_calibration(images: npt.NDArray[np.generic]) -> None:
    """Raise DataError unless `images` is uint8 [K, S, S, 3] with K >= 8, not all the same."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        found = f"{images.dtype} {list(images.shape)}"
        raise DataError(f"calibration images are {found}, expected uint8 [K, S, S, 3]: pass camera bytes")
    if len(images) < MINIMUM_CALIBRATION:
        raise DataError(
            f"{len(images)} calibration images do not show the range of activations: "
            f"give at least {MINIMUM_CALIBRATION}, better 100, of the kind the model will meet"
        )
    if (images == images[0]).all():
        raise DataError(f"the {len(images)} calibration images are all the same: give different ones")


def check_runs(source: Path, images: Images) -> None:
    """Raise DataError unless the images fit the model at `source`, ModelError unless it runs them."""
    try:
        runtimes.load(source).run(images[:2])
    except DataError as error:
        raise DataError(f"calibration {error}") from None


def _extremes(blocks: Iterable[Mapping[str, npt.NDArray[Any]]]) -> dict[str, Range]:
    found: dict[str, Range] = {}
    for block in blocks:
        for name, values in block.items():
            low, high = float(values.min()), float(values.max())
            if not np.isfinite([low, high]).all():
                raise ModelError(f"the network computes NaN or infinity on a calibration image (at {name})")
            before = found.get(name, (low, high))
            found[name] = min(low, before[0]), max(high, before[1])
    return found


def _histograms(
    blocks: Iterable[Mapping[str, npt.NDArray[Any]]], extremes: Mapping[str, Range]
) -> dict[str, Histogram]:
    histograms = {name: Histogram.empty(*limits) for name, limits in extremes.items()}
    for block in blocks:
        for name, values in block.items():
            if histograms[name].low < histograms[name].high:  # else the tensor is zero throughout
                histograms[name] = histograms[name].add(values)
    return histograms
