"""
:class:`MessageProtocol`: a WebSocket on a transport. The frames are the ``websockets`` library's; what
waits, on either side, is bounded here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import TimeoutError
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from websockets.exceptions import ProtocolError
from websockets.extensions import Extension
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import SEND_EOF, Side, State
from websockets.protocol import Protocol as Frames
from zope.interface import implementer

from ... import _twisted
from ...connection import abort_because
from ...errors import InvalidArgument, StreamClosed
from ...interfaces import ICountsBytes, IDrainable, IStreamTransport
from ...sending import QuietTimeout
from .._heartbeat import Heartbeat
from .stream import Message, MessageStream

if TYPE_CHECKING:
    from ...server.request import UpgradeRequest

__all__ = ["Agreed", "Handler", "MessageProtocol", "Options"]

_log = Logger()

Handler: TypeAlias = Callable[[MessageStream], object]
"""Usually a coroutine function. It is called with each stream, which is closed when it has finished."""

# Seconds that the other end has to close, once everything has been sent to it.
_CLOSE_TIMEOUT: Final = 10

# Seconds between two checks whether the other end of a connection that is not read has gone.
_LOOK_INTERVAL: Final = 10


class Options(NamedTuple):
    """Options of all streams of an acceptor or an endpoint."""

    heartbeat: float | None
    max_message_size: int | None
    max_queue: int


class Agreed(NamedTuple):
    """What a handshake has settled."""

    side: Side
    subprotocol: str | None
    extensions: Sequence[Extension]


@implementer(IHalfCloseableProtocol, IPushProducer, IDrainable, ICountsBytes)
class MessageProtocol(Protocol):
    """
    Owns the connection of an open WebSocket, and calls the handler.

    :ivar bytes_in: how many bytes the received messages had.
    :ivar bytes_out: how many bytes the sent messages had.
    :ivar octets_sent: how many bytes have been written to the transport.
    :ivar is_full: whether more waits to be sent than should.
    """

    transport: IStreamTransport

    def __init__(self, handler: Handler) -> None:
        """
        It is connected after :meth:`agree` has been called.

        :param handler: called with the stream.
        """
        self._handler = handler
        self._parts = bytearray()
        self._is_text = False
        self._is_reading = True
        self._heartbeat: Heartbeat | None = None
        self._closing: QuietTimeout | None = None
        self._look_call: IDelayedCall | None = None
        self._has_peer_ended = False
        # Whether the handler gets no more of what arrives.
        self._is_deaf = False
        self.bytes_in = self.bytes_out = 0
        self.octets_sent = 0
        self.is_full: bool = False

    def agree(
        self,
        agreed: Agreed,
        options: Options,
        clock: IReactorTime,
        request: UpgradeRequest | None = None,
    ) -> None:
        """
        The handshake is over.

        :param request: on a server, the one that opens it.
        """
        self._clock = clock
        self._options = options
        self._request = request
        self._subprotocol = agreed.subprotocol
        self._frames = Frames(agreed.side, state=State.OPEN, max_size=options.max_message_size)
        self._frames.extensions = list(agreed.extensions)

    # The connection.

    def connectionMade(self) -> None:
        self.stream = MessageStream(self, self.transport.getPeer(), self._subprotocol, self._request)
        _twisted.register_producer(self.transport, self)
        if self._options.heartbeat is not None:
            self._heartbeat = Heartbeat(self._clock, self._options.heartbeat, self)
        if self._frames.side is Side.SERVER:
            self._call_handler()
        else:
            _twisted.keep_alive(self.transport)
            # Not at once: a handler may stop its ClientService, which has to know of the connection
            # first.
            self._clock.callLater(0, self._call_handler)

    def _call_handler(self) -> None:
        handling: Deferred[object] = maybeDeferred(self._handler, self.stream)
        handling.addCallbacks(self._handled, self._handler_failed)

    def _handled(self, _: object) -> None:
        if self.is_fully_open:
            self.send_close(CloseCode.NORMAL_CLOSURE, "")

    def _handler_failed(self, reason: Failure) -> None:
        # That the stream was closed is no error of a handler that did not expect it.
        if self.is_fully_open or not reason.check(StreamClosed):
            _log.failure("{handler} failed", reason, handler=self._handler)
        if self.is_fully_open:
            self.send_close(CloseCode.INTERNAL_ERROR, "")

    def dataReceived(self, data: bytes) -> None:
        if self._heartbeat is not None:
            self._heartbeat.heard()
        self._frames.receive_data(data)
        for frame in self._frames.events_received():
            assert isinstance(frame, Frame)
            self._frame_received(frame)
        self._flush()

    def readConnectionLost(self) -> None:
        """The other end sends no more. It still gets what waits for it, and the answer to its Close."""
        self._frames.receive_eof()
        self._flush()
        self._begin_closing()
        self.stream.ended()
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """This side has sent everything."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._frames.receive_eof()
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None
        if self._closing is not None:
            self._closing.cancel()
        if self._look_call is not None:
            self._look_call.cancel()
        # A TLS layer would keep it.
        self.transport.unregisterProducer()
        self.stream.connection_lost()
        # They refer to the frames, and the frames to them.
        self._frames.parser.close()
        self._frames.parser_exc = None

    # What is received.

    def _frame_received(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._is_text = frame.opcode is Opcode.TEXT
            if frame.fin:
                self._message_received(frame.data)
                return
        elif frame.opcode is Opcode.CLOSE:
            self.stream.ended()
            return
        elif frame.opcode is not Opcode.CONT:
            return
        # They are joined at once, so that many tiny fragments do not fill the memory with their
        # overhead.
        self._parts += frame.data
        if frame.fin:
            data, self._parts = self._parts, bytearray()
            self._message_received(data)

    def _message_received(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_deaf:
            return
        message: Message
        if self._is_text:
            try:
                message = str(data, "utf-8")
            except UnicodeDecodeError:
                self._is_deaf = True
                self._frames.fail(CloseCode.INVALID_DATA, "a text message is not UTF-8")
                return
        else:
            message = bytes(data)
        self.bytes_in += len(data)
        self.stream.message_received(message)
        self._decide_reading()

    def reads_on(self) -> None:
        """The handler has taken a message."""
        if not self._is_reading:
            self._decide_reading()

    def _decide_reading(self) -> None:
        # Once this side has closed, read on: what comes is the end, or is dropped, and the end of a
        # connection that is not read goes unnoticed.
        reads = self._closing is not None or self._has_room()
        if reads is self._is_reading:
            return
        self._is_reading = reads
        if not reads:
            self.transport.pauseProducing()
            if self._look_call is None:
                self._look_call = self._clock.callLater(_LOOK_INTERVAL, self._look_for_end)
            return
        if self._heartbeat is not None:
            self._heartbeat.reads_again()
        self.transport.resumeProducing()

    def _has_room(self) -> bool:
        """Whether there is room for one more message to wait for the handler."""
        most = self._options.max_message_size
        if most is not None and self.stream.waiting_size >= most:
            return False
        if self._has_peer_ended:
            # There is not much more, and the end follows it.
            return True
        return not self.is_full and self.stream.waiting < self._options.max_queue

    def _look_for_end(self) -> None:
        """
        A handler that does not receive is told of the end all the same, and a stranger's connection
        does not stay open for as long as the handler waits.
        """
        self._look_call = None
        if self._is_reading:
            return
        self._has_peer_ended = _twisted.has_peer_ended(self.transport)
        self._decide_reading()
        if not self._is_reading:
            self._look_call = self._clock.callLater(_LOOK_INTERVAL, self._look_for_end)

    # What is sent.

    def send_message(self, message: Message) -> None:
        """Send it. The stream is open."""
        if isinstance(message, str):
            message = message.encode()
            self._frames.send_text(message)
        else:
            # The length of a view is not that of its bytes.
            message = bytes(message)
            self._frames.send_binary(message)
        self.bytes_out += len(message)
        self._flush()

    def sendPing(self) -> None:
        self._frames.send_ping(b"")
        self._flush()

    def send_close(self, code: int, reason: str) -> None:
        """
        Close it, if it is open.

        :raises InvalidArgument: if there is no such code, or the reason is too long.
        """
        if not self.is_fully_open:
            return
        try:
            self._frames.send_close(code, reason)
        except ProtocolError as error:
            raise InvalidArgument(
                f"a WebSocket cannot be closed with {code}, {reason!r}: {error}"
            ) from None
        self._is_deaf = True
        self._flush()

    def _flush(self) -> None:
        pieces = self._frames.data_to_send()
        if self._closing is not None and self.is_full:
            # This side reads although the other does not, so leave out the pongs, which would pile up.
            pieces = [piece for piece in pieces if piece == SEND_EOF]
        if pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self.octets_sent += len(data)
            if data:
                self.transport.write(data)
        if self._frames.close_expected():
            self._begin_closing()
        if pieces and pieces[-1] == SEND_EOF:
            self._end_sending()

    def _begin_closing(self) -> None:
        if self._closing is None:
            why = self._close_timed_out
            self._closing = QuietTimeout(self.transport, self._clock, _CLOSE_TIMEOUT, why)
            self._decide_reading()

    def _end_sending(self) -> None:
        """
        Everything has been sent. (RFC 6455 §7.1.1: the server is the first to close the connection.)
        """
        # With a producer, TLS would wait for more.
        self.transport.unregisterProducer()
        half_close = getattr(self.transport, "loseWriteConnection", None)
        if half_close is not None and not ISSLTransport.providedBy(self.transport):
            # The other end may still be sending: if nothing read it, the kernel would answer with a
            # reset, which would overtake the Close frame.
            half_close()
        else:
            self.transport.loseConnection()

    def _close_timed_out(self) -> None:
        abort_because(self.transport, TimeoutError(string="the other end did not close"))

    def pauseProducing(self) -> None:
        self.is_full = True
        self._decide_reading()

    def resumeProducing(self) -> None:
        self.is_full = False
        self.stream.has_room()
        self._decide_reading()

    def stopProducing(self) -> None:
        """The connection ends, and tells in another way."""

    # The end.

    @property
    def is_fully_open(self) -> bool:
        return self._frames.state is State.OPEN

    @property
    def is_reading_paused(self) -> bool:
        return not self._is_reading

    @property
    def has_ended(self) -> bool:
        return self._frames.close_rcvd is not None or self._frames.state is State.CLOSED

    @property
    def why_closed(self) -> tuple[int, str]:
        frames = self._frames
        # What the other end has said counts; if it has said nothing, the connection was cut off.
        if frames.close_rcvd is not None:
            return frames.close_rcvd.code, frames.close_rcvd.reason
        if frames.close_sent is not None and frames.state is not State.CLOSED:
            return frames.close_sent.code, frames.close_sent.reason
        return CloseCode.ABNORMAL_CLOSURE, ""

    def drain(self) -> None:
        self.send_close(CloseCode.GOING_AWAY, "the server is going down")

    def give_up(self, seconds: float) -> None:
        why = f"time-out: nothing has come for {seconds:g} seconds, nor a pong"
        abort_because(self.transport, TimeoutError(string=why))

    def abort(self) -> None:
        """End the connection at once."""
        _twisted.abort(self.transport)
