"""A web page as a device: whoever opens it embeds, with ONNX Runtime Web and LiteRT.js."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hetero_devices import strict
from hetero_devices.cpu import Cpu
from hetero_devices.devices.browser.desk import Desk, Order
from hetero_devices.devices.browser.launch import Browser
from hetero_devices.devices.browser.network import LOOPBACK, is_loopback, lan_address, qr_code
from hetero_devices.devices.browser.packages import address, locked, runtimes
from hetero_devices.devices.browser.server import PageServer
from hetero_devices.devices.device import Result
from hetero_devices.devices.job import Job
from hetero_devices.devices.outcome import collect, memory_apart
from hetero_devices.errors import DataError, DeviceError, ModelError, TransferError
from hetero_devices.files import sha256_file
from hetero_devices.runtimes import format_of

_LOOK = 0.25  # seconds between two looks at the browser and the clock


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How the page is opened and how long to wait for it.

    command: a browser that the device starts itself, e.g. ["chromium", "--headless"]; without one, somebody
    opens the address that is shown. lan: serve other machines too, for whoever has the one-time token.
    address: of this machine, by default loopback or, with `lan`, the one it reaches others by. port: 0 takes
    a free one; a fixed one lets a page that stayed open go on after a restart.
    wait: seconds until a page must ask for the job. silence: seconds a page may say nothing while it has
    one. timeout: seconds one job may take.
    """

    command: tuple[str, ...] = ()
    lan: bool = False
    address: str = ""
    port: int = 0
    wait: float = 300.0
    silence: float = 30.0
    timeout: float = 900.0

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536 or min(self.wait, self.silence, self.timeout) <= 0:
            raise DeviceError("a browser needs a port from 0 to 65535, and seconds above 0")
        if self.command and self.lan:
            raise DeviceError("a browser that is started here opens the page by loopback: leave `lan` out")
        if self.address and is_loopback(self.address) == self.lan:
            kind = "one that others reach" if self.lan else "one of loopback: set `lan` to serve others"
            raise DeviceError(f"the address {self.address} must be {kind}")


class BrowserDevice:
    """A page that asks for jobs as long as it is open; job after job runs on the same page."""

    def __init__(
        self, name: str, connection: Connection, announce: Callable[[str], None] | None = None
    ) -> None:
        """announce: shows the address to open, by default on standard error."""
        self._name = name
        self._connection = connection
        self._announce = announce or (lambda text: print(text, file=sys.stderr, flush=True))
        self._desk = Desk()
        self._server: PageServer | None = None
        self._browser: Browser | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def url(self) -> str:
        """What to open; before `serve` or the first job it is not known."""
        assert self._server is not None, "served from the first job on"
        return self._server.url

    def run(self, job: Job) -> Result:
        """See `Device.run`. Also raises DeviceBusy when another process serves the same port."""
        if job.cpus:
            raise DeviceError(f"{self.name}: a page cannot pin itself to processors: leave `cpus` empty")
        self.serve()
        return memory_apart(job, self._retried)

    def info(self) -> dict[str, Any]:
        """See `Device.info`: of the page that asks first. Raises DeviceError when none does in time."""
        self.serve()
        agent = self._desk.visitor(self._connection.wait)
        if agent is None:
            raise DeviceError(
                f"{self.name}: no page was opened within {self._connection.wait:g} s: {self.url}"
            )
        cpu = Cpu(machine="wasm32", model=agent, cores=None, flags=None, governor=None)
        versions: dict[str, str | None] = {name: pin.version for name, pin in locked().items()}
        return {"cpu": cpu.to_json(), "runtimes": versions}

    def close(self) -> None:
        """End the browser, if it was started here, and stop serving."""
        if self._browser is not None:
            self._browser.close()
            self._browser = None
        if self._server is not None:
            self._server.close()
            self._server = None

    def serve(self) -> None:
        """Start serving, so that a page can be opened before there is a job; `run` does it by itself."""
        if self._server is None:
            self._server = self._listen()
            if not self._connection.command:
                self._announce(_invitation(self.name, self.url))
        if self._connection.command and self._browser is None:
            self._browser = Browser(self._connection.command, self.url)

    def _listen(self) -> PageServer:
        wanted = self._connection
        host = wanted.address or (lan_address() if wanted.lan else LOOPBACK)
        self._desk = Desk()
        return PageServer(host, wanted.port, self._desk, runtimes())

    def _retried(self, job: Job) -> Result:
        """A file that arrived damaged is sent once more."""
        try:
            return self._once(job)
        except TransferError:
            return self._once(job)

    def _once(self, job: Job) -> Result:
        with tempfile.TemporaryDirectory(prefix="hetero-job-") as name:
            order = _order(self.name, job, Path(name))
            self._desk.put(order)
            try:
                self._await(order)
            finally:
                self._desk.withdraw()
            if order.trouble is not None:
                raise order.trouble
            return collect(self.name, order.folder, "embed" in job.tasks)

    def _await(self, order: Order) -> None:
        """Return when the page is done; DeviceError when it will not be."""
        start = time.monotonic()
        while not self._desk.wait(order, _LOOK):
            self._check_browser(order)
            now = time.monotonic()
            if order.heard is None and now - start > self._connection.wait:
                raise DeviceError(
                    f"{self.name}: no page asked for the job within {self._connection.wait:g} s: "
                    f"open {self.url} on the device and leave it open"
                )
            if order.heard is not None and now - order.heard > self._connection.silence:
                raise DeviceError(
                    f"{self.name}: the page has not been heard for {self._connection.silence:g} s, "
                    f"{_where(order)}: was its tab closed, or did the device fall asleep?"
                )
            if now - start > self._connection.timeout:
                raise DeviceError(
                    f"{self.name}: the job did not end within {self._connection.timeout:g} s, {_where(order)}"
                )

    def _check_browser(self, order: Order) -> None:
        how = self._browser.ended() if self._browser else None
        if self._browser is not None and how is not None:
            self._browser.close()
            self._browser = None  # the next job starts another
            raise DeviceError(f"{self.name}: {self._connection.command[0]} {how}, {_where(order)}")


def build(name: str, connection: Mapping[str, Any]) -> BrowserDevice:
    """The device of a profile; `connection` is that of `Connection`."""
    where = f"connection of device {name}"
    return BrowserDevice(name, strict.decode(Connection, dict(connection), where, DeviceError, defaults=True))


def _order(device: str, job: Job, folder: Path) -> Order:
    """Raises ModelError or DataError for files that no page could use."""
    model, images = Path(job.model), Path(job.images)
    if format_of(model) == "pte":
        raise ModelError(
            f"{device}: a page has no ExecuTorch for {model.name}: give an .onnx or .tflite file"
        )
    for path in (model, images):
        if not path.is_file():
            raise DataError(f"no file at {path}")
    described = {"model": _described(model), "images": _described(images)}
    for kind, expected in job.digests.items():
        if described[kind]["sha256"] != expected:
            raise TransferError(f"{device}: the {kind} of the job are not those of its digest")
    files = {described["model"]["sha256"]: model, described["images"]["sha256"]: images}
    count = _count(images)
    told = {
        "device": device,
        "tasks": list(job.tasks),
        "threads": job.threads,
        "stopping": asdict(job.stopping),
        "runtimes": address(),
        "versions": {package: pin.version for package, pin in locked().items()},
        **described,
    }
    return Order(job=job, told=told, files=files, folder=folder, images=count)


def _described(path: Path) -> dict[str, Any]:
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _count(path: Path) -> int:
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read the images {path}: {error}") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not len(images):
        found = f"{images.dtype} {list(images.shape)}"
        raise DataError(f"images in {path.name} are {found}, expected uint8 [N, H, W, 3] with at least one")
    return len(images)


def _where(order: Order) -> str:
    progress = order.progress
    if not order.claim:
        return "before a page asked for the job"
    return f"{progress.state} with {progress.done} of {progress.total or order.images} done"


def _invitation(name: str, url: str) -> str:
    lines = [f"{name}: open {url} on the device and leave it open"]
    if "?token=" in url:
        lines += ["(the link works once, for one browser)", qr_code(url)]
    return "\n".join(lines)
