"""
The client: a connection pool that fits every ``Agent`` and every treq call.

``HTTPConnectionPool.getConnection`` may give the agent anything that has ``request(request)``. Ours
gives a router that looks at the request first: a request with ``Upgrade`` gets a connection of its
own and a :class:`~.switching.SwitchingClient`, or a stream of HTTP/2 (``shared``); any other goes on to
Twisted's pool.
"""

from __future__ import annotations

from collections.abc import Coroutine, Hashable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import IProtocol, IReactorTime, IStreamClientEndpoint
from twisted.python.failure import Failure
from twisted.web.client import HTTPConnectionPool
from twisted.web.iweb import IResponse

from .. import _twisted
from .._extras import needs_extra
from ..errors import InvalidArgument, InvalidResponse, NotSwitched, cause_of
from .idle import IdleConnections
from .response import UpgradeResponse
from .switching import SwitchingClient, SwitchingFactory

if TYPE_CHECKING:
    from ..connection import SwitchedConnection
    from .exchange_client import ExchangeClient
    from .request import ClientRequest
    from .shared import SharedConnections

__all__ = ["UpgradePool", "switched_connection"]


class UpgradePool(_twisted.UnaskedSwitchPool):
    """
    A ``twisted.web.client.HTTPConnectionPool`` whose agents can upgrade: give it to an ``Agent`` or
    to a treq call, send ``Upgrade`` among the request's headers, and give the response to
    :func:`switched_connection`.

    Each request with Upgrade gets a new connection, which never returns to the pool: it switches, or it
    is closed after the refusal's body. It is never retried. Requests without Upgrade behave as with
    ``HTTPConnectionPool``, except that a 101 to one of them fails it
    (:class:`~upgrade_switch.errors.InvalidResponse`), where Twisted waits for ever.

    With ``http2``, a request with Upgrade to an https URL goes over HTTP/2 if the server accepts it
    there (RFC 8441): each has its own stream, and the streams to one server share a connection.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        persistent: bool = True,
        *,
        lenient: bool = False,
        http2: bool = False,
    ) -> None:
        """
        :param reactor: provides ``IReactorTime``.
        :param persistent: whether requests without Upgrade keep their connections.
        :param lenient: whether a 101 without ``Connection: upgrade`` switches, too. It breaks RFC 9110
            §7.8; Proxmox's servers send it.
        :param http2: whether to offer HTTP/2 by ALPN for upgrades. It is for a GET without content and
            with one token; anything else, and a server that does not take upgrades over HTTP/2, gets
            HTTP/1.1. What a server accepts is remembered. A connection without streams is closed after
            ``cachedConnectionTimeout`` seconds.
        :raises MissingExtra: if ``http2`` needs an extra that is not installed.
        """
        super().__init__(reactor, persistent)
        self.clock = reactor
        self.lenient = lenient
        self._idle = IdleConnections(self, reactor)
        self._shared: SharedConnections | None = None
        if http2:
            with needs_extra("http2"):
                from .shared import SharedConnections
            self._shared = SharedConnections(self)

    # Any: Twisted says HTTP11ClientProtocol, of which an agent uses `request` alone.
    def getConnection(self, key: Hashable, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        """
        Called by an agent.

        :param key: scheme, host and port, as the agent has them.
        :param endpoint: what to connect to, if there is to be a new connection.
        :return: has fired with a router, which connects when it is given the request.
        """
        return succeed(_RequestRouter(self, key, endpoint))

    def resting_client(self, key: Hashable) -> ExchangeClient | None:
        """
        A connection that :meth:`exchange_client` would give at once, without a Deferred; None if no
        connection rests.
        """
        return self._idle.take(key)

    def exchange_client(
        self, key: Hashable, endpoint: IStreamClientEndpoint, fresh: bool = False
    ) -> Deferred[ExchangeClient]:
        """
        A connection for one exchange, for code that passes messages on as they are, as a proxy does.
        After the exchange it is kept for the next, as this class's attributes say (``persistent``,
        ``maxPersistentPerHost``, ``cachedConnectionTimeout``), though not among Twisted's own.

        :param key: connections with the same key are interchangeable.
        :param endpoint: what to connect to, if there is to be a new connection.
        :param fresh: whether to connect in any case: for an upgrade, and for a second attempt.
        :return: fires with the connection, which is the caller's: it calls its ``exchange``, or
            ``abort``. Fails as the endpoint does. Cancelling it cancels the connecting.
        """
        client = None if fresh else self._idle.take(key)
        if client is not None:
            return succeed(client)
        # Only now: it is the proxy's, and much; upgrades do without.
        from .exchange_client import ExchangeFactory

        factory = ExchangeFactory(self.clock, self._idle, key, self.lenient)
        return endpoint.connect(factory).addCallback(_exchange_client)

    def closeCachedConnections(self) -> Deferred[None]:
        """
        Close all connections that wait for another request.

        :return: fires when they are closed.
        """
        closed = [super().closeCachedConnections(), self._idle.close()]
        if self._shared is not None:
            closed.append(self._shared.close_idle())
        return gatherResults(closed).addCallback(lambda _: None)

    def over_http2(
        self, key: Hashable, endpoint: IStreamClientEndpoint, request: ClientRequest
    ) -> Deferred[IResponse] | None:
        """
        Send a request with Upgrade over HTTP/2, if the server takes it so, and else over HTTP/1.1.

        :return: fires with the response; None if the request cannot be sent over HTTP/2.
        """
        if self._shared is None or not isinstance(key, tuple) or key[0] != b"https":
            return None
        return self._shared.request(key, endpoint, request)


class _RequestRouter:
    """Decides which way one request goes."""

    def __init__(self, pool: UpgradePool, key: Hashable, endpoint: IStreamClientEndpoint) -> None:
        self._pool = pool
        self._key = key
        self._endpoint = endpoint

    def request(self, request: ClientRequest) -> Deferred[IResponse]:
        if request.headers.hasHeader(b"upgrade"):
            shared = self._pool.over_http2(self._key, self._endpoint, request)
            if shared is not None:
                return shared
            factory = SwitchingFactory(self._pool.clock, self._pool.lenient)
            answered = self._endpoint.connect(factory).addCallback(_ask, request)
        else:
            connected = HTTPConnectionPool.getConnection(self._pool, self._key, self._endpoint)
            answered = connected.addCallback(_send, request)
        return answered.addErrback(_unwrap_invalid)


def _send(client: Any, request: ClientRequest) -> Deferred[IResponse]:
    answer: Deferred[IResponse] = client.request(request)
    return answer


def _ask(client: IProtocol, request: ClientRequest) -> Deferred[IResponse]:
    assert isinstance(client, SwitchingClient)
    return client.request(request)


def _exchange_client(client: IProtocol) -> ExchangeClient:
    from .exchange_client import ExchangeClient

    assert isinstance(client, ExchangeClient)
    return client


def _unwrap_invalid(reason: Failure) -> Failure:
    """A 101 that nobody asked for arrives inside a ResponseFailed of Twisted's: unwrap it."""
    cause = cause_of(reason)
    is_wrapped = isinstance(cause, InvalidResponse) and cause is not reason.value
    return Failure(cause) if is_wrapped else reason


def switched_connection(response: IResponse) -> SwitchedConnection:
    """
    The connection of a response to a request with Upgrade.

    :param response: the response of an agent over an :class:`UpgradePool`, or of treq. It need not be
        kept afterwards.
    :return: the connection. The caller owns it, and either calls its ``install`` or drops it, which
        aborts it. The same response gives the same connection again.
    :raises InvalidArgument: if it is not a response, but the Deferred of one, for example.
    :raises NotSwitched: if the server did not switch, or if the request could not have switched: it
        had no Upgrade field, or did not go through an :class:`UpgradePool`. It carries the response.
    """
    inner: object = response
    while not isinstance(inner, UpgradeResponse):
        # treq's responses, and Twisted's GzipDecoder, are proxies around one another.
        original = getattr(inner, "original", None)
        if original is None:
            if isinstance(response, Deferred | Coroutine):
                raise InvalidArgument(f"not a response, which has to be awaited: {response!r}")
            if not hasattr(response, "code"):
                raise InvalidArgument(f"not a response: {response!r}")
            raise NotSwitched(response, _why_not_ours(inner))
        inner = original
    if inner.connection is None:
        raise NotSwitched(response)
    return inner.connection


def _why_not_ours(response: object) -> str:
    """Why a response that no :class:`~.switching.SwitchingClient` has read is not a switch."""
    headers = getattr(getattr(response, "request", None), "headers", None)
    if headers is None or headers.hasHeader(b"upgrade"):
        return (
            "the request did not go through an UpgradePool (give one to the Agent, or to treq as "
            "pool=UpgradePool(reactor)), so it could not switch"
        )
    return "the request had no Upgrade field, so it could not switch"
