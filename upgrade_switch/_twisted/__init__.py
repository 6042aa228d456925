"""
The only package that names what is private in Twisted, or that assigns to Twisted's live objects.

Each entry says why no public way will do; ``tests/test_twisted.py`` has a test for each that fails
when Twisted changes it. Where one is not there any more, importing the package says so.
"""

from .check import check

# First: what is imported beneath would say less.
check()

from .transports import (  # noqa: E402
    Patience,
    PauseWatch,
    Slot,
    abort,
    bottom,
    is_closing,
    is_full,
    is_half_closeable,
    rename_log_prefix,
    report_end,
    slot_of,
    speak_inside,
    start_tls,
    tls_layer,
    wait_for_room,
    watch_end,
    watcher,
    write_at_once,
)
from .web import (  # noqa: E402
    UnaskedSwitchFactory,
    client_request,
    content_received,
    forget_encoder,
    keep_off,
    method_of,
    negotiating,
    set_fields,
    speaking_http11,
)

__all__ = [
    "Patience",
    "PauseWatch",
    "Slot",
    "UnaskedSwitchFactory",
    "abort",
    "bottom",
    "client_request",
    "content_received",
    "forget_encoder",
    "is_closing",
    "is_full",
    "is_half_closeable",
    "keep_off",
    "method_of",
    "negotiating",
    "rename_log_prefix",
    "report_end",
    "set_fields",
    "slot_of",
    "speak_inside",
    "speaking_http11",
    "start_tls",
    "tls_layer",
    "wait_for_room",
    "watch_end",
    "watcher",
    "write_at_once",
]
