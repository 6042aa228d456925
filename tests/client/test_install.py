"""
What becomes of a client's connection between the 101 and ``install``, and afterwards.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
import treq
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol
from twisted.web.client import readBody

from tests.kit.harness import HalfCloseRecorder, Recorder, patient, turns
from tests.kit.scripted import ASKING, CLIENT_KINDS, SWITCH, playing
from upgrade_switch import UpgradeToken, switched_connection
from upgrade_switch.errors import AlreadyInstalled, InvalidTarget

on_all_kinds = pytest.mark.parametrize("kind", CLIENT_KINDS)


@pytest.mark.parametrize("asking", ASKING)
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_install(kind: str, asking: str) -> None:
    """``install`` gives connectionMade, the trailing data, then the rest, both ways, and the end."""
    async with playing(kind) as server:
        answer = ASKING[asking](server)
        peer, _head = await server.asked()
        peer.send(SWITCH + b"early ")
        response = await patient(answer)
        connection = switched_connection(response)
        assert switched_connection(response) is connection
        assert connection.target is None
        target = Recorder()
        connection.install(target)
        assert target.events == ["made", b"early "]
        assert connection.target is target
        peer.send(b"late")
        await target.receives(b"early late")
        target.send(b"from the client")
        await peer.receives(b"from the client")
        owner = target.transport.wrappedProtocol if kind == "tls" else target.transport.protocol
        assert owner is target
        peer.transport.loseConnection()
        await target.is_lost()
        assert target.events.count("lost") == target.events.count("made") == 1


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_response_of_a_switch(kind: str) -> None:
    """The response to a switch has the server's fields and no body; its connection has attributes."""
    async with playing(kind) as server:
        head = SWITCH.replace(b"Switching Protocols\r\n", b"UPGRADED\r\nX-Y: 1\r\nX-Y: 2\r\n")
        _peer, response = await server.answered(head + b"trailing", url=server.url + "?q=1")
        assert (response.code, response.phrase) == (101, b"UPGRADED")
        assert response.version == (b"HTTP", 1, 1)
        assert response.headers.getRawHeaders("x-y") == ["1", "2"]
        assert response.headers.getRawHeaders("upgrade") == ["echo"]
        assert response.length == 0
        assert await treq.content(response) == await readBody(response) == b""
        connection = switched_connection(response)
        assert connection.token == UpgradeToken("echo")
        assert connection.path == b"/u"
        assert connection.peer == server.client.transports[0].getPeer()
        assert isinstance(connection.since, float)
        target = Recorder()
        connection.install(target)
        assert target.data == b"trailing"


@pytest_twisted.ensureDeferred
async def test_installed_once() -> None:
    """A second ``install`` is refused, and the first target keeps the connection."""
    async with playing() as server:
        peer, response = await server.answered(SWITCH)
        target, second = Recorder(), Recorder()
        connection = switched_connection(response)
        connection.install(target)
        with pytest.raises(AlreadyInstalled):
            connection.install(second)
        peer.send(b"to the first")
        await target.receives(b"to the first")
        assert second.events == []


@pytest.mark.parametrize("wrong", [None, object(), Protocol, Recorder().dataReceived])
@pytest_twisted.ensureDeferred
async def test_no_protocol(wrong: Any) -> None:
    """A target that is not an IProtocol is refused, and the connection still waits with its data."""
    async with playing() as server:
        _peer, response = await server.answered(SWITCH + b"early")
        connection = switched_connection(response)
        with pytest.raises(InvalidTarget):
            connection.install(wrong)
        target = Recorder()
        connection.install(target)
        assert target.events == ["made", b"early"]


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_paused_until_install(kind: str) -> None:
    """Until ``install`` nothing is read; then every byte of much comes, in order."""
    much = bytes(range(256)) * 4096
    async with playing(kind) as server:
        peer, response = await server.answered(SWITCH)
        assert not server.client.reads
        peer.send(much)
        await turns()
        assert not server.client.reads
        target = Recorder()
        switched_connection(response).install(target)
        assert server.client.reads
        await target.until(lambda: target.amount >= len(much))
        assert target.data == much


@pytest_twisted.ensureDeferred
async def test_tls_records_behind_the_switch() -> None:
    """What a TLS layer delivers although it is paused is kept for the target, in order."""
    # A TLS record has 16 KiB at most, and a read of the socket 64.
    much = bytes(range(256)) * 160
    async with playing("tls") as server:
        answer = server.ask()
        peer, _head = await server.asked()
        [socket] = server.client.transports
        socket.pauseProducing()
        peer.send(SWITCH + much)
        # Now it is all in the client's socket.
        await turns(10)
        socket.resumeProducing()
        response = await patient(answer)
        await turns()
        peer.send(b"the rest")
        target = Recorder()
        switched_connection(response).install(target)
        assert len(target.data) > 16384
        await target.receives(b"the rest")
        assert target.data == much + b"the rest"
        assert target.events[0] == "made"


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_ended_before_install(kind: str) -> None:
    """A connection that ends before ``install`` gives connectionMade, the data, connectionLost."""
    async with playing(kind) as server:
        answer = server.ask()
        peer, _head = await server.asked()
        peer.send(SWITCH + b"all there is")
        peer.transport.loseConnection()
        connection = switched_connection(await patient(answer))
        if kind == "tls":
            # The paused TLS layer has read the end as well: the connection is over by now.
            await server.client.is_closed()
        target = Recorder()
        connection.install(target)
        if kind == "tls":
            assert target.events[-1] == "lost"
        await target.is_lost()
        assert target.events == ["made", b"all there is", "lost"]
        assert ITransport.providedBy(target.transport)
        connection.abort()


@pytest.mark.parametrize("end", ["loseConnection", "abortConnection"])
@pytest_twisted.ensureDeferred
async def test_closed_in_connection_made_of_an_ended_one(end: str) -> None:
    """A target that closes in connectionMade gets no data, be the connection over already or not."""

    class Closing(Recorder):
        def connectionMade(self) -> None:
            super().connectionMade()
            getattr(self.transport, end)()

    async with playing("tls") as server:
        answer = server.ask()
        peer, _head = await server.asked()
        peer.send(SWITCH + b"all there is")
        peer.transport.loseConnection()
        connection = switched_connection(await patient(answer))
        await server.client.is_closed()
        target = Closing()
        connection.install(target)
        assert target.events == ["made", "lost"]
        assert target.transport.getPeer() == connection.peer


@pytest.mark.parametrize("asking", ASKING)
@on_all_kinds
@pytest.mark.usefixtures("no_gc")
@pytest_twisted.ensureDeferred
async def test_dropped(kind: str, asking: str) -> None:
    """A connection that is dropped without ``install`` is aborted, without the collector."""
    async with playing(kind) as server:
        answer = ASKING[asking](server)
        peer, _head = await server.asked()
        peer.send(SWITCH + b"for nobody")
        response = await patient(answer)
        connection = switched_connection(response)
        del response
        await turns()
        assert peer.reason is None
        del connection
        await peer.is_lost()
        await server.client.is_closed()


@on_all_kinds
@pytest.mark.usefixtures("no_gc")
@pytest_twisted.ensureDeferred
async def test_not_dropped(kind: str) -> None:
    """A connection with a target lives on when its record and its response are dropped."""
    async with playing(kind) as server:
        peer, response = await server.answered(SWITCH)
        target = Recorder()
        switched_connection(response).install(target)
        del response
        await turns()
        peer.send(b"still there")
        await target.receives(b"still there")


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_abort(kind: str) -> None:
    """``abort`` ends a connection that waits for its target, and one that has it."""
    async with playing(kind) as server:
        peer, response = await server.answered(SWITCH)
        switched_connection(response).abort()
        await peer.is_lost()
        await server.client.is_closed()
        target = Recorder()
        switched_connection(response).install(target)
        assert target.events == ["made", "lost"]
        peer, response = await server.answered(SWITCH)
        target = Recorder()
        connection = switched_connection(response)
        connection.install(target)
        connection.abort()
        await target.is_lost()
        await peer.is_lost()
        connection.abort()


@pytest_twisted.ensureDeferred
async def test_half_close() -> None:
    """On TCP a target that takes half-closes gets the server's, and goes on writing."""
    async with playing() as server:
        peer, response = await server.answered(SWITCH)
        target = HalfCloseRecorder()
        switched_connection(response).install(target)
        peer.transport.loseWriteConnection()
        await target.until(lambda: "read lost" in target.events)
        target.send(b"still writing")
        await peer.receives(b"still writing")


class Raising(Recorder):
    """A target that raises in one of its methods."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where

    def connectionMade(self) -> None:
        super().connectionMade()
        self._maybe("connectionMade")

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self._maybe("dataReceived")

    def _maybe(self, where: str) -> None:
        if where == self._where:
            raise ZeroDivisionError(where)


@pytest.mark.parametrize("where", ["connectionMade", "dataReceived"])
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_target_raises(kind: str, where: str, errors: Any) -> None:
    """What a target raises is logged and ends the connection, and ``install`` does not raise it."""
    async with playing(kind) as server:
        peer, response = await server.answered(SWITCH + b"early")
        target = Raising(where)
        switched_connection(response).install(target)
        await target.is_lost()
        await peer.is_lost()
        assert target.events.count("lost") == 1
        assert [str(error) for error in errors.take(1)] == [where]
