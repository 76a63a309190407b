"""The benchmark of conversions: a part of it is run, and the page in docs says what it wrote."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

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
    """Cells of the table's rows, without its head."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_two_rows_of_the_table(tmp_path: Path) -> None:
    arguments = ("--nets", "elastic-xs", "--format", "onnx", "--size", "32")
    done = run(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    plain, int8 = rows(tmp_path / "conversions.md")
    assert [row[:2] + row[3:6] for row in (plain, int8)] == [
        ["elastic-xs", "32", "onnx", "fp32", "yes"],
        ["elastic-xs", "32", "onnx", "int8", "yes"],
    ]
    assert plain[6:8] == ["1.00000 / 1.00000", "100.0 %"]
    fields = json.loads((tmp_path / "conversions.json").read_text())
    first, second = fields["cells"]
    assert first["cosine_min"] > 0.99999
    assert first["bytes_ratio"] == 1
    assert 0.9 < second["cosine_min"] < 1
    assert second["bytes_ratio"] < 0.7
    assert all(cell["ms"] > 0 and cell["latency_ratio"] > 0 for cell in (first, second))

    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").rglob("*.*")}
    assert run(tmp_path, *arguments).returncode == 0
    assert made == {file: file.stat().st_mtime_ns for file in (tmp_path / "work").rglob("*.*")}  # resumed


def test_a_failed_cell_is_named_and_the_rest_stands(tmp_path: Path) -> None:
    arguments = ("--nets", "elastic-xs", "--format", "onnx", "--size", "32")
    cells = tmp_path / "work" / "32-seed0" / "elastic-xs"
    cells.mkdir(parents=True)
    about = {"net": "elastic-xs", "format": "onnx", "size": 32, "spread": 0.5}
    measured = {
        "cosine_mean": 0.5,
        "cosine_min": 0.25,
        "top1_same": 0.125,
        "bytes": 1500,
        "bytes_ratio": 0.5,
        "ms": 2.0,
        "latency_ratio": 0.75,
        "xnnpack_partitions": None,
    }
    (cells / "onnx-fp32.json").write_text(json.dumps(about | {"precision": "fp32"} | measured))
    (cells / "onnx-int8.json").write_text(json.dumps(about | {"precision": "int8", "error": "it broke"}))
    done = run(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "conversions.md").read_text()
    assert "1 of 2 cells convert" in page
    assert "| **no** |" in page
    assert "| yes | 0.50000 / 0.25000 | 12.5 % | 2 | 0.50 | 2.00 | 0.75 |" in page
    assert "* elastic-xs, onnx int8: it broke" in page


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
