"""
:class:`UpgradeChannel`: an ``HTTPChannel`` that can be left on a live connection.

A channel is in one of four states (:class:`ChannelState`), and goes through them in this order::

    PREFACE ──> HTTP ──> LEAVING ──> LEFT

A connection that begins with one of the site's prefaces never becomes HTTP: as long as its first
bytes may become one they wait here, and ``HTTPChannel`` has not seen any. A preface that is a whole
line is looked for between two requests as well (the flag line).

The natural end of a request is the way out. ``Request.finish`` ends in ``HTTPChannel.requestDone``,
which restores the idle timeout and gives every byte that has been read but not parsed to
``setLineMode(extra)``, to be parsed as the next request. While a channel is being left, that call
puts the bytes aside instead, and :meth:`UpgradeChannel.detach` takes the rest off the transport.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from typing import IO, TYPE_CHECKING, Any
from weakref import ref

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http_headers import Headers
from twisted.web.iweb import INonQueuedRequestFactory
from zope.interface import implementer

from .. import _twisted
from ..fields import connection_options, one_line
from ..interfaces import IDetachable, SwitchHead
from ..takeover import replay_ended_connection
from .head import read_head
from .switched import Asked

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IProtocolFactory
    from twisted.web.http import Request

    from ..interfaces import CarriedRequest, IUpgradeSite
    from .preface import PrefaceTable

__all__ = ["ChannelState", "UpgradeChannel"]

# More digits than any body has: int() refuses 4,300 of them with a ValueError, which Twisted lets
# escape into the log, with a traceback, for every connection that sends them.
_MOST_LENGTH_DIGITS = 18

# Bytes of a body that set the idle timer back. One at a time would hold a connection for ever.
_LEAST_PROGRESS = 1024


class ChannelState(Enum):
    """What a channel's connection speaks."""

    PREFACE = auto()
    """It is not known yet: the first bytes wait here, since they may become a preface."""
    HTTP = auto()
    LEAVING = auto()
    """The last request is being finished; what is read behind it is the target's."""
    LEFT = auto()
    """The connection is somebody else's. No byte comes here any more."""


@implementer(IDetachable)
class UpgradeChannel(HTTPChannel):
    """
    Twisted's HTTP/1.1 server protocol, with the takeover hook. Built by ``UpgradeSite``.

    :ivar state: what the connection speaks.
    """

    # Set by twisted.web's factories, and by makeConnection.
    site: IUpgradeSite
    transport: Any
    # Twisted's proxy between transport and channel, set by whoever builds it.
    proxy: ref[Any] | None = None

    state = ChannelState.HTTP
    # The site's prefaces, if it has some; and the first bytes, until it is known what they are.
    _prefaces: PrefaceTable[IProtocolFactory] | None = None
    _undecided = b""
    # Whether read_head is at work; and what is behind the request that it has read.
    _reading = False
    _behind = b""
    # What belongs to the target, once the channel is being left.
    _trailing = b""
    # Whether the connection is closed behind the request at hand, whatever that says.
    _is_last_request = False
    # Runs from the first byte of a request's head to its end, unless it comes in one piece.
    _head_timer: IDelayedCall | None = None
    # How many bytes have come since the idle timer was last set back.
    _progress = 0

    def connectionMade(self) -> None:
        self.site.connected(self.transport)
        self._prefaces = self.site.prefaces_on(self.transport)
        if self._prefaces is not None:
            self.state = ChannelState.PREFACE
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        if _twisted.is_closing(self.transport):
            # TLS goes on delivering after loseConnection: what comes behind a 400 is not read.
            return
        self._progress += len(data)
        if self.state is ChannelState.PREFACE:
            data = self._undecided + data
            if self._is_preface(data):
                return
        if self.line_mode and not self.requests and not self._reading:
            # The next byte is a request's first, unless a line has begun already.
            begun = self.clearLineBuffer()
            if not begun:
                self._read(data)
                return
            data = begun + data
        self._read_lines(data)

    def _read_lines(self, data: bytes) -> None:
        """Read as ``HTTPChannel`` does, and see to it that a head does not take for ever."""
        super().dataReceived(data)
        if self._head_timer is None and self._is_reading_head():
            seconds = self.site.head_timeout
            if seconds is not None:
                self._head_timer = self.callLater(seconds, self._head_took_too_long)

    def _is_reading_head(self) -> bool:
        if self.state is not ChannelState.HTTP or not self.line_mode:
            return False
        begun = bool(self.requests) or _twisted.has_begun_line(self)
        return begun and not _twisted.is_closing(self.transport)

    def _head_took_too_long(self) -> None:
        self._head_timer = None
        self._refuse(b"408 Request Timeout")

    def _stop_head_timer(self) -> None:
        timer, self._head_timer = self._head_timer, None
        if timer is not None:
            timer.cancel()

    def allHeadersReceived(self) -> None:
        self._stop_head_timer()
        super().allHeadersReceived()

    def resetTimeout(self) -> None:
        # A body that drips is idle.
        is_body = bool(self.requests) and not self.line_mode
        if not is_body or self._progress >= _LEAST_PROGRESS:
            self._progress = 0
            super().resetTimeout()

    def _is_preface(self, data: bytes) -> bool:
        """
        Look at a connection's first bytes. The idle timer, which has run since the connection was
        made, is not set back by them.

        :return: whether they are not HTTP's: either they wait for more, or their target has them.
        """
        prefaces = self._prefaces
        assert prefaces is not None
        if prefaces.may_become_longer(data):
            self._undecided = data
            return True
        factory = prefaces.find(data)
        self._become_http()
        if factory is None:
            return False
        self._hand_over_to(factory, data)
        return True

    def _become_http(self) -> None:
        self.state, self._undecided = ChannelState.HTTP, b""

    def _undecided_preface(self) -> tuple[IProtocolFactory | None, bytes]:
        """What the first bytes lead to if no more comes, while they are still undecided."""
        data = self._undecided
        factory = self._prefaces.find(data) if data and self._prefaces is not None else None
        if self.state is ChannelState.PREFACE:
            self._become_http()
        return factory, data

    def timeoutConnection(self) -> None:
        """No more came: what has come by now is a preface, or the connection is closed."""
        factory, data = self._undecided_preface()
        if factory is None or not self._hand_over_to(factory, data):
            super().timeoutConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_head_timer()
        factory, data = self._undecided_preface()
        super().connectionLost(reason)
        target = None if factory is None else self.site.target_behind_end(factory, self.transport)
        if target is not None:
            # No longer preface can come any more.
            replay_ended_connection(self.transport, target, data, reason)

    def lineReceived(self, line: bytes) -> None:
        if _twisted.is_closing(self.transport):
            return
        prefaces = self._prefaces
        if prefaces is not None and not self.requests and self.persistent:
            # A request's first line, or a flag line.
            flag = line + b"\r\n"
            factory = prefaces.find(flag) if flag in prefaces.lines else None
            if factory is not None:
                self._hand_over_to(factory, flag + self.clearLineBuffer())
                return
        super().lineReceived(line)

    def _hand_over_to(self, factory: IProtocolFactory, data: bytes) -> bool:
        """
        Give a connection that is not in the middle of a request to another protocol.

        :param data: all that was read and is not HTTP's.
        :return: False if there is no target: then the connection is closed, since there is no
            request that could be answered; the idle timer sees to it that it ends.
        """
        target = self.site.target_of(factory, self.transport)
        if target is None:
            self.loseConnection()
            return False
        slot = self.slot()
        self._trailing = data
        self.site.switched.switch(self, slot, None, Asked(address=self.transport.getPeer()), target)
        return True

    def _read(self, data: bytes) -> None:
        """
        Read requests, in one go where it can be done (``head.py``).

        What is behind a request is put where :meth:`setLineMode` finds it if the request switches.
        """
        self._reading = True
        try:
            while (
                data
                and self.line_mode
                and not self.requests
                and not _twisted.is_closing(self.transport)
            ):
                if self._prefaces is not None and data.startswith(self._prefaces.lines):
                    break
                head = read_head(data, self.totalHeadersSize, self.maxHeaders)
                if head is None:
                    break
                self._behind = data[head.length :]
                self._begin(b"GET", head.target, head.fields)
                data, self._behind = self._behind, b""
            if data and not _twisted.is_closing(self.transport):
                self._read_lines(data)
        finally:
            self._reading = False

    def _begin(
        self,
        method: bytes,
        target: bytes,
        fields: Iterable[tuple[bytes, bytes]],
        content: IO[bytes] | None = None,
    ) -> None:
        """Have a request processed; what ``HTTPChannel`` does with one, line by line."""
        factory: Any = self.requestFactory
        if INonQueuedRequestFactory.providedBy(factory):
            request = factory(self)
        else:
            request = factory(self, len(self.requests))
        self.requests.append(request)
        _twisted.set_fields(request.requestHeaders, fields)
        request.parseCookies()
        self.persistent = self.checkPersistence(request, b"HTTP/1.1")
        request.gotLength(0)
        if content is not None:
            request.content = content
        _twisted.content_received(self, method, target, b"HTTP/1.1")

    def answer(self, carried: CarriedRequest) -> None:
        """
        Answer a request that came on the connection before this channel had it, as its first.
        """
        # A preface is the first bytes of a connection, which have come already.
        self._become_http()
        self._begin(carried.method, carried.target, carried.fields, carried.content)

    def headerReceived(self, line: bytes) -> bool:
        if self._is_wrong_framing(line):
            self._refuse(b"400 Bad Request")
            return False
        received: bool = super().headerReceived(line)
        return received

    def lineLengthExceeded(self, line: bytes) -> None:
        """
        Refuse a request line (RFC 9112 §3) or a header line (RFC 6585 §5) that is longer than Twisted
        reads. Twisted would close without an answer, and over TLS, whose producer the channel still is,
        it would not even close.
        """
        self._refuse(b"431 Request Header Fields Too Large" if self.requests else b"414 URI Too Long")

    def _refuse(self, status: bytes) -> None:
        """Answer a request that is not read to its end, and close."""
        head = b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        self.transport.write(head)
        self.loseConnection()

    def _is_wrong_framing(self, line: bytes) -> bool:
        """
        Whether a header line frames a content that is longer than any can be, or the content of a
        CONNECT, which has none (RFC 9110 §9.3.6): what follows may be anything.
        """
        name = line[:18].lower()
        if not name.startswith((b"content-length:", b"transfer-encoding:")):
            return False
        if _twisted.method_of(self) == b"CONNECT":
            return True
        return name.startswith(b"c") and len(line[15:].strip(b" \t")) > _MOST_LENGTH_DIGITS

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """
        Whether the connection stays open after the response: for HTTP/1.1, unless any of the
        Connection lines says ``close`` (RFC 9112 §9.3). Twisted reads the first line only, and
        splits it at spaces.
        """
        lines = request.requestHeaders.getRawHeaders(b"connection") or ()
        says_close = self._is_last_request or "close" in connection_options(lines)
        if version == b"HTTP/1.1" and not says_close:
            return True
        if version == b"HTTP/1.1":
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])
        return False

    def close_after_request(self) -> None:
        """Have the request at hand be the last on this connection; without one, close it now."""
        if not self.requests:
            self.loseConnection()
        self.persistent = False
        # While its fields still come, that is decided when they are there.
        self._is_last_request = True

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """
        Write a response's head. CR, LF and NUL in the phrase or in a field become spaces, wherever
        they come from (RFC 9110 §5.5): Twisted lets them through in the phrase, and NUL anywhere.
        """
        super().writeHeaders(version, code, one_line(reason), _spaced(headers))

    def has_trailing_data(self) -> bool:
        return bool(self._behind) or _twisted.has_read_ahead(self)

    def slot(self) -> _twisted.Slot:
        return _twisted.slot_of(self.transport, self)

    def detach(self, head: SwitchHead | None) -> bytes:
        """
        Leave HTTP: write the head, finish the request, and take everything that is HTTP's off the
        connection.

        Afterwards no timer of the channel's runs (the idle timer has stood still since the request
        was read, and is not started again), it is no longer the transport's producer, and nothing
        refers to the request. The transport belongs to whoever the caller gives it to; until then its
        bytes still come here.

        :param head: the answer to the one request on this channel; None for a preface.
        :return: the trailing data: all that was read and is not HTTP's.
        """
        if head is None:
            self.setTimeout(None)
        self.state = ChannelState.LEAVING
        if head is not None:
            self._finish_request(head)
        _twisted.detach_flow_control(self)
        self.transport.unregisterProducer()
        self.state = ChannelState.LEFT
        trailing, self._trailing = self._trailing, b""
        return trailing

    def _finish_request(self, head: SwitchHead) -> None:
        self._stop_head_timer()
        self._write_head(head)
        # Else requestDone closes the connection: a client may say "close, Upgrade".
        self.persistent = True
        request: Request = self.requests[0]
        request.finish()

    def _write_head(self, head: SwitchHead) -> None:
        """Write a head that ends HTTP (RFC 9110 §15.2.2, §9.3.6)."""
        lines = [b"HTTP/1.1 %d %b" % (head.code, head.phrase)]
        lines += [name + b": " + value for name, value in head.fields]
        written = b"\r\n".join(lines)
        if b"\0" in written or not written.count(b"\r") == written.count(b"\n") == len(lines) - 1:
            written = b"\r\n".join(one_line(line) for line in lines)
        _twisted.write_at_once(self.transport, written + b"\r\n\r\n")

    def setTimeout(self, period: float | None) -> float | None:
        if self.state is ChannelState.LEAVING:
            # requestDone would start the idle timer for a next request, which does not come.
            return None
        before: float | None = super().setTimeout(period)
        return before

    def setLineMode(self, extra: bytes = b"") -> None:
        if self.state is ChannelState.LEAVING:
            self._trailing = extra + self.clearLineBuffer() + self._behind
            self._behind = b""
        else:
            super().setLineMode(extra)


def _spaced(headers: Headers) -> Headers:
    """The headers without CR, LF and NUL in any value; the same object if there are none."""
    clean = headers
    for name, values in headers.getAllRawHeaders():
        spaced = [one_line(value) for value in values]
        if spaced != values:
            if clean is headers:
                clean = headers.copy()
            clean.setRawHeaders(name, spaced)
    return clean
