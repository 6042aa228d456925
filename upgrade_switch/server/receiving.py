"""
:class:`ReceivingChannel`: an ``HTTPChannel`` whose requests can be processed while their content comes.

What it does with the content of the request at hand is named by :class:`Incoming`::

    SPOOLED ──> STREAMED ──> DROPPED ──> CLOSING
       ^           │            │           │
       └───────────┴────────────┴───────────┘   the content has come to its end

Twisted collects each content before it processes the request. With a resource that provides
:class:`~upgrade_switch.interfaces.IStreamsContent` the request is processed behind its head. It may
then be finished before its content: a rest that is small is read and dropped, and the next request
follows; with a large one the connection ends, in a way that the client gets the answer.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from zope.interface import implementer

from .. import _twisted
from ..errors import InvalidContent
from ..fields import connection_options, written_head
from ..half_closed import HalfClosed
from .content import Demand, IContentSource
from .idle import TimedChannel
from .strict import StrictChannel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twisted.web.http import Request

    from .content import ContentStream

__all__ = ["MOST_DROPPED", "Incoming", "ReceivingChannel"]

# #: How many bytes of content are read to keep the connection usable, once nobody wants them.
MOST_DROPPED = 2**16

# How many seconds a client has to read the answer and to close, if it is not to send the rest of its
# content. (Closing with bytes unread makes TCP send a reset, which may destroy the answer.)
_SECONDS_TO_CLOSE = 5


class Incoming(Enum):
    """What is done with the content of the request at hand."""

    SPOOLED = auto()
    """It is collected, if there is any, and then the request is processed."""
    STREAMED = auto()
    """It is given on while the request is being processed."""
    DROPPED = auto()
    """The request is finished. The next one follows behind the content."""
    CLOSING = auto()
    """The request is finished, and was the last one. The client has some time to read its answer."""


@implementer(IContentSource)
class ReceivingChannel(StrictChannel):
    """
    Twisted's HTTP/1.1 server protocol, able to process a request before its content has come.
    """

    _incoming = Incoming.SPOOLED
    # Where the content of the request at hand goes, unless it is spooled.
    _stream: ContentStream | None = None
    # The idle time-out, which stands still while nothing is wanted of the client.
    _idle: float | None = None
    # How much has been read that nobody wanted.
    _dropped = 0
    # How much of the answer was still on its way when that was last looked at.
    _on_its_way: int | None = None

    @property
    def is_streaming(self) -> bool:
        """Whether a request is being processed whose content has not come to its end."""
        return self._incoming is Incoming.STREAMED

    def request_line(self) -> tuple[bytes, bytes, bytes]:
        return _twisted.request_line_of(self)

    def stream_into(self, stream: ContentStream) -> None:
        self._stream = stream

    def sends_continue(self) -> bool:
        return self._stream is None

    def lineReceived(self, line: bytes) -> None:
        super().lineReceived(line)
        if self._stream is not None and self._incoming is Incoming.SPOOLED:
            # That was the last line of the head.
            self._process_while_streaming()

    def _process_while_streaming(self) -> None:
        self._incoming = Incoming.STREAMED
        self._idle = self.setTimeout(None)
        _twisted.detach_flow_control(self)
        self.transport.resumeProducing()
        request: Request = self.requests[-1]
        # The socket may be closed when it is asked for.
        _ = request.host
        request.process()

    def receive_whole(self, content: bytes) -> None:
        """
        The whole content of the request at hand has come together with its head, or it has none. It
        need not be paced, then, nor timed: the request is processed as if it had been spooled.
        """
        request: Request = self.requests[-1]
        request.gotLength(len(content))
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.came_whole(content)
        elif content:
            request.handleContentChunk(content)
        self.allContentReceived()
        if stream is not None:
            request.process()

    def receive_later(self) -> None:
        """
        Not all of the content of the request at hand has come, whose head has been read, and says how
        long it is.
        """
        request: Request = self.requests[-1]
        (length,) = request.requestHeaders.getRawHeaders(b"content-length") or ()
        request.requestHeaders.removeHeader(b"content-length")
        # Twisted makes what reads the content when it reads this field.
        self.headerReceived(b"Content-Length: " + length)
        request.gotLength(self.length)
        self.setRawMode()
        if self._stream is not None:
            self._process_while_streaming()

    def write_informational(
        self, code: int, phrase: bytes, fields: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """Send an interim response (RFC 9110 §15.2)."""
        lines = [b"HTTP/1.1 %d %b" % (code, phrase)]
        lines += [name + b": " + value for name, value in fields]
        self.write(written_head(lines))

    def pace(self, demand: Demand) -> None:
        if self._incoming is not Incoming.STREAMED:
            return
        if demand is Demand.NOTHING:
            self.transport.pauseProducing()
        else:
            self.transport.resumeProducing()
        self.setTimeout(self._idle if demand is Demand.MORE else None)

    def resetTimeout(self) -> None:
        if self._incoming is Incoming.STREAMED:
            # It may be slow, as long as it goes on.
            TimedChannel.resetTimeout(self)
        elif self._incoming is not Incoming.CLOSING:
            super().resetTimeout()

    def timeoutConnection(self) -> None:
        if self._incoming is Incoming.STREAMED:
            _twisted.abort(self.transport)
        elif self._incoming is Incoming.CLOSING and self._is_answer_moving():
            self.setTimeout(_SECONDS_TO_CLOSE)
        else:
            super().timeoutConnection()

    def _is_answer_moving(self) -> bool:
        """Whether more of the answer has arrived since this was last asked, and not all of it."""
        before, now = self._on_its_way, _twisted.unacknowledged(self.transport)
        self._on_its_way = now
        # The kernel counts the end of a direction as one byte.
        return now > 1 and (before is None or now < before)

    def rawDataReceived(self, data: bytes) -> None:
        if self._incoming is Incoming.SPOOLED:
            super().rawDataReceived(data)
            return
        if self._incoming is not Incoming.STREAMED:
            self._dropped += len(data)
        if not _twisted.feed_content(self, data):
            self._break_off()
        elif self._dropped > MOST_DROPPED:
            if self._incoming is Incoming.DROPPED:
                self._close_behind_answer()
            if self._incoming is Incoming.CLOSING:
                self.transport.pauseProducing()

    def _break_off(self) -> None:
        """The content breaks the chunked grammar: nobody knows where it ends."""
        request, incoming = self.requests.pop(), self._incoming
        self._become_spooled()
        # While it is paused, TLS does not close.
        self.transport.resumeProducing()
        if incoming is not Incoming.STREAMED:
            self.loseConnection()
            return
        if request.startedWriting:
            _twisted.abort(self.transport)
        else:
            self._refuse(b"400 Bad Request")
        request.connectionLost(Failure(InvalidContent("the content breaks the chunked grammar")))

    def _become_spooled(self) -> None:
        self._incoming, self._stream = Incoming.SPOOLED, None
        self._dropped = 0
        self.setTimeout(self._idle)

    def allContentReceived(self) -> None:
        incoming = self._incoming
        if incoming is not Incoming.SPOOLED:
            # Twisted stops the idle timer until the request is done, and reads ahead.
            self._become_spooled()
            self.transport.resumeProducing()
        request: Request = self.requests[-1]
        # The socket may be closed when it is asked for.
        _ = request.host
        super().allContentReceived()
        if incoming in (Incoming.DROPPED, Incoming.CLOSING):
            super().requestDone(request)

    def requestDone(self, request: Request) -> None:
        """A request is finished, perhaps before its content."""
        stream = self._stream
        if self._incoming is not Incoming.STREAMED or stream is None:
            super().requestDone(request)
            return
        self.flush()
        if self.persistent and (stream.rest or 0) <= MOST_DROPPED:
            self._incoming = Incoming.DROPPED
            self.setTimeout(self._idle)
            self.transport.resumeProducing()
        else:
            self._close_behind_answer()

    def _close_behind_answer(self) -> None:
        """
        Close without the rest of the content, when the client has got the answer. Where one direction
        can be closed alone, the client sees at once that there is no more.
        """
        self._incoming = Incoming.CLOSING
        self.persistent = False
        self.transport.resumeProducing()
        self.transport.unregisterProducer()
        if _twisted.is_half_closeable(self.transport):
            self.transport.loseWriteConnection()
        self.setTimeout(_SECONDS_TO_CLOSE)

    def go_on_half_closed(self, request: Request) -> None:
        """The client has finished sending. A request goes on for as long as the client is there."""
        self.persistent = False
        request.responseHeaders.addRawHeader(b"connection", b"close")
        transport = self.transport
        if HalfClosed.can_look(transport):
            watch = HalfClosed(transport, self.site.reactor, lambda _: _twisted.abort(transport))
            request.notifyFinish().addBoth(lambda _: watch.cancel())

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        if self.persistent and self._is_last_answer():
            self.persistent = False
            options = connection_options(headers.getRawHeaders(b"connection") or ())
            if "close" not in options:
                headers.addRawHeader(b"connection", b"close")
        super().writeHeaders(version, code, reason, headers)

    def _is_last_answer(self) -> bool:
        """Whether an answer that begins now ends the connection, since its content is not read."""
        stream = self._stream
        if self._incoming is not Incoming.STREAMED or stream is None:
            return False
        return stream.awaits_continue or not (stream.is_wanted or (stream.rest or 0) <= MOST_DROPPED)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._stream = None
        _twisted.forget_content(self)
