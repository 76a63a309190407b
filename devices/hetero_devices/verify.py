"""Does a bundle do what it says: hashes, and every model against the golden vectors, on a device."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hetero_devices.bundle import Bundle, ModelFile
from hetero_devices.devices import Device, HostDevice, Profile, embed
from hetero_devices.errors import BundleError, DeviceError
from hetero_devices.runtimes import Format

_NORM_TOLERANCE = 1e-3

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Check:
    """One gate: `value` must not exceed `threshold` (None where there is nothing to compare)."""

    name: str
    passed: bool
    value: float | None
    threshold: float | None
    detail: str


def verify(
    bundle: Path, device: Device | None = None, *, formats: Collection[Format] | None = None
) -> list[Check]:
    """Check a bundle; all passed when every `Check.passed`.

    device: where the models run, by default a process without torch on this host.
    formats: restrict to these, e.g. where only one runtime is installed.
    Raises BundleError for a damaged bundle or when no model is left, MissingExtra for an absent runtime.
    """
    opened = Bundle.open(bundle)
    models = [model for model in opened.manifest.models if formats is None or model.format in formats]
    if not models:
        raise BundleError(
            f"bundle {opened.manifest.name} has no model of the formats {sorted(formats or ())}"
        )
    images, golden = opened.golden_images(), opened.golden_vectors()
    checks = [_hashes(opened), norm_check("golden vectors", golden)]
    for model in models:
        checks += _run(device or HostDevice(), opened.path(model), model, images, golden)
    return checks


def compare(model: ModelFile, embeddings: Vectors, golden: Vectors, profile: Profile) -> list[Check]:
    """Checks of one model: its embeddings of the golden images against the golden vectors, all [G, D]."""
    fits = embeddings.shape == golden.shape
    shape = f"{list(embeddings.shape)}, expected {list(golden.shape)}"
    checks = [Check(f"{model.file} shape", fits, None, None, shape), _input_check(model, profile)]
    if fits:
        checks += [norm_check(model.file, embeddings), parity_check(model, embeddings, golden, profile)]
    return checks


def norm_check(name: str, vectors: Vectors) -> Check:
    """Vectors [N, D] are finite and of unit length."""
    with np.errstate(invalid="ignore"):
        error = float(np.abs(np.linalg.norm(vectors, axis=1) - 1).max())
    if not np.isfinite(error):
        return Check(f"{name} unit norm", False, None, _NORM_TOLERANCE, "NaN or infinity")
    detail = "largest |norm - 1|"
    return Check(f"{name} unit norm", error <= _NORM_TOLERANCE, error, _NORM_TOLERANCE, detail)


def parity_check(model: ModelFile, embeddings: Vectors, golden: Vectors, profile: Profile) -> Check:
    """The largest 1 - cosine over the golden images is within the manifest's tolerance."""
    distance = cosine_distance(embeddings, golden)
    worst = int(np.argmax(distance))
    value = float(distance[worst])
    detail = f"largest 1 - cosine, at golden image {worst}; {_describe(profile)}"
    return Check(f"{model.file} parity", value <= model.tolerance, value, model.tolerance, detail)


def cosine_distance(a: Vectors, b: Vectors) -> npt.NDArray[np.float64]:
    """1 - cosine of the rows of a and b, both [N, D] -> [N]; 1 where a row is zero or not finite."""
    left, right = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (left * right).sum(axis=1) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))
    return np.where(np.isfinite(cosine), np.maximum(1 - cosine, 0), 1.0)


def _hashes(bundle: Bundle) -> Check:
    count = len(bundle.manifest.files())  # Bundle.open raised unless each was found unchanged
    return Check("hashes", True, None, None, f"{count} files unchanged, none unexplained")


def _run(
    device: Device, path: Path, model: ModelFile, images: npt.NDArray[np.uint8], golden: Vectors
) -> list[Check]:
    try:
        embeddings, profile = embed(device, path, images)
    except DeviceError as error:
        return [Check(f"{model.file} runs", False, None, None, str(error))]
    return compare(model, embeddings, golden, profile)


def _input_check(model: ModelFile, profile: Profile) -> Check:
    found = profile.runtime.get("input_dtype")
    detail = f"{found}, the manifest says {model.input_dtype}"
    return Check(f"{model.file} input", found == model.input_dtype, None, None, detail)


def _describe(profile: Profile) -> str:
    partitions = profile.runtime.get("xnnpack_partitions")
    xnnpack = "" if partitions is None else f", {partitions} XNNPACK partitions"
    return f"{profile.runtime.get('runtime')} {profile.runtime.get('version')}{xnnpack}"
