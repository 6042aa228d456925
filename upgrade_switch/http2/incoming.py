"""
What comes on streams: their data, and windows for what this side sends.

The h2 library learns of the ends of streams only. It also gets what is for no stream of ours, or is
malformed: it says what is wrong, if anything is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from h2.errors import ErrorCodes

from .frames import Flag, FrameType, increment_of, padded_data_of, raw_frame

if TYPE_CHECKING:
    from h2.events import Event

    from .events import StreamsConnection
    from .reader import Frame

__all__ = ["read_data", "read_window_update"]

_DATA, _END_STREAM, _PADDED = int(FrameType.DATA), int(Flag.END_STREAM), int(Flag.PADDED)

# A DATA frame that is smaller is not worth the reset that it gets on a stream that is over. Larger ones
# are on their way when a large content is not wanted.
_WORTH_A_RESET = 1024


def read_data(connection: StreamsConnection, stream_id: int, flags: int, raw: bytes) -> None:
    """
    A DATA frame has come.

    :raises BrokenRule: if it has more bytes than the windows allow.
    """
    size = len(raw) - 9
    stream = connection.streams.get(stream_id)
    data = padded_data_of(raw) if flags & _PADDED else raw[9:]
    ends = bool(flags & _END_STREAM)
    if not (data or ends):
        connection.blame()
    elif connection.reader.budget.spent:
        connection.reader.budget.received(size)
    if stream is None or data is None or stream.end_came:
        _read_unwanted_data(connection, raw, data is not None and stream_id in connection.resets)
        return
    connection.windows.received(stream, size)
    events = []
    if ends:
        stream.end_came = True
        end = raw_frame(_DATA, _END_STREAM, stream_id, b"")
        events = connection.machine.receive_data(end)
    if stream.rest is not None and not stream.takes(len(data), ends):
        connection.refuse(stream_id, ErrorCodes.PROTOCOL_ERROR)
    if size:
        stream.received(data, size)
    if events:
        connection.handle(events)


def _read_unwanted_data(connection: StreamsConnection, raw: bytes, is_late: bool) -> None:
    """
    A DATA frame has come that is malformed, or on a stream on which nothing comes any more.

    :param is_late: whether this side has reset the stream.
    """
    events: Iterable[Event] = ()
    if is_late:
        # It counts for the connection's window nevertheless (RFC 9113 §6.9).
        connection.windows.received(None, len(raw) - 9)
        connection.turns.put(connection.windows.dropped(len(raw) - 9))
    else:
        events = connection.machine.receive_data(raw)
    if len(raw) < _WORTH_A_RESET:
        connection.blame()
    connection.handle(events)


def read_window_update(connection: StreamsConnection, frame: Frame) -> None:
    """
    A WINDOW_UPDATE frame has come.

    :raises BrokenRule: if the connection's window is too large now.
    """
    stream, increment = connection.streams.get(frame.stream_id), increment_of(frame.raw)
    if increment == 0 and frame.stream_id and not connection.machine.is_idle(frame.stream_id):
        # RFC 9113 §6.9; h2 would end the connection.
        if stream is not None:
            connection.refuse(frame.stream_id, ErrorCodes.PROTOCOL_ERROR)
    elif not increment or (stream is None and frame.stream_id):
        connection.handle(connection.machine.receive_data(frame.raw))
    elif stream is None:
        connection.windows.open(increment)
    elif not connection.windows.open_stream(stream, increment):
        connection.refuse(frame.stream_id, ErrorCodes.FLOW_CONTROL_ERROR)
    elif stream.has_output:
        connection.turns.add(stream)
