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
from ai_edge_litert.interpreter import Interpreter

from hetero.models.build import build, preset
from hetero.models.deploy import Deploy
from hetero.models.store import Model
from hetero_devices import runtimes
from hetero_devices.bundle import Bundle
from hetero_devices.errors import DataError
from hetero_devices.space import Preprocessing, Space
from hetero_devices.verify import cosine_distance, verify
from hetero_export import flatbuffer
from hetero_export import onnx as onnx_files
from hetero_export.bundle import write_bundle
from hetero_export.litert_int8 import quantise_litert
from hetero_export.onnx_int8 import quantise_onnx
from hetero_export.parity import parity

SIZE = 32
FILES = [("onnx", "fp32"), ("onnx", "int8"), ("tflite", "fp32"), ("tflite", "int8")]
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
        calibration=blobs(64, 100),
        golden=blobs(12, 200),
        source={"seed": 0},
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
    assert found.cosine_min >= (0.9999 if precision == "fp32" else 0.97), found
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(("format", "precision"), FILES)
def test_a_ramp_of_all_pixel_values_comes_through(exported: Exported, format: str, precision: str) -> None:
    ramp = np.arange(SIZE * SIZE, dtype=np.uint32).reshape(SIZE, SIZE) // 4
    images = np.stack([np.stack([ramp, ramp.T, ramp[::-1]], axis=-1), np.stack([ramp] * 3, axis=-1)])
    images = images.astype(np.uint8)
    found = parity(reference(exported.model, images), exported.session(format, precision).run(images))
    assert found.cosine_min >= (0.9999 if precision == "fp32" else 0.95), found


@pytest.mark.parametrize(("format", "precision"), FILES)
def test_files_keep_the_input_contract(exported: Exported, format: str, precision: str) -> None:
    session = exported.session(format, precision)
    assert session.details["input_dtype"] == exported.bundle.model(format, precision).input_dtype
    assert session.details["input_dtype"] == {"onnx": "uint8", "tflite": "float32"}[format]
    with pytest.raises(DataError, match="this model takes uint8"):
        session.run(np.zeros((1, SIZE + 1, SIZE, 3), np.uint8))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_onnx_takes_any_batch(exported: Exported, precision: str) -> None:
    session = onnxruntime.InferenceSession(str(exported.path("onnx", precision)))
    images = blobs(5, 7)
    (together,) = session.run(["embedding"], {"image": images})
    singly = [session.run(["embedding"], {"image": image[None]})[0] for image in images]
    np.testing.assert_allclose(together, np.concatenate(singly), atol=2e-6)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
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
def test_int8_is_smaller(exported: Exported, format: str) -> None:
    sizes = {p: exported.path(format, p).stat().st_size for p in ("fp32", "int8")}
    assert sizes["int8"] < 0.6 * sizes["fp32"]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
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
    grey = np.clip(blobs(8, 400), 100, 150)  # no black, no white
    quantise_litert(exported.path("tflite", "fp32"), tmp_path / "m.tflite", grey)
    interpreter = Interpreter(str(tmp_path / "m.tflite"))
    quantised = [t["quantization"] for t in interpreter.get_tensor_details() if "image" in t["name"]]
    assert (1.0, -128) in quantised

    quantise_onnx(exported.path("onnx", "fp32"), tmp_path / "m.onnx", grey)
    model = onnx.load(str(tmp_path / "m.onnx"))
    first = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert values[first.input[1]] == pytest.approx(2 / 255)


@pytest.mark.parametrize(("format", "quantise"), [("onnx", quantise_onnx), ("tflite", quantise_litert)])
def test_quantising_again_gives_the_same_bytes(
    exported: Exported, tmp_path: Path, format: str, quantise: Any
) -> None:
    target = tmp_path / f"again.{format}"
    quantise(exported.path(format, "fp32"), target, blobs(64, 100))
    assert target.read_bytes() == exported.path(format, "int8").read_bytes()


@pytest.mark.parametrize(("format", "quantise"), [("onnx", quantise_onnx), ("tflite", quantise_litert)])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (blobs(1, 0), "1 calibration images do not show the range"),
        (np.full((9, SIZE, SIZE, 3), np.nan, np.float32), "calibration images are float32"),
        (np.repeat(blobs(1, 0), 9, axis=0), "all the same"),
        (blobs(9, 0)[:, :16], r"calibration images are uint8 \[2, 16, 32, 3\], this model takes"),
        (blobs(9, 0)[0], r"expected uint8 \[K, S, S, 3\]"),
    ],
    ids=["one image", "NaN", "constant", "another size", "no batch"],
)
def test_unusable_calibration_images_are_named(
    exported: Exported, tmp_path: Path, format: str, quantise: Any, images: Images, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        quantise(exported.path(format, "fp32"), tmp_path / f"m.{format}", images)
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
        assert found.cosine_min >= (0.9999 if file.precision == "fp32" else 0.95), (file.file, found)
        assert session.details["xnnpack_partitions"] in (None, 1), file.file
