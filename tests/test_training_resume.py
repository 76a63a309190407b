"""A training killed at any moment and started again ends with the same weights, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hetero.models import store

STAGES = ("anchor", "student", "alone")


def command(arrays: Path, run: Path, *overrides: str) -> list[str]:
    small = (
        "data.size=16",
        f"data.source={arrays}",
        "anchor.network=residual-s",
        "anchor.fit.precision=fp32",
        "student.network=elastic-xs",
        "student.views=2",
        *(
            f"{part}.fit.{k}"
            for part in ("anchor", "student")
            for k in ("steps=40", "batch=16", "checkpoint_every=3")
        ),
    )
    return [sys.executable, "-m", "hetero", "train", "demo", *small, *overrides, "--run", str(run)]


def train(arrays: Path, run: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(arrays, run, *overrides), capture_output=True, text=True, env=environment(), check=False
    )


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def weights(run: Path) -> dict[str, str]:
    return {s: json.loads((run / s / "model.json").read_text())["weights_sha256"] for s in STAGES}


def kill_when(process: subprocess.Popen[bytes], metrics: Path, lines: int) -> None:
    """SIGKILL as soon as the training has logged so many lines."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= lines:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the training ended before it could be killed"


@pytest.fixture(scope="module")
def uninterrupted(arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    done = train(arrays, run)
    assert done.returncode == 0, done.stderr
    return run


def test_killed_and_continued_equals_uninterrupted(arrays: Path, uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    every = ("anchor.fit.log_every=1", "student.fit.log_every=1")
    for stage, lines in (("anchor", 8), ("student", 17), ("student", 25)):
        process = subprocess.Popen(
            command(arrays, run, *every),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        kill_when(process, run / stage / "metrics.jsonl", lines)
    done = train(arrays, run, *every)
    assert done.returncode == 0, done.stderr
    assert weights(run) == weights(uninterrupted)


def test_metrics_hold_every_logged_step_once(uninterrupted: Path) -> None:
    steps = [
        json.loads(line)["step"]
        for line in (uninterrupted / "student" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [0, 20, 39]


def test_another_seed_gives_other_weights(arrays: Path, uninterrupted: Path, tmp_path: Path) -> None:
    done = train(arrays, tmp_path / "seed", "seed=1")
    assert done.returncode == 0, done.stderr
    assert all(weights(tmp_path / "seed")[s] != weights(uninterrupted)[s] for s in STAGES)


def test_a_run_of_another_recipe_is_refused(arrays: Path, uninterrupted: Path) -> None:
    done = train(arrays, uninterrupted, "student.fit.rate=0.5")
    assert done.returncode == 2
    assert "differs in student.fit.rate" in done.stderr
    assert "Traceback" not in done.stderr


def test_models_share_the_anchors_space_and_the_control_does_not(uninterrupted: Path) -> None:
    anchor, student, alone = (store.load(uninterrupted / stage) for stage in STAGES)
    assert student.space == anchor.space
    assert alone.space != anchor.space
    assert student.head is None
    assert anchor.head is not None


def test_a_brought_anchor_gives_the_same_student(arrays: Path, uninterrupted: Path, tmp_path: Path) -> None:
    done = train(
        arrays,
        tmp_path / "brought",
        f"anchor.source={uninterrupted / 'anchor'}",
        "student.alone=false",
        "gates.criterion=false",
    )
    assert done.returncode == 0, done.stderr
    student = json.loads((tmp_path / "brought" / "student" / "model.json").read_text())
    assert student["weights_sha256"] == weights(uninterrupted)["student"]


@pytest.fixture(scope="module")
def vectors(arrays: Path, uninterrupted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The anchor as a black box: its embeddings of every split."""
    folder = tmp_path_factory.mktemp("box") / "vectors"
    embed = [
        sys.executable,
        "-m",
        "hetero",
        "embed",
        str(uninterrupted / "anchor"),
        str(arrays),
        "-o",
        str(folder),
    ]
    subprocess.run(embed, check=True, env=environment(), capture_output=True)
    return folder


def test_a_black_box_anchor_trains_a_student_into_its_space(
    arrays: Path, uninterrupted: Path, vectors: Path, tmp_path: Path
) -> None:
    done = train(
        arrays, tmp_path / "box", f"anchor.source={vectors}", "student.alone=false", "gates.criterion=false"
    )
    assert done.returncode == 0, done.stderr
    assert store.load(tmp_path / "box" / "student").space == store.load(uninterrupted / "anchor").space


def test_a_black_box_has_no_head_to_train_against(arrays: Path, vectors: Path, tmp_path: Path) -> None:
    done = train(
        arrays, tmp_path / "box", f"anchor.source={vectors}", "student.objective=[{term: frozen_head}]"
    )
    assert done.returncode == 2
    assert "needs the anchor's class prototypes" in done.stderr


def test_a_run_from_before_a_key_existed_continues(arrays: Path, uninterrupted: Path) -> None:
    path = uninterrupted / "recipe.json"
    recipe = json.loads(path.read_text())
    del recipe["student"]["dimension"]
    path.write_text(json.dumps(recipe))
    done = train(arrays, uninterrupted)
    assert done.returncode == 0, done.stderr
    assert json.loads(path.read_text())["student"]["dimension"] == "equal"
