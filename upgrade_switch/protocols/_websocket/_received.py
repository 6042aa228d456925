"""
What autobahn's protocols receive, and how much of it. Used through ``_opened.py``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from inspect import signature
from typing import TYPE_CHECKING, Any

from autobahn.exception import PayloadExceededError
from autobahn.twisted.websocket import WebSocketAdapterProtocol
from autobahn.websocket.compress_deflate import PerMessageDeflate
from autobahn.websocket.protocol import WebSocketProtocol

from ...interfaces import IStreamTransport
from ...sending import QuietTimeout

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

__all__ = ["PROTOCOL", "AutobahnProtocol", "BoundsMessages", "Pieces"]

# autobahn's compressions can be told how much they may produce, from 26.10 on; older ones are given so
# many bytes at a time, of which they cannot make much.
_IS_BOUNDED = "max_output_len" in signature(PerMessageDeflate.decompress_message_data).parameters
_SLICE = 256

# So many pieces of a message are joined to one: each costs some fifty bytes, however short it is.
_MOST_PIECES = 256

# Untyped: autobahn's annotations differ from version to version, and contradict one another.
_ADAPTER: Any = WebSocketAdapterProtocol
PROTOCOL: Any = WebSocketProtocol


class AutobahnProtocol(_ADAPTER, PROTOCOL):
    """What all of autobahn's protocols on Twisted are."""

    transport: IStreamTransport
    closeHandshakeTimeoutCall: IDelayedCall | QuietTimeout | None
    # Whether the other end did not answer a ping.
    _has_timed_out = False

    def onAutoPingTimeout(self) -> None:
        self._has_timed_out = True
        super().onAutoPingTimeout()


class BoundsMessages(AutobahnProtocol):
    """
    A mixin in front of a protocol's class: ends a connection on which a message becomes too large.
    """

    # How many bytes a message that is received may have, decompressed; 0: any. autobahn's option
    # maxMessagePayloadSize would hold for those that are sent, too.
    _most_received = 0
    # Those of the message that is being received.
    _received = 0

    def _onMessageBegin(self, isBinary: bool) -> None:
        self._received = 0
        super()._onMessageBegin(isBinary)

    def _onMessageFrameBegin(self, length: int) -> None:
        if self._most_received and not self._isMessageCompressed:
            self._received += length
            self._check_size()
        super()._onMessageFrameBegin(length)

    def onFrameData(self, payload: bytes) -> bool | None:
        if self._most_received and self.current_frame.opcode <= 7 and self._isMessageCompressed:
            return self._on_compressed(payload)
        result: bool | None = super().onFrameData(payload)
        return result

    def _on_compressed(self, payload: bytes) -> bool | None:
        """
        Decompress no more than what a message may have: a few kilobytes can become gigabytes.

        :return: False if the connection has failed.
        """
        if self.failedByMe:
            return None
        try:
            data = self._decompress(payload)
        except PayloadExceededError:
            self._received = self._most_received + 1
            self._check_size()
            return False
        except Exception as error:
            # zlib's, bz2's, or autobahn's own.
            self._invalid_payload(f"a message cannot be decompressed: {error}")
            return False
        self.trafficStats.incomingOctetsWebSocketLevel += len(payload) - len(data)
        # autobahn would decompress it, if it knew.
        self._isMessageCompressed = False
        try:
            result: bool | None = super().onFrameData(data)
        finally:
            self._isMessageCompressed = True
        return result

    def _decompress(self, payload: bytes) -> bytes:
        """
        :raises PayloadExceededError: if it would become more than the message may have.
        """
        if not payload:
            return b""
        decompress = self._perMessageCompress.decompress_message_data
        pieces: list[bytes] = []
        for start in range(0, len(payload), len(payload) if _IS_BOUNDED else _SLICE):
            if _IS_BOUNDED:
                room = self._most_received - self._received
                pieces.append(decompress(payload, max_output_len=room))
            else:
                pieces.append(decompress(payload[start : start + _SLICE]))
            self._received += len(pieces[-1])
            if self._received > self._most_received:
                raise PayloadExceededError
        return b"".join(pieces)

    def onFrameEnd(self) -> bool | None:
        try:
            result: bool | None = super().onFrameEnd()
        except zlib.error as error:
            if _IS_BOUNDED:
                # A user's, then.
                raise
            self._invalid_payload(f"a message cannot be decompressed: {error}")
            return False
        return result

    def _check_size(self) -> None:
        if self._received <= self._most_received or self.failedByMe:
            return
        self.wasMaxMessagePayloadSizeExceeded = True
        if not self.maxMessagePayloadSize:
            # It is not autobahn's limit, so its option does not count: the client is told.
            self.failByDrop = False
        self._max_message_size_exceeded(
            self._received,
            self._most_received,
            f"the message has more than {self._most_received} bytes",
        )


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
