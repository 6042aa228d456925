"""
:class:`Turns`: which stream sends next.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from .frames import HEAD, Flag, FrameType
from .outgoing import Direction

if TYPE_CHECKING:
    from h2.connection import H2Connection

    from .outgoing import Outgoing
    from .reader import FrameReader
    from .windows import Windows

__all__ = ["Turns"]

# Bytes of answers that are sent before the client has begun to speak HTTP/2, which an upgrade makes
# possible: one DATA frame. curl has a buffer of 32 KiB for everything that comes with the 101, and
# fails when it is full.
_MOST_BEFORE_SETTINGS = 2**14

# Bytes of frames that cannot wait, while the other side does not read.
_MOST_IN_EXCESS = 2**16

# Bytes that are given to the transport in one piece, and in one frame: the other side may take frames
# of 16 MiB, and all other streams would wait for each.
_AT_ONCE = 2**16

_DATA, _END_STREAM = int(FrameType.DATA), int(Flag.END_STREAM)


class Turns:
    """
    Lets streams that have something to send do so in turns, one frame each. Nothing is sent while the
    transport is full: what waits is with the streams, which tell their producers.

    Streams that have nothing but bytes to send keep their place while the connection's window is
    closed. A client can open that a little at a time, as often as it likes: to look at hundreds of
    streams each time would cost too much, and the first of them would get everything.

    :ivar transport: what they are written to, as soon as the connection is made.
    :ivar is_full: whether the transport takes no more now.
    :ivar is_held: whether what is to be sent waits, since frames are being read.
    """

    # Any: whatever is beneath a connection.
    transport: Any = None

    def __init__(self, machine: H2Connection, reader: FrameReader, windows: Windows) -> None:
        """
        :param machine: what makes all frames but DATA.
        :param reader: knows whether the other side has begun, and has the budget.
        :param windows: the connection's.
        """
        self.is_full = self.is_held = False
        # Bytes of frames that cannot wait, such as answers to PING, since the transport is full.
        self._in_excess = 0
        self._machine = machine
        self._reader = reader
        self._windows = windows
        self._made: list[bytes] = []
        # Streams with heads or ends to send, and those that need a window of the connection. (A queue
        # would keep streams that have ended.)
        self._ready: OrderedDict[Outgoing, None] = OrderedDict()
        self._with_bytes: OrderedDict[Outgoing, None] = OrderedDict()
        self._left_before_settings = _MOST_BEFORE_SETTINGS
        self._is_sending = self._is_closed = False

    def add(self, stream: Outgoing) -> None:
        """A stream has something to send, which it may have a window for."""
        if not stream.is_scheduled:
            stream.is_scheduled = True
            queue = self._with_bytes if stream.unsent and not stream.heads else self._ready
            queue[stream] = None
        if not (self.is_held or self._is_sending):
            self.send()

    def discard(self, stream: Outgoing) -> None:
        """A stream has nothing to send any more."""
        if stream.is_scheduled:
            self._ready.pop(stream, None)
            self._with_bytes.pop(stream, None)

    def close(self) -> None:
        """Nobody sends any more; what is left to send has been written."""
        self._is_closed = True
        self._ready.clear()
        self._with_bytes.clear()

    def put(self, frames: bytes) -> None:
        """Send frames, if there are any, behind what h2 has to send."""
        if frames:
            self._collect()
            self._made.append(frames)

    def _collect(self) -> int:
        """Take what h2 has to send; gives how many bytes."""
        data = self._machine.data_to_send()
        if data:
            self._made.append(data)
        return len(data)

    def flush(self, unasked: bool = False) -> None:
        """
        Write what there is to send.

        :param unasked: whether this side sends it by itself, and the other side has not made it.
        """
        self._collect()
        self._write(unasked)

    def _write(self, unasked: bool = False) -> None:
        if self._made:
            data = b"".join(self._made)
            self._made.clear()
            if self.is_full and not unasked:
                self._in_excess += len(data)
            self.transport.write(data)

    def go_on(self) -> None:
        """The transport takes more again."""
        self.is_full = False
        self._in_excess = 0
        self.send()

    @property
    def is_overfull(self) -> bool:
        """Whether the other side does not read, and has made this one answer too much nevertheless."""
        return self._in_excess > _MOST_IN_EXCESS

    def send(self) -> None:
        """Let streams have their turns, until the transport is full or nothing can be sent."""
        if self.is_held or self._is_sending or self._is_closed:
            return
        self._is_sending = True
        self._collect()
        try:
            waiting = 0
            while not self.is_full:
                if self._ready:
                    stream, _ = self._ready.popitem(False)
                elif self._with_bytes and self._windows.left > 0:
                    stream, _ = self._with_bytes.popitem(False)
                else:
                    break
                stream.is_scheduled = False
                if not stream.disconnected:
                    waiting += self._send_from(stream)
                if waiting > _AT_ONCE:
                    waiting = 0
                    self._write()
        finally:
            self._is_sending = False
        self._write()

    def _send_from(self, stream: Outgoing) -> int:
        """Send the heads of a stream, and one frame behind them; gives how many bytes."""
        size = self._send_heads(stream) if stream.heads else 0
        if not stream.unsent:
            self._send_end(stream)
        elif self._windows.left <= 0 or (size and self._with_bytes):
            # Others wait already.
            self.add(stream)
        else:
            size += self._send_data(stream)
        return size

    def _send_heads(self, stream: Outgoing) -> int:
        heads = stream.take_heads()
        for fields in heads:
            ends = stream.is_at_end and fields is heads[-1]
            self._machine.send_headers(stream.stream_id, fields, end_stream=ends)
            if ends:
                stream.end_sent()
        return self._collect()

    def _send_end(self, stream: Outgoing) -> None:
        """Send the end, where there are no bytes; or let a producer go on that has waited for heads."""
        if stream.is_at_end:
            self._machine.end_stream(stream.stream_id)
            self._collect()
            stream.end_sent()
        elif stream.sending is not Direction.ENDED:
            stream.sent()

    def _send_data(self, stream: Outgoing) -> int:
        """Send a frame, and the end if nothing is behind it."""
        windows, budget = self._windows, self._reader.budget
        most = min(stream.window, windows.left, self._machine.max_outbound_frame_size, _AT_ONCE)
        if not self._reader.has_begun:
            most = self._most_before_settings(most, stream)
        if most <= 0:
            return 0
        data = stream.take(most)
        size = len(data)
        windows.sent(stream, size)
        ends = stream.sending is Direction.ENDING and stream.is_at_end
        if ends:
            self._end_with_data(stream)
        flags = _END_STREAM if ends else 0
        self._made += (HEAD.pack(size >> 8, size & 0xFF, _DATA, flags, stream.stream_id), data)
        if budget.spent:
            budget.sent(size, stream.unsent)
        if ends:
            stream.end_sent()
            return size
        if stream.producer is not None:
            stream.sent()
        if stream.unsent and stream.window > 0:
            self.add(stream)
        return size

    def _end_with_data(self, stream: Outgoing) -> None:
        """h2 learns of an end that goes with data, and which it must not send by itself."""
        self._collect()
        self._machine.end_stream(stream.stream_id)
        self._machine.clear_outbound_data_buffer()

    def _most_before_settings(self, most: int, stream: Outgoing) -> int:
        """How much may be sent before the other side has begun."""
        allowed = min(most, self._left_before_settings)
        self._left_before_settings -= min(allowed, stream.unsent)
        return allowed
