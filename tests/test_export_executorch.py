"""ExecuTorch files: contract, embeddings, integers throughout, one-line errors; and without the package.

What needs the package is slow (importing it takes seconds) and is skipped where it is not installed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from hetero.models.build import preset
from hetero.models.deploy import Deploy
from hetero.models.encoder import TorchEncoder
from hetero.models.store import Model
from hetero.recipes.recipe import CalibrationMethod
from hetero.recipes.resolve import resolve
from hetero.runs import Run
from hetero_devices import runtimes
from hetero_devices.bench import profile_bundle
from hetero_devices.bundle import Bundle, check_choice
from hetero_devices.devices import HostDevice, Stopping
from hetero_devices.devices.profile import load_profile
from hetero_devices.errors import DataError, MissingExtra, ModelError, RecipeError
from hetero_devices.space import Preprocessing, Space
from hetero_devices.verify import verify
from hetero_export import pte_int8
from hetero_export.bundle import write_bundle
from hetero_export.calibration import Calibration
from hetero_export.converting import exportable
from hetero_export.loop import _finished
from hetero_export.pte import export_program, load_program, read_metadata, with_delegable_pooling
from hetero_export.pte_int8 import quantise_pte
from hetero_export.quiet import quiet

SIZE = 16
Images = npt.NDArray[np.uint8]

needs_executorch = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("executorch") is None,
        reason="executorch is not installed: pip install 'hetero[executorch]'",
    ),
]


class Net(nn.Module):
    """A convolution with batch norm, a depthwise one, a residual sum, pooling as our networks do, a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ReLU6())
        self.embed = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stem(x)
        embedding: Tensor = self.embed((features + self.depthwise(features)).mean((2, 3)))
        return embedding


class Branching(Net):
    """Which way it goes depends on the pixels: no exporter can follow."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


def images(count: int, seed: int, highest: int = 256) -> Images:
    coarse = np.random.default_rng(seed).integers(0, highest, (count, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


def model(network: type[Net] = Net) -> Model:
    torch.manual_seed(0)
    return Model(Deploy(network(), Preprocessing(size=SIZE)), preset("elastic-xs"), Space("ab" * 8, 16))


def reference(pixels: Images) -> npt.NDArray[np.float32]:
    found = model()
    return TorchEncoder(exportable(found.deploy), found.space).encode(pixels)


def worst_cosine(path: Path, pixels: Images) -> float:
    return float((runtimes.load(path).run(pixels) * reference(pixels)).sum(axis=1).min())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(
        model(),
        tmp_path_factory.mktemp("executorch") / "bundle",
        name="lowered",
        golden=images(4, 1),
        source={},
        calibration=Calibration(images(32, 2)),
        formats=("pte",),
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the precisions are made from."""
    path = tmp_path_factory.mktemp("program") / "model.fp32.pte"
    export_program(model().deploy, path, {"name": "lowered"})
    return path


def file(bundle: Bundle, precision: str) -> Path:
    return bundle.path(bundle.model("pte", precision))


def ranges(watched: Any) -> list[tuple[float, float]]:
    """Those of the observers of activations."""
    observers = [module for module in watched.modules() if hasattr(module, "min_val")]
    return [(float(each.min_val), float(each.max_val)) for each in observers if each.min_val.ndim == 0]


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "executorch"] + ["executorch"]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "executorch", None)


@pytest.mark.usefixtures("absent")
def test_without_the_package_the_runtime_says_what_to_install(tmp_path: Path) -> None:
    path = tmp_path / "model.fp32.pte"
    path.write_bytes(b"anything")
    message = r"^executorch is not installed: pip install 'hetero\[executorch\]'$"
    for attempt in (runtimes.load, runtimes.placement):
        with pytest.raises(MissingExtra, match=message):
            attempt(path)
    with pytest.raises(MissingExtra, match=message):
        runtimes.import_runtime("pte")


@pytest.mark.usefixtures("absent")
def test_without_the_package_nothing_is_exported(tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'hetero\[executorch\]'"):
        write_bundle(
            model(), tmp_path / "bundle", name="x", golden=images(2, 1), source={}, formats=("onnx", "pte"),
            precisions=("fp32",),
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["fp16", "dynamic", "mixed", "int8_io", "uint8_io"])
def test_other_precisions_are_refused_with_those_there_are(precision: str) -> None:
    with pytest.raises(RecipeError, match=f"no precision '{precision}' of pte .*: known are fp32, int8$"):
        check_choice(("pte",), ("fp32", precision))


def test_finishing_for_int8_does_not_know_its_arithmetic(tmp_path: Path) -> None:
    recipe = resolve("demo", ["student.quantised={}", "export.formats=[onnx,pte]"])
    found = Calibration(np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8))
    with pytest.raises(RecipeError, match=r"not of pte: leave that out of export\.formats"):
        _finished(Run(tmp_path, recipe), recipe.export, found)


def test_default_formats_stay_the_two_that_need_no_torch() -> None:
    from hetero.recipes.recipe import ExportConfig

    assert ExportConfig().formats == ("onnx", "tflite")
    assert not set(ExportConfig().formats) & runtimes.NEEDS_TORCH


def test_only_this_machine_runs_it_by_default() -> None:
    assert "pte" in load_profile("host").formats
    assert "pte" not in load_profile("raspberry-pi-5").formats


def test_pooling_is_written_as_xnnpack_has_it() -> None:
    pixels = torch.rand(1, 3, SIZE, SIZE)
    program = torch.export.export(Net().eval(), (pixels,))
    expected = program.module()(pixels)
    module = with_delegable_pooling(program.module())
    means = [node for node in module.graph.nodes if node.target is torch.ops.aten.mean.dim]
    assert [node.args[1:] for node in means] == [([2, 3], True)]
    torch.testing.assert_close(module(pixels), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("keep", [False, True])
def test_other_means_are_left_alone(keep: bool) -> None:
    class Means(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((1, 2), keepdim=keep)

    program = torch.export.export(Means(), (torch.rand(1, 3, 4, 5),))
    before = str(program.graph_module.graph)
    module = with_delegable_pooling(program.module())
    (mean,) = [node for node in module.graph.nodes if node.target is torch.ops.aten.mean.dim]
    assert mean.args[1] == [1, 2], before


class TestWithThePackage:
    pytestmark = needs_executorch

    def test_float_is_the_network(self, bundle: Bundle) -> None:
        pixels = images(9, 3)
        pixels[0], pixels[1] = 0, 255
        session = runtimes.load(file(bundle, "fp32"))
        embeddings = session.run(pixels)
        np.testing.assert_allclose(embeddings, reference(pixels), atol=1e-6)
        assert np.abs(embeddings - np.roll(embeddings, 1, axis=0)).max() > 1e-3, "the rows must be told apart"
        assert session.run(pixels[:0]).shape == (0, 16)
        assert session.details["batch"] == 1
        assert session.details["runtime"] == "executorch"
        assert session.details["version"] == runtimes.installed()["executorch"]

    def test_integers_are_close_to_the_network(self, bundle: Bundle) -> None:
        assert worst_cosine(file(bundle, "int8"), images(32, 4)) > 0.995
        assert file(bundle, "int8").read_bytes() != file(bundle, "fp32").read_bytes()

    def test_every_layer_is_delegated_and_in_integers(self, bundle: Bundle) -> None:
        where = runtimes.placement(file(bundle, "int8"))
        assert where is not None
        assert where.float_layers == {}
        assert where.integer >= 4  # two convolutions, the sum, the linear layer
        assert set(where.fallback) == {"permute_copy", "_to_dim_order_copy", "sum"}
        assert where.partitions == 2
        details = bundle.model("pte", "int8").details
        assert (details["partitions"], details["not_delegated"]) == (2, where.fallback)

    def test_float_layers_are_counted_as_such(self, bundle: Bundle) -> None:
        where = runtimes.placement(file(bundle, "fp32"))
        assert where is not None
        assert where.float_layers == {"convolution": 2, "linear": 1}
        assert where.integer == where.conversions == 0

    def test_the_same_export_gives_the_same_bytes(self, source: Path, tmp_path: Path) -> None:
        for name in "ab":
            quantise_pte(source, tmp_path / name, Calibration(images(8, 2)))
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_dark_calibration_images_do_not_cut_bright_pixels(self, source: Path) -> None:
        watched = pte_int8.observed(load_program(source).module)
        pte_int8.set_ranges(watched, Calibration(images(16, 2, highest=8)))
        found = ranges(watched)
        assert (-1.0, 1.0) in found  # (0 - 127.5) / 127.5 and (255 - 127.5) / 127.5
        assert len(set(found)) >= 4

    def test_the_calibration_method_decides_the_ranges(self, source: Path) -> None:
        widths: dict[str, npt.NDArray[np.float64]] = {}
        methods: tuple[CalibrationMethod, ...] = ("minmax", "percentile")
        for method in methods:
            watched = pte_int8.observed(load_program(source).module)
            pte_int8.set_ranges(watched, Calibration(images(16, 2), method, 80.0))
            widths[method] = np.array([high - low for low, high in ranges(watched)])
        assert (widths["percentile"] <= widths["minmax"]).all()
        assert (widths["percentile"] < 0.9 * widths["minmax"]).any()

    def test_no_layer_is_kept_in_float(self, source: Path, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match="pte int8 keeps no layer in float"):
            quantise_pte(source, tmp_path / "a", Calibration(images(8, 2), keep_float=("stem",)))

    def test_calibration_images_of_another_size(self, source: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"calibration images are uint8 \[8, 8, 8, 3\]"):
            quantise_pte(source, tmp_path / "a", Calibration(images(8, 2)[:, :8, :8]))
        assert list(tmp_path.iterdir()) == []

    def test_a_network_that_does_not_convert(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="does not convert to ExecuTorch: ") as raised:
            export_program(model(Branching).deploy, tmp_path / "x", {})
        assert "\n" not in str(raised.value)

    def test_the_file_says_what_it_is(self, bundle: Bundle) -> None:
        found = read_metadata(file(bundle, "int8"))
        assert found["name"] == "lowered"
        assert json.loads(found["space"])["dim"] == 16

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: b"",
            lambda content: b"<html>not found</html>" * 100,
            lambda content: content[: len(content) // 2],
            lambda content: content[:4] + b"XX99" + content[8:],
        ],
        ids=["empty", "html", "truncated", "changed"],
    )
    def test_a_damaged_file(
        self,
        bundle: Bundle,
        tmp_path: Path,
        damage: Callable[[bytes], bytes],
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        path = tmp_path / "m.pte"
        path.write_bytes(damage(file(bundle, "fp32").read_bytes()))
        with pytest.raises(ModelError, match=r"^cannot load m\.pte with ExecuTorch: .*is damaged") as raised:
            runtimes.load(path)
        assert "\n" not in str(raised.value)
        assert capfd.readouterr() == ("", "")

    def test_a_program_of_another_contract(self, tmp_path: Path) -> None:
        with quiet():
            from executorch.exir import to_edge_transform_and_lower
        path = tmp_path / "other.pte"
        with quiet():
            program = torch.export.export(nn.Flatten(), (torch.rand(1, 4, 4, 3),))
            path.write_bytes(to_edge_transform_and_lower(program).to_executorch().buffer)
        with pytest.raises(ModelError, match=r"expected \[1, H, W, 3\] uint8: export it"):
            runtimes.load(path)
        assert runtimes.placement(path) is None

    def test_images_of_another_shape(self, bundle: Bundle) -> None:
        with pytest.raises(DataError, match=r"this model takes uint8 \[N, 16, 16, 3\]"):
            runtimes.load(file(bundle, "fp32")).run(images(2, 1)[:, :8])

    def test_one_number_of_threads_a_process(self, bundle: Bundle) -> None:
        session = runtimes.load(file(bundle, "fp32"), threads=1)
        with pytest.raises(ModelError, match=r"one thread pool a process.* have 1 threads"):
            runtimes.load(file(bundle, "fp32"), threads=2)
        before = session.run(images(2, 1))
        del session
        other = runtimes.load(file(bundle, "fp32"), threads=2)
        np.testing.assert_allclose(other.run(images(2, 1)), before, atol=1e-6)
        del other
        assert runtimes.load(file(bundle, "fp32"), threads=1).details["threads"] == 1

    def test_verify_and_bench_in_processes_of_their_own(self, bundle: Bundle) -> None:
        checks = verify(bundle.root)
        assert [check for check in checks if not check.passed] == []
        assert {"model.fp32.pte parity", "model.int8.pte parity"} <= {check.name for check in checks}
        stopping = Stopping(warm_up=1, min_samples=3, min_seconds=0.0, max_seconds=5.0)
        (profile,) = profile_bundle(
            HostDevice(), bundle, stopping=stopping, models=[bundle.model("pte", "int8")]
        ).values()
        assert profile.latency is not None
        assert profile.latency.p50_ms > 0
        assert profile.peak_memory_mb is not None
        assert profile.placement == runtimes.placement(file(bundle, "int8"))

    def test_torch_stays_refused_for_the_other_formats(self, tiny_onnx: Any, tmp_path: Path) -> None:
        code = (
            "import sys\nfrom hetero_devices.runner import main\n"
            "main(['run', sys.argv[1]])\nimport torch"
        )  # fmt: skip
        np.save(tmp_path / "images.npy", np.zeros((1, 8, 8, 3), np.uint8))
        job = {"model": tiny_onnx().name, "images": "images.npy", "output": ".", "tasks": ["embed"]}
        (tmp_path / "job.json").write_text(json.dumps(job))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        argv = [sys.executable, "-c", code, str(tmp_path / "job.json")]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        assert "the device runner must not import torch" in done.stderr

    def test_the_example_of_the_card_runs(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        text = (bundle.root / "README.md").read_text()
        (example, *_) = re.findall(r"## Python, ExecuTorch\n\n```python\n(.*?)^```$", text, re.M | re.S)
        monkeypatch.chdir(bundle.root)
        done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
