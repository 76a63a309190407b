"""Which layers do not bear 8 bits: a scan of a model's layers, and int8 with the worst of them in float32."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hetero.progress import track
from hetero.recipes.recipe import MixedConfig
from hetero_devices import runtimes, strict
from hetero_devices.errors import BundleError
from hetero_devices.files import atomic_file
from hetero_devices.verify import cosine_distance
from hetero_export.calibration import Calibration, Images
from hetero_export.layers import Layer, Static
from hetero_export.quiet import quiet

Vectors = npt.NDArray[np.float32]
Embed = Callable[[Collection[str]], Vectors]
"""Names of the layers left in float -> embeddings of the images, float32 [N, D]."""


@dataclass(frozen=True)
class LayerScore:
    """distance: the mean 1 - cosine when this layer alone is quantised; macs: of one image."""

    name: str
    operator: str
    macs: int
    distance: float


@dataclass(frozen=True)
class Sensitivity:
    """What a scan found. layers: in the model's order. kept: names of those to leave in float32.

    distance_int8: with none of them in float, distance: with `kept` in float, both mean 1 - cosine against
    float32 on the calibration images. macs_share: of the layers kept.
    """

    layers: tuple[LayerScore, ...]
    kept: tuple[str, ...]
    distance_int8: float
    distance: float
    macs_share: float
    target: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Any) -> Sensitivity:
        """Parse what a manifest records; BundleError when it is no scan."""
        return strict.decode(cls, fields, "sensitivity", BundleError)

    def table(self) -> str:
        """Markdown, the most sensitive layer first."""
        total = sum(layer.macs for layer in self.layers)
        rows = [
            f"| {layer.name} | {layer.operator} | {layer.macs / max(total, 1):.1%} | {layer.distance:.1e} "
            f"| {'float32' if layer.name in self.kept else 'int8'} |"
            for layer in sorted(self.layers, key=lambda layer: -layer.distance)
        ]
        head = ("| layer | operator | MACs | 1 - cosine, alone in int8 | kept in |", "|---|---|---|---|---|")
        return "\n".join((*head, *rows))


def score(reference: Vectors, vectors: Vectors) -> float:
    """Mean 1 - cosine of the rows, both float32 [N, D]."""
    return float(cosine_distance(vectors, reference).mean())


def scan(layers: Sequence[Layer], reference: Vectors, embed: Embed, mixed: MixedConfig) -> Sensitivity:
    """Score every layer alone, then find the fewest of the worst to leave in float.

    One layer quantised at a time, as Wu et al., 2020, arXiv 2004.09602, section 5.2, not all but one: on
    elastic-s both orders led to mixed models equally close to float32, and the scores of single layers add
    up to 1.1 to 1.5 times the distance of the whole, so that they say what matters at all. They do not say
    what a layer in float32 gains, as its neighbours still round the tensors between them; hence how many
    it takes is measured on the mixed model itself, by bisection. Costs one quantisation and one pass over
    the images per layer and about log2 of the layers more; not resumable, being short: 0.2 s a layer in ONNX
    and 1 s in LiteRT for elastic-s and 64 images on one busy core.
    """
    names = [layer.name for layer in layers]
    scores = tuple(
        LayerScore(
            layer.name,
            layer.operator,
            layer.macs,
            score(reference, embed([name for name in names if name != layer.name])),
        )
        for layer in track(layers, "Scanning layers")
    )
    candidates = affordable(scores, mixed)
    distance_int8 = score(reference, embed(()))
    kept, distance = _fewest(candidates, distance_int8, mixed.target, lambda k: score(reference, embed(k)))
    total = max(sum(layer.macs for layer in layers), 1)
    share = sum(layer.macs for layer in layers if layer.name in kept) / total
    return Sensitivity(scores, tuple(kept), distance_int8, distance, share, mixed.target)


def affordable(scores: Sequence[LayerScore], mixed: MixedConfig) -> list[str]:
    """The most sensitive layers first, as many as both limits allow; too large a layer is passed over."""
    budget = mixed.max_macs * sum(layer.macs for layer in scores)
    chosen: list[str] = []
    for layer in sorted(scores, key=lambda layer: -layer.distance):
        if layer.macs <= budget and (mixed.max_layers is None or len(chosen) < mixed.max_layers):
            budget -= layer.macs
            chosen.append(layer.name)
    return chosen


def _fewest(
    candidates: list[str], none: float, target: float, measure: Callable[[list[str]], float]
) -> tuple[list[str], float]:
    """The shortest prefix of `candidates` that meets the target by bisection, all of them if none does."""
    if none <= target or not candidates:
        return [], none
    low, high = 0, len(candidates)  # the target is missed at `low`, and met at `high` if at all
    best = measure(candidates)
    while best <= target and high - low > 1:
        middle = (low + high) // 2
        distance = measure(candidates[:middle])
        if distance <= target:
            high, best = middle, distance
        else:
            low = middle
    return candidates[:high], best


def sensitivity(static: Static, source: Path, images: Images, mixed: MixedConfig) -> Sensitivity:
    """Scan a format's quantiser. images: uint8 [N, S, S, 3], of which the first `mixed.images` serve."""
    used = images[: mixed.images]
    with quiet():
        reference = runtimes.load(source).run(used)
    return scan(
        static.layers, reference, lambda kept: _embed(static.content(kept), source.suffix, used), mixed
    )


def quantise_mixed(
    static: Callable[[Path, Calibration], Static],
    source: Path,
    target: Path,
    calibration: Calibration,
    mixed: MixedConfig,
) -> dict[str, Any]:
    """Quantise `source` into `target` with the layers in float32 that a scan finds.

    Layers that `calibration.keep_float` names stay in float in any case and are not scanned.
    Returns what a manifest should say of it; raises as the format's static quantiser.
    """
    prepared = static(source, calibration)
    found = sensitivity(_Beyond(prepared, calibration.keep_float), source, calibration.images, mixed)
    content = prepared.content({*calibration.keep_float, *found.kept})
    with atomic_file(target) as temporary:
        temporary.write_bytes(content)
    return {"calibration": calibration.describe(), "sensitivity": found.to_json()}


@dataclass(frozen=True)
class _Beyond:
    """A quantiser that leaves some layers in float whatever it is asked."""

    static: Static
    always: tuple[str, ...]

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.static.layers if layer.name not in self.always)

    def content(self, keep_float: Collection[str]) -> bytes:
        return self.static.content((*self.always, *keep_float))


def _embed(content: bytes, suffix: str, images: Images) -> Vectors:
    with tempfile.TemporaryDirectory() as work, quiet():
        path = Path(work) / f"model{suffix}"
        path.write_bytes(content)
        return runtimes.load(path).run(images)
