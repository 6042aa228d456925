"""
The h2 library's state machine, as connections use it: it takes bytes and gives bytes, and leaves fields
to us.
"""

from __future__ import annotations

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings

from .reader import LONGEST_FIELDS

__all__ = [
    "CONNECTION_WINDOW",
    "MOST_STREAMS",
    "MOST_WIDE",
    "MUCH",
    "STREAM_WINDOW",
    "WIDE_WINDOW",
    "WORTH_A_FRAME",
    "Machine",
    "name_of",
    "new_machine",
]

#: How many streams the other side may have open at the same time. Browsers want 255 WebSockets, and
#: pages beside them.
MOST_STREAMS = 320

#: What may wait for each of them: the window that every stream begins with (RFC 9113 §6.9.2). The other
#: side can send no more than that in a round trip, so streams that carry much get a wider one; those of
#: them that may be kept waiting are few.
STREAM_WINDOW = 2**16 - 1
WIDE_WINDOW = 2**20
MOST_WIDE = 4

#: Bytes of a stream that have been read, and are worth the frame that allows as many again.
WORTH_A_FRAME = STREAM_WINDOW // 4

#: Bytes of a DATA frame that nobody sends who has little to send.
MUCH = 2**13

#: The connection's own is as wide as theirs together, so that some that are not read stop no others.
CONNECTION_WINDOW = MOST_STREAMS * STREAM_WINDOW + MOST_WIDE * WIDE_WINDOW

# Bytes that the table of the encoder may take (RFC 7541 §4.2), whatever the other side allows.
_LARGEST_TABLE = 2**12

# How many streams are opened before those that are open are counted anew, if there are fewer.
_UNCOUNTED = 16


class Machine(H2Connection):
    """
    h2 counts all streams of a connection at each head, and forgets the closed ones then. With hundreds
    of idle streams that costs more than the request, so they are counted only when as many have been
    opened as there were, or when there may be too many.
    """

    # Of the streams that have ended, 65,536 would be remembered, in 10 MB.
    MAX_CLOSED_STREAMS = 2**10

    _counted = 0
    _opened_since = _UNCOUNTED

    @property
    def open_inbound_streams(self) -> int:
        """At least as many streams as are open. It is asked whenever one is about to be opened."""
        most = self._counted + self._opened_since
        if (
            self._opened_since >= max(self._counted, _UNCOUNTED)
            or most >= self.local_settings.max_concurrent_streams
        ):
            most = self._counted = super().open_inbound_streams
            self._opened_since = 0
        self._opened_since += 1
        return most

    def limit_table(self) -> None:
        """The other side has said how large a table it keeps, which h2 would fill."""
        self.encoder.header_table_size = min(self.encoder.header_table_size, _LARGEST_TABLE)

    def is_idle(self, stream_id: int) -> bool:
        """Whether a stream has not been opened yet (RFC 9113 §5.1)."""
        return stream_id > max(self.highest_inbound_stream_id, self.highest_outbound_stream_id)


def new_machine(is_client: bool, settings: dict[SettingCodes, int] | None = None) -> Machine:
    """
    A state machine for one connection.

    :param settings: what to tell the other side, besides the limits that are the same for all.
    """
    machine = Machine(
        H2Configuration(
            client_side=is_client,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
        )
    )
    ours = {SettingCodes.MAX_HEADER_LIST_SIZE: LONGEST_FIELDS, **(settings or {})}
    machine.local_settings = Settings(client=is_client, initial_values=ours)
    return machine


def name_of(code: int) -> str:
    """The name of a reason for a reset, or for the end of a connection (RFC 9113 §7)."""
    try:
        return ErrorCodes(code).name
    except ValueError:
        return f"0x{code:x}"
