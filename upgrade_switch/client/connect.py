"""
:class:`ConnectEndpoint`: a client endpoint whose connections go through an HTTP proxy, by CONNECT
(RFC 9110 §9.3.6).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamClientEndpointStringParserWithReactor,
)
from twisted.plugin import IPlugin
from twisted.web.client import BrowserLikePolicyForHTTPS
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IPolicyForHTTPS, IResponse
from zope.interface import implementer

from .. import _twisted
from ..errors import NotSwitched, connect_timed_out
from .endpoint import check_timeout, headers_of, install_built, unwrap_cancelled
from .response import UpgradeResponse
from .switching import SwitchingClient, SwitchingFactory
from .urls import ascii_host, authority_of, parse_proxy

if TYPE_CHECKING:
    from twisted.web.client import URI

__all__ = ["ConnectEndpoint", "ConnectEndpointParser"]


@implementer(IStreamClientEndpoint)
class ConnectEndpoint:
    """
    A client endpoint whose connections go through an HTTP proxy, by CONNECT (RFC 9110 §9.3.6): any
    Twisted client works over it unchanged.

    Nothing is sent through the tunnel before the proxy's 2xx (RFC 9931): the factory's protocol is
    built only then. What the proxy sends behind the head of its 2xx belongs to that protocol.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        proxy_url: str | bytes,
        host: str | bytes,
        port: int,
        headers: Headers | Mapping[str, str] | None = None,
        timeout: float | None = 30,
        *,
        proxy_policy: IPolicyForHTTPS | None = None,
    ) -> None:
        """
        :param reactor: connects to the proxy, and is the clock.
        :param proxy_url: where the proxy is, ``http://proxy:3128`` for example; with ``https``, TLS is
            spoken to it. ``user:password@``, percent-encoded in the URL, is sent as Basic
            authentication in UTF-8 (RFC 7617). Without a port: 80, or 443.
        :param host: where the connection is to go: a name, which the proxy looks up (an
            internationalised one is sent as its A-labels), or an address.
        :param port: the port there.
        :param headers: further fields of the CONNECT.
        :param timeout: how many seconds connecting and the proxy's answer may take; None: no limit.
        :param proxy_policy: which certificates an ``https`` proxy may have, as for ``Agent``; by
            default, those of the platform's certificate authorities for its name.
        :raises ValueError: if the URL is not that of a proxy, or has a path; if there is no such
            host or port; if the timeout is not above 0; and if there is a Proxy-Authorization among
            the headers beside a user in the URL.
        :raises InvalidArgument: if the headers are of the wrong kind.
        """
        check_timeout(timeout)
        proxy = parse_proxy(proxy_url)
        self._authority = authority_of(ascii_host(host), port)
        self._headers = headers_of(headers)
        self._headers.setRawHeaders(b"host", [self._authority])
        if proxy.credentials is not None:
            if self._headers.hasHeader(b"proxy-authorization"):
                raise ValueError(
                    "a user in the proxy's URL and a Proxy-Authorization contradict each other"
                )
            encoded = b"Basic " + b64encode(proxy.credentials)
            self._headers.setRawHeaders(b"proxy-authorization", [encoded])
        self._reactor = reactor
        self._timeout = timeout
        self._proxy: IStreamClientEndpoint = HostnameEndpoint(reactor, proxy.host, proxy.port)
        if proxy.is_secure:
            policy = BrowserLikePolicyForHTTPS() if proxy_policy is None else proxy_policy
            creator = policy.creatorForNetloc(proxy.host.encode("ascii"), proxy.port)
            self._proxy = wrapClientTLS(creator, self._proxy)
        self._shown = (
            f"{self._authority.decode()} through {authority_of(proxy.host, proxy.port).decode()}"
        )

    def __repr__(self) -> str:
        return f"<ConnectEndpoint {self._shown}>"

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Have the proxy connect, and install the factory's protocol on the tunnel.

        :param protocolFactory: builds the protocol; its ``doStart`` comes with the proxy's 2xx, its
            ``doStop`` with the connection's end.
        :return: fires with the protocol, which owns the connection; fails with
            :class:`~upgrade_switch.NotSwitched` (a ``ConnectError``; its ``response`` has code, headers
            and body of the proxy's answer, and the connection is closed after the body) if the proxy
            refuses, with :class:`~upgrade_switch.errors.InvalidResponse` if the answer is not HTTP,
            with ``twisted.internet.error.TimeoutError`` if it took too long, with
            ``ResponseNeverReceived`` or ``ResponseFailed`` (of ``twisted.web.client``) if the proxy
            closes the connection, or with what connecting to the proxy failed with. Cancelling it
            closes the connection.
        """
        connected = self._proxy.connect(SwitchingFactory(self._reactor))
        answered = connected.addCallback(self._ask)
        if self._timeout is not None:
            timed_out = connect_timed_out(f"no tunnel to {self._shown}")
            answered.addTimeout(self._timeout, self._reactor, timed_out)
        answered.addErrback(unwrap_cancelled)
        return answered.addCallback(_install, protocolFactory)

    def _ask(self, client: IProtocol) -> Deferred[IResponse]:
        assert isinstance(client, SwitchingClient)
        request = _twisted.client_request(b"CONNECT", self._authority, self._headers.copy())
        return client.request(request)

    @classmethod
    def factory(
        cls,
        reactor: IReactorTime,
        proxy_url: str | bytes,
        headers: Headers | Mapping[str, str] | None = None,
        timeout: float | None = 30,
        *,
        policy: IPolicyForHTTPS | None = None,
        proxy_policy: IPolicyForHTTPS | None = None,
    ) -> IAgentEndpointFactory:
        """
        For an agent all of whose connections go through a proxy, upgrades and other requests alike::

            pool = UpgradePool(reactor)
            through = ConnectEndpoint.factory(reactor, "http://proxy:3128")
            agent = Agent.usingEndpointFactory(reactor, through, pool=pool)

        A pool keeps connections by scheme, host and port: use one for the proxy alone.

        :param reactor: as for :class:`ConnectEndpoint`; the other arguments too.
        :param policy: which certificates the servers behind the proxy may have, as for ``Agent``; by
            default, those of the platform's certificate authorities for their names.
        :return: the factory. It also tunnels ``http`` URLs. An agent's request fails as
            :meth:`connect` does.
        :raises ValueError: as :class:`ConnectEndpoint`, about the proxy's URL and the timeout.
        """
        through = partial(
            cls, reactor, proxy_url, headers=headers, timeout=timeout, proxy_policy=proxy_policy
        )
        # Whatever is wrong with the arguments is said now, not at the first request.
        through("localhost", 80)
        return _ProxiedEndpoints(through, BrowserLikePolicyForHTTPS() if policy is None else policy)


def _install(response: IResponse, factory: IProtocolFactory) -> IProtocol:
    assert isinstance(response, UpgradeResponse)
    if response.connection is None:
        raise NotSwitched(response, "the proxy did not open a tunnel")
    return install_built(response.connection, factory)


@implementer(IAgentEndpointFactory)
class _ProxiedEndpoints:
    """What an agent connects with."""

    def __init__(
        self, through: Callable[[bytes, int], ConnectEndpoint], policy: IPolicyForHTTPS
    ) -> None:
        self._through = through
        self._policy = policy

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """
        :raises SchemeNotSupported: if it is neither ``http`` nor ``https``.
        """
        if uri.scheme not in (b"http", b"https"):
            raise SchemeNotSupported(f"Unsupported scheme: {uri.scheme!r}")
        tunnel = self._through(uri.host, uri.port)
        if uri.scheme == b"http":
            return tunnel
        return wrapClientTLS(self._policy.creatorForNetloc(uri.host, uri.port), tunnel)


@implementer(IPlugin, IStreamClientEndpointStringParserWithReactor)
class ConnectEndpointParser:
    """
    Parses ``connect:proxy=http\\://proxy\\:3128:host=example.com:port=443``, for
    ``clientFromString``.
    """

    prefix = "connect"

    def parseStreamClient(  # type: ignore[override]  # what comes is up to the string
        self, reactor: IReactorTime, *values: str, **named: str
    ) -> ConnectEndpoint:
        """
        :param values: the parts of the string, by their order or (``named``) by name: ``proxy``,
            ``host`` and ``port``, as :class:`ConnectEndpoint` takes them (colons in them are
            escaped as ``\\:``), and the ``timeout`` in seconds.
        :raises ValueError: if a part is missing, unknown or invalid.
        """
        try:
            proxy, host, port, timeout = _arguments(*values, **named)
        except TypeError:
            form = r"connect:proxy=http\://PROXY\:3128:host=HOST:port=PORT"
            raise ValueError(f"written {form}, with the URL's colons as \\:") from None
        return ConnectEndpoint(reactor, proxy, host, int(port), timeout=float(timeout))


def _arguments(proxy: str, host: str, port: str, timeout: str = "30") -> tuple[str, str, str, str]:
    """The parts that an endpoint string may have, with Python's own check of them."""
    return proxy, host, port, timeout
