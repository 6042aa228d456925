"""
:func:`tunnel`: an upgrade whose target is spliced to a connection elsewhere; :class:`TunnelFactory`:
the same for a connection that has not asked in HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import (
    ConnectError,
    ConnectionClosed,
    TCPTimedOutError,
)
from twisted.internet.error import TimeoutError as InternetTimeoutError
from twisted.internet.interfaces import IProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed
from twisted.web.resource import IResource

from ..errors import InvalidUpgrades
from ..observe.events import path_text
from ..server.pages import StatusPage
from ..server.request import UpgradeRequest
from ..splice import ConnectingEnd, ServerEnd, SingleUseFactory, Splice, SpliceEnd

__all__ = ["TunnelFactory", "tunnel"]

_log = Logger()


def tunnel(
    endpoint: IStreamClientEndpoint, timeout: float = 10
) -> Callable[[UpgradeRequest, object], Deferred[IProtocol | IResource]]:
    """
    An acceptor, of a token or of CONNECTs, that connects to an endpoint first, and switches only then;
    from there on the two connections are spliced (:func:`~upgrade_switch.splice`).

    Where the endpoint cannot be connected to, the answer is 502 (RFC 9110 §15.6.3); where that takes
    too long, 504 (§15.6.5); the reason is logged in one line. A client that leaves ends the attempt.

    :param endpoint: where to: any Twisted client endpoint.
    :param timeout: how many seconds it may take to connect.
    :raises InvalidUpgrades: for what is no client endpoint.
    """
    _check_endpoint(endpoint)

    def accept(request: UpgradeRequest, token: object) -> Deferred[IProtocol | IResource]:
        far = ServerEnd()
        near = _TunnelEnd()
        joined = Splice(near, far)
        connecting = _connect(endpoint, far, request.site.reactor, timeout)
        # The request ends in the switch or in something else; the far connection is of no use then.
        request.notifyFinish().addCallbacks(
            lambda _: None if request.has_switched else joined.abort(), lambda _: joined.abort()
        )
        path = path_text(request.path)
        return connecting.addCallbacks(lambda _: near, lambda reason: _not_connected(reason, path))

    return accept


class TunnelFactory(Factory):
    """
    Builds protocols that connect to an endpoint, and are spliced to it: a tunnel without HTTP, for
    ``UpgradeSite(prefaces=...)``.

    A connection is not read until the endpoint is connected, so that a half-close is passed on; one
    whose client has left meanwhile is noticed then, too. Where the endpoint cannot be connected to,
    which is logged in one line, or takes too long, the connection is aborted. A client that has
    finished ends an endpoint's connection that knows no half-close (TLS, WebSocket).
    """

    noisy = False

    def __init__(self, reactor: Any, endpoint: IStreamClientEndpoint, timeout: float = 10) -> None:
        """
        :param reactor: provides ``IReactorTime``.
        :param endpoint: where to: any Twisted client endpoint.
        :param timeout: how many seconds it may take to connect.
        :raises InvalidUpgrades: for what is no client endpoint.
        """
        _check_endpoint(endpoint)
        self._reactor = reactor
        self._endpoint = endpoint
        self._timeout = timeout

    def buildProtocol(self, addr: object) -> SpliceEnd:
        far = ServerEnd()
        near = _PrefacedTunnelEnd(lambda: _connect(self._endpoint, far, self._reactor, self._timeout))
        Splice(near, far)
        return near


class _TunnelEnd(SpliceEnd):
    """The near end of a tunnel that is connected already when its client is switched."""

    # The log and the status page show the names of these two classes.


class _PrefacedTunnelEnd(ConnectingEnd):
    """The near end of a tunnel whose client has not asked in HTTP."""

    def __init__(self, connect: Callable[[], Deferred[object]]) -> None:
        super().__init__()
        self._connect = connect

    def connect(self) -> Deferred[object]:
        return self._connect()

    def not_connected(self, reason: Failure) -> None:
        _log.info("the far end of a tunnel: {why}", why=reason.getErrorMessage())


def _check_endpoint(endpoint: object) -> None:
    # By what it can: a test's stand-in need not say what it provides.
    if isinstance(endpoint, type) or not callable(getattr(endpoint, "connect", None)):
        raise InvalidUpgrades(
            f"a tunnel leads to a client endpoint (clientFromString makes one), not {endpoint!r}"
        )


def _connect(
    endpoint: IStreamClientEndpoint, far: SpliceEnd, reactor: Any, timeout: float
) -> Deferred[Any]:
    connecting: Deferred[Any] = maybeDeferred(endpoint.connect, SingleUseFactory(far))
    return connecting.addTimeout(timeout, reactor, _timed_out)


def _timed_out(reason: object, timeout: float) -> NoReturn:
    # Endpoints answer a cancellation with errors of their own, which say something else.
    raise InternetTimeoutError(f"not connected within {timeout:g} seconds")


def _not_connected(reason: Failure, path: str) -> IResource:
    timed_out = reason.check(InternetTimeoutError, TCPTimedOutError)
    if not timed_out:
        # ValueError: a name that no host can have; it may be a stranger's.
        reason.trap(ConnectError, ConnectionClosed, ResponseFailed, OSError, ValueError)
    # The client is told as little as possible; who runs the site wants to know.
    _log.info("the far end of the tunnel at {path}: {why}", path=path, why=reason.getErrorMessage())
    if timed_out:
        return StatusPage(504, "Gateway Timeout", "The server behind this one did not answer.")
    return StatusPage(502, "Bad Gateway", "The server behind this one cannot be reached.")
