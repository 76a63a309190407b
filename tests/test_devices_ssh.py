"""Jobs on a machine reached through a real sshd: results, names, refusals."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetero_devices.devices import HostDevice, Job, Stopping, Task, embed, embed_in_shards, ssh
from hetero_devices.devices.profile import load_profile, profiles
from hetero_devices.devices.registry import build
from hetero_devices.devices.ssh import SshConnection
from hetero_devices.errors import DeviceError
from tests.sshd import Sshd, know_host, make_key, serve, until

QUICK = Stopping(warm_up=1, min_samples=5, min_seconds=0.0, max_seconds=5.0)
STRANGE = """-x a'b"c;touch pwned\n$(touch pwned)`touch pwned`\\ & ü.onnx"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with serve(tmp_path_factory.mktemp("machine")) as machine:
        yield machine


def test_embeds(machine: Sshd, tiny_onnx: Any, net: Any) -> None:
    with closing(machine.device()) as device:
        embeddings, _ = embed(device, tiny_onnx(), net.images(3))
    np.testing.assert_allclose(embeddings, net.embed(net.images(3)), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.fp32.onnx", "model.fp32.tflite", "model.int8.tflite"])
def test_same_bits_as_the_host_and_a_whole_profile(
    machine: Sshd, tiny_bundle: Path, net: Any, tmp_path: Path, file: str
) -> None:
    np.save(tmp_path / "images.npy", net.images(9))
    tasks: tuple[Task, ...] = ("embed", "latency", "memory", "placement")
    job = Job(model=str(tiny_bundle / file), images=str(tmp_path / "images.npy"), tasks=tasks, stopping=QUICK)
    with closing(machine.device()) as device:
        there = device.run(job)
    here, _ = embed(HostDevice(), tiny_bundle / file, net.images(9))
    assert there.embeddings is not None
    np.testing.assert_array_equal(there.embeddings, here)
    profile = there.profile
    assert profile.latency is not None
    assert profile.latency.samples == 5
    assert profile.peak_memory_mb is not None
    assert profile.placement is not None
    assert profile.threads == 1
    assert not list((machine.workspace / "jobs").glob("*")), "nothing of the job stays there"
    assert not list((machine.workspace / "incoming").glob("*"))


@pytest.mark.slow
def test_files_and_models_are_sent_once(machine: Sshd, tiny_onnx: Any, net: Any) -> None:
    model = tiny_onnx()
    with closing(machine.device()) as device:
        assert set(device.info()["runtimes"]) == {"onnxruntime", "litert", "executorch"}
        embed(device, model, net.images(1))
        files = sorted(machine.workspace.glob("*/*"))
        arrived = {path: path.stat().st_mtime_ns for path in files if path.parent.name != "jobs"}
        embed(device, model, net.images(2))
    assert arrived == {path: path.stat().st_mtime_ns for path in arrived}
    assert stat.S_IMODE(machine.workspace.stat().st_mode) == 0o700


@pytest.mark.slow
def test_strange_names(machine: Sshd, tiny_onnx: Any, net: Any) -> None:
    model = tiny_onnx()
    strange = model.rename(model.with_name(STRANGE))
    python = machine.program("py thon;'x'\n", f'exec {machine.device().runner.argv("")[0]} "$@"\n')
    with closing(machine.device(workspace=f"work {STRANGE}", python=python)) as device:
        embeddings, _ = embed(device, strange, net.images(3))
        echoed = device.transport.run(["printf", "%s|", *STRANGE.split(" "), "", "*"], timeout=20)
    assert echoed.stdout == "|".join([*STRANGE.split(" "), "", "*", ""])
    assert echoed.returncode == 0
    np.testing.assert_allclose(embeddings, net.embed(net.images(3)), atol=1e-5)
    assert not list(machine.home.rglob("pwned"))
    assert (machine.home / f"work {STRANGE}" / "runner").is_dir()


def test_commands_end_as_they_do(machine: Sshd) -> None:
    with closing(machine.device().transport) as transport:
        assert transport.run(["sh", "-c", "exit 255"], timeout=20).returncode == 255, "no failure of ssh"
        done = transport.run(["sh", "-c", "echo out; echo last words >&2; exit 3"], timeout=20)
        assert (done.returncode, done.stdout, done.last_line) == (3, "out\n", "last words")
        assert transport.run(["sh", "-c", "kill -SEGV $$"], timeout=20).returncode == -11
        assert transport.run(["cat"], timeout=20).stdout == "", "its input is empty"


def test_a_talkative_login_does_no_harm(machine: Sshd, tmp_path: Path) -> None:
    noise = machine.folder / "environment"
    quiet = noise.read_text()
    noise.write_text(f"echo Welcome; echo busy nobody; printf 'no newline'; echo; {quiet}")
    try:
        with closing(machine.device().transport) as transport:
            (tmp_path / "sent").write_bytes(b"\0\1")
            transport.put({"box/sent": tmp_path / "sent"})
            (tmp_path / "back").mkdir()
            transport.get("box", ["sent", "absent"], tmp_path / "back")
            assert [path.read_bytes() for path in (tmp_path / "back").iterdir()] == [b"\0\1"]
            with transport.hold(["sh", "-c", "echo held; cat"], timeout=20) as answer:
                assert answer == "held"
    finally:
        noise.write_text(quiet)


def test_files_keep_their_bits(machine: Sshd, tmp_path: Path) -> None:
    sent = {}
    for index, size in enumerate([0, 1, 511, 512, 513, 100_000, 3, 3, 3, 3, 3, 3]):
        path = tmp_path / f"file {index}"
        path.write_bytes(bytes([index]) * size)
        sent[f"deep/er/{index}\n"] = path
    sent["deep/er/5\n"].chmod(0o755)
    with closing(machine.device().transport) as transport:
        transport.put(sent)
        (tmp_path / "back").mkdir()
        transport.get("deep/er", [Path(name).name for name in sent], tmp_path / "back")
    for name, path in sent.items():
        assert (tmp_path / "back" / Path(name).name).read_bytes() == path.read_bytes()
    there = machine.workspace / "deep/er"
    assert (there / "5\n").stat().st_mode & stat.S_IXUSR
    assert not (there / "4\n").stat().st_mode & stat.S_IXUSR


def test_what_a_device_sends_stays_in_its_folder(machine: Sshd, tmp_path: Path) -> None:
    """A device whose tar answers with a path that leads elsewhere, or a link."""
    (tmp_path / "evil").write_text("x")
    archive = tmp_path / "evil.tar"
    for words in (["-P", "../evil"], ["link"]):
        (tmp_path / "sub").mkdir(exist_ok=True)
        (tmp_path / "sub/link").unlink(missing_ok=True)
        (tmp_path / "sub/link").symlink_to("/etc/passwd")
        subprocess.run(["tar", "-cf", archive, *words], cwd=tmp_path / "sub", check=True)
        machine.program("tar", f"cat '{archive}'\n")
        target = tmp_path / "inner" / "target"
        target.mkdir(parents=True, exist_ok=True)
        (machine.workspace / "box").mkdir(parents=True, exist_ok=True)
        (machine.workspace / "box/link").touch()
        try:
            with (
                closing(machine.device().transport) as transport,
                pytest.raises(DeviceError, match="which was not asked for"),
            ):
                transport.get("box", ["link"], target)
        finally:
            (machine.folder / "bin/tar").unlink()
        assert not list(target.parent.rglob("*/*"))


def test_host_keys_are_checked(machine: Sshd) -> None:
    known = machine.folder / "known"
    right = known.read_text()
    known.write_text("")
    with closing(machine.device()) as device, pytest.raises(DeviceError) as unknown:
        device.info()
    make_key(machine.folder / "other")
    known.write_text("pi " + (machine.folder / "other.pub").read_text())
    with closing(machine.device()) as device, pytest.raises(DeviceError) as changed:
        device.info()
    know_host(machine)
    assert known.read_text() == right
    assert str(unknown.value) == (
        f"pi: its host key is not known here: run `ssh -p {machine.port} 127.0.0.1` once, "
        "compare the fingerprint and accept it"
    )
    assert str(changed.value).startswith("pi: its host key is not the one it had: if you know why")
    assert f"ssh-keygen -R '[127.0.0.1]:{machine.port}'" in str(changed.value)
    assert "\n" not in str(changed.value)


def test_a_key_that_is_not_accepted(machine: Sshd) -> None:
    make_key(machine.folder / "stranger")
    refused = pytest.raises(DeviceError, match=r"does not accept the login: .* `ssh-copy-id -p \d+ 127")
    with closing(machine.device(identity=str(machine.folder / "stranger"))) as device, refused:
        device.info()


def test_nobody_answers(machine: Sshd) -> None:
    refused = pytest.raises(DeviceError, match=r"^pi: the connection failed: ssh: .*Connection refused$")
    with closing(machine.device(through=9)) as device, refused:
        device.info()


def test_the_socket_is_private(machine: Sshd) -> None:
    transport = machine.device().transport
    transport.run(["true"], timeout=20)
    folder = transport._control  # type: ignore[attr-defined]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in folder.iterdir()] == ["s"]
    assert len(machine.sessions()) > 0
    transport.close()
    assert not folder.exists()
    until(lambda: not machine.sessions())


@pytest.mark.parametrize(
    ("connection", "message"),
    [
        ({"host": "-oProxyCommand=touch pwned"}, "is no host for ssh"),
        ({"host": ""}, "is no host for ssh"),
        ({"host": "a b"}, "is no host for ssh"),
        ({"host": "a\nb"}, "is no host for ssh"),
        ({"host": "pi", "user": "-l"}, "is no user name for ssh"),
        ({"host": "pi", "python": ""}, "is no path on pi"),
        ({"host": "pi", "Port": 22}, "unknown key 'Port'; known: host, identity, options, port"),
        ({"host": "pi", "port": "22"}, "port is '22', expected"),
        ({}, "lacks the key 'host'"),
    ],
)
def test_connections_that_make_no_sense(connection: dict[str, Any], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        ssh.build("pi", connection)


def test_settings_reach_ssh() -> None:
    connection = SshConnection(host="pi.local", user="me", port=8022, identity="~/key", options=("A=b c",))
    argv = connection.argv("-o", "A=d")
    assert argv[:3] == ["ssh", "-o", "A=b c"], "the user's options win"
    assert argv[3:7] == ["-l", "me", "-p", "8022"]
    assert argv[7:] == [
        "-i",
        str(Path.home() / "key"),
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "A=d",
        "--",
        "pi.local",
    ]


@pytest.mark.slow
def test_shards_over_ssh(machine: Sshd, tiny_tflite: Any, net: Any, tmp_path: Path) -> None:
    images = net.images(5)
    with closing(machine.device()) as device:
        result = embed_in_shards(device, tiny_tflite(), images, tmp_path / "shards", shard=3)
    with closing(machine.device(through=9)) as unreachable:
        again = embed_in_shards(unreachable, tiny_tflite(), images, tmp_path / "shards", shard=3)
    assert result.embeddings is not None
    np.testing.assert_array_equal(result.embeddings, again.embeddings)
    np.testing.assert_allclose(result.embeddings, net.embed(images), atol=1e-5)


def test_shipped_profiles_build(tmp_path: Path) -> None:
    (tmp_path / "runner").touch()
    needed = {"adb": {"program": str(tmp_path / "runner")}}  # made for the phone, so never shipped
    for name in profiles():
        profile = load_profile(name)
        assert profile.tested, f"{name} says how far it was tried"
        if profile.kind in ("host", "ssh", "adb"):
            build(name, profile, needed.get(profile.kind)).close()
