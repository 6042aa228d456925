"""
A client by hand: :func:`talk_to` joins it to a site.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import h11
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from zope.interface import implementer

from ..server.site import UpgradeSite
from .wire import Cut, Wire

__all__ = ["Answer", "Client", "Recording", "talk_to"]


@implementer(IHalfCloseableProtocol)
class Recording(Protocol):
    """
    A target that remembers, for tests of an acceptor, or of a client, that care for the bytes alone:
    ``UpgradeResource({"chat": Factory.forProtocol(Recording)})``, then ``client.target.received``.

    :ivar received: all bytes that it was given.
    :ivar half_closed: whether the other side has ended its direction; this one is still open then.
    :ivar lost: why the connection is over; None while it is not.
    """

    def __init__(self) -> None:
        self.received = b""
        self.half_closed = False
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def readConnectionLost(self) -> None:
        self.half_closed = True

    def writeConnectionLost(self) -> None:
        """Its own direction is closed: whoever did that knows."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


class Answer(NamedTuple):
    """What a server has answered."""

    status: int
    headers: dict[str, str]
    """In lower case; several lines are joined."""
    body: bytes


class Client(Protocol):
    """
    A client by hand.

    :ivar received: what has come since the connection has switched.
    :ivar site: the site that it is joined to.
    :ivar wire: how they are joined.
    """

    def __init__(self, site: UpgradeSite, wire: Wire) -> None:
        self.site = site
        self.wire = wire
        self.received = b""
        self.is_closed = False
        self.half_closed = False
        self._parser: h11.Connection | None = None
        self._events: list[Any] = []
        self._has_switched = False
        self._unparsed = b""

    # What the wire calls.

    def dataReceived(self, data: bytes) -> None:
        if self._has_switched or self._parser is None:
            self.received += data
            return
        self._parser.receive_data(data)
        self._parse()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_closed = True
        if reason.check(ConnectionAborted):
            # The client's own doing: it wants no answer.
            return
        if self._parser is not None and not self._has_switched:
            self._parser.receive_data(b"")
            self._parse()

    def _parse(self) -> None:
        assert self._parser is not None
        while True:
            event = self._parser.next_event()
            if event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                break
            self._events.append(event)
        if self._parser.their_state is h11.SWITCHED_PROTOCOL:
            self._has_switched = True
            self.received += bytes(self._parser.trailing_data[0])

    # What a test calls.

    @property
    def target(self) -> Any:
        """The protocol that the server's side of the connection belongs to."""
        return self.wire.server.protocol

    def request(
        self,
        method: str = "GET",
        path: str = "/",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        trailing: bytes = b"",
    ) -> Answer:
        """
        Send a request, and what is to follow it at once; move everything.

        :param path: the request's target, with its query.
        :param headers: its fields. ``Host`` is added, and ``Content-Length`` where there is a body.
        :param trailing: bytes that are sent right behind it, before the answer.
        :return: what has been answered.
        :raises AssertionError: where there is no whole answer.
        """
        fields = {"Host": "localhost", **(headers or {})}
        if body:
            fields["Content-Length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {said}" for name, said in fields.items())]
        if self._parser is None or self._parser.our_state is h11.MUST_CLOSE:
            self._parser = h11.Connection(h11.CLIENT)
        elif self._parser.our_state is h11.DONE:
            self._parser.start_next_cycle()
        self._events.clear()
        shadow = [("Host", "localhost")]
        if "Upgrade" in fields:
            shadow += [("Connection", "Upgrade"), ("Upgrade", fields["Upgrade"])]
        self._parser.send(h11.Request(method=method, target="/", headers=shadow))
        self._parser.send(h11.EndOfMessage())
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body + trailing)
        return self._answer()

    def offer(self, token: str, trailing: bytes = b"", path: str = "/", **arguments: Any) -> Answer:
        """
        Ask for an upgrade.

        :param token: the Upgrade field.
        :param trailing: bytes that are sent right behind the request, before the answer.
        :param path: the request's target, with its query.
        :param arguments: as for :meth:`request`.
        :return: what has been answered: with status 101, the connection has switched.
        :raises AssertionError: where there is no whole answer.
        """
        headers = {"Connection": "Upgrade", "Upgrade": token, **arguments.pop("headers", {})}
        return self.request(path=path, headers=headers, trailing=trailing, **arguments)

    def _answer(self) -> Answer:
        heads = [e for e in self._events if isinstance(e, h11.Response | h11.InformationalResponse)]
        heads = [head for head in heads if head.status_code >= 200 or head.status_code == 101]
        assert heads, "no answer"
        headers: dict[str, str] = {}
        for name, value in heads[-1].headers:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        body = b"".join(bytes(e.data) for e in self._events if isinstance(e, h11.Data))
        return Answer(heads[-1].status_code, headers, body)

    def send(self, data: bytes) -> None:
        """Write, and move everything."""
        self.wire.client.write(data)
        self.wire.pump()

    def half_close(self) -> None:
        """End this direction alone (FIN), and move everything."""
        self.wire.client.loseWriteConnection()
        self.wire.pump()

    def close(self) -> None:
        """Close, and move everything."""
        self.wire.client.loseConnection()
        self.wire.pump()

    def abort(self) -> None:
        """Reset the connection, and move everything."""
        self.wire.client.abortConnection()
        self.wire.pump()


def talk_to(
    resource: IResource | UpgradeSite,
    cut: Cut = None,
    seed: int | None = None,
    clock: Clock | None = None,
) -> Client:
    """
    Join a client by hand to a site.

    :param resource: what answers; or a whole site, made with ``reactor=clock``.
    :param cut: in what pieces bytes arrive, both ways: of one size, or of these sizes and then whole;
        None: as they come.
    :param seed: cut by chance, the same in each run.
    :param clock: what the site's time is; time-outs come by its ``advance``.
    """
    clock = Clock() if clock is None else clock
    site = resource
    if not isinstance(site, UpgradeSite):
        site = UpgradeSite(site, reactor=clock)
    wire = Wire(cut, seed, clock)
    client = Client(site, wire)
    site.doStart()
    wire.join(client, site.buildProtocol(wire.client.getHost()))
    return client
