"""Documentation that cannot rot: Python examples are executed, commands are run, links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hetero.cli.main import VERBS
from hetero.recipes.resolve import resolve

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
QUICK = (
    *(f"{part}.fit.{k}" for part in ("anchor", "student") for k in ("steps=20", "batch=32")),
    "anchor.network=residual-s",
    "anchor.fit.precision=fp32",
    "student.network=elastic-xs",
    "student.views=1",
    "gates.criterion=false",  # twenty steps are no training
    "gates.int8_recall_drop=1",
    "gates.fp32_top1_same=0.99",
)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "2"}


def run_command(line: str, folder: Path) -> None:
    program, *arguments = shlex.split(line)
    assert program == "hetero", line
    if arguments[:2] == ["train", "demo"]:
        arguments += QUICK
    command = [sys.executable, "-m", "hetero", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def run_python(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tutorial_works_from_top_to_bottom(tmp_path: Path) -> None:
    page = ROOT / "docs" / "tutorial.md"
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            run_command(line, tmp_path)
    (example,) = blocks(page, "python")
    assert "M(phone int8, cloud): Recall@1 0." in run_python(example, tmp_path)
    assert (tmp_path / "runs" / "tutorial" / "report" / "report.html").is_file()


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "tutorial.md"], ids=lambda p: p.name)
def test_python_examples_run(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "python"):
        run_python(block, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_yaml_examples_are_recipes(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "yaml"):
        assert isinstance(yaml.safe_load(block), dict)
        (tmp_path / "mine.yaml").write_text(block)
        assert resolve(str(tmp_path / "mine.yaml")).name == "mine"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_verb_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    for verb in VERBS:
        assert f"`{verb}`" in text, verb


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_pages_name_only_commands_that_exist(page: Path) -> None:
    for verb in re.findall(r"`hetero ([a-z]+)[^`]*`", page.read_text()):
        assert verb in VERBS, verb


PARTS_WITH_FIGURES = (
    ("README.md", "## Numbers"),
    ("docs/gates.md", "## Why numbers are not enough"),
    ("docs/gates.md", "## Compressed galleries"),
    ("docs/objectives.md", "## Which one"),
    ("docs/quantisation.md", "## What it brings"),
    ("docs/backfilling.md", "## Figures"),
    ("docs/upgrades.md", "## Figures"),
    ("docs/flips.md", "### What it brought so far"),
    ("docs/linear.md", "## What it brings"),
    ("docs/linear-math.md", "## Deployment"),
    ("docs/search.md", "## What it brings"),
    ("docs/search.md", "## The product in one table"),
    ("docs/search.md", "## What keeps a small model from the paragon"),
    ("docs/devices.md", "## What it looked like"),
    ("docs/devices-latency.md", "## How good it is"),
    ("docs/devices-emulated.md", "### What it proves"),
)


@pytest.mark.parametrize(("page", "heading"), PARTS_WITH_FIGURES)
def test_every_row_of_figures_was_written_by_a_benchmark(page: str, heading: str) -> None:
    section = (ROOT / page).read_text().split(heading)[1].split("\n## ")[0]
    written = "".join(path.read_text() for path in (ROOT / "benchmarks" / "results").glob("*.md"))
    rows = [line for line in section.splitlines() if re.match(r"(\||\* \w+ \().*\d", line)]
    assert rows
    for row in rows:
        assert row in written, row
