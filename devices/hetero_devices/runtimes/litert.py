"""LiteRT (TensorFlow Lite) with its XNNPACK delegate."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import ModelError, require
from hetero_devices.runtimes.base import (
    INPUT,
    OUTPUT,
    broken_contract,
    check_embeddings,
    check_images,
    one_line,
    unloadable,
)

# How the bytes 0..255 enter: input dtype -> accepted (scale, zero point); a scale of 0 is "not quantised".
_QUANTISATION: dict[str, tuple[tuple[float, int], ...]] = {
    "float32": ((0.0, 0),),
    "uint8": ((1.0, 0), (0.0, 0)),
    "int8": ((1.0, -128),),
}


class LiteRTSession:
    """A TFLite file: input `image` [1, H, W, 3], output `embedding` [1, D].

    The input is float32 holding 0..255, or uint8, or int8 holding pixel - 128; images are run one by one.
    The output is a float32 unit vector, or an int8 or uint8 vector of any length, which `run` normalises.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        """Raise MissingExtra, or ModelError when the file is damaged or breaks the contract."""
        litert = require("ai_edge_litert.interpreter", "device-litert")
        self._name = path.name
        try:
            self._interpreter = litert.Interpreter(model_path=str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        except Exception as error:  # ValueError and RuntimeError, by the build also others
            raise unloadable(path.name, "LiteRT", error) from None
        self._input, self._output = self._check_contract()
        self._dtype = np.dtype(self._input["dtype"])
        self._details = {
            "runtime": "litert",
            "version": metadata.version("ai-edge-litert"),
            "input_dtype": self._dtype.name,
            "batch": 1,
            "threads": threads,
            "xnnpack_partitions": _partitions(self._interpreter),
        }

    @property
    def details(self) -> dict[str, Any]:
        return dict(self._details)

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        _, height, width, _ = self._input["shape"]
        check_images(images, int(height), int(width))
        embeddings = np.empty((len(images), int(self._output["shape"][1])), np.float32)
        for row, image in enumerate(images):
            embeddings[row] = self._one(image)
        return check_embeddings(embeddings, len(images), self._name)

    def _one(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        try:
            self._interpreter.set_tensor(self._input["index"], self._pixels(image)[None])
            self._interpreter.invoke()
        except Exception as error:
            raise ModelError(f"LiteRT failed on {self._name}: {one_line(error)}") from None
        embedding: npt.NDArray[Any] = self._interpreter.get_tensor(self._output["index"])[0]
        return embedding if embedding.dtype == np.float32 else self._direction(embedding)

    def _direction(self, codes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Unit vector of quantised values; the scale does not matter, the zero point does."""
        centred = codes.astype(np.float32) - np.float32(self._output["quantization"][1])
        length = np.sqrt((centred * centred).sum() + np.float32(1e-12))
        unit: npt.NDArray[np.float32] = centred / length
        return unit

    def _pixels(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        if self._dtype == np.int8:
            return (image ^ 0x80).view(np.int8)  # pixel - 128
        return image.astype(self._dtype, copy=False)

    def _check_contract(self) -> tuple[dict[str, Any], dict[str, Any]]:
        signatures = list(self._interpreter.get_signature_list().values())
        if signatures != [{"inputs": [INPUT], "outputs": [OUTPUT]}]:
            expected = f"one signature with input {INPUT} and output {OUTPUT}"
            raise broken_contract(self._name, f"signatures {signatures}", expected)
        source, target = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        if not _is_image(source):
            expected = "[1, H, W, 3] float32, uint8 of scale 1, or int8 of scale 1 and zero point -128"
            raise broken_contract(self._name, f"input {_describe(source)}", expected)
        if not _is_embedding(target):
            expected = "[1, D] float32, or int8 or uint8 with a scale"
            raise broken_contract(self._name, f"output {_describe(target)}", expected)
        return source, target


def _is_image(tensor: dict[str, Any]) -> bool:
    shape = list(tensor["shape"])
    accepted = _QUANTISATION.get(np.dtype(tensor["dtype"]).name, ())
    return len(shape) == 4 and shape[0] == 1 and shape[3] == 3 and tuple(tensor["quantization"]) in accepted


def _is_embedding(tensor: dict[str, Any]) -> bool:
    quantised = tensor["dtype"] in (np.int8, np.uint8) and tensor["quantization"][0] > 0
    shape = list(tensor["shape"])
    return len(shape) == 2 and shape[0] == 1 and (quantised or tensor["dtype"] is np.float32)


def _describe(tensor: dict[str, Any]) -> str:
    shape = [int(extent) for extent in tensor["shape"]]
    scale, zero_point = tensor["quantization"]
    return f"{shape} {np.dtype(tensor['dtype']).name} (scale {scale}, zero point {zero_point})"


def _partitions(interpreter: Any) -> int | None:
    """How many parts of the graph XNNPACK runs; the interpreter tells only through a private method."""
    operators = getattr(interpreter, "_get_ops_details", None)
    if operators is None:
        return None
    return [operator["op_name"] for operator in operators()].count("DELEGATE")
