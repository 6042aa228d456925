"""A UDP socket that is connected to one address."""

from __future__ import annotations

import socket
import sys
from ipaddress import ip_address
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from tests.kit.harness import reactor
from upgrade_switch.protocols._udp.sockets import ConnectedSocket


class Received:
    """Remembers what a socket tells it."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.lost: Failure | None = None

    def datagrams_received(self, datagrams: list[bytes]) -> None:
        self.got += datagrams

    def socket_lost(self, reason: Failure) -> None:
        self.lost = reason


@pytest.fixture
def peer() -> Any:
    """A socket that is bound."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.settimeout(5)
        yield bound


@pytest.fixture
def connected(peer: socket.socket) -> Any:
    """A socket that is connected to it."""
    made = ConnectedSocket(reactor, ip_address("127.0.0.1"), peer.getsockname()[1])
    yield made
    made.close()


def test_a_datagram_behind_an_error_is_sent(peer: socket.socket, connected: ConnectedSocket) -> None:
    """An ICMP error that nobody has read does not cost the next datagram."""
    address = peer.getsockname()
    peer.close()
    connected.send(b"nobody is there")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(address)
        again.settimeout(5)
        connected.send(b"hello")
        assert again.recv(100) == b"hello"
    assert connected.dropped == 0


def test_fragments_are_forbidden() -> None:
    """Linux is told to make no fragments, neither here nor on the way."""
    if sys.platform != "linux":
        pytest.skip("only Linux is told")
    for host, level, option in (("127.0.0.1", socket.IPPROTO_IP, 10), ("::1", socket.IPPROTO_IPV6, 23)):
        made = ConnectedSocket(reactor, ip_address(host), 53)
        with socket.socket(fileno=socket.dup(made.fileno())) as copy:
            assert copy.getsockopt(level, option) == 2
        made.close()


def test_reading_in_turns(peer: socket.socket, connected: ConnectedSocket) -> None:
    """One turn of the reactor reads a bounded number of datagrams, and of bytes."""
    received = Received()
    connected.start(received)
    connected.send(b"begin")
    _, there = peer.recvfrom(100)
    for size, most in ((0, 64), (60_000, 2)):
        for _ in range(100):
            peer.sendto(b"x" * size, there)
        connected.doRead()
        assert len(received.got) == most
        while received.got:
            received.got.clear()
            connected.doRead()


def test_the_reactors_end(connected: ConnectedSocket) -> None:
    """When the reactor goes down, the socket is closed, and its receiver told; an error is no end."""
    received = Received()
    connected.start(received)
    assert connected in reactor.getReaders()
    connected.connectionLost(Failure(ConnectionDone()))
    assert (received.lost, connected.is_open) == (None, True)
    connected.connectionLost(Failure(ConnectionLost()))
    assert received.lost is not None
    assert (connected.is_open, connected.fileno()) == (False, -1)
    assert connected not in reactor.getReaders()


def test_behind_the_end(peer: socket.socket, connected: ConnectedSocket) -> None:
    """What comes behind the end does nothing."""
    connected.start(Received())
    connected.pause()
    connected.close()
    connected.close()
    connected.resume()
    connected.pause()
    connected.connectionLost(Failure(ConnectionDone()))
    connected.doRead()
    connected.send(b"late")
    assert connected.dropped == 1
    assert connected not in reactor.getReaders()


def test_pausing(peer: socket.socket, connected: ConnectedSocket) -> None:
    """Before it is started, and while it pauses, it is not read; an error does not change that."""
    assert connected not in reactor.getReaders()
    connected.pause()
    connected.start(Received())
    assert connected not in reactor.getReaders()
    connected.connectionLost(Failure(ConnectionDone()))
    assert connected not in reactor.getReaders()
    connected.resume()
    assert connected in reactor.getReaders()
