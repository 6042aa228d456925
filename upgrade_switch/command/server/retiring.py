"""
:class:`RetiringSite`: a site that can be left to end by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.web.resource import IResource

from ... import _twisted
from .access_log import LoggedSite

if TYPE_CHECKING:
    from twisted.internet.abstract import FileDescriptor
    from twisted.internet.interfaces import IProtocolFactory

    from ...server.preface import PrefaceTable

__all__ = ["RetiringSite"]

_SECONDS_BETWEEN_LOOKS = 0.2


class RetiringSite(LoggedSite):
    """A site that knows whether anybody is connected."""

    def __init__(self, *args: object, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Those beneath TLS: the reactor's own. One that has ended goes with its last reference.
        self._transports: WeakSet[FileDescriptor] = WeakSet()
        self._is_retiring = False
        self._seen = 0

    def connected(self, transport: object) -> PrefaceTable[IProtocolFactory] | None:
        self._transports.add(_twisted.bottom(transport))
        return super().connected(transport)

    def getResourceFor(self, request: Any) -> IResource:
        if self._is_retiring:
            self._ask_to_leave(request)
        return super().getResourceFor(request)

    def _ask_to_leave(self, request: Any) -> None:
        """
        Have this be the last request on its connection, if the client has not sent another one yet. An
        upgrade goes on there anyway.
        """
        is_http2 = request.clientproto.startswith(b"HTTP/2")
        if not is_http2 and not request.offer and not request.channel.has_trailing_data():
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])
            request.channel.persistent = False

    def retire(self, changed: Callable[[], None]) -> Deferred[None]:
        """
        No new clients come, and those that are here are served to the end: answers say that theirs was
        the last request on the connection, HTTP/2 says goodbye, and what is switched goes on.

        :param changed: called when some connections have ended.
        :return: fires when the last connection has ended.
        """
        self._is_retiring = True
        for http2 in tuple(self.http2_connections):
            http2.drain()
        watching = LoopingCall(lambda: self._look(watching, changed))
        watching.clock = self.reactor
        ended: Deferred[None] = Deferred()
        watching.start(_SECONDS_BETWEEN_LOOKS).addCallback(lambda _: ended.callback(None))
        return ended

    def _look(self, watching: LoopingCall, changed: Callable[[], None]) -> None:
        before, self._seen = self._seen, self.count()
        if not self._seen:
            watching.stop()
        elif self._seen != before:
            changed()

    def count(self) -> int:
        """How many are connected."""
        return sum(bool(transport.connected) for transport in self._transports)
