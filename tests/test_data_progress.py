"""The progress bar: for a terminal only."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

SCRIPT = "from hetero.progress import track; print(sum(track(iter(range(5)), 'counting', 5)))"


def environment() -> dict[str, str]:
    root = Path(__file__).parents[1]
    paths = os.pathsep.join([str(root), str(root / "devices")])
    return {**os.environ, "PYTHONPATH": paths, "TERM": "xterm", "COLUMNS": "80"}


def test_silent_without_a_terminal() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment(), capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("10\n", "")


def test_drawn_on_a_terminal() -> None:
    main, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        check=True,
    )
    os.close(terminal)
    shown = os.read(main, 100_000).decode()
    os.close(main)
    assert done.stdout == "10\n"
    assert "counting" in shown
