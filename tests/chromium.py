"""A real headless Chromium that a test looks into: reads the page, reloads it, closes it, photographs it."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hetero_devices.devices.browser.launch import arguments
from tests.device_tools import need_tool

_PATIENCE = 30.0
# Chromium reads 3 and writes 4; a function between fork and exec would run torch's hooks as well.
_BECOME = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Chromium:
    """Speaks the DevTools protocol over the two pipes of --remote-debugging-pipe: JSON, each ended by NUL."""

    def __init__(self, folder: Path, *options: str) -> None:
        orders, replies = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (orders[0], replies[1])]  # away from 3 and 4
        argv = [need_tool("chromium", "chromium"), "--headless", "--remote-debugging-pipe", *options]
        become = [sys.executable, "-c", _BECOME, *map(str, ends)]
        self.process = subprocess.Popen(
            become + arguments(argv, str(folder), "about:blank"),
            pass_fds=ends,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for end in (orders[0], replies[1], *ends):
            os.close(end)
        self._orders, self._replies = os.fdopen(orders[1], "wb"), os.fdopen(replies[0], "rb")
        self._number, self._rest = 0, b""
        self._session: str | None = None

    def open(self, url: str) -> None:
        """A new tab, which is the one the other methods are about."""
        self._session = None
        self._target = self.call("Target.createTarget", url=url)["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]

    def close_tab(self) -> None:
        self._session = None
        self.call("Target.closeTarget", targetId=self._target)

    def reload(self) -> None:
        self.call("Page.reload")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page, None when it throws or the page is loading."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return found.get("result", {}).get("value")

    def text(self, part: str = "body") -> str:
        """What a reader sees of an element."""
        return str(self.evaluate(f"document.querySelector({part!r})?.innerText ?? ''"))

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come: {self.text()}"
            time.sleep(0.05)

    def screen(self, width: int, height: int, *, dark: bool = False, scale: float = 1.0) -> None:
        """Give the page a screen of that many CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def photograph(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        order = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            order["sessionId"] = self._session
        self._orders.write(json.dumps(order).encode() + b"\0")
        self._orders.flush()
        while True:
            answer = json.loads(self._message())
            if answer.get("id") == self._number:
                result: dict[str, Any] = answer.get("result", {})
                return result

    def _message(self) -> bytes:
        while b"\0" not in self._rest:
            block = self._replies.read1(1 << 16)
            assert block, "Chromium ended"
            self._rest += block
        message, _, self._rest = self._rest.partition(b"\0")
        return message

    def close(self) -> None:
        """Ask it to end, so that nothing of it still writes to its folder, then make sure."""
        self._session = None
        with suppress(AssertionError, OSError):
            self.call("Browser.close")
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._replies.close()
        self._orders.close()


@contextmanager
def chromium(*options: str) -> Iterator[Chromium]:
    with tempfile.TemporaryDirectory(prefix="hetero-chromium-", ignore_cleanup_errors=True) as folder:
        browser = Chromium(Path(folder), *options)
        try:
            yield browser
        finally:
            browser.close()
