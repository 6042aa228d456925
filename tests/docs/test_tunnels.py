"""
What docs/howto/tunnels.md says about tunnels holds, with a real sshd at the far end.
"""

from __future__ import annotations

import shlex
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet.endpoints import connectProtocol
from twisted.internet.protocol import Factory
from twisted.protocols.wire import Echo

from tests.kit.documented import Reader, Session, read, sessions
from tests.kit.harness import Recorder, localhost, patient, reactor, status
from tests.kit.openssh import HOST, client_options, running_sshd
from upgrade_switch import UpgradeEndpoint
from upgrade_switch.protocols import WebSocketEndpoint

__all__ = ["read"]  # a fixture

PAGE = "howto/tunnels.md"


def commands_of(reader: Reader) -> list[Session]:
    return [sessions(block.text)[0] for block in reader.blocks("console")]


@contextmanager
def echoing(port: int) -> Any:
    """What stands for the server at the far end."""
    listening = reactor.listenTCP(port, Factory.forProtocol(Echo), interface="127.0.0.1")
    try:
        yield
    finally:
        listening.stopListening()


async def echoes(endpoint: Any) -> None:
    """What is sent there comes back."""
    client = await patient(connectProtocol(endpoint, Recorder()))
    client.send(b"hello")
    await client.receives(b"hello")
    client.transport.loseConnection()
    await client.is_lost()


def knowing(ssh: Session, folder: Path) -> Session:
    """A command with what its ssh has to know of the sshd that is here."""
    options = shlex.join(client_options(folder, f"HostKeyAlias={HOST}"))
    command = ssh.command.replace("ssh -", f"ssh {options} -", 1).replace("me@", "")
    return ssh._replace(command=command)


@pytest_twisted.ensureDeferred
async def test_ssh(read: Any) -> None:
    """OpenSSH gets through the page's tunnel with the page's ProxyCommand, and by its preface."""
    reader = read(PAGE)
    with running_sshd(reader.folder) as port:
        for serve, ssh in (commands_of(reader)[:2], commands_of(reader)[2:4]):
            there = serve.command.replace("127.0.0.1:22'", f"127.0.0.1:{port}'")
            with reader.serves(serve._replace(command=there)):
                await reader.types(knowing(ssh, reader.folder))


@pytest_twisted.ensureDeferred
async def test_database(read: Any) -> None:
    """A program that connects to the page's forward reaches what is behind the page's serve."""
    reader = read(PAGE)
    _ssh, _through, _preface, _direct, serve, forward, _vnc = commands_of(reader)
    with echoing(reader.port(5432)), reader.serves(serve), reader.serves(forward):
        await echoes(localhost(reader.port(8083)))


@pytest_twisted.ensureDeferred
async def test_several_ports(read: Any) -> None:
    """The page's file has forward listen on several ports, each of which leads to another server."""
    reader = read(PAGE)
    reader.saves("toml")
    _ssh, _through, _preface, _direct, serve, _forward, vnc = commands_of(reader)
    forward = Session("upgrade-switch forward --config forwards.toml", "")
    with (
        echoing(reader.port(5432)),
        echoing(reader.port(5900)),
        reader.serves(serve),
        reader.serves(vnc),
        reader.serves(forward) as process,
    ):
        assert process.says().startswith("listening on ")
        await echoes(localhost(reader.port(8083)))
        await echoes(localhost(reader.port(8088)))


@pytest_twisted.ensureDeferred
async def test_desktop(read: Any) -> None:
    """A WebSocket client reaches what is behind the page's serve."""
    reader = read(PAGE)
    with echoing(reader.port(5900)), reader.serves(commands_of(reader)[6]):
        await echoes(WebSocketEndpoint(reactor, f"ws://127.0.0.1:{reader.port(8084)}/vnc"))


@pytest_twisted.ensureDeferred
async def test_own_site(read: Any, listen: Any) -> None:
    """The page's own site has the same tunnels: by upgrade, for browsers, by a preface, by CONNECT."""
    reader = read(PAGE)
    reader.runs()
    listening = await listen("tcp", reader.names["site"])
    port = listening.port.getHost().port
    with echoing(reader.port(5432)), echoing(reader.port(5900)):
        await echoes(UpgradeEndpoint(reactor, f"http://127.0.0.1:{port}/", "postgres"))
        await echoes(WebSocketEndpoint(reactor, f"ws://127.0.0.1:{port}/"))
        client = await listening.connect(Recorder())
        client.send(b"DB\r\nhello")
        await client.receives(b"DB\r\nhello")
        for name, code in (("database", 200), ("other", 403)):
            client = await listening.connect(Recorder())
            authority = f"{name}:{reader.port(5432)}".encode()
            client.send(b"CONNECT " + authority + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            assert status(await client.head()) == code
            if code == 200:
                client.send(b"hello")
                await client.receives(b"hello")
