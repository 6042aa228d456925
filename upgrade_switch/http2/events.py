"""
What the h2 library says has happened on a connection, and what that means for its streams.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from typing import Protocol as TypingProtocol

from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.settings import SettingCodes

if TYPE_CHECKING:
    from .machine import Machine
    from .stream import HTTP2Stream

__all__ = ["HANDLERS", "StreamsConnection"]

# Bytes that the table of the encoder may take (RFC 7541 §4.2), whatever the other side allows.
_LARGEST_TABLE = 2**12


class StreamsConnection(TypingProtocol):
    """A connection, as these events need it."""

    machine: Machine
    streams: dict[int, HTTP2Stream]

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Open the windows again by what has come and needs no room any more."""

    def stream_ended(self, stream: HTTP2Stream) -> None:
        """The other side has ended its direction of a stream."""

    def stream_reset(self, stream: HTTP2Stream, code: int) -> None:
        """The other side has reset a stream."""

    def settings_came(self) -> None:
        """The other side has sent settings."""

    def forget(self, stream: HTTP2Stream) -> None:
        """A stream is over."""

    def blame(self) -> None:
        """What has just been read was good for nothing but a reset."""

    def schedule(self, stream: HTTP2Stream) -> None:
        """A stream has something to send."""

    def schedule_all(self) -> None:
        """Let all streams send that have something."""


def _data_received(connection: StreamsConnection, event: DataReceived) -> None:
    stream = connection.streams.get(event.stream_id)
    size = event.flow_controlled_length
    if stream is not None:
        stream.received(event.data, size)
    else:
        connection.acknowledge(event.stream_id, size)


def _stream_ended(connection: StreamsConnection, event: StreamEnded) -> None:
    stream = connection.streams.get(event.stream_id)
    if stream is None:
        return
    if stream.disconnected:
        connection.forget(stream)
    else:
        connection.stream_ended(stream)


def _stream_reset(connection: StreamsConnection, event: StreamReset) -> None:
    stream = connection.streams.get(event.stream_id)
    if not event.remote_reset:
        # h2 has reset it: the other side has broken a rule.
        connection.blame()
    if stream is not None:
        connection.stream_reset(stream, event.error_code)
        connection.forget(stream)


def _window_updated(connection: StreamsConnection, event: WindowUpdated) -> None:
    if event.stream_id:
        stream = connection.streams.get(event.stream_id)
        if stream is not None and stream.has_output:
            connection.schedule(stream)
    else:
        connection.schedule_all()


def _settings_changed(connection: StreamsConnection, event: RemoteSettingsChanged) -> None:
    if SettingCodes.HEADER_TABLE_SIZE in event.changed_settings:
        encoder = connection.machine.encoder
        encoder.header_table_size = min(encoder.header_table_size, _LARGEST_TABLE)
    connection.settings_came()
    connection.schedule_all()


#: What is done about each event; nothing about others. Any: each handler takes its own.
HANDLERS: Mapping[type[Event], Callable[[StreamsConnection, Any], None]] = {
    DataReceived: _data_received,
    StreamEnded: _stream_ended,
    StreamReset: _stream_reset,
    WindowUpdated: _window_updated,
    RemoteSettingsChanged: _settings_changed,
}
