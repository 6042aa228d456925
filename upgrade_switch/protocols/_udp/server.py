"""
:func:`connect_udp`: an acceptor that passes UDP on to where the client wants it to go (RFC 9298).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM
from ipaddress import AddressValueError, IPv6Address
from typing import Any, Final

from twisted.cred.portal import Portal
from twisted.internet.error import getConnectError
from twisted.internet.interfaces import IProtocol
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from ...errors import ClientGone, connect_timed_out
from ...fields import is_host, printable
from ...server.pages import StatusPage, service_unavailable
from ...server.request import UpgradeRequest
from .._connect.destinations import Destinations
from .._connect.login import log_in
from .._connect.refusals import is_unroutable, refusal
from .._connect.server import check_arguments
from .capsules import FORBIDDEN_FIELDS
from .flow import UDPFlow
from .idle import IDLE_TIMEOUT
from .sockets import ConnectedSocket, IUDPReactor

__all__ = ["connect_udp"]

_Answer = IProtocol | IResource

# RFC 9298 §2: from 1 to 65535.
_PORT = re.compile(rb"[0-9]{1,5}\Z")
_MOST_PORT: Final = 65535

# RFC 9297 §3.4, in the words of RFC 9651.
_CAPSULE_PROTOCOL, _YES = b"Capsule-Protocol", b"?1"

# Characters of what is noted about a stranger's destination.
_MOST_LOGGED: Final = 200

_OUT_OF_SOCKETS = (EMFILE, ENFILE, ENOBUFS, ENOMEM)


# Any: of a reactor, what IUDPReactor says; Twisted's own does not say that it provides that.
def connect_udp(
    destinations: Destinations,
    reactor: Any,
    *,
    portal: Portal | None = None,
    timeout: float = 10,
    idle_timeout: float | None = IDLE_TIMEOUT,
) -> Callable[[UpgradeRequest, object], Coroutine[Any, Any, _Answer]]:
    """
    An acceptor for the token ``connect-udp`` (RFC 9298): a client's datagrams travel in capsules (RFC
    9297) to and from the destination that it names, if it is an allowed one. Clients look for it at
    ``/.well-known/masque/udp``, below which they ask for ``/HOST/PORT/``::

        udp = UpgradeResource({"connect-udp": connect_udp(Destinations("example.com:443"), reactor)})
        site_root.putChild(b".well-known", well_known := Resource())
        well_known.putChild(b"masque", masque := Resource())
        masque.putChild(b"udp", udp)

    A name is looked up once, and each flow has its own socket, connected to the first allowed address
    that can be routed to. Whether anything answers there is not known: an ICMP error ends nothing. A
    datagram that is too large for the path is dropped, since a proxy makes no fragments (RFC 9298
    §3.1). The end of the connection closes the socket.

    The answers without a flow are those of :func:`connect_to`, with ``Proxy-Status``; 400 for a bad
    host, port or path, a method other than GET, or fields that describe content; 503 if no more sockets
    can be opened. The connection is closed behind them, since RFC 9298 §5 once let clients send before
    they are answered (RFC 9931).

    :param destinations: what is allowed.
    :param reactor: looks names up, watches the sockets, and is the clock.
    :param portal: who is allowed, as for :func:`connect_to`.
    :param timeout: how many seconds looking up a name may take.
    :param idle_timeout: after how many seconds in which no datagram has moved a flow is aborted; RFC
        9298 §3.1 recommends at least 120. None: never.
    :return: the acceptor.
    :raises InvalidArgument: if an argument is wrong.
    """
    check_arguments(destinations, portal, timeout, idle_timeout)
    return _UDPProxy(destinations, reactor, portal, timeout, idle_timeout).accept


class _UDPProxy:
    """What :func:`connect_udp` makes."""

    def __init__(
        self,
        destinations: Destinations,
        reactor: IUDPReactor,
        portal: Portal | None,
        timeout: float,
        idle_timeout: float | None,
    ) -> None:
        self._destinations = destinations
        self._reactor = reactor
        self._portal = portal
        self._timeout = timeout
        self._idle_timeout = idle_timeout

    async def accept(self, request: UpgradeRequest, token: object) -> _Answer:
        _close_unless_switched(request)
        if self._portal is None:
            return await self._flow(request)
        logged_in = await log_in(request, self._portal)
        if not callable(logged_in):
            return logged_in
        answer: _Answer | None = None
        try:
            if getattr(request, "channel", None) is None:
                # The checker has taken its time, and did not mind being cancelled.
                raise ClientGone("the client has left while it was logging in")
            answer = await self._flow(request)
            return answer
        finally:
            if not (isinstance(answer, UDPFlow) and answer.at_end(logged_in)):
                logged_in()

    async def _flow(self, request: UpgradeRequest) -> _Answer:
        """A flow to where the request wants to go, or why there is none."""
        target = _target(request)
        if target is None:
            request.decline_detail = "not a GET to /HOST/PORT/ below this resource"
            detail = "The path is /HOST/PORT/, and the method GET (RFC 9298)."
            return StatusPage(400, "Bad Request", detail)
        if any(map(request.requestHeaders.hasHeader, FORBIDDEN_FIELDS)):
            request.decline_detail = (
                "a field that describes content, which connect-udp requests do not have"
            )
            return StatusPage(400, "Bad Request", "Capsules follow, and no content (RFC 9297).")
        try:
            socket = await self._open(*target)
        except Exception as error:
            request.decline_detail = f"no flow: {printable(str(error))[:_MOST_LOGGED]}"
            if getattr(error, "osError", None) in _OUT_OF_SOCKETS:
                return service_unavailable("There are no more sockets.")
            return refusal(Failure(), is_looking_up=True)
        for name in FORBIDDEN_FIELDS:
            request.responseHeaders.removeHeader(name)
        request.responseHeaders.setRawHeaders(_CAPSULE_PROTOCOL, [_YES])
        flow = UDPFlow(self._reactor, socket, self._idle_timeout)
        _end_unless_switched(request, flow)
        return flow

    async def _open(self, host: str, port: int) -> ConnectedSocket:
        """
        A socket to the first of a host's addresses that there is a way to.

        :raises ConnectError: if there is none. What ``Destinations`` fails with is raised, too.
        """
        looking_up = self._destinations.addresses(host, port, self._reactor.nameResolver, "UDP")
        looking_up.addTimeout(self._timeout, self._reactor, connect_timed_out("no address"))
        errors: list[Failure] = []
        for address in await looking_up:
            try:
                return ConnectedSocket(self._reactor, address, port)
            except OSError as error:
                errors.append(Failure(getConnectError(error)))
        # The most telling one: that there is no way to IPv6 is no news.
        telling = min(errors, key=is_unroutable).value
        assert telling is not None
        raise telling


def _target(request: UpgradeRequest) -> tuple[str, int] | None:
    """
    The host and the port that a request's path names (RFC 9298 §2, §3.2); None if it does not, or if
    its method is not GET.
    """
    # Twisted has decoded the percent-encoding of each segment.
    below = request.postpath or ()
    if request.method != b"GET" or len(below) != 3:
        return None
    host, port, end = below
    if end or not _PORT.match(port) or not 0 < int(port) <= _MOST_PORT:
        return None
    with suppress(UnicodeDecodeError):
        text = host.decode("utf-8")
        if _is_target_host(text):
            return text, int(port)
    return None


def _is_target_host(host: str) -> bool:
    """Whether it is an IPv6 address without brackets, an IPv4 address or a name (RFC 9298 §2)."""
    if ":" in host:
        with suppress(AddressValueError):
            return IPv6Address(host).scope_id is None
        return False
    # A name may be internationalised; a percent sign would be a second encoding.
    return "%" not in host and (not host.isascii() or is_host(host.encode()))


def _end_unless_switched(request: UpgradeRequest, flow: UDPFlow) -> None:
    """The request ends in a switch, or in something else, after which the socket has no use."""
    if getattr(request, "channel", None) is None:
        flow.close()
        return
    request.notifyFinish().addCallbacks(
        lambda _: None if request.has_switched else flow.close(), lambda _: flow.close()
    )


def _close_unless_switched(request: UpgradeRequest) -> None:
    """Have the connection be closed behind an answer in HTTP: what follows may be capsules."""
    channel = getattr(request, "channel", None)
    if channel is not None and request.is_detachable:
        channel.persistent = False
        request.responseHeaders.setRawHeaders(b"connection", [b"close"])
