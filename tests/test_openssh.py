"""
OpenSSH through a tunnel: ``upgrade-switch connect`` as its ProxyCommand, ``upgrade-switch serve`` in
front of its server, and nothing of either changed.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import random
import shlex
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .commands import COMMAND, PATIENCE, serving

MUCH = random.Random(4).randbytes(20_000_000)

SSHD_CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
PubkeyAuthentication yes
UseDNS no
PrintMotd no
Subsystem sftp internal-sftp
"""


def find_sshd() -> str:
    """The server's whole path, without which it refuses to run; a skip where there is none."""
    found = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin")
    if found is None and not os.environ.get("CI"):
        pytest.skip("there is no sshd here")
    assert found is not None, "CI is to have an sshd"
    return found


def make_key(path: Path) -> None:
    """A new key pair without a passphrase."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True
    )


def start_sshd(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """sshd on a port that was free a moment ago; the next one where somebody else has been faster."""
    sshd = find_sshd()
    if os.geteuid() == 0:
        # Where it goes to be nobody; the system's own service makes it at boot.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = folder / "sshd_config"
        config.write_text(SSHD_CONFIG.format(port=port, folder=folder))
        process = subprocess.Popen([sshd, "-D", "-e", "-f", str(config)], stderr=subprocess.PIPE)
        said = b""
        alarm = threading.Timer(PATIENCE, process.kill)
        alarm.start()
        assert process.stderr is not None
        for line in process.stderr:
            said += line
            if line.startswith(b"Server listening on "):
                alarm.cancel()
                return process, port
        alarm.cancel()
        process.stderr.close()
        process.wait()
        assert b"Address already in use" in said, said.decode()


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Options that lead ssh and scp through a tunnel to a running sshd: the host ``tunnelled``."""
    folder = tmp_path_factory.mktemp("ssh")
    make_key(folder / "host_key")
    make_key(folder / "user_key")
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"tunnelled {host_key}")
    sshd, port = start_sshd(folder)
    assert sshd.stderr is not None
    # Read what it says, so that it is never held up by it.
    said: list[bytes] = []
    reader = threading.Thread(target=lambda: said.extend(sshd.stderr))  # type: ignore[arg-type]
    reader.start()
    try:
        with serving("--tunnel", f"/ssh ssh tcp:127.0.0.1:{port}") as server:
            through = shlex.join([COMMAND, "connect", f"{server.url}ssh", "ssh"])
            yield [
                "-F",
                "none",
                "-i",
                str(folder / "user_key"),
                *(
                    word
                    for option in (
                        f"ProxyCommand={through}",
                        f"User={pwd.getpwuid(os.geteuid()).pw_name}",
                        f"UserKnownHostsFile={folder / 'known_hosts'}",
                        "GlobalKnownHostsFile=none",
                        "StrictHostKeyChecking=yes",
                        "IdentitiesOnly=yes",
                        "IdentityAgent=none",
                        "BatchMode=yes",
                        "LogLevel=ERROR",
                    )
                    for word in ("-o", option)
                ),
            ]
    finally:
        sshd.terminate()
        sshd.wait()
        reader.join()
        sshd.stderr.close()


def ssh(options: list[str], command: str, **kwargs: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a command on the other side of the tunnel."""
    if "input" not in kwargs:
        kwargs.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(
        ["ssh", *options, "tunnelled", command],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        **kwargs,
    )


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_command(options: list[str]) -> None:
    """A command's output, its errors and its exit status come back through the tunnel."""
    done = ssh(options, "echo out; echo error >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"error\n")


def test_much_there_and_back(options: list[str]) -> None:
    """20 MB through ``cat`` on the other side are the same 20 MB."""
    done = ssh(options, "cat", input=MUCH)
    assert (done.returncode, done.stderr) == (0, b"")
    assert digest(done.stdout) == digest(MUCH)


def test_end_of_input(options: list[str]) -> None:
    """The other side's command sees the end of its input, and can still answer."""
    done = ssh(options, "wc -c; echo counted", input=b"x" * 12345)
    assert (done.returncode, done.stdout.split()) == (0, [b"12345", b"counted"])


def test_two_at_once(options: list[str]) -> None:
    """Two sessions at the same time do not disturb one another."""
    command = ["ssh", *options, "tunnelled", "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdin is not None
        first.stdin.write(b"first")
        first.stdin.flush()
        assert ssh(options, "cat", input=b"second").stdout == b"second"
        assert first.communicate(timeout=PATIENCE) == (b"first", None)
    assert first.returncode == 0


@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
def test_scp(options: list[str], tmp_path: Path, back: bool) -> None:
    """``scp`` brings a file of 20 MB through the tunnel, intact, in either direction."""
    here, there = tmp_path / "here", tmp_path / "there"
    source, target = (there, here) if back else (here, there)
    source.write_bytes(MUCH)
    names = [f"tunnelled:{source}", str(target)] if back else [str(source), f"tunnelled:{target}"]
    done = subprocess.run(
        ["scp", "-q", *options, *names],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert digest(target.read_bytes()) == digest(MUCH)


def test_wrong_key(options: list[str], tmp_path: Path) -> None:
    """ssh's own refusals come through as they are: exit status 255."""
    make_key(tmp_path / "key")
    others = [str(tmp_path / "key") if word.endswith("/user_key") else word for word in options]
    done = ssh(others, "true")
    assert done.returncode == 255
    assert b"Permission denied" in done.stderr
