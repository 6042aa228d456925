"""
A reverse proxy in memory: its clients and the servers behind it are in the test's hands, and so is the
clock.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionRefusedError, TimeoutError
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.kit.harness import WatchedSite, site_of
from tests.kit.streamed import Joined
from upgrade_switch.proxy import UpgradeProxy
from upgrade_switch.testing import Recording, Wire

HOST = b"Host: localhost\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
SWITCH = b"HTTP/1.1 101 Go\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"
GET = b"GET /u/x HTTP/1.1\r\n" + HOST + b"\r\n"
ASK = b"GET /u/x HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: echo\r\n\r\n"
CHUNKED = b"POST /u/x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


def post(length: int, fields: bytes = b"", method: bytes = b"POST") -> bytes:
    """The head of a request with a content."""
    return method + b" /u/x HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n%b\r\n" % (length, fields)


class Accepted(Recording):
    """A back end's side of one connection."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self.wire = wire

    @property
    def is_over(self) -> bool:
        """Whether the proxy has ended the connection."""
        return self.wire.client.disconnected

    def answer(self, *parts: bytes) -> Accepted:
        for part in parts:
            self.wire.server.write(part)
            self.wire.pump()
        return self

    def close(self) -> None:
        self.wire.server.loseConnection()
        self.wire.pump()

    def reset(self) -> None:
        self.wire.server.abortConnection()
        self.wire.pump()

    def take(self) -> bytes:
        """What has come since this was last asked."""
        taken, self.received = self.received, b""
        return taken

    @property
    def heads(self) -> list[bytes]:
        """The first line of each request, as far as no content looks like one."""
        lines = self.received.split(b"\r\n")
        return [line for line in lines if line.endswith(b" HTTP/1.1")]


class Place:
    """
    Where a back end listens.

    :ivar accepted: all connections there have been.
    :ivar is_there: whether it takes connections, or refuses them; ``is_silent``: whether connecting
        comes to nothing.
    :ivar attempts: how many connections have been asked for; ``cancelled``: how many no longer.
    """

    def __init__(self) -> None:
        self.accepted: list[Accepted] = []
        self.is_there, self.is_silent = True, False
        self.attempts = self.cancelled = 0

    def __getitem__(self, number: int) -> Accepted:
        return self.accepted[number]

    def __len__(self) -> int:
        return len(self.accepted)

    @property
    def last(self) -> Accepted:
        return self.accepted[-1]


class _Attempt:
    """What Twisted calls a connector."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.call: Any = None

    def getDestination(self) -> UNIXAddress:
        return UNIXAddress(b"back")

    def stopConnecting(self) -> None:
        self._place.cancelled += 1
        self.call.cancel()


class Net(Clock):
    """
    As much of a reactor as a proxy needs.

    :ivar places: the servers, by the paths of their UNIX sockets.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, Place] = {}
        self.cut: Any = None

    def connectUNIX(self, path: str, factory: Any, timeout: float = 30, checkPID: int = 0) -> None:
        place = self.places[path]
        place.attempts += 1
        attempt = _Attempt(place)
        factory.startedConnecting(attempt)
        if place.is_silent:
            attempt.call = self.callLater(timeout, self._failed, factory, attempt, TimeoutError())
        elif not place.is_there:
            attempt.call = self.callLater(0, self._failed, factory, attempt, ConnectionRefusedError())
        else:
            attempt.call = self.callLater(0, self._connected, place, factory, attempt)

    def _failed(self, factory: Any, attempt: _Attempt, error: Exception) -> None:
        attempt.call = None
        factory.clientConnectionFailed(attempt, Failure(error))

    def _connected(self, place: Place, factory: Any, attempt: _Attempt) -> None:
        # It leads to the factory, and so to itself.
        attempt.call = None
        client = factory.buildProtocol(UNIXAddress(b"back"))
        if client is None:
            return
        wire = Wire(self.cut, clock=self)
        place.accepted.append(Accepted(wire))
        wire.join(client, place.last)

    def pump(self) -> None:
        """Move everything that can move."""
        while any(call.getTime() <= self.seconds() for call in self.getDelayedCalls()):
            self.advance(0)


class Proxied:
    """
    A site with a proxy at ``/u``, and a page of its own at ``/page``.

    :ivar places: the servers behind it; ``back`` is the first of them.
    """

    def __init__(self, count: int = 1, base: str = "", **kwargs: Any) -> None:
        """
        :param count: of back ends.
        :param base: the path of their URLs.
        :param kwargs: the proxy's arguments, and those of the site as ``site``.
        """
        self.net = Net()
        names = [f"/{number}" for number in range(count)]
        self.urls = [f"unix:{name}" + (f":{base}" if base else "") for name in names]
        self.places = [Place() for _ in names]
        self.net.places = dict(zip(names, self.places, strict=True))
        site = kwargs.pop("site", {})
        self.proxy = UpgradeProxy(self.urls, self.net, kwargs.pop("tokens", ["echo"]), **kwargs)
        self.site: WatchedSite = site_of(self.proxy, reactor=self.net, **site)
        self.site.doStart()

    @property
    def back(self) -> Place:
        return self.places[0]

    def client(self, data: bytes = b"", cut: Any = None) -> Joined:
        """A client that has sent this."""
        client = Joined(self.site, cut)
        return client.send(data) if data else client

    def asked(self) -> tuple[Place, Accepted]:
        """The one connection that a request has come on since this was last asked, and its place."""
        found = [(place, back) for place in self.places for back in place.accepted if back.received]
        assert len(found) == 1, found
        found[0][1].take()
        return found[0]

    def active(self) -> int:
        """How many requests and switched connections the back ends have."""
        return sum(back_end.active for back_end in self.proxy.back_ends)

    def is_idle(self) -> bool:
        """Whether nothing is at work, and no time runs but that of idle connections."""
        self.net.pump()
        return not self.active() and not self.site.switched
