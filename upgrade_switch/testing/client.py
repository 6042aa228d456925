"""
A client by hand. ``talk_to`` joins it to a site.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import h11
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ..client.request import expect_answer
from ..server.site import UpgradeSite
from .wire import Wire

__all__ = ["Answer", "Asked", "Client", "Recording", "joined_headers"]


@implementer(IHalfCloseableProtocol)
class Recording(Protocol):
    """
    A target that keeps what it receives, for tests of an acceptor or of a client that look at nothing
    but bytes: ``UpgradeResource({"chat": Factory.forProtocol(Recording)})``, and then
    ``client.target.received``.

    :ivar received: all bytes that it was given.
    :ivar half_closed: whether the other side has ended its direction; this one is still open then.
    :ivar lost: why the connection is over; None while it is open.
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
        """Its own direction has been closed by the test, which knows."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


class Answer(NamedTuple):
    """The complete answer to a request."""

    status: int
    headers: dict[str, str]
    """Names in lower case; several lines of one name are joined by commas."""
    body: bytes


class Asked(NamedTuple):
    """What a test asks for."""

    method: str
    path: str
    headers: Mapping[str, str] | None
    body: bytes
    trailing: bytes
    token: str | None = None
    """The one that is offered, if one is."""


class Client(Protocol):
    """
    A client by hand: a test says what it sends, and looks at what has come.

    :ivar answer: the :class:`Answer` to the latest request; None as long as it is not complete. An
        answer that switches (101; 200 to CONNECT; ``take_over``'s) is complete with its head, any other
        with its body.
    :ivar received: what has come since the connection has switched.
    :ivar is_closed: whether the connection is over.
    :ivar site: the site that it is joined to.
    :ivar wire: how they are joined.
    """

    def __init__(self, site: UpgradeSite, wire: Wire) -> None:
        self.site = site
        self.wire = wire
        self.answer: Answer | None = None
        self.received = b""
        self.is_closed = False
        self._parser: h11.Connection | None = None
        self._events: list[h11.Event] = []
        self._has_switched = False
        self._method = ""

    # What the wire calls.

    def dataReceived(self, data: bytes) -> None:
        if self._has_switched or self._parser is None:
            self.received += data
            return
        self._parser.receive_data(data)
        self._parse(self._parser)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_closed = True
        if reason.check(ConnectionAborted):
            # The client's own doing: it wants no answer.
            return
        if self._parser is not None and not self._has_switched:
            self._parser.receive_data(b"")
            # An answer that is cut off, or missing, stays None; the methods that need it raise.
            with suppress(h11.RemoteProtocolError):
                self._parse(self._parser)

    def _parse(self, parser: h11.Connection) -> None:
        is_switched = False
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                break
            assert isinstance(event, h11.Event)
            self._events.append(event)
            if isinstance(event, h11.EndOfMessage):
                self.answer = _answer_of(self._events)
            elif isinstance(event, h11.Response) and self._is_taken_over(event):
                is_switched = True
                break
        if is_switched or parser.their_state is h11.SWITCHED_PROTOCOL:
            self._has_switched = True
            self.answer = _answer_of(self._events)
            self.received += bytes(parser.trailing_data[0])

    def _is_taken_over(self, head: h11.Response) -> bool:
        """Whether a 2xx has no length: twisted.web always sends a length, or chunks."""
        has_content = self._method != "HEAD" and head.status_code in range(200, 300)
        names = {name for name, _ in head.headers}
        is_framed = head.status_code == 204 or names & {b"content-length", b"transfer-encoding"}
        return has_content and not is_framed

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
        Send a request that is answered at once; move everything.

        :param path: the request's target, with its query.
        :param headers: its fields. ``Host`` is added, and ``Content-Length`` if there is a body.
        :param trailing: bytes that are sent right behind it, before the answer.
        :return: the answer.
        :raises AssertionError: if there is no complete answer. For a server that takes its time, see
            :meth:`send_request`.
        """
        self.send_request(method, path, headers, body, trailing)
        return self._answer_at_once()

    def offer(
        self,
        token: str,
        trailing: bytes = b"",
        path: str = "/",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """
        Ask for an upgrade that is decided at once; move everything.

        :param token: the Upgrade field.
        :param trailing: bytes that are sent right behind the request, before the answer.
        :param path: as for :meth:`request`; ``method``, ``headers`` and ``body`` too.
        :return: the answer; if its status is 101, the connection has switched.
        :raises AssertionError: if there is no complete answer. For an acceptor that takes its time,
            see :meth:`send_offer`.
        """
        self.send_offer(token, trailing, path, method, headers, body)
        return self._answer_at_once()

    def send_offer(
        self,
        token: str,
        trailing: bytes = b"",
        path: str = "/",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        """
        As :meth:`offer`, without waiting for the decision: ``answer`` is None until it has been made,
        by what the test does then (:meth:`advance`, or firing the Deferred of the acceptor and
        ``advance(0)``).
        """
        self._ask(Asked(method, path, headers, body, trailing, token))

    def send_request(
        self,
        method: str = "GET",
        path: str = "/",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        trailing: bytes = b"",
    ) -> None:
        """
        As :meth:`request`, without waiting for the answer: ``answer`` is None until it has come.
        """
        self._ask(Asked(method, path, headers, body, trailing))

    def _ask(self, asked: Asked) -> None:
        """Send a request; move everything."""
        method, body = asked.method, asked.body
        fields = {"Host": "localhost"}
        if asked.token is not None:
            fields |= {"Connection": "Upgrade", "Upgrade": asked.token}
        fields.update(asked.headers or {})
        if body:
            fields["Content-Length"] = str(len(body))
        start_line = f"{method} {asked.path} HTTP/1.1"
        lines = [start_line, *(f"{name}: {value}" for name, value in fields.items())]
        parser = self._parser
        if parser is not None and parser.our_state is h11.DONE:
            parser.start_next_cycle()
        elif parser is not None and parser.our_state is h11.MUST_CLOSE:
            parser = None
        self.answer = None
        self._events.clear()
        offers = any(name.lower() == "upgrade" for name in fields)
        self._parser, self._method = expect_answer(method, offers, parser), method
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body + asked.trailing)

    def _answer_at_once(self) -> Answer:
        if self.answer is None and self.is_closed:
            raise AssertionError("no answer: the connection has ended without a complete one")
        if self.answer is None:
            raise AssertionError(
                "no answer yet: if it takes its time, call send_offer or send_request, then "
                "advance(seconds), and look at client.answer"
            )
        return self.answer

    def advance(self, seconds: float) -> None:
        """
        Let time pass on the site's clock, and move everything.

        :param seconds: how much; 0 moves what is due, such as the answer of an acceptor that has just
            decided.
        """
        self.wire.clock.advance(seconds)
        self.wire.pump()

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


def _answer_of(events: Sequence[h11.Event]) -> Answer:
    """What the events of one answer amount to."""
    heads = [event for event in events if isinstance(event, h11.Response | h11.InformationalResponse)]
    headers = joined_headers(heads[-1].headers)
    body = b"".join(bytes(event.data) for event in events if isinstance(event, h11.Data))
    return Answer(heads[-1].status_code, headers, body)


def joined_headers(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The fields of an :class:`Answer`."""
    headers: dict[str, str] = {}
    for name, value in fields:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers
