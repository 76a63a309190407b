"""Downloads from a real server: whole and checked, resumed when cut, one line when it cannot be."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from hetero.data.download import download
from hetero_devices.errors import DataError

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """/whole serves ranges; /plain ignores them; /cut stops after 100,000 bytes; /never after none."""

    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        match self.path:
            case "/whole":
                self._send(self._start())
            case "/cut":
                self._send(self._start(), limit=100_000)
            case "/never":
                self._send(self._start(), limit=0)
            case "/plain":
                self._send(0)
            case "/slow":
                self.server.release.wait(10)
            case _:
                self.send_error(404)

    def _start(self) -> int:
        span = self.headers.get("Range")
        return int(span.removeprefix("bytes=").rstrip("-")) if span else 0

    def _send(self, start: int, limit: int | None = None) -> None:
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:limit])

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []
        self.release = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "set.zip"


def part_of(target: Path) -> Path:
    return target.with_name("set.zip.part")


@pytest.mark.parametrize("page", ["whole", "plain"])
def test_a_download_arrives_whole(server: Server, target: Path, page: str) -> None:
    assert download(f"{server.url}/{page}", target, SHA256) == target
    assert target.read_bytes() == CONTENT
    assert not part_of(target).exists()


def test_an_earlier_attempt_is_continued(server: Server, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT[:123_456])
    download(f"{server.url}/whole", target, SHA256)
    assert target.read_bytes() == CONTENT
    assert server.requests == [("/whole", "bytes=123456-")]


def test_a_server_without_ranges_starts_again(server: Server, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(b"x" * 1000)
    download(f"{server.url}/plain", target, SHA256)
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_whole_already_is_taken(server: Server, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT)
    download(f"{server.url}/whole", target, SHA256)
    assert target.read_bytes() == CONTENT


def test_a_cut_connection_is_resumed_by_itself(server: Server, target: Path) -> None:
    download(f"{server.url}/cut", target, SHA256)
    assert target.read_bytes() == CONTENT
    assert [span for _, span in server.requests] == [None, "bytes=100000-", "bytes=200000-"]


def test_a_connection_cut_again_and_again_says_so_and_keeps_what_came(server: Server, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT[:1000])
    with pytest.raises(DataError, match="/never: the connection was cut; run again to continue"):
        download(f"{server.url}/never", target, SHA256)
    assert not target.exists()
    assert part_of(target).read_bytes() == CONTENT[:1000]


def test_a_wrong_hash_keeps_nothing(server: Server, target: Path) -> None:
    with pytest.raises(DataError, match=r"/whole has sha256 [0-9a-f]{12}\.\.\., expected 000000000000"):
        download(f"{server.url}/whole", target, "0" * 64)
    assert list(target.parent.iterdir()) == []


def test_a_foreign_part_is_not_kept(server: Server, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match="has sha256"):
        download(f"{server.url}/whole", target, SHA256)
    download(f"{server.url}/whole", target, SHA256)  # the next attempt starts afresh
    assert target.read_bytes() == CONTENT


def test_a_missing_file_is_not_tried_again(server: Server, target: Path) -> None:
    with pytest.raises(DataError, match="/absent: the server answered 404 Not Found"):
        download(f"{server.url}/absent", target, SHA256)
    assert len(server.requests) == 1


def test_a_silent_server_times_out(server: Server, target: Path) -> None:
    with pytest.raises(DataError, match=r"no answer for 0\.1 s; run again"):
        download(f"{server.url}/slow", target, SHA256, timeout=0.1)


def test_nobody_listens(target: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(DataError, match="Connection refused; run again to continue"):
            download(f"http://127.0.0.1:{port}/set.zip", target, SHA256)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/set.zip", "/etc/passwd", "http://"])
def test_only_http_and_https(url: str, target: Path) -> None:
    with pytest.raises(DataError, match="cannot download") as caught:
        download(url, target, SHA256)
    assert "\n" not in str(caught.value)
