"""How far a device's embeddings of the golden images may be from the network's."""

from __future__ import annotations

from hetero_devices.bundle import Precision
from hetero_devices.errors import ModelError

FLOAT = 1e-5
FACTOR = 3.0
FLOOR = 1e-3
LOST = 0.1


def tolerance(precision: Precision, distance: float, file: str) -> float:
    """The largest 1 - cosine to allow on any golden image, given the largest one measured on this host.

    float32: 1e-5. Runtimes and processors differ by 4e-7. Not scaled by the measurement, so that an inexact
    conversion fails here instead of widening its own limit.

    int8: 3 x measured, at least 1e-3. Kernel sets (XNNPACK, built-in, reference) round differently, yet are
    equally far from float32: on elastic-m and elastic-l their means agree within 8 %, their largest distance
    over 16 golden images within a factor 2.2 (99 % of draws; 3.2 at most). Relative to the measurement and
    not absolute, because a network whose embeddings lie close together also has small distances: a fixed
    2e-2 let swapped colour channels pass on one. Mild saturation on processors without VNNI (2.2 to 3.1 x
    measured on elastic-m) may hide in it; `onnx_int8` therefore writes no weights that can saturate.

    Raises ModelError when the measured distance is not acceptable: above 1e-5 in float32, above 0.1 in
    int8, where the limit could no longer tell a broken model from a working one.
    """
    if precision == "fp32":
        if not distance <= FLOAT:
            raise ModelError(f"{file} does not compute what the network does: 1 - cosine is {distance:.1e}")
        return FLOAT
    if not distance <= LOST:
        raise ModelError(
            f"{file} loses the space: 1 - cosine reaches {distance:.2f} on the golden images; "
            "calibrate with more images of their kind, train longer, or export fp32 only"
        )
    return round(max(FACTOR * distance, FLOOR), 4)
