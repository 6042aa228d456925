"""
What the h2 library says has happened on a connection, and what that means for its streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from typing import Protocol as TypingProtocol

from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes

if TYPE_CHECKING:
    from h2.errors import ErrorCodes

    from .ending import Resets
    from .machine import Machine
    from .reader import FrameReader
    from .stream import HTTP2Stream
    from .turns import Turns
    from .windows import Windows

__all__ = ["HANDLERS", "StreamsConnection"]


class StreamsConnection(TypingProtocol):
    """A connection, as what comes on its streams needs it."""

    machine: Machine
    reader: FrameReader
    windows: Windows
    streams: dict[int, HTTP2Stream]
    turns: Turns
    resets: Resets

    def stream_ended(self, stream: HTTP2Stream) -> None:
        """The other side has ended its direction of a stream."""

    def stream_reset(self, stream: HTTP2Stream, code: int) -> None:
        """The other side has reset a stream."""

    def settings_came(self) -> None:
        """The other side has sent settings."""

    def handle(self, events: Iterable[Event]) -> None:
        """Do what follows from what h2 says."""

    def forget(self, stream: HTTP2Stream) -> None:
        """A stream is over."""

    def refuse(self, stream_id: int, code: ErrorCodes) -> None:
        """Reset a stream on which the other side has broken a rule."""

    def blame(self) -> None:
        """What has just been read was good for nothing, or for nothing but a reset."""


def _data_received(connection: StreamsConnection, event: DataReceived) -> None:
    # Nobody wants it (windows.py).
    size = event.flow_controlled_length
    if size:
        with suppress(H2Error):
            connection.machine.acknowledge_received_data(size, event.stream_id)


def _stream_ended(connection: StreamsConnection, event: StreamEnded) -> None:
    stream = connection.streams.get(event.stream_id)
    if stream is None:
        return
    stream.end_came = True
    if stream.disconnected:
        connection.forget(stream)
    else:
        connection.stream_ended(stream)


def _stream_reset(connection: StreamsConnection, event: StreamReset) -> None:
    stream = connection.streams.get(event.stream_id)
    if not event.remote_reset:
        # h2 has reset it: the other side has broken a rule.
        connection.resets.add(event.stream_id)
        connection.blame()
    if stream is not None:
        connection.stream_reset(stream, event.error_code)
        connection.forget(stream)


def _settings_changed(connection: StreamsConnection, event: RemoteSettingsChanged) -> None:
    if SettingCodes.HEADER_TABLE_SIZE in event.changed_settings:
        connection.machine.limit_table()
    window = event.changed_settings.get(SettingCodes.INITIAL_WINDOW_SIZE)
    if window is not None:
        difference = window.new_value - (window.original_value or 0)
        connection.windows.resize(connection.streams.values(), difference)
    connection.settings_came()
    for stream in [stream for stream in connection.streams.values() if stream.has_output]:
        connection.turns.add(stream)


#: What is done about each event; nothing about others. Any: each handler takes its own.
HANDLERS: Mapping[type[Event], Callable[[StreamsConnection, Any], None]] = {
    DataReceived: _data_received,
    StreamEnded: _stream_ended,
    StreamReset: _stream_reset,
    RemoteSettingsChanged: _settings_changed,
}
