"""
:func:`connect_to`: an acceptor of CONNECTs that connects to where the client wants to go.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import (
    IHostnameResolver,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from zope.interface import implementer

from ...errors import ClientGone, InvalidArgument, connect_timed_out
from ...fields import printable
from ...server.request import UpgradeRequest
from ...splice import SpliceEnd, check_idle_timeout
from .._tunnel import TunnelLimits, open_tunnel
from .addresses import Address
from .destinations import Destinations
from .login import check_portal, log_in
from .refusals import is_unroutable, refusal

__all__ = ["check_arguments", "connect_to"]

_Answer = IProtocol | IResource


def connect_to(
    destinations: Destinations,
    reactor: IReactorTime,
    *,
    portal: Portal | None = None,
    timeout: float = 10,
    idle_timeout: float | None = None,
    forgive_truncation: bool = False,
) -> Callable[[UpgradeRequest, bytes], Deferred[_Answer]]:
    """
    An acceptor for ``UpgradeSite(connect=...)`` that connects to the destination that the client names,
    if it is an allowed one, and switches only then (RFC 9110 §9.3.6). After that, the two connections
    are spliced (:func:`~upgrade_switch.splice`), which owns and closes them.

    A name is looked up once, and its allowed addresses are tried in the resolver's order; each gets an
    equal share of the time that is left. Without a connection, the answer has ``Proxy-Status`` (RFC
    9209), and the client's connection is closed behind it (RFC 9931):

    ==== =============================================================================
    403  ``http_request_denied``: the name or the port is not allowed
    403  ``destination_ip_prohibited``: the address is not allowed
    502  ``dns_error``: the name has no address
    502  ``connection_refused``, ``destination_ip_unroutable``, ``destination_unavailable``
    504  ``dns_timeout``, ``connection_timeout``: looking up or connecting took too long
    407  the portal wants another name and password, or there are none
    ==== =============================================================================

    If the client leaves, the attempt is cancelled. Nothing is logged about a destination that cannot be
    reached, since strangers choose it; ``request.decline_detail`` says why.

    :param destinations: what is allowed.
    :param reactor: looks names up, connects, and is the clock.
    :param portal: who is allowed: clients log in with ``Proxy-Authorization`` (HTTP Basic). Its realm
        is asked for an ``IResource``, as ``twisted.web.guard`` asks it; the avatar is not used, and its
        logout is called at the end of the connection. The name becomes the connection's ``user``. None:
        anybody may connect.
    :param timeout: how many seconds looking up and connecting may take together.
    :param idle_timeout: as for :func:`tunnel`.
    :param forgive_truncation: as for :func:`~upgrade_switch.splice`.
    :return: the acceptor.
    :raises InvalidArgument: if an argument is wrong.
    """
    check_arguments(destinations, portal, timeout, idle_timeout)
    limits = TunnelLimits(timeout, idle_timeout, forgive_truncation)
    return _Proxy(destinations, reactor, portal, limits).accept


def check_arguments(
    destinations: object, portal: object, timeout: object, idle_timeout: float | None
) -> None:
    """
    Check the arguments of proxies whose clients name the destination.

    :raises InvalidArgument: if one of them is wrong.
    """
    if not isinstance(destinations, Destinations):
        raise InvalidArgument(f"not a Destinations, which says what is allowed: {destinations!r}")
    if not isinstance(timeout, int | float) or not timeout > 0:
        raise InvalidArgument(f"timeout is a number of seconds above 0, not {timeout!r}")
    check_portal(portal)
    check_idle_timeout(idle_timeout)


class _Proxy:
    """What :func:`connect_to` makes."""

    def __init__(
        self,
        destinations: Destinations,
        reactor: IReactorTime,
        portal: Portal | None,
        limits: TunnelLimits,
    ) -> None:
        self._destinations = destinations
        self._reactor = reactor
        self._portal = portal
        self._limits = limits

    def accept(self, request: UpgradeRequest, authority: bytes) -> Deferred[_Answer]:
        if self._portal is None:
            return self._connect(request, authority)
        return log_in(request, self._portal).addCallback(self._logged_in, request, authority)

    def _logged_in(
        self, result: Callable[[], object] | IResource, request: UpgradeRequest, authority: bytes
    ) -> _Answer | Deferred[_Answer]:
        if not callable(result):
            return result
        if getattr(request, "channel", None) is None:
            # The checker has taken its time, and did not mind being cancelled.
            result()
            raise ClientGone("the client has left while it was logging in")
        return self._connect(request, authority).addBoth(_log_out_behind, result)

    def _connect(self, request: UpgradeRequest, authority: bytes) -> Deferred[_Answer]:
        there = _Destination(self._destinations, authority, self._reactor, self._limits.timeout)
        return open_tunnel(
            request,
            there,
            self._reactor,
            self._limits,
            lambda reason: refusal(reason, there.is_looking_up),
        )


def _log_out_behind(answer: _Answer | Failure, log_out: Callable[[], object]) -> _Answer | Failure:
    """Have the client logged out at the end of its connection, or now if there is none."""
    if isinstance(answer, SpliceEnd):
        answer.splice.done.addBoth(lambda _: log_out())
    else:
        log_out()
    return answer


@implementer(IStreamClientEndpoint)
class _Destination:
    """
    An endpoint that connects to what a client has named, if it is allowed.

    :ivar is_looking_up: whether no address is known yet.
    """

    def __init__(
        self, destinations: Destinations, authority: bytes, reactor: IReactorTime, timeout: float
    ) -> None:
        """
        :param authority: a host and a port, which ``fields.is_authority`` has checked.
        :param timeout: after how many seconds the caller gives up.
        """
        self.is_looking_up = True
        self._destinations = destinations
        self._authority = authority.decode("ascii")
        self._reactor = reactor
        self._deadline = reactor.seconds() + timeout

    def __repr__(self) -> str:
        return printable(self._authority)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        host, _, port = self._authority.rpartition(":")
        resolver: IHostnameResolver | None = getattr(self._reactor, "nameResolver", None)
        addresses = self._destinations.addresses(host, int(port), resolver)
        return addresses.addCallback(self._try, int(port), protocolFactory)

    def _try(
        self,
        addresses: list[Address],
        port: int,
        factory: IProtocolFactory,
        failed: Failure | None = None,
    ) -> Deferred[IProtocol]:
        """
        Try one address behind the other.

        :param failed: why an earlier one could not be connected to.
        """
        self.is_looking_up = False
        share = (self._deadline - self._reactor.seconds()) / len(addresses)

        def not_connected(reason: Failure) -> Deferred[IProtocol]:
            reason.trap(ConnectError, ConnectionClosed, OSError)
            if failed is not None and not is_unroutable(failed):
                # The more telling one: that there is no way to IPv6 is no news.
                reason = failed
            left = addresses[1:]
            return self._try(left, port, factory, reason) if left else fail(reason)

        return self._attempt(addresses[0], port, factory, max(share, 0)).addErrback(not_connected)

    def _attempt(
        self, address: Address, port: int, factory: IProtocolFactory, seconds: float
    ) -> Deferred[IProtocol]:
        endpoint = TCP4ClientEndpoint if address.version == 4 else TCP6ClientEndpoint
        there = endpoint(self._reactor, str(address), port, timeout=seconds)
        connecting: Deferred[IProtocol] = maybeDeferred(there.connect, factory)
        return connecting.addTimeout(seconds, self._reactor, connect_timed_out("no connection"))
