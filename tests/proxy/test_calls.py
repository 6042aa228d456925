"""
How many calls of Python functions a request through a proxy takes. Unlike times, they are always the
same.

Where the figure is wrong because there are now fewer calls, put in what the test says.
"""

from __future__ import annotations

import select
import socket
from contextlib import closing
from typing import Any

import pytest
from twisted.internet import tcp
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.kit.calls import MORE, Count, Driven, Site, check
from tests.kit.harness import reactor
from upgrade_switch import UpgradePool
from upgrade_switch.proxy import UpgradeProxy

GET = b"GET /page?x HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n" + MORE
POST = GET.replace(b"GET", b"POST").replace(b"\r\n", b"\r\nContent-Length: 10000\r\n", 1) + bytes(
    10_000
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: back\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: 5\r\n"
    b"Content-Type: text/html\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\nhello"
)


@implementer(IStreamClientEndpoint)
class BackEnd:
    """A back end over TCP; the proxy's end of the connection to it is driven from here."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol | None]:
        """As an endpoint does, but at once."""
        near = socket.create_connection(self._listening.getsockname(), timeout=10)
        self.connection, address = self._listening.accept()
        client: Any = factory.buildProtocol(IPv4Address("TCP", *address))
        self.transport = tcp.Server(near, client, address, None, 0, reactor)
        client.makeConnection(self.transport)
        return succeed(client)

    def end(self) -> None:
        self.connection.close()
        self.transport.connectionLost(Failure(ConnectionDone()))

    def answer(self, to: bytes) -> None:
        received = self.connection.recv(65536)
        while not received.endswith(to):
            received += self.connection.recv(65536)
        self.connection.sendall(ANSWER)
        assert select.select([self.transport.socket], [], [], 10)[0]


def calls_of(request: bytes, client: Driven, back_end: BackEnd) -> int:
    count = Count()
    client.send(request)
    count.of(client.transport.doRead)
    back_end.answer(request[request.index(b"\r\n\r\n") :])
    count.of(back_end.transport.doRead)
    assert client.client.recv(4096).startswith(b"HTTP/1.1 200 ")
    return count.calls


class Pool(UpgradePool):
    """Connects to one back end."""

    back_end: BackEnd

    def exchange_client(self, key: Any, endpoint: object, fresh: bool = False) -> Deferred[Any]:
        return super().exchange_client(key, self.back_end, fresh)


@pytest.mark.parametrize(("request_", "expected"), [(GET, 161), (POST, 186)], ids=["GET", "POST"])
def test_calls(request_: bytes, expected: int) -> None:
    """A request takes so many calls, on connections that are kept."""
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as back,
        closing(socket.create_server(("127.0.0.1", 0))) as front,
    ):
        clock = Clock()
        pool = Pool(clock)
        back_end = pool.back_end = BackEnd(back)
        proxy = UpgradeProxy("http://127.0.0.1:80", clock, pool=pool)
        client = Driven(Site(proxy, reactor=clock), front)
        client.accept()
        # The first fills some memories, and once a second the date is written anew.
        check(min(calls_of(request_, client, back_end) for _ in range(5)), expected)
        client.end()
        back_end.end()
