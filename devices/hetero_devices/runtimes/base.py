"""What every runtime offers, and the contract of the models it runs."""

from __future__ import annotations

import re
from typing import Any, Final, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import DataError, ModelError

Format = Literal["onnx", "tflite", "pte"]
"""A model file's format, which is also its suffix and decides the runtime."""

FORMATS: Final[tuple[Format, ...]] = get_args(Format)

INPUT, OUTPUT = "image", "embedding"


class Session(Protocol):
    """A model file loaded into a runtime."""

    @property
    def details(self) -> dict[str, Any]:
        """What ran, JSON-able: `runtime`, `version`, `input_dtype`, `batch`, `threads`, `xnnpack_partitions`.

        `batch` is the largest batch the runtime takes at once (None: any). `xnnpack_partitions` is the number
        of graph parts XNNPACK took over: 0 means the builtin kernels ran (other numbers, slower), None that
        the runtime has no XNNPACK or does not tell.
        """
        ...

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed images: uint8 [N, H, W, 3] RGB, 0..255 -> float32 [N, D], in the same order.

        Raises DataError for images of another dtype or shape, ModelError when the runtime fails or the
        embeddings are not finite.
        """
        ...


def check_images(images: npt.NDArray[Any], height: int, width: int) -> None:
    """Raise DataError unless `images` is a uint8 array [N, height, width, 3]."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (height, width, 3):
        found = f"{images.dtype} {list(images.shape)}"
        raise DataError(f"images are {found}, this model takes uint8 [N, {height}, {width}, 3]")


def check_embeddings(embeddings: npt.NDArray[Any], count: int, model: str) -> npt.NDArray[np.float32]:
    """The embeddings, or ModelError unless they are finite float32 [count, D]."""
    if embeddings.dtype != np.float32 or embeddings.ndim != 2 or len(embeddings) != count:
        found = f"{embeddings.dtype} {list(embeddings.shape)}"
        raise ModelError(f"{model} gave {found} for {count} images, expected float32 [{count}, D]")
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise ModelError(f"{model} gave NaN or infinity (first for image {int(np.argmin(finite))})")
    return embeddings


def broken_contract(model: str, found: str, expected: str) -> ModelError:
    """The error for a model whose inputs or outputs are not those of an exported student."""
    return ModelError(f"{model} has {found}, expected {expected}: export it with 'hetero export'")


_UNLOADABLE: Final = (
    (
        r"Unsupported model IR version.*|Current official support for domain \S+ is till opset \d+"
        r"|Didn't find op for builtin opcode '\w+' version '\d+'|Model provided is schema version .*"
        r"|failed with error 0x:?30",
        "the file is newer than this runtime: update it, or export with an older version",
    ),
    (
        r"No Op registered for .*|No opset import for domain .*|Encountered unresolved custom op: \w+"
        r"|failed with error 0x:?14",
        "this runtime lacks an operator of the model: update it, or choose a network without that operator",
    ),
    (
        r"Protobuf parsing failed|The model is not a valid Flatbuffer buffer|codec can't decode byte"
        r"|Failed to load program, error: \w+:?\w*|failed with error 0x:?\w+",
        "the file is damaged: copy it again or export it again",
    ),
)
"""What the runtimes say when they cannot load a file, and what to do about it."""


def unloadable(model: str, runtime: str, error: Exception) -> ModelError:
    """The error for a file that a runtime cannot load: its own words, and a remedy where there is one."""
    text = " ".join(str(error).split())
    for pattern, remedy in _UNLOADABLE:
        if found := re.search(pattern, text):
            return ModelError(
                f"cannot load {model} with {runtime}: {one_line(ValueError(found[0]))}; {remedy}"
            )
    return ModelError(f"cannot load {model} with {runtime}: {one_line(error)}")


def one_line(error: Exception) -> str:
    """A runtime's own message, cut to what fits a line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."
