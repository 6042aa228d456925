"""
The only place where private names of Twisted's stand, and assignments to its live objects.

Each entry says why no public way will do, and ``tests/core/test_twisted.py`` has a test for each that
fails when Twisted changes it. If one is missing, importing the package says so.
"""

from .check import check

# First: the imports below would fail with less helpful messages.
check()

from .endpoints import demand_certificates, endpoint_text, way_of  # noqa: E402 - behind the check
from .ends import has_closed_tls, was_closed_first  # noqa: E402 - behind the check
from .ports import Adopting, accept_one_by_one, share_port  # noqa: E402 - behind the check
from .sockets import (  # noqa: E402 - behind the check
    KeepAlive,
    LastReading,
    has_timed_out,
    keep_alive,
    send_small_parts,
    set_keep_alive,
    unacknowledged,
)
from .transports import (  # noqa: E402 - behind the check
    PauseWatch,
    Slot,
    WriteBackpressure,
    abort,
    beneath,
    bottom,
    has_begun_with_tls,
    is_closing,
    is_full,
    is_half_closeable,
    rename_log_prefix,
    report_end,
    slot_of,
    start_tls,
    tls_layer,
    unsent,
    wait_for_room,
    watch_end,
    watcher,
    write_at_once,
)
from .web import (  # noqa: E402 - behind the check
    AskingChannel,
    ParseError,
    RefusingChannel,
    UnaskedSwitchFactory,
    UnaskedSwitchPool,
    behind_login,
    client_request,
    detach_flow_control,
    feed_content,
    forget_content,
    forget_encoder,
    has_begun_line,
    has_read_ahead,
    method_of,
    replace_fields,
    request_line_of,
    set_encoder,
    set_fields,
    set_request_line,
)

__all__ = [
    "Adopting",
    "AskingChannel",
    "KeepAlive",
    "LastReading",
    "ParseError",
    "PauseWatch",
    "RefusingChannel",
    "Slot",
    "UnaskedSwitchFactory",
    "UnaskedSwitchPool",
    "WriteBackpressure",
    "abort",
    "accept_one_by_one",
    "behind_login",
    "beneath",
    "bottom",
    "client_request",
    "demand_certificates",
    "detach_flow_control",
    "endpoint_text",
    "feed_content",
    "forget_content",
    "forget_encoder",
    "has_begun_line",
    "has_begun_with_tls",
    "has_closed_tls",
    "has_read_ahead",
    "has_timed_out",
    "is_closing",
    "is_full",
    "is_half_closeable",
    "keep_alive",
    "method_of",
    "rename_log_prefix",
    "replace_fields",
    "report_end",
    "request_line_of",
    "send_small_parts",
    "set_encoder",
    "set_fields",
    "set_keep_alive",
    "set_request_line",
    "share_port",
    "slot_of",
    "start_tls",
    "tls_layer",
    "unacknowledged",
    "unsent",
    "wait_for_room",
    "was_closed_first",
    "watch_end",
    "watcher",
    "way_of",
    "write_at_once",
]
