"""
How many calls of Python functions a switch takes, and a page. Unlike times, they are always the same.

Where a figure is wrong because there are now fewer calls, put in what the test says.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.web.resource import Resource

from tests.kit.calls import MORE, Count, Driven, Site, check
from tests.kit.harness import Page
from upgrade_switch import UpgradeResource

BARE = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
GET = BARE.replace(b"Connection: Upgrade\r\nUpgrade: echo\r\n", b"").replace(b"echo", b"page")


def site() -> Site:
    root = Resource()
    root.putChild(b"echo", UpgradeResource({"echo": Factory.forProtocol(Protocol)}))
    root.putChild(b"page", Page())
    return Site(root, reactor=Clock())


@pytest.fixture
def connect() -> Iterator[Callable[[], Driven]]:
    """Makes connections to one site, on which another connection is idle all the time."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        of = site()
        idle = Driven(of, listening)
        idle.accept()
        yield lambda: Driven(of, listening)
        idle.end()


def switch(connection: Driven, head: bytes) -> int:
    count = Count()
    count.of(connection.accept)
    connection.send(head)
    count.of(connection.transport.doRead)
    assert connection.client.recv(4096).startswith(b"HTTP/1.1 101 ")
    count.of(connection.end)
    return count.calls


def page(connection: Driven) -> int:
    count = Count()
    connection.send(GET)
    count.of(connection.transport.doRead)
    assert connection.client.recv(4096).startswith(b"HTTP/1.1 200 ")
    return count.calls


@pytest.mark.parametrize(("head", "expected"), [(BARE, 138), (BARE[:-2] + MORE, 138)])
def test_switch(connect: Callable[[], Driven], head: bytes, expected: int) -> None:
    """A connection, its switch and its end take so many calls, however many fields the request has."""
    # The first fills some memories, and once a second the date is written anew.
    check(min(switch(connect(), head) for _ in range(5)), expected)


def test_page(connect: Callable[[], Driven]) -> None:
    """A page on a connection that is kept takes so many calls."""
    connection = connect()
    connection.accept()
    check(min(page(connection) for _ in range(5)), 99)
    connection.end()


def test_switch_among_many(connect: Callable[[], Driven]) -> None:
    """With many connections that have switched, one more takes as many calls as with few."""
    few = min(switch(connect(), BARE) for _ in range(3))
    others = [connect() for _ in range(100)]
    for other in others:
        other.accept()
        other.send(BARE)
        other.transport.doRead()
    assert min(switch(connect(), BARE) for _ in range(3)) == few
    for other in others:
        other.end()
