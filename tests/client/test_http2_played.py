"""Upgrades over HTTP/2: what a pool makes of servers that are in the test's hands."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
import treq
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.endpoints import TCP4ServerEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import optionsForClientTLS, trustRootFromCertificates
from twisted.web.client import ResponseFailed, ResponseNeverReceived
from zope.interface import implementer

from tests.kit.certificate import STRANGER
from tests.kit.h2pool import Client, played
from tests.kit.harness import HalfCloseRecorder, Recorder, factory_of, patient, reactor, turns
from upgrade_switch import NotSwitched, UpgradeEndpoint, switched_connection
from upgrade_switch.client import http2
from upgrade_switch.errors import InvalidResponse

CONNECT, MOST = SettingCodes.ENABLE_CONNECT_PROTOCOL, SettingCodes.MAX_CONCURRENT_STREAMS

HTTP1_SWITCH = b"HTTP/1.1 101 \r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"


async def failure(asking: Any, *classes: type[Exception]) -> Any:
    """What a request fails with."""
    with pytest.raises(classes) as caught:
        await patient(asking)
    return caught.value


def reason_of(error: Any) -> Any:
    """The reason in a ResponseFailed."""
    (reason,) = error.reasons
    return reason


# What is sent.


@pytest_twisted.ensureDeferred
async def test_request() -> None:
    """The request is an extended CONNECT; the client's settings refuse pushes."""
    async with played() as (server, client):
        asking = client.ask("chat/2", "?room=1", user_agent="me")
        peer = await server.accepted()
        (stream,) = await peer.asks()
        assert dict(peer.asked[stream]) == {
            b":method": b"CONNECT",
            b":scheme": b"https",
            b":authority": f"localhost:{client.dialling.port}".encode(),
            b":path": b"/?room=1",
            b":protocol": b"chat/2",
            b"user-agent": b"me",
        }
        assert peer.h2.remote_settings.enable_push == 0
        assert stream not in peer.ended
        peer.answer(stream, 299, protocol="x")
        response = await patient(asking)
        assert (response.code, response.phrase) == (299, b"")
        assert response.headers.getRawHeaders(b"protocol") == [b"x"]
        assert switched_connection(response).path == b""


@pytest_twisted.ensureDeferred
async def test_waits_for_settings() -> None:
    """Nothing is asked before the server has said that it takes it."""
    async with played(begins=False) as (server, client):
        asking = client.ask()
        peer = await server.accepted()
        await peer.until(lambda: b"PRI * " in peer.data)
        await turns(20)
        assert not peer.asked
        peer.begin()
        (stream,) = await peer.asks()
        peer.answer(stream)
        switched_connection(await patient(asking))


# What servers choose.


@pytest.mark.parametrize("protocols", [[], [b"http/1.1"]])
@pytest_twisted.ensureDeferred
async def test_http1_chosen(protocols: list[bytes]) -> None:
    """The connection that ALPN has made HTTP/1.1 is used; from then on HTTP/2 is not offered."""
    async with played(protocols) as (server, client):
        for count in (1, 2):
            asking = client.ask()
            peer = await server.accepted()
            head = await peer.head()
            assert head.startswith(b"GET /u HTTP/1.1\r\n")
            peer.send(HTTP1_SWITCH + b"hello")
            target = Recorder()
            switched_connection(await patient(asking)).install(target)
            await target.receives(b"hello")
            assert client.dialling.count == count
        server.protocols = [b"h2", b"http/1.1"]
        asking = client.ask()
        peer = await server.accepted()
        await peer.head()
        assert not peer.is_http2
        peer.send(HTTP1_SWITCH)
        switched_connection(await patient(asking))


@pytest_twisted.ensureDeferred
async def test_alpn_fails() -> None:
    """
    A server that refuses what ALPN offers is asked over HTTP/1.1, without ALPN. (So do Twisted's whose
    factory knows nothing of it.)
    """
    async with played([b"http/9"]) as (server, client):
        for count in (2, 3):
            asking = [client.ask()]
            if count == 2:
                asking.append(client.ask())
                await (await server.accepted()).is_lost()
            for each in asking:
                peer = await server.accepted()
                await peer.head()
                peer.send(HTTP1_SWITCH)
                switched_connection(await patient(each))


@pytest_twisted.ensureDeferred
async def test_http1_chosen_for_several() -> None:
    """Of several that wait for the first connection, one gets it, and each other one its own."""
    async with played([]) as (server, client):
        asking = [client.ask(path=f"/{number}") for number in range(3)]
        for number in range(3):
            peer = await server.accepted()
            assert (await peer.head()).startswith(b"GET /%d HTTP/1.1\r\n" % number)
            peer.send(HTTP1_SWITCH)
        for response in await patient(gatherResults(asking)):
            switched_connection(response)
        assert client.dialling.count == 3


@pytest.mark.parametrize("settings", [{}, {CONNECT: 0}, {CONNECT: 1, MOST: 0}])
@pytest_twisted.ensureDeferred
async def test_of_no_use(settings: Any) -> None:
    """HTTP/2 without the setting, or without room for a stream, costs one connection, once."""
    async with played(settings=settings) as (server, client):
        for _ in range(2):
            asking = client.ask()
            if client.dialling.count == 0:
                unused = await server.accepted()
            peer = await server.accepted()
            assert (await peer.head()).startswith(b"GET /u HTTP/1.1\r\n")
            assert not peer.is_http2
            peer.send(HTTP1_SWITCH)
            switched_connection(await patient(asking))
        await unused.is_lost()
        assert client.dialling.count == 3


@pytest_twisted.ensureDeferred
async def test_known_for_each_host() -> None:
    """What is known of one host says nothing of another."""
    async with played([b"http/1.1"]) as (server, client):
        asking = client.ask()
        peer = await server.accepted()
        await peer.head()
        peer.send(HTTP1_SWITCH)
        switched_connection(await patient(asking))
        server.protocols = [b"h2"]
        client.url = client.url.replace("localhost", "127.0.0.1")
        asking = client.ask()
        peer = await server.accepted()
        (stream,) = await peer.asks()
        peer.answer(stream)
        switched_connection(await patient(asking))


@pytest_twisted.ensureDeferred
async def test_most_streams() -> None:
    """One stream more than the server allows opens another connection; a free place is used again."""
    async with played(settings={CONNECT: 1, MOST: 2}) as (server, client):
        asking = [client.ask() for _ in range(5)]
        peers = []
        for count in (2, 2, 1):
            peer = await server.accepted()
            for stream in await peer.asks(count):
                peer.answer(stream)
            peers.append(peer)
        targets = [Recorder() for _ in asking]
        for target, response in zip(targets, await patient(gatherResults(asking)), strict=True):
            switched_connection(response).install(target)
        targets[0].transport.loseConnection()
        await peers[0].until(lambda: 1 in peers[0].ended)
        # The server has not ended its direction: the place is not free yet.
        again = client.ask()
        assert await peers[2].asks(2) == [1, 3]
        again.cancel()
        await failure(again, ResponseNeverReceived)
        peers[0].give(1, b"", end=True)
        await patient(targets[0].is_lost())
        await turns(20)
        asking = [client.ask() for _ in range(2)]
        assert len(await peers[0].asks(3)) == 3
        for each in asking:
            each.cancel()
            await failure(each, ResponseNeverReceived)
        assert client.dialling.count == 3


# Answers.


@pytest_twisted.ensureDeferred
async def test_ended_at_once() -> None:
    """A 200 with END_STREAM is a switch whose other direction has ended already."""
    async with played() as (server, client):
        asking = client.ask()
        peer = await server.accepted()
        (stream,) = await peer.asks()
        peer.answer(stream, end=True)
        target = HalfCloseRecorder()
        switched_connection(await patient(asking)).install(target)
        await target.until(lambda: "read lost" in target.events)
        target.send(b"mine")
        target.transport.loseConnection()
        await peer.until(lambda: stream in peer.ended)
        assert peer.bodies[stream] == b"mine"
        await patient(target.is_lost())
        assert target.reason is not None
        assert target.reason.check(ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_interim_answers() -> None:
    """Interim answers are skipped, but not for ever."""
    async with played() as (server, client):
        asking = client.ask()
        peer = await server.accepted()
        (stream,) = await peer.asks()
        for code in (100, 103):
            peer.answer(stream, code)
        peer.answer(stream, 403, b"no", end=True)
        response = await patient(asking)
        assert (response.code, await patient(treq.content(response))) == (403, b"no")
        asking = client.ask()
        await peer.asks(2)
        for _ in range(101):
            peer.answer(3, 103)
        error = await failure(asking, InvalidResponse)
        assert "interim" in str(error)
        await peer.until(lambda: peer.reset.get(3) == ErrorCodes.ENHANCE_YOUR_CALM)
        # The first one has been answered in full; the connection goes on.
        assert client.dialling.open == 1


@pytest_twisted.ensureDeferred
async def test_reset_behind_an_answer() -> None:
    """A server may reset a stream behind its answer, which is complete nevertheless (RFC 9113 §8.1)."""
    async with played() as (server, client):
        for size in (0, 2, 60_000):
            asking = client.ask()
            peer = server.built[0] if server.built else await server.accepted()
            stream = (await peer.asks(len(peer.asked) + (0 if size else 1)))[-1]
            while stream in peer.reset or stream in peer.ended:
                stream = (await peer.asks(len(peer.asked) + 1))[-1]
            peer.h2.send_headers(stream, [(":status", "403")], end_stream=not size)
            for start in range(0, size, 10_000):
                end = start + 10_000 >= size
                peer.h2.send_data(stream, b"x" * min(10_000, size), end_stream=end)
            peer.h2.reset_stream(stream, ErrorCodes.NO_ERROR)
            peer.ended.add(stream)
            peer.flush()
            response = await patient(asking)
            assert response.code == 403
            await turns(20)
            assert await patient(treq.content(response)) == b"x" * size


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("make", [Recorder, HalfCloseRecorder])
@pytest_twisted.ensureDeferred
async def test_reset_behind_a_tunnel(make: Any, installed: bool) -> None:
    """
    A server that is through may say so by a reset. What it had sent is delivered first; a target that
    could go on sending, and does not know that nobody reads it, is told by an error.
    """
    async with played() as (server, client):
        asking = client.ask()
        peer = await server.accepted()
        (stream,) = await peer.asks()
        peer.answer(stream)
        connection = switched_connection(await patient(asking))
        target = make()
        if installed:
            connection.install(target)
            target.transport.pauseProducing()
        peer.give(stream, b"x" * 5000, end=True)
        peer.kill(stream, ErrorCodes.NO_ERROR)
        # What comes behind it on another stream has come: so has all of this.
        asking = client.ask()
        await peer.asks(2)
        peer.answer(3)
        await patient(asking)
        if installed:
            assert target.events == ["made"]
            target.transport.resumeProducing()
        else:
            connection.install(target)
        await patient(target.is_lost())
        assert target.data == b"x" * 5000
        half = make is HalfCloseRecorder
        assert target.events[-2:] == ["read lost" if half else target.data, "lost"]
        assert target.reason.check(ConnectionLost if half else ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_connection_ends_behind_an_answer() -> None:
    """An answer that has come completely is read, also when its connection has ended meanwhile."""
    async with played() as (server, client):
        asking = client.ask()
        peer = await server.accepted()
        (stream,) = await peer.asks()
        peer.answer(stream, 403, b"x" * 9000, end=True)
        peer.transport.loseConnection()
        response = await patient(asking)
        await client.dialling.until_open(0)
        assert await patient(treq.content(response)) == b"x" * 9000


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ([(":status", "101")], False),
        ([(":status", "abc")], False),
        ([("x-no", "status")], False),
        ([(":status", "200"), ("upgrade", "echo")], False),
        ([(":status", "200"), ("X-Upper", "a")], False),
        ([(":status", "103")], True),
    ],
)
@pytest_twisted.ensureDeferred
async def test_malformed(fields: Any, end: bool) -> None:
    """An answer that breaks the rules fails its request, and resets its stream alone."""
    async with played() as (server, client):
        target = await switch(server, client)
        peer = server.built[0]
        asking = client.ask()
        await peer.asks(2)
        block = peer.h2.encoder.encode(fields)
        head = len(block).to_bytes(3, "big") + b"\x01" + (b"\x05" if end else b"\x04")
        peer.transport.write(head + (3).to_bytes(4, "big") + block)
        await failure(asking, InvalidResponse)
        await peer.until(lambda: peer.reset == {3: ErrorCodes.PROTOCOL_ERROR})
        assert target.reason is None


async def switch(server: Any, client: Any, target: Any = None) -> Any:
    """Switch, on a new connection; gives the target."""
    asking = client.ask()
    peer = await server.accepted()
    (stream,) = await peer.asks()
    peer.answer(stream)
    target = Recorder() if target is None else target
    switched_connection(await patient(asking)).install(target)
    return target


@pytest_twisted.ensureDeferred
async def test_wrong_length() -> None:
    """A refusal with another length than it says fails its body."""
    async with played() as (server, client):
        asking = client.ask()
        peer = await server.accepted()
        await peer.asks()
        peer.answer(1, 403, content_length="5")
        response = await patient(asking)
        reading = treq.content(response)
        peer.give(1, b"no", end=True)
        await failure(reading, ResponseFailed)
        assert client.dialling.open == 1


@pytest_twisted.ensureDeferred
async def test_body_that_is_cut_off() -> None:
    """A refusal whose body is cut off says so to its reader."""
    async with played() as (server, client):
        asking = client.ask()
        peer = await server.accepted()
        await peer.asks()
        peer.answer(1, 403, b"half")
        response = await patient(asking)
        reading = treq.content(response)
        await turns(10)
        peer.kill(1, ErrorCodes.INTERNAL_ERROR)
        error = await failure(reading, ResponseFailed)
        assert "INTERNAL_ERROR" in str(reason_of(error).value)


@pytest_twisted.ensureDeferred
async def test_trailers_in_a_tunnel() -> None:
    """Fields in a tunnel break a rule (RFC 9113 §8.5): the stream is reset."""
    async with played() as (server, client):
        target = await switch(server, client)
        peer = server.built[0]
        peer.h2.send_headers(1, [("x-trailer", "1")], end_stream=True)
        peer.flush()
        await patient(target.is_lost())
        assert target.reason.check(ConnectionLost)
        await peer.until(lambda: peer.reset == {1: ErrorCodes.PROTOCOL_ERROR})


# Resets and goodbyes.


@pytest.mark.parametrize("code", [ErrorCodes.CANCEL, ErrorCodes.NO_ERROR, ErrorCodes.INTERNAL_ERROR])
@pytest_twisted.ensureDeferred
async def test_reset_before_the_answer(code: ErrorCodes) -> None:
    """A reset in place of an answer fails the request as a connection's end does; it is not retried."""
    async with played() as (server, client):
        asking = client.ask()
        peer = await server.accepted()
        await peer.asks()
        peer.kill(1, code)
        error = await failure(asking, ResponseNeverReceived)
        assert code.name in str(reason_of(error).value)
        asking = client.ask()
        await peer.asks(2)
        peer.answer(3, 103)
        peer.kill(3, code)
        await failure(asking, ResponseFailed)
        await turns(10)
        assert (client.dialling.count, len(peer.asked)) == (1, 2)


@pytest.mark.parametrize("code", [ErrorCodes.CANCEL, ErrorCodes.NO_ERROR])
@pytest_twisted.ensureDeferred
async def test_reset_of_a_tunnel(code: ErrorCodes) -> None:
    """A reset without END_STREAM is an error, whatever its code; the connection goes on."""
    async with played() as (server, client):
        target = await switch(server, client)
        server.built[0].kill(1, code)
        await patient(target.is_lost())
        assert target.reason.check(ConnectionLost)
        assert client.dialling.open == 1


@pytest_twisted.ensureDeferred
async def test_refused_stream() -> None:
    """A request that the server has not looked at is sent again, a few times."""
    async with played() as (server, client):
        asking = client.ask()
        peer = await server.accepted()
        for count in (1, 2):
            stream = (await peer.asks(count))[-1]
            peer.kill(stream, ErrorCodes.REFUSED_STREAM)
        (*_, stream) = await peer.asks(3)
        peer.answer(stream)
        switched_connection(await patient(asking))
        asking = client.ask()
        for count in (4, 5, 6):
            stream = (await peer.asks(count))[-1]
            peer.kill(stream, ErrorCodes.REFUSED_STREAM)
        error = await failure(asking, ResponseNeverReceived)
        assert "refused" in str(reason_of(error).value)


@pytest_twisted.ensureDeferred
async def test_http1_required() -> None:
    """A server that wants HTTP/1.1 for a request gets it so, and the next ones at once."""
    async with played() as (server, client):
        asking = client.ask()
        peer = await server.accepted()
        await peer.asks()
        peer.kill(1, ErrorCodes.HTTP_1_1_REQUIRED)
        for _ in range(2):
            other = await server.accepted()
            assert (await other.head()).startswith(b"GET /u HTTP/1.1\r\n")
            other.send(HTTP1_SWITCH)
            switched_connection(await patient(asking))
            asking = client.ask()
        await (await server.accepted()).head()
        asking.cancel()
        await failure(asking, ResponseNeverReceived)


@pytest_twisted.ensureDeferred
async def test_goodbye() -> None:
    """Streams behind a GOAWAY's last are asked for on a new connection; those before it go on."""
    async with played() as (server, client):
        target = await switch(server, client)
        peer = server.built[0]
        waiting, again = client.ask(), client.ask()
        await peer.asks(3)
        peer.goodbye(2**31 - 1)
        await turns(20)
        assert client.dialling.count == 1
        peer.goodbye(3)
        other = await server.accepted()
        (stream,) = await other.asks()
        other.answer(stream, 200)
        switched_connection(await patient(again))
        peer.answer(3, 403, b"no", end=True)
        assert await patient(treq.content(await patient(waiting))) == b"no"
        target.send(b"still")
        await peer.until(lambda: peer.bodies[1] == b"still")
        peer.give(1, b"too", end=True)
        await patient(target.is_lost())
        assert (target.data, target.reason.type) == (b"too", ConnectionDone)
        # Nothing is left on it: it is closed.
        await peer.is_lost()
        assert client.dialling.count == 2


@pytest_twisted.ensureDeferred
async def test_goodbye_for_ever() -> None:
    """A server that takes nothing, ever, is not asked for ever."""
    async with played() as (server, client):
        asking = client.ask()
        for _ in range(3):
            peer = await server.accepted()
            await peer.asks()
            peer.goodbye(0)
        await failure(asking, ResponseNeverReceived)
        assert client.dialling.count == 3


# Servers that do not play by the rules.


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        frame(5, 4, 1, (2).to_bytes(4, "big") + b"\x82\x84\x87"),
        frame(1, 4, 2, b"\x88"),
        frame(6, 0, 0, b"12345678") * 20_000,
        frame(4, 0, 0, b"") * 20_000,
        frame(1, 0, 1, b"\x88") + frame(9, 0, 1, b"\x88" * 10_000) * 10,
        frame(0, 0, 0, b""),
        frame(7, 0, 1, bytes(8)),
        b"\xff" * 9,
    ],
    ids=["http1", "push", "opens", "pings", "settings", "fields", "data", "goaway", "large"],
)
@pytest_twisted.ensureDeferred
async def test_connection_is_cut(data: bytes) -> None:
    """What breaks the rules of a connection, or floods it, ends it: its streams with an error."""
    async with played() as (server, client):
        target = await switch(server, client)
        asking = client.ask()
        peer = server.built[0]
        await peer.asks(2)
        peer.transport.write(data)
        await failure(asking, ResponseNeverReceived)
        await patient(target.is_lost())
        assert target.reason.check(ConnectionLost)
        await client.dialling.until_open(0)
        await switch(server, client)


@pytest_twisted.ensureDeferred
async def test_no_http2_behind_h2() -> None:
    """A server that chooses HTTP/2, and speaks something else, fails the request."""
    async with played(begins=False) as (server, client):
        asking = client.ask()
        peer = await server.accepted()
        await peer.until(lambda: bool(peer.data))
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await failure(asking, ResponseNeverReceived)


@pytest_twisted.ensureDeferred
async def test_ends_before_settings() -> None:
    """A server that closes before it has said anything fails all that wait."""
    async with played(begins=False) as (server, client):
        asking = [client.ask(), client.ask()]
        peer = await server.accepted()
        await peer.until(lambda: bool(peer.data))
        peer.transport.loseConnection()
        for each in asking:
            await failure(each, ResponseNeverReceived)


@pytest_twisted.ensureDeferred
async def test_nobody_listens() -> None:
    """If there is no connection, all that wait fail as with HTTP/1.1; the next one tries anew."""
    async with played() as (server, client):
        client.dialling.refuses = True
        for asking in [client.ask(), client.ask()]:
            await failure(asking, ConnectionRefusedError)
        client.dialling.refuses = False
        await switch(server, client)


@pytest_twisted.ensureDeferred
async def test_wrong_certificate() -> None:
    """A certificate that is not trusted fails the request as with HTTP/1.1."""
    async with played() as (_server, client):
        trust = trustRootFromCertificates([STRANGER])
        client.dialling.options = optionsForClientTLS("localhost", trust)
        error = await failure(client.ask(), ResponseNeverReceived)
        assert "certificate verify failed" in str(reason_of(error).value)


# Cancelling.


@pytest_twisted.ensureDeferred
async def test_cancel_while_connecting() -> None:
    """Cancelled before there is a connection: that of the last one that waits is not made."""
    async with played() as (_server, client):
        asking = [client.ask(), client.ask()]
        for each in asking:
            each.cancel()
            await failure(each, CancelledError)
        await turns(20)
        assert client.dialling.open == 0


@pytest_twisted.ensureDeferred
async def test_cancel_one_of_two_while_connecting() -> None:
    """Whoever has begun the connection may leave: others wait for it, too."""
    async with played() as (server, client):
        first, second = client.ask(path="/1"), client.ask(path="/2")
        first.cancel()
        await failure(first, CancelledError)
        peer = await server.accepted()
        (stream,) = await peer.asks()
        assert (b":path", b"/2") in peer.asked[stream]
        peer.answer(stream)
        switched_connection(await patient(second))
        assert len(peer.asked) == 1


@pytest_twisted.ensureDeferred
async def test_cancel_before_the_handshake() -> None:
    """Cancelled while there is no TLS yet, it fails as with HTTP/1.1, and says what it looks like."""
    factory, built = factory_of(Recorder)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    client = Client(port.getHost().port)
    asking = client.ask()
    while not (built and built[0].data and client.dialling.count):
        await turns()
    await turns()
    asking.cancel()
    error = await failure(asking, ResponseNeverReceived)
    assert "has not answered the TLS handshake" in str(reason_of(error).value)
    await built[0].is_lost()
    await client.stop()
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_endpoint_that_does_not_stop() -> None:
    """A connection that is made although nobody wants it any more is closed."""
    async with played() as (_server, client):
        dialling = client.dialling
        stubborn: list[Any] = []

        class Stubborn:
            def connect(self, factory: Any) -> Any:
                given: Deferred[Any] = Deferred(lambda d: None)
                inner = wrapClientTLS(dialling.options, dialling).connect(factory)
                inner.addCallback(stubborn.append)
                return given

        dialling.endpointForURI = lambda uri: Stubborn()
        asking = client.ask()
        asking.cancel()
        await failure(asking, CancelledError)
        while not stubborn:
            await turns()
        await dialling.until_open(0)


@pytest_twisted.ensureDeferred
async def test_handshake_over_before() -> None:
    """An endpoint that waits for the handshake leaves no choice: HTTP/1.1."""
    async with played() as (server, client):
        dialling = client.dialling

        @implementer(IHandshakeListener)
        class First(Protocol):
            def __init__(self, factory: Any, given: Any) -> None:
                self.factory, self.given = factory, given

            def handshakeCompleted(self) -> None:
                transport: Any = self.transport
                protocol = self.factory.buildProtocol(None)
                transport.wrappedProtocol = protocol
                protocol.makeConnection(transport)
                self.given.callback(protocol)

        class Waiting:
            def connect(self, factory: Any) -> Any:
                given: Deferred[Any] = Deferred()
                first = Factory()
                first.buildProtocol = lambda addr: First(factory, given)  # type: ignore[assignment]
                wrapClientTLS(dialling.options, dialling).connect(first)
                return given

        dialling.endpointForURI = lambda uri: Waiting()
        asking = client.ask()
        peer = await server.accepted()
        assert (await peer.head()).startswith(b"GET /u HTTP/1.1\r\n")
        peer.send(HTTP1_SWITCH)
        switched_connection(await patient(asking))


@pytest_twisted.ensureDeferred
async def test_cancel_before_settings() -> None:
    """Cancelled while the server has not begun: the connection is closed, if nobody else waits."""
    async with played(begins=False) as (server, client):
        asking = [client.ask(), client.ask()]
        peer = await server.accepted()
        await peer.until(lambda: b"PRI * " in peer.data)
        for each in asking:
            assert client.dialling.open == 1
            each.cancel()
            error = await failure(each, ResponseNeverReceived)
            assert reason_of(error).check(CancelledError)
        await client.dialling.until_open(0)
        server.begins = True
        await switch(server, client)


@pytest_twisted.ensureDeferred
async def test_cancel_before_the_answer() -> None:
    """Cancelled while the server decides: the stream is reset, others go on."""
    async with played() as (server, client):
        target = await switch(server, client)
        peer = server.built[0]
        asking = client.ask()
        await peer.asks(2)
        target.transport.write(b"x")
        peer.give(1, b"hello")
        await target.receives(b"hello")
        asking.cancel()
        error = await failure(asking, ResponseNeverReceived)
        assert reason_of(error).check(CancelledError)
        await peer.until(lambda: peer.reset == {3: ErrorCodes.CANCEL})
        # An answer that was on its way does no harm.
        peer.transport.write(frame(1, 4, 3, b"\x88") + frame(0, 1, 3, b"late"))
        peer.give(1, b"still")
        await target.receives(b"still")
        again = client.ask()
        await peer.asks(3)
        peer.answer(5, 103)
        await turns(20)
        again.cancel()
        error = await failure(again, ResponseFailed)
        assert client.dialling.count == 1


@pytest_twisted.ensureDeferred
async def test_connection_that_may_be_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """If nothing at all comes until a request is given up, the next one goes on a new connection."""
    monkeypatch.setattr(http2, "_SILENT_SECONDS", 0)
    async with played() as (server, client):
        target = await switch(server, client)
        peer = server.built[0]
        await turns(20)
        peer.transport.pauseProducing()
        asking = client.ask()
        asking.cancel()
        await failure(asking, ResponseNeverReceived)
        await switch(server, client)
        assert client.dialling.count == 2
        peer.transport.resumeProducing()
        target.transport.loseConnection()
        await peer.until(lambda: 1 in peer.ended)
        peer.give(1, b"", end=True)
        await peer.is_lost()


@pytest_twisted.ensureDeferred
async def test_time_out() -> None:
    """An endpoint's time-out resets the stream, and says what is missing."""
    async with played() as (server, client):
        endpoint = UpgradeEndpoint(reactor, client.url + "/u", "echo", agent=client.agent, timeout=0.2)
        connecting = endpoint.connect(Factory.forProtocol(Recorder))
        peer = await server.accepted()
        (stream,) = await peer.asks()
        with pytest.raises(Exception, match=r"no switch within 0\.2 seconds"):
            await patient(connecting)
        await peer.until(lambda: stream in peer.reset)


@pytest_twisted.ensureDeferred
async def test_refusal_of_an_endpoint() -> None:
    """An endpoint fails with NotSwitched, which has the answer."""
    async with played() as (server, client):
        endpoint = UpgradeEndpoint(reactor, client.url + "/u", "echo", agent=client.agent)
        connecting = endpoint.connect(Factory.forProtocol(Recorder))
        peer = await server.accepted()
        await peer.asks()
        peer.answer(1, 501, b"unknown", end=True)
        error = await failure(connecting, NotSwitched)
        assert str(error) == "the server did not switch protocols: 501 Not Implemented"
        assert await patient(treq.content(error.response)) == b"unknown"
