"""
:class:`SharedConnections`: the HTTP/2 connections of a pool, each of which many upgrades share; and
what is known of the servers that have none.

For each server there is at most one attempt to connect at a time. Whoever wants a connection meanwhile
waits for it, and then gets one of three things:

- an HTTP/2 connection that takes upgrades: the request goes out on a stream;
- the connection that was made, for HTTP/1.1, since the server has chosen that: the first one gets it;
- nothing: it then makes a connection of its own, and speaks HTTP/1.1.

A server that has chosen HTTP/1.1, or does not take upgrades over HTTP/2, is not asked again for some
minutes: it may be another one then, or have another configuration. What a server takes is said by each
of its HTTP/2 connections anew.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, TypeAlias
from typing import Protocol as TypingProtocol

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    gatherResults,
    maybeDeferred,
    succeed,
)
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.python.failure import Failure
from twisted.web.client import ResponseNeverReceived

from .. import _twisted
from ..negotiation import Offer, UpgradeToken
from .failures import cut_off, explained, has_refused_alpn
from .http2 import ClientConnection
from .negotiating import NegotiatingClient, NegotiatingFactory
from .states import State
from .stream_exchange import NotProcessed
from .switching import SwitchingClient, SwitchingFactory

if TYPE_CHECKING:
    from twisted.web.iweb import IResponse

    from .request import ClientRequest

__all__ = ["SharedConnections"]

_Way: TypeAlias = ClientConnection | SwitchingClient | None

# How often a request is sent that servers say they have not looked at.
_MOST_ATTEMPTS = 3

# Seconds for which a server is remembered to take upgrades over HTTP/1.1 alone.
_SECONDS_OF_HTTP1 = 600

# Servers that something is remembered of.
_MOST_SERVERS = 1000


class PoolLimits(TypingProtocol):
    """Attributes of the pool."""

    clock: IReactorTime
    persistent: bool
    lenient: bool

    @property
    def cachedConnectionTimeout(self) -> float:
        """For how many seconds an idle connection is kept."""


class SharedConnections:
    """The HTTP/2 connections of a pool."""

    def __init__(self, pool: PoolLimits) -> None:
        self._pool = pool
        self._servers: dict[Hashable, _Server] = {}

    def request(
        self,
        key: Hashable,
        endpoint: IStreamClientEndpoint,
        request: ClientRequest,
    ) -> Deferred[IResponse] | None:
        """
        Send a request with Upgrade, over HTTP/2 if the server takes it so.

        :param key: scheme, host and port.
        :param endpoint: what to connect to, if there is to be a new connection.
        :return: fires with the response; None if the request needs a connection of its own.
        """
        token = _token_for_stream(request)
        if token is None:
            return None
        server = self._server(key, endpoint)
        return Deferred.fromCoroutine(self._send(server, endpoint, request, token))

    def _server(self, key: Hashable, endpoint: IStreamClientEndpoint) -> _Server:
        where = (key, _twisted.way_of(endpoint))
        server = self._servers.pop(where, None) or _Server(self._pool)
        # The one that was used last is the last.
        self._servers[where] = server
        if len(self._servers) > _MOST_SERVERS:
            for other, known in tuple(self._servers.items())[: -_MOST_SERVERS // 2]:
                if not known.is_in_use:
                    del self._servers[other]
        return server

    async def _send(
        self,
        server: _Server,
        endpoint: IStreamClientEndpoint,
        request: ClientRequest,
        token: UpgradeToken,
    ) -> IResponse:
        left = _MOST_ATTEMPTS
        while True:
            way = await server.way(endpoint)
            if isinstance(way, ClientConnection):
                if not way.has_room:
                    # Others, who have waited for the same connection, were faster.
                    continue
                try:
                    return await way.ask(request, token)
                except NotProcessed as error:
                    left -= 1
                    if error.wants_http1:
                        server.takes_http1()
                    if not left:
                        raise ResponseNeverReceived([Failure(error)]) from None
            else:
                if way is None:
                    way = await _own_connection(endpoint, self._pool)
                return await way.request(request)

    def close_idle(self) -> Deferred[None]:
        """
        Close the connections that nobody uses.

        :return: fires when they are closed.
        """
        connections = [c for server in self._servers.values() for c in server.connections]
        closed = gatherResults([connection.close_if_idle() for connection in connections])
        return closed.addCallback(lambda _: None)


def _token_for_stream(request: ClientRequest) -> UpgradeToken | None:
    """
    What a request would ask for on a stream. An extended CONNECT has one token, and no content.

    :return: None if the request needs a connection of its own.
    """
    if request.method != b"GET" or request.bodyProducer is not None:
        return None
    if not request.uri.startswith((b"/", b"?")):
        return None
    tokens = Offer.parse(request.headers.getRawHeaders(b"upgrade") or ()).tokens
    return tokens[0] if len(tokens) == 1 else None


async def _own_connection(endpoint: IStreamClientEndpoint, pool: PoolLimits) -> SwitchingClient:
    client = await endpoint.connect(SwitchingFactory(pool.clock, pool.lenient))
    assert isinstance(client, SwitchingClient)
    return client


class _Server:
    """
    What is known of one server, as it is reached in one way, and the connections to it.

    :ivar connections: those that have not ended.
    """

    def __init__(self, pool: PoolLimits) -> None:
        self._http1_until = 0.0
        self.connections: list[ClientConnection] = []
        self._pool = pool
        self._attempt: _Attempt | None = None

    @property
    def is_http1(self) -> bool:
        """Whether upgrades go over HTTP/1.1."""
        return self._pool.clock.seconds() < self._http1_until

    def takes_http1(self) -> None:
        """The server takes upgrades over HTTP/1.1 alone."""
        self._http1_until = self._pool.clock.seconds() + _SECONDS_OF_HTTP1

    @property
    def is_in_use(self) -> bool:
        return bool(self.connections or self._attempt)

    def way(self, endpoint: IStreamClientEndpoint) -> Deferred[_Way]:
        """
        How the next request goes.

        :return: fires with what the request is given to; with None if it is to have a connection of its
            own. Fails if the connection that was waited for cannot be made.
        """
        if self.is_http1:
            return succeed(None)
        for connection in self.connections:
            if connection.has_room:
                return succeed(connection)
        attempt = self._attempt
        if attempt is not None:
            return attempt.wait()
        self._attempt = attempt = _Attempt(self, self._pool)
        waiting = attempt.wait()
        attempt.begin(endpoint)
        return waiting

    def attempt_ended(self, attempt: _Attempt) -> None:
        if self._attempt is attempt:
            self._attempt = None

    # http2.ConnectionOwner.

    @property
    def seconds_idle(self) -> float:
        return self._pool.cachedConnectionTimeout if self._pool.persistent else 0

    def began(self, connection: ClientConnection) -> None:
        if self._attempt is not None:
            self._attempt.began(connection)

    def takes_no_more(self, connection: ClientConnection, reason: Failure) -> None:
        if self._attempt is not None:
            self._attempt.lost(connection, reason)

    def lost(self, connection: ClientConnection, reason: Failure) -> None:
        self.connections.remove(connection)
        self.takes_no_more(connection, reason)


class _Attempt:
    """A connection that is being made, and who waits for it."""

    def __init__(self, server: _Server, pool: PoolLimits) -> None:
        self._server = server
        self._pool = pool
        self._waiting: list[Deferred[_Way]] = []
        self._connecting: Deferred[object] | None = None
        # What has the connection: until the server has chosen, and afterwards, if that is HTTP/2.
        self._client: NegotiatingClient | None = None
        self._connection: ClientConnection | None = None

    def begin(self, endpoint: IStreamClientEndpoint) -> None:
        """Connect."""
        client = NegotiatingClient(self)
        connecting: Deferred[object] = maybeDeferred(endpoint.connect, NegotiatingFactory(client))
        self._connecting = connecting
        connecting.addCallbacks(self._connected, self._failed, (client,))

    def wait(self) -> Deferred[_Way]:
        """What :meth:`_Server.way` gives."""
        waiting: Deferred[_Way] = Deferred(self._cancelled)
        self._waiting.append(waiting)
        return waiting

    def _cancelled(self, waiting: Deferred[_Way]) -> None:
        connecting, client = self._connecting, self._client
        self._waiting.remove(waiting)
        if not self._waiting:
            self._end()
            if connecting is not None:
                connecting.cancel()
            elif client is not None:
                _twisted.abort(client.transport)
        if client is not None:
            # As with HTTP/1.1, where the request would have been sent by now.
            waiting.errback(_never_answered(Failure(CancelledError()), client.transport))

    def _end(self) -> list[Deferred[_Way]]:
        """Forget everything; gives those who wait."""
        self._server.attempt_ended(self)
        self._connecting = self._client = self._connection = None
        waiting, self._waiting = self._waiting, []
        return waiting

    def _failed(self, reason: Failure) -> None:
        for waiting in self._end():
            waiting.errback(reason)

    def _connected(self, _: object, client: NegotiatingClient) -> None:
        if self._connecting is not None:
            self._connecting, self._client = None, client
            client.given_away()
        elif not client.is_decided:
            # Nobody waits for it any more, and the endpoint could not be stopped.
            _twisted.abort(client.transport)

    # negotiating.Decider.

    def chosen(self, client: NegotiatingClient, is_http2: bool) -> None:
        if not self._waiting:
            _twisted.abort(client.transport)
        elif is_http2:
            self._connecting, self._client = None, client
            self._connection = ClientConnection(self._pool.clock, self._server)
            self._server.connections.append(self._connection)
            client.go_on(self._connection)
        else:
            self._server.takes_http1()
            first, *others = self._end()
            switching = SwitchingClient(self._pool.clock, self._pool.lenient)
            client.go_on(switching)
            first.callback(switching)
            for waiting in others:
                waiting.callback(None)

    def not_chosen(self, client: NegotiatingClient, reason: Failure) -> None:
        if has_refused_alpn(reason):
            self._server.takes_http1()
            for waiting in self._end():
                waiting.callback(None)
        for waiting in self._end():
            waiting.errback(_never_answered(reason, client.transport))

    # The HTTP/2 connection.

    def began(self, connection: ClientConnection) -> None:
        """The server's settings have come."""
        if connection is not self._connection:
            return
        is_usable = connection.has_room
        waiting = self._end()
        if not is_usable:
            self._server.takes_http1()
            connection.close()
        for each in waiting:
            each.callback(connection if is_usable else None)

    def lost(self, connection: ClientConnection, reason: Failure) -> None:
        """A connection has ended, or is about to."""
        if connection is self._connection:
            for waiting in self._end():
                waiting.errback(_never_answered(reason, connection.transport))


def _never_answered(reason: Failure, transport: object) -> Failure:
    return Failure(cut_off(State.WAITING, explained(State.WAITING, reason, transport)))
