"""Who may talk to the page's server: the right host name, and off loopback the one page that had a token."""

from __future__ import annotations

import hmac
import secrets
import threading
from http.cookies import CookieError, SimpleCookie

COOKIE = "hetero"
_BYTES = 32  # of token and session: 256 bits


class Access:
    """hosts: the values the Host header may have, which defeats DNS rebinding. guarded: a token is needed.

    The token works once: the page that brings it gets a session, and from then on only that one is admitted.
    """

    def __init__(self, hosts: frozenset[str], *, guarded: bool) -> None:
        self.hosts = hosts
        self.token = secrets.token_urlsafe(_BYTES) if guarded else None
        self._session: str | None = None
        self._lock = threading.Lock()

    def knows_host(self, host: str | None) -> bool:
        return host in self.hosts

    def same_origin(self, origin: str | None) -> bool:
        """Whether the Origin header of a request is absent or this server's."""
        return origin is None or origin.removeprefix("http://") in self.hosts

    def redeem(self, token: str) -> str | None:
        """The session for the first who brings the token, None for anybody else."""
        with self._lock:
            if self.token is None or self._session is not None or not _equal(token, self.token):
                return None
            self._session = secrets.token_urlsafe(_BYTES)
            return self._session

    def admits(self, cookies: str | None) -> bool:
        """Whether a request with this Cookie header may go on."""
        if self.token is None:
            return True
        with self._lock:
            return self._session is not None and _equal(_cookie(cookies or ""), self._session)


def _equal(given: str, expected: str) -> bool:
    """In constant time, for any characters."""
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""
