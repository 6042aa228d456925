"""
TLS by upgrade (RFC 2817), the client: nothing is sent before there is TLS, and nothing without it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
import treq
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionClosed
from twisted.internet.ssl import trustRootFromCertificates
from twisted.internet.task import Clock
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    ProxyAgent,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.iweb import IAgentEndpointFactory
from twisted.web.util import Redirect
from zope.interface import implementer

from upgrade_switch import NotSwitched, UpgradeEndpoint, switched_connection
from upgrade_switch.errors import InvalidResponse, UpgradeError
from upgrade_switch.protocols.tls import TLSUpgradePool, tls_required

from .certificate import AUTHORITY, SERVER, STRANGER
from .harness import Recorder, patient, reactor, status, turns
from .scripted import SWITCH, Scripted
from .securing import Telling, tls_site

SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: TLS/1.2, HTTP/1.1\r\nConnection: Upgrade\r\n\r\n"
)
DONE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def pool_of(authority: Any = AUTHORITY, **kwargs: Any) -> TLSUpgradePool:
    """A pool that trusts an authority."""
    policy = BrowserLikePolicyForHTTPS(trustRootFromCertificates([authority]))
    return TLSUpgradePool(kwargs.pop("reactor", reactor), policy, **kwargs)


# Against our own server.


@pytest_twisted.async_yield_fixture
async def pool() -> Any:
    made = pool_of()
    yield made
    await patient(made.closeCachedConnections())


@pytest_twisted.ensureDeferred
async def test_requests(listen: Any, pool: Any) -> None:
    """Requests with and without a body are sent inside TLS; one connection, one handshake for all."""
    site = tls_site()
    site.resource.putChild(b"must", tls_required(Telling()))
    listening = await listen("tcp", site)
    for _ in range(2):
        response = await patient(treq.get(listening.url + "/must?a=b", pool=pool))
        seen = await patient(treq.json_content(response))
        assert (seen["secure"], seen["method"], seen["args"]) == (True, "GET", {"a": ["b"]})
        large = b"x" * 300_000
        response = await patient(treq.post(listening.url + "/must", large, pool=pool))
        seen = await patient(treq.json_content(response))
        assert (seen["secure"], len(seen["content"])) == (True, 300_000)
    assert site.lines == [(101, b"*"), (200, b"*")] + [(200, b"/must?a=b"), (200, b"/must")] * 2
    assert len(site.channels) == 2


@pytest_twisted.ensureDeferred
async def test_not_persistent(listen: Any) -> None:
    """A pool that keeps no connections does the handshake for each request, and leaves none."""
    site = tls_site()
    listening = await listen("tcp", site)
    pool = pool_of(persistent=False)
    for _ in range(2):
        response = await patient(treq.get(listening.url + "/page", pool=pool))
        assert await patient(response.text()) == "page GET "
    assert site.lines == [(101, b"*"), (200, b"*"), (200, b"/page")] * 2
    await patient(site.switched.when_empty())


@pytest_twisted.ensureDeferred
async def test_upgrade_inside(listen: Any, pool: Any) -> None:
    """A request with Upgrade, to something else, switches inside TLS."""
    site = tls_site()
    listening = await listen("tcp", site)
    response = await patient(treq.get(listening.url + "/u", headers={"Upgrade": "echo"}, pool=pool))
    connection = switched_connection(response)
    client = Recorder()
    connection.install(client)
    client.send(b"abc")
    await client.receives(b"abc")
    (entry,) = site.switched
    assert (str(entry.token), entry.path) == ("echo", b"/u")
    assert site.lines == [(101, b"*"), (200, b"*"), (101, b"/u")]
    connection.abort()
    await patient(site.switched.when_empty())


@pytest_twisted.ensureDeferred
async def test_endpoint(listen: Any, pool: Any) -> None:
    """An UpgradeEndpoint over the pool connects inside TLS."""
    listening = await listen("tcp", tls_site())
    endpoint = UpgradeEndpoint(reactor, listening.url + "/u", "echo", agent=Agent(reactor, pool=pool))
    client = await patient(connectProtocol(endpoint, Recorder()))
    client.send(b"abc")
    await client.receives(b"abc")
    assert listening.site.lines[0] == (101, b"*")
    client.transport.loseConnection()
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_refused_upgrade_inside(listen: Any, pool: Any) -> None:
    """An upgrade that is refused inside TLS is an ordinary response."""
    listening = await listen("tcp", tls_site())
    url = listening.url + "/u"
    response = await patient(treq.get(url, headers={"Upgrade": "unknown"}, pool=pool))
    assert response.code == 426
    with pytest.raises(NotSwitched):
        switched_connection(response)
    await patient(response.content())
    await patient(listening.site.switched.when_empty())


@pytest_twisted.ensureDeferred
async def test_https(listen: Any) -> None:
    """URLs with ``https`` have TLS as always."""
    site = tls_site()
    listening = await listen("tls", site)
    policy = BrowserLikePolicyForHTTPS(trustRootFromCertificates([AUTHORITY]))
    made = pool_of()
    agent = Agent(reactor, policy, pool=made)
    response = await patient(treq.get(listening.url + "/page", agent=agent))
    assert await patient(response.text()) == "page GET "
    assert site.lines == [(200, b"/page")]
    await patient(made.closeCachedConnections())


@pytest_twisted.ensureDeferred
async def test_redirect(listen: Any, pool: Any) -> None:
    """A redirect to another URL with ``http`` is followed inside TLS."""
    site = tls_site()
    other = await listen("tcp", tls_site())
    site.resource.putChild(b"moved", Redirect(other.url.encode() + b"/told"))
    listening = await listen("tcp", site)
    response = await patient(treq.get(listening.url + "/moved", pool=pool))
    assert (await patient(treq.json_content(response)))["secure"]
    assert other.site.lines == [(101, b"*"), (200, b"*"), (200, b"/told")]


@pytest.mark.parametrize(
    ("host", "authority", "kind"),
    [("127.0.0.2", AUTHORITY, VerificationError), ("localhost", STRANGER, SSL.Error)],
    ids=["name", "trust"],
)
@pytest_twisted.ensureDeferred
async def test_wrong_certificate(listen: Any, host: str, authority: Any, kind: Any) -> None:
    """A certificate for another host, or nobody's who is trusted, is an error; nothing is sent."""
    site = tls_site()
    listening = await listen("tcp", site)
    port = listening.port.getHost().port

    @implementer(IAgentEndpointFactory)
    class ToServer:
        def endpointForURI(self, uri: object) -> Any:
            return TCP4ClientEndpoint(reactor, "127.0.0.1", port)

    made = pool_of(authority)
    agent = Agent.usingEndpointFactory(reactor, ToServer(), made)
    for headers in ({}, {"Upgrade": "echo"}):
        await fails(treq.get(f"http://{host}:{port}/told", headers=headers, agent=agent), kind)
        await patient(site.switched.when_empty())
    assert {line[1] for line in site.lines} == {b"*"}
    assert {line[0] for line in site.lines} == {101}
    await patient(made.closeCachedConnections())


# Against a server in the test's hands.


class Securing(Scripted):
    """A Scripted whose agent upgrades to TLS first."""

    def __init__(self, clock: Any = reactor, **kwargs: Any) -> None:
        super().__init__("tcp")
        self.pool = pool_of(reactor=clock, **kwargs)
        self.agent = Agent.usingEndpointFactory(reactor, self.client, self.pool)

    @property
    def url(self) -> str:
        return "http://localhost/u"

    async def secured(self, behind: bytes = b"", **kwargs: Any) -> tuple[Any, Any]:
        """Ask, and switch: the Deferred of the answer, and the server's side, inside TLS."""
        answer = self.ask(**kwargs)
        peer, _head = await self.asked()
        peer.send(SWITCH)
        peer.transport.startTLS(SERVER.options())
        peer.send(behind)
        return answer, peer


@asynccontextmanager
async def securing(**kwargs: Any) -> AsyncIterator[Securing]:
    server = Securing(**kwargs)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def fails(answer: Deferred[Any], *kinds: type[BaseException]) -> Any:
    """The error that an answer fails with."""
    with pytest.raises(kinds) as caught:
        await patient(answer)
    return caught.value


@pytest.mark.parametrize("upgrade", [None, "echo"])
@pytest_twisted.ensureDeferred
async def test_what_is_sent(upgrade: str | None) -> None:
    """In the clear goes ``OPTIONS *`` alone, which asks for TLS; the request comes inside."""
    async with securing() as server:
        answer = server.ask(upgrade, url="http://localhost:8080/secret?q", headers={"X-Own": "1"})
        peer, head = await server.asked()
        lines = head.split(b"\r\n")
        assert lines[0] == b"OPTIONS * HTTP/1.1"
        assert {line.lower() for line in lines[1:]} == {
            b"host: localhost:8080",
            b"connection: upgrade",
            b"upgrade: tls/1.2, tls/1.1, tls/1.0",
        }
        await turns(10)
        assert peer.data == b""
        peer.send(SWITCH)
        peer.transport.startTLS(SERVER.options())
        await turns(10)
        assert peer.data == b""
        peer.send(DONE)
        head = await peer.head()
        assert head.startswith(b"GET /secret?q HTTP/1.1\r\n")
        assert b"X-Own: 1" in head
        peer.send(DONE)
        response = await patient(answer)
        assert response.code == 200


@pytest.mark.parametrize("upgrade", [None, "echo"])
@pytest.mark.parametrize(
    "said",
    [
        DONE,
        b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: other\r\nConnection: Upgrade\r\n"
        b"Content-Length: 2\r\n\r\nno",
        b"HTTP/1.1 501 Not Implemented\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    ],
)
@pytest_twisted.ensureDeferred
async def test_refused(said: bytes, upgrade: str | None) -> None:
    """A server that does not switch gets nothing more; the request fails with NotSwitched."""
    async with securing() as server:
        answer = server.ask(upgrade, "POST", data=b"secret")
        peer, _head = await server.asked()
        peer.send(said)
        error = await fails(answer, NotSwitched)
        assert error.response.code == status(said)
        body = await patient(treq.content(error.response))
        assert body == (b"" if said == DONE else b"no")
        await peer.is_lost()
        assert peer.data == b""
        assert server.count == 1


@pytest.mark.parametrize("said", [b"", b"garbage\r\n\r\n", SWITCH.replace(b"TLS/1.2", b"other")])
@pytest_twisted.ensureDeferred
async def test_no_answer(said: bytes) -> None:
    """What is no answer to ``OPTIONS *`` fails the request, and nothing more is sent."""
    async with securing() as server:
        answer = server.ask(None)
        peer, _head = await server.asked()
        peer.send(said)
        peer.transport.loseConnection()
        await fails(answer, ResponseNeverReceived, ResponseFailed, InvalidResponse)
        await peer.is_lost()
        assert (peer.data, server.count) == (b"", 1)


@pytest.mark.parametrize("garbage", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"\0" * 999])
@pytest_twisted.ensureDeferred
async def test_no_handshake(garbage: bytes) -> None:
    """A server that has switched, and then speaks something else or closes, fails the request."""
    async with securing() as server:
        answer = server.ask(None)
        peer, _head = await server.asked()
        peer.send(SWITCH + garbage)
        if not garbage:
            await peer.until(lambda: peer.data != b"")
            peer.transport.loseConnection()
        error = await fails(answer, Exception)
        assert not isinstance(error, TimeoutError)
        await peer.is_lost()
        # A ClientHello, and an alert.
        assert peer.data[:1] == b"\x16"
        assert b"GET" not in peer.data


@pytest.mark.parametrize(
    "inside",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        DONE + b"HTTP/1.1 200 OK\r\n",
        DONE + DONE,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    ],
)
@pytest_twisted.ensureDeferred
async def test_wrong_answer_inside(inside: bytes) -> None:
    """What does not let HTTP go on inside TLS fails the request, and the connection is closed."""
    async with securing() as server:
        answer, peer = await server.secured(inside, upgrade=None)
        await fails(answer, InvalidResponse)
        await peer.is_lost()
        assert (peer.data, server.count) == (b"", 1)


@pytest.mark.parametrize(
    "inside",
    [
        DONE,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 405 Method Not Allowed\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
@pytest_twisted.ensureDeferred
async def test_answers_inside(inside: bytes) -> None:
    """Whatever the answer to ``OPTIONS *`` is, in one piece or byte by byte, the request follows."""
    async with securing() as server:
        answer, peer = await server.secured(upgrade=None)
        for byte in inside:
            peer.send(bytes([byte]))
            await turns(1)
        assert (await peer.head()).startswith(b"GET /u ")
        peer.send(DONE)
        assert (await patient(answer)).code == 200


@pytest_twisted.ensureDeferred
async def test_server_closes_inside() -> None:
    """A server that closes in place of an answer inside TLS fails the request."""
    async with securing() as server:
        answer, peer = await server.secured(b"HTTP/1.1 200 OK\r\nConte", upgrade=None)
        peer.transport.loseConnection()
        await fails(answer, ConnectionClosed, ResponseFailed)
        assert server.count == 1


@pytest.mark.parametrize("phase", ["asked", "switched", "secured"])
@pytest_twisted.ensureDeferred
async def test_timeout(phase: str) -> None:
    """What takes longer than ``timeout``, in whichever part, is an error; the connection is closed."""
    clock = Clock()
    async with securing(clock=clock, timeout=5) as server:
        answer, peer = await until(server, phase)
        clock.advance(4.9)
        await turns()
        assert peer.reason is None
        clock.advance(0.2)
        await fails(answer, TimeoutError)
        await peer.is_lost()
        assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("phase", ["asked", "switched", "secured"])
@pytest_twisted.ensureDeferred
async def test_cancel(phase: str) -> None:
    """A request that is cancelled before there is TLS closes its connection, and leaves no timer."""
    clock = Clock()
    async with securing(clock=clock) as server:
        answer, peer = await until(server, phase)
        answer.cancel()
        await fails(answer, CancelledError, ResponseNeverReceived)
        await peer.is_lost()
        assert clock.getDelayedCalls() == []


async def until(server: Securing, phase: str) -> tuple[Any, Any]:
    """Ask, and let the server go so far."""
    if phase == "secured":
        answer, peer = await server.secured(upgrade=None)
        await turns(20)
        return answer, peer
    answer = server.ask(None)
    peer, _head = await server.asked()
    if phase == "switched":
        peer.send(SWITCH)
        await peer.until(lambda: peer.data != b"")
    return answer, peer


@pytest_twisted.ensureDeferred
async def test_no_timer_is_left(listen: Any) -> None:
    """When there is TLS, the time that it might take is over."""
    clock = Clock()
    async with securing(clock=clock) as server:
        answer, peer = await server.secured(DONE, upgrade=None)
        await peer.head()
        assert clock.getDelayedCalls() == []
        peer.send(DONE)
        await patient(answer)


@pytest_twisted.ensureDeferred
async def test_proxies() -> None:
    """A request to a proxy, which would go there as it is, is not sent."""
    async with securing() as server:
        agent = ProxyAgent(server.endpoint, reactor, server.pool)
        await fails(agent.request(b"GET", b"http://localhost/u"), UpgradeError)
        assert server.count == 0
