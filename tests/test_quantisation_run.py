"""A run that finishes its student for int8: exported beside the float one, killed and continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hetero.data.unlabelled import unlabelled
from hetero.models import store
from hetero.recipes.resolve import resolve
from hetero.runs import Run
from hetero.runs.finishing import finished
from hetero_devices.bundle import Bundle
from hetero_devices.errors import DataError, RecipeError
from hetero_devices.verify import verify
from hetero_export.loop import export_run

SMALL = (
    "data.size=16",
    "anchor.network=residual-s",
    "anchor.fit={steps: 30, batch: 16}",
    "student.network=elastic-xs",
    "student.fit={steps: 60, batch: 16}",
    "student.views=2",
    "student.alone=false",
    "gates.criterion=false",
    "export.formats=[onnx]",
    "export.calibration=32",
)
FINISH = (
    "student.quantised={corrections: [bias], "
    "fit: {steps: 40, batch: 16, rate: 0.0001, checkpoint_every: 3, log_every: 1}}"
)


def open_run(arrays: Path, folder: Path, *overrides: str) -> Run:
    return Run.open(folder, resolve("demo", [f"data.source={arrays}", *SMALL, FINISH, *overrides]))


@pytest.fixture(scope="module")
def whole(arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose bundle is exported without a kill."""
    run = open_run(arrays, tmp_path_factory.mktemp("runs") / "whole")
    export_run(run)
    return run


def test_the_bundle_holds_the_float_student_and_the_finished_one(whole: Run) -> None:
    bundle = Bundle.open(whole.folder / "bundle")
    assert all(check.passed for check in verify(bundle.root))
    assert bundle.manifest.space == whole.anchor.space
    source = bundle.manifest.source
    assert source["weights_sha256"] == digest(whole.folder / "student")
    assert source["onnx_int8_weights_sha256"] == digest(whole.folder / "student-onnx-int8")
    assert store.load(whole.folder / "student-onnx-int8").space == whole.anchor.space
    before = (bundle.root / "manifest.json").stat().st_mtime_ns
    export_run(whole)  # nothing changed: the bundle is kept
    assert (bundle.root / "manifest.json").stat().st_mtime_ns == before


def digest(folder: Path) -> str:
    return str(json.loads((folder / "model.json").read_text())["weights_sha256"])


@pytest.mark.slow
def test_killed_while_finishing_and_continued_equals_uninterrupted(
    arrays: Path, whole: Run, tmp_path: Path
) -> None:
    run = open_run(arrays, tmp_path / "killed", f"anchor.source={whole.folder / 'anchor'}")
    _ = run.student
    command = [sys.executable, "-m", "hetero", "export", str(run.folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = run.folder / "student-onnx-int8" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= 8:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the training ended before it could be killed"
    assert not (run.folder / "bundle").exists()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert digest(run.folder / "student-onnx-int8") == digest(whole.folder / "student-onnx-int8")


def calibration(run: Run) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.array(run.splits.train.images[:32])


def test_other_calibration_images_are_refused(whole: Run) -> None:
    with pytest.raises(RecipeError, match="finished for other calibration images"):
        finished(whole, "onnx", calibration(whole)[:16])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images without classes, at two depths."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(1)
    for index in range(20):
        path = folder / ("deeper" if index % 2 else ".") / f"{index:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return folder


def label_free(arrays: Path, whole: Run, pictures: Path, folder: Path, *overrides: str) -> Run:
    return open_run(
        arrays,
        folder,
        f"anchor.source={whole.folder / 'anchor'}",
        f"student.quantised.images={pictures}",
        "student.quantised.fit.steps=6",
        *overrides,
    )


@pytest.mark.parametrize("teacher", ["student", "anchor"])
def test_a_folder_of_images_without_labels_is_enough(
    arrays: Path, whole: Run, pictures: Path, tmp_path: Path, teacher: str
) -> None:
    run = label_free(arrays, whole, pictures, tmp_path, f"student.quantised.teacher={teacher}")
    model = finished(run, "onnx", calibration(run))
    assert model.space == whole.anchor.space
    assert digest(tmp_path / "student-onnx-int8") != digest(tmp_path / "student")
    assert len((tmp_path / "student-onnx-int8" / "metrics.jsonl").read_text().splitlines()) == 6


def test_a_term_that_needs_labels_is_refused_without_them(
    arrays: Path, whole: Run, pictures: Path, tmp_path: Path
) -> None:
    run = label_free(
        arrays, whole, pictures, tmp_path, "student.quantised.objective=[{term: synthesised_head}]"
    )
    with pytest.raises(RecipeError, match="needs labels"):
        finished(run, "onnx", calibration(run))


def test_unlabelled_images_are_read_at_any_depth(pictures: Path, tmp_path: Path) -> None:
    images = unlabelled(pictures, 16)
    assert images.images.shape == (20, 16, 16, 3)
    assert images.class_names == ("unlabelled",)
    with pytest.raises(DataError, match="no images in"):
        unlabelled(tmp_path, 16)
    with pytest.raises(DataError, match="no folder of unlabelled images"):
        unlabelled(tmp_path / "none", 16)
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png: not an image"):
        unlabelled(tmp_path, 16)
