"""
What docs/ has for other programs: haproxy, nginx and systemd take it, and it does what the pages say.
"""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import treq
from twisted.internet.endpoints import connectProtocol
from twisted.internet.threads import deferToThread

from tests.kit.commands import COMMAND, PATIENCE
from tests.kit.documented import Reader, daemon, environment, read, sessions
from tests.kit.foreign import find, needs
from tests.kit.harness import Recorder, localhost, patient, status, upgrade_head

__all__ = ["read"]  # a fixture


async def shouts(reader: Reader, token: bytes, expected: int) -> tuple[bytes, Recorder]:
    """Ask the proxy for an upgrade, with ``hello`` behind the request."""
    client = await patient(connectProtocol(localhost(reader.port(8080)), Recorder()))
    client.send(upgrade_head(token, path=b"/shout") + b"hello\r\n")
    head = await client.head()
    assert status(head) == expected
    return head, client


async def closes(client: Recorder) -> None:
    client.transport.abortConnection()
    await client.is_lost()


def haproxy(reader: Reader) -> Any:
    """haproxy with the page's configuration."""
    reader.saves("haproxy")
    pid_file = reader.folder / "haproxy.pid"
    command = [find("haproxy"), "-D", "-f", str(reader.saved("haproxy.cfg")), "-p", str(pid_file)]
    return daemon(command, pid_file)


@needs("haproxy")
@pytest_twisted.ensureDeferred
async def test_haproxy(read: Any) -> None:
    """
    Behind haproxy: an upgrade with trailing data switches, the site knows the client's address, tokens
    that are not let through arrive as ordinary requests, and prefaces come through the other port.
    """
    reader = read("howto/haproxy.md")
    reader.runs()
    with haproxy(reader):
        _head, client = await shouts(reader, b"shout", 101)
        await client.receives(b"HELLO\r\n")
        (connection,) = reader.sites[0].wrappedFactory.switched
        own = client.transport.getHost()
        assert (connection.peer.host, connection.peer.port) == (own.host, own.port)
        await closes(client)
        # As a site that would speak h2c sees it.
        seen: list[Any] = []
        site = reader.sites[0].wrappedFactory
        site.log = lambda request: seen.append(request.requestHeaders.getRawHeaders(b"upgrade"))
        for offer, passed, code in (
            (b"h2c", None, 426),
            (b"echo", None, 426),
            (b"h2c, Shout", [b"shout"], 101),
            (b"shout\r\nUpgrade: h2c", [b"shout"], 101),
        ):
            _head, client = await shouts(reader, offer, code)
            assert seen.pop() == passed
            await closes(client)
        client = await patient(connectProtocol(localhost(reader.port(2222)), Recorder()))
        client.send(b"SHOUT\r\nhello\r\n")
        await client.receives(b"SHOUT\r\nHELLO\r\n")
        await closes(client)


@needs("haproxy")
@pytest_twisted.ensureDeferred
async def test_haproxy_command(read: Any) -> None:
    """The page's serve understands the PROXY protocol that the page's haproxy speaks."""
    reader = read("howto/haproxy.md")
    (block,) = reader.blocks("console")
    with reader.serves(sessions(block.text)[0]), haproxy(reader):
        url = f"http://127.0.0.1:{reader.port(8080)}/"
        response = await patient(treq.get(url, persistent=False))
        assert response.code == 200
        await response.text()


NGINX = """\
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {included};
}}
"""


@needs("nginx")
@pytest_twisted.ensureDeferred
async def test_nginx(read: Any) -> None:
    """
    Behind nginx: an upgrade with trailing data switches, the protocol knows the client's address, and
    tokens that are not let through arrive as ordinary requests.
    """
    reader = read("howto/nginx.md")
    reader.runs()
    reader.saves("nginx")
    included = reader.saved("upgrade-switch.conf")
    configuration = reader.folder / "nginx.conf"
    configuration.write_text(NGINX.format(folder=reader.folder, included=included))
    log = str(reader.folder / "error.log")
    command = [find("nginx"), "-c", str(configuration), "-e", log]
    with daemon(command, reader.folder / "nginx.pid"):
        _head, client = await shouts(reader, b"SHOUT", 101)
        await client.receives(b"HELLO from 127.0.0.1\r\n")
        await closes(client)
        seen: list[Any] = []
        reader.sites[0].log = lambda request: seen.append(
            [request.requestHeaders.getRawHeaders(name) for name in (b"upgrade", b"connection")]
        )
        for offer in (b"h2c", b"echo", b"shout, h2c"):
            _head, client = await shouts(reader, offer, 426)
            assert seen.pop() == [None, None]
            await closes(client)


def units(reader: Reader) -> tuple[Path, Path]:
    """The page's units, of the command that is installed here."""
    reader.saves("ini")
    for block in reader.blocks("ini"):
        assert block.file is not None
        unit = reader.saved(block.file)
        text = unit.read_text()
        unit.write_text(text.replace("/opt/upgrade-switch/bin/upgrade-switch", COMMAND))
    return reader.saved("upgrade-switch.socket"), reader.saved("upgrade-switch.service")


@needs("systemd-analyze")
def test_systemd_understands_the_units(read: Any) -> None:
    """systemd has nothing to say against the units."""
    done = subprocess.run(
        [find("systemd-analyze"), "verify", "--man=no", *map(str, units(read("howto/systemd.md")))],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        text=True,
    )
    # Of the machine's own units it may say a lot.
    about = [line for line in done.stderr.splitlines() if "upgrade-switch" in line]
    assert (done.returncode, about) == (0, [])


@pytest_twisted.ensureDeferred
async def test_socket_activation(read: Any) -> None:
    """
    The service's command serves on the socket that it is given, as systemd gives it: descriptor 3,
    LISTEN_FDS, LISTEN_FDNAMES (a socket's name is its unit's) and LISTEN_PID.
    """
    socket_unit, service_unit = units(read("howto/systemd.md"))
    match = re.search(r"^ListenStream=([\d.]+):", socket_unit.read_text(), re.MULTILINE)
    command = re.search(r"^ExecStart=(.*)$", service_unit.read_text(), re.MULTILINE)
    assert match is not None
    assert command is not None
    listening = socket.create_server((match[1], 0))
    port = listening.getsockname()[1]
    # LISTEN_PID is the process's own, which only it knows.
    given = f"LISTEN_FDS=1 LISTEN_FDNAMES={socket_unit.name} LISTEN_PID=$$"
    activated = f"exec 3<&{listening.fileno()}; {given} exec {command[1]}"
    with (
        listening,
        subprocess.Popen(
            ["bash", "-c", activated],
            env=environment(),
            pass_fds=[listening.fileno()],
            stderr=subprocess.PIPE,
        ) as process,
    ):
        # From here on it is the command's alone: without it, nobody waits for an answer.
        listening.close()
        try:
            response = await patient(treq.get(f"http://127.0.0.1:{port}/", persistent=False))
            assert response.code == 200
            assert b"/ssh" in await response.content()
        finally:
            process.terminate()
            _out, said = await deferToThread(process.communicate, timeout=PATIENCE)
        assert (process.returncode, said.count(b"\n")) == (0, 1), said


@pytest.mark.parametrize("page", ["howto/haproxy.md", "howto/nginx.md", "howto/systemd.md"])
def test_every_file_has_a_name(page: str, read: Any) -> None:
    """Where a file is to be saved as something, its first line says as what."""
    assert all(block.file for block in read(page).blocks("ini"))
