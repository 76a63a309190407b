"""What re-embedding costs: hours and money, from a rate that was measured."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hetero.models.encoder import Encoder
from hetero_devices.errors import DataError

_BATCH = 64


@dataclass(frozen=True)
class Cost:
    """images to embed at images_per_second by each of `workers`; money: None without a price."""

    images: int
    images_per_second: float
    workers: int
    hours: float
    price_per_hour: float | None
    money: float | None


def embedding_cost(
    images: int, images_per_second: float, workers: int = 1, price_per_hour: float | None = None
) -> Cost:
    """Hours of wall clock with `workers` at once, and money: price_per_hour is of one worker.

    DataError unless the rate is positive and finite, workers at least 1, the price not negative.
    """
    if not 0 < images_per_second < float("inf"):
        raise DataError(f"a rate of {images_per_second} images a second is none: measure it")
    if workers < 1:
        raise DataError(f"{workers} workers embed nothing: give at least 1")
    if price_per_hour is not None and not 0 <= price_per_hour < float("inf"):
        raise DataError(f"a price of {price_per_hour} an hour is none")
    busy = images / images_per_second / 3600  # hours of one worker
    money = None if price_per_hour is None else busy * price_per_hour
    return Cost(images, images_per_second, workers, busy / workers, price_per_hour, money)


def measure_rate(encoder: Encoder, images: npt.NDArray[np.uint8], seconds: float = 2.0) -> float:
    """Images a second that `encoder` embeds on this machine: uint8 [N, S, S, 3], over and over.

    The median batch counts, after one batch of warming up; decoding and storing are not in it.
    """
    if not len(images):
        raise DataError("no images to measure the embedding rate with")
    batch = np.ascontiguousarray(images[:_BATCH])
    encoder.encode(batch)
    took: list[float] = []
    while not took or sum(took) < seconds:
        start = time.perf_counter()
        encoder.encode(batch)
        took.append(time.perf_counter() - start)
    return len(batch) / float(np.median(took))
