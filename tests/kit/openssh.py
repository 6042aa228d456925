"""
OpenSSH for tests: its server, with keys of its own, and its client.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.kit.commands import PATIENCE
from tests.kit.foreign import find

#: What ssh calls the server, and knows its key by.
HOST = "tunnelled"

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


def digest(data: bytes) -> str:
    """What tells two long strings of bytes apart, and fits on a line."""
    return hashlib.sha256(data).hexdigest()


def make_key(path: Path) -> None:
    """A new key pair without a passphrase."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True
    )


def start_sshd(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """sshd on a port that was free a moment ago; the next one where somebody else has been faster."""
    sshd = find("sshd")
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


@contextmanager
def running_sshd(folder: Path) -> Iterator[int]:
    """
    A running sshd, with new keys in a folder.

    :return: its port.
    """
    make_key(folder / "host_key")
    make_key(folder / "user_key")
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"{HOST} {host_key}")
    sshd, port = start_sshd(folder)
    assert sshd.stderr is not None
    # Read what it says, so that it is never held up by it.
    said: list[bytes] = []
    reader = threading.Thread(target=lambda: said.extend(sshd.stderr))  # type: ignore[arg-type]
    reader.start()
    try:
        yield port
    finally:
        sshd.terminate()
        sshd.wait()
        reader.join()
        sshd.stderr.close()


def client_options(folder: Path, *options: str) -> list[str]:
    """Options with which ssh knows and trusts the server of :func:`running_sshd`, and some more."""
    known = (
        *options,
        f"User={pwd.getpwuid(os.geteuid()).pw_name}",
        f"UserKnownHostsFile={folder / 'known_hosts'}",
        "GlobalKnownHostsFile=none",
        "StrictHostKeyChecking=yes",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "BatchMode=yes",
        "LogLevel=ERROR",
    )
    words = [word for option in known for word in ("-o", option)]
    return ["-F", "none", "-i", str(folder / "user_key"), *words]


def ssh(options: list[str], command: str, **kwargs: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a command on the server."""
    if "input" not in kwargs:
        kwargs.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(
        ["ssh", *options, HOST, command],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        **kwargs,
    )


def scp(options: list[str], folder: Path, data: bytes, back: bool) -> bytes:
    """
    Bring a file to the server, or back from it, by ``scp``.

    :param folder: an empty one.
    :return: what has arrived.
    """
    source, target = folder / "source", folder / "target"
    source.write_bytes(data)
    names = [f"{HOST}:{source}", str(target)] if back else [str(source), f"{HOST}:{target}"]
    done = subprocess.run(
        ["scp", "-q", *options, *names],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target.read_bytes()


def runs_commands(options: list[str]) -> None:
    """A command's output, its errors and its exit status come back."""
    done = ssh(options, "echo out; echo error >&2; exit 7")
    # The last of it: the shell may say something of its own when it begins.
    assert (done.returncode, done.stdout, done.stderr[-6:]) == (7, b"out\n", b"error\n")


def carries(options: list[str], data: bytes) -> None:
    """What goes through ``cat`` on the other side comes back as it was."""
    done = ssh(options, "cat", input=data)
    # The shell may say something of its own when it begins.
    assert done.returncode == 0, done.stderr
    assert digest(done.stdout) == digest(data)
