"""
An answer in one piece: what is written is held, and goes out at once, before anything that follows it.
"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tests.kit.backed import HOST, OK, Proxied
from upgrade_switch import UpgradeSite
from upgrade_switch.server.gathering import IGatheringChannel

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class Pieces(StringTransport):
    """Remembers what is written at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        assert not self.disconnecting
        self.pieces.append(data)

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))


class Held(Resource):
    """Keeps its requests."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def render(self, request: Any) -> int:
        self.requests.append(request)
        return NOT_DONE_YET


class Asked:
    """A channel that is at work on a request."""

    def __init__(self, data: bytes = GET) -> None:
        resource = Held()
        proxy: Any = UpgradeSite(resource, reactor=Clock()).buildProtocol(None)
        self.transport = Pieces()
        proxy.makeConnection(self.transport)
        proxy.dataReceived(data)
        (self.request,) = resource.requests
        self.channel: Any = self.request.channel
        assert IGatheringChannel.providedBy(self.channel)


def test_flushed() -> None:
    """Head and body are one piece; what follows is not held."""
    asked = Asked()
    assert asked.channel.gather()
    asked.request.setHeader(b"content-length", b"5")
    asked.request.write(b"he")
    assert asked.channel.gather()
    asked.request.write(b"l")
    assert asked.transport.pieces == []
    asked.channel.flush()
    (piece,) = asked.transport.pieces
    assert piece.startswith(b"HTTP/1.1 200 ")
    assert piece.endswith(b"\r\n\r\nhel")
    asked.request.write(b"lo")
    assert asked.transport.pieces[1:] == [b"lo"]
    asked.channel.flush()
    assert len(asked.transport.pieces) == 2


def test_first_of_the_body() -> None:
    """Without being held, a head and the first of the body are one piece; the rest is not held."""
    asked = Asked()
    asked.request.setHeader(b"content-length", b"5")
    asked.request.write(b"he")
    asked.request.write(b"llo")
    head, rest = asked.transport.pieces
    assert head.endswith(b"\r\n\r\nhe")
    assert rest == b"llo"


def test_head_alone() -> None:
    """A head without any of the body is not held until there is some."""
    asked = Asked()
    asked.request.write(b"")
    assert len(asked.transport.pieces) == 1


def test_large_body() -> None:
    """A large body is not copied to be sent with its head."""
    asked = Asked()
    body = bytes(2**16 + 1)
    asked.request.setHeader(b"content-length", b"%d" % len(body))
    asked.request.write(body)
    assert asked.transport.pieces[1] is body


def test_failing() -> None:
    """What fails to be written leaves nothing held."""
    asked = Asked()
    asked.request.responseHeaders = None
    with pytest.raises(AttributeError):
        asked.request.write(b"hello")
    asked.channel.write(b"more")
    assert asked.transport.pieces == [b"more"]


def test_finished() -> None:
    """The end of the answer ends it: chunks and all are one piece."""
    asked = Asked()
    asked.channel.gather()
    asked.request.write(b"hello")
    asked.request.finish()
    (piece,) = asked.transport.pieces
    assert piece.endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")


def test_closed() -> None:
    """What is held goes out before the connection is closed."""
    asked = Asked()
    asked.channel.gather()
    asked.request.write(b"hello")
    asked.channel.loseConnection()
    assert asked.transport.disconnecting
    assert len(asked.transport.pieces) == 1


@pytest.mark.parametrize("is_held", [False, True])
def test_full(is_held: bool) -> None:
    """Nothing is held while the client takes no more; what is held already stays so."""
    asked = Asked()
    if is_held:
        asked.channel.gather()
    asked.channel.pauseProducing()
    assert not asked.channel.gather()
    asked.request.write(b"hello")
    assert (asked.transport.pieces == []) == is_held
    asked.channel.flush()
    assert b"hello" in b"".join(asked.transport.pieces)
    asked.channel.resumeProducing()
    assert asked.channel.gather()


def test_lost() -> None:
    """What is held when the client leaves is dropped."""
    asked = Asked()
    asked.channel.gather()
    asked.request.write(b"hello")
    asked.channel.connectionLost(Failure(ConnectionLost()))
    asked.channel.flush()
    assert asked.transport.pieces == []


@pytest.mark.parametrize(
    "second", [b"GET /u/y HTTP/1.1\r\n\r\n", b"GET /u/y HTTP/1.1\r\nbad\r\n\r\n", b"bad\r\n"]
)
def test_in_front_of_a_refusal(second: bytes) -> None:
    """A proxied answer comes in front of one that Twisted writes past the channel."""
    proxied = Proxied()
    client = proxied.client(b"GET /u/x HTTP/1.1\r\n" + HOST + b"\r\n" + second)
    proxied.back.last.answer(OK)
    assert client.statuses == [200, 400]
    assert client.bodies[0] == b"hello"
