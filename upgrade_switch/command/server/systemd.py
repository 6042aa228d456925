"""
What systemd is told of a service with ``Type=notify`` (sd_notify(3)): a datagram for each change.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

__all__ = ["VARIABLES", "Notifier"]

_log = Logger()

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What systemd tells a service by its environment, which is not meant for its children."""


class Notifier:
    """
    Tells systemd the state of the service. If systemd has not asked for that, it does nothing.

    :ivar watchdog: after how many seconds of silence systemd takes the service for dead; 0: never.
    """

    def __init__(self, clock: IReactorTime, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # An address that begins with @ is an abstract one.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog = _watchdog(environment)
        self._alive = LoopingCall(self._send, "WATCHDOG=1")
        self._alive.clock = clock

    def _send(self, *lines: str) -> None:
        if not self._address.startswith(("/", "\0")):
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            _log.warn("cannot tell systemd {what}: {why}", what=lines[0], why=error.strerror or error)

    def ready(self) -> None:
        """The service is there, or there again."""
        self._send("READY=1")
        if self.watchdog and not self._alive.running:
            self._alive.start(self.watchdog / 2)

    def reloading(self) -> None:
        """The service reads its options again; :meth:`ready` follows, whatever comes of it."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}")

    def stopping(self) -> None:
        """The service goes down."""
        self._send("STOPPING=1")


def _watchdog(environment: Mapping[str, str]) -> float:
    """After how many seconds of silence systemd takes the service for dead; 0: never."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    process = environment.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or process not in ("", str(os.getpid())):
        return 0
    return int(microseconds) / 1_000_000
