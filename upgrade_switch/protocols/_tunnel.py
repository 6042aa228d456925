"""
:func:`tunnel`: an upgrade whose target is spliced to a connection elsewhere; :class:`TunnelFactory`:
the same for a connection whose client has not asked in HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectError, ConnectionClosed, TCPTimedOutError, TimeoutError
from twisted.internet.interfaces import IProtocol, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed
from twisted.web.resource import IResource

from .. import _twisted
from ..connecting import ConnectingEnd, ServerEnd, SingleUseFactory
from ..errors import InvalidUpgrades, connect_timed_out
from ..fields import printable
from ..observe.events import path_text
from ..server.pages import StatusPage
from ..server.request import UpgradeRequest
from ..splice import Splice, SpliceEnd, check_idle_timeout
from ._proxy_header import proxy_header

__all__ = ["TunnelFactory", "TunnelLimits", "open_tunnel", "tunnel"]

_log = Logger()

# Characters of what is logged about a stranger's path, an endpoint, or a failure: one line holds them.
_MOST_LOGGED: Final = 200


def tunnel(
    endpoint: IStreamClientEndpoint,
    timeout: float = 10,
    *,
    idle_timeout: float | None = None,
    forgive_truncation: bool = False,
    proxy_protocol: bool = False,
) -> Callable[[UpgradeRequest, object], Deferred[IProtocol | IResource]]:
    """
    An acceptor, for a token or for CONNECTs, that connects to an endpoint and switches only then. After
    that, the two connections are spliced (:func:`~upgrade_switch.splice`).

    If the endpoint cannot be connected to, the answer is 502 (RFC 9110 §15.6.3); if that takes too
    long, it is 504 (§15.6.5). Either is logged as a warning, which names the endpoint and the reason.
    If the client leaves, the attempt is cancelled.

    :param endpoint: any Twisted client endpoint; it is connected to once for each client.
    :param timeout: how many seconds connecting may take.
    :param idle_timeout: after how many seconds without a byte, in either direction, both connections
        are aborted: a stream that just stops has not ended cleanly. None: never.
    :param forgive_truncation: as for :func:`~upgrade_switch.splice`.
    :param proxy_protocol: whether the endpoint's server is told the client's address, by the header of
        the PROXY protocol, version 2, in front of all that the tunnel carries. A client on a UNIX
        socket is sent as ``LOCAL``. If the endpoint speaks TLS, the header is inside it.
    :return: the acceptor.
    :raises InvalidUpgrades: if ``endpoint`` is not a client endpoint.
    :raises InvalidArgument: if ``idle_timeout`` is neither None nor above 0.
    """
    _check_endpoint(endpoint)
    limits = TunnelLimits(timeout, idle_timeout, forgive_truncation)
    check_idle_timeout(idle_timeout)

    def accept(request: UpgradeRequest, token: object) -> Deferred[IProtocol | IResource]:
        path = path_text(request.path)
        answer = partial(_answer_without_connection, endpoint, path)
        first = _header_for(request) if proxy_protocol else b""
        return open_tunnel(request, endpoint, request.site.reactor, limits, answer, first)

    return accept


class TunnelLimits(NamedTuple):
    """What a tunnel has limits for; see :func:`tunnel`."""

    timeout: float
    idle_timeout: float | None
    forgive_truncation: bool


def open_tunnel(
    request: UpgradeRequest,
    endpoint: IStreamClientEndpoint,
    reactor: IReactorTime,
    limits: TunnelLimits,
    answer: Callable[[Failure], IResource],
    first: bytes = b"",
) -> Deferred[IProtocol | IResource]:
    """
    Connect to an endpoint, as the acceptor of a tunnel does.

    When the request ends, in a switch or in something else, the splice sees to both connections: after
    a switch it owns them, and without one it aborts the far one, and the attempt if there is none yet.

    :param reactor: the clock.
    :param answer: what answers the request if there is no connection; called with the reason.
    :param first: what the endpoint's server gets in front of what the client sends, and at once: some
        wait for it before they speak.
    :return: fires with the near end of a splice, or with what answers the request.
    """
    near, far = _TunnelEnd(), _FarTunnelEnd(first)
    joined = Splice(near, far, forgive_truncation=limits.forgive_truncation, reactor=reactor)
    connecting = _connect(endpoint, far, reactor, limits.timeout)
    # The request ends in a switch or in something else, after which the far connection has no use.
    request.notifyFinish().addCallbacks(
        lambda _: None if request.has_switched else joined.abort(), lambda _: joined.abort()
    )

    def connected(_: IProtocol) -> IProtocol | IResource:
        joined.limit_idleness(reactor, limits.idle_timeout)
        return near

    def not_connected(reason: Failure) -> IProtocol | IResource:
        request.decline_detail = (
            f"cannot connect to {_one_line(_twisted.endpoint_text(endpoint))}: "
            f"{_one_line(reason.getErrorMessage())}"
        )
        return answer(reason)

    return connecting.addCallbacks(connected, not_connected)


class TunnelFactory(Factory):
    """
    Builds protocols that connect to an endpoint and are spliced to that connection: a tunnel without
    HTTP, for ``UpgradeSite(prefaces=...)``.

    A client's connection is not read until the endpoint is connected, so that a half-close can be
    passed on; whether the client has left meanwhile is noticed only then, too. If the endpoint cannot
    be connected to in time, the client's connection is aborted, and a warning is logged, which names
    the endpoint and the reason. If the endpoint's connection has no half-close (TLS, WebSocket), it is
    closed when the client has finished sending.
    """

    noisy = False

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamClientEndpoint,
        timeout: float = 10,
        *,
        idle_timeout: float | None = None,
        forgive_truncation: bool = False,
        proxy_protocol: bool = False,
    ) -> None:
        """
        :param reactor: the clock.
        :param endpoint: any Twisted client endpoint; it is connected to once for each client.
        :param timeout: how many seconds connecting may take.
        :param idle_timeout: as for :func:`tunnel`.
        :param forgive_truncation: as for :func:`~upgrade_switch.splice`.
        :param proxy_protocol: as for :func:`tunnel`.
        :raises InvalidUpgrades: if ``endpoint`` is not a client endpoint.
        :raises InvalidArgument: if ``idle_timeout`` is neither None nor above 0.
        """
        _check_endpoint(endpoint)
        check_idle_timeout(idle_timeout)
        self._idle_timeout = idle_timeout
        self._reactor = reactor
        self._endpoint = endpoint
        self._timeout = timeout
        self._forgive_truncation = forgive_truncation
        self.proxy_protocol = proxy_protocol

    def connect(self, far: SpliceEnd) -> Deferred[IProtocol]:
        """
        Connect one end of a splice to the endpoint.

        :return: fires when it is connected; may be cancelled.
        """
        connecting = _connect(self._endpoint, far, self._reactor, self._timeout)
        return connecting.addCallback(self._connected, far.splice)

    def _connected(self, connected: IProtocol, joined: Splice) -> IProtocol:
        joined.limit_idleness(self._reactor, self._idle_timeout)
        return connected

    def not_connected(self, reason: Failure) -> None:
        """Log that there is no connection."""
        _log.warn(
            "a tunnel cannot connect to {endpoint}: {why}",
            endpoint=_one_line(_twisted.endpoint_text(self._endpoint)),
            why=_one_line(reason.getErrorMessage()),
        )

    def buildProtocol(self, addr: object) -> SpliceEnd:
        near = _PrefacedTunnelEnd(self)
        forgive = self._forgive_truncation
        Splice(near, near.far, forgive_truncation=forgive, reactor=self._reactor)
        return near


# The log and the status page show the names of the two near ends.


class _TunnelEnd(SpliceEnd):
    """The near end of a tunnel that is connected already when its client is switched."""

    # The site's option tcp_keepalive has said it.
    keep_alive = False


class _FarTunnelEnd(ServerEnd):
    """The end of a tunnel that leads to the server, which may be told something first."""

    def __init__(self, first: bytes = b"") -> None:
        super().__init__()
        self.first = first

    def connectionMade(self) -> None:
        if self.first and not self.lost:
            self._write(self.first)
        super().connectionMade()


class _PrefacedTunnelEnd(ConnectingEnd):
    """The near end of a tunnel whose client has not asked in HTTP."""

    def __init__(self, tunnels: TunnelFactory) -> None:
        super().__init__()
        self._tunnels = tunnels
        self.far = _FarTunnelEnd()

    def connectionMade(self) -> None:
        if self._tunnels.proxy_protocol:
            self.far.first = proxy_header(self.transport.getPeer(), self.transport.getHost())
        # On a site, its option tcp_keepalive has said it.
        self.keep_alive = _twisted.watcher(self.transport) is None
        super().connectionMade()

    def connect(self) -> Deferred[IProtocol]:
        return self._tunnels.connect(self.other)

    def not_connected(self, reason: Failure) -> None:
        self._tunnels.not_connected(reason)


def _header_for(request: UpgradeRequest) -> bytes:
    # Not request.getHost(), which a resource on the way may have changed. The client may have left.
    channel = getattr(request, "channel", None)
    return proxy_header(request.getClientAddress(), channel and channel.getHost())


def _check_endpoint(endpoint: object) -> None:
    # Whatever can connect will do: a stand-in in a test need not declare its interfaces.
    if isinstance(endpoint, type) or not callable(getattr(endpoint, "connect", None)):
        raise InvalidUpgrades(
            f"a tunnel leads to a client endpoint (clientFromString makes one), not {endpoint!r}"
        )


def _connect(
    endpoint: IStreamClientEndpoint, far: SpliceEnd, reactor: IReactorTime, timeout: float
) -> Deferred[IProtocol]:
    connecting = maybeDeferred(endpoint.connect, SingleUseFactory(far))
    # Endpoints fail in ways of their own when they are cancelled, which would not say why they were.
    return connecting.addTimeout(timeout, reactor, connect_timed_out("no connection"))


def _answer_without_connection(
    endpoint: IStreamClientEndpoint, path: str, reason: Failure
) -> StatusPage:
    """
    Log why there is no connection.

    :return: 502 or 504. It tells the client as little as possible.
    :raises Exception: what the endpoint failed with, if the cause is not in the network.
    """
    timed_out = reason.check(TimeoutError, TCPTimedOutError)
    if not timed_out:
        # A ValueError is a name that no host can have, and may be a stranger's.
        reason.trap(ConnectError, ConnectionClosed, ResponseFailed, OSError, ValueError)
    _log.warn(
        "the tunnel at {path} cannot connect to {endpoint}: {why}",
        path=_one_line(path),
        endpoint=_one_line(_twisted.endpoint_text(endpoint)),
        why=_one_line(reason.getErrorMessage()),
    )
    if timed_out:
        return StatusPage(504, "Gateway Timeout", "The server behind this one did not answer.")
    return StatusPage(502, "Bad Gateway", "The server behind this one cannot be reached.")


def _one_line(text: str) -> str:
    """A string that is safe for a log, and not too long for one line of it."""
    shown = printable(text)
    return shown if len(shown) <= _MOST_LOGGED else f"{shown[:_MOST_LOGGED]}..."
