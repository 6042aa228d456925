"""
Byte streams in WebSocket's binary messages, as noVNC and other programs in browsers use them:
:func:`byte_stream` for a server, :class:`WebSocketEndpoint` for a client.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from autobahn.websocket.types import ConnectionRequest, ConnectionResponse
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import NoProtocol
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent
from twisted.web.resource import IResource
from zope.interface import implementer

from ... import _twisted
from ...client.endpoint import unwrap_cancelled
from ...client.pool import UpgradePool
from ...client.urls import http_url
from ...errors import connect_timed_out
from ...interfaces import (
    Acceptor,
    Answer,
    IDrainable,
    IDrainsLate,
)
from ...negotiation import UpgradeToken
from ...server.decision import not_an_answer
from ...server.pages import service_unavailable
from ...server.upgrades import acceptor_of
from .._handshake import HandshakeRefused, subprotocol_names
from .._heartbeat import check_heartbeat
from ._autobahn import CLOSE_TIMEOUT
from .client import connect_websocket
from .draining import say_going_away
from .frames import ByteStream
from .server import SAME_ORIGIN, HandshakeRequest, websocket

__all__ = ["WebSocketEndpoint", "byte_stream"]

# Untyped: autobahn's annotations differ from version to version, and contradict one another.
_SERVER_PROTOCOL: Any = WebSocketServerProtocol
_CLIENT_PROTOCOL: Any = WebSocketClientProtocol

# The subprotocol of websockify, which noVNC asks for.
_SUBPROTOCOL = "binary"

# Seconds: proxies cut what has been idle for a minute, as a rule.
_HEARTBEAT = 30

# A browser says 1001 when its page is left. A server that says it goes down in the middle of something.
_GOING_AWAY = 1001

# The field of a handshake that asks for half-closes, and answers that there are some; RFC 9651 §3.3.6.
_HALF_CLOSE, _YES = b"Half-Close", b"?1"


@implementer(IDrainsLate)
class _ServerStream(ByteStream, _SERVER_PROTOCOL):
    factory: _ServerFactory

    def drain_announced(self) -> None:
        inner = IDrainable(self.inner, None)
        if inner is not None:
            inner.drain()

    def drain(self) -> None:
        say_going_away(self)

    def _is_clean(self, code: int | None) -> bool:
        # A client that answers our 1001 may do so with 1000.
        if self.localCloseCode == _GOING_AWAY:
            return False
        return code == _GOING_AWAY or super()._is_clean(code)

    def onConnect(self, request: ConnectionRequest) -> Deferred[tuple[str | None, dict[str, str]]]:
        assert isinstance(request, HandshakeRequest)
        self.clock = request.request.site.reactor
        token = UpgradeToken("websocket")
        lines = request.request.requestHeaders.getRawHeaders(_HALF_CLOSE)
        self._half_closes = lines == [_YES]
        deciding: Deferred[Any] = maybeDeferred(self.factory.acceptor, request.request, token)
        return deciding.addCallback(self._decided, request)

    def _decided(
        self, answer: Answer | None, request: HandshakeRequest
    ) -> tuple[str | None, dict[str, str]]:
        if IResource.providedBy(answer):
            raise HandshakeRefused(answer)
        if answer is None:
            # As if it were a factory that takes no connection now.
            raise HandshakeRefused(service_unavailable("No connection is taken now."))
        if not IProtocol.providedBy(answer):
            raise not_an_answer(request.request, UpgradeToken("websocket"), answer)
        self.inner = answer
        # In the client's order.
        chosen = next((name for name in request.protocols if name in self.factory.subprotocols), None)
        return chosen, {_HALF_CLOSE.decode(): _YES.decode()} if self._half_closes else {}


class _ServerFactory(WebSocketServerFactory):
    # Untyped: what autobahn says of this attribute differs from version to version.
    protocol: Any = _ServerStream
    noisy = False

    def __init__(
        self,
        acceptor: Acceptor | IProtocolFactory,
        subprotocols: Sequence[str],
        heartbeat: float | None,
    ) -> None:
        super().__init__()
        self.acceptor = acceptor_of(acceptor)
        self.subprotocols = subprotocols
        self.heartbeat = heartbeat
        self.setProtocolOptions(failByDrop=False, closeHandshakeTimeout=CLOSE_TIMEOUT)


def byte_stream(
    acceptor: Acceptor | IProtocolFactory,
    allowed_origins: Iterable[str] = SAME_ORIGIN,
    subprotocols: Iterable[str] = (_SUBPROTOCOL,),
    heartbeat: float | None = _HEARTBEAT,
    max_message_size: int | None = None,
) -> Acceptor:
    """
    An acceptor for the token ``websocket`` whose target receives and sends a stream of bytes in binary
    messages. So any Twisted protocol, or a tunnel, can be used by programs in browsers::

        UpgradeResource({"websocket": byte_stream(tunnel(endpoint))})

    If the client sends the field ``Half-Close: ?1``, so does the 101, and then an empty binary message
    ends its direction: the target's transport has ``loseWriteConnection``, and a target that is an
    ``IHalfCloseableProtocol`` is told of the client's. Without that field there is no half-close.

    When the site drains, the target goes on until shortly before the end
    (:class:`~upgrade_switch.interfaces.IDrainsLate`); then the WebSocket closes with 1001. A target
    that provides ``IDrainable`` is told at once.

    :param acceptor: decides, as in an ``UpgradeResource``, once the handshake has been found valid.
        ``loseConnection`` of its target's transport closes with code 1000.
    :param allowed_origins: as for :func:`websocket`. By default, only the site's own pages, since a
        server behind a tunnel rarely asks who its client is.
    :param subprotocols: the names that the bytes have, such as ``("mqtt",)``. The first of the client's
        list that is among them is answered; if there is none, the WebSocket opens without one.
    :param heartbeat: after how many seconds in which nothing has come from the client it is sent a
        ping; if nothing comes for as many again, the connection is aborted, and the target gets
        ``ConnectionLost``. A client that still takes what is sent to it, however slowly, is not cut,
        and while the target has paused its transport no time passes. None: never.
    :param max_message_size: as for :func:`websocket`. By default, a message may have any size, since
        its bytes are passed on as they come.
    :return: the acceptor.
    :raises InvalidUpgrades: if an origin is invalid.
    :raises InvalidArgument: if a subprotocol is not a token, or if ``heartbeat`` or
        ``max_message_size`` is neither None nor above 0.
    """
    check_heartbeat(heartbeat)
    factory = _ServerFactory(acceptor, subprotocol_names(subprotocols), heartbeat)
    return websocket(factory, allowed_origins, max_message_size)


class _ClientStream(ByteStream, _CLIENT_PROTOCOL):
    factory: _ClientFactory
    failure: Failure | None = None
    _sends_at_once = True

    def onConnect(self, response: ConnectionResponse) -> None:
        self._half_closes = response.headers.get(_HALF_CLOSE.decode().lower()) == _YES.decode()

    def onOpen(self) -> None:
        _twisted.keep_alive(self.transport)
        self.clock = self.factory.clock
        factory = self.factory.inner
        factory.doStart()
        try:
            self.inner = factory.buildProtocol(self.transport.getPeer())
        except Exception:
            self.failure = Failure()
        if self.inner is None:
            self.sendClose(1000)
        else:
            super().onOpen()

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool | None:
        result: bool | None = super().onCloseFrame(code, reasonRaw)
        # RFC 6455 §7.1.1: the server should close first, but the client need not wait for that.
        self.transport.loseConnection()
        return result

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        try:
            super().onClose(wasClean, code, reason)
        finally:
            self.factory.inner.doStop()


class _ClientFactory(WebSocketClientFactory):
    # Untyped, as above.
    protocol: Any = _ClientStream
    noisy = False

    def __init__(
        self,
        reactor: IReactorTime,
        inner: IProtocolFactory,
        subprotocols: Sequence[str],
        heartbeat: float | None,
    ) -> None:
        super().__init__(reactor=reactor, protocols=list(subprotocols))
        self.inner = inner
        self.clock = reactor
        self.heartbeat = heartbeat
        self.setProtocolOptions(failByDrop=False, closeHandshakeTimeout=CLOSE_TIMEOUT)


@implementer(IStreamClientEndpoint)
class WebSocketEndpoint:
    """
    A client endpoint whose connections are streams of bytes in WebSocket's binary messages. noVNC's
    servers (websockify) speak that, and :func:`byte_stream`.

    With a server that knows them, as :func:`byte_stream` does, there are half-closes. A connection that
    ends without a Close frame, or with a code that says that something is missing (1001, too: the
    server goes down), is lost with ``ConnectionLost``.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        url: str | bytes,
        headers: Headers | None = None,
        agent: IAgent | None = None,
        timeout: float | None = 30,
        subprotocols: Iterable[str] = (_SUBPROTOCOL,),
        heartbeat: float | None = _HEARTBEAT,
    ) -> None:
        """
        :param reactor: the clock; without an ``agent``, it also makes the connections.
        :param url: ``ws`` or ``wss``, or ``http`` or ``https``.
        :param headers: further fields of the handshake.
        :param agent: any agent over an :class:`~upgrade_switch.UpgradePool`. None: a plain ``Agent``.
        :param timeout: how many seconds connecting may take; None: no limit.
        :param subprotocols: the names that the bytes have, which are offered in this order.
        :param heartbeat: as for :func:`byte_stream`.
        :raises ValueError: if the URL is not one of these.
        :raises InvalidArgument: if a subprotocol is not a token, or if ``heartbeat`` is neither None
            nor above 0.
        """
        http_url(url, websocket=True)
        check_heartbeat(heartbeat)
        self._subprotocols = subprotocol_names(subprotocols)
        self._heartbeat = heartbeat
        self._reactor = reactor
        self._url = url
        self._headers = headers
        self._agent = agent
        self._timeout = timeout

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Open a WebSocket.

        :param protocolFactory: builds the protocol of the byte stream, once the WebSocket is open.
        :return: fires with that protocol, which owns the connection; fails as
            :func:`connect_websocket` does, or with ``twisted.internet.error.TimeoutError``.
        """
        pool = UpgradePool(self._reactor)
        factory = _ClientFactory(self._reactor, protocolFactory, self._subprotocols, self._heartbeat)
        headers = Headers() if self._headers is None else self._headers.copy()
        headers.setRawHeaders(_HALF_CLOSE, [_YES])
        # Without its time limit, which is 0 for none: here, 0 is none at all.
        opened = connect_websocket(pool, self._url, factory, headers, self._agent, timeout=0)
        if self._timeout is not None:
            opened.addTimeout(self._timeout, self._reactor, connect_timed_out("no WebSocket"))
        return opened.addErrback(unwrap_cancelled).addCallback(_inner_protocol)

    def __repr__(self) -> str:
        url = self._url if isinstance(self._url, str) else self._url.decode("ascii")
        # Without the query, which may hold a secret.
        return f"<WebSocketEndpoint {url.partition('?')[0]}>"


def _inner_protocol(stream: _ClientStream) -> IProtocol | Failure:
    if stream.failure is not None:
        return stream.failure
    if stream.inner is None:
        # As with Twisted's own endpoints.
        raise NoProtocol
    return stream.inner
