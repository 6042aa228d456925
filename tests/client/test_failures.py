"""
Upgrades that get no answer or one that is not HTTP, and upgrades that are cancelled: the request fails
once, with the right error, and its connection is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
import treq
from OpenSSL.SSL import Error as TLSError
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.web.client import (
    Agent,
    FileBodyProducer,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH

from tests.kit.harness import Flood, patient, reactor
from tests.kit.scripted import CLIENT_KINDS, SWITCH, Pipe, Scripted, Slow, Unreachable, playing
from upgrade_switch import UpgradePool
from upgrade_switch.errors import InvalidResponse

on_all_kinds = pytest.mark.parametrize("kind", CLIENT_KINDS)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    ("sent", "kind_of_failure"),
    [
        (b"", ResponseNeverReceived),
        (b"H", ResponseFailed),
        (SWITCH[:-1], ResponseFailed),
        (b"HTTP/1.1 100 Continue\r\n\r\n", ResponseFailed),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n", ResponseFailed),
    ],
)
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_server_closes(
    kind: str, sent: bytes, kind_of_failure: type[ResponseFailed], reset: bool
) -> None:
    """A connection that ends before the head does fails the request, which is not sent again."""
    async with playing(kind) as server:
        await leave_an_idle_connection(server)
        answer = server.ask()
        peer, _head = await server.asked()
        peer.send(sent)
        await server.client.has_received(len(sent))
        if reset:
            peer.transport.abortConnection()
        else:
            peer.transport.loseConnection()
        with pytest.raises(ResponseFailed) as caught:
            await patient(answer)
        assert type(caught.value) is kind_of_failure
        [why] = caught.value.reasons
        # A UNIX socket knows no reset.
        assert why.check(ConnectionLost if reset and kind != "unix" else ConnectionDone)
        assert server.count == 2
        assert server.client.transports[-1].disconnected


async def leave_an_idle_connection(server: Scripted) -> None:
    """Have the pool keep a connection; Twisted's repeats a GET that fails on one."""
    answer = server.ask(upgrade=None)
    peer, _head = await server.asked()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    await treq.content(await patient(answer))
    server.client.received = 0


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"HTTP/2 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 1x1 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade echo\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching\0Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: nine\r\n\r\nforbidden",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\nContent-Length: 8\r\n\r\nforbidden",
        b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: identity\r\n\r\nforbidden",
        b"\x16\x03\x01\x00\x05hello\r\n\r\n",
    ],
)
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_garbage(kind: str, sent: bytes) -> None:
    """An answer that is not HTTP fails the request and closes the connection."""
    async with playing(kind) as server:
        answer = server.ask()
        peer, _head = await server.asked()
        peer.send(sent)
        with pytest.raises(InvalidResponse, match="the answer is not HTTP"):
            await patient(answer)
        await peer.is_lost()
        await server.client.is_closed()


@pytest.mark.parametrize("chunk", [b"x" * 1024, b"X-Y: z\r\n" * 128])
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_endless_head(kind: str, chunk: bytes) -> None:
    """A head without end is not collected for ever."""
    async with playing(kind) as server:
        answer = server.ask()
        peer, _head = await server.asked()
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\n")
        Flood(peer.transport, chunk)
        with pytest.raises(InvalidResponse):
            await patient(answer)
        await server.client.is_closed()
        assert server.client.received < 200_000


@pytest_twisted.ensureDeferred
async def test_unknown_authority() -> None:
    """A server whose certificate is not trusted gets no request."""
    async with playing("tls") as server:
        url = f"https://127.0.0.1:{server.port.getHost().port}/u"
        with pytest.raises(ResponseNeverReceived) as caught:
            await patient(treq.get(url, headers={"Upgrade": "echo"}, pool=UpgradePool(reactor)))
        assert caught.value.reasons[0].check(TLSError)
        peer = await server.accepted()
        await peer.is_lost()
        assert peer.data == b""


@pytest_twisted.ensureDeferred
async def test_refused_connection() -> None:
    """If no server listens, the request fails as with any agent."""
    with pytest.raises(ConnectionRefusedError):
        await patient(
            treq.get("http://127.0.0.1:1/", headers={"Upgrade": "echo"}, pool=UpgradePool(reactor))
        )


class Broken(Slow):
    """A body that cannot be produced."""

    def startProducing(self, consumer: Any) -> Deferred[None]:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("length", "fail"),
    [
        (UNKNOWN_LENGTH, lambda body: body.produced.errback(ZeroDivisionError())),
        (5, lambda body: body.produced.errback(ZeroDivisionError())),
        (5, lambda body: body.finish()),
        (5, lambda body: body.write(b"too much")),
    ],
)
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_body_fails(kind: str, length: Any, fail: Callable[[Slow], None]) -> None:
    """A body that fails, or is not as long as it said, fails the request and closes the connection."""
    body = Slow(length)
    async with playing(kind) as server:
        answer = server.ask(method="POST", data=body)
        await server.asked()
        fail(body)
        with pytest.raises(RequestGenerationFailed):
            await patient(answer)
        await server.client.is_closed()


@pytest.mark.parametrize("length", [UNKNOWN_LENGTH, 5])
@pytest_twisted.ensureDeferred
async def test_body_does_not_start(length: Any) -> None:
    """A body that raises when it is to start fails the request and closes the connection."""
    async with playing() as server:
        with pytest.raises(RequestGenerationFailed) as caught:
            await patient(server.ask(method="POST", data=Broken(length)))
        assert caught.value.reasons[0].check(ZeroDivisionError)
        await server.client.is_closed()


@pytest.mark.parametrize(
    "headers",
    [
        {b"Upgrade": [b"echo"], b"Host": [b"a", b"b"]},
        {b"Upgrade": [b" echo "]},
        {b"Upgrade": [b"echo\0"]},
        {b"Upgrade": [b""]},
        {b"Upgrade": [b"(", b"echo"]},
    ],
)
@pytest_twisted.ensureDeferred
async def test_request_cannot_be_sent(headers: dict[bytes, list[bytes]]) -> None:
    """Whatever stands in the request's fields: where it fails at once, the connection is closed."""
    async with playing() as server:
        answer = server.agent.request(b"GET", server.url.encode(), Headers(headers))
        peer = await server.accepted()
        ended: list[Any] = []
        answer.addBoth(ended.append)
        await peer.until(lambda: bool(peer.data or peer.reason))
        if peer.data:
            # Sent nevertheless: then it is answered.
            peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await server.client.is_closed()
        assert len(ended) == 1


@pytest.mark.parametrize("length", [UNKNOWN_LENGTH, 1000])
@pytest.mark.parametrize("reset", [False, True])
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_closes_during_the_body(kind: str, length: Any, reset: bool) -> None:
    """A connection that ends while the body is being sent stops the body and fails the request."""
    body = Slow(length)
    async with playing(kind) as server:
        answer = server.ask(method="POST", data=body)
        peer, _head = await server.asked()
        if reset:
            peer.transport.abortConnection()
        else:
            peer.transport.loseConnection()
        with pytest.raises(RequestTransmissionFailed):
            await patient(answer)
        await body.is_stopped()


@pytest.mark.parametrize("length", [UNKNOWN_LENGTH, 1000])
@pytest_twisted.ensureDeferred
async def test_garbage_during_the_body(length: Any) -> None:
    """Garbage that comes while the body is being sent stops the body and closes."""
    body = Slow(length)
    async with playing() as server:
        answer = server.ask(method="POST", data=body)
        peer, _head = await server.asked()
        peer.send(b"garbage\r\n\r\n")
        with pytest.raises(InvalidResponse):
            await patient(answer)
        await body.is_stopped()
        await server.client.is_closed()


# How a request is given up. (``test_as_twisted`` has the classes of the errors.)

GIVEN_UP = (CancelledError, TimeoutError, RequestGenerationFailed, ResponseFailed)


def cancelled(server: Scripted, clock: Clock, **kwargs: Any) -> Any:
    answer = server.ask(**kwargs)
    return answer, answer.cancel


def timed_out(server: Scripted, clock: Clock, **kwargs: Any) -> Any:
    answer = server.ask(**kwargs).addTimeout(10, clock)
    return answer, lambda: clock.advance(10)


def timed_out_by_treq(server: Scripted, clock: Clock, **kwargs: Any) -> Any:
    answer = server.ask(timeout=10, reactor=clock, **kwargs)
    return answer, lambda: clock.advance(10)


giving_up = pytest.mark.parametrize("giving_up", [cancelled, timed_out, timed_out_by_treq])


@giving_up
@pytest_twisted.ensureDeferred
async def test_given_up_while_connecting(giving_up: Any) -> None:
    """Giving up while the connection is being made gives up connecting."""
    nowhere = Unreachable()
    async with playing() as server:
        server.agent = Agent.usingEndpointFactory(reactor, nowhere, server.pool)
        answer, give_up = giving_up(server, Clock())
        give_up()
        with pytest.raises(GIVEN_UP):
            await patient(answer)
        assert nowhere.cancelled == 1


@giving_up
@pytest_twisted.ensureDeferred
async def test_given_up_during_the_handshake(giving_up: Any) -> None:
    """Giving up while TLS shakes hands closes the connection."""
    async with playing() as server:
        url = f"https://127.0.0.1:{server.port.getHost().port}/u"
        server.agent = Agent(reactor, pool=server.pool)
        answer, give_up = giving_up(server, Clock(), url=url)
        peer = await server.accepted()
        await peer.until(lambda: bool(peer.data))
        give_up()
        with pytest.raises(GIVEN_UP):
            await patient(answer)
        await peer.is_lost()


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 101 Switching Pro", b"HTTP/1.1 100 \r\n\r\n"])
@giving_up
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_given_up_while_waiting(kind: str, giving_up: Any, sent: bytes) -> None:
    """Giving up while waiting for the answer closes the connection; an answer then does nothing."""
    async with playing(kind) as server:
        answer, give_up = giving_up(server, Clock())
        peer, _head = await server.asked()
        peer.send(sent)
        await server.client.has_received(len(sent))
        give_up()
        peer.send(SWITCH)
        with pytest.raises(GIVEN_UP):
            await patient(answer)
        await peer.is_lost()
        await server.client.is_closed()


@pytest.mark.parametrize("early", [b"", SWITCH])
@pytest.mark.parametrize("length", [UNKNOWN_LENGTH, 1000])
@giving_up
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_given_up_while_sending(kind: str, giving_up: Any, length: Any, early: bytes) -> None:
    """Giving up while the body is being sent stops the body and closes, after an early 101 too."""
    body = Slow(length)
    async with playing(kind) as server:
        answer, give_up = giving_up(server, Clock(), method="POST", data=body)
        peer, _head = await server.asked()
        peer.send(early)
        await server.client.has_received(len(early))
        give_up()
        with pytest.raises(GIVEN_UP):
            await patient(answer)
        assert body.stopped
        await peer.is_lost()
        await server.client.is_closed()
        assert peer.data == b""


@pytest.mark.parametrize("way", ["data", "files", "uncancellable"])
@pytest_twisted.ensureDeferred
async def test_given_up_bodies(way: str) -> None:
    """Every kind of body producer stops when its request is given up, and the log stays empty."""
    pipe: Any = Pipe()
    slow = Slow()
    slow.make_uncancellable()
    producer = FileBodyProducer(pipe)
    sent: dict[str, Any] = {
        "data": {"data": producer},
        "files": {"files": {"file": ("name", "x/y", producer)}},
        "uncancellable": {"data": slow},
    }[way]
    async with playing() as server:
        answer = server.ask(method="POST", **sent)
        peer, _head = await server.asked()
        answer.cancel()
        with pytest.raises(GIVEN_UP):
            await patient(answer)
        await peer.is_lost()
        await server.client.is_closed()
        assert slow.stopped if way == "uncancellable" else pipe.closed


@pytest_twisted.ensureDeferred
async def test_given_up_too_late() -> None:
    """Cancelling after the answer changes nothing."""
    async with playing() as server:
        answer = server.ask()
        peer, _head = await server.asked()
        answers: list[Any] = []
        answer.addCallback(answers.append)
        peer.send(SWITCH)
        await server.client.has_received(len(SWITCH))
        answer.cancel()
        assert [response.code for response in answers] == [101]
        assert peer.reason is None
