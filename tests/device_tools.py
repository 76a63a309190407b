"""What tests of devices share: the programs they need."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def need_tool(program: str, package: str) -> str:
    """The path of a program; without it the test is skipped, or fails where HETERO_DEVICES=all is set."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if found is None:
        missing(f"{program} is not installed: apt install {package}")
    return found


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where HETERO_DEVICES=all is set."""
    if os.environ.get("HETERO_DEVICES") == "all":
        pytest.fail(reason)
    pytest.skip(reason)
