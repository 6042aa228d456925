"""
The only place where private names of Twisted's stand, and assignments to its live objects.

Each entry says why no public way will do, and ``tests/core/test_twisted.py`` has a test for each that
fails when Twisted changes it. If one is missing, importing what uses it says so.

What is about ``twisted.web`` is imported when a name of it is asked for (PEP 562), as are endpoints.
Python takes longer to find the names of a module that has them so: where each request needs one, it is
imported by itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from .check import CLIENT, ENDPOINTS, SERVER, TRANSPORTS, Need, check

# First: the imports below would fail with less helpful messages.
check(TRANSPORTS)

from .at_once import Arrivals, let_send_at_once, listen_at_once, write_at_once  # noqa: E402 - behind the check
from .ends import has_closed_tls, register_producer, was_closed_first  # noqa: E402 - behind the check
from .pipes import read_through_pipe  # noqa: E402 - behind the check
from .ports import accept_one_by_one, adopting, share_port  # noqa: E402 - behind the check
from .sockets import (  # noqa: E402 - behind the check
    KeepAlive,
    LastReading,
    has_died,
    has_peer_ended,
    has_timed_out,
    keep_alive,
    keep_alive_as,
    send_small_parts,
    unacknowledged,
)
from .transports import (  # noqa: E402 - behind the check
    Closable,
    PauseWatch,
    Slot,
    WriteBackpressure,
    abort,
    beneath,
    bottom,
    has_begun_with_tls,
    is_bare,
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
)

if TYPE_CHECKING:
    from .endpoints import demand_certificates, endpoint_text, way_of
    from .requests import LeanRequest, headers_of
    from .web import (
        LateChannel,
        RefusingChannel,
        behind_login,
        by_name,
        canonical,
        detach_flow_control,
        feed_content,
        forget_content,
        forget_encoder,
        has_begun_line,
        has_read_ahead,
        method_of,
        raw_fields,
        replace_fields,
        request_line_of,
        set_encoder,
        set_request_line,
        stop_reading_lines,
        take_read_ahead,
    )
    from .web_client import ParseError, UnaskedSwitchFactory, UnaskedSwitchPool, client_request

__all__ = [
    "Arrivals",
    "Closable",
    "KeepAlive",
    "LastReading",
    "LateChannel",
    "LeanRequest",
    "ParseError",
    "PauseWatch",
    "RefusingChannel",
    "Slot",
    "UnaskedSwitchFactory",
    "UnaskedSwitchPool",
    "WriteBackpressure",
    "abort",
    "accept_one_by_one",
    "adopting",
    "behind_login",
    "beneath",
    "bottom",
    "by_name",
    "canonical",
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
    "has_died",
    "has_peer_ended",
    "has_read_ahead",
    "has_timed_out",
    "headers_of",
    "is_bare",
    "is_closing",
    "is_full",
    "is_half_closeable",
    "keep_alive",
    "keep_alive_as",
    "let_send_at_once",
    "listen_at_once",
    "method_of",
    "raw_fields",
    "read_through_pipe",
    "register_producer",
    "rename_log_prefix",
    "replace_fields",
    "report_end",
    "request_line_of",
    "send_small_parts",
    "set_encoder",
    "set_request_line",
    "share_port",
    "slot_of",
    "start_tls",
    "stop_reading_lines",
    "take_read_ahead",
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


class _Part(NamedTuple):
    """A module that not every program uses."""

    name: str
    needs: tuple[Need, ...]


_ENDPOINTS = _Part("endpoints", ENDPOINTS)
_REQUESTS = _Part("requests", SERVER)
_WEB = _Part("web", SERVER)
_WEB_CLIENT = _Part("web_client", CLIENT)
_PARTS = {
    "demand_certificates": _ENDPOINTS,
    "endpoint_text": _ENDPOINTS,
    "way_of": _ENDPOINTS,
    "LeanRequest": _REQUESTS,
    "headers_of": _REQUESTS,
    "LateChannel": _WEB,
    "RefusingChannel": _WEB,
    "behind_login": _WEB,
    "by_name": _WEB,
    "canonical": _WEB,
    "detach_flow_control": _WEB,
    "feed_content": _WEB,
    "forget_content": _WEB,
    "forget_encoder": _WEB,
    "has_begun_line": _WEB,
    "has_read_ahead": _WEB,
    "method_of": _WEB,
    "raw_fields": _WEB,
    "replace_fields": _WEB,
    "request_line_of": _WEB,
    "set_encoder": _WEB,
    "set_request_line": _WEB,
    "stop_reading_lines": _WEB,
    "take_read_ahead": _WEB,
    "ParseError": _WEB_CLIENT,
    "UnaskedSwitchFactory": _WEB_CLIENT,
    "UnaskedSwitchPool": _WEB_CLIENT,
    "client_request": _WEB_CLIENT,
}


def __getattr__(name: str) -> object:
    part = _PARTS.get(name)
    if part is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    check(part.needs)
    value: object = getattr(import_module(f".{part.name}", __name__), name)
    # From now on, Python finds it without asking this function.
    globals()[name] = value
    return value
