"""Networks made by hand for the budgets of `search.py`: MobileNets, ShuffleNetV2 and the presets, scaled.

Their blocks at the size of these images: three resolutions, strides where the images still have pixels. The
width multiplier is the largest whose network is within the budget.
"""

from __future__ import annotations

from collections.abc import Callable

from hetero.models.build import Family
from hetero.models.elastic import ElasticConfig, Stage
from hetero.models.shuffle import ShuffleConfig, ShuffleStage

_SCALES = [round(0.05 * i, 2) for i in range(2, 61)]


def mobilenet_v2(width: float, dim: int) -> ElasticConfig:
    """Sandler et al., CVPR 2018: expansion 6 after the first stage, 3x3 kernels, ReLU6."""
    stages = (
        Stage(width=16, expansion=1),
        Stage(width=24, depth=2, stride=2, expansion=6),
        Stage(width=40, depth=3, stride=2, expansion=6),
    )
    return ElasticConfig(stem=16, stages=stages, head=_head(160, width), width=width, dim=dim)


def mobilenet_v3(width: float, dim: int) -> ElasticConfig:
    """Howard et al., ICCV 2019 (small): 5x5 kernels, squeeze-and-excitation, hard swish."""
    stages = (
        Stage(width=16, expansion=1, squeeze_excite=True),
        Stage(width=24, depth=2, stride=2, expansion=4),
        Stage(width=40, depth=3, stride=2, kernel=5, expansion=4, squeeze_excite=True),
    )
    head = _head(160, width)
    return ElasticConfig(stem=16, stages=stages, head=head, width=width, dim=dim, activation="hswish")


def plain(width: float, dim: int) -> ElasticConfig:
    """The student's own family as its presets are: expansion 3, ReLU6."""
    return ElasticConfig(width=width, head=_head(192, width), dim=dim)


def shufflenet_v2(width: float, dim: int) -> ShuffleConfig:
    """Ma et al., ECCV 2018: 3x3 kernels, half of the channels pass by, the doubling of widths by stage."""
    stages = (
        ShuffleStage(width=32, operators=("shuffle3",) * 2, stride=1),
        ShuffleStage(width=64, operators=("shuffle3",) * 4),
        ShuffleStage(width=128, operators=("shuffle3",) * 4),
    )
    return ShuffleConfig(stem=16, stages=stages, head=_head(192, width), width=width, dim=dim)


PRESET = "elastic preset"

Make = Callable[[float, int], Family]

HANDMADE: dict[str, Make] = {
    "MobileNetV2": mobilenet_v2,
    "MobileNetV3": mobilenet_v3,
    "ShuffleNetV2": shufflenet_v2,
    PRESET: plain,
}


def narrowest(make: Make, dim: int) -> Family:
    """Of its kind."""
    return make(_SCALES[0], dim)


def within(make: Make, fits: Callable[[Family], bool], dim: int) -> Family | None:
    """The widest of its kind that fits; None when the narrowest does not."""
    if not fits(narrowest(make, dim)):
        return None
    return [config for config in (make(scale, dim) for scale in _SCALES) if fits(config)][-1]


def _head(width: int, scale: float) -> int:
    """The last layer before pooling: narrower with the network, never wider."""
    return max(32, round(width * min(1.0, scale) / 8) * 8)
