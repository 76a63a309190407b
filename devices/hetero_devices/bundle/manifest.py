"""What a bundle says about itself: `manifest.json`, its schema and its file names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from hetero_devices import strict
from hetero_devices.errors import BundleError, RecipeError
from hetero_devices.files import sha256_file
from hetero_devices.runtimes.base import Format
from hetero_devices.space import Preprocessing, Space

SCHEMA_VERSION: Final = 1
MANIFEST = "manifest.json"
CARD = "README.md"
GOLDEN_IMAGES = "golden/images.npy"
GOLDEN_VECTORS = "golden/vectors.npy"

Precision = Literal["fp32", "fp16", "dynamic", "int8", "int8_io", "uint8_io", "mixed"]
"""float32; float16 weights; int8 weights with ranges taken at each run; static int8, with float or integer
ends; static int8 with some layers in float32."""

PRECISIONS: Final[Mapping[Format, tuple[Precision, ...]]] = {
    "onnx": ("fp32", "fp16", "dynamic", "int8", "mixed"),
    "tflite": get_args(Precision),
    "pte": ("fp32", "int8"),
}
"""What each format can be written in."""

# ASCII words joined by single slashes; a part may not begin with a dot, which also rules out "." and "..".
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def model_name(format: Format, precision: Precision) -> str:
    """The file name of a model inside a bundle, e.g. `model.int8.tflite`."""
    return f"model.{precision}.{format}"


def check_choice(formats: Sequence[str], precisions: Sequence[str]) -> None:
    """Raise RecipeError unless every format can be written in every precision, each named once."""
    _check_names("format", formats, tuple(PRECISIONS), "to export")
    for format, there in PRECISIONS.items():
        if format in formats:
            _check_names("precision", precisions, there, f"of {format} to export")


def _check_names(what: str, names: Sequence[str], known: Sequence[str], which: str) -> None:
    for name in names:
        if name not in known:
            raise RecipeError(f"there is no {what} {name!r} {which}: known are {', '.join(known)}")
    if not names or len(set(names)) < len(names):
        raise RecipeError(f"{what}s to export are {', '.join(names) or 'none'}: name each wanted one once")


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file of the bundle: `file` relative to it with forward slashes, hex `sha256`, size in `bytes`."""

    file: str
    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        if not _SAFE_NAME.fullmatch(self.file) or self.file == MANIFEST:
            raise BundleError(f"manifest names {self.file!r}, which is not a plain path inside the bundle")
        if not _SHA256.fullmatch(self.sha256) or self.bytes < 0:
            raise BundleError(f"manifest has no valid sha256 and size for {self.file}")

    @classmethod
    def of(cls, bundle: Path, file: str) -> FileRecord:
        """Record the file as it is on disk."""
        path = bundle / file
        return cls(file=file, sha256=sha256_file(path), bytes=path.stat().st_size)


@dataclass(frozen=True, kw_only=True)
class ModelFile(FileRecord):
    """One exported model: format and precision are its key in the bundle.

    input_dtype: of the graph's input `image`. tolerance: the largest allowed 1 - cosine of its embeddings
    against the golden vectors, on any golden image. details: free JSON, such as the opset.
    """

    format: Format
    precision: Precision
    input_dtype: Literal["uint8", "int8", "float32"]
    tolerance: float
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.tolerance <= 2:
            raise BundleError(f"manifest gives {self.file} the tolerance {self.tolerance}, expected 0 to 2")
        if not self.file.endswith(f".{self.format}"):
            raise BundleError(
                f"manifest calls {self.file} {self.format}: its name must end in .{self.format}"
            )

    @classmethod
    def record(
        cls,
        bundle: Path,
        format: Format,
        precision: Precision,
        *,
        input_dtype: Literal["uint8", "int8", "float32"],
        tolerance: float,
        details: dict[str, Any],
    ) -> ModelFile:
        """Record the model as it is on disk under its standard name."""
        file = FileRecord.of(bundle, model_name(format, precision))
        return cls(
            **asdict(file),
            format=format,
            precision=precision,
            input_dtype=input_dtype,
            tolerance=tolerance,
            details=details,
        )


@dataclass(frozen=True, kw_only=True)
class Golden:
    """`count` images (.npy, uint8 [G, H, W, 3]) and the float model's vectors of them (float32 [G, D])."""

    images: FileRecord
    vectors: FileRecord
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise BundleError(f"manifest counts {self.count} golden images, expected at least 1")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `manifest.json`.

    architecture: how to rebuild the network, free JSON. macs: multiply-accumulates of one image.
    tools: name -> version of what converted it. source: recipe, seed and sha256 of the weights, free JSON.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    space: Space
    preprocessing: Preprocessing
    models: tuple[ModelFile, ...]
    golden: Golden
    card: FileRecord
    architecture: dict[str, Any]
    macs: int
    parameters: int
    tools: dict[str, str]
    source: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.name.isprintable() or not self.name.strip():
            raise BundleError(f"manifest has the unusable name {self.name!r}")
        if self.space.dim < 1 or self.preprocessing.size < 1 or self.macs < 0 or self.parameters < 0:
            raise BundleError("manifest has an impossible dimension, image size, macs or parameters")
        if not self.models:
            raise BundleError("manifest lists no model")
        _distinct("the file", (record.file for record in self.files()))
        _distinct("the model", (f"{model.format} {model.precision}" for model in self.models))

    def files(self) -> tuple[FileRecord, ...]:
        """Every file the bundle consists of, apart from the manifest itself."""
        return (*self.models, self.golden.images, self.golden.vectors, self.card)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Any) -> Manifest:
        """Parse strictly; BundleError for another schema version, unknown or missing keys, unsafe names."""
        version = fields.get("schema_version") if isinstance(fields, dict) else None
        if type(version) is not int or version != SCHEMA_VERSION:
            raise BundleError(
                f"manifest has schema version {version!r}, this library reads {SCHEMA_VERSION}: "
                "update hetero or export again"
            )
        return strict.decode(cls, fields, "manifest", BundleError)


def _distinct(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BundleError(f"manifest lists {what} {name} twice")
        seen.add(name)
