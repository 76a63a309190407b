"""The whole loop by one command: a report at the end, an exit code by its gates, and a kill costs nothing."""

from __future__ import annotations

import json
import os
import shutil
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


def hetero(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "hetero", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env=environment(), check=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export.precisions=[fp16]"], "give changed settings a folder by -o"),
        (["seed=3", "-o", "other"], "is not of export"),
        (["export.precisions=[int8_io]", "-o", "other"], "no precision 'int8_io' of onnx"),
    ],
    ids=["no folder", "another section", "combination"],
)
def test_an_export_of_other_settings_says_what_it_needs(
    finished: tuple[Path, dict[str, Any]], arguments: list[str], words: str
) -> None:
    done = hetero("export", finished[0], *arguments, "--dry-run")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dry_run_names_the_other_settings(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    changes = ["export.formats=[tflite]", "export.precisions=[int8_io,mixed]"]
    done = hetero("export", finished[0], *changes, "-o", tmp_path / "other", "--dry-run")
    assert done.stdout == "would export tflite in int8_io, mixed\n"
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "precisions"),
    [("onnx", "fp32,fp16,dynamic,int8,mixed"), ("tflite", "fp16,dynamic,int8,int8_io,uint8_io,mixed")],
)
def test_every_precision_goes_through_verification_report_and_gates(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, format: str, precisions: str
) -> None:
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    shutil.copytree(finished[0], run)
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["gates"]["size_kb"] = None
    (run / "recipe.json").write_text(json.dumps(recipe))
    changes = [f"export.formats=[{format}]", f"export.precisions=[{precisions}]", "export.mixed.images=8"]
    exported = hetero("export", run, *changes, "-o", bundle)
    assert exported.returncode == 0, exported.stderr
    assert "| layer | operator |" in exported.stdout
    again = hetero("export", run, *changes, "-o", bundle, "--json")
    assert json.loads(again.stdout)["sensitivity"].keys() == {f"model.mixed.{format}"}
    assert hetero("verify", bundle).returncode == 0
    report = hetero("report", run, "--bundle", bundle, "--json")
    assert report.returncode == 0, report.stderr
    rows = json.loads(report.stdout)["parity"]
    assert [row["precision"] for row in rows] == precisions.split(",")
    assert all(row["cosine_distance_max"] < 1e-4 for row in rows if row["precision"] == "fp16")
