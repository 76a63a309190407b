"""`hetero finetune` killed at any moment and started again ends with the same result, bit for bit."""

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
import torch

from hetero.cli.main import cli
from hetero.linear.fitting import Fitting, Lesson, LessonConfig
from hetero.models.build import build, preset
from hetero.models.deploy import Deploy
from hetero.models.store import Model, define_space
from hetero.tensors import load_tensors
from hetero_devices.errors import HeteroError
from hetero_devices.space import Preprocessing


def line() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, 5))


def test_a_fitting_continues_from_its_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    pixels = torch.randint(
        0, 256, (20, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    lesson = Lesson(pixels, torch.arange(20) % 5)
    config = LessonConfig(epochs=4, batch=8, save_seconds=0)

    class Stop(Exception):
        pass

    def fitted(folder: Path, last: int | None = None) -> tuple[torch.nn.Module, tuple[float, ...]]:
        seen: list[float] = []

        def score(model: torch.nn.Module) -> float:
            seen.append(float((model(pixels.float()).argmax(1) == lesson.targets).float().mean()))
            if len(seen) == last:
                raise Stop
            return seen[-1]

        model = line()
        loss = torch.nn.functional.cross_entropy
        return model, Fitting(model, loss, 1e-4, config, folder, 3).run(lesson, score).scores

    whole, scores = fitted(tmp_path / "whole")
    with pytest.raises(Stop):
        fitted(tmp_path / "killed", last=3)
    continued, again = fitted(tmp_path / "killed")
    assert again == scores
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), continued.parameters(), strict=True))


def command(model: Path, arrays: Path, folder: Path) -> list[str]:
    words = ["finetune", str(model), "--data", str(arrays), "--shots", "4", "-o", str(folder)]
    words += ["--method", "finetune", "--method", "lqf", "rates=[0.001, 0.1]", "lesson.epochs=6"]
    words += ["lesson.save_seconds=0", "lesson.batch=8"]
    return [sys.executable, "-m", "hetero", *words]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    changes = {"widths": (8, 16), "depths": (1, 1), "dim": 16, "activation": "leaky_relu"}
    config = preset("residual-s").model_copy(update=changes)
    deploy = Deploy(build(config), Preprocessing(size=16)).eval()
    Model(deploy, config, define_space(deploy.network, deploy.preprocessing, 16)).save(folder, {})
    return folder


def results(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(folder.glob("*/outcome.json")):
        fields = json.loads(path.read_text())
        found[path.parent.name] = (
            fields["rate"],
            [[rate, curve["scores"]] for rate, curve in fields["curves"]],
        )
        found[f"{path.parent.name} correct"] = np.load(path.parent / "correct.npy").tolist()
    for path in sorted(folder.glob("*/*/trained.safetensors")):
        tensors, _ = load_tensors(path)
        found[str(path.relative_to(folder))] = {name: t.tolist() for name, t in tensors.items()}
    return found


@pytest.mark.slow
def test_killed_and_continued_equals_uninterrupted(model: Path, arrays: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(model, arrays, whole), env=environment, check=True, capture_output=True)
    for place in ("finetune/0.001", "lqf/0.1"):
        process = subprocess.Popen(
            command(model, arrays, killed),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        metrics, deadline = killed / place / "metrics.jsonl", time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if metrics.exists() and len(metrics.read_text().splitlines()) >= 3:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    done = subprocess.run(command(model, arrays, killed), env=environment, check=True, capture_output=True)
    assert done.returncode == 0
    assert results(killed) == results(whole)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shots", "50"), "training images besides 3"),
        (("--shots", "some"), "expected a number of images, or all"),
        (("--method", "lfq"), "the nearest is 'lqf'"),
        (("--targets", "anchor"), "need a student in its run"),
        (("--targets", "anchor", "--method", "head"), "cannot regress onto embeddings"),
        (("lesson.epoch=3",), "the nearest is 'lesson.epochs'"),
    ],
)
def test_the_command_s_mistakes_are_one_line(
    model: Path, arrays: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    output = tmp_path / "o"
    arguments = ["finetune", str(model), "--data", str(arrays), *words, "-o", str(output)]
    with pytest.raises(HeteroError, match=message) as caught:
        cli.main(arguments, standalone_mode=False)
    assert "\n" not in str(caught.value)
    assert not output.exists()


def test_the_command_prints_numbers(
    model: Path, arrays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", str(model), "--data", str(arrays), "--shots", "2", "--method", "head"]
    cli.main([*words, "--json", "-o", str(tmp_path / "o")], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == {"train": 24, "validation": 36, "test": 24}
    (head,) = found["methods"]
    assert head["accuracy"]["low"] <= head["accuracy"]["value"] <= head["accuracy"]["high"]
