"""Where operators run: read from real interpreters and real profiles, in a process without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetero_devices.bench import profile_bundle
from hetero_devices.bundle import Bundle
from hetero_devices.devices import HostDevice, Job, Profile
from hetero_devices.errors import ModelError
from hetero_devices.runtimes import placement
from hetero_devices.runtimes.litert_placement import of_operators
from hetero_devices.runtimes.onnx_placement import of_events


def test_what_xnnpack_leaves_is_named(tiny_tflite: Any) -> None:
    where = placement(tiny_tflite())
    assert where is not None
    assert where.partitions == 1
    assert where.backends == {"XNNPACK": 1, "builtin": 1}
    assert where.fallback == {"L2_NORMALIZATION": 1}
    assert where.delegated_share == 0.5
    assert where.float_layers == {"FULLY_CONNECTED": 1}
    assert (where.integer, where.floating, where.conversions) == (0, 2, 0)


def test_conversions_are_not_computation(tiny_tflite: Any) -> None:
    where = placement(tiny_tflite(dtype="int8"))
    assert where is not None
    assert (where.floating, where.conversions) == (2, 1)
    assert where.backends == {"XNNPACK": 2, "builtin": 1}


def test_onnx_runtime_tells_by_profile(tiny_onnx: Any) -> None:
    where = placement(tiny_onnx())
    assert where is not None
    assert where.partitions is None
    assert where.delegated_share is None
    assert where.fallback == {}
    assert where.backends == {"CPUExecutionProvider": 4}
    assert where.float_layers == {"Gemm": 1}
    assert (where.integer, where.floating, where.conversions) == (0, 3, 1)


def quantised(source: Path, target: Path, images: Any) -> Path:
    """The net statically quantised; the default of ONNX Runtime leaves its last operators in float."""
    from onnxruntime import quantization

    class Blocks(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.blocks = iter([images])

        def get_next(self) -> Any:
            block = next(self.blocks, None)
            return None if block is None else {"image": block}

    quantization.quantize_static(str(source), str(target), Blocks())
    return target


def test_integer_kernels_are_recognised_after_fusion(tiny_onnx: Any, tmp_path: Path, net: Any) -> None:
    where = placement(quantised(tiny_onnx(), tmp_path / "q.onnx", net.images(8)))
    assert where is not None
    assert where.float_layers == {}
    assert where.integer >= 1
    assert where.conversions >= 1


def dynamic(source: Path, target: Path) -> Path:
    from onnxruntime import quantization

    quantization.quantize_dynamic(str(source), str(target))
    return target


def test_dynamically_quantised_layers_count_as_integer(tiny_onnx: Any, tmp_path: Path) -> None:
    where = placement(dynamic(tiny_onnx(), tmp_path / "d.onnx"))
    assert where is not None
    assert where.float_layers == {}
    assert where.integer >= 1


def test_partitions_are_told_apart() -> None:
    """Two partitions with one operator between them: nothing outside is taken for delegated."""
    float32, int8 = np.float32, np.int8

    def op(index: int, name: str, inputs: list[int], outputs: list[int], *types: Any) -> dict[str, Any]:
        return {
            "index": index,
            "op_name": name,
            "inputs": np.array(inputs),
            "outputs": np.array(outputs),
            "operand_types": list(types[:-1]),
            "result_types": [types[-1]],
        }

    own = [
        op(0, "CONV_2D", [0, 10], [1], float32, int8, float32),
        op(1, "MEAN", [1], [2], float32, float32),
        op(2, "GATHER", [2], [3], float32, float32),
        op(3, "FULLY_CONNECTED", [3, 11], [4], int8, int8, int8),
        op(4, "QUANTIZE", [4], [5], int8, float32),
    ]
    delegates = [
        op(5, "DELEGATE", [0, 10], [2], float32, float32),
        op(6, "DELEGATE", [3, 11], [5], int8, float32),
    ]
    where = of_operators(own + delegates)
    assert where.partitions == 2
    assert where.backends == {"XNNPACK": 4, "builtin": 1}
    assert where.fallback == {"GATHER": 1}
    assert where.float_layers == {}, "int8 weights under float activations are the hybrid kernel"
    assert (where.integer, where.floating, where.conversions) == (2, 2, 1)
    assert of_operators(own).delegated_share == 0.0


def test_a_node_is_counted_once_however_often_it_ran() -> None:
    node = {"op_name": "Conv", "provider": "CPUExecutionProvider", "input_type_shape": [{"float16": [1]}]}
    event = {"cat": "Node", "name": "c_kernel_time", "args": node}
    where = of_events([event, event, {"cat": "Session", "name": "model_run", "args": {}}])
    assert where.backends == {"CPUExecutionProvider": 1}
    assert where.float_layers == {"Conv": 1}


def test_any_device_reports_it_with_the_other_facts(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    profiles = profile_bundle(HostDevice(), bundle, tasks=("placement",))
    for model in bundle.manifest.models:
        profile = profiles[model.file]
        assert profile.placement == placement(bundle.path(model))
        assert profile.latency is None
        assert Profile.from_json(profile.to_json()) == profile
    older = profile.to_json()
    del older["placement"]
    assert Profile.from_json(older).placement is None, "a runner that does not know the task"


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_damaged_files(request: pytest.FixtureRequest, suffix: str, tmp_path: Path) -> None:
    path: Path = request.getfixturevalue(f"tiny_{suffix}")()
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelError, match=path.name) as raised:
        placement(path)
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelError, match="no model file"):
        placement(tmp_path / f"none.{suffix}")


def test_a_job_may_ask_for_placement_beside_embeddings(tiny_onnx: Any, tmp_path: Path, net: Any) -> None:
    np.save(tmp_path / "images.npy", net.images(2))
    job = Job(model=str(tiny_onnx()), images=str(tmp_path / "images.npy"), tasks=("embed", "placement"))
    result = HostDevice().run(job)
    assert result.embeddings is not None
    assert result.profile.placement is not None
