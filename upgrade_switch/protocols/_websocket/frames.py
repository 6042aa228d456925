"""
A stream of bytes in WebSocket's binary messages: :class:`ByteStream`, what the protocols of both sides
have in common, and :class:`FrameTransport`, the transport of the protocol inside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from os import urandom
from struct import pack
from typing import Any

from autobahn.websocket.xormasker import create_xor_masker  # type: ignore[attr-defined]  # NVX's or its own
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IProducer,
    IProtocol,
    IReactorTime,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from ... import _twisted
from ...interfaces import (
    ICarriedTransport,
    IStreamTransport,
)
from .heartbeat import BeatingProtocol

__all__ = ["ByteStream", "FrameTransport", "HalfClosingTransport"]

_UNSUPPORTED_DATA = 1003

# RFC 6455 §5.2: the first byte of a binary message in one frame, and the bit that says it is masked.
_BINARY, _MASKED = 0x82, 0x80

# A payload up to here is copied behind its head: that costs less than a second part.
_COPIED = 16 * 1024

# RFC 6455 §7.4.1: close codes that do not mean a failure. None and 1005 stand for no code at all.
_CLEAN_CODES = (None, 1000, 1005)


@implementer(ICarriedTransport)
class FrameTransport:
    """
    The transport of a protocol whose bytes are sent in binary messages. There is no half-close.
    """

    def __init__(self, websocket: ByteStream) -> None:
        self._websocket = websocket
        self.disconnecting = False
        self.disconnected = False
        self.paused = False
        self._has_producer = False

    def write(self, data: bytes) -> None:
        self._write(data, self._websocket.is_first_frame())

    def write_at_once(self, data: bytes) -> None:
        """Write; send it now, if the carrier can: with nothing in front of it, and no TLS between."""
        self._write(data, True)

    def _write(self, data: bytes, at_once: bool) -> None:
        # As with every transport, what is written after the end is dropped.
        if data and self._websocket.state == self._websocket.STATE_OPEN:
            self._websocket.bytes_out += len(data)
            self._websocket.send_binary(bytes(data), at_once)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if not self.disconnecting:
            self.disconnecting = True
            if not self._has_producer:
                self._close()

    def _close(self) -> None:
        self._websocket.sendClose(1000)
        # The other side's Close frame is still to be read.
        self._websocket.transport.resumeProducing()

    def abortConnection(self) -> None:
        self.disconnecting = True
        self._websocket.transport.abortConnection()

    def getPeer(self) -> IAddress:
        return self._websocket.transport.getPeer()

    def getHost(self) -> IAddress:
        return self._websocket.transport.getHost()

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self._websocket.registerProducer(producer, streaming)
        self._has_producer = True

    def unregisterProducer(self) -> None:
        self._websocket.unregisterProducer()
        self._has_producer = False
        if self.disconnecting:
            self._close()

    def pauseProducing(self) -> None:
        self.paused = True
        self._websocket.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self.paused = False
        self._websocket.resume()

    def setTcpNoDelay(self, enabled: bool) -> None:
        _twisted.bottom(self._websocket.transport).setTcpNoDelay(enabled)

    def setTcpKeepAlive(self, enabled: bool) -> None:
        _twisted.bottom(self._websocket.transport).setTcpKeepAlive(enabled)

    def stopProducing(self) -> None:
        self.loseConnection()

    @property
    def carrier(self) -> IStreamTransport:
        """The transport of the WebSocket."""
        return self._websocket.transport

    @property
    def reads(self) -> int:
        """How often the carrier has brought something."""
        return self._websocket.reads


class HalfClosingTransport(FrameTransport):
    """
    The same where both sides have agreed on half-closes: an empty message ends the direction that it is
    sent in.
    """

    _write_ended = False
    _write_ending = False

    def _write(self, data: bytes, at_once: bool) -> None:
        if not self._write_ended:
            super()._write(data, at_once)

    def loseWriteConnection(self) -> None:
        """Send nothing more, once a producer that is registered has finished; still receive."""
        self._write_ending = True
        if not self._has_producer:
            self._end_write()

    def _end_write(self) -> None:
        if self._write_ended or self._websocket.state != self._websocket.STATE_OPEN:
            return
        self._write_ended = True
        self._websocket.sendMessage(b"", isBinary=True)
        half_closeable = IHalfCloseableProtocol(self._websocket.inner, None)
        if half_closeable is not None:
            half_closeable.writeConnectionLost()

    def unregisterProducer(self) -> None:
        self._has_producer = False
        if self._write_ending:
            self._end_write()
        super().unregisterProducer()


class ByteStream(BeatingProtocol):
    """
    One side's WebSocket protocol: passes bytes on as they come, without waiting for whole messages.

    :ivar inner: the protocol of the byte stream; None before it has been built.
    :ivar bytes_in: how many bytes have come, without frames around them.
    :ivar bytes_out: how many have been sent.
    :ivar reads: how often something has come.
    """

    factory: Any
    inner: IProtocol | None = None
    bytes_in = bytes_out = reads = 0
    # The site's, or the endpoint's.
    clock: IReactorTime
    _frames: FrameTransport | None = None
    # Whether the first frame behind what has come is sent at once. A server's transport sees to that.
    _sends_at_once = False
    _is_first = False
    _got_text = False
    _half_closes = False
    _is_empty = False
    _read_ended = False

    def __init__(self) -> None:
        super().__init__()
        # Bytes that came in the same segment as those at which the inner protocol paused; b"" is the
        # end of this direction.
        self._held: deque[bytes] = deque()
        self._is_delivering = False

    def send_binary(self, payload: bytes, at_once: bool) -> None:
        """
        Send a binary message in one frame (RFC 6455 §5.2). It is what autobahn's ``sendMessage`` does
        where nothing is compressed or fragmented and frames are as they should be, but that copies the
        payload behind the head, and looks at every option.

        :param at_once: whether not to wait for the reactor's turn, where that is possible.
        """
        size = len(payload)
        masked = 0 if self.is_server else _MASKED
        if size < 126:
            head = bytes((_BINARY, masked | size))
        elif size < 65536:
            head = pack("!BBH", _BINARY, masked | 126, size)
        else:
            head = pack("!BBQ", _BINARY, masked | 127, size)
        if masked:
            mask = urandom(4)
            head += mask
            payload = create_xor_masker(mask, size).process(payload)
        stats = self.trafficStats
        stats.outgoingWebSocketMessages += 1
        stats.outgoingWebSocketFrames += 1
        stats.outgoingOctetsAppLevel += size
        stats.outgoingOctetsWebSocketLevel += size
        stats.outgoingOctetsWireLevel += len(head) + size
        if size > _COPIED:
            if at_once:
                _twisted.write_at_once(self.transport, head, payload)
            else:
                self.transport.writeSequence((head, payload))
        elif at_once:
            _twisted.write_at_once(self.transport, head + payload)
        else:
            self.transport.write(head + payload)

    def onOpen(self) -> None:
        self._start_beating(self.clock, self.factory.heartbeat)
        # What has come is the answer to the handshake.
        self._is_first = self._sends_at_once
        self._frames = (HalfClosingTransport if self._half_closes else FrameTransport)(self)
        if self.inner is not None:
            self.inner.makeConnection(self._frames)

    def dataReceived(self, data: bytes) -> None:
        self.reads += 1
        self._is_first = self._sends_at_once
        super().dataReceived(data)

    def is_first_frame(self) -> bool:
        """Whether the next frame is sent at once. To be asked once for each."""
        is_first, self._is_first = self._is_first, False
        return is_first

    def _is_paused(self) -> bool:
        return self._frames is not None and self._frames.paused

    def resume(self) -> None:
        """The inner protocol reads again: it gets the bytes that are held first."""
        self._deliver_held(self._is_paused)
        if self._is_paused():
            return
        self._wait_for_room()
        if self._backpressure is None:
            self._reads_again()
            self.transport.resumeProducing()

    def _deliver_held(self, is_paused: Callable[[], bool]) -> None:
        # An inner protocol may pause and resume while it is given a piece: it gets the next one later.
        if self._is_delivering:
            return
        self._is_delivering = True
        try:
            while self._held and not is_paused():
                self._deliver(self._held.popleft())
        finally:
            self._is_delivering = False

    def _deliver(self, payload: bytes) -> None:
        frames = self._frames
        if self.inner is None or frames is None or frames.disconnecting:
            return
        if payload:
            self.inner.dataReceived(payload)
            return
        half_closeable = IHalfCloseableProtocol(self.inner, None)
        if half_closeable is not None:
            half_closeable.readConnectionLost()
        else:
            # As with TCP, where a FIN ends the connection of a protocol that does not know half-closes.
            frames.loseConnection()

    def onMessageBegin(self, isBinary: bool) -> None:
        if not isBinary:
            self._got_text = True
            self.sendCloseFrame(code=_UNSUPPORTED_DATA, reasonUtf8=b"binary messages, please")
            # RFC 6455 §7.1.7: the answer need not be waited for.
            self.transport.loseConnection()
        self._is_empty = True

    def onMessageFrameBegin(self, length: int) -> None:
        pass

    def onMessageFrameData(self, payload: bytes) -> None:
        # Also while the server is going down: the client may have sent this before it knew.
        if payload:
            self._is_empty = False
            self._receive(payload)

    def _receive(self, payload: bytes) -> None:
        if self._got_text or self._read_ended:
            return
        self.bytes_in += len(payload)
        if self._held or self._is_paused():
            self._held.append(payload)
        else:
            self._deliver(payload)

    def onMessageFrameEnd(self) -> None:
        pass

    def onMessageEnd(self) -> None:
        if self._is_empty and self._half_closes:
            self._receive(b"")
            self._read_ended = True

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        frames = self._frames
        self._stop_beating()
        if frames is not None:
            self._deliver_held(lambda: False)
            self._frames = None
            frames.disconnecting = frames.disconnected = True
            failed = self.failedByMe or self._got_text or not self._is_clean(code)
            error = (
                ConnectionDone()
                if wasClean and not failed
                else ConnectionLost(reason or f"the WebSocket was closed with code {code}")
            )
            if self.inner is not None:
                self.inner.connectionLost(Failure(error))

    def _is_clean(self, code: int | None) -> bool:
        """Whether a close code is that of a stream that was complete."""
        return code in _CLEAN_CODES
