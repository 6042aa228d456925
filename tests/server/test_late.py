"""What a connection does not pay for before it is needed, and has then as ever."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tests.kit.asking import PAGE
from tests.kit.calls import Driven, Site
from tests.kit.harness import Page, upgrade_head
from upgrade_switch import UpgradeResource, upgrade_required


class Waiting(Resource):
    """Does not answer."""

    isLeaf = True
    request: Any

    def render(self, request: Any) -> int:
        self.request = request
        return NOT_DONE_YET


WAITING = Waiting()

SWITCHED: list[Any] = []


def switch(request: Any, token: object) -> Protocol:
    SWITCHED[:] = [request]
    return Protocol()


@pytest.fixture
def connection() -> Iterator[Driven]:
    """A connection that has been accepted."""
    root = Resource()
    root.putChild(b"page", Page())
    root.putChild(b"echo", UpgradeResource({"echo": Factory.forProtocol(Protocol)}))
    root.putChild(b"no", UpgradeResource({"echo": lambda request, token: upgrade_required("other")}))
    root.putChild(b"switching", UpgradeResource({"echo": switch}))
    root.putChild(b"waiting", WAITING)
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        connection = Driven(Site(root, reactor=Clock()), listening)
        connection.accept()
        yield connection
        connection.end()


def is_ready(connection: Driven) -> bool:
    """Whether the channel is paced by its transport, which sends small parts at once."""
    transport = connection.transport
    is_producer = transport.producer is transport.protocol
    assert transport.getTcpNoDelay() == is_producer
    return is_producer


@pytest.mark.parametrize("asking", [PAGE, upgrade_head(path=b"/no")])
def test_answer(connection: Driven, asking: bytes) -> None:
    """A channel that answers is paced, also an upgrade, and TCP does not hold small parts back."""
    assert not is_ready(connection)
    connection.send(asking)
    connection.transport.doRead()
    assert is_ready(connection)


def test_answer_that_goes_on(connection: Driven) -> None:
    """It is paced from the first byte of its answer on."""
    connection.send(PAGE.replace(b"/page", b"/waiting"))
    connection.transport.doRead()
    assert not is_ready(connection)
    WAITING.request.write(b"a part")
    assert is_ready(connection)


def test_two_pieces(connection: Driven) -> None:
    """So is one that has read a head line by line."""
    connection.send(PAGE[:5])
    connection.transport.doRead()
    connection.send(PAGE[5:])
    connection.transport.doRead()
    assert is_ready(connection)


def test_switch(connection: Driven) -> None:
    """One that switches has never been."""
    connection.send(upgrade_head(path=b"/echo"))
    connection.transport.doRead()
    assert connection.transport.producer is None
    assert isinstance(connection.transport.protocol, Protocol)


def test_addresses_of_a_request_that_has_switched(connection: Driven) -> None:
    """So does one that has switched, and whose connection has ended."""
    connection.send(upgrade_head(path=b"/switching"))
    connection.transport.doRead()
    host, peer = connection.client.getpeername(), connection.client.getsockname()
    connection.end()
    (request,) = SWITCHED
    assert (request.getHost().host, request.getHost().port) == host
    assert (request.getClientAddress().host, request.getClientAddress().port) == peer


@pytest.mark.parametrize("count", [1, 2])
def test_addresses_of_a_request_that_waits(connection: Driven, count: int) -> None:
    """A request knows both addresses, though it is asked when the socket has been closed."""
    asking = PAGE.replace(b"/page", b"/waiting")
    connection.send((PAGE * (count - 1)) + asking)
    connection.transport.doRead()
    host, peer = connection.client.getpeername(), connection.client.getsockname()
    connection.end()
    request = WAITING.request
    assert (request.getHost().host, request.getHost().port) == host
    assert (request.getClientAddress().host, request.getClientAddress().port) == peer
