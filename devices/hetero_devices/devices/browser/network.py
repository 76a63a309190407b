"""This machine's address for a phone, and the code that saves typing it."""

from __future__ import annotations

import io
import ipaddress
import socket

from hetero_devices.errors import DeviceError, MissingExtra, require

LOOPBACK = "127.0.0.1"


def lan_address() -> str:
    """The IPv4 address by which this machine reaches others; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address: only the route is looked up
            address = str(probe.getsockname()[0])
        except OSError:
            address = LOOPBACK
    if is_loopback(address):
        raise DeviceError("this machine is on no network that a phone could reach it by: set `address`")
    return address


def is_loopback(address: str) -> bool:
    """Whether a literal IPv4 address stays on this machine; DeviceError when it is none."""
    try:
        return ipaddress.IPv4Address(address).is_loopback
    except ValueError:
        raise DeviceError(f"{address!r} is no IPv4 address of this machine") from None


def qr_code(text: str) -> str:
    """The text as a QR code for a terminal, or a line that says what it needs."""
    try:
        segno = require("segno", "devices-browser")
    except MissingExtra as missing:
        return f"(for a QR code: {missing})\n"
    drawing = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(drawing, compact=True, border=2)
    return drawing.getvalue()
