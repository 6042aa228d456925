"""
:class:`Turns`: which stream sends next.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from .frames import Flag, FrameType, frame_head

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

# Bytes of frames that cannot wait, for somebody who does not read.
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
    """

    # Any: whatever is beneath a connection.
    transport: Any = None

    def __init__(self, machine: H2Connection, reader: FrameReader, windows: Windows) -> None:
        """
        :param machine: what makes all frames but DATA.
        :param reader: knows whether the other side has begun, and has the budget.
        :param windows: the connection's.
        """
        self.is_full = False
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
        self._is_sending = False

    def add(self, stream: Outgoing) -> None:
        """A stream has something to send, which it may have a window for."""
        if not stream.is_scheduled:
            stream.is_scheduled = True
            queue = self._with_bytes if stream.unsent and not stream.heads else self._ready
            queue[stream] = None

    def discard(self, stream: Outgoing) -> None:
        """A stream has nothing to send any more."""
        if stream.is_scheduled:
            self._ready.pop(stream, None)
            self._with_bytes.pop(stream, None)

    def clear(self) -> None:
        """Nobody sends any more; what is left to send has been written."""
        self._ready.clear()
        self._with_bytes.clear()

    def put(self, *pieces: bytes) -> None:
        """Send frames, or pieces of frames, behind what h2 has to send."""
        data = self._machine.data_to_send()
        if data:
            self._made.append(data)
        self._made += pieces

    def flush(self, unasked: bool = False) -> None:
        """
        Write what there is to send.

        :param unasked: whether this side sends it by itself, and the other side has not made it.
        """
        data = self._machine.data_to_send()
        if self._made:
            data = b"".join([*self._made, data])
            self._made.clear()
        if data:
            if self.is_full and not unasked:
                self._in_excess += len(data)
            self.transport.write(data)

    def go_on(self) -> None:
        """The transport takes more again."""
        self.is_full = False
        self._in_excess = 0

    @property
    def is_overfull(self) -> bool:
        """Whether the other side does not read, and has made this one answer too much nevertheless."""
        return self._in_excess > _MOST_IN_EXCESS

    def send(self) -> None:
        """Let streams have their turns, until the transport is full or nothing can be sent."""
        if self._is_sending:
            return
        self._is_sending = True
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
                    self.flush()
        finally:
            self._is_sending = False
        self.flush()

    def _send_from(self, stream: Outgoing) -> int:
        """Send one frame of a stream, and the heads in front of it; gives how many bytes."""
        machine, stream_id = self._machine, stream.stream_id
        heads = stream.take_heads()
        for fields in heads:
            ends = stream.is_at_end and fields is heads[-1]
            machine.send_headers(stream_id, fields, end_stream=ends)
            if ends:
                stream.end_sent()
                return len(fields)
        if not stream.unsent:
            if stream.is_at_end:
                machine.end_stream(stream_id)
                stream.end_sent()
                return 0
            # A producer that is asked for more writes when the head is out.
            stream.sent()
            return len(heads)
        if self._windows.left <= 0 or (heads and self._with_bytes):
            # Others wait already.
            self.add(stream)
            return len(heads)
        window = self._windows.of(stream)
        if not self._reader.has_begun:
            window = self._window_before_settings(window, stream)
        if window <= 0:
            return len(heads)
        data = stream.take(min(window, machine.max_outbound_frame_size, _AT_ONCE))
        ends = stream.is_at_end
        self._send_data(stream, data, ends)
        self._reader.budget.sent(len(data), stream.unsent)
        if ends:
            stream.end_sent()
            return len(data)
        if stream.producer is not None:
            stream.sent()
        if stream.unsent and stream.window > 0:
            self.add(stream)
        return len(data)

    def _send_data(self, stream: Outgoing, data: bytes, ends: bool) -> None:
        self._windows.sent(stream, len(data))
        self.put(frame_head(_DATA, _END_STREAM if ends else 0, stream.stream_id, len(data)), data)
        if ends:
            # What h2 sends for that has gone with the data.
            self._machine.end_stream(stream.stream_id)
            self._machine.clear_outbound_data_buffer()

    def _window_before_settings(self, window: int, stream: Outgoing) -> int:
        """How much of a window may be used before the other side has begun."""
        allowed = min(window, self._left_before_settings)
        self._left_before_settings -= min(allowed, stream.unsent)
        return allowed
