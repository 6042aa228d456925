"""
The options of ``serve`` that set limits.
"""

from __future__ import annotations

from math import isfinite
from typing import TypedDict

from twisted.python.usage import UsageError

from ..._twisted import KeepAlive
from ..options import DEFAULT_HEARTBEAT, CommandOptions

__all__ = ["LIMITS", "LimitOptions", "SiteLimits"]

LIMITS = (
    "max-switched",
    "max-per-address",
    "head-timeout",
    "max-unsent",
    "tcp-keepalive",
    "idle-timeout",
    "heartbeat",
    "max-message-size",
)
"""Their names; each is a number, and 0 means that there is no limit."""


class SiteLimits(TypedDict, total=False):
    """What an ``UpgradeSite`` is told of them: those that were given."""

    max_switched: int | None
    max_per_address: int | None
    head_timeout: float | None
    max_unsent: int | None
    tcp_keepalive: bool | tuple[int, int, int]


class LimitOptions(CommandOptions):
    """Options that set limits. An attribute is None if its option was not given."""

    def __init__(self) -> None:
        super().__init__()
        self.max_switched: int | None = None
        self.max_per_address: int | None = None
        self.head_timeout: float | None = None
        self.max_unsent: int | None = None
        self.tcp_keepalive: int | None = None
        self.idle_timeout: float | None = None
        self.heartbeat: float | None = None
        self.max_message_size: int | None = None

    def opt_max_switched(self, number: str) -> None:
        """
        NUMBER: at most so many connections are switched at the same time; further upgrades get 503.
        [default: 0, no limit]
        """
        self.max_switched = _whole("max-switched", number)

    def opt_max_per_address(self, number: str) -> None:
        """
        NUMBER: at most so many connections from one address (IPv6: one /64) are switched at the same
        time; further upgrades get 429. [default: 0, no limit]
        """
        self.max_per_address = _whole("max-per-address", number)

    def opt_head_timeout(self, seconds: str) -> None:
        """
        SECONDS: how long a request's head may take to arrive before it gets 408. 0: no limit. [default:
        60]
        """
        self.head_timeout = _number("head-timeout", seconds)

    def opt_max_unsent(self, number: str) -> None:
        """
        BYTES: abort a switched connection when more than this waits to be sent, because its client does
        not read. [default: 0, no limit]
        """
        self.max_unsent = _whole("max-unsent", number)

    def opt_tcp_keepalive(self, seconds: str) -> None:
        """
        IDLE: after how many seconds of silence TCP asks whether the other end of a switched connection
        is still there. 0: never. [default: 60]
        """
        self.tcp_keepalive = _whole("tcp-keepalive", seconds)

    def opt_idle_timeout(self, seconds: str) -> None:
        """
        SECONDS: end a tunnel after nothing has passed through it for this long. [default: 0, never]
        """
        self.idle_timeout = _number("idle-timeout", seconds)

    def opt_heartbeat(self, seconds: str) -> None:
        """
        SECONDS: ping the client of a WebSocket tunnel after this much silence, and end the tunnel after
        as much again. 0: never. [default: 30]
        """
        self.heartbeat = _number("heartbeat", seconds)

    def opt_max_message_size(self, number: str) -> None:
        """
        BYTES: close a WebSocket tunnel if its client sends a larger message (decompressed). The server
        itself keeps no messages, so it needs no limit. [default: 0, no limit]
        """
        self.max_message_size = _whole("max-message-size", number)

    @property
    def tunnel_heartbeat(self) -> float | None:
        """The heartbeat of WebSocket tunnels, in seconds; None means that there are no heartbeats."""
        return DEFAULT_HEARTBEAT if self.heartbeat is None else self.heartbeat or None

    def site_limits(self) -> SiteLimits:
        """What an ``UpgradeSite`` is told of the options that were given."""
        limits = SiteLimits()
        if self.max_switched is not None:
            limits["max_switched"] = self.max_switched or None
        if self.max_per_address is not None:
            limits["max_per_address"] = self.max_per_address or None
        if self.head_timeout is not None:
            limits["head_timeout"] = self.head_timeout or None
        if self.max_unsent is not None:
            limits["max_unsent"] = self.max_unsent or None
        if self.tcp_keepalive is not None:
            idle = self.tcp_keepalive
            limits["tcp_keepalive"] = KeepAlive(idle) if idle else False
        return limits


def _whole(option: str, text: str) -> int:
    number = _number(option, text)
    if not number.is_integer():
        raise UsageError(f"--{option} must be a whole number, not {text!r}")
    return int(number)


def _number(option: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not (number >= 0 and isfinite(number)):
        raise UsageError(f"--{option} must be a number that is not negative, not {text!r}")
    return number
