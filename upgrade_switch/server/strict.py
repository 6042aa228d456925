"""
:class:`StrictChannel`: an ``HTTPChannel`` that keeps to the rules of HTTP/1.1 and bounds its waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from .. import _twisted
from .._twisted import is_closing, raw_fields
from ..fields import connection_options, written_head
from .idle import TimedChannel

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IProducer
    from twisted.web.http import Request

__all__ = ["StrictChannel"]

# More digits than any body has: int() refuses 4,300 of them with a ValueError, which Twisted lets
# escape into the log, with a traceback, for every connection that sends them.
_MOST_LENGTH_DIGITS = 18

# Bytes of a body that set the idle timer back. One at a time would hold a connection for ever.
_LEAST_PROGRESS = 1024


class StrictChannel(TimedChannel):
    """
    Twisted's HTTP/1.1 server protocol, stricter about heads: their framing, their length, the time that
    they take, and what they must not contain.
    """

    # Whether the connection is closed behind the request at hand, whatever that says.
    _is_last_request = False
    # Runs from the first byte of a request's head to its end, unless the head comes in one piece.
    _head_timer: IDelayedCall | None = None
    # How many bytes have come since the idle timer was last set back.
    _progress = 0

    def dataReceived(self, data: bytes) -> None:
        self._progress += len(data)
        super().dataReceived(data)
        if self._head_timer is None and self._is_reading_head():
            seconds = self.site.head_timeout
            if seconds is not None:
                self._head_timer = self.callLater(seconds, self._head_took_too_long)

    def _is_reading_head(self) -> bool:
        if not self.line_mode or is_closing(self.transport):
            return False
        return bool(self.requests) or _twisted.has_begun_line(self)

    def _head_took_too_long(self) -> None:
        self._head_timer = None
        self._refuse(b"408 Request Timeout")

    def stop_head_timer(self) -> None:
        """No head is being read any more."""
        timer, self._head_timer = self._head_timer, None
        if timer is not None:
            timer.cancel()

    def allHeadersReceived(self) -> None:
        self.stop_head_timer()
        super().allHeadersReceived()

    def resetTimeout(self) -> None:
        # A body that drips is idle.
        is_body = bool(self.requests) and not self.line_mode
        if not is_body or self._progress >= _LEAST_PROGRESS:
            self._progress = 0
            super().resetTimeout()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.stop_head_timer()
        super().connectionLost(reason)
        if isinstance(self.transport, TLSMemoryBIOProtocol):
            # A TLS layer keeps its producer, which leads back to it, even after its end.
            self.transport.unregisterProducer()

    def headerReceived(self, line: bytes) -> bool:
        # A LF without a CR: others may end the line there (RFC 9112 §2.2). Older Twisteds do not mind.
        if b"\n" in line or self._is_wrong_framing(line):
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
        lines = raw_fields(request.requestHeaders).get(b"Connection")
        says_close = lines is not None and "close" in connection_options(lines)
        if version == b"HTTP/1.1" and not (says_close or self._is_last_request):
            return True
        if version == b"HTTP/1.1":
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])
        return False

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """
        A producer that comes while the client takes no more is paused at once. Twisted would let it
        write: TCP then says again that it is full, but TLS says so once.
        """
        super().registerProducer(producer, streaming)
        if self.is_full:
            super().pauseProducing()

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
        self.become_producer()
        lines = [b"%b %b %b" % (version, code, reason)]
        fields = raw_fields(headers)
        lines += [name + b": " + value for name, values in fields.items() for value in values]
        # In one piece: Twisted writes each name, colon, value and line break by itself.
        self.write(written_head(lines))
