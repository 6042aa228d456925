"""
How many calls of Python functions something takes, on a connection that is driven from here.
"""

from __future__ import annotations

import gc
import select
import socket
import sys
from collections.abc import Callable
from typing import Any

from twisted.internet import tcp
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

import twisted
from tests.kit.harness import reactor
from upgrade_switch import UpgradeSite
from upgrade_switch._twisted.check import NEWEST

# More fields, and the end of a head.
MORE = (
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    b"Accept: */*\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate\r\n"
    b"Origin: http://localhost\r\nCookie: session=0123456789abcdef\r\nPragma: no-cache\r\n\r\n"
)

# Other versions make other calls: Python 3.12, for one, makes none for a list comprehension.
IS_MEASURED = sys.version_info[:2] == (3, 11) and twisted.__version__.startswith(
    "{}.{}.".format(*NEWEST)
)


class Site(UpgradeSite):
    """A site without an access log."""

    def log(self, request: object) -> None:
        """Not here."""


class Driven:
    """A connection to a site over TCP, whose transport is driven from here: the reactor has no part."""

    def __init__(self, site: Site, listening: socket.socket) -> None:
        self.client = socket.create_connection(listening.getsockname(), timeout=10)
        self._socket, self._address = listening.accept()
        self._site = site

    def accept(self) -> None:
        channel: Any = self._site.buildProtocol(IPv4Address("TCP", *self._address))
        self.transport = tcp.Server(self._socket, channel, self._address, None, 0, reactor)
        channel.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        self.client.sendall(data)
        assert select.select([self._socket], [], [], 10)[0]

    def end(self) -> None:
        self.client.close()
        self.transport.connectionLost(Failure(ConnectionDone()))


class Count:
    """How many calls of Python functions are made."""

    def __init__(self) -> None:
        self.calls = 0

    def of(self, act: Callable[[], object]) -> None:
        """Count those of a function, without that of itself."""
        gc.disable()
        sys.setprofile(self._note)
        try:
            act()
        finally:
            sys.setprofile(None)
            gc.enable()
        self.calls -= 1

    def _note(self, frame: object, event: str, argument: object) -> None:
        self.calls += event == "call"


def check(calls: int, expected: int) -> None:
    """Allow for a tenth more or less, and with other versions for half as much again."""
    if IS_MEASURED:
        assert expected * 0.9 <= calls <= expected * 1.1
    else:
        assert calls <= expected * 1.5
