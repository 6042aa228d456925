"""
autobahn's protocols, open as soon as they are connected: the classes that stand before and behind a
user's class, and the state that autobahn gives to a new connection and to one whose handshake is over.
Used through ``_autobahn.py``.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from autobahn.websocket.protocol import WebSocketProtocol
from autobahn.websocket.utf8validator import Utf8Validator
from twisted.internet.error import TimeoutError
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ... import _twisted
from ...connection import abort_because
from ...interfaces import ICountsBytes, IStreamTransport
from ...sending import QuietTimeout, remaining
from ._internals import CONNECTING, AutobahnProtocol, BoundsMessages, HandshakeResult, enter_open_state

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twisted.internet.interfaces import IDelayedCall, IProducer

__all__ = [
    "CLOSE_TIMEOUT",
    "AutobahnProtocol",
    "HandshakeResult",
    "OpensWhenConnected",
    "TwistedAdapter",
    "forget_protocol",
]

# Bytes that are read after the other side has broken the rules, until its Close frame has come. A
# client whose message is too large has much of it on its way, and shall see why it was closed.
_MOST_AFTER_FAILURE = 65536
_MOST_AFTER_TOO_MUCH = 64 * 2**20

# A registered close code that autobahn does not know, and one that it does.
_BAD_GATEWAY, _TRY_AGAIN_LATER = 1014, 1013

# Seconds until the connection is aborted, once it is being closed, if the other side takes nothing of
# what is still to be written, or does not close when it has taken all.
CLOSE_TIMEOUT = 60

# So many pieces of a message are joined to one: each costs some fifty bytes, however short it is.
_MOST_PIECES = 256

# Seconds between two attempts to send a pong on a connection that is full.
_PONG_INTERVAL = 0.1


class OpensWhenConnected(BoundsMessages):
    """
    Stands before the class of an autobahn protocol in the method resolution order.

    It opens the protocol when it is connected, and stops reading while the other side does not read.
    """

    _handshake: HandshakeResult | None = None
    _backpressure: _twisted.WriteBackpressure | None = None
    _after_failure = 0

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Keeps a user's hook for subclasses from running for the classes that are made here."""

    def makeConnection(self, transport: IStreamTransport) -> None:
        super().makeConnection(transport)
        handshake, self._handshake = self._handshake, None
        if handshake is not None and self.state in CONNECTING:
            enter_open_state(self, handshake)

    def dataReceived(self, data: bytes) -> None:
        if self.failedByMe:
            # RFC 6455 §7.1.7: nothing that comes matters any more, except for a Close frame.
            self._after_failure += len(data)
            too_large = self.wasMaxMessagePayloadSizeExceeded
            if self._after_failure > (_MOST_AFTER_TOO_MUCH if too_large else _MOST_AFTER_FAILURE):
                self.dropConnection(abort=True)
        if self.state == WebSocketProtocol.STATE_CLOSED:
            return
        super().dataReceived(data)
        self._wait_for_room()

    def _wait_for_room(self) -> None:
        """If the other side does not read what is sent, do not read what it sends."""
        backpressure = _twisted.wait_for_room(self.transport, self._room_again)
        if backpressure is not None:
            self._backpressure = backpressure

    def _room_again(self) -> None:
        self._backpressure = None
        if not self._is_paused():
            self._reads_again()
            self.transport.resumeProducing()

    def _stop_waiting(self) -> None:
        if self._backpressure is not None:
            self._backpressure.resumeProducing()

    def registerProducer(self, producer: object, streaming: bool) -> None:
        self._stop_waiting()
        super().registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self._stop_waiting()
        super().unregisterProducer()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        try:
            super().connectionLost(reason)
        finally:
            # Whatever a user's onClose raises: its place is free again.
            if self._is_counted:
                self._is_counted = False
                self.factory.countConnections -= 1
            self._backpressure = None
            forget_protocol(self)

    def startHandshake(self) -> None:
        """A client's own handshake: it has been done."""

    startProxyConnect = startHandshake


def forget_protocol(protocol: AutobahnProtocol) -> None:
    """
    Break a cycle: autobahn fires the Deferred ``is_closed`` of a protocol with the protocol itself.
    """
    protocol.is_closed.addCallback(lambda _: None)


@implementer(ICountsBytes)
class TwistedAdapter(AutobahnProtocol):
    """
    Stands behind a user's class and autobahn's in the method resolution order, and in front of
    autobahn's own adapter to Twisted. That one does not find the TLS layer beneath wrappers and after
    ``startTLS``; it describes each call for its log, even if the log is not written; and it logs the
    failures of TLS, which strangers cause, as errors.
    """

    _is_bad_gateway = False
    _late_pong: bytes | None = None
    _pong_call: IDelayedCall | None = None
    _end_call: QuietTimeout | None = None

    def connectionMade(self) -> None:
        if not self.tcpNoDelay and ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(False)
        super().connectionMade()

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        _twisted.register_producer(self.transport, producer, streaming)

    @cached_property
    def utf8validator(self) -> Utf8Validator:
        """Made when text comes, since on most connections none does."""
        return Utf8Validator()

    @property
    def bytes_in(self) -> int:
        """How many bytes the messages had that were received."""
        return _counted(self, "incomingOctetsAppLevel")

    @property
    def bytes_out(self) -> int:
        """How many bytes the messages had that were sent."""
        return _counted(self, "outgoingOctetsAppLevel")

    def onMessageBegin(self, isBinary: bool) -> None:
        super().onMessageBegin(isBinary)
        self.message_data = Pieces()

    def onMessageFrameBegin(self, length: int) -> None:
        super().onMessageFrameBegin(length)
        self.frame_data = Pieces()

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool | None:
        if code != _BAD_GATEWAY:
            result: bool | None = super().onCloseFrame(code, reasonRaw)
            return result
        self._is_bad_gateway = True
        result = super().onCloseFrame(_TRY_AGAIN_LATER, reasonRaw)
        self.remoteCloseCode = code
        return result

    def _true_close_code(self, code: int | None) -> int | None:
        # The connection may end at the Close frame, before its code is put right.
        return _BAD_GATEWAY if self._is_bad_gateway and code == _TRY_AGAIN_LATER else code

    def sendCloseFrame(self, *args: object, **kwargs: object) -> None:
        if self._is_bad_gateway and kwargs.get("code") == _TRY_AGAIN_LATER:
            kwargs["code"] = _BAD_GATEWAY
        before = self.closeHandshakeTimeoutCall
        super().sendCloseFrame(*args, **kwargs)
        call = self.closeHandshakeTimeoutCall
        if call is not None and call is not before:
            # autobahn's timer counts whole seconds of the clock: one second may be over at once, and
            # the connection is aborted before the Close frame is on its way. Nor does autobahn see
            # that the other side is still reading what was sent before that frame.
            call.cancel()
            self.closeHandshakeTimeoutCall = QuietTimeout(
                self.transport,
                self.factory.reactor,
                self.closeHandshakeTimeout,
                self.onCloseHandshakeTimeout,
            )

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        for name in ("_pong_call", "_end_call", "closeHandshakeTimeoutCall"):
            call = getattr(self, name, None)
            if call is not None:
                setattr(self, name, None)
                call.cancel()
        super().connectionLost(reason)
        self.data = b""
        self.__dict__["control_frame_data"] = []

    def _is_paused(self) -> bool:
        """Whether reading is paused for another reason than a lack of room; to be overridden."""
        return False

    def _reads_again(self) -> None:
        """Reading begins again; to be overridden."""

    def _end_connection(self, abort: bool) -> None:
        if abort and not self.wasClean:
            if self.wasCloseHandshakeTimeout and not remaining(self.transport):
                # The other side has everything, and may still be reading it: a reset would look as if
                # something were missing.
                self.transport.loseConnection()
                _twisted.bottom(self.transport).loseConnection()
            else:
                timed_out = self._has_timed_out or self.wasCloseHandshakeTimeout
                why = TimeoutError(string=self.wasNotCleanReason) if timed_out else None
                abort_because(self.transport, why)
            return
        # Both sides have closed; what is still to be written must not be lost.
        self.transport.loseConnection()
        if self._end_call is None and not _twisted.bottom(self.transport).disconnected:
            self._end_call = QuietTimeout(
                self.transport, self.factory.reactor, CLOSE_TIMEOUT, self._close_timed_out
            )

    def _close_timed_out(self) -> None:
        self._end_call = None
        abort_because(self.transport, TimeoutError(string="the other end did not close"))

    def _ping_came(self, payload: bytes) -> None:
        if not _twisted.is_full(self.transport):
            self.onPing(payload)
            return
        # The other side does not read. RFC 6455 §5.5.3: one pong, to the latest ping, is enough.
        self._late_pong = payload
        if self._pong_call is None:
            self._pong_call = self.factory.reactor.callLater(_PONG_INTERVAL, self._pong)

    def _pong(self) -> None:
        self._pong_call = None
        payload, self._late_pong = self._late_pong, None
        if payload is not None and self.state == WebSocketProtocol.STATE_OPEN:
            self._ping_came(payload)


def _counted(protocol: object, name: str) -> int:
    # autobahn begins to count when the connection is made.
    stats = getattr(protocol, "trafficStats", None)
    return 0 if stats is None else int(getattr(stats, name))


class Pieces(list[bytes]):
    """
    The pieces of a message, or of a frame, until it is complete: a client that sends bytes one by one,
    or empty fragments without end, does not fill the memory with their overhead.
    """

    _joined = 0

    def append(self, piece: bytes) -> None:
        if piece:
            super().append(piece)
            if len(self) - self._joined > _MOST_PIECES:
                # Each byte is copied once: what has been joined stays as it is.
                self[self._joined :] = [b"".join(self[self._joined :])]
                self._joined += 1

    def extend(self, pieces: Iterable[bytes]) -> None:
        self.append(b"".join(pieces))
