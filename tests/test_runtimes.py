"""Both runtimes on real files: the same numbers, strict contracts, one-line errors."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetero_devices.errors import DataError, HeteroError, ModelError
from hetero_devices.runtimes import format_of, installed, load


def one_line(raised: pytest.ExceptionInfo[HeteroError]) -> str:
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8"])
def test_litert_embeds_bytes_whatever_the_input_type(net: Any, tiny_tflite: Any, dtype: str) -> None:
    images = net.images(5)
    images[0], images[1] = 0, 255  # the ends of the range, where a wrong offset or a signed overflow shows
    session = load(tiny_tflite(dtype=dtype))
    embeddings = session.run(images)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, net.embed(images), atol=1e-5)
    assert session.details["input_dtype"] == dtype
    assert session.details["xnnpack_partitions"] >= 1


def test_onnx_embeds_any_batch(net: Any, tiny_onnx: Any) -> None:
    session = load(tiny_onnx())
    for count in (0, 1, 2, 67):  # 67: more than two blocks
        images = net.images(count)
        np.testing.assert_allclose(session.run(images), net.embed(images), atol=1e-5)


def test_runtimes_agree(net: Any, tiny_onnx: Any, tiny_tflite: Any) -> None:
    images = net.images(16)
    onnx, litert = load(tiny_onnx()).run(images), load(tiny_tflite()).run(images)
    assert (1 - (onnx * litert).sum(axis=1)).max() < 1e-6
    assert np.abs(onnx - np.roll(litert, 1, axis=0)).max() > 0.01, "the rows must be told apart"


def test_details_name_the_runtime(tiny_onnx: Any, tiny_tflite: Any) -> None:
    onnx, litert = load(tiny_onnx(), threads=2).details, load(tiny_tflite(), threads=2).details
    assert (onnx["runtime"], litert["runtime"]) == ("onnxruntime", "litert")
    assert onnx.keys() == litert.keys()
    assert onnx["threads"] == litert["threads"] == 2
    assert (onnx["version"], litert["version"]) == (installed()["onnxruntime"], installed()["litert"])


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.99])
def test_truncated_file(request: pytest.FixtureRequest, suffix: str, keep: float) -> None:
    path: Path = request.getfixturevalue(f"tiny_{suffix}")()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ModelError, match=path.name) as raised:
        load(path)
    one_line(raised)


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_something_else_under_the_name_of_a_model(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m.{suffix}"
    path.write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(ModelError, match="cannot load"):
        load(path)


def onnx_of(path: Path, **changes: Any) -> None:
    """Change fields of the first node and of the model in an ONNX file."""
    import onnx

    model = onnx.load(str(path))
    if "opset" in changes:
        model.opset_import[0].version = changes["opset"]
    if "ir" in changes:
        model.ir_version = changes["ir"]
    model.graph.node[0].op_type = changes.get("operator", model.graph.node[0].op_type)
    model.graph.node[0].domain = changes.get("domain", "")
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("changes", "words", "remedy"),
    [
        ({"ir": 99}, "Unsupported model IR version: 99", "newer than this runtime: update it"),
        ({"opset": 99}, r"is till opset \d+", "newer than this runtime: update it"),
        ({"operator": "Teleport"}, "No Op registered for Teleport", "lacks an operator"),
        ({"domain": "my.ops"}, "No opset import for domain 'my.ops'", "lacks an operator"),
    ],
    ids=["IR", "opset", "operator", "domain"],
)
def test_onnx_that_the_runtime_does_not_know(
    tiny_onnx: Any, changes: dict[str, Any], words: str, remedy: str
) -> None:
    path = tiny_onnx()
    onnx_of(path, **changes)
    with pytest.raises(ModelError, match=words) as raised:
        load(path)
    assert remedy in one_line(raised)


@pytest.mark.parametrize(
    ("changes", "words", "remedy"),
    [
        ({"version": 99}, "version '99'", "newer than this runtime: update it"),
        (
            {"builtinCode": 32, "deprecatedBuiltinCode": 32, "customCode": b"Mine"},
            "Mine",
            "lacks an operator",
        ),
    ],
    ids=["version", "custom"],
)
def test_litert_that_the_runtime_does_not_know(
    tiny_tflite: Any, changes: dict[str, Any], words: str, remedy: str
) -> None:
    from ai_edge_litert.tools import flatbuffer_utils

    path = tiny_tflite()
    model = flatbuffer_utils.read_model(str(path))
    for field, value in changes.items():
        setattr(model.operatorCodes[0], field, value)
    path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    with pytest.raises(ModelError, match=words) as raised:
        load(path)
    assert remedy in one_line(raised)


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_a_changed_byte_in_the_structure_is_damage(
    request: pytest.FixtureRequest, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path: Path = request.getfixturevalue(f"tiny_{suffix}")()
    content = bytearray(path.read_bytes())
    content[4] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ModelError, match="the file is damaged: copy it again or export it again") as raised:
        load(path)
    one_line(raised)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_litert_normalises_a_quantised_output(net: Any, tiny_tflite: Any, dtype: str) -> None:
    images = net.images(6)
    session = load(tiny_tflite(dtype=dtype, quantised_output=True))
    embeddings = session.run(images)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    assert (1 - (embeddings * net.embed(images)).sum(axis=1)).max() < 0.01


def test_absent_file_and_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model file at"):
        load(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"ending in \.onnx, \.tflite or \.pte"):
        format_of(tmp_path / "m.pt")


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
@pytest.mark.parametrize(
    "images",
    [
        np.full((2, 8, 8, 3), np.nan, np.float32),
        np.zeros((2, 8, 8, 3), np.int8),
        np.zeros((2, 3, 8, 8), np.uint8),
        np.zeros((2, 9, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
    ],
    ids=["nan", "int8", "nchw", "size", "no-batch"],
)
def test_images_of_another_kind(request: pytest.FixtureRequest, suffix: str, images: Any) -> None:
    session = load(request.getfixturevalue(f"tiny_{suffix}")())
    with pytest.raises(DataError, match=r"uint8 \[N, 8, 8, 3\]") as raised:
        session.run(images)
    assert str(images.dtype) in one_line(raised)


@pytest.mark.parametrize("changes", [{"output": "logits"}, {"input_type": "FLOAT"}, {"batch": 1}])
def test_onnx_contract(tiny_onnx: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="expected one") as raised:
        load(tiny_onnx(**changes))
    one_line(raised)


@pytest.mark.parametrize("changes", [{"output": "logits"}, {"dtype": "uint8", "scale": 0.5}])
def test_litert_contract(tiny_tflite: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="expected") as raised:
        load(tiny_tflite(**changes))
    one_line(raised)


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_embeddings_that_are_not_finite(request: pytest.FixtureRequest, net: Any, suffix: str) -> None:
    broken = replace(net, bias=np.full_like(net.bias, np.nan))
    session = load(request.getfixturevalue(f"tiny_{suffix}")(net=broken))
    with pytest.raises(ModelError, match="NaN or infinity"):
        session.run(net.images(2))


BLOCKED = """
import sys
from pathlib import Path
class Block:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block)
from hetero_devices.errors import MissingExtra
from hetero_devices.runtimes import load
try:
    load(Path(sys.argv[2]))
except MissingExtra as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("suffix", "package", "extra"),
    [("onnx", "onnxruntime", "device-onnx"), ("tflite", "ai_edge_litert", "device-litert")],
)
def test_absent_runtime(request: pytest.FixtureRequest, suffix: str, package: str, extra: str) -> None:
    path = request.getfixturevalue(f"tiny_{suffix}")()
    argv = [sys.executable, "-c", BLOCKED, package, str(path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{package} is not installed: pip install 'hetero[{extra}]'\n"
