"""
:class:`FrameReader`: what comes on a connection, as frames and as lists of fields (RFC 9113 §4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from typing import Protocol as TypingProtocol

from h2.errors import ErrorCodes
from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from .budget import Budget
from .frames import HEAD, LAST_STREAM, Flag, FrameType, header_block_of

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from .lists import Field

__all__ = [
    "LONGEST_FIELDS",
    "BrokenRule",
    "Frame",
    "FrameReader",
    "FrameReceiver",
    "Message",
    "is_priority",
    "read_goaway",
]

# Bytes of a list of fields, as RFC 9113 §6.5.2 counts them: what the other side is told, and what costs
# the connection, since its decoder has to read all of it.
LONGEST_FIELDS = 2**16
_LONGEST_DECODED = 2**18

# Bytes of a header block.
_LONGEST_BLOCK = 2**16

# Clients that ask for the same again and again send the same bytes: each stands for a field in the
# decoder's table (RFC 7541 §6.1). Some such blocks are remembered.
_INDEXED = 0x80
_LONGEST_KNOWN, _MOST_KNOWN = 64, 16

# The longest frame that is taken, with its head (RFC 9113 §4.2): what all must take.
_LONGEST_FRAME = 9 + 2**14

_ACK, _END_HEADERS, _END_STREAM = int(Flag.ACK), int(Flag.END_HEADERS), int(Flag.END_STREAM)
_DATA, _HEADERS, _SETTINGS = int(FrameType.DATA), int(FrameType.HEADERS), int(FrameType.SETTINGS)
_CONTINUATION, _WINDOW_UPDATE = int(FrameType.CONTINUATION), int(FrameType.WINDOW_UPDATE)


class BrokenRule(Exception):
    """
    The other side has broken a rule, or asks for too much, and that ends the connection.

    :ivar code: why (RFC 9113 §7).
    """

    def __init__(self, code: ErrorCodes) -> None:
        super().__init__(code.name)
        self.code = code


class Frame(NamedTuple):
    """A frame that is neither DATA nor part of a header block."""

    kind: int
    flags: int
    stream_id: int
    raw: bytes
    """All of it, its head included."""


class Message(NamedTuple):
    """The fields of a message: its head, or its trailers."""

    stream_id: int
    fields: list[Field]
    ends: bool
    """Whether nothing follows on the stream."""


def read_goaway(frame: Frame) -> tuple[int, int]:
    """
    The last stream that a GOAWAY names, and its code (RFC 9113 §6.8).

    :raises BrokenRule: if it is on a stream, or too short.
    """
    if frame.stream_id:
        raise BrokenRule(ErrorCodes.PROTOCOL_ERROR)
    if len(frame.raw) < 17:
        raise BrokenRule(ErrorCodes.FRAME_SIZE_ERROR)
    last_stream = int.from_bytes(frame.raw[9:13], "big") & LAST_STREAM
    return last_stream, int.from_bytes(frame.raw[13:17], "big")


def is_priority(frame: Frame) -> bool:
    """
    Whether a PRIORITY, which is ignored otherwise (RFC 9113 §5.3.2), has the right size (§6.3).

    :raises BrokenRule: if it is on no stream.
    """
    if not frame.stream_id:
        raise BrokenRule(ErrorCodes.PROTOCOL_ERROR)
    return len(frame.raw) == 14


class _Block(NamedTuple):
    """A header block that has not all come."""

    stream_id: int
    flags: int
    begun: bytes


class FrameReceiver(TypingProtocol):
    """What gets all that has been read."""

    def data_came(self, stream_id: int, flags: int, raw: bytes) -> None:
        """
        A DATA frame, which most are.

        :param raw: all of it, its head included.
        """

    def frame_came(self, frame: Frame) -> None:
        """Another frame."""

    def message_came(self, message: Message) -> None:
        """A whole list of fields."""


class FrameReader:
    """
    Cuts what comes into frames, and puts header blocks together. It sees to the order of frames, to
    their size, and to the budget.

    :ivar has_begun: whether anything has come.
    :ivar count: how many frames and messages have been read.
    :ivar is_closed: whether nothing more is to be read.
    :ivar is_in_head: whether what has come ends in the middle of something other than content.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.budget = Budget(clock)
        self.has_begun = False
        self.count = 0
        self.is_closed = self.is_in_head = False
        self._decoder = Decoder()
        self._decoder.max_header_list_size = _LONGEST_DECODED
        self._buffer = b""
        # Blocks that have come, and mean the same as long as the decoder's table is the same.
        self._known: dict[bytes, list[Field]] = {}
        self._block: _Block | None = None

    def read(self, data: bytes, receiver: FrameReceiver) -> None:
        """
        Read what has come.

        :param receiver: gets it, one by one.
        :raises BrokenRule: if the other side has broken a rule; so may the receiver.
        """
        if self._buffer:
            data = self._buffer + data
        position, size = 0, len(data)
        while size - position >= 9 and not self.is_closed:
            high, low, kind, flags, stream_id = HEAD.unpack_from(data, position)
            end = position + 9 + (high << 8) + low
            if end - position > _LONGEST_FRAME:
                raise BrokenRule(ErrorCodes.FRAME_SIZE_ERROR)
            if end > size:
                break
            raw = data[position:end]
            position = end
            stream_id &= LAST_STREAM
            if kind == _DATA and self.has_begun and self._block is None:
                self.count += 1
                receiver.data_came(stream_id, flags, raw)
            else:
                self._read_other(Frame(kind, flags, stream_id, raw), receiver)
        self._buffer = rest = data[position:]
        is_in_frame = bool(rest) and (len(rest) < 4 or rest[3] != _DATA)
        self.is_in_head = is_in_frame or self._block is not None

    def _read_other(self, frame: Frame, receiver: FrameReceiver) -> None:
        kind, flags, stream_id, raw = frame
        if not self.has_begun:
            # RFC 9113 §3.4.
            self.has_begun = True
            if kind != _SETTINGS or flags & _ACK:
                raise BrokenRule(ErrorCodes.PROTOCOL_ERROR)
        block = self._block
        if block is None and kind == _CONTINUATION:
            raise BrokenRule(ErrorCodes.PROTOCOL_ERROR)
        if block is not None and (kind != _CONTINUATION or stream_id != block.stream_id):
            # RFC 9113 §6.10.
            raise BrokenRule(ErrorCodes.PROTOCOL_ERROR)
        if kind == _SETTINGS and flags & _ACK and len(raw) > 9:
            # RFC 9113 §6.5; to h2 it is another error.
            raise BrokenRule(ErrorCodes.FRAME_SIZE_ERROR)
        if kind == _WINDOW_UPDATE and len(raw) == 13:
            # RFC 9113 §6.9: the first bit is ignored, which h2 does not do.
            raw = raw[:9] + (int.from_bytes(raw[9:], "big") & LAST_STREAM).to_bytes(4, "big")
            frame = frame._replace(raw=raw)
        if not self.budget.allows(raw):
            raise BrokenRule(ErrorCodes.ENHANCE_YOUR_CALM)
        if kind != _HEADERS and block is None:
            self.count += 1
            receiver.frame_came(frame)
            return
        if block is None:
            begun = header_block_of(raw)
            if begun is None or not stream_id:
                raise BrokenRule(ErrorCodes.PROTOCOL_ERROR)
            block = _Block(stream_id, flags, begun)
        else:
            block = block._replace(begun=block.begun + raw[9:])
        if len(block.begun) > _LONGEST_BLOCK:
            raise BrokenRule(ErrorCodes.ENHANCE_YOUR_CALM)
        if flags & _END_HEADERS:
            self._block = None
            self.count += 1
            receiver.message_came(self._read_block(block))
        else:
            self._block = block

    def _read_block(self, block: _Block) -> Message:
        try:
            fields = self._decode(block.begun)
        except OversizedHeaderListError:
            raise BrokenRule(ErrorCodes.ENHANCE_YOUR_CALM) from None
        except (HPACKError, ValueError):
            raise BrokenRule(ErrorCodes.COMPRESSION_ERROR) from None
        return Message(block.stream_id, fields, bool(block.flags & _END_STREAM))

    def _decode(self, block: bytes) -> list[Field]:
        fields = self._known.get(block)
        if fields is None:
            fields = list(self._decoder.decode(block, raw=True))
            if min(block, default=0) < _INDEXED:
                # The table may be another one now.
                self._known.clear()
            elif len(block) <= _LONGEST_KNOWN and len(self._known) < _MOST_KNOWN:
                self._known[block] = fields
        return fields
