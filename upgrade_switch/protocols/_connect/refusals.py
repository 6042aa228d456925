"""
What a proxy answers when there is no connection to where its client wants to go, with ``Proxy-Status``
(RFC 9209).
"""

from __future__ import annotations

from errno import EADDRNOTAVAIL, EHOSTUNREACH
from typing import NamedTuple

from twisted.internet.error import (
    ConnectError,
    ConnectionClosed,
    ConnectionRefusedError,
    NoRouteError,
    TCPTimedOutError,
    TimeoutError,
)
from twisted.python.failure import Failure

from ...errors import AddressProhibited, DestinationNotAllowed, NameNotResolved
from ...server.pages import StatusPage

__all__ = ["is_unroutable", "refusal"]


class _Refusal(NamedTuple):
    code: int
    error: str
    """The type of proxy error (RFC 9209 §2.3)."""
    detail: str

    def page(self) -> StatusPage:
        # RFC 8941: the name of this proxy is a token, the type of error one of its parameters.
        status = f"upgrade_switch; error={self.error}".encode("ascii")
        return StatusPage(self.code, _PHRASES[self.code], self.detail, {b"proxy-status": status})


_PHRASES = {403: "Forbidden", 502: "Bad Gateway", 504: "Gateway Timeout"}

_NOT_ALLOWED = _Refusal(403, "http_request_denied", "This destination is not allowed.")
_PROHIBITED = _Refusal(
    403, "destination_ip_prohibited", "The address of this destination is not allowed."
)
_NOT_RESOLVED = _Refusal(502, "dns_error", "The name of the destination has no address.")
_SLOW_LOOKUP = _Refusal(504, "dns_timeout", "Looking up the name of the destination took too long.")
_TIMED_OUT = _Refusal(504, "connection_timeout", "The destination did not answer.")
_REFUSED = _Refusal(502, "connection_refused", "The destination refused the connection.")
_UNROUTABLE = _Refusal(502, "destination_ip_unroutable", "There is no way to the destination.")
_UNAVAILABLE = _Refusal(502, "destination_unavailable", "The destination cannot be reached.")


def refusal(reason: Failure, is_looking_up: bool) -> StatusPage:
    """
    What answers a client whose destination is not connected to. Nothing is logged: the destination is
    the client's choice.

    :param is_looking_up: whether the name was still being looked up.
    :raises Exception: the reason, if it is neither the destination nor the network.
    """
    return _refusal(reason, is_looking_up).page()


def _refusal(reason: Failure, is_looking_up: bool) -> _Refusal:
    if reason.check(DestinationNotAllowed):
        return _NOT_ALLOWED
    if reason.check(AddressProhibited):
        return _PROHIBITED
    if reason.check(NameNotResolved):
        return _NOT_RESOLVED
    if reason.check(TimeoutError, TCPTimedOutError):
        return _SLOW_LOOKUP if is_looking_up else _TIMED_OUT
    if reason.check(ConnectionRefusedError):
        return _REFUSED
    reason.trap(ConnectError, ConnectionClosed, OSError)
    return _UNROUTABLE if is_unroutable(reason) else _UNAVAILABLE


def is_unroutable(reason: Failure) -> bool:
    """Whether there is no way to an address, as far as this machine knows."""
    number = getattr(reason.value, "osError", None)
    return bool(reason.check(NoRouteError)) or number in (EHOSTUNREACH, EADDRNOTAVAIL)
