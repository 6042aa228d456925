"""
Requests with Upgrade fail as those of Twisted's own pool do: each failure happens to both, and has the
same classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from OpenSSL.SSL import Error as TLSError
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.task import Clock
from twisted.web.client import Agent, HTTPConnectionPool, ResponseFailed, readBody
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from tests.kit.harness import localhost, patient, reactor, turns
from tests.kit.scripted import CLIENT_KINDS, Peer, Scripted, Slow, Unreachable, playing
from upgrade_switch import UpgradeEndpoint
from upgrade_switch.errors import InvalidResponse

on_all_kinds = pytest.mark.parametrize("kind", CLIENT_KINDS)

HALF_A_HEAD = b"HTTP/1.1 101 Switching Pro"
TWO_HEADS = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 4"
REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nforb"


def plain(server: Scripted) -> Agent:
    """An agent that goes to the same server with Twisted's own pool."""
    pool = HTTPConnectionPool(reactor, persistent=False)
    return Agent.usingEndpointFactory(reactor, server.client, pool)


async def why(answer: Deferred[Any]) -> Any:
    """The class of a failure, and those of its reasons."""
    with pytest.raises(Exception, match=r"(?s).*") as caught:
        await patient(answer)
    return caught.type, [reason.type for reason in getattr(caught.value, "reasons", ())]


def ask(server: Scripted, agent: Agent, upgrade: bool, body: Slow | None = None) -> Deferred[Any]:
    headers = Headers({b"Upgrade": [b"echo"]} if upgrade else {})
    method = b"GET" if body is None else b"POST"
    return agent.request(method, server.url.encode(), headers, body)


def cancel(answer: Deferred[Any], clock: Clock, peer: Peer | None) -> None:
    answer.cancel()


def time_out(answer: Deferred[Any], clock: Clock, peer: Peer | None) -> None:
    answer.addTimeout(10, clock)
    clock.advance(11)


def close(answer: Deferred[Any], clock: Clock, peer: Peer | None) -> None:
    assert peer is not None
    peer.transport.loseConnection()


def reset(answer: Deferred[Any], clock: Clock, peer: Peer | None) -> None:
    assert peer is not None
    peer.transport.abortConnection()


ends = pytest.mark.parametrize("end", [cancel, time_out, close, reset])


@pytest.mark.parametrize("end", [cancel, time_out])
@pytest_twisted.ensureDeferred
async def test_while_connecting(end: Callable[..., None]) -> None:
    """A request that is given up while it connects fails as its endpoint does."""
    found = []
    async with playing() as server:
        pools = [HTTPConnectionPool(reactor), server.pool]
        for pool in pools:
            agent = Agent.usingEndpointFactory(reactor, Unreachable(), pool)
            answer = ask(server, agent, upgrade=pool is server.pool)
            end(answer, Clock(), None)
            found.append(await why(answer))
    assert found[0] == found[1]
    assert found[0][0] is (CancelledError if end is cancel else TimeoutError)


@pytest.mark.parametrize("sent", [b"", b"H", HALF_A_HEAD, TWO_HEADS])
@ends
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_before_the_answer(kind: str, end: Callable[..., None], sent: bytes) -> None:
    """Cancelled, timed out, closed or reset, before the answer or in the middle of its head."""
    found = []
    async with playing(kind) as server:
        for agent in (plain(server), server.agent):
            server.client.received = 0
            answer = ask(server, agent, upgrade=agent is server.agent)
            peer, _head = await server.asked()
            peer.send(sent)
            await server.client.has_received(len(sent))
            end(answer, Clock(), peer)
            found.append(await why(answer))
            await peer.is_lost()
    assert found[0] == found[1]
    assert issubclass(found[0][0], ResponseFailed)


@ends
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_while_sending(kind: str, end: Callable[..., None]) -> None:
    """Cancelled, timed out, closed or reset while the request's body is being sent."""
    found = []
    async with playing(kind) as server:
        for agent in (plain(server), server.agent):
            answer = ask(server, agent, agent is server.agent, Slow())
            peer, _head = await server.asked()
            end(answer, Clock(), peer)
            found.append(await why(answer))
            await peer.is_lost()
    assert found[0] == found[1]


@pytest.mark.parametrize("end", [cancel, time_out])
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_in_the_body(kind: str, end: Callable[..., None]) -> None:
    """A reader of a refusal's body that is cancelled closes the connection; the log stays empty."""
    async with playing(kind) as server:
        peer, response = await server.answered(REFUSAL, unbuffered=True)
        reading = readBody(response)
        await turns()
        end(reading, Clock(), peer)
        with pytest.raises((CancelledError, TimeoutError)):
            await patient(reading)
        await peer.is_lost()
        await server.client.is_closed()


@pytest_twisted.ensureDeferred
async def test_reader_with_a_bug(errors: Any) -> None:
    """What a reader that has not aborted raises at the end of its body is no secret."""
    async with playing() as server:
        peer, response = await server.answered(REFUSAL, unbuffered=True)
        reading = readBody(response)
        reading.callback(b"too early")
        peer.transport.loseConnection()
        while not errors:
            await turns(1)
        assert "AlreadyCalledError" in str(errors)
        errors.clear()


@pytest.mark.parametrize(
    ("sent", "looks_like"),
    [
        (b"SSH-2.0-x\r\n", "it begins with 'SSH-2.0-x'"),
        (b"220 mail.example ESMTP\r\n", "it begins with '220 mail.example ESMTP'"),
        (b"* OK", r"it begins with '\* OK'"),
        (b"HTTP/1.1 OK", "it begins with 'HTTP/1.1 OK'"),
        (b"\r", "it begins with ''"),
        (b"RFB 003.008\n", "it begins with 'RFB 003.008'"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "it is TLS, so the URL should begin with https or wss"),
        (b"\x16\x03\x03\x00", "it is TLS, so the URL should begin with https or wss"),
        (b"\x1b[2J\x00\n", r"it begins with '\?\[2J\?'"),
    ],
)
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_not_http(kind: str, sent: bytes, looks_like: str) -> None:
    """A first line that cannot become HTTP's fails the request at once, and says what it looks like."""
    async with playing(kind) as server:
        for pieces in ([sent], [sent[:1], sent[1:]]):
            answer = server.ask()
            peer, _head = await server.asked()
            for piece in pieces:
                peer.send(piece)
                await turns()
            with pytest.raises(
                InvalidResponse, match=r"the answer is not HTTP: it (begins with|is TLS)"
            ) as caught:
                await patient(answer)
            if len(pieces) == 1:
                assert caught.match(looks_like)
            assert [reason.type.__name__ for reason in caught.value.reasons] == ["ParseError"]
            await peer.is_lost()


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_nothing_but_an_end(kind: str) -> None:
    """A server that closes without a word may have wanted TLS: then the reason says so."""
    async with playing(kind) as server:
        answer = server.ask()
        peer, _head = await server.asked()
        peer.transport.loseConnection()
        with pytest.raises(ResponseFailed) as caught:
            await patient(answer)
        [reason] = caught.value.reasons
        assert reason.type is ConnectionDone
        assert ("begins with https or wss" in str(reason.value)) is (kind != "tls")


def tls_agent(server: Scripted) -> Agent:
    """An agent that speaks TLS, to a server that may not."""
    wrapped = wrapClientTLS(optionsForClientTLS("localhost"), localhost(server.port.getHost().port))
    return Agent.usingEndpointFactory(reactor, Leading(wrapped), server.pool)


@implementer(IAgentEndpointFactory)
class Leading:
    """Leads everywhere by one endpoint."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: object) -> IStreamClientEndpoint:
        return self._endpoint


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"<html>what?</html>\n",
    ],
)
@pytest_twisted.ensureDeferred
async def test_https_without_tls(sent: bytes) -> None:
    """A server that answers TLS's first bytes in the clear fails the request, whose reason says so."""
    async with playing() as server:
        answer = ask(server, tls_agent(server), upgrade=True)
        peer = await server.accepted()
        await peer.until(lambda: bool(peer.data))
        peer.send(sent)
        with pytest.raises(ResponseFailed) as caught:
            await patient(answer)
        [reason] = caught.value.reasons
        assert reason.check(TLSError)
        assert "the URL begins with http or ws" in str(reason.value)


@pytest_twisted.ensureDeferred
async def test_https_without_an_answer() -> None:
    """A server that does not answer TLS's first bytes times out, and the message says so."""
    clock = Clock()
    async with playing() as server:
        endpoint = UpgradeEndpoint(clock, server.url, "echo", agent=tls_agent(server), timeout=7)
        connecting = endpoint.connect(None)  # type: ignore[arg-type]
        peer = await server.accepted()
        await peer.until(lambda: bool(peer.data))
        clock.advance(8)
        with pytest.raises(
            Exception, match=r"no switch within 7 seconds: .*URL begins with http or ws"
        ):
            await patient(connecting)


@pytest_twisted.ensureDeferred
async def test_time_out_inside_tls() -> None:
    """A server that has shaken hands and says nothing more is no server without TLS."""
    clock = Clock()
    async with playing("tls") as server:
        endpoint = UpgradeEndpoint(clock, server.url, "echo", agent=server.agent, timeout=7)
        connecting = endpoint.connect(None)  # type: ignore[arg-type]
        await server.asked()
        clock.advance(8)
        with pytest.raises(Exception, match=r"no switch within 7 seconds\.\Z"):
            await patient(connecting)


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class Waiting:
    """Connects, and gives the connection to the agent when the test says so."""

    def __init__(self, server: Scripted) -> None:
        self._server = server
        self._given: Deferred[Any] = Deferred()
        self._client: Any = None

    def endpointForURI(self, uri: object) -> Waiting:
        return self

    def connect(self, factory: Any) -> Deferred[Any]:
        self._server.client.connect(factory).addCallback(self._connected)
        return self._given

    def _connected(self, client: Any) -> None:
        self._client = client

    def give(self) -> None:
        self._given.callback(self._client)


@pytest.mark.parametrize(
    ("sent", "said"), [(b"SSH-2.0-x\r\n", "it begins with"), (b"HTTP/1.1 101 ", "before it is asked")]
)
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_speaks_first(kind: str, sent: bytes, said: str) -> None:
    """A server that speaks before it is asked is not HTTP, even if what it says is."""
    async with playing(kind) as server:
        waiting = Waiting(server)
        answer = ask(server, Agent.usingEndpointFactory(reactor, waiting, server.pool), upgrade=True)
        peer = await server.accepted()
        peer.send(sent)
        await peer.is_lost()
        waiting.give()
        with pytest.raises(InvalidResponse, match=said):
            await patient(answer)
