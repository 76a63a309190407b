"""A bundle exported from a small network: every file keeps the contract and the embeddings."""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from hetero.models.build import build, preset
from hetero.models.deploy import Deploy
from hetero.models.store import Model
from hetero.recipes.recipe import CalibrationMethod, MixedConfig
from hetero_devices import runtimes
from hetero_devices.bundle import Bundle, Precision
from hetero_devices.errors import DataError, ModelError, RecipeError
from hetero_devices.runtimes import Format
from hetero_devices.space import Preprocessing, Space
from hetero_devices.verify import cosine_distance, verify
from hetero_export import flatbuffer
from hetero_export import onnx as onnx_files
from hetero_export.bundle import write_bundle
from hetero_export.calibration import Calibration
from hetero_export.formats import EXPORTERS
from hetero_export.litert_int8 import quantise_litert
from hetero_export.onnx_int8 import quantise_onnx
from hetero_export.parity import parity
from hetero_export.sensitivity import Sensitivity

SIZE = 32
COMMON: tuple[Precision, ...] = ("fp32", "fp16", "dynamic", "int8", "mixed")
FORMATS: tuple[Format, ...] = ("onnx", "tflite")
FILES = [(format, precision) for format in FORMATS for precision in COMMON]
FLOAT = ("fp32", "fp16")
MIXED = MixedConfig(target=1e-5, max_layers=3, images=16)  # a target out of reach: three layers in float
Images = npt.NDArray[np.uint8]


def blobs(count: int, seed: int) -> Images:
    """Smooth random colour images uint8 [count, 32, 32, 3] that use the whole range."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def student(name: str = "elastic-xs", steps: int = 80) -> Model:
    """A network trained for seconds to tell 64 blobs apart, so that its embeddings spread.

    Those of random weights nearly coincide: every cosine would be near one, whatever was broken.
    Left in training mode on purpose.
    """
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network, prototypes = build(preset(name)).train(), torch.randn(64, 128, generator=generator)
    classes, units = normalised(blobs(64, 1)), torch.nn.functional.normalize(prototypes)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(steps):
        labels = torch.randint(0, 64, (64,), generator=generator)
        views = classes[labels] + 0.2 * torch.randn(64, 3, SIZE, SIZE, generator=generator)
        logits = 16 * torch.nn.functional.normalize(network(views)) @ units.T
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    space = Space("0123456789abcdef", 128)
    return Model(Deploy(network, Preprocessing(size=SIZE)), preset(name), space)


def normalised(images: Images) -> torch.Tensor:
    return (torch.from_numpy(images).permute(0, 3, 1, 2) - 127.5) / 127.5


@dataclass
class Exported:
    bundle: Bundle
    model: Model
    weights: dict[str, torch.Tensor]
    printed: str
    state: tuple[Any, Any]

    def session(self, format: str, precision: str) -> runtimes.Session:
        return runtimes.load(self.bundle.path(self.bundle.model(format, precision)))

    def path(self, format: str, precision: str) -> Path:
        return self.bundle.path(self.bundle.model(format, precision))


@contextmanager
def printed_to(file: Path) -> Iterator[None]:
    """Send what reaches the file descriptors 1 and 2 to `file`."""
    saved = os.dup(1), os.dup(2)
    with file.open("wb") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            for descriptor, copy_of in zip((1, 2), saved, strict=True):
                os.dup2(copy_of, descriptor)
                os.close(copy_of)


def process_state() -> Any:
    root = logging.root
    return dict(os.environ), list(warnings.filters), root.level, list(root.handlers), root.manager.disable


def export(model: Model, folder: Path) -> Bundle:
    return write_bundle(
        model,
        folder,
        name="student of blobs",
        calibration=Calibration(blobs(64, 100)),
        golden=blobs(12, 200),
        source={"seed": 0},
        precisions=COMMON,
        mixed=MIXED,
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder, model = tmp_path_factory.mktemp("export"), student()
    weights, before = copy.deepcopy(model.deploy.state_dict()), process_state()
    with printed_to(folder / "printed.txt"):
        bundle = export(model, folder / "bundle")
    printed = (folder / "printed.txt").read_text()
    return Exported(bundle, model, weights, printed, (before, process_state()))


def reference(model: Model, images: Images) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        vectors: npt.NDArray[np.float32] = (
            copy.deepcopy(model.deploy).eval()(torch.from_numpy(images)).numpy()
        )
    return vectors


@pytest.mark.parametrize(("format", "precision"), FILES)
def test_embeddings_match_the_network(exported: Exported, format: str, precision: str) -> None:
    images = blobs(48, 300)
    vectors = exported.session(format, precision).run(images)
    found = parity(reference(exported.model, images), vectors)
    assert found.cosine_min >= (0.9999 if precision in FLOAT else 0.97), found
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(("format", "precision"), FILES)
def test_a_ramp_of_all_pixel_values_comes_through(exported: Exported, format: str, precision: str) -> None:
    ramp = np.arange(SIZE * SIZE, dtype=np.uint32).reshape(SIZE, SIZE) // 4
    images = np.stack([np.stack([ramp, ramp.T, ramp[::-1]], axis=-1), np.stack([ramp] * 3, axis=-1)])
    images = images.astype(np.uint8)
    found = parity(reference(exported.model, images), exported.session(format, precision).run(images))
    assert found.cosine_min >= (0.9999 if precision in FLOAT else 0.95), found


@pytest.mark.parametrize(("format", "precision"), FILES)
def test_files_keep_the_input_contract(exported: Exported, format: str, precision: str) -> None:
    session = exported.session(format, precision)
    assert session.details["input_dtype"] == exported.bundle.model(format, precision).input_dtype
    assert session.details["input_dtype"] == {"onnx": "uint8", "tflite": "float32"}[format]
    with pytest.raises(DataError, match="this model takes uint8"):
        session.run(np.zeros((1, SIZE + 1, SIZE, 3), np.uint8))


@pytest.mark.parametrize("precision", COMMON)
def test_onnx_takes_any_batch(exported: Exported, precision: str) -> None:
    session = onnxruntime.InferenceSession(str(exported.path("onnx", precision)))
    images = blobs(5, 7)
    (together,) = session.run(["embedding"], {"image": images})
    singly = [session.run(["embedding"], {"image": image[None]})[0] for image in images]
    within = 2e-2 if precision == "dynamic" else 2e-6  # whose ranges are those of the batch
    np.testing.assert_allclose(together, np.concatenate(singly), atol=within)


@pytest.mark.parametrize("precision", COMMON)
def test_litert_runs_wholly_in_xnnpack(exported: Exported, precision: str) -> None:
    assert exported.session("tflite", precision).details["xnnpack_partitions"] == 1


def test_litert_int8_computes_in_integers(exported: Exported) -> None:
    interpreter = Interpreter(str(exported.path("tflite", "int8")))
    interpreter.allocate_tensors()
    dtypes = {tensor["index"]: tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    layers = [op for op in interpreter._get_ops_details() if re.search("CONV|FULLY", op["op_name"])]
    assert len(layers) >= 15
    assert all(dtypes[index] is np.int8 for op in layers for index in (*op["inputs"][:2], *op["outputs"]))


def test_onnx_int8_has_integer_weights_in_seven_bits(exported: Exported) -> None:
    model = onnx.load(str(exported.path("onnx", "int8")))
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) > 10
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    weights = [weight for weight in weights if weight.dtype == np.int8 and weight.ndim >= 2]
    assert len(weights) >= 15
    assert max(abs(weight.astype(int)).max() for weight in weights) == 64  # never saturates without VNNI


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_smaller_precisions_are_smaller(exported: Exported, format: str) -> None:
    sizes = {p: exported.path(format, p).stat().st_size for p in COMMON}
    assert all(sizes[p] < 0.65 * sizes["fp32"] for p in COMMON if p != "fp32")


def test_onnx_fp16_leaves_the_unit_norm_in_float32(exported: Exported) -> None:
    model = onnx.load(str(exported.path("onnx", "fp16")))
    onnx.checker.check_model(model, full_check=True)
    halves = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16]
    assert sum(len(tensor.dims) >= 2 for tensor in halves) >= 15
    casts = [node.op_type for node in model.graph.node].count("Cast")
    assert casts == 3, "pixels to float, into half and out of it again, nothing between"


def test_onnx_dynamic_stores_every_weight_in_int8(exported: Exported) -> None:
    model = onnx.load(str(exported.path("onnx", "dynamic")))
    onnx.checker.check_model(model, full_check=True)
    sizes = {onnx.TensorProto.INT8: 0, onnx.TensorProto.FLOAT: 0}
    for tensor in model.graph.initializer:
        if tensor.data_type in sizes:
            sizes[tensor.data_type] += int(np.prod(tensor.dims))
    assert sizes[onnx.TensorProto.INT8] > 10 * sizes[onnx.TensorProto.FLOAT]
    assert "MatMulInteger" in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_mixed_keeps_the_layers_in_float_that_the_scan_names(exported: Exported, format: str) -> None:
    record = exported.bundle.model(format, "mixed")
    scan = Sensitivity.from_json(record.details["sensitivity"])
    worst = sorted(scan.layers, key=lambda layer: -layer.distance)
    assert len(scan.kept) == 3
    assert scan.kept[0] == next(layer.name for layer in worst if layer.macs <= 0.25 * scan_macs(scan))
    assert scan.distance < scan.distance_int8
    kept = {layer.name: layer.macs for layer in scan.layers if layer.name in scan.kept}
    assert scan.macs_share == pytest.approx(sum(kept.values()) / scan_macs(scan))
    assert 0.9 * exported.model.cost.macs < scan_macs(scan) < 1.1 * exported.model.cost.macs


def scan_macs(scan: Sensitivity) -> int:
    return sum(layer.macs for layer in scan.layers)


def test_litert_mixed_computes_the_kept_layers_in_float(exported: Exported) -> None:
    scan = exported.bundle.model("tflite", "mixed").details["sensitivity"]
    floats = layer_dtypes(exported.path("tflite", "mixed")).count("float32")
    assert floats == len(scan["kept"])


def layer_dtypes(path: Path) -> list[str]:
    """The dtype of the weights of each layer of a TFLite file."""
    interpreter = Interpreter(
        str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    interpreter.allocate_tensors()
    dtypes = {t["index"]: np.dtype(t["dtype"]).name for t in interpreter.get_tensor_details()}
    layers = [op for op in interpreter._get_ops_details() if re.search("CONV|FULLY", op["op_name"])]
    return [dtypes[op["inputs"][1]] for op in layers]


@pytest.mark.parametrize(("precision", "dtype"), [("int8_io", "int8"), ("uint8_io", "uint8")])
def test_integer_ends_give_the_embeddings_of_float_ends(
    exported: Exported, tmp_path: Path, precision: Precision, dtype: str
) -> None:
    variant, path = EXPORTERS["tflite"].variants[precision], tmp_path / "m.tflite"
    found = variant.write(exported.path("tflite", "fp32"), path, Calibration(blobs(64, 100)), MixedConfig())
    interpreter = Interpreter(str(path))
    ends = [interpreter.get_input_details()[0], interpreter.get_output_details()[0]]
    assert [np.dtype(end["dtype"]).name for end in ends] == [dtype, dtype] == [variant.input_dtype] * 2
    scale, zero_point = ends[1]["quantization"]
    assert (found["output"]["scale"], found["output"]["zero_point"]) == pytest.approx((scale, zero_point))
    session, images = runtimes.load(path), blobs(24, 300)
    vectors, expected = session.run(images), exported.session("tflite", "int8").run(images)
    assert session.details["xnnpack_partitions"] == 1
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert parity(expected, vectors).cosine_min > 1 - 1e-6
    assert "float32" not in layer_dtypes(path)
    assert "divide by the length" in flatbuffer.read_metadata(path)["output"]


METHODS: list[tuple[CalibrationMethod, float]] = [("percentile", 99.9), ("entropy", 99.99), ("mse", 99.99)]


@pytest.mark.parametrize(("method", "percentile"), METHODS)
@pytest.mark.parametrize(("format", "quantise"), [("onnx", quantise_onnx), ("tflite", quantise_litert)])
def test_every_calibration_method_clips_and_stays_accurate(
    exported: Exported,
    tmp_path: Path,
    format: str,
    quantise: Any,
    method: CalibrationMethod,
    percentile: float,
) -> None:
    path, images = tmp_path / f"m.{format}", blobs(32, 300)
    found = quantise(exported.path(format, "fp32"), path, Calibration(blobs(64, 100), method, percentile))
    assert found["calibration"]["method"] == method
    distance = parity(reference(exported.model, images), runtimes.load(path).run(images))
    assert distance.cosine_min >= 0.97, distance
    assert path.read_bytes() != exported.path(format, "int8").read_bytes()


@pytest.mark.parametrize("precision", COMMON)
def test_both_formats_carry_the_same_metadata(exported: Exported, precision: str) -> None:
    found = onnx_files.read_metadata(exported.path("onnx", precision))
    assert found == flatbuffer.read_metadata(exported.path("tflite", precision))
    assert json.loads(found["space"])["id"] == exported.model.space.id
    assert json.loads(found["preprocessing"])["size"] == SIZE


@pytest.mark.parametrize(("format", "precision"), FILES)
def test_files_do_not_tell_where_they_were_made(exported: Exported, format: str, precision: str) -> None:
    content = exported.path(format, precision).read_bytes()
    for trace in ("site-packages", str(Path.cwd()), f"{tempfile.gettempdir()}/"):
        assert trace.encode() not in content


def test_manifest_says_what_the_model_is(exported: Exported) -> None:
    manifest = exported.bundle.manifest
    assert (manifest.macs, manifest.parameters) == (exported.model.cost.macs, exported.model.cost.parameters)
    assert manifest.architecture["kind"] == "elastic"
    assert {"torch", "onnx", "litert-torch", "hetero"} <= manifest.tools.keys()
    assert manifest.source == {"seed": 0}


def test_golden_vectors_are_the_networks(exported: Exported) -> None:
    images = exported.bundle.golden_images()
    expected = reference(exported.model, images)
    np.testing.assert_allclose(exported.bundle.golden_vectors(), expected, atol=1e-6)


def test_verification_passes(exported: Exported) -> None:
    checks = verify(exported.bundle.root)
    assert [check for check in checks if not check.passed] == []


@pytest.mark.parametrize(("format", "precision"), FILES)
def test_tolerance_catches_swapped_channels(exported: Exported, format: str, precision: str) -> None:
    swapped = np.ascontiguousarray(exported.bundle.golden_images()[..., ::-1])
    distance = cosine_distance(
        exported.session(format, precision).run(swapped), exported.bundle.golden_vectors()
    )
    assert distance.max() > exported.bundle.model(format, precision).tolerance


def test_the_card_s_examples_run(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exported.bundle.root)
    examples = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    assert len(examples) == 3  # two runtimes, and resizing
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})  # noqa: S102 - our own text, as a user would run it


def test_nothing_is_printed_and_the_process_is_left_alone(exported: Exported) -> None:
    assert exported.printed == ""
    before, after = exported.state
    assert before == after


def test_the_caller_s_network_is_left_alone(exported: Exported) -> None:
    assert exported.model.deploy.network.training
    for name, tensor in exported.model.deploy.state_dict().items():
        assert torch.equal(tensor, exported.weights[name]), name
    assert all(parameter.requires_grad for parameter in exported.model.deploy.parameters())


def test_pixel_range_does_not_depend_on_calibration(exported: Exported, tmp_path: Path) -> None:
    calibration = Calibration(np.clip(blobs(8, 400), 100, 150), "percentile", 90)  # no black, no white
    quantise_litert(exported.path("tflite", "fp32"), tmp_path / "m.tflite", calibration)
    interpreter = Interpreter(str(tmp_path / "m.tflite"))
    quantised = [t["quantization"] for t in interpreter.get_tensor_details() if "image" in t["name"]]
    assert (1.0, -128) in quantised

    quantise_onnx(exported.path("onnx", "fp32"), tmp_path / "m.onnx", calibration)
    model = onnx.load(str(tmp_path / "m.onnx"))
    first = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert values[first.input[1]] == pytest.approx(2 / 255)


@pytest.mark.parametrize(("format", "precision"), FILES)
def test_writing_again_gives_the_same_bytes(
    exported: Exported, tmp_path: Path, format: Format, precision: Precision
) -> None:
    source, target = exported.path(format, "fp32"), tmp_path / f"again.{format}"
    EXPORTERS[format].variants[precision].write(source, target, Calibration(blobs(64, 100)), MIXED)
    assert target.read_bytes() == exported.path(format, precision).read_bytes()


def test_calibration_images_of_another_size_are_named(exported: Exported, tmp_path: Path) -> None:
    calibration = Calibration(blobs(9, 0)[:, :16])
    for format, quantise in (("onnx", quantise_onnx), ("tflite", quantise_litert)):
        with pytest.raises(
            DataError, match=r"calibration images are uint8 \[2, 16, 32, 3\], this model takes"
        ):
            quantise(exported.path(format, "fp32"), tmp_path / f"m.{format}", calibration)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("format", "precision"), [file for file in FILES if file[1] != "fp32"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.98])
def test_a_truncated_source_leaves_nothing_behind(
    exported: Exported, tmp_path: Path, format: Format, precision: Precision, keep: float
) -> None:
    source, target = tmp_path / f"cut.{format}", tmp_path / "out" / f"m.{format}"
    content = exported.path(format, "fp32").read_bytes()
    source.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ModelError) as caught:
        EXPORTERS[format].variants[precision].write(source, target, Calibration(blobs(8, 100)), MIXED)
    assert "\n" not in str(caught.value)
    assert not target.parent.exists() or list(target.parent.iterdir()) == []


@pytest.mark.parametrize(("format", "quantise"), [("onnx", quantise_onnx), ("tflite", quantise_litert)])
def test_a_layer_that_is_not_there_is_named(
    exported: Exported, tmp_path: Path, format: str, quantise: Any
) -> None:
    calibration = Calibration(blobs(8, 100), keep_float=("network.embod",))
    with pytest.raises(
        RecipeError, match=r"no layer 'network.embod' .* nearest is 'network.embed'"
    ) as caught:
        quantise(exported.path(format, "fp32"), tmp_path / f"m.{format}", calibration)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_exporting_again_gives_the_same_bytes(exported: Exported, tmp_path: Path) -> None:
    again = export(exported.model, tmp_path / "again")
    assert again.manifest == exported.bundle.manifest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["elastic-l", "residual-s"])
def test_other_networks_convert_and_stay_accurate(name: str, tmp_path: Path) -> None:
    """elastic-l has hard-swish, squeeze-excite and 5x5 kernels; residual-s plain convolutions."""
    model = student(name, steps=60)
    bundle, images = export(model, tmp_path / "bundle"), blobs(32, 300)
    expected = reference(model, images)
    for file in bundle.manifest.models:
        session = runtimes.load(bundle.path(file))
        found = parity(expected, session.run(images))
        assert found.cosine_min >= (0.9999 if file.precision in FLOAT else 0.95), (file.file, found)
        assert session.details["xnnpack_partitions"] in (None, 1), file.file
