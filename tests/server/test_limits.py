"""The limits of a site: how long a head may take, how many may switch, and how much may wait."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from tests.kit.harness import (
    SOCKETS,
    EchoTarget,
    Recorder,
    factory_of,
    field,
    patient,
    site_of,
    status,
    upgrade_head,
)
from upgrade_switch import UpgradeRequest, UpgradeSite
from upgrade_switch.errors import InvalidArgument, TooManySwitched
from upgrade_switch.observe import Declined
from upgrade_switch.server.limits import party_of
from upgrade_switch.testing import Recording, talk_to

every_kind = pytest.mark.parametrize("kind", SOCKETS)

ECHO = {"echo": Factory.forProtocol(Recording)}
HEAD = upgrade_head()


# How long a head may take.


@every_kind
@pytest_twisted.ensureDeferred
async def test_dripping_head(listen: Any, kind: str) -> None:
    """A head that drips is answered 408 when its time is over, although the idle timer goes on."""
    clock = Clock()
    site = site_of(ECHO, reactor=clock, timeout=30, head_timeout=60)
    listening = await listen(kind, site)
    client = await listening.connect(Recorder())
    for count in range(1, 4):
        client.send(HEAD[count - 1 : count])
        await site.has_received(count)
        clock.advance(19)
    assert client.data == b""
    client.send(HEAD[3:4])
    await site.has_received(4)
    clock.advance(3)
    assert status(await client.head()) == 408
    await client.is_lost()


@pytest.mark.parametrize("cut", [1, 7, 20, len(HEAD) - 1])
def test_first_byte(cut: int) -> None:
    """The time begins with the request's first byte, not with the connection."""
    clock = Clock()
    client = talk_to(site_of(ECHO, reactor=clock, timeout=100, head_timeout=10))
    clock.advance(50)
    client.send(HEAD[:cut])
    clock.advance(9.9)
    client.send(HEAD[cut:])
    assert len(client.site.switched) == 1
    clock.advance(1000)
    assert len(client.site.switched) == 1


@pytest.mark.parametrize("between", [b"", b"\r\n"])
def test_between_requests(between: bytes) -> None:
    """A connection that is kept alive waits for its next request as long as it is idle."""
    clock = Clock()
    client = talk_to(site_of(ECHO, reactor=clock, timeout=100, head_timeout=10))
    for _ in range(3):
        client.send(b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n" + between)
        clock.advance(50)
    assert not client.is_closed
    client.send(b"GET /page HTTP/1.1\r\n")
    client.advance(11)
    assert client.is_closed


def test_no_head_timeout() -> None:
    """With None, a head may take any time."""
    clock = Clock()
    client = talk_to(site_of(ECHO, reactor=clock, timeout=100, head_timeout=None))
    for position in range(len(HEAD)):
        client.send(HEAD[position : position + 1])
        clock.advance(99)
    assert len(client.site.switched) == 1


def test_slow_answer() -> None:
    """The head's time ends with the head: neither a body nor an answer is bounded by it."""
    clock = Clock()
    client = talk_to(site_of(ECHO, reactor=clock, timeout=100, head_timeout=10))
    client.send(b"POST /page HTTP/1.1\r\nHost: localhost\r\n")
    client.send(b"Content-Length: 3000\r\n\r\n" + bytes(1500))
    clock.advance(50)
    client.send(bytes(1500))
    assert not client.is_closed
    assert clock.getDelayedCalls()


def test_dripping_body() -> None:
    """A body that drips does not keep its connection: a byte does not set the idle timer back."""
    clock = Clock()
    client = talk_to(site_of(ECHO, reactor=clock, timeout=60))
    client.send(b"POST /page HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(10):
        client.send(b"x" * 2000)
        clock.advance(59)
    assert not client.is_closed
    for _ in range(60):
        client.send(b"x")
        clock.advance(1)
    assert client.is_closed


# How many may switch.


@every_kind
@pytest_twisted.ensureDeferred
async def test_max_per_address(listen: Any, kind: str) -> None:
    """One more connection of an address is answered 429, and another one's end makes room."""
    factory, _ = factory_of(EchoTarget)
    listening = await listen(kind, site_of({"echo": factory}, max_per_address=2))
    clients = [await listening.connect() for _ in range(3)]
    for client in clients[:2]:
        client.send(HEAD)
        assert status(await client.head()) == 101
    clients[2].send(HEAD)
    if kind.startswith("unix"):
        assert status(await clients[2].head()) == 101
        return
    head, _ = await clients[2].response()
    assert (status(head), field(head, b"retry-after")) == (429, b"5")
    clients[0].transport.abortConnection()
    await patient(_ends(listening.site, 1))
    clients[2].send(HEAD)
    assert status(await clients[2].head()) == 101


def _ends(site: Any, count: int) -> Any:
    """Fires when so many connections are left."""
    from twisted.internet.defer import Deferred

    done: Deferred[None] = Deferred()

    class Watching:
        def forget(self, connection: Any) -> None:
            pass

    ended = site.switched.ended

    def looking(connection: Any, reason: Any) -> None:
        ended(connection, reason)
        if len(site.switched) == count and not done.called:
            done.callback(None)

    site.switched.ended = looking
    return done


def test_switch_to_raises() -> None:
    """By hand, one connection too many is TooManySwitched."""
    raised: list[Exception] = []

    class Request(UpgradeRequest):
        def process(self) -> None:
            try:
                self.switch_to("echo", Recording())
            except TooManySwitched as error:
                raised.append(error)
                self.setResponseCode(503)
                self.finish()

    site = UpgradeSite(site_of(ECHO).resource, Request, reactor=Clock(), max_per_address=1)
    for _ in range(2):
        talk_to(site).send(HEAD)
    assert len(raised) == 1
    assert "max_per_address" in str(raised[0])


def test_preface_beyond_the_limit() -> None:
    """A connection too many that begins with a preface is closed."""
    site = site_of(ECHO, reactor=Clock(), max_per_address=1, prefaces={b"FLAG": ECHO["echo"]})
    first, second = talk_to(site), talk_to(site)
    first.send(b"FLAG")
    second.send(b"FLAG")
    assert (first.is_closed, second.is_closed, len(site.switched)) == (False, True, 1)


def test_second_switch_of_one_connection() -> None:
    """A connection that switches again takes no more room."""
    site = site_of(ECHO, reactor=Clock(), max_per_address=1)
    client = talk_to(site)
    client.send(HEAD)
    (connection,) = site.switched
    transport: Any = client.wire.server
    assert site.switched.why_no_room(transport, transport.getPeer()) is None
    assert site.switched.why_no_room(client.wire.client, transport.getPeer()) is Declined.ADDRESS_FULL
    connection.abort()


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("anything", "anything", True),
    ],
)
def test_parties(first: str, second: str, same: bool) -> None:
    """A client is one IPv4 address, or the /64 around an IPv6 address."""
    parties = [
        party_of((IPv6Address if ":" in host else IPv4Address)("TCP", host, 1))
        for host in (first, second)
    ]
    assert (parties[0] == parties[1]) is same


def test_no_party() -> None:
    """UNIX sockets are not counted."""
    assert party_of(UNIXAddress(b"/run/socket")) is None
    assert party_of(None) is None


# How much may wait.


@pytest.mark.parametrize("kind", ["tcp", "tls", "unix"])
@pytest_twisted.ensureDeferred
async def test_max_unsent(listen: Any, kind: str) -> None:
    """A client that does not read what it is sent is aborted; one that reads is not."""
    clock = Clock()
    factory, targets = factory_of(EchoTarget)
    site = site_of({"echo": factory}, reactor=clock, max_unsent=1_000_000)
    listening = await listen(kind, site)
    reading, sleeping = await listening.connect(), await listening.connect()
    for client in (reading, sleeping):
        client.send(HEAD)
        await client.head()
    sleeping.transport.pauseProducing()
    targets[1].transport.write(bytes(20_000_000))
    targets[0].transport.write(bytes(500_000) + b"end")
    await reading.receives(b"end")
    assert targets[1].reason is None
    clock.advance(1)
    await targets[1].is_lost()
    # The TLS layer calls it lost.
    assert targets[1].reason.check(ConnectionLost if kind == "tls" else ConnectionAborted)
    assert targets[0].reason is None
    targets[0].transport.loseConnection()


def test_no_timer_without_connections() -> None:
    """Nothing is looked at while there is no switched connection."""
    clock = Clock()
    client = talk_to(site_of(ECHO, reactor=clock, max_unsent=1000))

    def looks() -> list[str]:
        return [str(call) for call in clock.getDelayedCalls() if "LoopingCall" in str(call)]

    assert not looks()
    client.send(HEAD)
    assert len(looks()) == 1
    client.abort()
    assert not looks()


# TCP's keep-alive.


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest.mark.parametrize(
    ("given", "expected"), [(True, (1, 60, 15, 4)), ((7, 3, 2), (1, 7, 3, 2)), (False, (0,))]
)
@pytest_twisted.ensureDeferred
async def test_keep_alive(listen: Any, kind: str, given: Any, expected: tuple[int, ...]) -> None:
    """A switched connection's socket asks after the given seconds, as often as it is told."""
    factory, targets = factory_of(EchoTarget)
    listening = await listen(kind, site_of({"echo": factory}, tcp_keepalive=given))
    client = await listening.connect()
    client.send(HEAD)
    await client.head()
    transport = targets[0].transport
    sock = (transport if kind == "tcp" else transport.transport).socket
    options = (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    )
    assert tuple(sock.getsockopt(*option) for option in options)[: len(expected)] == expected


@pytest.mark.parametrize("given", [1, (1, 2), (1, 2, 0), ("1", 2, 3), None])
def test_wrong_keep_alive(given: Any) -> None:
    """What is neither a bool nor three numbers is refused."""
    with pytest.raises(InvalidArgument, match="idle, interval, probes"):
        UpgradeSite(site_of(ECHO).resource, tcp_keepalive=given)
