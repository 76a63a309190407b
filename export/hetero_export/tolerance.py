"""How far a device's embeddings of the golden images may be from the network's."""

from __future__ import annotations

from hetero_devices.bundle import Precision
from hetero_devices.errors import ModelError

FLOAT = 1e-5
HALF = 1e-3
FACTOR = 3.0
FLOOR = 1e-3
LOST = 0.1

_FIXED: dict[Precision, float] = {"fp32": FLOAT, "fp16": HALF}


def tolerance(precision: Precision, distance: float, file: str) -> float:
    """The largest 1 - cosine to allow on any golden image, given the largest one measured on this host.

    float32: 1e-5. Runtimes and processors differ by 4e-7. Not scaled by the measurement, so that an inexact
    conversion fails here instead of widening its own limit.

    float16: 1e-3, not scaled either. On this host, which rounds weights and activations to half but adds in
    float32, it is 6e-8 on elastic-s and was 4e-5 on the worst other network tried; a processor that also
    adds in half is further off by the square root of the terms of a sum.

    8 bits (dynamic, int8 with any ends, mixed): 3 x measured, at least 1e-3. Kernel sets (XNNPACK, built-in,
    reference) round differently, yet are equally far from float32: on elastic-m and elastic-l their means
    agree within 8 %, their largest distance over 16 golden images within a factor 2.2 (99 % of draws; 3.2 at
    most). Relative to the measurement and not absolute, because a network whose embeddings lie close
    together also has small distances: a fixed 2e-2 let swapped colour channels pass on one. Mild saturation
    on processors without VNNI (2.2 to 3.1 x measured on elastic-m) may hide in it; `onnx_int8` therefore
    writes no weights that can saturate. Ranges taken at each run differ by 4e-6 with what shares the batch.

    Raises ModelError when the measured distance is not acceptable: above 1e-5 in float32, 1e-3 in float16,
    and 0.1 in 8 bits, where the limit could no longer tell a broken model from a working one.
    """
    if precision in _FIXED:
        limit = _FIXED[precision]
        if not distance <= limit:
            raise ModelError(f"{file} does not compute what the network does: 1 - cosine is {distance:.1e}")
        return limit
    if not distance <= LOST:
        raise ModelError(
            f"{file} loses the space: 1 - cosine reaches {distance:.2f} on the golden images; "
            "calibrate with more images of their kind, train longer, or export fp32 only"
        )
    return round(max(FACTOR * distance, FLOOR), 4)
