"""
:func:`tunnel`: an upgrade whose target is spliced to a connection elsewhere.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferTimeoutError
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    TCPTimedOutError,
)
from twisted.internet.error import TimeoutError as InternetTimeoutError
from twisted.internet.interfaces import IProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed
from twisted.web.resource import IResource

from ..negotiation import UpgradeToken
from ..pages import StatusPage
from ..request import UpgradeRequest
from ..resource import Acceptor
from ..splice import Splice, SpliceEnd

__all__ = ["tunnel"]


def tunnel(endpoint: IStreamClientEndpoint, timeout: float = 10) -> Acceptor:
    """
    An acceptor that connects to an endpoint first, and switches only then; from there on the two
    connections are spliced (:func:`~upgrade_switch.splice`).

    Where the endpoint cannot be connected to, the answer is 502 (RFC 9110 §15.6.3); where that takes
    too long, 504 (§15.6.5). A client that leaves ends the attempt.

    :param endpoint: where to: any Twisted client endpoint.
    :param timeout: how many seconds it may take to connect.
    """

    def accept(request: UpgradeRequest, token: UpgradeToken) -> Deferred[IProtocol | IResource]:
        joined = Splice()
        near, far = joined.ends
        connecting: Deferred[Any] = endpoint.connect(_OneFactory(far))
        connecting.addTimeout(timeout, request.channel.site.reactor)
        # The request ends in the switch or in something else; the far connection is of no use then.
        request.notifyFinish().addCallbacks(
            lambda _: None if request.code == 101 else joined.abort(), lambda _: joined.abort()
        )
        return connecting.addCallbacks(lambda _: near, _not_connected)

    return accept


class _OneFactory(Factory):
    """Builds one protocol: an end of a splice belongs to one connection."""

    noisy = False

    def __init__(self, end: SpliceEnd) -> None:
        self._end = end

    def buildProtocol(self, addr: object) -> SpliceEnd:
        return self._end


def _not_connected(reason: Failure) -> IResource:
    # The endpoints of Twisted answer a cancellation, the timeout's, with an error of their own.
    if reason.check(
        ConnectingCancelledError, DeferTimeoutError, InternetTimeoutError, TCPTimedOutError
    ):
        return StatusPage(504, "Gateway Timeout", "The server behind this one did not answer.")
    reason.trap(ConnectError, ConnectionClosed, ResponseFailed, OSError)
    return StatusPage(502, "Bad Gateway", "The server behind this one cannot be reached.")
