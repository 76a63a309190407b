"""The stock export paths that `export_peers.py` compares with: what their own documentation shows, no more.

Each takes the network as one would write it without this library: preprocessed float32 pixels, channels
first, in, and `F.normalize` at the end. The app scales and transposes the pixels, which `FileSession` does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetero.data.imageset import Images
from hetero_devices.errors import ModelError, require

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[Any]


class Stock(nn.Module):
    """float32 [N, 3, S, S], scaled by the caller -> float32 [N, D], unit norm."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.network(x))


def scaled(images: Images) -> Floats:
    """uint8 [N, S, S, 3] -> float32 [N, 3, S, S] in -1..1, as the student was trained."""
    pixels: Floats = (images.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5
    return pixels


def as_bytes(images: Images) -> Images:
    """What our files take: the pixels as they are."""
    return images


class FileSession:
    """A model file, read as directly as its runtime allows: camera bytes in, embeddings out.

    prepare: what the app does to the bytes, in numpy; `scaled` for stock files, `as_bytes` for ours.
    """

    def __init__(self, path: Path, prepare: Callable[[Images], Pixels] = scaled) -> None:
        self.prepare = prepare
        self.run_one = _onnx(path) if path.suffix == ".onnx" else _litert(path)

    def run(self, images: Images) -> Floats:
        """uint8 [N, S, S, 3] -> float32 [N, D], one image at a time."""
        return np.concatenate([self.run_one(self.prepare(image[None])) for image in images])


def _onnx(path: Path) -> Callable[[Pixels], Floats]:
    runtime = require("onnxruntime", "device-onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: np.asarray(session.run(None, {name: pixels})[0])


def _litert(path: Path) -> Callable[[Pixels], Floats]:
    litert = require("ai_edge_litert.interpreter", "device-litert")
    interpreter = litert.Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    channels_last = source["shape"][3] == 3

    def run(pixels: Pixels) -> Floats:
        given = pixels.transpose(0, 2, 3, 1) if channels_last and pixels.shape[3] != 3 else pixels
        interpreter.set_tensor(source["index"], _entered(given, source))
        interpreter.invoke()
        return _left(interpreter.get_tensor(target["index"]), target)

    return run


def _entered(pixels: Pixels, tensor: dict[str, Any]) -> npt.NDArray[Any]:
    """Pixels in the dtype of the input, by its scale and zero point."""
    if tensor["dtype"] is np.float32:
        return np.ascontiguousarray(pixels, dtype=np.float32)
    scale, zero = tensor["quantization"]
    range_ = np.iinfo(tensor["dtype"])
    levels = np.clip(np.round(pixels / scale) + zero, range_.min, range_.max)
    quantised: npt.NDArray[Any] = levels.astype(tensor["dtype"])
    return quantised


def _left(values: npt.NDArray[Any], tensor: dict[str, Any]) -> Floats:
    """The output as float32 of unit length."""
    if tensor["dtype"] is np.float32:
        return values
    scale, zero = tensor["quantization"]
    vector = (values.astype(np.float32) - zero) * np.float32(scale)
    unit: Floats = vector / np.linalg.norm(vector, axis=1, keepdims=True)
    return unit


def torch_onnx(network: nn.Module, size: int, target: Path) -> None:
    """`torch.onnx.export` as its tutorial calls it."""
    torch.onnx.export(Stock(network).eval(), (torch.zeros(1, 3, size, size),), str(target), dynamo=True)


def onnx_static(source: Path, target: Path, calibration: Images) -> None:
    """onnxruntime's `quantize_static` with its defaults."""
    ort = require("onnxruntime.quantization", "export")
    name = require("onnxruntime", "export").InferenceSession(str(source)).get_inputs()[0].name

    class Reader(ort.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.blocks = iter([{name: scaled(image[None])} for image in calibration])

        def get_next(self) -> dict[str, Floats] | None:
            return next(self.blocks, None)

    ort.quantize_static(str(source), str(target), Reader())


def onnx_dynamic(source: Path, target: Path) -> None:
    """onnxruntime's `quantize_dynamic` with its defaults."""
    require("onnxruntime.quantization", "export").quantize_dynamic(str(source), str(target))


def litert(network: nn.Module, size: int, target: Path) -> None:
    """`litert_torch.convert` as its tutorial calls it."""
    converter = require("litert_torch", "export")
    converter.convert(Stock(network).eval(), (torch.zeros(1, 3, size, size),)).export(str(target))


def litert_quantised(source: Path, target: Path, recipe: str, calibration: Images | None) -> None:
    """ai-edge-quantizer with one of its own recipes; calibrated, where it asks for it, by its own method."""
    recipes = require("ai_edge_quantizer.recipe", "export")
    quantizer = require("ai_edge_quantizer.quantizer", "export").Quantizer(
        str(source), getattr(recipes, recipe)()
    )
    statistics = None
    if calibration is not None:
        interpreter = require("ai_edge_litert.interpreter", "export").Interpreter(str(source))
        ((signature, ports),) = interpreter.get_signature_list().items()
        samples = [{ports["inputs"][0]: scaled(image[None])} for image in calibration]
        statistics = quantizer.calibrate({signature: samples})
    quantizer.quantize(statistics).export_model(str(target), overwrite=True)


def onnx2tf(source: Path, target: Path, site: Path, calibration: Images | None) -> None:
    """onnx2tf without TensorFlow, from the folder `site` that it was installed into; int8 if calibrated."""
    work = target.with_suffix("")
    work.mkdir(exist_ok=True)
    for part in (source, source.with_name(f"{source.name}.data")):  # it rewrites the file that it reads
        if part.is_file():
            shutil.copyfile(part, work / part.name)
    command = [sys.executable, "-m", "onnx2tf", "-i", source.name, "-o", ".", "-n"]
    command += ["-tb", "flatbuffer_direct"]
    if calibration is not None:
        name = require("onnxruntime", "export").InferenceSession(str(source)).get_inputs()[0].name
        pixels = np.ascontiguousarray(scaled(calibration).transpose(0, 2, 3, 1))
        np.save(work / "calibration.npy", pixels)
        command += ["-oiqt", "-cind", name, "calibration.npy", "[[[[0,0,0]]]]", "[[[[1,1,1]]]]"]
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path},
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    kind = "float32" if calibration is None else "full_integer_quant"
    files = [file for file in sorted(work.glob(f"*_{kind}.tflite"))]
    if done.returncode or not files:
        causes = re.findall(r"^[\w.]*Error: .*", done.stdout + done.stderr, re.MULTILINE)
        raise ModelError(f"onnx2tf failed: {causes[0] if causes else 'no file written'}")
    files[0].rename(target)
