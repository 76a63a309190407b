"""The whole loop by one command: a report at the end, an exit code by its gates, and a kill costs nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SMALL = (
    *(
        f"{part}.fit.{k}"
        for part in ("anchor", "student")
        for k in ("steps=30", "batch=32", "checkpoint_every=5")
    ),
    "anchor.network=residual-s",
    "anchor.fit.precision=fp32",
    "student.network=elastic-xs",
    "student.views=1",
    "measure.min_samples=20",
    "measure.min_seconds=0",
)
LENIENT = ("gates.criterion=false", "gates.int8_recall_drop=1", "gates.fp32_top1_same=0.99")


def command(run: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "hetero", "demo", *SMALL, *overrides, "--run", str(run), "--json"]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "2"}


def demo(run: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(run, *overrides), capture_output=True, text=True, env=environment(), check=False
    )


def scores(report: dict[str, Any]) -> Any:
    """What must not depend on interruptions: everything but timings."""
    return [report[key] for key in ("space", "headline", "criterion", "matrices", "parity")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    run = tmp_path_factory.mktemp("demo") / "run"
    done = demo(run, *LENIENT)
    assert done.returncode == 0, done.stderr
    return run, json.loads(done.stdout)


def test_it_ends_with_a_report_of_every_artefact(finished: tuple[Path, dict[str, Any]]) -> None:
    run, report = finished
    assert {row["artefact"] for row in report["parity"]} == {
        "model.fp32.onnx",
        "model.int8.onnx",
        "model.fp32.tflite",
        "model.int8.tflite",
    }
    assert len(report["matrices"][0]["queries"]) == 7
    assert all(row["p50_ms"] > 0 and row["peak_mb"] for row in report["latency"])
    assert all(row["cosine_distance_max"] < 1e-4 for row in report["parity"] if row["precision"] == "fp32")
    for name in ("report.html", "report.md", "report.json"):
        assert (run / "report" / name).stat().st_size > 1000


def test_the_report_names_no_path_of_this_machine(finished: tuple[Path, dict[str, Any]]) -> None:
    run, _ = finished
    text = (run / "report" / "report.html").read_text()
    assert str(run) not in text
    assert str(Path.home()) + "/" not in text


def test_a_failed_gate_is_exit_code_1(finished: tuple[Path, dict[str, Any]]) -> None:
    run, _ = finished
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["gates"]["size_kb"] = 1.0
    (run / "recipe.json").write_text(json.dumps(recipe))
    done = subprocess.run(
        [sys.executable, "-m", "hetero", "report", str(run), "-o", str(run / "strict"), "--json"],
        capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    failed = [gate["name"] for gate in json.loads(done.stdout)["gates"] if not gate["passed"]]
    assert failed == ["smallest file, kB"]


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "begun", ["anchor/metrics.jsonl", "student/checkpoint.safetensors", "bundle/manifest.json"]
)
def test_killed_and_run_again_it_ends_with_the_same_scores(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, begun: str
) -> None:
    _, report = finished
    run = tmp_path / "run"
    process = subprocess.Popen(
        command(run, *LENIENT), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(run / begun, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the demo ended before it could be killed"
    done = demo(run, *LENIENT)
    assert done.returncode == 0, done.stderr
    assert scores(json.loads(done.stdout)) == scores(report)
