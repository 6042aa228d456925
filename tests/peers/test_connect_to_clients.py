"""
``upgrade-switch serve --connect-to`` as the proxy of programs that others have written.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.kit.commands import PATIENCE, fails, serving
from tests.kit.foreign import needs
from tests.kit.openssh import client_options, digest, running_sshd, ssh

MUCH = b"0123456789abcdef" * 100_000


class Proxy(NamedTuple):
    """A running proxy, and where it lets its clients go."""

    port: str
    sshd: int
    folder: Path


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that wants a password, in front of an sshd."""
    folder = tmp_path_factory.mktemp("proxied")
    (folder / "passwords").write_text("ops:secret\n")
    with (
        running_sshd(folder) as port,
        serving(
            "--connect-to", f"localhost:{port}", "--auth", f"file:{folder / 'passwords'}"
        ) as server,
    ):
        yield Proxy(server.url.rpartition(":")[2].strip("/"), port, folder)


CLIENTS = {
    "ncat": "ncat --proxy 127.0.0.1:{port} --proxy-type http --proxy-auth {user} localhost {sshd}",
    "proxytunnel": "proxytunnel -q -p 127.0.0.1:{port} -P {user} -d localhost:{sshd}",
    "corkscrew": "corkscrew 127.0.0.1 {port} localhost {sshd} {file}",
}

each_client = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs(name)) for name in CLIENTS]
)


def through(proxy: Proxy, name: str, user: str = "ops:secret") -> list[str]:
    """Options that have ssh go through a proxy with this program."""
    secret = proxy.folder / "secret"
    secret.write_text(user)
    file = shlex.quote(str(secret))
    line = CLIENTS[name].format(port=proxy.port, sshd=proxy.sshd, user=user, file=file)
    return client_options(proxy.folder, f"ProxyCommand={line}")


@each_client
def test_ssh(proxy: Proxy, name: str) -> None:
    """ssh gets through with this program as its ProxyCommand: much, both ways, and the exit code."""
    done = ssh(through(proxy, name), "cat; exit 7", input=MUCH)
    assert (done.returncode, done.stderr) == (7, b"")
    assert digest(done.stdout) == digest(MUCH)


@each_client
def test_wrong_password(proxy: Proxy, name: str) -> None:
    """With a wrong password, it does not."""
    done = ssh(through(proxy, name, "ops:wrong"), "true")
    assert done.returncode == 255


@needs("curl")
@pytest.mark.parametrize(
    ("user", "target", "said"),
    [
        ("ops:wrong", "localhost:{sshd}", b"407"),
        ("ops:secret", "localhost:1", b"403"),
        ("ops:secret", "127.0.0.1:{sshd}", b"403"),
        ("ops:secret", "2130706433:{sshd}", b"403"),
    ],
)
def test_curl_is_refused(proxy: Proxy, user: str, target: str, said: bytes) -> None:
    """curl says what it was answered, and that it could not go on."""
    options = ["-sS", "--noproxy", "", "-p", "-x", f"http://127.0.0.1:{proxy.port}", "-U", user]
    done = subprocess.run(
        ["curl", *options, f"http://{target.format(sshd=proxy.sshd)}/"],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 56, done.stderr
    assert said in done.stderr


def test_own_client(proxy: Proxy) -> None:
    """This package's ``connect`` gets through as well: what answers it is sshd, which is not HTTP."""
    via = ["--via", f"http://ops:secret@127.0.0.1:{proxy.port}"]
    line = fails(1, "connect", *via, f"http://localhost:{proxy.sshd}/", "x")
    assert "the answer is not HTTP" in line
