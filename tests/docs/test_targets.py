"""
What docs/howto/targets.md says holds, with something that greets as VNC servers do.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.protocol import Factory, Protocol

from tests.kit.documented import read, sessions
from tests.kit.harness import Recorder, connected, patient, reactor
from upgrade_switch import NotSwitched
from upgrade_switch.protocols import WebSocketEndpoint

__all__ = ["read"]  # a fixture

PAGE = "howto/targets.md"


class Greeting(Protocol):
    transport: Any

    def connectionMade(self) -> None:
        self.transport.write(b"RFB 003.008\n")
        self.transport.loseConnection()


@contextmanager
def greeting(port: int) -> Any:
    """What stands for a desktop."""
    listening = reactor.listenTCP(port, Factory.forProtocol(Greeting), interface="127.0.0.1")
    try:
        yield
    finally:
        listening.stopListening()


@pytest_twisted.ensureDeferred
async def test_command_line(read: Any) -> None:
    """The page's client reaches the server that it names."""
    reader = read(PAGE)
    reader.saves("text")
    serve, connect = (sessions(block.text)[0] for block in reader.blocks("console"))
    with greeting(reader.port(5900)), reader.serves(serve):
        await reader.types(connect)


@pytest_twisted.ensureDeferred
async def test_own_site(read: Any, listen: Any) -> None:
    """The page's own site leads to the server of a name, and to none without one."""
    reader = read(PAGE)
    reader.runs()
    listening = await listen("tcp", reader.names["site"])
    with greeting(reader.port(5900)):
        client = Recorder()
        await connected(WebSocketEndpoint(reactor, f"{listening.url}/?token=beta"), client)
        await client.receives(b"RFB 003.008\n")
        await client.is_lost()
    with pytest.raises(NotSwitched) as refused:
        await patient(connected(WebSocketEndpoint(reactor, f"{listening.url}/?token=x"), Recorder()))
    assert refused.value.response.code == 404
