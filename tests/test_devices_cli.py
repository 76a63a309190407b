"""`hetero devices`: profiles of one's own, probing, the doctor, runners."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hetero_devices.devices import build
from hetero_devices.devices.profile import (
    DeviceProfile,
    add_profile,
    load_profile,
    own_folder,
    parse_setting,
    profiles,
    remove_profile,
)
from hetero_devices.errors import DeviceError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def devices(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "hetero", "devices", *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, env=os.environ, check=False)


def refused(*arguments: str | Path) -> str:
    done = devices(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line]
    return line


@pytest.mark.parametrize("name", profiles())
def test_every_shipped_profile_reads_and_says_how_far_it_was_tried(name: str) -> None:
    profile = load_profile(name)
    assert profile.tested
    assert DeviceProfile.from_toml(profile.to_toml(), name) == profile
    needed = {"ssh": {"host": "pi.local"}, "adb": {"runner": "python"}}.get(profile.kind, {})
    build(name, profile, needed).close()


def test_a_device_of_ones_own_is_kept_listed_and_forgotten() -> None:
    done = devices("add", "my pi", "--like", "raspberry-pi-5", "host=pi.local")
    assert "is no name for a device" in done.stderr
    done = devices(
        "add", "my-pi", "--like", "raspberry-pi-5", "host=pi.local", "port=2222", "--title", "Mine"
    )
    assert done.returncode == 0, done.stderr
    assert load_profile("my-pi").connection["port"] == 2222
    listed = json.loads(devices("list", "--json").stdout)
    assert listed["my-pi"]["title"] == "Mine"
    assert "my-pi" in refused("add", "my-pi", "--like", "raspberry-pi-5", "host=pi.local")
    assert Path(devices("remove", "my-pi").stdout.strip()) == own_folder() / "my-pi.toml"
    assert "my-pi" not in profiles()
    assert "of your own" in refused("remove", "host")


def test_keeping_showing_and_forgetting_a_device_as_json(tmp_path: Path) -> None:
    path = own_folder() / "my-pi.toml"
    settings = ("my-pi", "--like", "raspberry-pi-5", "host=pi.local", "--json")
    assert json.loads(devices("add", *settings).stdout) == {"path": str(path)}
    assert json.loads(devices("show", "my-pi", "--json").stdout)["connection"]["host"] == "pi.local"
    assert json.loads(devices("remove", "my-pi", "--json").stdout) == {"path": str(path)}
    runner = tmp_path / "runner.pyz"
    assert json.loads(devices("runner", "-o", runner, "--json").stdout) == {"path": str(runner)}
    assert runner.is_file()


def test_a_setting_that_the_kind_does_not_know_is_refused_before_it_is_kept() -> None:
    assert "unknown key 'hots'" in refused("add", "my-pi", "--like", "raspberry-pi-5", "hots=pi.local")
    assert not own_folder().exists() or not list(own_folder().iterdir())
    assert "there is no device 'pie'" in refused("probe", "pie")


@pytest.mark.parametrize(
    ("pair", "found"),
    [
        ("port=22", ("port", 22)),
        ("lan=true", ("lan", True)),
        ("host=pi.local", ("host", "pi.local")),
        ('options=["a b", "c"]', ("options", ["a b", "c"])),
        ("host=a\nport = 3", ("host", "a\nport = 3")),
        ("user=", ("user", "")),
    ],
)
def test_settings(pair: str, found: tuple[str, object]) -> None:
    assert parse_setting(pair) == found


def test_no_setting_and_no_toml() -> None:
    with pytest.raises(DeviceError, match="key=value"):
        parse_setting("a.b=3")
    with pytest.raises(DeviceError, match="no valid TOML"):
        DeviceProfile.from_toml("title = ", "here")
    with pytest.raises(DeviceError, match="unknown key 'colour'"):
        DeviceProfile.from_toml('title = "a"\nkind = "host"\ncolour = 3', "here")


def test_the_users_profile_hides_a_shipped_one() -> None:
    template = load_profile("host")
    path = add_profile("host", DeviceProfile(title="Mine", kind="host"))
    assert load_profile("host").title == "Mine"
    assert remove_profile("host") == path
    assert load_profile("host") == template


def test_the_host_answers_and_the_doctor_names_what_is_missing() -> None:
    found = json.loads(devices("probe", "host", "--json").stdout)
    assert found["runtimes"]["onnxruntime"]
    said = devices("probe", "host").stdout
    assert f"onnxruntime  {found['runtimes']['onnxruntime']}" in said
    done = devices("doctor", "host", "--json")
    states = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert states["emulated"]["state"] == "missing"
    assert states["emulated"]["advice"] == "hetero devices setup emulated"
    assert done.returncode == 0
    add_profile("gone", DeviceProfile(title="Gone", kind="host", connection={"python": "/no/python"}))
    done = devices("doctor")
    assert done.returncode == 1
    assert "gone: cannot start /no/python" in done.stdout


def test_the_runner_is_one_file_that_answers(tmp_path: Path) -> None:
    path = tmp_path / "runner.pyz"
    assert devices("runner", "-o", path).returncode == 0
    done = subprocess.run([sys.executable, path, "info"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["cpu"]["machine"]
