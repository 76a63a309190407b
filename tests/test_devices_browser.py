"""The page's server over real HTTP on loopback, and the device behind it."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetero_devices.devices import Job, build
from hetero_devices.devices.browser import BrowserDevice, launch, network, packages
from hetero_devices.devices.browser import build as build_browser
from hetero_devices.devices.browser.desk import Desk
from hetero_devices.devices.browser.device import _order
from hetero_devices.devices.browser.server import PageServer
from hetero_devices.devices.profile import load_profile
from hetero_devices.errors import DataError, DeviceBusy, DeviceError, MissingExtra, ModelError, TransferError

PAGE = Path(packages.__file__).parent / "page"
ME, OTHER = "a" * 32, "b" * 32
VECTORS = np.eye(3, 16, dtype=np.float32)


class Client:
    """A page without a browser: speaks to the server as the page's JavaScript does."""

    def __init__(self, url: str) -> None:
        self.address = re.match(r"http://([^/]*)/", url)[1]  # type: ignore[index]
        self.cookie = ""

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        host, port = self.address.split(":")
        with closing(http.client.HTTPConnection(host, int(port), timeout=30)) as connection:
            connection.putrequest(method, path, skip_host=True)
            length = "" if body is None else str(len(body))
            usual = {"Host": self.address, "Cookie": self.cookie, "Content_Length": length}
            for name, value in (usual | headers).items():
                if value:
                    connection.putheader(name.replace("_", "-"), value)
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, response.read(), dict(response.getheaders())

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        status, body, _ = self.ask("GET", path, None, **headers)
        return status, body.decode()

    def take(self, page: str = ME) -> dict[str, Any]:
        status, body, _ = self.ask("GET", f"/job?page={page}")
        assert status == 200
        order: dict[str, Any] = json.loads(body)
        return order

    def post(self, claim: str, kind: str, body: bytes, **headers: str) -> tuple[int, str]:
        status, told, _ = self.ask("POST", f"/results/{claim}/{kind}", body, **headers)
        return status, told.decode()

    def finish(self, order: dict[str, Any], vectors: Any = VECTORS, digest: str = "") -> None:
        assert self.post(order["claim"], "embeddings", npy(vectors)) == (204, "")
        digests = {"embeddings": digest or hashlib.sha256(npy(vectors)).hexdigest()}
        assert self.post(order["claim"], "statistics", statistics(digests=digests)) == (204, "")


def npy(array: Any) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def statistics(**changes: Any) -> bytes:
    cpu = {"machine": "wasm32", "model": None, "cores": 2, "flags": None, "governor": None}
    fields = {
        "latency": None,
        "peak_memory_mb": None,
        "threads": 1,
        "runtime": {},
        "cpu": cpu,
        "versions": {},
    }
    return json.dumps(fields | {"digests": {"embeddings": "0" * 64}} | changes).encode()


@pytest.fixture(autouse=True)
def pretend_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that looks set up; only a real browser would miss the runtimes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    packages._home(None).mkdir(parents=True)


@pytest.fixture
def job(tmp_path: Path, tiny_onnx: Any, net: Any) -> Job:
    np.save(tmp_path / "images.npy", net.images(3))
    return Job(model=str(tiny_onnx("a b';$(x)-\n.onnx")), images=str(tmp_path / "images.npy"))


Start = Callable[..., BrowserDevice]


@pytest.fixture
def start() -> Iterator[Start]:
    devices: list[BrowserDevice] = []

    def begin(**connection: Any) -> BrowserDevice:
        device = build_browser("phone", connection)
        devices.append(device)
        device.serve()
        return device

    yield begin
    for device in devices:
        device.close()


@pytest.fixture
def device(start: Start) -> BrowserDevice:
    return start()


@pytest.fixture
def client(device: BrowserDevice) -> Client:
    return Client(device.url)


@pytest.fixture
def running() -> Iterator[Callable[[BrowserDevice, Job], Future[Any]]]:
    """`running(device, job)` starts the job in a thread."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda device, job: pool.submit(device.run, job)


def test_a_job_there_and_back(device: BrowserDevice, client: Client, job: Job, running: Any) -> None:
    result = running(device, job)
    order = client.take()
    assert (order["device"], order["tasks"], order["threads"]) == ("phone", ["embed"], 1)
    assert order["model"]["name"] == "a b';$(x)-\n.onnx"
    for kind in ("model", "images"):
        status, body, headers = client.ask("GET", f"/files/{order[kind]['sha256']}")
        assert (status, hashlib.sha256(body).hexdigest()) == (200, order[kind]["sha256"])
        assert "immutable" in headers["Cache-Control"]
    assert client.post(order["claim"], "progress", b'{"state": "embedding", "done": 1, "total": 3}')[0] == 204
    client.finish(order)
    np.testing.assert_array_equal(result.result(5).embeddings, VECTORS)
    assert result.result().profile.cpu.machine == "wasm32"
    assert client.post(order["claim"], "progress", b"{}")[0] == 409
    assert client.get(f"/files/{order['model']['sha256']}")[0] == 404


def test_the_page_is_isolated_and_confined(client: Client) -> None:
    for path in ("/", *(f"/{file.name}" for file in PAGE.iterdir())):
        status, _, headers = client.ask("GET", path)
        assert status == 200, path
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers
    assert client.ask("GET", "/main.mjs")[2]["Content-Type"].startswith("text/javascript")


def test_the_page_fetches_nothing_from_elsewhere() -> None:
    for file in PAGE.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.[a-z]", text), file.name
    assert "resolved" not in packages._LOCK.read_text()


@pytest.mark.parametrize(
    "path",
    ["/../device.py", "/%2e%2e/device.py", "/..%2fdevice.py", "//etc/passwd", "/page", "/runtimes",
     "/runtimes/", "/runtimes/../page/main.mjs", "/files/", "/files/../main.mjs", "/main.mjs/",
     "/./main.mjs", "/device.py", f"/files/{'0' * 64}", "/main.mjs%00", "/\\main.mjs"],
)  # fmt: skip
def test_only_listed_paths_are_served(client: Client, path: str) -> None:
    assert client.get(path) == (404, "there is nothing here")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "[::1]", "localhost:1", ""])
def test_another_host_name_is_refused(client: Client, host: str) -> None:
    for path in ("/", "/job?page=" + ME):
        assert client.get(path, Host=host) == (403, "this server does not go by that name")


def test_localhost_is_this_host_too(client: Client) -> None:
    port = client.address.split(":")[1]
    assert client.get("/", Host=f"localhost:{port}")[0] == 200


def test_posts_of_other_pages_are_refused(client: Client) -> None:
    assert client.ask("POST", "/leave", b"x", Origin="http://evil.example")[0] == 403
    assert client.ask("POST", "/leave", b"x", Origin="null")[0] == 403
    assert client.ask("POST", "/leave", b"x", Origin=f"http://{client.address}")[0] == 204
    assert client.ask("POST", "/", b"x")[0] == 404
    assert client.ask("PUT", "/", b"x")[0] == 501


class Guarded(Client):
    """Reaches a server that believes to be on the network."""

    def __init__(self, server: PageServer) -> None:
        super().__init__(server.url)
        self.address = f"127.0.0.1:{server.server_port}"

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
        outside = self.address.replace("127.0.0.1", "0.0.0.0")
        return super().ask(method, path, body, **{"Host": outside, **headers})


@pytest.fixture
def guarded() -> Iterator[PageServer]:
    server = PageServer("0.0.0.0", 0, Desk(), {})
    yield server
    server.close()


def test_off_loopback_everything_needs_the_session(guarded: PageServer) -> None:
    client = Guarded(guarded)
    for cookie in ("", "hetero=", "hetero=x", "other=1", "hetero=\xe9;", "a[=;;,"):
        client.cookie = cookie
        for path in ("/", "/main.mjs", "/runtimes/x/y.wasm", f"/job?page={ME}", f"/files/{'0' * 64}"):
            assert client.get(path)[0] == 403, (cookie, path)
        for path in ("/leave", f"/results/{'0' * 32}/progress"):
            assert client.ask("POST", path, b"{}")[0] == 403


def test_the_token_admits_one_browser_once(guarded: PageServer) -> None:
    token = guarded.access.token
    assert token is not None
    assert len(token) >= 43, "256 bits in base64"
    first, second = Guarded(guarded), Guarded(guarded)
    for wrong in ("", "x", token[:-1], token + "x", "é"):
        assert second.get(f"/?token={wrong.encode().hex() if wrong == 'é' else wrong}")[0] == 403
    status, _, headers = first.ask("GET", f"/?token={token}")
    assert (status, headers["Location"]) == (303, "/"), "the address bar loses the token"
    assert {"HttpOnly", "SameSite=Lax"} <= set(headers["Set-Cookie"].split("; "))
    first.cookie = headers["Set-Cookie"].split(";")[0]
    assert first.get("/")[0] == 200
    assert first.get(f"/?token={token}")[0] == 303, "the same browser may open the link again"
    status, told = second.get(f"/?token={token}")
    assert (status, "was used" in told) == (403, True)
    assert second.get("/")[0] == 403
    assert token not in first.cookie


def test_lan_needs_an_address_of_the_network() -> None:
    for connection in ({"lan": True, "address": "127.0.0.1"}, {"address": "0.0.0.0"}, {"address": "home"}):
        with pytest.raises(DeviceError, match="address"):
            build_browser("phone", connection)


@pytest.mark.parametrize(
    ("kind", "body", "status", "message"),
    [
        ("embeddings", b"", 400, "are no .npy"),
        ("embeddings", b"\x93NUMPY" + b"\xff" * 200, 400, "are no .npy"),
        ("embeddings", npy(VECTORS)[:-1], 400, "have 191 bytes, expected 192"),
        ("embeddings", npy(VECTORS) + b"x", 400, "have 193 bytes, expected 192"),
        ("embeddings", npy(VECTORS[:2]), 400, "are [2, 16], expected [3, D]"),
        ("embeddings", npy(VECTORS.astype(np.float64)), 400, "are float64 [3, 16]"),
        ("embeddings", npy(VECTORS[0]), 400, "are float32 [16]"),
        ("embeddings", npy(np.zeros((3, 0), np.float32)), 400, "are [3, 0]"),
        ("embeddings", npy(np.full((3, 16), np.nan, np.float32)), 400, "hold NaN or infinity"),
        ("embeddings", npy(np.array([[{}] * 2] * 3)), 400, "are object [3, 2]"),
        ("embeddings", npy(VECTORS).replace(b"(3, 16)", b"(3,999)"), 400, "have 192 bytes, expected 11988"),
        ("statistics", b"", 400, "is no JSON"),
        ("statistics", b"\xff", 400, "is no JSON"),
        ("statistics", b"[" * 100_000, 400, "is no JSON"),
        ("statistics", b"[]", 400, "expected an object"),
        ("statistics", b'{"threads": NaN}', 400, "NaN is no JSON"),
        ("statistics", statistics(threads=2), 400, "of 2 threads, not of 1"),
        ("statistics", statistics(fast=True), 400, "unknown key 'fast'"),
        ("statistics", statistics(energy_mj=10**400), 400, "expected number"),
        ("statistics", statistics(digests={}), 400, "lack the digest"),
        ("statistics", statistics(), 409, "the embeddings come before"),
        ("progress", b'{"state": 1, "done": 0, "total": 0}', 400, "progress.state is 1"),
        ("failure", b'{"error": "SystemExit", "message": ""}', 400, "failure.error is 'SystemExit'"),
        ("nonsense", b"", 404, "nothing here"),
    ],
)  # fmt: skip
def test_malformed_posts_are_refused_and_named(
    device: BrowserDevice, client: Client, job: Job, running: Any,
    kind: str, body: bytes, status: int, message: str,
) -> None:  # fmt: skip
    result = running(device, job)
    order = client.take()
    got = client.post(order["claim"], kind, body)
    assert got[0] == status
    assert message in got[1]
    client.finish(order)  # the job is as good as before
    np.testing.assert_array_equal(result.result(5).embeddings, VECTORS)


def test_posts_of_a_wrong_size_are_refused_unread(
    device: BrowserDevice, client: Client, job: Job, running: Any
) -> None:
    result = running(device, job)
    order = client.take()
    for kind, most in (("progress", 4096), ("statistics", 1 << 20), ("embeddings", 3 * 16384 * 4 + 10240)):
        status, told = client.post(order["claim"], kind, b"x", Content_Length=str(most + 1))
        assert (status, str(most) in told) == (413, True)
    assert client.post(order["claim"], "embeddings", b"x", Content_Length="9" * 5000)[0] == 413
    for length in ("-1", "x", "1_0", "\xb2"):
        assert client.post(order["claim"], "progress", b"x", Content_Length=length)[0] == 411
    chunked = {"Content_Length": "", "Transfer_Encoding": "chunked"}
    assert client.post(order["claim"], "progress", b"0\r\n\r\n", **chunked)[0] == 411
    assert cut_post(client, order["claim"]).startswith(b"HTTP/1.1 400")
    assert client.post("0" * 32, "embeddings", npy(VECTORS))[0] == 409
    client.finish(order)
    result.result(5)


def cut_post(client: Client, claim: str) -> bytes:
    """Post less than what was stated, then say no more."""
    host, port = client.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST /results/{claim}/embeddings HTTP/1.1\r\nHost: {client.address}\r\n"
        connection.sendall(f"{head}Content-Length: 99\r\n\r\n".encode() + b"x" * 50)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(100)


def test_a_reloaded_page_gets_the_job_again(
    device: BrowserDevice, client: Client, job: Job, running: Any
) -> None:
    result = running(device, job)
    first = client.take(ME)
    assert client.post(first["claim"], "embeddings", npy(-VECTORS))[0] == 204
    assert client.ask("POST", "/leave", ME.encode())[0] == 204
    second = client.take(OTHER)
    assert {**second, "claim": ""} == {**first, "claim": ""}
    assert second["claim"] != first["claim"]
    status, told = client.post(first["claim"], "statistics", statistics())
    assert (status, "given to another page" in told) == (409, True)
    assert client.post(second["claim"], "statistics", statistics())[0] == 409, "no mixture of two attempts"
    client.finish(second)
    np.testing.assert_array_equal(result.result(5).embeddings, VECTORS)


def test_a_page_that_left_gets_no_job(job: Job, tmp_path: Path) -> None:
    desk = Desk()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(desk.take, ME, 10)  # a closed tab's question, still open here
        desk.leave(ME)
        assert asked.result(5) is None
    desk.put(_order("phone", job, tmp_path))
    assert desk.take(ME, 0) is None
    assert desk.take(OTHER, 0) is not None


def test_two_pages_do_not_take_the_job_from_each_other(job: Job, tmp_path: Path) -> None:
    desk = Desk()
    assert desk.take(ME, 0) is None
    desk.put(order := _order("phone", job, tmp_path))
    assert desk.take(ME, 0) is not None
    assert desk.take(OTHER, 0.1) is None
    assert desk.take(ME, 0) is not None, "the same page may ask again"
    order.heard = time.monotonic() - 6
    assert desk.take(OTHER, 0) is not None, "a page that fell silent loses it"


def test_a_page_that_falls_silent(start: Start, job: Job, running: Any) -> None:
    device = start(silence=0.4)
    result = running(device, job)
    order = Client(device.url).take()
    Client(device.url).post(order["claim"], "progress", b'{"state": "embedding", "done": 1, "total": 3}')
    message = r"phone: the page has not been heard for 0\.4 s, embedding with 1 of 3 done: was its tab closed"
    with pytest.raises(DeviceError, match=message):
        result.result(5)
    again = running(device, job)
    client = Client(device.url)
    client.finish(client.take(OTHER))
    assert again.result(5).embeddings is not None


def test_nobody_opens_the_page(start: Start, job: Job) -> None:
    device = start(wait=0.3)
    message = f"phone: no page asked for the job within 0.3 s: open {device.url} on the device"
    with pytest.raises(DeviceError, match=re.escape(message)):
        device.run(job)


def test_time_limit(start: Start, job: Job, running: Any) -> None:
    device = start(timeout=0.4)
    result = running(device, job)
    Client(device.url).take()
    with pytest.raises(DeviceError, match=r"did not end within 0\.4 s, starting with 0 of 3 done"):
        result.result(5)


def test_what_the_page_reports(device: BrowserDevice, client: Client, job: Job, running: Any) -> None:
    kinds = {"ModelError": DeviceError, "TransferError": TransferError, "MissingExtra": MissingExtra}
    for kind, error in kinds.items():
        for _ in range(2 if kind == "TransferError" else 1):  # which is sent once more
            if _ == 0:
                result = running(device, job)
            told = json.dumps({"error": kind, "message": "cannot\n load"})
            assert client.post(client.take()["claim"], "failure", told.encode())[0] == 204
        with pytest.raises(error, match="cannot load"):
            result.result(5)


def test_damaged_embeddings_are_asked_for_again(
    device: BrowserDevice, client: Client, job: Job, running: Any
) -> None:
    result = running(device, job)
    client.finish(client.take(), -VECTORS, digest="0" * 64)
    client.finish(client.take())
    np.testing.assert_array_equal(result.result(5).embeddings, VECTORS)


def test_a_full_disk_ends_the_job(
    device: BrowserDevice, client: Client, job: Job, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = running(device, job)
    order = client.take()
    at_desk = device._desk._order
    assert at_desk is not None
    (at_desk.folder / "embeddings.npy").mkdir()  # what cannot be replaced, as root may write anywhere
    client.post(order["claim"], "embeddings", npy(VECTORS))
    with pytest.raises(OSError, match=r"embeddings\.npy"):
        result.result(5)


def test_a_restarted_server_goes_on_with_the_open_page(start: Start, job: Job, running: Any) -> None:
    first = start()
    port = int(first.url.rstrip("/").rpartition(":")[2])
    with pytest.raises(DeviceBusy, match=f"port {port} of 127.0.0.1 is in use"):
        start(port=port)
    client = Client(first.url)
    first.close()
    with pytest.raises(ConnectionRefusedError):
        client.get("/")
    second = start(port=port)
    result = running(second, job)
    client.finish(client.take())
    assert result.result(5).embeddings is not None


def test_closing_lets_waiting_pages_go(start: Start) -> None:
    device = start()
    client = Client(device.url)
    asked = threading.Thread(target=lambda: client.get(f"/job?page={ME}"))
    asked.start()
    time.sleep(0.2)
    device.close()
    asked.join(5)
    assert not asked.is_alive()


def test_jobs_that_no_page_could_do(device: BrowserDevice, job: Job, tmp_path: Path) -> None:
    np.save(tmp_path / "float.npy", np.zeros((1, 8, 8, 3), np.float32))
    np.save(tmp_path / "none.npy", np.zeros((0, 8, 8, 3), np.uint8))
    for changes, error, message in [
        ({"cpus": (0,)}, DeviceError, "cannot pin itself"),
        ({"model": "m.pt"}, ValueError, r"expected a name ending in \.onnx, \.tflite or \.pte"),
        ({"model": "m.pte"}, ModelError, "a page has no ExecuTorch for"),
        ({"model": "absent.onnx"}, DataError, r"no file at absent\.onnx"),
        ({"images": str(tmp_path / "float.npy")}, DataError, "are float32"),
        ({"images": str(tmp_path / "none.npy")}, DataError, "with at least one"),
        ({"images": job.model}, DataError, "cannot read the images"),
        ({"digests": {"model": "0" * 64}}, TransferError, "the model of the job are not those"),
    ]:
        with pytest.raises(error, match=message):
            device.run(replace(job, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("connection", "message"),
    [
        ({"host": "x"}, "unknown key 'host'"),
        ({"port": 65536}, "port from 0 to 65535"),
        ({"silence": 0.0}, "seconds above 0"),
        ({"command": ["chromium"], "lan": True}, "leave `lan` out"),
        ({"command": "chromium"}, "command is 'chromium', expected a list"),
    ],
)
def test_connections_that_are_none(connection: dict[str, Any], message: str) -> None:
    with pytest.raises(DeviceError, match=re.escape(message)):
        build_browser("phone", connection)


def test_profiles() -> None:
    for name in ("chromium", "phone-browser"):
        assert isinstance(build(name, load_profile(name)), BrowserDevice)


def test_a_browser_that_does_not_live(job: Job) -> None:
    for command, message in [
        (["/bin/false"], "phone: /bin/false ended with exit code 1, before a page asked"),
        (["/bin/sh", "-c", "kill -9 $$"], "phone: /bin/sh was killed by signal 9"),
        (["/no/browser"], "cannot start /no/browser: No such file"),
    ]:
        with closing(build_browser("phone", {"command": command})) as device:
            for _ in range(2):  # the next job starts it again
                with pytest.raises(DeviceError, match=re.escape(message)):
                    device.run(job)


def test_browser_flags() -> None:
    argv = launch.arguments(["/usr/bin/chromium", "--headless"], "/folder", "http://x/")
    assert argv[:2] == ["/usr/bin/chromium", "--headless"]
    assert argv[-2:] == ["--user-data-dir=/folder", "http://x/"]
    assert ("--no-sandbox" in argv) == (os.getuid() == 0)
    assert launch.arguments(["firefox"], "/folder", "http://x/") == ["firefox", "http://x/"]


def test_the_invitation(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    device = start()
    assert capsys.readouterr().err == f"phone: open {device.url} on the device and leave it open\n"


def test_qr_code() -> None:
    pytest.importorskip("segno", reason="pip install 'hetero[devices-browser]'")
    lines = network.qr_code("http://192.0.2.1:8765/?token=" + "x" * 43).splitlines()
    assert 15 < len(lines) < 30
    assert all(len(line) > 30 for line in lines[1:-1])


def test_qr_code_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "segno", None)
    assert "pip install 'hetero[devices-browser]'" in network.qr_code("http://x/")


def test_not_set_up(tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    with pytest.raises(MissingExtra, match="run 'hetero devices setup browser'"):
        build_browser("phone", {}).run(job)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtra, match="npm is not installed"):
        packages.set_up()


def test_a_package_that_is_not_the_pinned_one(tmp_path: Path) -> None:
    tarball = tmp_path / "x.tgz"
    with tarfile.open(tarball, "w:gz") as archive:
        archive.add(__file__, "package/dist/index.js")
    for name, pin in packages.locked().items():
        with pytest.raises(TransferError, match=f"{name} {pin.version} is not the package that was pinned"):
            packages.unpack(tarball, name, pin, tmp_path / "out")
    assert not (tmp_path / "out").exists()
