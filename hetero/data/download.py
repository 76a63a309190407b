"""Fetching a file over http(s): resumable, checked, whole or absent."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from hetero.data.cachedir import explain_full_disk
from hetero.progress import track
from hetero_devices.errors import DataError
from hetero_devices.files import sha256_file

_BLOCK = 1 << 20
_ATTEMPTS = 3  # a cut connection is resumed this often before giving up


def download(url: str, path: Path, sha256: str, timeout: float = 30.0) -> Path:
    """Fetch `url` to `path` and return it; an earlier, unfinished attempt (`path`.part) is continued.

    timeout: seconds without an answer. Raises DataError, in one line, for anything but http and https,
    an unreachable or refusing server, a connection cut again and again, or content with another sha256
    (which is then removed). `path` appears only when it is whole.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"cannot download {url!r}: only http and https are supported")
    part = path.with_name(path.name + ".part")
    with explain_full_disk(needed=_BLOCK):
        path.parent.mkdir(parents=True, exist_ok=True)
    _fetch_whole(url, part, timeout)
    if (found := sha256_file(part)) != sha256:
        part.unlink()
        raise DataError(f"{url} has sha256 {found[:12]}..., expected {sha256[:12]}...: not kept")
    os.replace(part, path)
    return path


def _fetch_whole(url: str, part: Path, timeout: float) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            if _fetch(url, part, timeout):
                return
        except urllib.error.HTTPError as error:
            error.close()
            raise DataError(
                f"cannot download {url}: the server answered {error.code} {error.reason}"
            ) from None
        except TimeoutError:
            reason = f"no answer for {timeout:g} s"
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        else:
            reason = "the connection was cut"
        if attempt == _ATTEMPTS:
            raise DataError(f"cannot download {url}: {reason}; run again to continue")


def _fetch(url: str, part: Path, timeout: float) -> bool:
    """Append what `part` lacks; whether it is now as long as the server says."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing after what we have: whole, or a part of something else
            raise
        error.close()
        return True
    with response:
        continues = response.status == 206
        expected = int(response.headers.get("Content-Length") or -1)
        written = _append(response, part, continues, expected)
        return expected < 0 or written == expected


def _append(response: http.client.HTTPResponse, part: Path, continues: bool, expected: int) -> int:
    """Write the body after what is there (206) or from the start (200); the number of bytes written."""
    written = 0
    blocks = max(1, -(-expected // _BLOCK)) if expected >= 0 else None
    with explain_full_disk(max(expected, _BLOCK)), part.open("ab" if continues else "wb") as file:
        for block in track(_blocks(response), f"downloading {part.stem}", blocks):
            file.write(block)
            written += len(block)
    return written


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while block := response.read(_BLOCK):
        yield block
