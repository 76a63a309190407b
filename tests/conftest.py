"""Real, tiny models in both formats, built in milliseconds without torch, a bundle of them, toy images."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hetero_devices.bundle import (
    CARD,
    GOLDEN_IMAGES,
    GOLDEN_VECTORS,
    MANIFEST,
    FileRecord,
    Golden,
    Manifest,
    ModelFile,
)
from hetero_devices.space import Preprocessing, Space

Array = npt.NDArray[Any]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of devices are told apart by their file: the slow ones need servers, emulators and a browser."""
    for item in items:
        if item.path.name.startswith("test_devices_"):
            item.add_marker(pytest.mark.devices)


@dataclass(frozen=True)
class TinyNet:
    """pixels [N, 8, 8, 3] -> unit-norm (pixels @ weight + bias) [N, 16]: small, and it ranks."""

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    size: int = 8

    @classmethod
    def make(cls, seed: int = 0) -> TinyNet:
        rng = np.random.default_rng(seed)
        weight = (rng.normal(size=(8 * 8 * 3, 16)) / 127.5).astype(np.float32)
        return cls(weight, rng.normal(size=16).astype(np.float32))

    def embed(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        z = images.reshape(len(images), len(self.weight)).astype(np.float64) @ self.weight + self.bias
        embeddings: npt.NDArray[np.float32] = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(
            np.float32
        )
        return embeddings

    def images(self, count: int, seed: int = 1) -> npt.NDArray[np.uint8]:
        shape = (count, self.size, self.size, 3)
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="session")
def net() -> TinyNet:
    return TinyNet.make()


Writer = Callable[..., Path]


@pytest.fixture
def tiny_onnx(tmp_path: Path, net: TinyNet) -> Writer:
    """`tiny_onnx(name="m.onnx", net=..., **of onnx_bytes)` writes a file and returns its path."""

    def write(name: str = "m.onnx", **changes: Any) -> Path:
        path = tmp_path / name
        path.write_bytes(onnx_bytes(changes.pop("net", net), **changes))
        return path

    return write


@pytest.fixture
def tiny_tflite(tmp_path: Path, net: TinyNet) -> Writer:
    """`tiny_tflite(name="m.tflite", net=..., **of tflite_bytes)` likewise."""

    def write(name: str = "m.tflite", **changes: Any) -> Path:
        path = tmp_path / name
        path.write_bytes(tflite_bytes(changes.pop("net", net), **changes))
        return path

    return write


@pytest.fixture
def tiny_bundle(tmp_path: Path, net: TinyNet) -> Path:
    """A bundle of the tiny net: ONNX fp32, TFLite fp32, and a TFLite of int8 input called int8."""
    root = tmp_path / "bundle"
    (root / "golden").mkdir(parents=True)
    (root / "model.fp32.onnx").write_bytes(onnx_bytes(net))
    (root / "model.fp32.tflite").write_bytes(tflite_bytes(net))
    (root / "model.int8.tflite").write_bytes(tflite_bytes(net, dtype="int8"))
    images = net.images(6)
    np.save(root / GOLDEN_IMAGES, images)
    np.save(root / GOLDEN_VECTORS, net.embed(images))
    (root / CARD).write_text("# tiny\n")
    (root / MANIFEST).write_text(json.dumps(_manifest(root, net).to_json()))
    return root


def _manifest(root: Path, net: TinyNet) -> Manifest:
    fp32: dict[str, Any] = {"tolerance": 1e-5, "details": {}}
    return Manifest(
        name="tiny",
        space=Space(id="0" * 16, dim=len(net.bias)),
        preprocessing=Preprocessing(size=net.size, offset=0.0, scale=1.0),
        models=(
            ModelFile.record(root, "onnx", "fp32", input_dtype="uint8", **fp32),
            ModelFile.record(root, "tflite", "fp32", input_dtype="float32", **fp32),
            ModelFile.record(root, "tflite", "int8", input_dtype="int8", tolerance=1e-3, details={}),
        ),
        golden=Golden(
            images=FileRecord.of(root, GOLDEN_IMAGES), vectors=FileRecord.of(root, GOLDEN_VECTORS), count=6
        ),
        card=FileRecord.of(root, CARD),
        architecture={"kind": "linear"},
        macs=net.weight.size,
        parameters=net.weight.size + net.bias.size,
        tools={"onnx": "1.0"},
        source={"recipe": "none", "seed": 0, "weights": "0" * 64},
    )


def onnx_bytes(
    net: TinyNet, *, output: str = "embedding", input_type: str = "UINT8", batch: str | int = "batch"
) -> bytes:
    """The net as an ONNX model: Cast, Flatten, Gemm, LpNormalization."""
    from onnx import TensorProto, helper, numpy_helper

    image = [batch, net.size, net.size, 3]
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["pixels"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["z"]),
        helper.make_node("LpNormalization", ["z"], [output], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", getattr(TensorProto, input_type), image)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, len(net.bias)])],
        [numpy_helper.from_array(net.weight, "weight"), numpy_helper.from_array(net.bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def tflite_bytes(
    net: TinyNet,
    *,
    dtype: str = "float32",
    output: str = "embedding",
    scale: float = 1.0,
    quantised_output: bool = False,
) -> bytes:
    """The net as a TFLite flatbuffer: [DEQUANTIZE,] FULLY_CONNECTED, L2_NORMALIZATION; batch 1.

    quantised_output: ends in QUANTIZE to the input's dtype, before the normalisation.
    """
    from ai_edge_litert import schema_py_generated as s

    graph = _FlatGraph()
    quantisation = {"float32": None, "uint8": (scale, 0), "int8": (scale, -128)}[dtype]
    image = graph.tensor((1, net.size, net.size, 3), dtype, quantisation=quantisation)
    pixels = image
    if dtype != "float32":
        pixels = graph.tensor((1, net.size, net.size, 3))
        graph.operator(s.BuiltinOperator.DEQUANTIZE, [image], pixels)
    weight = graph.tensor((len(net.bias), len(net.weight)), data=np.ascontiguousarray(net.weight.T))
    bias = graph.tensor(net.bias.shape, data=net.bias)
    z, embedding = graph.tensor((1, len(net.bias))), graph.tensor((1, len(net.bias)))
    options = s.BuiltinOptions.FullyConnectedOptions, s.FullyConnectedOptionsT()
    graph.operator(s.BuiltinOperator.FULLY_CONNECTED, [pixels, weight, bias], z, options)
    if quantised_output:
        zero_point = {"uint8": 121, "int8": -7}[dtype]
        codes = graph.tensor((1, len(net.bias)), dtype, quantisation=(0.25, zero_point))
        graph.operator(s.BuiltinOperator.QUANTIZE, [z], codes)
        return graph.serialise({"image": image}, {output: codes})
    norm = s.BuiltinOptions.L2NormOptions, s.L2NormOptionsT()
    graph.operator(s.BuiltinOperator.L2_NORMALIZATION, [z], embedding, norm)
    return graph.serialise({"image": image}, {output: embedding})


class _FlatGraph:
    """The few lines of flatbuffer bookkeeping a one-branch TFLite model needs."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self.model: Any = schema.ModelT()
        self.model.version, self.model.buffers, self.model.operatorCodes = 3, [schema.BufferT()], []
        self.graph: Any = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []

    def tensor(
        self,
        shape: tuple[int, ...],
        dtype: str = "float32",
        *,
        data: Array | None = None,
        quantisation: tuple[float, int] | None = None,
    ) -> int:
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape = f"t{len(self.graph.tensors)}", list(shape)
        tensor.type, tensor.buffer = getattr(self.schema.TensorType, dtype.upper()), 0
        if data is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        if quantisation:
            tensor.quantization = self.schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [quantisation[0]], [quantisation[1]]
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(
        self, code: int, inputs: list[int], output: int, options: tuple[int, Any] = (0, None)
    ) -> None:
        opcode, operator = self.schema.OperatorCodeT(), self.schema.OperatorT()
        opcode.builtinCode, opcode.deprecatedBuiltinCode, opcode.version = code, min(code, 127), 1
        operator.opcodeIndex, operator.inputs, operator.outputs = (
            len(self.model.operatorCodes),
            inputs,
            [output],
        )
        operator.builtinOptionsType, operator.builtinOptions = options
        self.model.operatorCodes.append(opcode)
        self.graph.operators.append(operator)

    def serialise(self, inputs: dict[str, int], outputs: dict[str, int]) -> bytes:
        signature = self.schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs, signature.outputs = self._ports(inputs), self._ports(outputs)
        self.graph.inputs, self.graph.outputs = list(inputs.values()), list(outputs.values())
        self.model.subgraphs, self.model.signatureDefs = [self.graph], [signature]
        builder = importlib.import_module("flatbuffers").Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _ports(self, names: dict[str, int]) -> list[Any]:
        ports = []
        for name, index in names.items():
            port = self.schema.TensorMapT()
            port.name, port.tensorIndex = name, index
            ports.append(port)
        return ports


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve classes of ten noisy 16-pixel images."""
    generator = np.random.default_rng(0)
    prototypes = generator.integers(0, 256, (12, 16, 16, 3))
    noise = generator.integers(-40, 40, (12, 10, 16, 16, 3))
    images = (prototypes[:, None] + noise).clip(0, 255).astype(np.uint8).reshape(120, 16, 16, 3)
    path = tmp_path_factory.mktemp("arrays") / "toy.npz"
    np.savez(path, images=images, labels=np.repeat(np.arange(12), 10))
    return path
