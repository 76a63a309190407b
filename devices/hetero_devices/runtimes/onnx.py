"""ONNX Runtime on the CPU."""

from __future__ import annotations

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

_BLOCK = 32  # images per call: bounds the memory of the activations
_FATAL = 4  # log severity: a failure is raised, so the runtime need not print it as well


class OnnxSession:
    """An ONNX file: input `image` uint8 [batch, H, W, 3], output `embedding` float32 [batch, D]."""

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        """Raise MissingExtra, or ModelError when the file is damaged or breaks the contract."""
        runtime = require("onnxruntime", "device-onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:  # the runtime's exceptions share no narrower base
            raise unloadable(path.name, "ONNX Runtime", error) from None
        self._name = path.name
        self._height, self._width = self._check_contract()
        self._details = {
            "runtime": "onnxruntime",
            "version": str(runtime.__version__),
            "input_dtype": "uint8",
            "batch": None,
            "threads": threads,
            "xnnpack_partitions": None,
        }

    @property
    def details(self) -> dict[str, Any]:
        return dict(self._details)

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        check_images(images, self._height, self._width)
        starts = range(0, max(len(images), 1), _BLOCK)  # no image is one empty block
        blocks = [self._block(images[start : start + _BLOCK]) for start in starts]
        return check_embeddings(np.concatenate(blocks), len(images), self._name)

    def _block(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        try:
            (embeddings,) = self._session.run([OUTPUT], {INPUT: np.ascontiguousarray(images)})
        except Exception as error:
            raise ModelError(f"ONNX Runtime failed on {self._name}: {one_line(error)}") from None
        return np.asarray(embeddings)

    def _check_contract(self) -> tuple[int, int]:
        inputs = [f"{port.name}: {port.type} {port.shape}" for port in self._session.get_inputs()]
        outputs = [f"{port.name}: {port.type} {port.shape}" for port in self._session.get_outputs()]
        source, target = self._session.get_inputs(), self._session.get_outputs()
        if len(source) != 1 or not _is_image(source[0]):
            expected = f"one input {INPUT}: tensor(uint8) [batch, H, W, 3] with a free batch"
            raise broken_contract(self._name, f"inputs {inputs}", expected)
        if len(target) != 1 or not _is_embedding(target[0]):
            expected = f"one output {OUTPUT}: tensor(float) [batch, D]"
            raise broken_contract(self._name, f"outputs {outputs}", expected)
        _, height, width, _ = source[0].shape
        return height, width


def _is_image(port: Any) -> bool:
    if port.name != INPUT or port.type != "tensor(uint8)" or len(port.shape) != 4:
        return False
    batch, height, width, channels = port.shape
    return not isinstance(batch, int) and isinstance(height, int) and isinstance(width, int) and channels == 3


def _is_embedding(port: Any) -> bool:
    return bool(port.name == OUTPUT and port.type == "tensor(float)" and len(port.shape) == 2)
