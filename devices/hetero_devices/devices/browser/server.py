"""The page's server: an explicit map of files, a desk with jobs, and nothing else."""

from __future__ import annotations

import errno
import json
import re
import shutil
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hetero_devices.devices.browser.access import COOKIE, Access
from hetero_devices.devices.browser.desk import Desk
from hetero_devices.devices.browser.network import is_loopback
from hetero_devices.devices.browser.results import Refused, limit
from hetero_devices.errors import DeviceBusy, DeviceError

_PAGE = Path(__file__).parent / "page"
_POLL = 20.0  # seconds that a page's question for a job stays open
_CONNECTIONS = 64
_POST = re.compile(r"/results/([0-9a-f]{32})/(progress|embeddings|statistics|failure)")
_FILE = re.compile(r"/files/([0-9a-f]{64})")
_PAGE_ID = re.compile(r"[0-9a-f]{16,64}")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}
_HEADERS = {
    # Isolation gives the page threads, exact timers and its memory, where it is a secure context.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; "
        "style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_FRESH, _FOREVER = "no-store", "private, max-age=31536000, immutable"


class PageServer(ThreadingHTTPServer):
    """Serves the page, the runtimes and what is on the desk, from its own threads, until it is closed."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True  # a restart must not wait for the last run's connections to be forgotten

    def __init__(self, address: str, port: int, desk: Desk, runtimes: Mapping[str, Path]) -> None:
        """runtimes: path of a URL, under /runtimes/ -> file.

        Raise DeviceBusy when another process listens there, DeviceError when nobody can.
        """
        self._connections: set[socket.socket] = set()
        try:
            super().__init__((address, port), _Handler)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise DeviceBusy(f"port {port} of {address} is in use: does another run serve it?") from None
            raise DeviceError(f"cannot listen on {address} port {port}: {error.strerror}") from None
        self.desk = desk
        self.files = _page() | dict(runtimes)
        self.access = Access(_hosts(address, self.server_port), guarded=not is_loopback(address))
        self.address = address
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()

    @property
    def url(self) -> str:
        """What to open: with the token where one is needed."""
        token = f"?token={self.access.token}" if self.access.token else ""
        return f"http://{self.address}:{self.server_port}/{token}"

    def verify_request(self, request: object, client_address: object) -> bool:
        """Strangers may open connections, but not without bound."""
        return len(self._connections) < _CONNECTIONS

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that breaks is the page's business; it asks again."""

    def close(self) -> None:
        """Stop listening, and hang up: an open page must not go on asking a server of the past."""
        self.desk.close()
        self.shutdown()
        self.server_close()
        for connection in list(self._connections):
            with suppress(OSError):  # it may have ended by itself
                connection.shutdown(socket.SHUT_RDWR)


def _page() -> dict[str, Path]:
    return {f"/{path.name}": path for path in _PAGE.iterdir() if path.suffix in _TYPES}


def _hosts(address: str, port: int) -> frozenset[str]:
    names = [address, "localhost"] if is_loopback(address) else [address]
    return frozenset(f"{name}:{port}" for name in names)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version, sys_version = "hetero", ""
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a request may stall

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *arguments: object) -> None:
        """Silent: a request line may hold the token."""

    def _answer(self, action: Callable[[], None]) -> None:
        try:
            if not self.server.access.knows_host(self.headers.get("Host")):
                raise Refused(403, "this server does not go by that name")
            action()
        except Refused as refusal:
            self.close_connection = True  # a body that was not read may still be on its way
            self._send(refusal.status, str(refusal).encode(), "text/plain; charset=utf-8")

    def _get(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if url.path == "/" and "token" in query:
            return self._enter(query["token"])
        self._admit()
        if url.path == "/job":
            return self._job(query.get("page", ""))
        if found := _FILE.fullmatch(url.path):
            return self._file(self.server.desk.file(found[1]), "application/octet-stream", _FOREVER)
        path = self.server.files.get("/index.html" if url.path == "/" else url.path)
        keep = _FOREVER if url.path.startswith("/runtimes/") else _FRESH
        return self._file(path, _TYPES[path.suffix] if path else "", keep)

    def _post(self) -> None:
        if not self.server.access.same_origin(self.headers.get("Origin")):
            raise Refused(403, "this request comes from another page")
        self._admit()
        desk, url = self.server.desk, urlsplit(self.path)
        if url.path == "/leave":
            desk.leave(self._body(128).decode("ascii", errors="replace"))
        elif found := _POST.fullmatch(url.path):
            claim, kind = found.groups()
            body = self._body(limit(kind, desk.check(claim).images))
            desk.receive(claim, kind, body)
        else:
            raise Refused(404, "there is nothing here")
        self._send(204, b"", "")

    def _enter(self, token: str) -> None:
        """Trade the token for a session, and lose it from the address bar."""
        session = self.server.access.redeem(token)
        if session is None and not self.server.access.admits(self.headers.get("Cookie")):
            raise Refused(403, "this link was used, or belongs to an earlier run: scan the present code")
        cookie = {"Set-Cookie": f"{COOKIE}={session}; HttpOnly; SameSite=Lax; Path=/"} if session else {}
        self._send(303, b"", "", {"Location": "/", **cookie})

    def _admit(self) -> None:
        if not self.server.access.admits(self.headers.get("Cookie")):
            raise Refused(403, "this page has no part in the present run: scan the code in the terminal")

    def _job(self, page: str) -> None:
        if not _PAGE_ID.fullmatch(page):
            raise Refused(400, "a page names itself when it asks for a job")
        self.server.desk.greet(self.headers.get("User-Agent", ""))
        told = self.server.desk.take(page, _POLL)
        body = json.dumps(told).encode() if told else b""
        self._send(200 if told else 204, body, "application/json")

    def _body(self, most: int) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            raise Refused(411, "a post states its length")
        if int(length[:20]) > most:
            raise Refused(413, f"this post has {length[:20]} bytes, at most {most} are taken")
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise Refused(400, f"this post has {len(body)} bytes, it stated {length}")
        return body

    def _file(self, path: Path | None, kind: str, keep: str) -> None:
        if path is None:
            raise Refused(404, "there is nothing here")
        with path.open("rb") as file:
            self._head(200, path.stat().st_size, kind, {"Cache-Control": keep})
            shutil.copyfileobj(file, self.wfile, 1 << 20)

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self._head(status, len(body), kind, {"Cache-Control": _FRESH, **(headers or {})})
        self.wfile.write(body)

    def _head(self, status: int, length: int, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, **headers}.items():
            self.send_header(name, value)
        if kind:
            self.send_header("Content-Type", kind)
        if status != 204:
            self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
