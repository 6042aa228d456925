"""
TLS by upgrade, the client: servers that do not switch, that do something else inside, or nothing.
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
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError, ConnectionClosed, TimeoutError
from twisted.internet.ssl import Certificate, PrivateCertificate
from twisted.internet.task import Clock
from twisted.web.client import (
    Agent,
    ProxyAgent,
    ResponseFailed,
    ResponseNeverReceived,
)

from tests.kit.certificate import SERVER, make_certificate
from tests.kit.harness import field, patient, reactor, status, turns
from tests.kit.scripted import SWITCH as TO_ECHO
from tests.kit.scripted import Scripted
from tests.kit.securing import fails, pool_of
from upgrade_switch import NotSwitched
from upgrade_switch.errors import InvalidResponse, UpgradeError

SWITCH = TO_ECHO.replace(b"echo", b"TLS/1.2, HTTP/1.1")

#: What CUPS 2.4 says: Connection does not name Upgrade, and there is a length of nothing.
CUPS_SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Keep-Alive\r\nContent-Language: en\r\n"
    b"Content-Length: 0\r\nKeep-Alive: timeout=10\r\nUpgrade: TLS/1.2,TLS/1.1,TLS/1.0\r\n"
    b"Accept-Encoding: gzip, deflate, identity\r\nServer: CUPS/2.4 IPP/2.1\r\n\r\n"
)
DONE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Securing(Scripted):
    """A Scripted whose agent upgrades to TLS first."""

    def __init__(self, clock: Any = reactor, **kwargs: Any) -> None:
        super().__init__("tcp")
        self.pool = pool_of(reactor=clock, **kwargs)
        self.agent = Agent.usingEndpointFactory(reactor, self.client, self.pool)

    @property
    def url(self) -> str:
        return "http://localhost/u"

    async def secured(
        self, behind: bytes = b"", switch: bytes = SWITCH, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Ask, and switch: the Deferred of the answer, and the server's side, inside TLS."""
        answer = self.ask(**kwargs)
        peer, _head = await self.asked()
        peer.send(switch)
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


@pytest.mark.parametrize("behind", [DONE, b"\r\n"])
@pytest_twisted.ensureDeferred
async def test_behind_the_101(behind: bytes) -> None:
    """What somebody has put behind the 101, in the clear, is not taken for what comes inside TLS."""
    async with securing() as server:
        answer = server.ask(None)
        peer, _head = await server.asked()
        peer.send(SWITCH + behind)
        peer.transport.startTLS(SERVER.options())
        peer.send(DONE)
        await fails(answer, SSL.Error)
        await peer.is_lost()
        assert (peer.data, server.count) == (b"", 1)


@pytest_twisted.ensureDeferred
async def test_somebody_else_in_a_hurry() -> None:
    """An answer right behind the handshake of a server with another's certificate is not looked at."""
    certificate, key = make_certificate("other.test")
    other = PrivateCertificate.loadPEM(certificate + key)
    oldest = other.options()
    # There the server has the handshake's last word.
    oldest.getContext().set_max_proto_version(SSL.TLS1_2_VERSION)
    async with securing(authority=Certificate.loadPEM(certificate)) as server:
        answer = server.ask(None)
        peer, _head = await server.asked()
        peer.send(SWITCH)
        peer.transport.startTLS(oldest)
        peer.send(DONE)
        await fails(answer, VerificationError)
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


@pytest.mark.parametrize(
    "switch",
    [
        CUPS_SWITCH,
        SWITCH.replace(b"TLS/1.2", b"TLS/1.0"),
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + SWITCH,
    ],
    ids=["cups", "old", "more"],
)
@pytest_twisted.ensureDeferred
async def test_ways_to_switch(switch: bytes) -> None:
    """Servers have their own ways to say 101; what counts is the TLS that follows."""
    async with securing() as server:
        answer, peer = await server.secured(DONE, switch, upgrade=None)
        assert (await peer.head()).startswith(b"GET /u ")
        peer.send(DONE)
        assert (await patient(answer)).code == 200


@pytest_twisted.ensureDeferred
async def test_ipv6() -> None:
    """An IPv6 address is in brackets in Host, and without them in what the certificate is for."""
    async with securing() as server:
        answer = server.agent.request(b"GET", b"http://[::1]:8080/u")
        peer, head = await server.asked()
        assert field(head, b"host") == b"[::1]:8080"
        peer.send(SWITCH)
        peer.transport.startTLS(SERVER.options())
        await fails(answer, VerificationError)
        await peer.is_lost()


@pytest_twisted.ensureDeferred
async def test_no_name_for_a_certificate() -> None:
    """A host of a name that no certificate can have fails the request; nothing is sent."""
    async with securing() as server:
        await fails(server.agent.request(b"GET", b"http://a..b/u"), UnicodeError)
        assert server.count == 0


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
    """
    What takes longer than ``timeout``, in whichever part, fails with Twisted's TimeoutError, which is a
    ConnectError; the connection is closed.
    """
    clock = Clock()
    async with securing(clock=clock, timeout=5) as server:
        answer, peer = await until(server, phase)
        clock.advance(4.9)
        await turns()
        assert peer.reason is None
        clock.advance(0.2)
        error = await fails(answer, TimeoutError)
        assert isinstance(error, ConnectError)
        assert "no TLS within 5 seconds" in str(error)
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
