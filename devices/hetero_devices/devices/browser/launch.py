"""A browser that the device starts and ends itself."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hetero_devices.errors import DeviceError

# A Chromium that asks nothing, calls nobody and does not slow a page down that nobody looks at.
_QUIET = (
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
)
_CHROMIUMS = ("chromium", "chrome", "google-chrome")
_PATIENCE = 5.0  # seconds between asking a browser to end and ending it


def arguments(command: Sequence[str], folder: str, url: str) -> list[str]:
    """The argv for a page; a Chromium gets quiet flags and `folder` for its profile, as root no sandbox."""
    if not Path(command[0]).name.startswith(_CHROMIUMS):
        return [*command, url]
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []  # root cannot have one
    return [*command, *_QUIET, *sandbox, f"--user-data-dir={folder}", url]


class Browser:
    """A running browser with a fresh profile and a process group of its own."""

    def __init__(self, command: Sequence[str], url: str) -> None:
        """Raise DeviceError when it does not start."""
        self._folder = tempfile.TemporaryDirectory(prefix="hetero-browser-", ignore_cleanup_errors=True)
        argv = arguments(command, self._folder.name, url)
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            self._folder.cleanup()
            raise DeviceError(f"cannot start {command[0]}: {error.strerror}") from None

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> str | None:
        """How it ended by itself, None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def close(self) -> None:
        """End it and what it started, and forget its profile."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(_PATIENCE)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        self._process.wait()
        self._folder.cleanup()
