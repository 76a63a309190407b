"""Where a job waits for a page, and a page's results for the device that offered the job."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hetero_devices.devices.browser.results import Progress, Refused, save
from hetero_devices.devices.job import EMBEDDINGS, FAILURE, STATISTICS, Job
from hetero_devices.errors import HeteroError

_GRACE = 5.0  # seconds of silence after which another page may take a job over


@dataclass(kw_only=True)
class Order:
    """One job on offer.

    told: what the page is told about it, without the claim. files: sha256 -> file that it may fetch.
    folder: where results go. images: their number. claim: secret of the hand-out whose results count; a job
    given again, because a page was reloaded, gets another. heard: when its page last spoke, by `monotonic`.
    trouble: what kept this side from taking a result, which ends the order too.
    """

    job: Job
    told: dict[str, Any]
    files: dict[str, Path]
    folder: Path
    images: int
    claim: str = ""
    page: str = ""
    heard: float | None = None
    progress: Progress = field(default_factory=Progress)
    ended: bool = False
    trouble: OSError | HeteroError | None = None


class Desk:
    """Holds one order at a time; its methods may be called from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._order: Order | None = None
        self._left: deque[str] = deque(maxlen=100)
        self._closed = False
        self._visitor: str | None = None

    def greet(self, agent: str) -> None:
        """A page with that user agent asks."""
        with self._changed:
            self._visitor = agent
            self._changed.notify_all()

    def visitor(self, seconds: float) -> str | None:
        """User agent of the page that asked last, waiting for one up to `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: self._visitor is not None, seconds)
            return self._visitor

    def put(self, order: Order) -> None:
        """Offer a job to whichever page asks next."""
        with self._changed:
            assert self._order is None, "one job at a time"
            self._order = order
            self._changed.notify_all()

    def withdraw(self) -> None:
        """Forget the order; what a page still sends for it is refused."""
        with self._changed:
            self._order = None

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, order: Order, seconds: float) -> bool:
        """Whether the order ended, waiting for that up to `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: order.ended, seconds)

    def take(self, page: str, seconds: float) -> dict[str, Any] | None:
        """The order for a page that asks, with a fresh claim; None when there is none within `seconds`."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self._free(page):
                left = deadline - time.monotonic()
                if left <= 0 or self._closed or page in self._left:
                    return None
                self._changed.wait(min(left, 0.5))  # a silent page frees its job without telling
            return self._hand_out(page)

    def leave(self, page: str) -> None:
        """A page says that it goes, by a reload or for good: its job is free for the next that asks."""
        with self._changed:
            self._left.append(page)  # its question may still be open: it gets no job any more
            if self._order is not None and self._order.page == page:
                self._order.page = ""
            self._changed.notify_all()

    def file(self, digest: str) -> Path | None:
        """The file of that sha256, if the present order has it."""
        with self._changed:
            return self._order.files.get(digest) if self._order else None

    def check(self, claim: str) -> Order:
        """The order with that claim, its page heard now; Refused when that hand-out no longer counts."""
        with self._changed:
            order = self._order
            if order is None or order.ended or not order.claim or claim != order.claim:
                raise Refused(409, "this job was withdrawn or given to another page")
            order.heard = time.monotonic()
            return order

    def receive(self, claim: str, kind: str, body: bytes) -> None:
        """Take what a page posted for its job; Refused says what is wrong with it."""
        with self._changed:
            order = self.check(claim)
            try:
                found = save(kind, body, order.job, order.images, order.folder)
            except (OSError, HeteroError) as error:  # e.g. a full disk: no matter of the page
                order.trouble, found = error, True
            if isinstance(found, Progress):
                order.progress = found
            else:
                order.ended = found
                self._changed.notify_all()

    def _free(self, page: str) -> bool:
        order = self._order
        if order is None or order.ended or self._closed or page in self._left:
            return False
        heard = order.heard or 0.0
        return order.page in ("", page) or time.monotonic() - heard > _GRACE

    def _hand_out(self, page: str) -> dict[str, Any]:
        order = self._order
        assert order is not None
        order.claim, order.page, order.heard = secrets.token_hex(16), page, time.monotonic()
        order.progress = Progress()
        for name in (EMBEDDINGS, STATISTICS, FAILURE):
            (order.folder / name).unlink(missing_ok=True)
        return {**order.told, "claim": order.claim}
