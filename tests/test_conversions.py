"""The benchmark of conversions: a part of it is run, and the page in docs says what it wrote."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARK = ROOT / "benchmarks" / "conversions.py"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARK), "--work", str(folder / "work"), "--results", str(folder)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "export", "devices")),
        "HETERO_CACHE": str(folder / "cache"),
    }
    return subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, check=False, cwd=folder
    )


def rows(page: Path) -> list[list[str]]:
    """Cells of the last table's rows, without its head."""
    _, _, table = page.read_text().rpartition("XNNPACK parts |")
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


SMALL = ("--nets", "elastic-xs", "--format", "onnx", "--size", "32")


def test_four_rows_of_the_table(tmp_path: Path) -> None:
    done = run(tmp_path, *SMALL, "--steps", "40")
    assert done.returncode == 0, done.stderr
    page = rows(tmp_path / "conversions.md")
    assert [row[:4] for row in page[:4]] == [
        ["elastic-xs", "onnx", precision, "yes"] for precision in ("fp32", "fp16", "dynamic", "int8")
    ]
    assert page[0][4:6] == ["1.00000 / 1.00000", "100.0 %"]
    fields = json.loads((tmp_path / "conversions.json").read_text())
    assert fields["networks"]["elastic-xs"]["steps"] == 40
    assert 0 < fields["networks"]["elastic-xs"]["recall_at_1"] <= 1
    fp32, fp16, dynamic, int8 = fields["cells"][:4]
    assert fp32["cosine_min"] > 0.99999
    assert fp16["cosine_min"] > 0.999
    assert 0.9 < int8["cosine_min"] < 1
    assert [cell["bytes_ratio"] < 0.75 for cell in (fp32, fp16, dynamic, int8)] == [False, True, True, True]
    assert all(cell["ms"] > 0 and cell["latency_ratio"] > 0 for cell in fields["cells"])

    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").rglob("*.*")}
    assert run(tmp_path, *SMALL, "--steps", "40").returncode == 0
    assert made == {file: file.stat().st_mtime_ns for file in (tmp_path / "work").rglob("*.*")}  # resumed


def test_a_killed_run_keeps_its_weights_and_rows(tmp_path: Path) -> None:
    assert run(tmp_path, *SMALL, "--steps", "2").returncode == 0
    folder = tmp_path / "work" / "32-seed0" / "elastic-xs"
    weights, kept = (folder / "weights.safetensors").read_bytes(), (folder / "onnx-fp16.json").read_bytes()
    cosine = json.loads((folder / "onnx-fp32.json").read_text())["cosine_mean"]
    (folder / "onnx-fp32.json").unlink()
    assert run(tmp_path, *SMALL, "--steps", "2").returncode == 0
    assert (folder / "weights.safetensors").read_bytes() == weights
    assert (folder / "onnx-fp16.json").read_bytes() == kept
    assert json.loads((folder / "onnx-fp32.json").read_text())["cosine_mean"] == cosine


MEASURED: dict[str, Any] = {
    "cosine_mean": 0.5,
    "cosine_min": 0.25,
    "top1_same": 0.125,
    "recall_at_1": 0.75,
    "bytes": 1500,
    "bytes_ratio": 0.5,
    "ms": 2.0,
    "latency_ratio": 0.75,
    "xnnpack_partitions": None,
}


def test_refusals_and_failures_are_named_and_the_rest_stands(tmp_path: Path) -> None:
    cells = tmp_path / "work" / "32-seed0" / "elastic-xs"
    cells.mkdir(parents=True)
    scan = {"layers": 9, "layers_float": 3, "macs_float": 0.2}
    kinds: dict[str, dict[str, Any]] = {
        "fp32": MEASURED,
        "fp16": MEASURED,
        "dynamic": {"error": "it broke"},
        "int8": MEASURED | {"refused": "it is lost"},
        "corrected": MEASURED,
        "mixed": MEASURED | scan,
    }
    for kind, fields in kinds.items():
        about = {"net": "elastic-xs", "format": "onnx", "precision": kind}
        (cells / f"onnx-{kind}.json").write_text(json.dumps(about | fields))
    done = run(tmp_path, *SMALL)
    assert done.returncode == 0, done.stderr
    (cells / "onnx-mixed.json").rename(tmp_path / "kept.json")
    assert run(tmp_path, *SMALL, "--rescues", "corrected").returncode == 0
    fields = json.loads((tmp_path / "conversions.json").read_text())
    assert [cell["precision"] for cell in fields["cells"]][-1] == "corrected"
    assert fields["stamp"]["command"].endswith("--rescues corrected --nets 'elastic-xs'")
    (tmp_path / "kept.json").rename(cells / "onnx-mixed.json")
    assert run(tmp_path, *SMALL, "--rescues").returncode == 0  # what is there already is shown
    page = (tmp_path / "conversions.md").read_text()
    assert "4 of 6 cells convert and keep the space; 1 convert and are refused" in page
    assert "1 do not convert" in page
    figures = "| 0.50000 / 0.25000 | 12.5 % | 75.0 % | 2 | 0.50 | 2.00 | 0.75 |"
    assert f"| elastic-xs | onnx | fp32 | yes {figures}" in page
    assert f"| elastic-xs | onnx | int8 | **refused** {figures}" in page
    assert "| mixed: 3 of 9 layers, 20% of MACs in float32 | yes |" in page
    assert "| elastic-xs | onnx | dynamic | **no** |" in page
    assert "## Refusals\n\n* elastic-xs, onnx int8: it is lost\n" in page
    assert "## Failures\n\n* elastic-xs, onnx dynamic: it broke\n" in page


def test_rescues_are_tried_where_int8_loses_much() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from conversions_cells import rescues
    finally:
        sys.path.pop(0)
    assert rescues({"cosine_min": 0.999}) == ()
    assert rescues({"cosine_min": 0.5}) == ("corrected", "mixed")
    assert rescues({"cosine_min": 0.999, "refused": "lost"}) == ("corrected", "mixed")
    assert rescues({"error": "it broke"}) == ()  # what does not convert cannot be mended


def test_an_unknown_network_names_the_nearest(tmp_path: Path) -> None:
    done = run(tmp_path, "--nets", "ResNet18")
    assert done.returncode == 2
    assert "the nearest is 'ResNet-18'" in done.stderr


@pytest.mark.parametrize("name", ["conversions", "export_peers"])
def test_every_row_in_the_docs_was_written_by_the_benchmark(name: str) -> None:
    page = (ROOT / "docs" / "conversions.md").read_text()
    written = (ROOT / "benchmarks" / "results" / f"{name}.md").read_text().splitlines()
    table = [line for line in written if re.match(r"\|.*\d", line)]
    assert table
    for line in table:
        assert line in page, line
    both = "".join(path.read_text() for path in (ROOT / "benchmarks" / "results").glob("*.md"))
    for line in page.splitlines():
        if re.match(r"\|.*\d", line):
            assert line in both, line
