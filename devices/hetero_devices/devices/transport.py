"""How files and commands reach another machine; what travels is the business of `RemoteDevice`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Completed:
    """A command that ended over there: exit code (negative: killed by that signal) and its two streams."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        """The last thing it said, for one-line messages."""
        return (self.stderr.strip() or self.stdout.strip() or "it said nothing").splitlines()[-1]


class Transport(Protocol):
    """A connection to another machine.

    Paths on the device are POSIX, relative to the transport's workspace, a folder made on first use.
    Arguments reach the command as they are: a transport quotes them itself, whatever characters they hold.
    Every method raises DeviceError, with the device's name and one line, when the connection or the device
    fails (gone, refused, full, timed out); a command that ends with another exit code than 0 is no failure.
    """

    @property
    def name(self) -> str:
        """How reports call the device."""
        ...

    @property
    def workspace(self) -> str:
        """The folder on the device, absolute, that relative paths start at."""
        ...

    def put(self, files: Mapping[str, Path]) -> None:
        """Copy local files to paths on the device, making folders; executable bits are kept."""
        ...

    def get(self, folder: str, names: Iterable[str], target: Path) -> None:
        """Copy those of the named files that exist in a folder on the device into the local `target`."""
        ...

    def run(self, argv: Sequence[str], *, timeout: float) -> Completed:
        """Run a command in the workspace and wait; after `timeout` seconds it is killed, if it can be."""
        ...

    def hold(self, argv: Sequence[str], *, timeout: float) -> AbstractContextManager[str]:
        """Start a command that lives as long as the context and the connection; yields its first line.

        Its standard input stays open until the context ends; the device closes it when the connection dies,
        by which the command knows. Raises DeviceError when it says nothing within `timeout` seconds.
        """
        ...

    def close(self) -> None:
        """Close the connection."""
        ...
